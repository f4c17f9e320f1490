"""Figures that notebooks show."""

from __future__ import annotations

import librosa
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from helpers.audio import FRAMES_PER_SECOND, N_MELS, SAMPLE_RATE, Clip
from helpers.display.players import checked_titles

DECIBELS = 20 / np.log(10)  # per unit of natural logarithm
RANGE = 70.0  # dB below the loudest value that are told apart
TICKS = (0.5, 1, 2, 4)  # kHz


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
    """
    titles = checked_titles(clips, titles)
    frames = max(clip.frames for clip in clips)
    levels = [DECIBELS * clip.log_mel()[0, 0, :frames].T.numpy() for clip in clips]
    loudest = max(level.max() for level in levels)
    figure, axes = plt.subplots(
        len(clips),
        1,
        sharex=True,
        sharey=True,
        squeeze=False,
        figsize=(9, 0.8 + 1.5 * len(clips)),
        layout="constrained",
    )
    for axis, level, title in zip(axes[:, 0], levels, titles, strict=True):
        image = axis.imshow(
            level - loudest,
            origin="lower",
            aspect="auto",
            cmap="magma",
            vmin=-RANGE,
            vmax=0,
            interpolation="nearest",
            extent=(0, frames / FRAMES_PER_SECOND, -0.5, N_MELS - 0.5),
        )
        axis.set_title(title, loc="left", fontsize=10)
        axis.set_ylabel("kHz")
    axes[0, 0].set_yticks(_bins(TICKS), [f"{kilohertz:g}" for kilohertz in TICKS])
    axes[-1, 0].set_xlabel("time in seconds")
    figure.colorbar(image, ax=axes, label="mel magnitude in dB, 0 = loudest", aspect=40)
    return figure


def _bins(kilohertz: tuple[float, ...]) -> np.ndarray:
    """Fractional indices of the mel bins centred on these frequencies."""
    centres = librosa.mel_frequencies(N_MELS + 2, fmin=0, fmax=SAMPLE_RATE / 2)[1:-1]
    return np.interp(1000 * np.array(kilohertz), centres, np.arange(N_MELS))
