"""Recordings and the log-mel front end shared by TANGO and AudioLDM.

The only module that knows what 16 kHz and 64 mel bins are.  The front end follows the published
one: channel 0, 16 kHz, DC removed, peak 0.5, zero-padded to 163,840 samples; STFT 1024/160 with a
periodic Hann window and reflect padding; magnitude; Slaney mel filters from 0 to 8 kHz; clamp at
1e-5; natural logarithm.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import librosa
import numpy as np
import pyloudnorm
import soundfile
import torch

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
SHORTEST_SECONDS = 0.25
LISTENING_LUFS = -23.0
FADE_SECONDS = 0.1
KNEE = 0.9


class AudioError(ValueError):
    """A recording that cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class Clip:
    """A mono recording of at most 10.24 s at 16 kHz.

    Parameters
    ----------
    waveform : np.ndarray
        float32, shape (samples,), within −1…1; the true length, without padding.
    name : str
        What to call it in titles and messages.
    """

    waveform: np.ndarray
    name: str = "clip"

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

    def log_mel(self) -> torch.Tensor:
        """Log-mel spectrogram of the padded clip, float32, shape (1, 1, 1024, 64)."""
        return log_mel(torch.from_numpy(self.padded)[None])

    @classmethod
    def from_waveform(cls, waveform: np.ndarray, sample_rate: float, *, name: str = "clip") -> Clip:
        """Turn raw samples into a normalised clip (DC removed, peak 0.5).

        Parameters
        ----------
        waveform : np.ndarray
            Shape (samples,) or (samples, channels); channel 0 is used.
        sample_rate : float
            In Hz; anything from 1 to 768 kHz is resampled to 16 kHz.

        Raises
        ------
        AudioError
            If it is empty, not finite, silent, shorter than 0.25 s or longer than 10.24 s.
        """
        mono = _checked_mono(waveform, sample_rate, name)
        if len(mono) > CLIP_SAMPLES:
            raise AudioError(
                f"{name} lasts {len(mono) / SAMPLE_RATE:.2f} s and a clip holds {CLIP_SECONDS} s: "
                "give a start and a duration, or cut it into windows with load_windows()."
            )
        return cls(_normalised(mono, name), name)


def load_clip(path: str | Path, start: float | None = None, seconds: float | None = None) -> Clip:
    """Read a recording (wav, flac, ogg, mp3; any rate, mono or stereo) as one clip.

    Parameters
    ----------
    path : str or Path
    start, seconds : float, optional
        The part to read, in seconds.  With a ``start`` alone, up to 10.24 s are read.

    Raises
    ------
    AudioError
        If the file cannot be read as audio, or for the reasons of :meth:`Clip.from_waveform`.
    """
    waveform, sample_rate = _read(Path(path))
    if start is not None or seconds is not None:
        start = start or 0.0
        seconds = CLIP_SECONDS if seconds is None else seconds
        duration = len(waveform) / sample_rate
        if not 0 <= start < duration or seconds <= 0:
            raise AudioError(
                f"{path} lasts {duration:.2f} s: start={start:g} and seconds={seconds:g} select "
                f"nothing of it; choose a start from 0 to {duration:.2f}."
            )
        first = round(start * sample_rate)
        waveform = waveform[first : first + round(seconds * sample_rate)]
    return Clip.from_waveform(waveform, sample_rate, name=Path(path).stem)


def load_windows(path: str | Path) -> list[Clip]:
    """Read a recording of any length as consecutive clips of at most 10.24 s.

    Windows share one gain, so that they can be joined again: only silent or very short windows at
    the end are left out.

    Raises
    ------
    AudioError
        As :func:`load_clip`, except for recordings that are too long.
    """
    name = Path(path).stem
    mono = _normalised(_checked_mono(*_read(Path(path)), name), name)
    pieces = [mono[i : i + CLIP_SAMPLES] for i in range(0, len(mono), CLIP_SAMPLES)]
    while len(pieces[-1]) < SHORTEST_SECONDS * SAMPLE_RATE or np.abs(pieces[-1]).max() <= 1e-4:
        pieces.pop()
    return [Clip(piece, f"{name} {i * CLIP_SECONDS:.2f} s") for i, piece in enumerate(pieces)]


def save_clip(clip: Clip, path: str | Path) -> Path:
    """Write a clip as 16-bit audio at 16 kHz; the suffix (.wav, .flac, .ogg) chooses the format."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.clip(clip.waveform, -1, 1), SAMPLE_RATE)
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


def fade_end(clip: Clip, seconds: float = FADE_SECONDS) -> Clip:
    """Return the clip with its end faded to silence, along a quarter of a cosine.

    A clip is padded with silence.  If it stops in mid-sound, the edge is a click, and what a model
    makes of it may be louder than all the rest.
    """
    length = min(round(seconds * SAMPLE_RATE), len(clip.waveform))
    waveform = clip.waveform.copy()
    ramp = np.cos(np.pi / 2 * np.arange(1, length + 1) / max(length, 1))
    waveform[len(waveform) - length :] *= ramp.astype(np.float32)
    return Clip(waveform, clip.name)


def limit(waveform: torch.Tensor, knee: float = KNEE) -> torch.Tensor:
    """Bring what exceeds full scale below it, sample by sample, and leave the rest at its level.

    Up to the knee nothing changes; above, x → knee + (1 − knee) · tanh((|x| − knee) / (1 − knee)),
    with the sign of x, which joins smoothly and never exceeds 1.  (Division by the peak would turn
    a whole clip down for one click.)

    Parameters
    ----------
    waveform : torch.Tensor
        Shape (batch, samples).  A row within full scale, −1…1, is returned as it is.
    knee : float
        Above 0, below 1.
    """
    over = (waveform.abs() - knee).clamp(min=0)
    limited = (
        waveform.clamp(-knee, knee) + waveform.sign() * (1 - knee) * (over / (1 - knee)).tanh()
    )
    return torch.where(waveform.abs().amax(1, keepdim=True) > 1, limited, waveform)


def match_loudness(clips: list[Clip], lufs: float = LISTENING_LUFS) -> list[Clip]:
    """Bring clips to the same integrated loudness (ITU-R BS.1770) for listening.

    If the common level would clip one of them, all are turned down together.
    """
    meter = pyloudnorm.Meter(SAMPLE_RATE)
    gains = []
    for clip in clips:
        loudness = meter.integrated_loudness(clip.padded)
        gains.append(10 ** ((lufs - loudness) / 20) if np.isfinite(loudness) else 1.0)
    peak = max(
        gain * float(np.abs(clip.waveform).max()) for gain, clip in zip(gains, clips, strict=True)
    )
    common = min(1.0, 0.98 / peak) if peak > 0 else 1.0
    return [
        Clip((clip.waveform * gain * common).astype(np.float32), clip.name)
        for gain, clip in zip(gains, clips, strict=True)
    ]


def _read(path: Path) -> tuple[np.ndarray, int]:
    if not path.is_file():
        raise AudioError(f"There is no file {path}: check the path.")
    try:
        return soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise AudioError(
            f"{path} cannot be read as audio: convert it to wav, flac, ogg or mp3 first."
        ) from error


def _checked_mono(waveform: np.ndarray, sample_rate: float, name: str) -> np.ndarray:
    """Channel 0 at 16 kHz, or an AudioError."""
    waveform = np.asarray(waveform, dtype=np.float32)
    if waveform.ndim not in (1, 2):
        raise AudioError(f"{name} has shape {waveform.shape}: give (samples,) or (samples, 2).")
    if waveform.size == 0:
        raise AudioError(f"{name} is empty: choose a recording that holds sound.")
    if not 1_000 <= sample_rate <= 768_000:
        raise AudioError(f"{name} has a sample rate of {sample_rate:g} Hz: use 1 to 768 kHz.")
    mono = waveform if waveform.ndim == 1 else waveform[:, 0]
    if not np.isfinite(mono).all():
        raise AudioError(f"{name} holds NaN or infinite samples: export it again.")
    if sample_rate != SAMPLE_RATE:
        mono = librosa.resample(mono, orig_sr=sample_rate, target_sr=SAMPLE_RATE)
    if len(mono) < SHORTEST_SECONDS * SAMPLE_RATE:
        raise AudioError(
            f"{name} lasts {len(mono) / SAMPLE_RATE:.2f} s: use at least {SHORTEST_SECONDS} s."
        )
    return mono


def _normalised(mono: np.ndarray, name: str) -> np.ndarray:
    mono = mono - mono.mean()
    peak = np.abs(mono).max()
    if peak < 1e-4:
        raise AudioError(f"{name} is silent (in channel 0): choose a recording that holds sound.")
    return (mono * (PEAK / peak)).astype(np.float32)
