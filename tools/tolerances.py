"""How nearly stored figures come out again: ``python -m tools.tolerances``, ``make tolerances``.

Another number of threads and another processor add in another order, and a hundred steps of
training make more of it.  This computes stored rows on three such computers, and keeps in
``data/tolerances.json`` twice the largest difference between any two, which is what tests allow
between what is stored and what they compute; likewise, with their figures, for the first steps of
Steps 1 and 2 and one of sampling, which differ a thousand times less.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import torch

from helpers.comparison.experiment import edit
from helpers.comparison.scores import KEY, measure, read_scores
from helpers.data import DATA
from helpers.editing.embedding import optimise_embedding
from helpers.editing.finetuning import finetune
from helpers.editing.interpolation import sample
from helpers.evaluation.clap import Clap, load_clap
from helpers.methods import methods_for
from helpers.methods.ours import Ours
from helpers.models.latent_audio_model import LatentAudioModel
from helpers.models.pocket import load_pocket
from helpers.pairs import Pair, load_pairs
from helpers.storage import Provenance, content_hash, read_text, write_text
from helpers.sweeps import SWEEPS, load_sweep
from helpers.sweeps import measure as measure_point
from tools.command import command

FILE = DATA / "tolerances.json"
TABLE = DATA / "table1" / "scores.csv"
COMPUTERS = {
    "one thread": {"OMP_NUM_THREADS": "1", "ONEDNN_MAX_CPU_ISA": "ALL"},
    "two threads": {"OMP_NUM_THREADS": "2", "ONEDNN_MAX_CPU_ISA": "ALL"},
    "AVX2": {"OMP_NUM_THREADS": "1", "ONEDNN_MAX_CPU_ISA": "AVX2"},
}
MARGIN = 2
RESOLUTION = 1e-6  # of figures that come of float32
PAIRS = ("style_transfer_phone_ringing_door_knock", "inpainting_duck")  # need no download
STEPS = 20
SEED = 0  # of the sample
TIMES = {"seconds_per_step"}  # of computing: they are no figures that come out again

Figures = dict[str, float]


@dataclass(frozen=True)
class Row:
    """A stored row: one edit of Table 1, or one point of a sweep.

    Attributes
    ----------
    name : str
        The method or the sweep.
    point : dict
        The pair and the setting, or the point's settings.
    figures : dict of str to float
        As stored.
    """

    name: str
    point: dict[str, float | int | str]
    figures: Figures


def cheapest() -> list[Row]:
    """One stored row of every method, at its fixed setting, with one Step 1 for all that can."""
    scores = _scores().set_index(KEY)
    rows = []
    for name, method in methods_for("pocket").items():
        pair = next(pair for pair in PAIRS if _pairs()[pair].edit in method.edits)
        rows.append(_of_table(scores.loc[[(pair, name, method.fixed_setting)]].reset_index()))
    return rows


def sampled(seed: int = SEED) -> list[Row]:
    """One row of every method, and of every sweep, drawn from those that need no download."""
    scores, generator = _scores(), np.random.default_rng(seed)
    rows = []
    for name in methods_for("pocket"):
        stored = scores[scores["method"] == name]
        rows.append(_of_table(stored.iloc[[generator.integers(len(stored))]]))
    for name, (points, _) in SWEEPS.items():
        stored = load_sweep(name).to_dict("records")
        row, settings = stored[generator.integers(len(stored))], list(points()[0])
        rows.append(Row(name, {key: row[key] for key in settings}, _figures(row, settings)))
    return rows


def compute(model: LatentAudioModel, clap: Clap, row: Row, folder: Path) -> Figures:
    """Compute a stored row again.

    Parameters
    ----------
    model, clap
        Those that the stored rows were made with.
    row : Row
    folder : Path
        Keeps Steps 1 and 2, which rows share.
    """
    if row.name in SWEEPS:
        return _figures(measure_point(row.name, model, row.point), row.point)
    pair, method = _pairs()[row.point["pair"]], methods_for("pocket")[row.name]
    edits = edit(model, method, pair, [row.point["setting"]], folder)
    [again] = measure(clap, pair, edits).to_dict("records")
    return _figures(again)


def first_steps(
    model: LatentAudioModel, pair: Pair, methods: Sequence[Ours], steps: int = STEPS
) -> dict[str, list[float]]:
    """Run the first steps of Steps 1 and 2, and one of sampling.

    Parameters
    ----------
    model : LatentAudioModel
        With one stream of tokens.
    pair : Pair
    methods : sequence of Ours
        Step 2 is run with the settings of each, from e_target; Steps 1 and 3 with the first one's.
    steps : int

    Returns
    -------
    dict of str to list of float
        Eq. 1 and ‖e − e_target‖ at each step of Step 1, Eq. 1 at each step of Step 2, and the root
        mean square of each channel of a latent that is sampled in one step from pure noise.
    """
    latent = model.encode(pair.source.clip)
    target = model.embed_text(pair.prompt, pair.source.clip.seconds)
    first = methods[0]
    heard: list[torch.Tensor] = []
    listening = model.denoiser.register_forward_pre_hook(
        lambda _, __, inputs: heard.append(inputs["encoder_hidden_states"][:1].detach().clone()),
        with_kwargs=True,
    )
    with listening:
        settings = replace(first.embedding, steps=steps)
        embedding = optimise_embedding(model, latent, target, settings, progress=False)
    moved = [*heard[1:], *embedding.conditioning.tokens]
    figures = {
        "Step 1, loss": embedding.losses,
        "Step 1, distance": [float((e - target.tokens[0]).norm()) for e in moved],
    }
    for method in methods:
        settings = replace(method.finetuning, steps=steps)
        tuned = finetune(model, latent, target, settings, progress=False)
        figures[f"{method.name}, Step 2, loss"] = tuned.losses
    one = replace(first.sampling, steps=1, strength=1.0)
    [sampled_in_one] = sample(model, target, one, progress=False)
    figures["Step 3, latent"] = sampled_in_one.square().mean(dim=(1, 2)).sqrt().tolist()
    return figures


def subjects() -> tuple[Pair, list[Ours]]:
    """Whose first steps are stored: a pair, the method with the whole UNet and with adapters."""
    methods = methods_for("pocket")
    chosen = [methods[name] for name in ("ours", "ours-lora")]
    return _pairs()[PAIRS[0]], [method for method in chosen if isinstance(method, Ours)]


def beyond(
    stored: Mapping[str, float], again: Mapping[str, float], allowed: Mapping[str, float]
) -> list[str]:
    """Say which figures differ from the stored ones by more than is allowed."""
    return [
        f"{name} is {again[name]:.6g} instead of {stored[name]:.6g} ± {allowed[name]:.2g}"
        for name in stored
        if not _distance(stored[name], again[name]) <= allowed[name]
    ]


def steps_beyond(again: Mapping[str, Sequence[float]], path: Path = FILE) -> list[str]:
    """Say which of the first steps differ from the stored ones; there may be fewer of them."""
    found, stored = [], load(path)["steps"]
    for name, values in again.items():
        numbers = [str(step) for step in range(1, len(values) + 1)]
        known = stored[name]["values"], values, stored[name]["tolerances"]
        at = [dict(zip(numbers, each, strict=False)) for each in known]
        found += [f"{name}, {told}" for told in beyond(*at)]
    return found


def load(path: Path = FILE) -> dict[str, dict]:
    """Read what is allowed: ``rows`` by method or sweep, then by figure; ``steps`` by figure."""
    return json.loads(read_text(path))


def made_from(model: LatentAudioModel) -> Provenance:
    """Return what the first steps depend on."""
    pair, methods = subjects()
    settings = {m.name: {"embedding": m.embedding, "finetuning": m.finetuning} for m in methods}
    shared = {"schedule": model.schedule, "sampling": methods[0].sampling, "prompt": pair.prompt}
    recording = {"recording": content_hash(pair.source.clip.waveform)}
    return Provenance(model.weights, settings | shared, recording)


def _scores() -> pd.DataFrame:
    """Rows of Table 1 that need no download."""
    scores = read_scores(TABLE)
    return scores[scores["pair"].isin(_pairs())]


@cache
def _pairs() -> dict[str, Pair]:
    return {pair.id: pair for pair in load_pairs("pocket27") if pair.audio.startswith("foley:")}


def _of_table(row: pd.DataFrame) -> Row:
    [stored] = row.to_dict("records")
    point = {"pair": stored["pair"], "setting": stored["setting"]}
    return Row(stored["method"], point, _figures(stored, [*KEY, "seconds"]))


def _figures(row: Mapping[str, object], without: Sequence[str] | Mapping = ()) -> Figures:
    numbers = {key: value for key, value in row.items() if isinstance(value, int | float)}
    return {key: float(value) for key, value in numbers.items() if key not in {*without, *TIMES}}


def _distance(one: float, other: float) -> float:
    """How far apart two figures are; a missing one is none from another missing one."""
    return 0.0 if math.isnan(one) and math.isnan(other) else abs(one - other)


# ---------------------------------------------------------------- the command


def on_this_computer() -> tuple[list[Figures], dict[str, list[float]]]:
    """Compute all rows and the first steps."""
    model, clap = load_pocket(), load_clap("pocket")
    with TemporaryDirectory() as folder:
        rows = [compute(model, clap, row, Path(folder)) for row in [*cheapest(), *sampled()]]
    return rows, first_steps(model, *subjects())


def largest(figures: Sequence[Mapping[str, float]]) -> Figures:
    """Return the largest difference of each figure between any two computers."""
    return {
        name: max(_distance(a[name], b[name]) for a in figures for b in figures)
        for name in figures[0]
    }


def allowed(difference: float) -> float:
    """Return what is allowed where computers differ by so much."""
    return max(MARGIN * difference, RESOLUTION)


def _everywhere() -> Iterator[tuple[list[Figures], dict[str, list[float]]]]:
    """Compute all on each of the computers, in a process of its own that begins as one."""
    for name, environment in COMPUTERS.items():
        print(f"Computing: {name} ...", flush=True)
        os.environ.update(environment)
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            yield pool.submit(on_this_computer).result()


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """Measure how nearly stored figures come out again, and store twice that."""
    everywhere, steps_everywhere = zip(*_everywhere(), strict=True)
    rows = [*cheapest(), *sampled()]
    tolerances: dict[str, Figures] = {}
    for i, row in enumerate(rows):
        differences = largest([computed[i] for computed in everywhere])
        from_stored = largest([row.figures, everywhere[0][i]])
        print(f"\n{row.name}, {', '.join(map(str, row.point.values()))}")
        table = pd.DataFrame({"computers differ by": differences, "stored by": from_stored})
        print(table.to_string(float_format="{:.2g}".format))
        known = tolerances.setdefault(row.name, {})
        for figure, difference in differences.items():
            known[figure] = max(known.get(figure, 0.0), allowed(difference))
    steps = {}
    print("\nThe first steps: the largest difference")
    for name, values in steps_everywhere[0].items():
        each = [{str(i): v for i, v in enumerate(computed[name])} for computed in steps_everywhere]
        differences = [*largest(each).values()]
        steps[name] = {"values": values, "tolerances": [allowed(d) for d in differences]}
        print(f"{name:30} {max(differences):.2g}")
    record = made_from(load_pocket()).to_dict()
    content = {"made from": record, "rows": tolerances, "steps": steps}
    write_text(FILE, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    print(f"\nStored: {FILE}")


if __name__ == "__main__":
    sys.exit(main())
