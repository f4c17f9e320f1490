"""Choose the pocket model's presets on dev: ``python -m tools.pocket tune``, or ``make tune``.

A *fit* is Steps 1 and 2 with one choice of settings; a *reading* is one η, guidance and start of
Step 3, at one length of Step 2.  All fits are tried on 4 pairs, the best 4 on 12, the best 2 on 36.
Every fit's rows are stored as soon as they are known, so that a stopped search goes on; the table
says how many settings were tried.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from itertools import product
from pathlib import Path

import pandas as pd

from helpers.data import data_path
from helpers.editing.embedding import EmbeddingSettings, optimise_embedding
from helpers.editing.finetuning import LORA_TARGETS, LORA_WIDE_TARGETS, FinetuningSettings, finetune
from helpers.editing.interpolation import SamplingSettings, interpolate, sample
from helpers.models.latent_audio_model import Conditioning
from helpers.pairs import Pair, load_pairs
from helpers.storage import (
    Provenance,
    content_hash,
    output_folder,
    read_records,
    read_table,
    sentence,
    write_records,
    write_table,
)
from tools.pocket.cases import make_case
from tools.pocket.workers import Bench, for_each, load_bench

PAIR_SET = "pocket-tune"
STAGES = ((4, 12), (12, 4), (36, 2))  # pairs, and how many of the best fits are tried on them
BATCH_SIZE = 4
EMBEDDING_STEPS = 100
SAMPLING_STEPS = 30
READINGS = (  # η, guidance, start
    (0.0, 1.0, 1.0),
    *product((0.75, 1.0, 1.25), (2.5, 4.0), (1.0,)),
    *product((1.0, 1.25), (4.0,), (0.9,)),
)
FIGURES = ["target", "source", "layout", "joint", "success"]
READ_AT = ["steps", "eta", "guidance", "start"]


@dataclass(frozen=True)
class Fit:
    """One choice of settings for Steps 1 and 2.

    Parameters
    ----------
    embedding_rate, finetuning_rate : float
    lora_rank : int
        0 is the whole UNet.
    wide : bool
        LoRA on convolutions and projections, too.
    """

    embedding_rate: float
    finetuning_rate: float
    lora_rank: int = 0
    wide: bool = False

    @property
    def embedding(self) -> EmbeddingSettings:
        """Of Step 1."""
        return EmbeddingSettings(EMBEDDING_STEPS, self.embedding_rate, BATCH_SIZE)

    def finetuning(self, steps: int) -> FinetuningSettings:
        """Of Step 2."""
        targets = LORA_WIDE_TARGETS if self.wide else LORA_TARGETS
        rank = self.lora_rank or None
        return FinetuningSettings(steps, self.finetuning_rate, BATCH_SIZE, rank, (*targets,))


@dataclass(frozen=True)
class Search:
    """Fits that compete.

    Parameters
    ----------
    fits : tuple of Fit
    lengths : tuple of int
        Steps of Step 2 after which a fit is read.
    """

    fits: tuple[Fit, ...]
    lengths: tuple[int, ...]


SEARCHES = {
    "whole": Search(
        tuple(Fit(*rates) for rates in product((1e-2, 2e-2, 4e-2), (1e-4, 2e-4, 3e-4, 4e-4))),
        (200, 400),
    ),
    "lora": Search(
        tuple(
            Fit(2e-2, rate, rank, wide)
            for rate, rank, wide in product((5e-4, 1e-3, 2e-3), (8, 16), (False, True))
        ),
        (200, 400),
    ),
}
SETTINGS = [field.name for field in fields(Fit)]


def search(name: str, weights: Path, pairs: Sequence[Pair], folder: Path) -> pd.DataFrame:
    """Try fits stage by stage; return all rows.

    Parameters
    ----------
    name : str
        One of :data:`SEARCHES`.
    weights : Path
        Folder of model and classifier.
    pairs : sequence of Pair
        As many as the last stage asks for; the first ones serve the earlier stages.
    folder : Path
        Gets ``<name>.csv`` and ``provenance.json``; what is in them is not computed again.

    Raises
    ------
    ValueError
        If the table was made from something else, or there are too few pairs.
    """
    if len(pairs) < STAGES[-1][0]:
        raise ValueError(f"There are {len(pairs)} pairs: {STAGES[-1][0]} are needed to tune on.")
    path = folder / f"{name}.csv"
    with output_folder(folder):
        rows = _begun(name, path, _made_from(name, weights, pairs))
        best = list(SEARCHES[name].fits)
        for count, kept in STAGES:
            best = best[:kept]
            work = [
                (fit, SEARCHES[name].lengths, pair)
                for pair in pairs[:count]
                for fit in best
                if not _is_measured(rows, fit, pair)
            ]
            description = f"{name}: {len(best)} fits, {count} pairs"
            for _, measured in for_each(measure, work, weights, description):
                rows = pd.concat([rows, measured], ignore_index=True)
                write_table(path, rows.round(5).to_csv(index=False))
            scores = {fit: best_reading(rows, fit, pairs[:count]) for fit in best}
            best.sort(key=lambda fit: (-scores[fit]["success"], -scores[fit]["joint"]))
    return rows


def best_reading(rows: pd.DataFrame, fit: Fit, pairs: Sequence[Pair]) -> pd.Series:
    """Return a fit's reading of the largest mean success, and of equals that of the best joint."""
    chosen = rows[_is_fit(rows, fit) & rows["pair"].isin([pair.id for pair in pairs])]
    means = chosen[chosen["eta"] > 0].groupby(READ_AT)[FIGURES].mean().reset_index()
    return means.sort_values(["success", "joint"]).iloc[-1]


def ranking(rows: pd.DataFrame, name: str, pairs: Sequence[Pair]) -> pd.DataFrame:
    """Every fit that was tried on all of these pairs, at its best reading, best first."""
    found = []
    for fit in SEARCHES[name].fits:
        tried = rows[_is_fit(rows, fit)]["pair"].unique()
        if {pair.id for pair in pairs} <= set(tried):
            found.append({**asdict(fit), **best_reading(rows, fit, pairs)})
    table = pd.DataFrame(found)
    return table.sort_values(["success", "joint"], ascending=False, ignore_index=True)


def measure(bench: Bench, work: tuple[Fit, tuple[int, ...], Pair]) -> pd.DataFrame:
    """Fit one pair, and judge it at every length and reading."""
    fit, lengths, pair = work
    model = bench.model
    case = make_case(model, pair, "dev")
    latent = model.encode(case.clip)
    target = model.embed_text(pair.prompt)
    optimised = optimise_embedding(model, latent, target, fit.embedding, progress=False)
    tuned = finetune(
        model,
        latent,
        optimised.conditioning,
        fit.finetuning(max(lengths)),
        progress=False,
        keep=lengths,
    )
    rows = []
    for steps in lengths:
        shorter = tuned.after(steps).model
        for (guidance, start), etas in _batches().items():
            mixtures = [interpolate(optimised.conditioning, target, eta) for eta in etas]
            settings = SamplingSettings(SAMPLING_STEPS, guidance, start)
            latents = sample(shorter, Conditioning.cat(mixtures), settings, latent, False)
            judged = case.judge(bench.listener, model.decode_batch(latents, case.clip))
            for eta, figures in zip(etas, judged, strict=True):
                reading = {"steps": steps, "eta": eta, "guidance": guidance, "start": start}
                rows.append({"pair": pair.id, **asdict(fit), **reading, **figures})
    return pd.DataFrame(rows)


def _batches() -> dict[tuple[float, float], list[float]]:
    """Group the readings' η by guidance and start, which are sampled in one batch."""
    batches: dict[tuple[float, float], list[float]] = {}
    for eta, guidance, start in READINGS:
        batches.setdefault((guidance, start), []).append(eta)
    return batches


def _made_from(name: str, weights: Path, pairs: Sequence[Pair]) -> Provenance:
    bench = load_bench(weights)
    return Provenance(
        bench.weights,
        {
            "schedule": bench.model.schedule,
            "lengths": SEARCHES[name].lengths,
            "sampling steps": SAMPLING_STEPS,
            "readings": READINGS,
        },
        {"pairs": content_hash([f"{pair.id} {pair.prompt}" for pair in pairs])},
    )


def _begun(name: str, path: Path, now: Provenance) -> pd.DataFrame:
    records = read_records(path.parent / "provenance.json")
    if not path.exists():
        write_records(path.parent / "provenance.json", records | {name: now})
        return pd.DataFrame(columns=["pair", *SETTINGS, *READ_AT, *FIGURES])
    differences = records.get(name, Provenance()).differences(now)
    if differences:
        raise ValueError(
            f"{path} holds another search: {sentence(differences)}. Name another folder, or "
            "delete the table."
        )
    return pd.read_csv(io.StringIO(read_table(path)))


def _is_fit(rows: pd.DataFrame, fit: Fit) -> pd.Series:
    return (rows[SETTINGS] == pd.Series(asdict(fit))).all(axis=1)


def _is_measured(rows: pd.DataFrame, fit: Fit, pair: Pair) -> bool:
    return bool((_is_fit(rows, fit) & (rows["pair"] == pair.id)).any())


def main(weights: Path) -> None:
    """Run the searches, and print the fits that were tried on all pairs."""
    pairs = load_pairs(PAIR_SET)
    for name in SEARCHES:
        rows = search(name, weights, pairs, data_path("pocket") / "tune")
        tried = len(rows.groupby([*SETTINGS, *READ_AT]))
        print(f"\n{name}: {tried} settings tried, {len(rows)} edits. The best on all pairs:")
        print(ranking(rows, name, pairs).to_string(index=False, float_format="%.3g"))
