"""Onsets and offsets, envelopes and spectra against values worked out by hand."""

import numpy as np
import pytest

from helpers.audio import SAMPLE_RATE, Clip
from helpers.editing.inpainting import Gap, sample_mask
from helpers.evaluation.onsets import detect_events, detect_onsets, offset_f1, onset_f1
from helpers.evaluation.structure import (
    envelope_correlation,
    kept_frames,
    log_spectral_distance,
)
from helpers.sounds import foley

SECONDS = 8.0
TIME = np.arange(round(SECONDS * SAMPLE_RATE)) / SAMPLE_RATE
BURSTS = np.array([[0.5, 0.8], [1.5, 2.1], [3.0, 3.2], [5.0, 6.5]])


def clip(waveform):
    return Clip(waveform.astype(np.float32), "made by hand")


def bursts(events):
    """Noise that is loud from each onset to its offset, and faint elsewhere."""
    loud = np.any([(on <= TIME) & (off > TIME) for on, off in events], axis=0)
    level = np.where(loud, 0.1, 1e-3)
    return clip(level * np.random.default_rng(0).standard_normal(len(TIME)))


def modulated(phase, gain=1.0, frequency=1000.0):
    """A tone of amplitude (1 + cos(2πt + phase) / 2) · gain / 4: eight whole periods."""
    envelope = 1 + np.cos(2 * np.pi * TIME + phase) / 2
    return clip(gain / 4 * envelope * np.sin(2 * np.pi * frequency * TIME))


def noise(seed=0, scale=0.1):
    return clip(scale * np.random.default_rng(seed).standard_normal(len(TIME)))


# onsets and offsets


def test_events_of_tone_bursts_are_found_where_they_are():
    found = detect_events(bursts(BURSTS))
    assert found.shape == BURSTS.shape
    assert found == pytest.approx(BURSTS, abs=0.045)
    assert onset_f1(BURSTS[:, 0], found[:, 0]) == 1
    assert offset_f1(BURSTS, found) == 1


def test_an_event_ends_25_db_below_its_loudest_frame():
    decay = np.exp(-(TIME - 1) / 0.5) * (TIME >= 1)  # 8.686 dB in 0.5 s: 25 dB in 1.439 s
    [event] = detect_events(clip(0.5 * decay * np.sin(2 * np.pi * 1000 * TIME)))
    assert event == pytest.approx([1, 1 + 0.5 * 25 * np.log(10) / 20], abs=0.04)


def test_an_event_ends_where_the_next_begins_or_with_the_recording():
    on = np.where(TIME < 4, 0.1, 0.5) * (TIME >= 2)
    found = detect_events(clip(on * np.sin(2 * np.pi * 1000 * TIME)))
    assert found == pytest.approx(np.array([[2, 4], [4, SECONDS]]), abs=0.05)


def test_silence_has_no_events():
    found = detect_events(clip(np.zeros(SAMPLE_RATE)))
    assert found.shape == (0, 2)


@pytest.mark.parametrize(("shift", "expected"), [(0.02, 1.0), (0.12, 0.0)])
def test_onsets_count_within_50_ms(shift, expected):
    early, late = bursts(BURSTS), bursts(BURSTS + shift)
    assert onset_f1(detect_onsets(early), detect_onsets(late)) == expected


def test_offset_f1_by_hand():
    reference = np.array([[0.0, 1.0], [2.0, 2.1], [4.0, 4.2]])
    # Tolerances: 0.2 s (20 % of 1 s), 0.05 s and 0.05 s.  Right, wrong, right, and one too many;
    # the onsets are all wrong, which does not count.
    estimated = np.array([[0.5, 1.19], [1.5, 2.16], [3.5, 4.24], [5.0, 6.0]])
    precision, recall = 2 / 4, 2 / 3
    by_hand = 2 * precision * recall / (precision + recall)
    assert offset_f1(reference, estimated) == pytest.approx(by_hand)
    assert offset_f1(reference, reference) == 1


def test_offset_f1_of_nothing():
    nothing, one = np.empty((0, 2)), np.array([[0.0, 1.0]])
    assert offset_f1(nothing, nothing) == 1
    assert offset_f1(nothing, one) == 0
    assert offset_f1(one, nothing) == 0


def test_true_events_of_foley_can_be_compared():
    event = foley.synthesise("trumpet", np.random.default_rng(5), SECONDS)
    true = np.c_[event.onsets, event.offsets]
    found = detect_events(Clip.from_waveform(event.waveform, SAMPLE_RATE))
    assert offset_f1(true, found) > 0.6
    assert offset_f1(true + 0.5 * SECONDS, found) < offset_f1(true, found)


# envelopes


@pytest.mark.parametrize("degrees", [0, 60, 90, 180])
def test_correlation_of_shifted_envelopes_is_the_cosine_of_the_shift(degrees):
    phase = np.deg2rad(degrees)
    correlation = envelope_correlation(modulated(0.0), modulated(phase))
    assert correlation == pytest.approx(np.cos(phase), abs=0.02)


def test_envelope_correlation_hears_neither_gain_nor_pitch():
    assert envelope_correlation(
        modulated(1.0), modulated(1.0, gain=0.1, frequency=3000.0)
    ) == pytest.approx(1, abs=1e-3)


def test_a_steady_envelope_has_no_correlation():
    steady = clip(np.sin(2 * np.pi * 1000 * TIME) / 4)
    assert envelope_correlation(steady, modulated(0.0)) is None
    assert envelope_correlation(modulated(0.0), clip(np.zeros(len(TIME)))) is None


def test_a_filled_gap_does_not_count():
    source, gap = modulated(0.0), Gap(2.0, 5.0)
    mask = sample_mask(source, gap)
    edit = clip(np.where(mask, source.waveform, noise().waveform))
    assert envelope_correlation(source, edit, mask) == pytest.approx(1, abs=1e-6)
    assert envelope_correlation(source, edit) < 0.9
    assert log_spectral_distance(source, edit, mask) == 0
    assert log_spectral_distance(source, edit) > 5


# spectra


@pytest.mark.parametrize("decibels", [-6.0, 3.0, 12.0])
def test_a_gain_costs_its_decibels(decibels):
    source = noise()
    louder = clip(source.waveform * 10 ** (decibels / 20))
    assert log_spectral_distance(source, louder) == pytest.approx(abs(decibels), abs=0.01)


def test_a_gain_over_a_quarter_of_the_time_costs_a_quarter():
    source = noise()
    gain = np.where(TIME < SECONDS / 4, 10 ** (8 / 20), 1)
    distance = log_spectral_distance(source, clip(source.waveform * gain))
    assert distance == pytest.approx(8 / 4, abs=0.1)  # frames across the edge are in between


def test_equal_clips_are_at_distance_zero():
    assert log_spectral_distance(bursts(BURSTS), bursts(BURSTS)) == 0


@pytest.mark.parametrize(("level", "low", "high"), [(1e-5, 0, 0.01), (1e-2, 10, 60)])
def test_only_noise_above_the_floor_costs_something(level, low, high):
    source = clip(np.where(TIME < SECONDS / 2, noise().waveform, 0))
    edit = clip(source.waveform + noise(1, level).waveform)
    assert low <= log_spectral_distance(source, edit) <= high


# frames


def test_frames_lie_wholly_in_what_is_kept():
    source = clip(np.ones(16_000))
    # Windows reach 512 samples to either side of a frame's centre at 160 n.
    assert np.flatnonzero(kept_frames(source, source))[[0, -1]].tolist() == [4, 96]
    mask = np.ones(16_000, dtype=bool)
    mask[8_000:8_160] = False
    lost = np.flatnonzero(~kept_frames(source, source, mask)[4:97]) + 4
    assert lost.tolist() == list(range(47, 55))


def test_a_full_clip_loses_only_its_ends():
    source = clip(np.ones(163_840))
    assert np.flatnonzero(kept_frames(source, source))[[0, -1]].tolist() == [4, 1020]


def test_clips_of_other_lengths_are_refused():
    for measure in (envelope_correlation, log_spectral_distance):
        with pytest.raises(ValueError, match="has 128000 samples, .* 16000 .* of one length"):
            measure(noise(), clip(np.ones(16_000)))
        with pytest.raises(ValueError, match="the mask 5"):
            measure(noise(), noise(), np.ones(5, dtype=bool))


def test_a_mask_that_keeps_nothing_is_refused():
    with pytest.raises(ValueError, match="keeps no 1024 samples .* keep a longer part"):
        log_spectral_distance(noise(), noise(), np.zeros(len(TIME), dtype=bool))
