"""When an edit has succeeded: the target is heard, and what should have stayed has stayed.

- Style transfer: the target is heard, the source is not, and the layout L exceeds 0.5.
- Addition: target and source are heard, and 80 % of the source's events are kept.
- Inpainting: the target is heard in the gap alone, at the level of what the gap held.

*Heard* means a probability above 0.5 after the class's own correction, which lets 5 % of clips
without the sound pass (:func:`helpers.evaluation.classifier.heard`).
"""

from __future__ import annotations

import numpy as np

from helpers.audio import FRAMES_PER_SECOND, Clip

LEAST_LAYOUT = 0.5
LEAST_KEPT = 0.8  # share of events
LOUDEST_BINS = 8
ONSET_FRAMES = 5  # ±50 ms
LEAST_RISE = 6.0  # dB
LARGEST_DIFFERENCE = 9.0  # dB, of an event's level
GAP_DECIBELS = 6.0
RANGE_DECIBELS = 50.0


def style_succeeded(target: float, source: float, layout: float) -> bool:
    """Whether a style transfer succeeded, from both probabilities and L."""
    return target > 0.5 and source <= 0.5 and layout > LEAST_LAYOUT


def addition_succeeded(target: float, source: float, kept: float) -> bool:
    """Whether an addition succeeded, from both probabilities and the share of kept events."""
    return target > 0.5 and source > 0.5 and kept >= LEAST_KEPT


def gap_succeeded(target: float, level: float) -> bool:
    """Whether a gap was filled: probability in it, level in dB above what it held."""
    return target > 0.5 and abs(level) <= GAP_DECIBELS


def events_kept(edit: Clip, source: Clip, oracle: Clip, events: np.ndarray) -> float:
    """Share of the source's events that are in an edit, 0…1.

    Only events that the edit made by hand keeps count: what it drowns cannot be asked for.

    Parameters
    ----------
    edit, source, oracle : Clip
        Of one length.
    events : np.ndarray
        The source's onset and offset times in seconds, shape (events, 2).

    Raises
    ------
    ValueError
        If the edit made by hand keeps none.
    """
    possible = which_kept(oracle, source, events)
    if not possible.any():
        raise ValueError(f"No event of {source.name} is kept by the edit made by hand.")
    return float(which_kept(edit, source, events)[possible].mean())


def which_kept(edit: Clip, source: Clip, events: np.ndarray) -> np.ndarray:
    """Which of the source's events are in an edit, bool, shape (events,).

    An event is kept if, in the eight mel bins in which it is loudest in the source, the edit's
    level rises by 6 dB within ±50 ms of its onset, and lies within ±9 dB of the source's after one
    gain for all of the clip (the median over events).  Levels of 50 dB below a clip's loudest bin
    count as silence, so that nothing rises there.
    """
    before, after = (np.exp(2 * clip.log_mel()[0, 0].numpy()) for clip in (source, edit))
    floor = after.max() * 10 ** (-RANGE_DECIBELS / 10)
    rises, differences = [], []
    for onset, offset in np.round(events * FRAMES_PER_SECOND).astype(int):
        stretch = slice(onset, max(offset, onset + 1))
        bins = np.argsort(before[stretch].mean(axis=0))[-LOUDEST_BINS:]
        window = slice(max(0, onset - ONSET_FRAMES), onset + ONSET_FRAMES + 1)
        around = _decibels(np.maximum(after[window][:, bins].mean(axis=1), floor))
        rises.append(np.max(around - np.minimum.accumulate(around)))
        difference = after[stretch][:, bins].mean() / before[stretch][:, bins].mean()
        differences.append(_decibels(difference))
    differences = np.array(differences) - np.median(differences)
    return (np.array(rises) >= LEAST_RISE) & (np.abs(differences) <= LARGEST_DIFFERENCE)


def _decibels(power: np.ndarray) -> np.ndarray:
    return 10 * np.log10(power)
