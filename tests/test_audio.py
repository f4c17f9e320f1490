"""Recordings in, clips out; and the log-mel front end against a formula written out in numpy."""

import os
import subprocess
import sys
import tracemalloc
import warnings
from contextlib import suppress
from fractions import Fraction

import av
import librosa
import numpy as np
import pyloudnorm
import pytest
import soundfile
import torch

from helpers import audio
from helpers.audio import (
    CLIP_SAMPLES,
    LISTENING_LUFS,
    LOG_FLOOR,
    N_FRAMES,
    SAMPLE_RATE,
    SUFFIXES,
    AudioError,
    Clip,
    Sound,
    load_clip,
    log_mel,
    match_loudness,
    mel_filters,
    read_audio,
    save_clip,
)
from helpers.storage import StorageError


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


def encode(path, container, codec, waveform, sample_rate, **options):
    """Write one channel with FFmpeg's libraries; the options are the container's."""
    with av.open(str(path), "w", format=container, options=options) as file:
        stream = file.add_stream(codec, rate=sample_rate, layout="mono")
        stream.bit_rate = 12_200 if sample_rate == 8_000 else 64_000  # where a codec wants one
        frame = av.AudioFrame.from_ndarray(waveform[None], format="fltp", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = sample_rate, Fraction(1, sample_rate), 0
        resampler = av.AudioResampler(stream.format.name, "mono", sample_rate)
        for piece in [*resampler.resample(frame), *resampler.resample(None), None]:
            file.mux(stream.encode(piece))
    return path


def chirp(seconds, sample_rate):
    """From 300 Hz upwards by 60 Hz a second, so that every place sounds different."""
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    return (0.4 * np.sin(2 * np.pi * (300 + 30 * time) * time)).astype(np.float32)


def lag(part, whole):
    """By how many samples a part of a chirp begins later than it should."""
    padded = np.pad(whole[: len(part)], 2_000)
    return int(np.correlate(padded, part, mode="valid").argmax()) - 2_000


def overwritten(content, *changes):
    """The bytes of a file with others in the given places."""
    content = bytearray(content)
    for place, new in changes:
        content[place : place + len(new)] = new
    return bytes(content)


# Bad input


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(AudioError, match="There is no file .*check the path"):
        load_clip(tmp_path / "missing.wav")


@pytest.mark.parametrize("name", ["a" * 300 + ".wav", "null\0.wav", "half \ud83d.wav"])
def test_a_name_that_no_file_can_have_is_refused(tmp_path, name):
    with pytest.raises(AudioError, match="There is no file"):
        load_clip(tmp_path / name)


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(AudioError, match="is a folder: name a recording in it"):
        load_clip(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_refused(tmp_path):
    path = write(tmp_path / "secret.wav", tone())
    path.chmod(0)
    with pytest.raises(AudioError, match="may not be read: change its permissions"):
        load_clip(path)


NOT_AUDIO = {
    "nothing": b"",
    "a letter": b"this is a letter, not a sound",
    "zeros": bytes(100_000),
    "noise": np.random.default_rng(0).bytes(100_000),
    "a playlist": b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\ntone.wav\n",
    "a list for FFmpeg": b"ffconcat version 1.0\nfile tone.wav\n",
}


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".mp3", ".raw", ".m4a", ""])
@pytest.mark.parametrize("content", NOT_AUDIO.values(), ids=NOT_AUDIO)
def test_a_file_that_is_not_audio_is_refused(tmp_path, content, suffix):
    write(tmp_path / "tone.wav", tone())
    path = tmp_path / f"letter{suffix}"
    path.write_bytes(content)
    with pytest.raises(AudioError, match="holds no sound that can be read: .* convert it to wav"):
        load_clip(path)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".aiff", ".au"])
def test_an_audio_file_without_samples_is_refused(tmp_path, suffix):
    path = write(tmp_path / f"empty{suffix}", np.zeros(0, np.float32))
    for part in ({}, {"start": 1.0}):
        with pytest.raises(AudioError, match="holds no sound that can be read: it is empty"):
            load_clip(path, **part)


def test_a_film_without_sound_is_refused(tmp_path):
    with av.open(str(tmp_path / "film.mp4"), "w") as file:
        stream = file.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8))
        file.mux([*stream.encode(frame), *stream.encode(None)])
    with pytest.raises(AudioError, match="holds no sound that can be read"):
        load_clip(tmp_path / "film.mp4")


def test_samples_without_a_header_are_refused(tmp_path):
    path = write(tmp_path / "samples.raw", tone(), format="RAW", subtype="PCM_16")
    with pytest.raises(AudioError, match="holds no sound that can be read: .* convert it to wav"):
        load_clip(path)


def test_a_recording_that_changes_its_rate_is_refused(tmp_path):
    first, second = (
        encode(tmp_path / f"{rate}.mp3", "mp3", "libmp3lame", chirp(2, rate), rate, write_xing="0")
        for rate in (16_000, 44_100)
    )
    path = tmp_path / "joined.mp3"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    with pytest.raises(AudioError, match="changes channels or sampling rate on the way: convert"):
        load_clip(path)


@pytest.mark.parametrize("shape", [(0,), (0, 2)])
def test_an_empty_array_is_refused(shape):
    with pytest.raises(AudioError, match="is empty"):
        Clip.from_waveform(np.zeros(shape), SAMPLE_RATE)


@pytest.mark.parametrize("level", [0.0, 0.4])
@pytest.mark.parametrize("shape", [(SAMPLE_RATE,), (SAMPLE_RATE, 1), (SAMPLE_RATE, 6)])
def test_silence_and_a_constant_are_refused(shape, level):
    with pytest.raises(AudioError, match="is silent: choose a recording"):
        Clip.from_waveform(np.full(shape, level), SAMPLE_RATE)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("channels", [1, 2])
def test_samples_that_are_not_numbers_are_refused(value, channels):
    waveform = np.stack([tone()] * channels, axis=1)
    waveform[100, 0] = value
    with pytest.raises(AudioError, match="holds NaN or infinite samples: export it again"):
        Clip.from_waveform(waveform, SAMPLE_RATE)


@pytest.mark.parametrize("samples", [CLIP_SAMPLES + 1, 2 * CLIP_SAMPLES])
def test_a_recording_that_is_too_long_is_refused(tmp_path, samples):
    waveform = tone(samples / SAMPLE_RATE)
    with pytest.raises(AudioError, match=r"clip is longer than the 10\.24 s .* take a part of it"):
        Clip.from_waveform(waveform, SAMPLE_RATE)
    path = write(tmp_path / "long.wav", waveform)
    for part in ({}, {"seconds": 20.0}, {"seconds": np.inf}):
        with pytest.raises(AudioError, match=r"long is longer than the 10\.24 s"):
            load_clip(path, **part)


@pytest.mark.parametrize(
    ("samples", "said"), [(3_200, "0.2"), (3_999, "0.249938"), (1, "6.25e-05")]
)
def test_a_recording_that_is_too_short_is_refused(samples, said):
    with pytest.raises(AudioError, match=rf"lasts {said} s: use at least 0\.25 s"):
        Clip.from_waveform(tone(samples / SAMPLE_RATE), SAMPLE_RATE)


@pytest.mark.parametrize(
    "part",
    [
        {"start": -1.0},
        {"start": np.nan},
        {"start": np.inf},
        {"start": 0.5, "seconds": 0},
        {"seconds": -1.0},
        {"seconds": np.nan},
    ],
)
def test_a_part_that_cannot_be_is_refused(tmp_path, part):
    path = write(tmp_path / "tone.wav", tone(2.0))
    with pytest.raises(AudioError, match="start=.* and seconds=.* select nothing: give a start"):
        load_clip(path, **part)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3", ".opus"])
@pytest.mark.parametrize("start", [2.0, 1e6])
def test_a_start_after_the_end_is_refused(tmp_path, suffix, start):
    if suffix == ".opus":
        path = encode(tmp_path / "tone.opus", "opus", "libopus", tone(2.0), SAMPLE_RATE)
    else:
        path = write(tmp_path / f"tone{suffix}", tone(2.0))
    with pytest.raises(AudioError, match=r"lasts 2(\.0\d*)? s: choose a start before that"):
        load_clip(path, start)


@pytest.mark.parametrize("sample_rate", [0, 16, 10**7, np.nan])
def test_a_sample_rate_that_makes_no_sense_is_refused(sample_rate):
    with pytest.raises(AudioError, match="sample rate of .* use 1 to 768 kHz"):
        Clip.from_waveform(tone(), sample_rate)


def test_an_array_of_another_shape_is_refused():
    with pytest.raises(AudioError, match="has shape"):
        Clip.from_waveform(np.zeros((2, 3, 4)), SAMPLE_RATE)


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_channels_before_samples_are_refused(channels):
    waveform = np.stack([tone()] * channels)
    with pytest.raises(AudioError, match=r"the channels first: give \(samples, channels\)"):
        Clip.from_waveform(waveform, SAMPLE_RATE)


# Every format


WRITTEN = {  # by suffix: FFmpeg's container and codec, and a rate that the codec knows
    ".wav": ("wav", "pcm_s24le", 44_100),
    ".flac": ("flac", "flac", 44_100),
    ".mp3": ("mp3", "libmp3lame", 44_100),
    ".m4a": ("ipod", "aac", 44_100),
    ".ogg": ("ogg", "flac", 44_100),
    ".oga": ("oga", "libopus", 48_000),
    ".opus": ("opus", "libopus", 48_000),
    ".webm": ("webm", "libopus", 48_000),
    ".mp4": ("mp4", "aac", 44_100),
    ".mov": ("mov", "alac", 44_100),
    ".mkv": ("matroska", "flac", 44_100),
    ".aac": ("adts", "aac", 44_100),
    ".aif": ("aiff", "pcm_s16be", 44_100),
    ".aiff": ("aiff", "pcm_s24be", 44_100),
    ".caf": ("caf", "alac", 44_100),
    ".au": ("au", "pcm_mulaw", 8_000),
    ".w64": ("w64", "pcm_f32le", 44_100),
    ".wma": ("asf", "wmav2", 44_100),
    ".amr": ("amr", "libopencore_amrnb", 8_000),
    ".3gp": ("3gp", "libopencore_amrnb", 8_000),
    ".ac3": ("ac3", "ac3", 44_100),
    ".wv": ("wv", "wavpack", 44_100),
}
STREAMED = {  # as a browser writes while it records, and a pipe
    "Firefox": (".webm", {"live": "1"}),
    "Safari": (".mp4", {"movflags": "frag_keyframe+empty_moov", "frag_duration": "1000000"}),
    "pipe": (".mp3", {"write_xing": "0"}),
}


def test_every_format_that_is_offered_is_tested():
    assert set(WRITTEN) == set(SUFFIXES)


@pytest.mark.parametrize(
    ("suffix", "options"),
    [*((suffix, {}) for suffix in SUFFIXES), *STREAMED.values()],
    ids=[*SUFFIXES, *STREAMED],
)
def test_every_format_that_is_offered_is_read_whole_and_in_part(tmp_path, suffix, options):
    container, codec, rate = WRITTEN[suffix]
    path = encode(tmp_path / f"chirp{suffix}", container, codec, chirp(8, rate), rate, **options)
    whole, sample_rate = read_audio(path)
    assert sample_rate == rate
    assert len(whole) / rate == pytest.approx(8.0, abs=0.1)  # some encoders pad
    assert np.abs(lag(chirp(1, rate), whole[:, 0])) <= 0.06 * rate
    for start in (0.3, 5.55):
        part, _ = read_audio(path, start, 0.5)
        assert len(part) == round(0.5 * rate)
        assert abs(lag(part[:, 0], whole[round(start * rate) :, 0])) <= 0.0015 * rate
    clip = load_clip(path, 5.0, 1.0)
    assert (clip.name, clip.seconds) == ("chirp", 1.0)
    assert pitch(clip) == pytest.approx(630, abs=20)


LIBSNDFILE = [
    (container, subtype)
    for container in soundfile.available_formats()
    for subtype in soundfile.available_subtypes(container)
    if container != "RAW" and not (container == "AIFF" and subtype.startswith("DWVW"))
]  # of raw samples nobody knows the rate; libsndfile cannot read its own DWVW


@pytest.mark.parametrize(("container", "subtype"), LIBSNDFILE)
def test_what_libsndfile_reads_keeps_its_samples(tmp_path, container, subtype):
    path = tmp_path / f"noise.{container.lower()}"
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, 16_000)
    try:
        soundfile.write(path, noise, 16_000, format=container, subtype=subtype)
        expected, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        pytest.skip(f"libsndfile does not write it: {error}")
    waveform, sample_rate = read_audio(path)
    assert sample_rate == rate
    np.testing.assert_allclose(waveform, expected, atol=1e-5 if container == "MP3" else 0)
    if subtype not in ("OPUS", "MPEG_LAYER_III"):  # whose decoders need a moment
        part, _ = read_audio(path, 0.2, 0.1)
        first = round(0.2 * rate)
        np.testing.assert_allclose(part, expected[first : first + round(0.1 * rate)], atol=1e-6)


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24"])
def test_channel_0_is_the_published_front_end(tmp_path, suffix, subtype):
    stereo = np.stack([chirp(3, 44_100), tone(3.0, 3_000.0, 44_100)], axis=1)
    path = write(tmp_path / f"stereo{suffix}", stereo, 44_100, subtype=subtype)
    samples, _ = soundfile.read(path, dtype="float32")
    for part, expected in [
        ({}, samples),
        ({"start": 1.0, "seconds": 1.5}, samples[44_100:110_250]),
    ]:
        mono = librosa.resample(expected[:, 0], orig_sr=44_100, target_sr=SAMPLE_RATE)
        mono = mono - mono.mean()
        mono = (mono * (0.5 / np.abs(mono).max())).astype(np.float32)
        np.testing.assert_array_equal(load_clip(path, **part).waveform, mono)


def test_a_name_may_be_any_bytes(tmp_path):
    if sys.platform == "darwin":
        pytest.skip("names are UTF-8 there")
    for suffix in (".wav", ".webm"):
        path = tmp_path / os.fsdecode(b"b\xe4r: %41\n" + suffix.encode())
        container, codec, _ = WRITTEN[suffix]
        encode(tmp_path / "plain", container, codec, chirp(1, 48_000), 48_000).rename(path)
        clip = load_clip(path)
        assert clip.name == "b?r: %41\n"
        assert clip.seconds == pytest.approx(1.0, abs=0.05)


def test_what_is_in_a_file_counts_and_not_its_suffix(tmp_path):
    for suffix in SUFFIXES:
        container, codec, rate = WRITTEN[suffix]
        for name in ("a.wav", "a.raw", "a.txt", "a"):
            encode(tmp_path / name, container, codec, chirp(1, rate), rate)
            assert load_clip(tmp_path / name).seconds == pytest.approx(1.0, abs=0.1)


# Headers that lie


def quantised(waveform):
    return np.round(waveform * 32_767).astype(np.int16)


SOUND = chirp(5, SAMPLE_RATE)
SAMPLES = quantised(SOUND)


@pytest.fixture
def stored(tmp_path):
    """The bytes of a file of 16-bit samples in a container."""

    def content(container):
        path = tmp_path / f"stored.{container.lower()}"
        soundfile.write(path, SAMPLES, SAMPLE_RATE, format=container)
        return path.read_bytes()

    return content


def read_back(tmp_path, content):
    path = tmp_path / "lie"
    path.write_bytes(content)
    return read_audio(path)[0][:, 0]


@pytest.mark.parametrize("size", [0, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
@pytest.mark.parametrize("places", [["RIFF"], ["data"], ["RIFF", "data"]])
def test_a_wav_with_wrong_sizes_is_read_to_its_end(tmp_path, stored, size, places):
    content = stored("WAV")
    size = size.to_bytes(4, "little")
    wrong = overwritten(content, *((content.index(p.encode()) + 4, size) for p in places))
    np.testing.assert_array_equal(read_back(tmp_path, wrong), SAMPLES / np.float32(2**15))


@pytest.mark.parametrize(
    ("container", "mark", "offset", "size"),
    [
        ("AIFF", b"FORM", 4, bytes(4)),
        ("AIFF", b"COMM", 10, bytes(4)),
        ("AIFF", b"SSND", 4, bytes(4)),
        ("AIFF", b"SSND", 4, b"\xff" * 4),
        ("AIFF", b"FORM", 4, b"\xff" * 4),
        ("AIFF", b"COMM", 10, b"\xff" * 4),
        ("AU", b".snd", 8, bytes(4)),
        ("AU", b".snd", 8, b"\xff" * 4),
        ("AU", b".snd", 8, b"\x7f" + b"\xff" * 3),
        ("CAF", b"data", 4, bytes(8)),
        ("CAF", b"data", 4, b"\xff" * 8),
        ("W64", b"data", 16, bytes(8)),
        ("W64", b"data", 16, b"\xff" * 8),
        ("RF64", b"ds64", 8, bytes(8)),
        ("RF64", b"ds64", 8, b"\xff" * 8),
        ("RF64", b"ds64", 16, bytes(8)),
        ("RF64", b"ds64", 16, b"\xff" * 8),
        ("RF64", b"ds64", 24, bytes(8)),
    ],
)
def test_other_containers_with_wrong_sizes_are_read(
    tmp_path, stored, container, mark, offset, size
):
    content = stored(container)
    wrong = overwritten(content, (content.rindex(mark) + offset, size))
    np.testing.assert_array_equal(read_back(tmp_path, wrong), SAMPLES / np.float32(2**15))


@pytest.mark.parametrize("total", [0, 16_000, 10**9])
def test_a_flac_of_unknown_or_wrong_length_is_read_to_its_end(tmp_path, stored, total):
    content = stored("FLAC")
    settings = int.from_bytes(content[18:26], "big") >> 36 << 36  # rate, channels, bits
    wrong = overwritten(content, (18, (settings | total).to_bytes(8, "big")))
    np.testing.assert_array_equal(read_back(tmp_path, wrong), SAMPLES / np.float32(2**15))
    part, _ = read_audio(tmp_path / "lie", 3.0, 1.0)
    np.testing.assert_array_equal(part[:, 0], SAMPLES[48_000:64_000] / np.float32(2**15))


@pytest.mark.parametrize("container", ["WAV", "FLAC", "AIFF", "AU", "W64", "RF64"])
def test_of_a_file_that_was_cut_the_rest_is_read(tmp_path, stored, container):
    content = stored(container)
    rest = read_back(tmp_path, content[: len(content) // 2 + 1])
    assert 0.4 * len(SOUND) < len(rest) < 0.6 * len(SOUND)
    np.testing.assert_array_equal(rest, SAMPLES[: len(rest)] / np.float32(2**15))


@pytest.mark.parametrize("suffix", [".mp3", ".opus", ".webm", ".aac"])
def test_of_a_compressed_file_that_was_cut_the_rest_is_read(tmp_path, suffix):
    container, codec, rate = WRITTEN[suffix]
    path = encode(tmp_path / f"a{suffix}", container, codec, chirp(8, rate), rate)
    content = path.read_bytes()
    rest = read_back(tmp_path, content[: len(content) // 2])
    assert 2 < len(rest) / rate < 6
    assert pitch(Clip.from_waveform(rest[rate : 2 * rate], rate)) == pytest.approx(390, abs=40)


@pytest.mark.parametrize("suffix", [".wav", ".ogg"])
def test_a_file_cut_before_its_first_sample_is_not_called_empty_alone(tmp_path, suffix):
    path = write(tmp_path / f"cut{suffix}", tone(3.0))
    path.write_bytes(path.read_bytes()[: 44 if suffix == ".wav" else 4_000])
    with pytest.raises(AudioError, match="is empty, damaged or not audio"):
        load_clip(path)


@pytest.mark.parametrize("mode", ["CONSTANT", "AVERAGE", "VARIABLE"])
@pytest.mark.parametrize("header", ["as written", "none", "3 frames", "junk before", "ID3 before"])
def test_an_mp3_is_read_to_its_end(tmp_path, mode, header):
    loud = np.linspace(0, 1, 9 * 44_100) ** 2
    noise = np.random.default_rng(0).normal(0, 0.2, len(loud)).clip(-1, 1)
    path = tmp_path / "a.mp3"
    write(path, loud * noise, 44_100, bitrate_mode=mode, compression_level=0.5)
    content = path.read_bytes()
    place = max(content.find(b"Xing"), content.find(b"Info"))
    assert place > 0
    if header == "none":
        content = overwritten(content, (place, bytes(4)))
    elif header == "3 frames":
        content = overwritten(content, (place + 8, (3).to_bytes(4, "big")))
    elif header == "junk before":
        content = bytes(5_000) + content
    elif header == "ID3 before":
        content = b"ID3\3\0\0\0\0\x10\0" + bytes(2_048) + content
    path.write_bytes(content)
    waveform, _ = read_audio(path)
    assert len(waveform) / 44_100 == pytest.approx(9.0, abs=0.1)
    assert waveform[-44_100:].std() > 10 * waveform[:44_100].std()


def test_damage_is_told(tmp_path, stored):
    content = stored("FLAC")
    noise = np.random.default_rng(0).bytes(500)
    with pytest.warns(UserWarning, match="lie is damaged: a part of it cannot be decoded"):
        rest = read_back(tmp_path, overwritten(content, (len(content) // 2, noise)))
    assert 3 * SAMPLE_RATE < len(rest) < 5 * SAMPLE_RATE


def test_any_damage_ends_in_a_clip_or_a_sentence(tmp_path):
    rng = np.random.default_rng(0)
    for suffix, (container, codec, rate) in WRITTEN.items():
        content = encode(tmp_path / "a", container, codec, chirp(2, rate), rate).read_bytes()
        for reach in (60, 400, len(content)):
            changes = [(int(rng.integers(reach)), rng.bytes(1)) for _ in range(6)]
            path = tmp_path / f"damaged{suffix}"
            path.write_bytes(overwritten(content, *changes)[: len(content) - int(rng.integers(50))])
            with warnings.catch_warnings(), suppress(AudioError):
                warnings.simplefilter("ignore")
                assert load_clip(path).seconds <= 10.24


# Channels


@pytest.mark.parametrize("rate", [16_000, 44_100])
@pytest.mark.parametrize("level", [0.0, 0.003])
@pytest.mark.parametrize(("channels", "place"), [(2, 1), (6, 2), (6, 5)])
def test_the_channel_that_has_the_sound_is_taken_and_told(channels, place, level, rate):
    waveform = level * np.random.default_rng(0).uniform(-1, 1, (2 * rate, channels))
    waveform[:, place] = 0.2 + tone(2.0, 1_000.0, rate, level=0.1)
    with pytest.warns(UserWarning, match=f"lecture: channel {place} is used, because channel 0"):
        clip = Clip.from_waveform(waveform, rate, name="lecture")
    expected = Clip.from_waveform(waveform[:, place], rate)
    np.testing.assert_array_equal(clip.waveform, expected.waveform)


@pytest.mark.parametrize("level", [0.02, 0.2, 1.0])
@pytest.mark.parametrize("other", [1.0, 0.0, np.nan])
def test_channel_0_is_taken_without_a_word_where_it_has_sound(recwarn, level, other):
    stereo = np.stack([level * tone(level=0.1), tone(level=0.1, frequency=2_000.0)], axis=1)
    stereo[:, 1] *= min(other, 9 * level)
    stereo[50, 1] = other if np.isnan(other) else stereo[50, 1]
    assert pitch(Clip.from_waveform(stereo, SAMPLE_RATE)) == pytest.approx(440.0, abs=1.0)
    assert not recwarn.list


def test_the_channel_is_chosen_in_the_part_that_is_read(tmp_path):
    silence = np.zeros(2 * SAMPLE_RATE, np.float32)
    left = np.concatenate([tone(2.0), silence])
    right = np.concatenate([silence, tone(2.0, 2_000.0)])
    path = write(tmp_path / "talk.flac", np.stack([left, right], axis=1))
    assert pitch(load_clip(path, 0.0, 1.5)) == pytest.approx(440.0, abs=1.0)
    with pytest.warns(UserWarning, match="talk: channel 1 is used"):
        assert pitch(load_clip(path, 2.0, 1.5)) == pytest.approx(2_000.0, abs=1.0)


# Long recordings


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".mp3", ".w64"])
def test_of_a_long_recording_only_the_part_is_read(tmp_path, suffix):
    path = tmp_path / f"long{suffix}"
    minute = np.zeros(60 * 8_000, np.float32)
    with soundfile.SoundFile(path, "w", 8_000, 1) as file:
        for _ in range(19):
            file.write(minute)
        file.write(tone(60.0, 1_000.0, 8_000))
    load_clip(path, 1_141.0, 1.0)  # what is loaded once and for all is loaded here
    tracemalloc.start()
    clip = load_clip(path, 1_150.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (clip.seconds, pitch(clip)) == (10.24, pytest.approx(1_000.0, abs=0.2))
    assert peak < 8e6  # all samples would be 38 MB
    with pytest.raises(AudioError, match="is longer than"):
        load_clip(path)


def test_no_more_is_decoded_than_is_asked_for(tmp_path, monkeypatch):
    rate = 48_000
    path = encode(tmp_path / "a.webm", "webm", "libopus", np.tile(chirp(60, rate), 4), rate)
    decoded = []
    samples = audio._samples
    monkeypatch.setattr(
        audio, "_samples", lambda frame: decoded.append(frame.samples) or samples(frame)
    )
    read_audio(path, 200.0, 2.0)
    assert sum(decoded) / rate < 2.1


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


BAD = {
    "nothing": lambda path: None,
    "a folder": lambda path: path.mkdir(),
    "no audio": lambda path: path.write_bytes(b"this is a letter, not a sound"),
    "silence": lambda path: write(path, np.zeros(SAMPLE_RATE)),
    "an instant": lambda path: write(path, tone(0.1)),
    "NaN": lambda path: write(path, np.full(SAMPLE_RATE, np.nan), subtype="FLOAT"),
}


@pytest.mark.parametrize("make", BAD.values(), ids=BAD)
def test_what_cannot_be_used_is_refused_in_a_sentence(tmp_path, make):
    make(tmp_path / "a.wav")
    with pytest.raises(AudioError) as error:
        load_clip(tmp_path / "a.wav")
    assert "\n" not in str(error.value)


def test_a_remark_is_one_plain_sentence(tmp_path, capfd):
    stereo = np.stack([0 * tone(), tone()], axis=1)
    code = "from helpers.audio import load_clip; load_clip('a.wav')"
    write(tmp_path / "a.wav", stereo)
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=environment)
    assert capfd.readouterr().err == (
        "a: channel 1 is used, because channel 0 holds silence or hiss beside it.\n"
    )


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg"])
def test_a_full_disk_is_told_and_what_was_saved_is_kept(tmp_path, suffix):
    resource = pytest.importorskip("resource")
    first, path = Clip(tone(2.0), "first"), tmp_path / f"a{suffix}"
    content = save_clip(first, path).read_bytes()
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 3 * SAMPLE_RATE).astype(np.float32)
    size = save_clip(Clip(noise, "noise"), tmp_path / f"b{suffix}").stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for room in (0, 1, 100, size // 2, size - 1):
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
        try:
            with pytest.raises(StorageError, match="is the disk full"):
                save_clip(Clip(noise, "noise"), path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert path.read_bytes() == content


@pytest.mark.parametrize("name", ["a", "a.txt", "a.mp3", ".wav"])
def test_a_clip_is_saved_in_a_format_that_is_named(tmp_path, name):
    with pytest.raises(AudioError, match="names no format of audio: end it with .wav"):
        save_clip(Clip(tone(), "a"), tmp_path / name)


def test_a_clip_that_is_no_sound_is_not_saved(tmp_path):
    with pytest.raises(AudioError, match="NaN or infinite samples"):
        save_clip(Clip(tone() * np.float32(np.nan), "a"), tmp_path / "a.wav")


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


# The recording as it came


def stereo(sample_rate=44_100, seconds=1.0):
    """Two tones, the right one half as loud, with an offset: (samples, 2)."""
    left, right = (tone(seconds, f, sample_rate) for f in (440.0, 12_000.0))
    return np.stack([left, 0.5 * right + 0.1], 1).astype(np.float32)


def test_a_clip_keeps_the_recording_with_its_rate_and_channels():
    samples = stereo()
    clip = Clip.from_waveform(samples, 44_100)
    kept, sample_rate = clip.sound
    assert sample_rate == 44_100
    assert np.abs(kept).max() == pytest.approx(0.5)
    assert kept.mean(0) == pytest.approx(np.zeros(2), abs=1e-5)
    centred = samples - samples.mean(0, dtype=float)
    assert kept == pytest.approx(centred / np.abs(centred).max() / 2, abs=1e-6)
    assert np.array_equal(clip.take(44_100, 2), kept)
    assert clip.take(44_100, 1)[:, 0] == pytest.approx(kept.mean(1))
    assert clip.take(48_000, 2).shape == (48_000, 2)
    assert (clip.samples_at(44_100), clip.samples_at(SAMPLE_RATE)) == (44_100, 16_000)


@pytest.mark.parametrize("sample_rate", [8_000, 44_100])
def test_what_a_16_khz_model_takes_is_the_waveform_itself(sample_rate):
    clip = Clip.from_waveform(stereo(sample_rate), sample_rate)
    assert np.shares_memory(clip.take(SAMPLE_RATE, 1), clip.waveform)
    alone = Clip.from_waveform(stereo(sample_rate)[:, 0], sample_rate)
    assert np.array_equal(clip.waveform, alone.waveform)


def test_a_recording_that_is_the_waveform_is_kept_once():
    clip = Clip.from_waveform(tone(), SAMPLE_RATE)
    assert clip.recording is None
    assert clip.sound.sample_rate == SAMPLE_RATE
    assert clip.take(32_000, 2).shape == (32_000, 2)
    assert np.array_equal(*clip.take(32_000, 2).T)


def test_what_a_model_made_keeps_its_level_and_can_be_measured():
    made = Clip.made(Sound(0.8 * stereo(), 44_100), "made")
    assert np.array_equal(made.sound.samples, 0.8 * stereo())
    assert len(made.waveform) == SAMPLE_RATE
    assert pitch(made) == pytest.approx(440.0, abs=1.0)
    waveform = tone()
    assert Clip.made(Sound(waveform[:, None], SAMPLE_RATE), "mono").recording is None


@pytest.mark.parametrize("samples", [44_100, 44_101, 44_117, 50_003])
def test_what_was_made_of_a_recording_is_as_long_as_it_at_both_rates(samples):
    source = Clip.from_waveform(stereo(seconds=2.0)[:samples], 44_100)
    short = Clip(source.waveform[:-3], "at 16 kHz")
    for clip in (source, short):
        made = Clip.made(Sound(clip.take(44_100, 2), 44_100), "made", clip)
        assert len(made.sound.samples) == clip.samples_at(44_100)
        assert len(made.waveform) == len(clip.waveform)


def test_a_recording_is_saved_as_it_came(tmp_path):
    clip = Clip.from_waveform(stereo(), 44_100)
    waveform, sample_rate = read_audio(save_clip(clip, tmp_path / "stereo.wav"))
    assert sample_rate == 44_100
    assert waveform == pytest.approx(clip.sound.samples, abs=1e-4)


def test_a_channel_that_holds_no_numbers_is_silent():
    broken = stereo()
    broken[10, 1] = np.nan
    clip = Clip.from_waveform(broken, 44_100)
    assert np.isfinite(clip.sound.samples).all()
    assert np.abs(clip.sound.samples[:, 0]).max() == pytest.approx(0.5)


# Listening


def loudness(clip):
    return pyloudnorm.Meter(SAMPLE_RATE).integrated_loudness(clip.waveform)


def test_clips_are_brought_to_the_same_loudness():
    clips = [Clip(tone(5.0, f, level=level), "t") for f, level in ((300, 0.02), (3_000, 0.4))]
    assert [loudness(c) for c in match_loudness(clips)] == pytest.approx(
        [LISTENING_LUFS] * 2, abs=0.1
    )


@pytest.mark.parametrize("seconds", [0.4, 0.5, 1.3, 10.24])
def test_padding_is_not_heard(seconds):
    [matched] = match_loudness([Clip(tone(seconds), "tone")])
    heard = pyloudnorm.Meter(SAMPLE_RATE).integrated_loudness(matched.waveform)
    assert heard == pytest.approx(LISTENING_LUFS, abs=0.01)


def test_a_clip_below_the_shortest_block_is_measured_in_one():
    [matched] = match_loudness([Clip(tone(0.25), "tone")])
    block = np.pad(matched.waveform, (0, round(0.15 * SAMPLE_RATE)))
    heard = pyloudnorm.Meter(SAMPLE_RATE).integrated_loudness(block)
    assert heard == pytest.approx(LISTENING_LUFS, abs=0.01)


def test_a_knock_that_the_end_cuts_counts_as_long_as_it_is_heard():
    knocks = np.zeros(4 * SAMPLE_RATE, np.float32)
    for second in (0.5, 1.5, 2.5, 3.95):
        start = round(second * SAMPLE_RATE)
        knocks[start : start + 3_200] = tone(1.0)[: min(3_200, len(knocks) - start)]
    [matched] = match_loudness([Clip(knocks, "knocks")])
    meter = pyloudnorm.Meter(SAMPLE_RATE)
    assert meter.integrated_loudness(matched.waveform) == pytest.approx(LISTENING_LUFS, abs=0.01)


def test_the_channels_that_are_heard_are_measured():
    two = np.stack([tone(5.0), 0.25 * tone(5.0, 600.0)], 1)
    both = np.repeat(two[:, :1], 2, axis=1)
    for samples in (two, both, np.hstack([two, 9 * both])):  # of six channels two are played
        clip = Clip(samples[:, 0], "stereo", Sound(samples.astype(np.float32), SAMPLE_RATE))
        [matched] = match_loudness([clip], lufs=-30.0)
        played = matched.take(SAMPLE_RATE, 2)
        heard = pyloudnorm.Meter(SAMPLE_RATE).integrated_loudness(played)
        assert heard == pytest.approx(-30.0 + 10 * np.log10(2), abs=0.1)


def test_what_only_the_recording_has_is_measured_too():
    rate = 44_100
    hiss = 0.3 * np.sin(2 * np.pi * 12_000 * np.arange(5 * rate) / rate)[:, None]
    clip = Clip(tone(5.0, level=0.01), "hiss", Sound(hiss.astype(np.float32), rate))
    [matched] = match_loudness([clip])
    heard = pyloudnorm.Meter(rate).integrated_loudness(matched.sound.samples)
    assert heard == pytest.approx(LISTENING_LUFS, abs=0.1)


def test_a_recording_is_made_louder_with_its_waveform():
    clip = Clip.from_waveform(0.05 * stereo(seconds=5.0), 44_100)
    [matched] = match_loudness([clip])
    gain = matched.waveform.max() / clip.waveform.max()
    assert matched.sound.samples == pytest.approx(gain * clip.sound.samples, abs=1e-6)
    assert matched.sound.sample_rate == 44_100


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
