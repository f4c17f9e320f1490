"""Recordings and the log-mel front end shared by TANGO and AudioLDM.

A recording goes through four steps: its samples are read as they are stored (:func:`read_audio`),
one channel is taken (:func:`main_channel`), it is resampled to 16 kHz and its level is normalised.

The only module that knows what 16 kHz and 64 mel bins are.  The front end follows the published
one: channel 0, 16 kHz, DC removed, peak 0.5, zero-padded to 163,840 samples; STFT 1024/160 with a
periodic Hann window and reflect padding; magnitude; Slaney mel filters from 0 to 8 kHz; clamp at
1e-5; natural logarithm.
"""

from __future__ import annotations

import io
import math
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import av
import librosa
import numpy as np
import pyloudnorm
import soundfile
import torch

from helpers.storage import write_whole

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from av.container import InputContainer

SAMPLE_RATE = 16_000  # Hz
N_FFT = 1024  # samples
HOP_LENGTH = 160  # samples
N_MELS = 64
N_FRAMES = 1024
CLIP_SAMPLES = N_FRAMES * HOP_LENGTH  # 163,840
CLIP_SECONDS = CLIP_SAMPLES / SAMPLE_RATE  # 10.24
FRAMES_PER_SECOND = SAMPLE_RATE / HOP_LENGTH
LOG_FLOOR = float(np.log(1e-5))  # −11.51, the value of digital silence
PEAK = 0.5
SILENCE = 1e-4  # a recording that nowhere swings wider holds no sound
HISS = 0.1  # channel 0 holds no sound if another swings ten times (20 dB) wider
SHORTEST_SECONDS = 0.25
LISTENING_LUFS = -23.0

# What a reader may be offered to choose.  A file's content decides how it is read, not its name.
# fmt: off
SUFFIXES = (
    ".wav", ".flac", ".mp3", ".m4a", ".ogg", ".oga", ".opus", ".webm", ".mp4", ".mov", ".mkv",
    ".aac", ".aif", ".aiff", ".caf", ".au", ".w64", ".wma", ".amr", ".3gp", ".ac3", ".wv",
)
# fmt: on
# FFmpeg's names of these containers.  Others, such as playlists, could make it open other files.
CONTAINERS = "wav,w64,aiff,au,caf,flac,mp3,aac,ac3,amr,ogg,mov,matroska,asf,wv"
# How a header begins, and what in it, from where on, makes libsndfile read to the end.
UNMEASURED = {b".snd": (8, b"\xff" * 4), b"RF64": (0, b"RIFF")}
BLOCK = 2**16  # samples read at once
WARM_UP = 1.0  # seconds that a decoder is given before the part that is wanted
LONGEST_JUMP = 0.05  # seconds between two decoded frames that are no damage yet


class AudioError(ValueError):
    """A recording that cannot be used; the message says why and what to do."""


class Remark(UserWarning):
    """What was made of a recording or a prompt, for whoever gave it: one plain sentence."""


def _plainly(usual: Callable[..., str]) -> Callable[..., str]:
    def told(message: Warning | str, category: type[Warning], *place: object) -> str:
        plain = issubclass(category, Remark)
        return f"{message}\n" if plain else usual(message, category, *place)

    return told


warnings.formatwarning = _plainly(warnings.formatwarning)


class Sound(NamedTuple):
    """Samples at the rate and with the channels they came with.

    Parameters
    ----------
    samples : np.ndarray
        float32, shape (samples, channels).
    sample_rate : int
        In Hz.
    """

    samples: np.ndarray
    sample_rate: int


@dataclass(frozen=True)
class Clip:
    """A recording of at most 10.24 s: as everything here measures it, and as it came.

    Parameters
    ----------
    waveform : np.ndarray
        Mono at 16 kHz, which measures compare and most models take; float32, shape (samples,),
        within −1…1; the true length, without padding.
    name : str
        What to call it in titles and messages.
    recording : Sound, optional
        At its own rate and with all channels, where it has more than the waveform: for listening,
        and for models that take more.
    """

    waveform: np.ndarray
    name: str = "clip"
    recording: Sound | None = None

    @property
    def seconds(self) -> float:
        """True duration in seconds, padding not counted."""
        return len(self.waveform) / SAMPLE_RATE

    @property
    def frames(self) -> int:
        """Mel frames that hold the recording itself, 1…1024."""
        return min(N_FRAMES, -(-len(self.waveform) // HOP_LENGTH))

    @property
    def padded(self) -> np.ndarray:
        """The waveform zero-padded to 163,840 samples, float32."""
        return np.pad(self.waveform, (0, CLIP_SAMPLES - len(self.waveform)))

    @property
    def sound(self) -> Sound:
        """The recording as it came; without one the waveform."""
        return self.recording or Sound(self.waveform[:, None], SAMPLE_RATE)

    def samples_at(self, sample_rate: int) -> int:
        """How many samples it has at a rate in Hz."""
        samples, own = (self.waveform, SAMPLE_RATE) if sample_rate == SAMPLE_RATE else self.sound
        return round(len(samples) * sample_rate / own)

    def take(self, sample_rate: int, channels: int) -> np.ndarray:
        """Return the sound as a model takes it, float32, shape (samples, channels).

        At 16 kHz with one channel it is the waveform.  Otherwise one channel is the mean of all, a
        single one serves for several, and of too many the first are taken.
        """
        if (sample_rate, channels) == (SAMPLE_RATE, 1):
            return self.waveform[:, None]
        samples, own = self.sound
        if channels == 1:
            samples = samples.mean(1, keepdims=True)
        elif samples.shape[1] == 1:
            samples = samples.repeat(channels, axis=1)
        samples = samples[:, :channels]
        if sample_rate == own:
            return samples
        resampled = librosa.resample(samples, orig_sr=own, target_sr=sample_rate, axis=0)
        return librosa.util.fix_length(resampled, size=self.samples_at(sample_rate), axis=0)

    @classmethod
    def made(cls, sound: Sound, name: str, like: Clip | None = None) -> Clip:
        """Return what a model made as a clip, its level left as it is.

        Its waveform is as long as that of ``like``, the recording that was edited, whatever
        rounding makes of another rate.
        """
        if (sound.sample_rate, sound.samples.shape[1]) == (SAMPLE_RATE, 1):
            return cls(sound.samples[:, 0], name)
        mono = sound.samples.mean(1)
        waveform = librosa.resample(mono, orig_sr=sound.sample_rate, target_sr=SAMPLE_RATE)
        if like is not None:
            waveform = librosa.util.fix_length(waveform, size=len(like.waveform))
        return cls(waveform, name, sound)

    def log_mel(self) -> torch.Tensor:
        """Log-mel spectrogram of the padded clip, float32, shape (1, 1, 1024, 64)."""
        return log_mel(torch.from_numpy(self.padded)[None])

    @classmethod
    def from_waveform(cls, waveform: np.ndarray, sample_rate: float, *, name: str = "clip") -> Clip:
        """Turn raw samples into a normalised clip (DC removed, peak 0.5).

        Parameters
        ----------
        waveform : np.ndarray
            Shape (samples,) or (samples, channels); :func:`main_channel` says which is used.
        sample_rate : float
            In Hz; anything from 1 to 768 kHz is resampled to 16 kHz.

        Raises
        ------
        AudioError
            If it is empty, not finite, silent, shorter than 0.25 s or longer than 10.24 s.
        """
        mono = main_channel(waveform, name)
        _check_rate(sample_rate, name)
        if sample_rate != SAMPLE_RATE:
            mono = librosa.resample(mono, orig_sr=sample_rate, target_sr=SAMPLE_RATE)
        _check_length(len(mono), name)
        if len(mono) > CLIP_SAMPLES:
            raise AudioError(
                f"{name} is longer than the {CLIP_SECONDS} s that a clip holds: take a part of it, "
                "from a start in seconds."
            )
        mono = mono - mono.mean()
        mono = (mono * _gain(float(np.abs(mono).max()), name)).astype(np.float32)
        return cls(mono, name, _as_it_came(waveform, sample_rate))


def load_clip(path: str | Path, start: float | None = None, seconds: float | None = None) -> Clip:
    """Read a recording (see :func:`read_audio`), or a part of it, as one clip.

    Parameters
    ----------
    path : str or Path
    start, seconds : float, optional
        The part to read, in seconds.  With a ``start`` alone, up to 10.24 s are read.

    Raises
    ------
    AudioError
        For the reasons of :func:`read_audio` and of :meth:`Clip.from_waveform`.
    """
    if seconds is None and start is not None:
        seconds = CLIP_SECONDS
    # Of what is too long, one second more than a clip holds is read, to notice it.
    longest = CLIP_SECONDS + 1
    seconds = longest if seconds is None or seconds > longest else seconds
    waveform, sample_rate = read_audio(path, start or 0.0, seconds)
    return Clip.from_waveform(waveform, sample_rate, name=_text(Path(path).stem))


def read_audio(
    path: str | Path, start: float = 0.0, seconds: float = math.inf
) -> tuple[np.ndarray, int]:
    """Read the samples of a recording, or of a part of it, as they are stored.

    Everything that libsndfile knows (wav, aiff, caf, ogg and more) is read with it, all else (m4a,
    webm, mp4 and more) with FFmpeg's libraries.  So are FLAC and MP3: libsndfile believes the
    length in a FLAC's header and guesses that of many MP3s, where FFmpeg decodes to the end.  Of a
    long file no more than the part is read.

    Parameters
    ----------
    path : str or Path
    start : float
        Where the part begins, in seconds.
    seconds : float
        How long it is at most; to the end by default.

    Returns
    -------
    waveform : np.ndarray
        float32, shape (samples, channels), within −1…1, which files of floats may exceed.
    sample_rate : int
        In Hz.

    Warns
    -----
    Remark
        If some of the recording is damaged and left out.

    Raises
    ------
    AudioError
        If there is no such file, no sound in it that can be read, or none in the part; or if
        channels or sampling rate change on the way.
    """
    path, name = Path(path), _text(path)
    _check_file(path)
    if not (0 <= start < math.inf and seconds > 0):
        raise AudioError(
            f"start={start:g} and seconds={seconds:g} select nothing: give a start from 0 on and "
            "a length above 0."
        )
    blocks: list[np.ndarray] = []
    length = sample_rate = 0
    for block, sample_rate in _steady(path, start):
        blocks.append(block)
        length += len(block)
        if length >= seconds * sample_rate:
            break
    if not blocks:
        duration = sum(len(block) / rate for block, rate in _blocks(path, 0.0)) if start else 0.0
        if duration:
            raise AudioError(f"{name} lasts {duration:.6g} s: choose a start before that.")
        raise _soundless(path)
    return np.concatenate(blocks)[: round(min(seconds * sample_rate, length))], sample_rate


def main_channel(waveform: np.ndarray, name: str = "recording") -> np.ndarray:
    """Take the channel that has the sound: channel 0, as published, where it does.

    Parameters
    ----------
    waveform : np.ndarray
        Shape (samples,) or (samples, channels).
    name : str
        What to call it in messages.

    Returns
    -------
    np.ndarray
        float32, shape (samples,).

    Warns
    -----
    Remark
        If channel 0 swings less than a tenth (−20 dB) as wide as another, which is taken instead.

    Raises
    ------
    AudioError
        If the array is empty or no recording, or the channel holds NaN or infinite samples.
    """
    waveform = np.asarray(waveform, dtype=np.float32)
    if waveform.ndim not in (1, 2):
        raise AudioError(f"{name} has shape {waveform.shape}: give (samples, channels).")
    if waveform.size == 0:
        raise AudioError(f"{name} is empty: choose a recording that holds sound.")
    channels = waveform[:, None] if waveform.ndim == 1 else waveform
    if channels.shape[1] > channels.shape[0]:
        raise AudioError(
            f"{name} has shape {waveform.shape}, the channels first: give (samples, channels)."
        )
    return channels[:, _main(channels.min(0), channels.max(0), name)]


def _main(low: np.ndarray, high: np.ndarray, name: str) -> int:
    """Choose a channel by the lowest and the highest sample of each."""
    with np.errstate(invalid="ignore"):
        swings = high - low
    chosen = 0
    loudest = int(np.argmax(np.where(np.isfinite(swings), swings, 0)))
    if swings[loudest] > 2 * SILENCE and swings[0] < HISS * swings[loudest]:
        chosen = loudest
        warnings.warn(
            f"{name}: channel {chosen} is used, because channel 0 holds silence or hiss beside it.",
            Remark,
            stacklevel=3,
        )
    if not np.isfinite(low[chosen] + high[chosen]):
        raise AudioError(f"{name} holds NaN or infinite samples: export it again.")
    return chosen


def save_clip(clip: Clip, path: str | Path) -> Path:
    """Write a clip as 16-bit audio, as it came, whole or not at all.

    Parameters
    ----------
    clip : Clip
    path : str or Path
        Its suffix chooses the format: .wav, .flac or .ogg.

    Raises
    ------
    AudioError
        If the suffix names no format, or a sample is not a number.
    StorageError
        If the file cannot be written.
    """
    path, kind = Path(path), Path(path).suffix[1:].upper()
    if kind not in ("WAV", "FLAC", "OGG"):
        raise AudioError(f"{path} names no format of audio: end it with .wav, .flac or .ogg.")
    samples, sample_rate = clip.sound
    if not np.isfinite(samples).all():
        raise AudioError(f"{clip.name} holds NaN or infinite samples: edit again.")
    samples = np.clip(samples, -1, 1)
    write_whole(path, lambda file: soundfile.write(file, samples, sample_rate, format=kind))
    return path


def log_mel(waveform: torch.Tensor) -> torch.Tensor:
    """Natural-log mel spectrogram as TANGO and AudioLDM compute it.

    Parameters
    ----------
    waveform : torch.Tensor
        float32, shape (batch, samples), at 16 kHz, samples a multiple of 160 and above 512.

    Returns
    -------
    torch.Tensor
        float32, shape (batch, 1, samples / 160, 64), from −11.51 (silence) to about 3.  The
        STFT's one frame beyond samples / 160 is dropped, as upstream does.
    """
    magnitude = torch.stft(
        waveform,
        N_FFT,
        HOP_LENGTH,
        window=torch.hann_window(N_FFT, device=waveform.device, dtype=waveform.dtype),
        center=True,
        pad_mode="reflect",
        return_complex=True,
    ).abs()
    mel = torch.einsum("mf,bft->btm", mel_filters().to(magnitude), magnitude)
    frames = waveform.shape[-1] // HOP_LENGTH
    return mel.clamp(min=1e-5).log()[:, None, :frames]


@cache
def mel_filters() -> torch.Tensor:
    """Slaney mel filter bank, float32, shape (64, 513)."""
    filters = librosa.filters.mel(
        sr=SAMPLE_RATE, n_fft=N_FFT, n_mels=N_MELS, fmin=0, fmax=SAMPLE_RATE / 2
    )
    return torch.from_numpy(filters)


def match_loudness(clips: list[Clip], lufs: float = LISTENING_LUFS) -> list[Clip]:
    """Bring clips to the same integrated loudness (ITU-R BS.1770) for listening.

    What is heard is measured: the sound as it came, without padding.  One channel plays from both
    loudspeakers, so the loudness of two is that of one channel of their mean power.  If the common
    level would clip one of them, all are turned down together.  Silence stays as it is.
    """
    loudness = [heard_loudness(clip) for clip in clips]
    gains = [10 ** ((lufs - heard) / 20) if np.isfinite(heard) else 1.0 for heard in loudness]
    peak = max(g * float(np.abs(c.sound.samples).max()) for g, c in zip(gains, clips, strict=True))
    common = min(1.0, 0.98 / peak) if peak > 0 else 1.0

    def matched(clip: Clip, gain: float) -> Clip:
        def louder(samples: np.ndarray) -> np.ndarray:
            return (samples * gain * common).astype(np.float32)

        recording = clip.recording
        if recording is not None:
            recording = Sound(louder(recording.samples), recording.sample_rate)
        return Clip(louder(clip.waveform), clip.name, recording)

    return [*map(matched, clips, gains)]


def heard_loudness(clip: Clip) -> float:
    """Integrated loudness of a clip's sound in LUFS, −∞ for silence (ITU-R BS.1770).

    Without padding, except up to the standard's shortest block of 0.4 s; of more than two channels
    the first two.
    """
    samples, own = clip.sound
    channels, rate = min(2, samples.shape[1]), max(own, SAMPLE_RATE)
    samples = clip.take(rate, channels)
    meter = pyloudnorm.Meter(rate)
    missing = max(0, math.ceil(meter.block_size * rate) - len(samples))
    samples = np.pad(samples, ((0, missing), (0, 0)))
    return float(meter.integrated_loudness(samples)) - 10 * math.log10(channels)


def _check_file(path: Path) -> None:
    name = _text(path)
    if os.path.isdir(path):
        raise AudioError(f"{name} is a folder: name a recording in it.")
    if not os.path.isfile(path):
        raise AudioError(f"There is no file {name}: check the path.")
    if not os.access(path, os.R_OK):
        raise AudioError(f"{name} may not be read: change its permissions.")


def _soundless(path: Path) -> AudioError:
    return AudioError(
        f"{_text(path)} holds no sound that can be read: it is empty, damaged or not audio; choose "
        "another recording, or convert it to wav."
    )


def _steady(path: Path, start: float) -> Iterator[tuple[np.ndarray, int]]:
    """Yield blocks as :func:`_blocks`, as long as channels and rate stay what they are."""
    kind = None
    for block, sample_rate in _blocks(path, start):
        if kind not in (None, (block.shape[1], sample_rate)):
            raise AudioError(
                f"{_text(path)} changes channels or sampling rate on the way: convert it to wav."
            )
        kind = block.shape[1], sample_rate
        yield block, sample_rate


def _blocks(path: Path, start: float) -> Iterator[tuple[np.ndarray, int]]:
    """Yield float32 blocks (samples, channels) with their rate, by the first reader that can."""
    for decode in (_with_libsndfile, _with_ffmpeg, _without_length):
        found = False
        try:
            for block, sample_rate in decode(path, start):
                found = True
                yield block, sample_rate
        except (soundfile.SoundFileError, av.FFmpegError):
            if found:
                _warn_of_damage(path)
        if found:
            return


class _Unmeasured(io.FileIO):
    """A file whose header gives a wrong length, read as if it gave none."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.place, self.unknown = UNMEASURED.get(self.read(4), (0, b""))
        self.seek(0)

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Read on, and leave the length out."""
        first = self.tell()
        count = super().readinto(buffer)
        for i, byte in enumerate(self.unknown, self.place - first):
            if 0 <= i < count:
                memoryview(buffer)[i : i + 1] = bytes([byte])
        return count


def _without_length(path: Path, start: float) -> Iterator[tuple[np.ndarray, int]]:
    with _Unmeasured(path) as file:
        yield from _with_libsndfile(file, start)


def _with_libsndfile(path: Path | io.FileIO, start: float) -> Iterator[tuple[np.ndarray, int]]:
    try:
        sound = soundfile.SoundFile(path)
    except (TypeError, UnicodeError):  # named .raw, or by bytes that are no text
        return
    with sound:
        first = round(start * sound.samplerate)
        if sound.format == "FLAC" or sound.subtype.startswith("MPEG") or first >= sound.frames:
            return
        if sound.seekable():
            sound.seek(first)
        else:
            sound.read(first)
        while len(block := sound.read(BLOCK, dtype="float32", always_2d=True)):
            yield block, sound.samplerate


def _with_ffmpeg(path: Path, start: float) -> Iterator[tuple[np.ndarray, int]]:
    options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
    with av.open(f"file:{path}", options=options, metadata_errors="replace") as container:
        stream = container.streams.best("audio")
        if not isinstance(stream, av.AudioStream) or stream.codec_context is None:
            # video alone, or an unknown codec
            return
        frames = _frames(container, stream)
        first = next(frames, None)
        if first is None:
            return
        end = first.time or 0.0  # where the frame before ended; some containers count from later
        due, damaged = end + start, False
        if start > WARM_UP:
            container.seek(round((due - WARM_UP) * av.time_base))
        for frame in chain([first], frames):
            time = end if frame.time is None else frame.time
            if time > max(due, end + LONGEST_JUMP) and not damaged:
                damaged = True
                _warn_of_damage(path)
            end = time + frame.samples / frame.sample_rate
            late = round((due - time) * frame.sample_rate)
            if late < frame.samples:
                yield _samples(frame)[max(late, 0) :], frame.sample_rate


def _frames(container: InputContainer, stream: av.AudioStream) -> Iterator:
    for packet in container.demux(stream):
        with suppress(av.InvalidDataError):  # damaged; the next frame's time tells
            yield from packet.decode()


def _samples(frame: av.AudioFrame) -> np.ndarray:
    """Return a frame's samples as float32, shape (samples, channels)."""
    values = frame.to_ndarray()
    values = values.T if frame.format.is_planar else values.reshape(frame.samples, -1)
    if values.dtype == np.uint8:
        return values.astype(np.float32) / 128 - 1
    if values.dtype.kind == "i":
        values = values / -float(np.iinfo(values.dtype.name).min)
    return values.astype(np.float32)


def _warn_of_damage(path: Path) -> None:
    warnings.warn(
        f"{_text(path)} is damaged: a part of it cannot be decoded and is left out.",
        Remark,
        stacklevel=3,
    )


def _text(path: str | Path) -> str:
    """Return a file's name as text that can be printed and stored, whatever its bytes are."""
    return str(path).encode("utf-8", "replace").decode()


def _check_rate(sample_rate: float, name: str) -> None:
    if not 1_000 <= sample_rate <= 768_000:
        raise AudioError(f"{name} has a sample rate of {sample_rate:g} Hz: use 1 to 768 kHz.")


def _check_length(samples: int, name: str) -> None:
    if samples < SHORTEST_SECONDS * SAMPLE_RATE:
        raise AudioError(
            f"{name} lasts {samples / SAMPLE_RATE:.6g} s: use at least {SHORTEST_SECONDS} s."
        )


def _as_it_came(waveform: np.ndarray, sample_rate: float) -> Sound | None:
    """Return the samples at the level of a clip, unless they are mono at 16 kHz already."""
    samples = np.asarray(waveform, np.float32)
    samples = samples[:, None] if samples.ndim == 1 else samples
    if (sample_rate, samples.shape[1]) == (SAMPLE_RATE, 1):
        return None
    centred = samples - samples.mean(0, dtype=np.float64)
    centred = np.nan_to_num(centred, posinf=0, neginf=0)
    loud = centred * (PEAK / np.abs(centred).max())
    return Sound(loud.astype(np.float32), round(sample_rate))


def _gain(peak: float, name: str) -> float:
    if peak < SILENCE:
        raise AudioError(f"{name} is silent: choose a recording that holds sound.")
    return PEAK / peak
