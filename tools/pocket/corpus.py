"""The pocket model's training data: real recordings and procedural foley, mixed into scenes.

A scene is up to 10.24 s long, holds one to three sounds, and is described by captions in varied
wording, which are drawn when a training step asks for them.  Real recordings are those of ESC-10's
registry whose ``split`` is "train"; "dev" (a part of fold 4) serves to choose settings, "test"
(fold 5) to report.  Copies of them at 16 kHz are kept in the cache folder's ``esc10-16k``: a few
megabytes, all that a machine without a network needs to render scenes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import BinaryIO

import librosa
import numpy as np
import soundfile

from helpers.audio import CLIP_SAMPLES, CLIP_SECONDS, PEAK, SAMPLE_RATE
from helpers.data import cache_folder, load_registry
from helpers.evaluation.oracles import active_rms
from helpers.sounds import foley
from helpers.sounds.vocabulary import LABELS
from helpers.storage import write_whole
from tools.pocket.captions import RELATIONS, compose
from tools.pocket.rooms import place_at_distance, reverberate

SOUNDS_PER_SCENE = {1: 0.5, 2: 0.44, 3: 0.06}
FOREGROUND_METRES, BACKGROUND_METRES = (1, 8), (4, 25)
FOREGROUND_DECIBELS, BACKGROUND_DECIBELS = (-3, 0), (-10, -3)  # RMS where the sound is active
LOUDEST_PEAK = 12.0  # a sound's peak over its active RMS is limited to this factor
RECORDED_LABELS = tuple(label for label in LABELS if label not in foley.LABELS)


@dataclass(frozen=True)
class Scene:
    """A mixed clip and what is true about it.

    Attributes
    ----------
    waveform : np.ndarray
        float32, shape (163840,), DC removed, peak 0.5.
    labels : tuple of str
        The sounds in it, foreground or first one first.
    relation : str
        How they go together: one of `RELATIONS`.
    onsets : np.ndarray
        Seconds at which foley events start; empty for recordings, whose onsets are unknown.
    """

    waveform: np.ndarray
    labels: tuple[str, ...]
    relation: str
    onsets: np.ndarray

    def caption(self, rng: np.random.Generator) -> str:
        """Describe the scene in one of many wordings."""
        return compose(self.labels, self.relation, rng)


@cache
def recordings(label: str, split: str = "train") -> tuple[np.ndarray, ...]:
    """ESC-10 recordings of a class at 16 kHz, trimmed of digital silence, float32, peak 1."""
    registry, folder = load_registry("esc10"), cache_folder() / "esc10-16k"
    takes = []
    for recording in registry.select(split=split, label=label):
        copy = folder / recording.path
        if not copy.exists():
            write_whole(copy, partial(_write_compact, registry.fetch(recording)))
        takes.append(soundfile.read(copy, dtype="float32")[0])
    return tuple(take / np.abs(take).max() for take in takes)


def _write_compact(path: Path, file: BinaryIO) -> None:
    waveform, sample_rate = soundfile.read(path, dtype="float32", always_2d=True)
    mono = librosa.resample(waveform[:, 0], orig_sr=sample_rate, target_sr=SAMPLE_RATE)
    loud = np.flatnonzero(np.abs(mono) > 1e-3 * np.abs(mono).max())
    mono = mono[loud[0] : loud[-1] + 1]
    soundfile.write(file, mono * PEAK / np.abs(mono).max(), SAMPLE_RATE, format="OGG")


def make_scene(
    rng: np.random.Generator,
    labels: Sequence[str] | None = None,
    relation: str | None = None,
    split: str = "train",
) -> Scene:
    """Draw a scene.

    Parameters
    ----------
    rng : np.random.Generator
    labels : sequence of str, optional
        One to three labels; drawn at random when not given.
    relation : {"background", "sequence", "mixture"}, optional
        How two or three sounds go together; drawn at random when not given.
    split : {"train", "dev", "test"}
        Which of ESC-10's recordings may be drawn.
    """
    if labels is None:
        count = rng.choice(list(SOUNDS_PER_SCENE), p=list(SOUNDS_PER_SCENE.values()))
        labels = tuple(rng.choice(LABELS, size=count, replace=False))
    labels = tuple(str(label) for label in labels)
    relation = relation or str(rng.choice(RELATIONS))
    canvas = np.zeros(CLIP_SAMPLES, np.float32)
    onsets: list[float] = []
    for index, (start, seconds) in enumerate(_slots(rng, len(labels), relation)):
        waveform, event_onsets = _event(rng, labels[index], seconds, split)
        behind = relation == "background" and index > 0
        distance = rng.uniform(*(BACKGROUND_METRES if behind else FOREGROUND_METRES))
        decibels = rng.uniform(*(BACKGROUND_DECIBELS if behind else FOREGROUND_DECIBELS))
        waveform = place_at_distance(waveform, distance)
        if rng.random() < 0.3:
            waveform = reverberate(waveform, rng)
        first = round(start * SAMPLE_RATE)
        waveform = waveform[: CLIP_SAMPLES - first]
        canvas[first : first + len(waveform)] += at_level(waveform, decibels)
        onsets.extend(start + event_onsets)
    if rng.random() < 0.7:
        floor = 10 ** (rng.uniform(-75, -48) / 20)
        canvas += floor * rng.standard_normal(CLIP_SAMPLES).astype(np.float32)
    canvas -= canvas.mean()
    canvas *= PEAK / np.abs(canvas).max()
    inside = np.sort([onset for onset in onsets if onset < CLIP_SECONDS])
    return Scene(canvas, labels, relation, inside)


def at_level(waveform: np.ndarray, decibels: float) -> np.ndarray:
    """Scale a sound so that its RMS, where it is active, is ``decibels`` above 1 (float32).

    What would stick out more than 12 times (a click) is scaled by its peak.
    """
    scale = max(active_rms(waveform), np.abs(waveform).max() / LOUDEST_PEAK)
    return (waveform * (10 ** (decibels / 20) / scale)).astype(np.float32)


def _slots(rng: np.random.Generator, count: int, relation: str) -> list[tuple[float, float]]:
    """(start, seconds) of each event."""
    if count == 1:
        seconds = CLIP_SECONDS if rng.random() < 0.5 else rng.uniform(2.0, 9.0)
        return [(rng.uniform(0, CLIP_SECONDS - seconds), seconds)]
    if relation == "sequence":
        weights = rng.uniform(0.7, 1.3, count)
        edges = np.concatenate([[0], np.cumsum(weights / weights.sum())]) * CLIP_SECONDS
        return [(a, b - a) for a, b in zip(edges[:-1], edges[1:], strict=True)]
    lengths = rng.uniform(5.0, CLIP_SECONDS, count)
    lengths[rng.integers(count)] = CLIP_SECONDS
    return [(rng.uniform(0, CLIP_SECONDS - s), s) for s in lengths]


def _event(
    rng: np.random.Generator, label: str, seconds: float, split: str
) -> tuple[np.ndarray, np.ndarray]:
    if label in foley.LABELS:
        event = foley.synthesise(label, rng, seconds)
        return event.waveform, event.onsets
    return _recorded_event(rng, recordings(label, split), seconds), np.empty(0)


def _recorded_event(
    rng: np.random.Generator, takes: tuple[np.ndarray, ...], seconds: float
) -> np.ndarray:
    """One recording, slightly re-pitched, repeated with short pauses until it fills the time."""
    take = takes[rng.integers(len(takes))]
    speed = rng.uniform(0.87, 1.15)
    positions = np.arange(0, len(take) - 1, speed)
    take = np.interp(positions, np.arange(len(take)), take).astype(np.float32)
    samples = round(seconds * SAMPLE_RATE)
    if rng.random() < 0.3:
        take = take[rng.integers(0, max(1, len(take) // 3)) :]
    fade = min(160, len(take) // 2)
    ramp = np.linspace(0, 1, fade, dtype=np.float32)
    take[:fade] *= ramp
    take[-fade:] *= ramp[::-1]
    waveform = np.zeros(samples, np.float32)
    position = 0
    while position < samples:
        piece = take[: samples - position]
        waveform[position : position + len(piece)] += piece
        position += len(take) + int(rng.uniform(0.0, 0.6) * SAMPLE_RATE)
        if rng.random() < 0.25:
            break
    return waveform
