"""A clip in a notebook: its player, its spectrogram, and the button that brings a recording in."""

from __future__ import annotations

import base64
import io
import tempfile
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import librosa
import matplotlib.pyplot as plt
import numpy as np
import soundfile
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font

from helpers.audio import (
    FRAMES_PER_SECOND,
    N_MELS,
    SAMPLE_RATE,
    SUFFIXES,
    Clip,
    Sound,
    match_loudness,
)

if TYPE_CHECKING:
    from IPython.display import HTML
    from ipywidgets import FileUpload

MP3_RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 48_000, 44_100)  # Hz
HEADROOM = 0.85  # highest peak before compression, which raises peaks by a few per cent
DECIBELS = 20 / np.log(10)  # per unit of natural logarithm
RANGE = 70.0  # dB below the loudest value that are told apart
TICKS = (0.5, 1, 2, 4)  # kHz


def players(clips: list[Clip], titles: list[str] | None = None) -> HTML:
    """One table of players, a row per clip, all equally loud.

    The audio travels inside the page, compressed as MP3, which every browser plays.

    Parameters
    ----------
    clips : list of Clip
    titles : list of str, optional
        One per clip; the clips' names by default.

    Raises
    ------
    ValueError
        If there are no clips, or not as many titles as clips, or a clip cannot be played.
    """
    from IPython.display import HTML  # figures and commands need no notebook

    titles = checked(clips, titles)
    rows = [
        f'<tr><td style="text-align: left">{escape(title)}</td>'
        f'<td><audio controls preload="metadata" src="{sound}"></audio></td></tr>'
        for title, sound in zip(titles, sounds(clips, titles), strict=True)
    ]
    return HTML(f"<table>{''.join(rows)}</table>")


def sounds(clips: list[Clip], titles: list[str]) -> list[str]:
    """MP3 of every clip as a data URI, all equally loud.

    Parameters
    ----------
    clips : list of Clip
    titles : list of str
        One per clip: what messages call them.

    Raises
    ------
    ValueError
        If a clip cannot be played.
    """
    for title, clip in zip(titles, clips, strict=True):
        if not (clip.waveform.size and np.isfinite(clip.waveform).all()):
            raise ValueError(f"{title} holds no samples, or some that are no numbers: edit again.")
    played = [_playable(clip) for clip in match_loudness(clips)]
    gain = HEADROOM / max(HEADROOM, *(np.abs(samples).max() for samples, _ in played))
    return [data_uri("audio/mpeg", _mp3(gain * samples, rate)) for samples, rate in played]


def data_uri(kind: str, content: bytes) -> str:
    """Return a file's content, of a kind such as ``image/png``, as an address that holds it."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def spectrograms(clips: list[Clip], titles: list[str] | None = None) -> Figure:
    """Log-mel spectrograms below each other, on the same axes and one colour scale.

    Time runs in seconds to the end of the longest clip; the 64 mel bins are labelled with their
    centre frequencies; colours are decibels below the loudest value of all clips.

    Parameters
    ----------
    clips : list of Clip
    titles : list of str, optional
        One per clip; the clips' names by default.

    Raises
    ------
    ValueError
        If there are no clips, or not as many titles as clips.

    Lesson: 00.
    """
    titles = checked(clips, titles)
    frames = max(clip.frames for clip in clips)
    figure, axes = panels([[clip] for clip in clips], frames, (9, 0.8 + 1.5 * len(clips)))
    for axis, title in zip(axes[:, 0], titles, strict=True):
        entitle(axis, title, 10)
        axis.set_ylabel("kHz")
    axes[-1, 0].set_xlabel("time in seconds")
    return figure


def panels(
    rows: Sequence[Sequence[Clip]], frames: int, size: tuple[float, float]
) -> tuple[Figure, np.ndarray]:
    """Draw spectrograms in rows, on the same axes and one colour scale.

    Parameters
    ----------
    rows : sequence of sequence of Clip
        They may differ in length.
    frames : int
        How many of each clip are shown.
    size : tuple of float
        Width and height in inches.

    Returns
    -------
    figure : Figure
    axes : np.ndarray
        Of Axes, shape (rows, longest row).
    """
    figure, axes = plt.subplots(
        len(rows),
        max(map(len, rows)),
        sharex=True,
        sharey=True,
        squeeze=False,
        figsize=size,
        layout="constrained",
    )
    flat = iter(levels([clip for row in rows for clip in row], frames))
    extent = (0, frames / FRAMES_PER_SECOND, -0.5, N_MELS - 0.5)
    look = {"origin": "lower", "aspect": "auto", "cmap": "magma", "interpolation": "nearest"}
    for axis in axes.flat:
        axis.set_axis_off()
    for line, row in zip(axes, rows, strict=True):
        for axis in line[: len(row)]:
            axis.set_axis_on()
            axis.imshow(next(flat), vmin=-RANGE, vmax=0, extent=extent, **look)
    bins = np.interp(1000 * np.array(TICKS), mel_centres(), np.arange(N_MELS))
    axes[0, 0].set_yticks(bins, [f"{kilohertz:g}" for kilohertz in TICKS])
    first = axes[0, 0].images[0]
    figure.colorbar(first, ax=axes, label="mel magnitude in dB, 0 = loudest", aspect=40)
    return figure, axes


def levels(clips: Sequence[Clip], frames: int) -> list[np.ndarray]:
    """Log-mel spectrograms in decibels below the loudest value of all of them.

    Parameters
    ----------
    clips : sequence of Clip
    frames : int
        How many of each are given.

    Returns
    -------
    list of np.ndarray
        float32, shape (64, frames), lowest frequency first.
    """
    each = [DECIBELS * clip.log_mel()[0, 0, :frames].T.numpy() for clip in clips]
    loudest = max(level.max() for level in each)
    return [level - loudest for level in each]


def mel_centres() -> np.ndarray:
    """Centre frequencies of the mel bins in Hz, float64, shape (64,)."""
    return librosa.mel_frequencies(N_MELS + 2, fmin=0, fmax=SAMPLE_RATE / 2)[1:-1]


def entitle(axis: Axes, title: str, size: float = 9) -> None:
    """Write a title over a panel, as it is."""
    axis.set_title(shown(title), loc="left", fontsize=size, parse_math=False)


def shown(text: str) -> str:
    """Return a title with a box for what the font does not have, of which there are warnings."""
    font = get_font(findfont(FontProperties()))
    return "".join(c if font.get_char_index(ord(c)) else "□" for c in " ".join(text.split()))


def label(value: object) -> str:
    """Return a setting's value as it is shown."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def checked(clips: list[Clip], titles: list[str] | None) -> list[str]:
    """Return the titles, or the clips' names; raise a ValueError if they do not fit the clips."""
    if not clips:
        raise ValueError("There are no clips to show: give at least one.")
    if titles is None:
        return [clip.name for clip in clips]
    if len(titles) != len(clips):
        raise ValueError(f"There are {len(clips)} clips and {len(titles)} titles: give one each.")
    return titles


def upload_button() -> FileUpload:
    """Return a button that offers the recordings that :func:`helpers.audio.load_clip` reads."""
    from ipywidgets import FileUpload  # figures and commands need no notebook

    return FileUpload(accept=",".join(SUFFIXES), description="Recording")


def uploaded_file(button: FileUpload) -> Path:
    """Write what was chosen last to a temporary file, and return its path.

    Parameters
    ----------
    button : FileUpload
        Of ipywidgets 8, whose value is a tuple, or of ipywidgets 7 (Colab), where it is a dict.

    Raises
    ------
    ValueError
        If nothing is chosen yet.
    """
    if not button.value:
        raise ValueError("No recording is chosen: choose one with the button.")
    if isinstance(button.value, dict):
        name, chosen = list(button.value.items())[-1]
    else:
        chosen = button.value[-1]
        name = chosen["name"]
    path = Path(tempfile.mkdtemp(), Path(name).name[-50:])
    path.write_bytes(chosen["content"])
    return path


def _playable(clip: Clip) -> Sound:
    """Return the recording as it came, or as near to that as MP3 can."""
    samples, rate = clip.sound
    rate = rate if rate in MP3_RATES else MP3_RATES[-1]
    return Sound(clip.take(rate, min(2, samples.shape[1])), rate)


def _mp3(samples: np.ndarray, sample_rate: int) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, sample_rate, format="MP3", compression_level=0.2)
    return file.getvalue()
