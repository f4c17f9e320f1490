"""Recordings in, clips out; and the log-mel front end against a formula written out in numpy."""

import numpy as np
import pyloudnorm
import pytest
import soundfile
import torch

from helpers.audio import (
    CLIP_SAMPLES,
    LISTENING_LUFS,
    LOG_FLOOR,
    N_FRAMES,
    SAMPLE_RATE,
    AudioError,
    Clip,
    fade_end,
    limit,
    load_clip,
    load_windows,
    log_mel,
    match_loudness,
    mel_filters,
    save_clip,
)


def tone(seconds=1.0, frequency=440.0, sample_rate=SAMPLE_RATE, level=0.3):
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    return (level * np.sin(2 * np.pi * frequency * time)).astype(np.float32)


def pitch(clip):
    """Hz, of the strongest bin of a Hann-windowed spectrum."""
    spectrum = np.abs(np.fft.rfft(clip.waveform * np.hanning(len(clip.waveform))))
    return np.argmax(spectrum) * SAMPLE_RATE / len(clip.waveform)


def write(path, waveform, sample_rate=SAMPLE_RATE, **options):
    soundfile.write(path, waveform, sample_rate, **options)
    return path


# Bad input


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(AudioError, match="There is no file .*check the path"):
        load_clip(tmp_path / "missing.wav")


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(AudioError, match="There is no file"):
        load_clip(tmp_path)


@pytest.mark.parametrize("content", [b"", b"this is a letter, not a sound"])
def test_a_file_that_is_not_audio_is_refused(tmp_path, content):
    path = tmp_path / "letter.wav"
    path.write_bytes(content)
    with pytest.raises(AudioError, match="cannot be read as audio: convert it"):
        load_clip(path)


def test_an_audio_file_without_samples_is_refused(tmp_path):
    path = write(tmp_path / "empty.wav", np.zeros(0, np.float32))
    with pytest.raises(AudioError, match="empty is empty: choose a recording"):
        load_clip(path)


@pytest.mark.parametrize("shape", [(0,), (0, 2)])
def test_an_empty_array_is_refused(shape):
    with pytest.raises(AudioError, match="is empty"):
        Clip.from_waveform(np.zeros(shape), SAMPLE_RATE)


@pytest.mark.parametrize("level", [0.0, 0.4])
def test_silence_and_a_constant_are_refused(level):
    with pytest.raises(AudioError, match="is silent"):
        Clip.from_waveform(np.full(SAMPLE_RATE, level), SAMPLE_RATE)


def test_a_silent_first_channel_is_refused():
    stereo = np.stack([np.zeros(SAMPLE_RATE, np.float32), tone()], axis=1)
    with pytest.raises(AudioError, match="silent \\(in channel 0\\)"):
        Clip.from_waveform(stereo, SAMPLE_RATE)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_not_numbers_are_refused(value):
    waveform = tone()
    waveform[100] = value
    with pytest.raises(AudioError, match="holds NaN or infinite samples: export it again"):
        Clip.from_waveform(waveform, SAMPLE_RATE)


def test_a_recording_that_is_too_long_is_refused():
    with pytest.raises(AudioError, match=r"lasts 10\.50 s and a clip holds 10\.24 s: give a start"):
        Clip.from_waveform(tone(10.5), SAMPLE_RATE)


def test_a_recording_that_is_too_short_is_refused():
    with pytest.raises(AudioError, match=r"lasts 0\.20 s: use at least 0\.25 s"):
        Clip.from_waveform(tone(0.2), SAMPLE_RATE)


@pytest.mark.parametrize("part", [{"start": 2.0}, {"start": -1.0}, {"start": 0.5, "seconds": 0}])
def test_a_part_that_selects_nothing_is_refused(tmp_path, part):
    path = write(tmp_path / "tone.wav", tone(2.0))
    with pytest.raises(AudioError, match=r"lasts 2\.00 s: start=.* choose a start from 0 to 2\.00"):
        load_clip(path, **part)


@pytest.mark.parametrize("sample_rate", [0, 16, 10**7])
def test_a_sample_rate_that_makes_no_sense_is_refused(sample_rate):
    with pytest.raises(AudioError, match="sample rate of .* use 1 to 768 kHz"):
        Clip.from_waveform(tone(), sample_rate)


def test_an_array_of_another_shape_is_refused():
    with pytest.raises(AudioError, match="has shape"):
        Clip.from_waveform(np.zeros((2, 3, 4)), SAMPLE_RATE)


# Good input


@pytest.mark.parametrize("sample_rate", [8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000])
def test_any_sample_rate_keeps_duration_and_pitch(sample_rate):
    clip = Clip.from_waveform(tone(2.0, 1_000.0, sample_rate), sample_rate)
    assert clip.seconds == pytest.approx(2.0, abs=1e-3)
    assert pitch(clip) == pytest.approx(1_000.0, abs=1.0)
    assert clip.waveform.dtype == np.float32


@pytest.mark.parametrize("sample_rate", [8_000, 11_025, 44_100, 48_000])
def test_ten_and_a_quarter_seconds_fit_at_any_rate(sample_rate):
    clip = Clip.from_waveform(tone(10.24, 440.0, sample_rate), sample_rate)
    assert len(clip.waveform) == CLIP_SAMPLES
    assert clip.frames == N_FRAMES


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
@pytest.mark.parametrize("channels", [1, 2])
def test_the_usual_formats_are_read(tmp_path, suffix, channels):
    waveform = tone(2.0, 1_000.0, 44_100)
    if channels == 2:
        waveform = np.stack([waveform, tone(2.0, 3_000.0, 44_100)], axis=1)
    clip = load_clip(write(tmp_path / f"tone{suffix}", waveform, 44_100))
    assert clip.name == "tone"
    assert clip.seconds == pytest.approx(2.0, abs=0.1)  # mp3 pads
    assert pitch(clip) == pytest.approx(1_000.0, abs=2.0)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_24", "FLOAT", "DOUBLE", "ULAW"])
def test_the_usual_sample_formats_are_read(tmp_path, subtype):
    clip = load_clip(write(tmp_path / "tone.wav", tone(), subtype=subtype))
    assert pitch(clip) == pytest.approx(440.0, abs=1.0)


def test_a_clip_has_no_offset_and_peaks_at_one_half():
    clip = Clip.from_waveform(0.2 + tone(level=0.05), SAMPLE_RATE)
    assert clip.waveform.mean() == pytest.approx(0.0, abs=1e-5)
    assert np.abs(clip.waveform).max() == pytest.approx(0.5)


def test_a_part_of_a_long_recording_is_read(tmp_path):
    waveform = np.concatenate([tone(12.0, 500.0), tone(3.0, 2_000.0)])
    path = write(tmp_path / "long.flac", waveform)
    part = load_clip(path, start=12.5, seconds=2.0)
    assert (part.seconds, pitch(part)) == (2.0, pytest.approx(2_000.0, abs=1.0))
    assert load_clip(path, start=1.0).seconds == 10.24
    assert load_clip(path, seconds=1.0).seconds == 1.0


def test_a_short_clip_is_padded_and_remembers_its_length():
    clip = Clip.from_waveform(tone(1.005), SAMPLE_RATE)
    assert (clip.padded.shape, clip.seconds, clip.frames) == ((CLIP_SAMPLES,), 1.005, 101)
    assert not clip.padded[len(clip.waveform) :].any()
    assert clip.log_mel().shape == (1, 1, 1024, 64)
    assert clip.log_mel()[0, 0, 105:].max().item() == pytest.approx(-11.5129, abs=1e-4)


def test_a_clip_survives_saving(tmp_path):
    clip = Clip.from_waveform(tone(), SAMPLE_RATE)
    loaded = load_clip(save_clip(clip, tmp_path / "new folder" / "tone.wav"))
    assert loaded.waveform == pytest.approx(clip.waveform, abs=1e-4)


def test_windows_join_to_the_recording_they_came_from(tmp_path):
    waveform = tone(23.0) * np.linspace(0.2, 1, 23 * SAMPLE_RATE, dtype=np.float32)
    windows = load_windows(write(tmp_path / "long.wav", waveform, subtype="FLOAT"))
    assert [window.seconds for window in windows] == [10.24, 10.24, pytest.approx(2.52)]
    joined = np.concatenate([window.waveform for window in windows])
    centred = waveform - waveform.mean()
    assert joined == pytest.approx(centred * 0.5 / np.abs(centred).max(), abs=1e-5)


def test_windows_that_hold_nothing_at_the_end_are_left_out(tmp_path):
    padded = np.concatenate([tone(10.24), np.zeros(SAMPLE_RATE, np.float32)])
    assert len(load_windows(write(tmp_path / "silent end.wav", padded))) == 1
    assert len(load_windows(write(tmp_path / "short end.wav", tone(10.3)))) == 1


def test_a_silent_window_in_the_middle_stays(tmp_path):
    silence = np.zeros(round(10.24 * SAMPLE_RATE), np.float32)
    waveform = np.concatenate([tone(10.24), silence, tone(10.24)])
    assert len(load_windows(write(tmp_path / "pause.wav", waveform))) == 3


# The front end


def reference_log_mel(waveform, frames):
    """The formula written out, in float64: frames, periodic Hann, a plain DFT, Slaney mels."""
    padded = np.pad(waveform.astype(np.float64), 512, mode="reflect")
    n = np.arange(1024)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * n / 1024)
    dft = np.exp(-2j * np.pi * np.outer(n, np.arange(513)) / 1024)
    stack = np.stack([padded[160 * i : 160 * i + 1024] for i in range(frames)])
    magnitude = np.abs((stack * window) @ dft)
    return np.log(np.maximum(magnitude @ slaney_filters().T, 1e-5))


def slaney_filters():
    """64 triangles of equal area, linear in pitch below 1 kHz and logarithmic above."""
    step, corner = 200 / 3, 1_000.0
    log_step = np.log(6.4) / 27

    def to_mel(hz):
        return hz / step if hz < corner else corner / step + np.log(hz / corner) / log_step

    def to_hz(mel):
        linear = mel * step
        return np.where(linear < corner, linear, corner * np.exp(log_step * (mel - corner / step)))

    edges = to_hz(np.linspace(to_mel(0.0), to_mel(8_000.0), 66))
    bins = np.linspace(0, 8_000, 513)
    filters = []
    for low, centre, high in zip(edges, edges[1:], edges[2:], strict=False):
        rising, falling = (bins - low) / (centre - low), (high - bins) / (high - centre)
        filters.append(np.clip(np.minimum(rising, falling), 0, None) * 2 / (high - low))
    return np.array(filters)


def test_mel_filters_follow_slaney_s_formula():
    assert mel_filters().shape == (64, 513)
    assert mel_filters().numpy() == pytest.approx(slaney_filters(), abs=1e-7)


def test_the_front_end_follows_the_formula():
    noise = np.random.default_rng(0).normal(0, 0.1, 160 * 60).astype(np.float32)
    waveform = np.concatenate([noise + tone(0.6), 0.01 * noise])
    result = log_mel(torch.from_numpy(waveform)[None])
    assert result.shape == (1, 1, 120, 64)
    assert result[0, 0].numpy() == pytest.approx(reference_log_mel(waveform, 120), abs=1e-4)


def test_silence_is_the_logarithm_of_the_floor():
    result = log_mel(torch.zeros(1, 16_000))
    assert pytest.approx(-11.512925, abs=1e-5) == LOG_FLOOR
    assert torch.allclose(result, torch.full_like(result, -11.512925))


def test_time_runs_down_and_pitch_across():
    clip = Clip.from_waveform(np.concatenate([tone(2.0, 200.0), tone(2.0, 6_000.0)]), SAMPLE_RATE)
    strongest = clip.log_mel()[0, 0].argmax(1)
    assert strongest[:190].max() < 10
    assert strongest[210:390].min() > 50


# Listening


def loudness(clip):
    return pyloudnorm.Meter(SAMPLE_RATE).integrated_loudness(clip.padded)


def test_clips_are_brought_to_the_same_loudness():
    clips = [Clip(tone(5.0, f, level=level), "t") for f, level in ((300, 0.02), (3_000, 0.4))]
    assert [loudness(c) for c in match_loudness(clips)] == pytest.approx(
        [LISTENING_LUFS] * 2, abs=0.1
    )


def test_loudness_match_never_clips():
    click = np.zeros(5 * SAMPLE_RATE, np.float32)
    click[::8_000] = 0.5
    matched = match_loudness([Clip(tone(5.0), "tone"), Clip(click, "clicks")], lufs=-10.0)
    peaks = [np.abs(clip.waveform).max() for clip in matched]
    assert max(peaks) <= 0.98 + 1e-6
    assert loudness(matched[0]) == pytest.approx(loudness(matched[1]), abs=0.1)


def test_loudness_match_leaves_silence_alone():
    silence = Clip(np.zeros(SAMPLE_RATE, np.float32), "silence")
    assert not match_loudness([silence])[0].waveform.any()


# Ends and limits


@pytest.mark.parametrize("seconds", [0.3, 1.0, 10.24])
def test_the_end_is_faded_to_silence_and_nothing_else_changes(seconds):
    clip = Clip(tone(seconds), "tone")
    faded = fade_end(clip)
    assert faded.name == "tone"
    assert np.array_equal(faded.waveform[:-1600], clip.waveform[:-1600])
    ramp = np.cos(np.pi / 2 * np.arange(1, 1601) / 1600)
    assert np.allclose(faded.waveform[-1600:], ramp * clip.waveform[-1600:], atol=1e-6)
    assert clip.waveform[-100:].any()  # the clip itself is as it was
    assert faded.waveform.dtype == np.float32


def test_a_clip_shorter_than_the_fade_is_faded_whole():
    faded = fade_end(Clip(np.ones(800, np.float32)), seconds=0.1)
    assert faded.waveform[0] == pytest.approx(1, abs=1e-3)
    assert faded.waveform[-1] == pytest.approx(0, abs=1e-6)


def test_a_click_does_not_turn_the_rest_down():
    waveform = torch.from_numpy(tone(level=0.5))[None].repeat(2, 1)
    waveform[0, 8000] = -30.0
    limited = limit(waveform)
    assert limited.abs().max() <= 1
    assert limited[0, 8000] == pytest.approx(-1, abs=1e-6)
    limited[0, 8000] = waveform[0, 8000]
    assert torch.equal(limited, waveform)


def test_the_limiter_is_smooth_and_rising_and_leaves_full_scale_alone():
    ramp = torch.linspace(-3, 3, 6001, dtype=torch.float64)[None]
    limited = limit(ramp)[0]
    steps = limited.diff() / 1e-3
    assert (steps >= 0).all()
    assert (steps <= 1 + 1e-9).all()
    assert steps.diff().abs().max() < 0.02  # without a corner
    inside = ramp[0].abs() <= 0.9
    assert torch.allclose(limited[inside], ramp[0][inside], rtol=0, atol=1e-12)
    full = torch.linspace(-1, 1, 2001)[None]
    assert torch.equal(limit(full), full)
