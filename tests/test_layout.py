"""Layout: whether an edit fills the places of its source's events."""

import numpy as np
import pytest

from helpers.audio import SAMPLE_RATE, Clip
from helpers.evaluation.layout import (
    event_mask,
    find_events,
    layout,
    level,
    raw_layout,
)

EVENTS = np.array([[0.5, 0.9], [2.0, 2.3], [3.1, 3.9], [5.2, 5.4]])
SECONDS = 8.0


def sounding(events, colour=0, floor=1e-4):
    """Noise in the events, and next to nothing outside them."""
    rng = np.random.default_rng(colour)
    time = np.arange(round(SECONDS * SAMPLE_RATE)) / SAMPLE_RATE
    inside = ((events[:, :1] <= time) & (time < events[:, 1:])).any(axis=0)
    noise = rng.standard_normal(len(time)) * np.where(inside, 0.1, floor)
    return Clip(noise.astype(np.float32))


def test_level_is_that_of_each_20_ms_and_has_a_floor():
    loud = np.full(SAMPLE_RATE, 0.1, np.float32)
    clip = Clip(np.concatenate([loud, np.zeros(SAMPLE_RATE, np.float32)]))
    decibels = level(clip)
    assert decibels.shape == (100,)
    assert decibels[:50] == pytest.approx(-20)
    assert decibels[50:] == pytest.approx(-60)


def test_the_mask_covers_the_events():
    mask = event_mask(EVENTS, 400)
    assert mask.sum() == round((0.4 + 0.3 + 0.8 + 0.2) / 0.02)
    assert mask[25:45].all()
    assert not mask[45:100].any()


def test_a_different_sound_in_the_same_places_has_the_layout():
    oracle = sounding(EVENTS, colour=1)
    assert raw_layout(oracle, EVENTS) > 0.95
    assert layout(sounding(EVENTS, colour=2), oracle, EVENTS) == pytest.approx(1, abs=0.02)
    quiet = Clip(sounding(EVENTS, colour=2).waveform * 0.05)
    assert layout(quiet, oracle, EVENTS) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("shift", [0.7, 1.0, 4.0])
def test_events_elsewhere_and_sound_without_pauses_have_none(shift):
    oracle = sounding(EVENTS)
    moved = sounding((EVENTS + shift) % SECONDS)
    assert layout(moved, oracle, EVENTS) < 0.25
    assert layout(sounding(EVENTS, floor=0.1), oracle, EVENTS) < 0.05
    steady = Clip(np.full(round(SECONDS * SAMPLE_RATE), 0.1, np.float32))
    assert layout(steady, oracle, EVENTS) == 0


def test_half_filled_pauses_cost_half_and_silence_costs_all():
    oracle = sounding(EVENTS)
    part = sounding(EVENTS[:2])
    assert 0.3 < layout(part, oracle, EVENTS) < 0.8
    assert raw_layout(Clip(np.zeros(round(SECONDS * SAMPLE_RATE), np.float32)), EVENTS) == 0


def test_events_of_a_recording_are_found_by_their_energy():
    found = find_events(sounding(EVENTS))
    assert found == pytest.approx(EVENTS, abs=0.021)


def test_a_short_pause_is_bridged_and_a_click_left_out():
    events = np.array([[1.0, 1.4], [1.46, 1.8], [3.0, 3.5], [4.0, 4.02], [6.0, 6.5]])
    found = find_events(sounding(events))
    assert found == pytest.approx(np.array([[1.0, 1.8], [3.0, 3.5], [6.0, 6.5]]), abs=0.021)
