"""Commands that are killed at any moment and started again, and the tables they leave, damaged.

The commands are the project's own, run in processes of their own; only what takes hours is small: a
method that minimises something in place of an edit, a score that is the loudness, a lesson of three
cells.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar
from unittest import mock

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import torch
from nbformat.v4 import new_code_cell, new_notebook

from helpers.audio import Clip
from helpers.comparison import experiment
from helpers.comparison.scores import KEY, read_scores
from helpers.editing import optimisation
from helpers.editing.optimisation import optimise
from helpers.methods.method import Method
from helpers.storage import Provenance, StorageError, output_folder, read_text
from tools import classroom, colab, demo, sweeps, table1
from tools.sweeps import RECORDS

from .attempts import Attempt, damage, killed

ROOT = Path(__file__).resolve().parent.parent.parent
LESSONS = ("00_quickstart.ipynb", "05_inpainting.ipynb")
PAIRS = """id,audio,edit,prompt
ducks,foley:duck/1,addition,Ducks and rain
knocks,foley:door_knock/2,style_transfer,A trumpet
"""
SUBJECT = torch.arange(10.0)


@contextmanager
def silence() -> Iterator[io.StringIO]:
    """Keep from the terminal what a command says; give its errors."""
    told = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(told):
        yield told


def files(folder: Path) -> dict[str, bytes]:
    """Contents of all files below a folder, but marks of locks that vanish in half a minute."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".lock.break." not in path.name
    }


# --- the table of scores -------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Trained(Method):
    """Trains a number, with a checkpoint, and makes the clip louder by it."""

    name: str = "Trained"
    role: str = "subject"
    settings: tuple[float, ...] = (0.25, 0.5)
    fixed_setting: float = 0.5
    knob: ClassVar[str] = "gain"

    def sweep(self, model, clip, prompt, settings, gap, source_prompt, folder, progress):
        """Minimise for a tenth of a second."""
        number = torch.zeros(1, requires_grad=True)

        def loss(generator: torch.Generator) -> torch.Tensor:
            time.sleep(0.005)
            return (number - torch.randn(1, generator=generator)).square().sum()

        optimise(
            [number],
            loss,
            steps=20,
            learning_rate=0.1,
            seed=0,
            description="a number",
            provenance=Provenance(settings={"prompt": prompt}),
            subject={"recording": [SUBJECT]},
            checkpoint=folder / "number.pt",
            progress=False,
        )
        gains = [(1 + number.item() / 10) * (1 - setting) for setting in settings]
        return [Clip((clip.waveform * gain).astype(np.float32), clip.name) for gain in gains]

    def latents(self, task, settings):
        """Make none."""
        raise NotImplementedError


METHODS = {"ours": Trained(), "sdedit": Trained(name="SDEdit", role="baseline", settings=(0.5,))}


def loudness(clap, pair, edits) -> pd.DataFrame:
    """Score by the loudness of each edit."""
    levels = [float(np.sqrt(np.mean(edit.waveform.astype(float) ** 2))) for edit in edits]
    names = list(experiment.COLUMNS)
    numbers = names[names.index("text_clap") : names.index("source_probability") + 1]
    frame = pd.DataFrame({name: levels for name in numbers})
    return frame.assign(label="rain").astype({n: experiment.COLUMNS[n] for n in numbers})


@contextmanager
def small_comparison() -> Iterator[None]:
    """Make ``make table1`` small, and its method's checkpoints frequent."""
    model = SimpleNamespace(name="small", weights={"UNet": "0" * 64}, schedule={})
    replaced = {
        (table1, "methods_for"): lambda preset: METHODS,
        (table1, "load_model"): lambda name, device: model,
        (table1, "load_clap"): lambda name: SimpleNamespace(name="loudness", weights="0" * 64),
        (table1, "figure_2"): lambda made_from: plt.figure(figsize=(1, 1)),
        (table1, "figure_4"): lambda made_from: plt.figure(figsize=(1, 1)),
        (experiment, "measure"): loudness,
        (optimisation, "FIRST_SAVE"): 0.0,
        (optimisation, "SAVING_SHARE"): 1e9,
    }
    with ExitStack() as stack:
        for (module, name), value in replaced.items():
            stack.enter_context(mock.patch.object(module, name, value))
        yield


def compare(folder: Path) -> tuple[int, str]:
    """Run the comparison; return its status and what it said on stderr."""
    pairs = folder.parent / "pairs.csv"
    pairs.write_text(PAIRS, encoding="utf-8")
    with small_comparison(), silence() as told:
        status = table1.main(["--pairs", str(pairs), "--out", str(folder)])
    return status, told.getvalue()


@cache
def never_stopped() -> tuple[tempfile.TemporaryDirectory, Path]:
    """Return the results of a comparison that nothing happened to."""
    kept = tempfile.TemporaryDirectory()
    folder = Path(kept.name, "out")
    status, told = compare(folder)
    assert status == 0, told
    return kept, folder


def figures(folder: Path) -> pd.DataFrame:
    """Return a table of scores without the times."""
    return read_scores(folder / "scores.csv").drop(columns="seconds")


def killed_comparisons(folder: Path, generator: random.Random) -> str:
    """Kill ``table1`` three times and let it end: no row is lost, none is computed twice."""
    out, whole = folder / "out", never_stopped()[1]
    for _ in range(3):
        killed(lambda: compare(out), generator.uniform(0.05, 0.8))
    before = read_scores(out / "scores.csv")
    if compare(out)[0] != 0:
        return "lost"
    ended = files(out)
    if compare(out)[0] != 0 or files(out) != ended:  # there was nothing to do
        return "wrong"
    kept = read_scores(out / "scores.csv").set_index(KEY)
    if not kept.loc[before.set_index(KEY).index, "seconds"].equals(
        before.set_index(KEY)["seconds"]
    ):
        return "lost"
    if not figures(out).equals(figures(whole)):
        return "wrong"
    return "" if ended.keys() == files(whole).keys() else "lost"  # leftovers


TABLES = (*["scores.csv"] * 3, "report.json", "provenance.json", "scores.csv.sha256")


def damaged_tables_of_scores(folder: Path, generator: random.Random) -> str:
    """Damage a table of a finished comparison: refused in a sentence, or mended."""
    out, whole = folder / "out", never_stopped()[1]
    shutil.copytree(whole, out)
    damaged = out / generator.choice(TABLES)
    damaged.write_bytes(damage(damaged.read_bytes(), generator))
    status, told = compare(out)
    if status:
        sentence = told.rstrip("\n").rpartition("\n")[2]
        return "" if status == 2 and str(out) in sentence else "traceback"
    found = {name for name, content in files(whole).items() if files(out).get(name) != content}
    return "wrong" if found else ""


# --- sweeps --------------------------------------------------------------------------------------


POINTS = [{"word": f"word {number}"} for number in range(12)]


@contextmanager
def small_sweep(log: Path) -> Iterator[None]:
    """A sweep whose points take a moment; what is measured is logged."""

    def measure(model: object, word: str) -> dict[str, float]:
        time.sleep(0.01)
        with log.open("a", encoding="utf-8") as file:
            file.write(f"{word}\n")
        return {"number": int(word.split()[1]) / 7}

    with (
        mock.patch.dict(sweeps.SWEEPS, {"small": (lambda: POINTS, measure)}),
        mock.patch.object(sweeps, "made_from", return_value=Provenance(settings={"small": True})),
        silence(),
    ):
        yield


def rows(folder: Path) -> list[dict]:
    """Rows of the small sweep that are stored."""
    path = sweeps.table_path("small", folder)
    return sweeps.read_rows(path).to_dict("records") if path.exists() else []


def killed_sweeps(folder: Path, generator: random.Random) -> str:
    """Kill it three times and let it end: what was stored is not measured again."""
    out, log = folder / "out", folder / "log"
    with small_sweep(log):
        for _ in range(3):
            killed(lambda: sweeps.run("small", None, out), generator.uniform(0.01, 0.15))
        before = rows(out)
        log.write_text("")
        sweeps.run("small", None, out)
        measured = log.read_text().splitlines()
        if len(measured) != len(POINTS) - len(before) or rows(out)[: len(before)] != before:
            return "lost"
        right = [{**point, "number": number / 7} for number, point in enumerate(POINTS)]
        if rows(out) != right:
            return "wrong"
        return "" if len(files(out)) == 4 else "lost"  # two tables, and a checksum of each


def damaged_tables_of_sweeps(folder: Path, generator: random.Random) -> str:
    """Damage a table or what it was made from: refused, or measured anew."""
    with small_sweep(folder / "log"):
        out = folder / "out"
        with mock.patch.object(time, "sleep"):
            sweeps.run("small", None, out)
        right = rows(out)
        name = generator.choice(["small.csv", "small.csv", RECORDS, "small.csv.sha256"])
        (out / name).write_bytes(damage((out / name).read_bytes(), generator))
        try:
            with mock.patch.object(time, "sleep"):
                sweeps.run("small", None, out)
            return "" if rows(out) == right else "wrong"
        except StorageError:
            return ""


# --- what is written for others ------------------------------------------------------------------


@cache
def few_lessons() -> tuple[tempfile.TemporaryDirectory, Path]:
    """Return a clone that holds two lessons."""
    kept = tempfile.TemporaryDirectory()
    root = Path(kept.name)
    (root / "notebooks").mkdir()
    for name in ("README.md", "CITATION.cff", "pyproject.toml"):
        shutil.copy(ROOT / name, root)
    for name in LESSONS:
        lesson = nbformat.read(ROOT / "notebooks" / name, as_version=4)
        for cell in lesson.cells:
            if cell.cell_type == "code":
                cell.outputs = []
        nbformat.write(lesson, root / "notebooks" / name)
    return kept, root


def killed_classrooms(folder: Path, generator: random.Random) -> str:
    """Kill the renewal of students' versions; an answer that came between is kept."""
    lessons, out = few_lessons()[1] / "notebooks", folder / "class"

    def write(out: Path) -> None:  # as the command does
        with output_folder(out):
            classroom.write_student_versions(out, lessons)

    write(out)
    with mock.patch.object(classroom, "CODE_STUB", "raise NotImplementedError('today')"):
        for _ in range(3):
            killed(lambda: write(out), generator.uniform(0.01, 0.6))
        for name in LESSONS:
            nbformat.read(out / name, as_version=4)
        answered = generator.random() < 0.5 and out / generator.choice(LESSONS)
        if answered:
            answered.write_text(read_text(answered) + " ")
            content = {name: (out / name).read_bytes() for name in LESSONS}
            with contextlib.suppress(ValueError):
                write(out)
                return "lost"
            return "" if content.items() <= files(out).items() else "lost"
        write(out)
        fresh = folder / "fresh"
        write(fresh)
    return "" if files(out) == files(fresh) else "wrong"


def killed_moves(folder: Path, generator: random.Random) -> str:
    """Kill ``colab`` in the middle and move elsewhere: every address is the last one."""
    moved, fresh = folder / "moved", folder / "fresh"
    for clone in (moved, fresh):
        shutil.copytree(few_lessons()[1], clone)
    for name in ("some-one/lessons", "an-other/course", "some-one/lessons"):
        killed(lambda name=name: colab.move_to(name, moved), generator.uniform(0.001, 0.06))
    for clone in (moved, fresh):
        colab.move_to("the-last/place", clone)
    for part in moved.rglob("*.part"):
        part.unlink()
    return "" if files(moved) == files(fresh) else "wrong"


PARAMETERS = "prompt = output_folder = other_prompt = None"
CELL = """
import json, time
from pathlib import Path
from helpers.storage import write_text
time.sleep(0.2)
scores = {"prompt": prompt, "eta": 0.5, "clap": "none", "text_clap": 1.0, "audio_clap": 2.0}
write_text(Path(output_folder, "scores.json"), json.dumps(scores))
"""


def killed_demos(folder: Path, generator: random.Random) -> str:
    """Kill the demo and start it again: it ends with its own results."""
    cells = [
        new_code_cell(
            'prompt = ""\noutput_folder = None\nother_prompt = ""',
            metadata={"tags": ["parameters"]},
        ),
        new_code_cell(CELL),
    ]
    kernel = {"name": "python3", "display_name": "", "language": "python"}
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), folder / "l.ipynb")
    out = folder / "out {x} $y"

    def make(prompt: str) -> int:
        with mock.patch.object(demo, "LESSON", folder / "l.ipynb"), silence():
            return demo.main(["--prompt", prompt, "--out", str(out)])

    killed(lambda: make("the first"), generator.uniform(0.05, 2.5))
    if make("the second") != 0:
        return "lost"
    if json.loads(read_text(out / "scores.json"))["prompt"] != "the second":
        return "wrong"
    nbformat.read(out / "quickstart.ipynb", as_version=4)
    left = files(out).keys() - {"scores.json", "quickstart.ipynb", "quickstart.html"}
    return "lost" if left else ""


COMMANDS: dict[str, Attempt] = {
    "comparisons, killed": killed_comparisons,
    "sweeps, killed": killed_sweeps,
    "classrooms, killed": killed_classrooms,
    "moves of colab, killed": killed_moves,
    "demos, killed": killed_demos,
    "damaged tables of scores": damaged_tables_of_scores,
    "damaged tables of sweeps": damaged_tables_of_sweeps,
}
