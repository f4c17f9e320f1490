"""Success: hand-made cases of what is kept and what is not."""

import numpy as np
import pytest

from helpers.audio import SAMPLE_RATE, Clip
from helpers.evaluation.success import (
    addition_succeeded,
    events_kept,
    gap_succeeded,
    style_succeeded,
    which_kept,
)

SECONDS = 6.0
EVENTS = np.array([[0.5, 0.8], [1.5, 1.8], [3.0, 3.4], [4.5, 4.9], [5.2, 5.5]])


def beeps(events, hertz=1000.0, level=0.1):
    time = np.arange(round(SECONDS * SAMPLE_RATE)) / SAMPLE_RATE
    inside = ((events[:, :1] <= time) & (time < events[:, 1:])).any(axis=0)
    inside = np.convolve(inside, np.hanning(480) / np.hanning(480).sum(), "same")  # no clicks
    noise = 1e-4 * np.random.default_rng(0).standard_normal(len(time))
    return Clip((level * np.sin(2 * np.pi * hertz * time) * inside + noise).astype(np.float32))


def rain(level):
    noise = np.random.default_rng(1).standard_normal(round(SECONDS * SAMPLE_RATE))
    return level * noise.astype(np.float32)


def test_the_source_keeps_all_its_events_at_any_gain():
    source = beeps(EVENTS)
    assert which_kept(source, source, EVENTS).all()
    assert which_kept(Clip(0.2 * source.waveform), source, EVENTS).all()


def test_what_is_missing_drowned_or_late_is_not_kept():
    source = beeps(EVENTS)
    missing = beeps(EVENTS[[0, 1, 3, 4]])
    assert which_kept(missing, source, EVENTS).tolist() == [True, True, False, True, True]
    assert not which_kept(Clip(source.waveform + rain(1.0)), source, EVENTS).any()
    late = EVENTS + np.array([[0], [0], [0.15], [0], [0]])
    assert not which_kept(beeps(late), source, EVENTS)[2]
    assert which_kept(beeps(EVENTS + 0.02), source, EVENTS).all()


def test_an_event_that_is_much_quieter_than_the_others_is_not_kept():
    source = beeps(EVENTS)
    quiet = source.waveform.copy()
    quiet[round(2.9 * SAMPLE_RATE) : round(3.5 * SAMPLE_RATE)] *= 0.25  # −12 dB
    assert which_kept(Clip(quiet), source, EVENTS).tolist() == [True, True, False, True, True]


def test_another_sound_in_the_same_places_is_not_the_event():
    assert not which_kept(beeps(EVENTS, hertz=4000), beeps(EVENTS), EVENTS).any()


def test_only_events_that_the_hand_made_edit_keeps_are_asked_for():
    source = beeps(EVENTS)
    drowning = rain(1e-3)
    drowning[: round(2 * SAMPLE_RATE)] *= 1000
    oracle = Clip(source.waveform + drowning)
    assert which_kept(oracle, source, EVENTS).sum() == 3
    assert events_kept(beeps(EVENTS[2:]), source, oracle, EVENTS) == 1
    assert events_kept(beeps(EVENTS[:3]), source, oracle, EVENTS) == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="No event"):
        events_kept(source, source, Clip(rain(1.0)), EVENTS)


def test_success_asks_for_both_sides():
    assert style_succeeded(target=0.6, source=0.4, layout=0.6)
    assert not style_succeeded(target=0.5, source=0.4, layout=0.6)
    assert not style_succeeded(target=0.6, source=0.6, layout=0.6)
    assert not style_succeeded(target=0.6, source=0.4, layout=0.5)
    assert addition_succeeded(target=0.6, source=0.6, kept=0.8)
    assert not addition_succeeded(target=0.6, source=0.4, kept=1.0)
    assert not addition_succeeded(target=0.6, source=0.6, kept=0.7)
    assert gap_succeeded(target=0.6, level=-6.0)
    assert not gap_succeeded(target=0.6, level=7.0)
