"""Audio players that a notebook stores with its outputs."""

from __future__ import annotations

import base64
import io
from html import escape
from typing import TYPE_CHECKING

import numpy as np
import soundfile

from helpers.audio import SAMPLE_RATE, Clip, match_loudness

if TYPE_CHECKING:
    from IPython.display import HTML

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
    waveforms = [clip.waveform for clip in match_loudness(clips)]
    gain = HEADROOM / max(HEADROOM, *(np.abs(waveform).max() for waveform in waveforms))
    rows = [_row(title, gain * w) for title, w in zip(titles, waveforms, strict=True)]
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


def _row(title: str, waveform: np.ndarray) -> str:
    source = f"data:audio/mpeg;base64,{base64.b64encode(_mp3(waveform)).decode()}"
    return (
        f'<tr><td style="text-align: left">{escape(title)}</td>'
        f'<td><audio controls preload="metadata" src="{source}"></audio></td></tr>'
    )


def _mp3(waveform: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, waveform, SAMPLE_RATE, format="MP3", compression_level=0.2)
    return file.getvalue()
