"""Audio players that a notebook stores with its outputs."""

from __future__ import annotations

import base64
import io
from html import escape
from typing import TYPE_CHECKING

import numpy as np
import soundfile

from helpers.audio import Clip, Sound, match_loudness

if TYPE_CHECKING:
    from IPython.display import HTML

MP3_RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 48_000, 44_100)  # Hz
HEADROOM = 0.85  # highest peak before compression, which raises peaks by a few per cent


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

    titles = checked_titles(clips, titles)
    for title, clip in zip(titles, clips, strict=True):
        if not (clip.waveform.size and np.isfinite(clip.waveform).all()):
            raise ValueError(f"{title} holds no samples, or some that are no numbers: edit again.")
    sounds = [_playable(clip) for clip in match_loudness(clips)]
    gain = HEADROOM / max(HEADROOM, *(np.abs(samples).max() for samples, _ in sounds))
    rows = [
        _row(t, gain * samples, rate) for t, (samples, rate) in zip(titles, sounds, strict=True)
    ]
    return HTML(f"<table>{''.join(rows)}</table>")


def checked_titles(clips: list[Clip], titles: list[str] | None) -> list[str]:
    """Return the titles, or the clips' names; raise a ValueError if they do not fit the clips."""
    if not clips:
        raise ValueError("There are no clips to show: give at least one.")
    if titles is None:
        return [clip.name for clip in clips]
    if len(titles) != len(clips):
        raise ValueError(f"There are {len(clips)} clips and {len(titles)} titles: give one each.")
    return titles


def _playable(clip: Clip) -> Sound:
    """Return the recording as it came, or as near to that as MP3 can."""
    samples, rate = clip.sound
    rate = rate if rate in MP3_RATES else MP3_RATES[-1]
    return Sound(clip.take(rate, min(2, samples.shape[1])), rate)


def _row(title: str, samples: np.ndarray, sample_rate: int) -> str:
    source = f"data:audio/mpeg;base64,{base64.b64encode(_mp3(samples, sample_rate)).decode()}"
    return (
        f'<tr><td style="text-align: left">{escape(title)}</td>'
        f'<td><audio controls preload="metadata" src="{source}"></audio></td></tr>'
    )


def _mp3(samples: np.ndarray, sample_rate: int) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, sample_rate, format="MP3", compression_level=0.2)
    return file.getvalue()
