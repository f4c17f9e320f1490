"""Layout: whether the sound of an edit lies where the source's events were.

The level of a clip over time is compared with a mask of the events that are known to be in its
source.  It does not matter what is heard there; an edit that turns rings into knocks keeps its
layout if the knocks fill the places of the rings and nothing fills the pauses.
"""

from __future__ import annotations

import numpy as np

from helpers.audio import SAMPLE_RATE, Clip

STEP = 320  # samples: 20 ms
STEP_SECONDS = STEP / SAMPLE_RATE
LOUD_PERCENTILE = 95
RANGE_DECIBELS = 40.0  # levels lower than this below the loud ones count as silence
SHORTEST_SHIFT = 0.5  # seconds
FEWEST_EVENTS, MOST_EVENTS = 3, 20
LEAST_RAW = 0.5  # of source and oracle, for a pair to be eligible


def level(clip: Clip) -> np.ndarray:
    """Level of each 20 ms in dB, float64, shape (steps,), clipped to 40 dB below its loud part.

    Loud is the 95th percentile.
    """
    decibels = 10 * np.log10(_power(clip) + 1e-12)
    return np.maximum(decibels, np.percentile(decibels, LOUD_PERCENTILE) - RANGE_DECIBELS)


def event_mask(events: np.ndarray, steps: int) -> np.ndarray:
    """Which steps of 20 ms lie in an event, bool, shape (steps,).

    Parameters
    ----------
    events : np.ndarray
        Onset and offset times in seconds, shape (events, 2).
    steps : int
    """
    centres = (np.arange(steps) + 0.5) * STEP_SECONDS
    return np.any((events[:, :1] <= centres) & (centres < events[:, 1:]), axis=0)


def raw_layout(clip: Clip, events: np.ndarray) -> float:
    """Correlation of a clip's level with the source's event mask, less what chance would give.

    Chance is the mean correlation over all circular shifts of the mask by at least 0.5 s.

    Parameters
    ----------
    clip : Clip
        As long as the source.
    events : np.ndarray
        The source's onset and offset times in seconds, shape (events, 2).

    Returns
    -------
    float
        About −1…1; 0 for a clip that is equally loud everywhere.
    """
    decibels = level(clip)
    mask = event_mask(events, len(decibels)).astype(float)
    if decibels.std() < 1e-6 or mask.std() == 0:
        return 0.0
    decibels = (decibels - decibels.mean()) / decibels.std()
    mask = (mask - mask.mean()) / mask.std()
    shortest = round(SHORTEST_SHIFT / STEP_SECONDS)
    shifts = range(shortest, len(mask) - shortest + 1)
    chance = np.mean([np.mean(decibels * np.roll(mask, shift)) for shift in shifts])
    return float(np.mean(decibels * mask) - chance)


def layout(edit: Clip, oracle: Clip, events: np.ndarray) -> float:
    """Layout L of an edit, 0…1: its :func:`raw_layout` as a share of the hand-made edit's.

    Parameters
    ----------
    edit, oracle : Clip
        Of the same length; see :mod:`helpers.evaluation.oracles`.
    events : np.ndarray
        The source's onset and offset times in seconds, shape (events, 2).
    """
    return float(np.clip(raw_layout(edit, events) / raw_layout(oracle, events), 0, 1))


def find_events(clip: Clip) -> np.ndarray:
    """Onset and offset times in seconds, shape (events, 2), of stretches that stand out in level.

    For recordings, whose events nobody wrote down: the result is to be checked by eye.  A step of
    20 ms belongs to an event if it lies within 20 dB of the loud part and in the upper 60 % of the
    range between the quiet part (15th percentile) and the loud one (95th).  Pauses shorter than
    0.1 s are bridged, and events shorter than 0.04 s left out.
    """
    decibels = 10 * np.log10(_power(clip) + 1e-10)
    loud, quiet = np.percentile(decibels, (LOUD_PERCENTILE, 15))
    active = decibels > max(loud - 20.0, quiet + 0.4 * (loud - quiet))
    edges = np.flatnonzero(np.diff(np.pad(active.astype(int), 1))).reshape(-1, 2)
    events: list[list[int]] = []
    for first, last in edges.tolist():
        if events and (first - events[-1][1]) * STEP_SECONDS < 0.1:
            events[-1][1] = last
        else:
            events.append([first, last])
    kept = [event for event in events if (event[1] - event[0]) * STEP_SECONDS >= 0.04]
    return np.reshape(kept, (-1, 2)) * STEP_SECONDS


def _power(clip: Clip) -> np.ndarray:
    steps = len(clip.waveform) // STEP
    whole = clip.waveform[: steps * STEP].astype(np.float64)
    return np.square(whole).reshape(steps, STEP).mean(axis=1)
