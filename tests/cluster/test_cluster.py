"""Two workers of a local Ray cluster do what one process does; `make test-ray` runs this."""

import os
import signal
import sys
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import ray

from helpers import load_model
from helpers.comparison.experiment import Experiment
from helpers.comparison.scores import KEY
from helpers.editing import nonrigid
from helpers.editing.embedding import EmbeddingSettings
from helpers.editing.finetuning import FinetuningSettings, finetune
from helpers.editing.interpolation import SamplingSettings
from helpers.evaluation.clap import load_clap
from helpers.methods import methods_for
from helpers.methods.ours import Ours
from helpers.pairs import Pair
from tools import table1
from tools.cluster import HERE, TRIES, ClusterError, Workers, cluster

WITHIN = 1e-3  # of what is computed with other numbers of threads
FATAL_STEP = 3  # of Step 2


@dataclass(frozen=True)
class Fatal:
    """Steps of Step 2 whose weights are kept: being asked, it kills its process at one of them."""

    folder: Path
    times: int

    def __contains__(self, step):
        deaths = len(list(self.folder.iterdir()))
        if step == FATAL_STEP and deaths < self.times:
            (self.folder / str(os.getpid())).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return False


@dataclass(frozen=True, kw_only=True)
class Counted(Ours):
    """It notes every sweep that is begun, and can be killed inside Step 2."""

    begun: Path
    fatal: Fatal

    def latents(self, task, settings):
        (self.begun / f"{task.prompt} {time.time_ns()}").touch()
        nonrigid.finetune = partial(finetune, keep=self.fatal)
        return super().latents(task, settings)


@pytest.fixture(scope="module")
def judged():
    return load_model("pocket"), load_clap("pocket")


@pytest.fixture
def pairs():
    return [
        Pair(f"pair{n}", f"foley:{label}/{9600000 + n}", "addition", f"{prompt} and rain")
        for n, (label, prompt) in enumerate(
            {"duck": "A duck", "church_bell": "A bell", "door_knock": "Knocking"}.items()
        )
    ]


@pytest.fixture
def method(tmp_path):
    folders = [tmp_path / name for name in ("begun", "deaths")]
    for folder in folders:
        folder.mkdir()
    return Counted(
        settings=(0.4, 0.8),
        embedding=EmbeddingSettings(4, 1e-2),
        finetuning=FinetuningSettings(8, 1e-3, lora_rank=2),
        sampling=SamplingSettings(5),
        begun=folders[0],
        fatal=Fatal(folders[1], 0),
    )


@pytest.fixture(scope="module")
def joined():
    with cluster(HERE):
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers lack this file
        yield


@pytest.fixture
def experiment(judged, pairs, method, tmp_path):
    sdedit = replace(methods_for("pocket")["sdedit"], settings=(0.5,))
    sdedit = sdedit.with_sampling(steps=5)
    return Experiment(*judged, pairs, {"ours": method, "sdedit": sdedit}, tmp_path / "out")


def done(experiment, **how):
    """Rows of a run in the order of their keys, and how long it took."""
    experiment.load_sources(progress=False)
    started = time.perf_counter()
    assert experiment.run(progress=False, **how) == len(list(experiment.sweeps()))
    seconds = time.perf_counter() - started
    assert experiment.run(progress=False, **how) == 0
    return experiment.scores().sort_values(KEY, ignore_index=True), seconds


def workers(experiment):
    return Workers(experiment, "pocket", "pocket", limit=2)


def assert_same(rows, others):
    rows, others = (table.drop(columns="seconds") for table in (rows, others))
    pd.testing.assert_frame_equal(rows, others, rtol=WITHIN, atol=WITHIN)


@pytest.mark.usefixtures("joined")
def test_two_workers_give_the_table_of_a_serial_run(experiment, tmp_path):
    serial, alone = done(experiment)
    spread = replace(experiment, folder=tmp_path / "spread")
    rows, together = done(spread, scored=workers(spread))
    print(f"\n{len(rows)} edits: {alone:.1f} s serial, {together:.1f} s by two workers")
    assert_same(rows, serial)
    for name in rows["audio"]:
        assert (spread.folder / name).is_file()
    assert not (spread.folder / "unfinished").exists()


@pytest.mark.usefixtures("joined")
def test_a_worker_killed_inside_step_2_costs_its_sweep(experiment, method, pairs, tmp_path):
    serial, _ = done(experiment)
    for mark in method.begun.iterdir():
        mark.unlink()
    fatal = replace(method, fatal=replace(method.fatal, times=1))
    methods = {**experiment.methods, "ours": fatal}
    spread = replace(experiment, methods=methods, folder=tmp_path / "spread")
    rows, _ = done(spread, scored=workers(spread))
    assert_same(rows, serial)
    assert len(list(method.fatal.folder.iterdir())) == 1
    assert len(list(method.begun.iterdir())) == len(pairs) + 1


@pytest.mark.usefixtures("joined")
def test_a_sweep_that_kills_every_worker_ends_the_run_and_keeps_the_rest(experiment, method):
    fatal = replace(method, fatal=replace(method.fatal, times=TRIES))
    doomed = replace(
        experiment, pairs=experiment.pairs[:1], methods={**experiment.methods, "ours": fatal}
    )
    with pytest.raises(ClusterError, match=f"lost {TRIES} times while it did ours on pair0"):
        doomed.run(progress=False, scored=workers(doomed))
    assert set(doomed.scores()["method"]) <= {"sdedit"}


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere"])
def test_a_wrong_address_is_one_sentence_before_any_work(address, tmp_path, capsys):
    out = tmp_path / "out"
    started = time.perf_counter()
    assert table1.main(["--ray", address, "--out", str(out)]) == 2
    assert time.perf_counter() - started < 30
    [sentence] = capsys.readouterr().err.splitlines()
    assert sentence.startswith(f"No Ray cluster answers at {address}: give RAY=1")
    assert not list(out.iterdir())
