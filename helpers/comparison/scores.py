"""The scores of an edit, and the tidy table that keeps them: one row per pair, method, setting.

Its columns are those of :data:`COLUMNS`:

pair, edit, method
    Identifiers; ``edit`` is the edit type.
setting
    Of the method's own knob.
text_clap, audio_clap, sum
    Eqs. 3 and 4, and what η is chosen by.
onset_f1
    Onsets of the edit against those found in the source, ±50 ms, outside the gap.
offset_f1
    Offsets likewise, within ±50 ms or a fifth of the event's duration.
event_f1
    Onsets against the true ones; missing where those are not known.
envelope_correlation
    Of the edit's and the source's loudness over time; missing for a source that never changes.
log_spectral_distance
    From the source, outside the gap, in dB.
label
    What the independent classifier takes the edit for.
target_probability, source_probability
    That it gives the pair's target and the source's own label; missing where the vocabulary has
    none.
clap
    The CLAP checkpoint; scores of another do not compare.
model
    The base model's name; whose weights, ``provenance.json`` beside the table says.
seconds
    This edit's share of the time that the method's sweep took.
prompt
    The sentence.
audio
    The edit's file, relative to the table's folder, if it is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
from torch import Tensor
from torch.nn import functional

from helpers.audio import Clip
from helpers.editing.inpainting import Gap, sample_mask
from helpers.evaluation.clap import Clap
from helpers.evaluation.classifier import classifier_weights, sound_probabilities
from helpers.evaluation.onsets import detect_events, offset_f1, onset_f1
from helpers.evaluation.structure import envelope_correlation, log_spectral_distance
from helpers.models.latent_audio_model import LatentAudioModel
from helpers.pairs import Pair
from helpers.sounds.vocabulary import LABELS
from helpers.storage import StorageError, from_cell, read_table, to_cell, write_table

KEY = ["pair", "method", "setting"]  # what tells rows apart
MAY_BE_MISSING = ["event_f1", "envelope_correlation", "target_probability", "source_probability"]
COLUMNS = {
    **{"pair": str, "edit": str, "method": str, "setting": float},
    **dict.fromkeys(["text_clap", "audio_clap", "sum", "onset_f1", "offset_f1"], float),
    **dict.fromkeys(["event_f1", "envelope_correlation", "log_spectral_distance"], float),
    **{"label": str, "target_probability": float, "source_probability": float},
    **{"clap": str, "model": str, "seconds": float, "prompt": str, "audio": str},
}
GAP_MARGIN = 0.1  # seconds


class ScoresError(ValueError):
    """A table of scores that cannot be used; the message says why and what to do."""


def weights_behind(model: LatentAudioModel, clap: Clap) -> dict[str, str]:
    """SHA-256 of all weights that a scored edit depends on: the model's parts and both judges."""
    return model.weights | {"CLAP": clap.weights, "classifier": classifier_weights()}


def clap_scores(
    clap: Clap, edits: Sequence[Clip], prompt: str, source: Clip
) -> list[tuple[float, float]]:
    """Text CLAP (Eq. 3) and Audio CLAP (Eq. 4) of each edit."""
    original, *edited = clap.embed_audio([source, *edits])
    [text] = clap.embed_text([prompt])
    return [(_cosine(projection, text), _cosine(projection, original)) for projection in edited]


def measure(clap: Clap, pair: Pair, edits: Sequence[Clip]) -> pd.DataFrame:
    """Score some edits of a pair: the columns from ``text_clap`` to ``source_probability``."""
    source, gap = pair.source.clip, pair.source.gap
    kept = np.ones(len(source.waveform), bool) if gap is None else sample_mask(source, gap)
    true = pair.source.events
    before = outside_gap(detect_events(source), gap)
    probabilities = sound_probabilities(edits)
    claps = clap_scores(clap, edits, pair.prompt, source)
    rows = []
    for edit, (text, audio), sounds in zip(edits, claps, probabilities, strict=True):
        after = outside_gap(detect_events(edit), gap)
        rows.append(
            {
                "text_clap": text,
                "audio_clap": audio,
                "sum": text + audio,
                "onset_f1": onset_f1(before[:, 0], after[:, 0]),
                "offset_f1": offset_f1(before, after),
                "event_f1": None if true is None else onset_f1(outside_gap(true, gap), after[:, 0]),
                "envelope_correlation": envelope_correlation(source, edit, kept),
                "log_spectral_distance": log_spectral_distance(source, edit, kept),
                "label": LABELS[int(sounds.argmax())],
                "target_probability": _probability(sounds, pair.target),
                "source_probability": _probability(sounds, pair.source.label),
            }
        )
    frame = pd.DataFrame(rows)
    return frame.astype({name: kind for name, kind in COLUMNS.items() if name in frame})


def outside_gap(times: np.ndarray, gap: Gap | None) -> np.ndarray:
    """Return those of some times in seconds that are not within 0.1 s of the gap.

    At the end of a silent gap the recording sets in again, which sounds like an onset.

    Parameters
    ----------
    times : np.ndarray
        Shape (times,), or (events, 2) for onsets and offsets: an event stays if both do.
    gap : Gap, optional
        Without one all stay.
    """
    if gap is None:
        return times
    away = (times < gap.start - GAP_MARGIN) | (times > gap.end + GAP_MARGIN)
    return times[away if times.ndim == 1 else away.all(axis=1)]


def read_scores(path: Path) -> pd.DataFrame:
    """Read a table of scores; one that does not exist yet has no rows.

    Raises
    ------
    ScoresError
        If it is not a table that :func:`write_scores` wrote.
    """
    if not path.exists():
        return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in COLUMNS.items()})
    try:
        scores = pd.read_csv(StringIO(read_table(path)), dtype=str, keep_default_na=False)
        absent = dict.fromkeys(MAY_BE_MISSING, {"": np.nan})
        scores = scores.replace(absent).astype(COLUMNS)
        whole = list(scores) == list(COLUMNS) and not scores.duplicated(KEY).any()
        whole = whole and scores.drop(columns=MAY_BE_MISSING).notna().all(axis=None)
        if not whole:
            raise ValueError("not what was written")
    except (KeyError, ValueError, StorageError) as error:  # pandas' own errors are ValueErrors
        raise ScoresError(
            f"{path} cannot be read as the table of scores that was written: delete it, or name "
            "another folder."
        ) from error
    return scores.assign(prompt=scores["prompt"].map(from_cell))


def write_scores(path: Path, scores: pd.DataFrame) -> None:
    """Write a table of scores, whole or not at all."""
    write_table(path, to_csv(scores.assign(prompt=scores["prompt"].map(to_cell))))


def to_csv(frame: pd.DataFrame) -> str:
    """Return a frame as CSV without its index, numbers with all their digits."""
    return frame.to_csv(index=False, lineterminator="\n")


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(functional.cosine_similarity(a, b, dim=0))


def _probability(sounds: Tensor, label: str | None) -> float | None:
    return None if label is None else float(sounds[LABELS.index(label)])
