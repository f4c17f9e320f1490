"""Edits made by hand: what a perfect edit of a recording would sound like.

They are put together from the source and from *takes* of the target: foley of another seed, or
recordings of the same part of the split and of another freesound recording than the source's.  A
measure that does not prefer them to the untouched source and to plain generation measures something
else.

- addition: the source plus a take of the target at a level below it;
- style transfer: at each of the source's events a hit of the target, or a run of them where the
  event is longer, as loud as the event; a target that has no hits (rain, an engine) is let through
  where the events are;
- inpainting: what the gap held, or another take of it as loud as that.
"""

from __future__ import annotations

import csv
from functools import cache

import numpy as np

from helpers.audio import SAMPLE_RATE, Clip, load_clip
from helpers.data import Recording, data_path, load_registry
from helpers.editing.inpainting import Gap
from helpers.sounds import foley

CONTINUOUS = frozenset(
    {
        "applause",
        "chainsaw",
        "engine",
        "fire_crackling",
        "helicopter",
        "rain",
        "sea_waves",
        "siren",
        "wind",
    }
)
ADDITION_DECIBELS = (-12.0, -6.0, 0.0)
FADE_SECONDS = 0.02
ACTIVE_DECIBELS = 30.0  # below the loudest 20 ms: what counts as active
TAKE_SECONDS = 10.0


class NoTake(ValueError):
    """A sound of which a part of the split has no other recording."""


def take(
    label: str, rng: np.random.Generator, split: str, other_than: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a recording or a piece of foley of a sound, with its events.

    Parameters
    ----------
    label : str
    rng : np.random.Generator
    split : {"train", "dev", "test"}
        Of ESC-10's recordings; foley depends on ``rng`` alone.
    other_than : str, optional
        Path, in the registry, of a recording whose freesound original must not be used.

    Returns
    -------
    waveform : np.ndarray
        float32, shape (samples,), 16 kHz, at most 10 s.
    events : np.ndarray
        Onset and offset times in seconds, shape (events, 2).

    Raises
    ------
    NoTake
        If there is no such recording.
    """
    if label in foley.LABELS:
        event = foley.synthesise(label, rng, TAKE_SECONDS)
        return event.waveform, np.stack([event.onsets, event.offsets], axis=1)
    registry = load_registry("esc10")
    sources = {r.path: r.info["source"] for r in registry.recordings}
    found = [
        r
        for r in registry.select(label=label, split=split)
        if r.info["source"] != sources.get(other_than or "")
        and (label in CONTINUOUS or len(recorded_events().get(r.path, ())))
    ]
    if not found:
        raise NoTake(f"The split {split} has no other recording of {label} with known events.")
    recording: Recording = found[rng.integers(len(found))]
    clip = load_clip(registry.fetch(recording))
    return clip.waveform, recorded_events().get(recording.path, np.array([[0.0, clip.seconds]]))


@cache
def recorded_events() -> dict[str, np.ndarray]:
    """Events of ESC-10's recordings by path: onsets and offsets in seconds, shape (events, 2).

    Found by :func:`helpers.evaluation.layout.find_events` in the parts "dev" and "test", and kept
    where they stand out to the eye.
    """
    events: dict[str, list[tuple[float, float]]] = {}
    with data_path("events", "esc10.csv").open(encoding="utf-8", newline="") as table:
        for row in csv.DictReader(table):
            times = (float(row["onset"]), float(row["offset"]))
            events.setdefault(row["path"], []).append(times)
    return {path: np.array(times) for path, times in events.items()}


def add(source: Clip, waveform: np.ndarray, decibels: float) -> Clip:
    """Addition: the source plus a take, ``decibels`` above the source in RMS where active."""
    added = _fitted(waveform, len(source.waveform))
    gain = active_rms(source.waveform) / active_rms(added) * 10 ** (decibels / 20)
    return _limited(source.waveform + gain * added, f"{source.name}, added by hand")


def replace_events(
    source: Clip, events: np.ndarray, target: str, waveform: np.ndarray, hits: np.ndarray
) -> Clip:
    """Style transfer: the target at each of the source's events, as loud as the event was.

    Parameters
    ----------
    source : Clip
    events : np.ndarray
        Of the source, seconds, shape (events, 2).
    target : str
        Label of the take.
    waveform, hits : np.ndarray
        A take and its events, as :func:`take` gives them.  Each of the source's events gets the
        take from one hit on, for as long as the event lasts and that hit sounds, and not beyond the
        source's next event.  A continuous target is cut to the events themselves.
    """
    made = np.zeros(len(source.waveform), np.float32)
    onsets = [round(onset * SAMPLE_RATE) for onset, _ in events]
    for index, first in enumerate(onsets):
        last = round(events[index, 1] * SAMPLE_RATE)
        following = [*onsets[index + 1 :], len(made)][0]
        if target in CONTINUOUS:
            hit = _fitted(waveform, last)[first:last]
        else:
            begin, end = hits[index % len(hits)]
            samples = max(last - first, round((end - begin) * SAMPLE_RATE))
            hit = waveform[round(begin * SAMPLE_RATE) :][: min(samples, following - first)]
        level = active_rms(source.waveform[first:last]) / active_rms(hit)
        made[first : first + len(hit)] += level * _faded(hit)
    return _limited(made, f"{source.name}, replaced by hand")


def fill(source: Clip, gap: Gap, waveform: np.ndarray) -> Clip:
    """Inpainting: another take in the gap, as loud as what the gap held."""
    part = gap.samples(source)
    held = source.waveform[part]
    filled = source.waveform.copy()
    taken = _fitted(waveform, len(held))
    filled[part] = _faded(taken) * active_rms(held) / active_rms(taken)
    return _limited(filled, f"{source.name}, filled by hand")


def active_rms(waveform: np.ndarray) -> float:
    """Root mean square over the stretches of 20 ms that lie within 30 dB of the loudest."""
    size = min(320, len(waveform))
    power = np.square(waveform[: len(waveform) // size * size].astype(np.float64))
    power = power.reshape(-1, size).mean(axis=1)
    threshold = power.max() * 10 ** (-ACTIVE_DECIBELS / 10)
    return float(np.sqrt(power[power >= threshold].mean()) + 1e-12)


def _fitted(waveform: np.ndarray, samples: int) -> np.ndarray:
    """Repeat a waveform until it fills a length."""
    return np.resize(waveform, samples)


def _faded(waveform: np.ndarray) -> np.ndarray:
    """Fade out over 20 ms, or half of what is shorter, and in over 2 ms, to keep the attack."""
    samples = min(round(FADE_SECONDS * SAMPLE_RATE), len(waveform) // 2)
    faded = waveform.astype(np.float32).copy()
    faded[len(faded) - samples :] *= np.linspace(1, 0, samples, dtype=np.float32)
    short = min(32, samples)  # 2 ms: no click, and no softened attack
    faded[:short] *= np.linspace(0, 1, short, dtype=np.float32)
    return faded


def _limited(waveform: np.ndarray, name: str) -> Clip:
    """Return a clip, turned down as a whole if it exceeds full scale."""
    return Clip((waveform / max(1.0, np.abs(waveform).max())).astype(np.float32), name)
