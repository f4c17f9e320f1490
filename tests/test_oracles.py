"""Edits made by hand, from foley alone."""

import numpy as np
import pytest

from helpers.audio import SAMPLE_RATE, Clip
from helpers.data import data_path, load_registry
from helpers.editing.inpainting import Gap
from helpers.evaluation.layout import raw_layout
from helpers.evaluation.oracles import (
    active_rms,
    add,
    fill,
    recorded_events,
    replace_events,
    take,
)
from helpers.sounds import foley


@pytest.fixture(scope="module")
def horn():
    event = foley.synthesise("car_horn", np.random.default_rng(9_000_001), 8.0)
    events = np.stack([event.onsets, event.offsets], axis=1)
    return Clip.from_waveform(event.waveform, SAMPLE_RATE, name="horn"), events


@pytest.mark.parametrize("target", ["duck", "glass", "church_bell"])
def test_hits_take_the_places_and_the_levels_of_the_events(horn, target):
    source, events = horn
    waveform, hits = take(target, np.random.default_rng(9_000_002), "dev")
    made = replace_events(source, events, target, waveform, hits)
    assert len(made.waveform) == len(source.waveform)
    assert np.abs(made.waveform).max() <= 1
    for onset, offset in events:
        part = slice(round(onset * SAMPLE_RATE), round(offset * SAMPLE_RATE))
        ratio = active_rms(made.waveform[part]) / active_rms(source.waveform[part])
        assert 0.3 < ratio < 3.5
    assert not made.waveform[: round(events[0, 0] * SAMPLE_RATE)].any()


def test_a_continuous_target_sounds_in_the_events_alone(horn):
    source, events = horn
    waveform, hits = take("wind", np.random.default_rng(9_000_003), "dev")
    made = replace_events(source, events, "wind", waveform, hits)
    assert raw_layout(made, events) > 0.9
    time = np.arange(len(made.waveform)) / SAMPLE_RATE
    outside = ~((events[:, :1] - 1e-3 <= time) & (time < events[:, 1:] + 1e-3)).any(axis=0)
    assert not made.waveform[outside].any()


@pytest.mark.parametrize("decibels", [-12.0, -6.0, 0.0])
def test_an_added_sound_has_its_level(horn, decibels):
    source, _ = horn
    waveform, _ = take("wind", np.random.default_rng(9_000_004), "dev")
    made = add(source, waveform, decibels)
    scale = max(1.0, np.abs(made.waveform).max())
    added = made.waveform * scale - source.waveform
    measured = 20 * np.log10(active_rms(added) / active_rms(source.waveform))
    assert measured == pytest.approx(decibels, abs=0.5)


def test_a_filled_gap_is_as_loud_as_what_it_held_and_the_rest_is_kept(horn):
    source, _ = horn
    gap = Gap(3.0, 5.0)
    waveform, _ = take("car_horn", np.random.default_rng(9_000_005), "dev")
    made = fill(source, gap, waveform)
    part = gap.samples(source)
    assert np.array_equal(made.waveform[: part.start], source.waveform[: part.start])
    assert np.array_equal(made.waveform[part.stop :], source.waveform[part.stop :])
    held, filled = (active_rms(clip.waveform[part]) for clip in (source, made))
    assert filled == pytest.approx(held, rel=0.2)
    assert not np.array_equal(made.waveform[part], source.waveform[part])


def test_the_events_of_recordings_are_of_dev_and_test_and_within_them():
    registry = load_registry("esc10")
    splits = {r.path: r.info["split"] for r in registry.recordings}
    events = recorded_events()
    assert {splits[path] for path in events} == {"dev", "test"}
    for times in events.values():
        assert (times[:, 0] < times[:, 1]).all()
        assert (np.diff(times[:, 0]) > 0).all()
        assert times.min() >= 0
        assert times.max() <= 5.2
    eligible = [p for p, t in events.items() if splits[p] == "dev" and 3 <= len(t) <= 20]
    assert len(eligible) >= 12
    assert data_path("events", "esc10.csv").exists()


def test_a_take_is_of_another_freesound_recording(monkeypatch):
    registry = load_registry("esc10")
    drawn = []
    monkeypatch.setattr(
        "helpers.data.Registry.fetch", lambda self, recording: drawn.append(recording) or None
    )
    monkeypatch.setattr(
        "helpers.evaluation.oracles.load_clip",
        lambda path: Clip(np.ones(SAMPLE_RATE, np.float32)),
    )
    source = "dog_bark/4-184575-A.ogg"
    [original] = {r.info["source"] for r in registry.recordings if r.path == source}
    for seed in range(20):
        take("dog_bark", np.random.default_rng(seed), "dev", other_than=source)
    assert {r.info["split"] for r in drawn} == {"dev"}
    assert original not in {r.info["source"] for r in drawn}
    assert len({r.path for r in drawn}) > 1
