"""Edit a pair set at a preset, and judge the edits beside what they compete with.

``python -m tools.pocket edits --pairs pocket-gate``.  Each pair is fitted once; one row is kept for
each η, and one for each reference: the source, the edit made by hand and the plain generation,
all as the autoencoder gives them, and *gated* generation, which has the source's envelope: what a
volume knob achieves.
"""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.ndimage import uniform_filter1d

from helpers.audio import SAMPLE_RATE, Clip
from helpers.editing.interpolation import sample
from helpers.editing.nonrigid import NonRigidEdit
from helpers.editing.presets import preset
from helpers.models.latent_audio_model import LatentAudioModel
from helpers.pairs import Pair, load_pairs
from helpers.storage import (
    Provenance,
    output_folder,
    read_records,
    read_table,
    sentence,
    write_records,
    write_table,
)
from tools.pocket.cases import Case, make_case, round_trip
from tools.pocket.workers import Bench, for_each, load_bench

ETAS = (0.0, 0.5, 0.75, 1.0, 1.25)
ENVELOPE_SECONDS = 0.04
QUIETEST = 1e-4  # of an envelope, so that silence is not turned up


def measure(bench: Bench, work: tuple[Pair, str, str]) -> pd.DataFrame:
    """Edit one pair at a preset, and judge every η and every reference."""
    pair, name, split = work
    model, settings = bench.model, preset(name)
    case = make_case(model, pair, split)
    started = time.perf_counter()
    source = pair.source
    with NonRigidEdit(model, case.clip, pair.prompt, settings, source.gap, progress=False) as edit:
        clips = dict(zip(map(str, ETAS), edit.sweep(list(ETAS)), strict=True))
        seconds = time.perf_counter() - started
        latent = sample(model, edit.target, settings.sampling, progress=False)
    clips |= references(model, case, model.decode(latent, case.clip))
    rows = pd.DataFrame(case.judge(bench.listener, list(clips.values())))
    log_mel = source.whole.log_mel()
    trip = _error(round_trip(model, source.whole), log_mel, source.whole)
    errors = [_error(clip, log_mel, source.whole) / trip for clip in clips.values()]
    return rows.assign(
        pair=pair.id,
        edit=pair.edit,
        audio=pair.audio,
        clip=list(clips),
        error=errors,
        seconds=seconds,
    )


def references(model: LatentAudioModel, case: Case, generation: Clip) -> dict[str, Clip]:
    """Return what an edit competes with, by name; with a gap also the recording as it was."""
    clips = {
        "source": round_trip(model, case.clip),
        "oracle": case.heard_oracle,
        "generation": generation,
        "gated generation": gated(generation, case.clip),
    }
    if case.pair.source.gap is not None:
        clips["whole"] = round_trip(model, case.pair.source.whole)
    return clips


def gated(generation: Clip, source: Clip) -> Clip:
    """Give a clip the level that another has at each time; both are of the same length."""
    gain = _envelope(source) / np.maximum(_envelope(generation), QUIETEST)
    waveform = generation.waveform * gain.astype(np.float32)
    peak = np.abs(waveform).max()
    return Clip(waveform * np.float32(np.abs(source.waveform).max() / max(peak, QUIETEST)))


def _envelope(clip: Clip) -> np.ndarray:
    power = np.square(clip.waveform.astype(np.float64))
    return np.sqrt(uniform_filter1d(power, round(ENVELOPE_SECONDS * SAMPLE_RATE), mode="nearest"))


def _error(clip: Clip, log_mel: torch.Tensor, source: Clip) -> float:
    return float((clip.log_mel() - log_mel).abs()[:, :, : source.frames].mean())


def run(pair_set: str, name: str, split: str, weights: Path, path: Path) -> pd.DataFrame:
    """Measure the pairs of a set that are not in a table yet; return the table.

    Parameters
    ----------
    pair_set, name : str
        Of the pairs and of the preset.
    split : {"dev", "test"}
        Of the recordings that edits by hand are made of.
    weights : Path
        Folder of model and classifier.
    path : Path
        The table; ``provenance.json`` beside it says what it was made from.

    Raises
    ------
    ValueError
        If the table was made from something else.
    """
    bench = load_bench(weights)
    now = Provenance(
        bench.weights,
        {"preset": preset(name), "schedule": bench.model.schedule, "η": ETAS, "split": split},
    )
    pairs = load_pairs(pair_set)
    path.parent.mkdir(parents=True, exist_ok=True)
    with output_folder(path.parent):
        records = read_records(path.parent / "provenance.json")
        rows = pd.DataFrame(columns=["pair"])
        if path.exists():
            if differences := records.get(path.stem, Provenance()).differences(now):
                raise ValueError(
                    f"{path} holds other edits: {sentence(differences)}. Name another table, or "
                    "delete this one."
                )
            rows = pd.read_csv(io.StringIO(read_table(path)))
        write_records(path.parent / "provenance.json", records | {path.stem: now})
        left = [(pair, name, split) for pair in pairs if pair.id not in set(rows["pair"])]
        for _, measured in for_each(measure, left, weights, path.stem):
            rows = pd.concat([rows, measured], ignore_index=True)
            write_table(path, rows.round(5).to_csv(index=False))
    return rows


def summary(rows: pd.DataFrame, group: Sequence[str] = ("edit", "clip")) -> pd.DataFrame:
    """Mean figures by edit type and clip, with the number of pairs."""
    order = [*map(str, ETAS), "source", "whole", "oracle", "generation", "gated generation"]
    rows = rows.assign(clip=pd.Categorical(rows["clip"], order, ordered=True))
    figures = rows.select_dtypes("number").columns
    grouped = rows.groupby(list(group), observed=True)
    return grouped[list(figures)].mean().assign(pairs=grouped["pair"].nunique())
