"""The scores of an edit, and the tidy table that keeps them: one row per pair, method, strength."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from torch import Tensor
from torch.nn import functional

from helpers.audio import Clip
from helpers.editing.optimisation import write_atomically
from helpers.evaluation.clap import Clap
from helpers.evaluation.classifier import sound_probabilities
from helpers.evaluation.onsets import detect_events, offset_f1, onset_f1
from helpers.evaluation.pairs import Pair
from helpers.evaluation.structure import envelope_correlation, log_spectral_distance
from helpers.sounds.vocabulary import LABELS


class ScoresError(ValueError):
    """A table of scores that cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class Row:
    """One edit and its scores; the fields are the columns of ``scores.csv``.

    Attributes
    ----------
    pair, edit, method : str
        Identifiers; ``edit`` is the edit type.
    strength : float
        Of the method's own knob.
    text_clap, audio_clap, sum : float
        Eqs. 3 and 4, and what η is chosen by.
    onset_f1 : float
        Onsets of the edit against those found in the source, ±50 ms, outside the gap.
    offset_f1 : float
        Offsets likewise, within ±50 ms or a fifth of the event's duration.
    event_f1 : float, optional
        Onsets against the true ones, where they are known.
    envelope_correlation : float, optional
        Of the edit's and the source's loudness over time; none for a source that never changes.
    log_spectral_distance : float
        From the source, outside the gap, in dB.
    label : str
        What the independent classifier takes the edit for.
    target_probability, source_probability : float, optional
        That it gives the pair's target and the source's own label, where the vocabulary has them.
    clap : str
        The CLAP checkpoint; scores of another do not compare.
    model, fingerprint : str
        The base model's name and the first digits of its fingerprint.
    seconds : float
        This edit's share of the time that the method's sweep took.
    prompt : str
    audio : str
        The edit's file, relative to the table's folder.
    identity : str
        Fingerprint of everything the row depends on.
    """

    pair: str
    edit: str
    method: str
    strength: float
    text_clap: float
    audio_clap: float
    sum: float
    onset_f1: float
    offset_f1: float
    event_f1: float | None
    envelope_correlation: float | None
    log_spectral_distance: float
    label: str
    target_probability: float | None
    source_probability: float | None
    clap: str
    model: str
    fingerprint: str
    seconds: float
    prompt: str
    audio: str
    identity: str

    @property
    def key(self) -> tuple[str, str, float]:
        """What tells rows apart."""
        return self.pair, self.method, self.strength


def clap_scores(
    clap: Clap, edits: Sequence[Clip], prompt: str, source: Clip
) -> list[tuple[float, float]]:
    """Text CLAP (Eq. 3) and Audio CLAP (Eq. 4) of each edit."""
    original, *edited = clap.embed_audio([source, *edits])
    [text] = clap.embed_text([prompt])
    return [(_cosine(projection, text), _cosine(projection, original)) for projection in edited]


def measure(clap: Clap, pair: Pair, edits: Sequence[Clip]) -> list[dict[str, object]]:
    """All scores of some edits of a pair, as :class:`Row` names them."""
    source = pair.source
    true = source.events
    before = source.outside_gap(detect_events(source.clip))
    probabilities = sound_probabilities(edits)
    claps = clap_scores(clap, edits, pair.prompt, source.clip)
    rows = []
    for edit, (text, audio), sounds in zip(edits, claps, probabilities, strict=True):
        after = source.outside_gap(detect_events(edit))
        rows.append(
            {
                "text_clap": text,
                "audio_clap": audio,
                "sum": text + audio,
                "onset_f1": float(onset_f1(before[:, 0], after[:, 0])),
                "offset_f1": float(offset_f1(before, after)),
                "event_f1": None if true is None else float(onset_f1(true, after[:, 0])),
                "envelope_correlation": envelope_correlation(source.clip, edit, source.kept),
                "log_spectral_distance": log_spectral_distance(source.clip, edit, source.kept),
                "label": LABELS[int(sounds.argmax())],
                "target_probability": _probability(sounds, pair.target),
                "source_probability": _probability(sounds, source.label),
            }
        )
    return rows


def read_rows(path: Path) -> list[Row]:
    """Read a table of scores; one that does not exist yet has no rows.

    Raises
    ------
    ScoresError
        If it is not a table that :func:`write_rows` wrote.
    """
    if not path.exists():
        return []
    try:
        with path.open(encoding="utf-8", newline="") as table:
            return [_row(cells) for cells in csv.DictReader(table, strict=True)]
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise ScoresError(
            f"{path} cannot be read as a table of scores: delete it, or name another folder."
        ) from error


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write a table of scores, whole or not at all."""
    names = [field.name for field in fields(Row)]

    def write(part: Path) -> None:
        with part.open("w", encoding="utf-8", newline="") as table:
            writer = csv.writer(table, lineterminator="\n")
            writer.writerow(names)
            writer.writerows([getattr(row, name) for name in names] for row in rows)

    write_atomically(path, write)


def _row(cells: dict[str, str]) -> Row:
    values: dict[str, object] = {}
    for field in fields(Row):
        cell = cells[field.name]
        if field.type == "float":
            values[field.name] = float(cell)
        elif field.type == "float | None":
            values[field.name] = float(cell) if cell else None
        else:
            values[field.name] = cell
    return Row(**values)


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(functional.cosine_similarity(a, b, dim=0))


def _probability(sounds: Tensor, label: str | None) -> float | None:
    return None if label is None else float(sounds[LABELS.index(label)])
