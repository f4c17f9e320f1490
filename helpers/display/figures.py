"""Figures that notebooks and the evaluation show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import librosa
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

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

    Lesson: 00.
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
        _draw(axis, level - loudest)
        axis.set_title(_shown(title), loc="left", fontsize=10, parse_math=False)
        axis.set_ylabel("kHz")
    axes[0, 0].set_yticks(_bins(TICKS), [f"{kilohertz:g}" for kilohertz in TICKS])
    axes[-1, 0].set_xlabel("time in seconds")
    figure.colorbar(
        axes[0, 0].images[0], ax=axes, label="mel magnitude in dB, 0 = loudest", aspect=40
    )
    return figure


@dataclass(frozen=True)
class Strengths:
    """One method's edits of rising strength.

    Attributes
    ----------
    title : str
        What to call the method.
    knob : str
        What its strength is, for instance η.
    values : sequence of float
    edits : sequence of Clip
        One per value.

    Lesson: 04.
    """

    title: str
    knob: str
    values: Sequence[float]
    edits: Sequence[Clip]


def strength_grid(source: Clip, methods: Sequence[Strengths]) -> Figure:
    """Fig. 2: the source, and below it a row of spectrograms per method, strength rising.

    All spectrograms share their axes and one colour scale, decibels below the loudest value of
    all.

    Parameters
    ----------
    source : Clip
    methods : sequence of Strengths

    Raises
    ------
    ValueError
        If there are no methods, or a method has not as many edits as strengths.

    Lesson: 04.
    """
    if not methods or not all(method.edits for method in methods):
        raise ValueError("There are no edits to show: give at least one method with one edit.")
    for method in methods:
        if len(method.edits) != len(method.values):
            raise ValueError(
                f"{method.title} has {len(method.edits)} edits and {len(method.values)} strengths: "
                "give one each."
            )
    columns = max(len(method.edits) for method in methods)
    figure, axes = plt.subplots(
        1 + len(methods),
        columns,
        sharex=True,
        sharey=True,
        squeeze=False,
        figsize=(1.2 + 2.4 * columns, 0.8 + 1.6 * (1 + len(methods))),
        layout="constrained",
    )
    frames = source.frames
    clips = [[source], *(method.edits for method in methods)]
    levels = [[DECIBELS * c.log_mel()[0, 0, :frames].T.numpy() for c in row] for row in clips]
    loudest = max(level.max() for row in levels for level in row)
    for axis in axes.flat:
        axis.set_axis_off()
    for line, row in zip(axes, levels, strict=True):
        for axis, level in zip(line, row, strict=False):
            axis.set_axis_on()
            _draw(axis, level - loudest)
    axes[0, 0].set_title(_shown(source.name), loc="left", fontsize=9, parse_math=False)
    axes[0, 0].set_ylabel("source\nkHz", fontsize=9)
    for line, method in zip(axes[1:], methods, strict=True):
        line[0].set_ylabel(f"{_shown(method.title)}\nkHz", fontsize=9, parse_math=False)
        for axis, value in zip(line, method.values, strict=False):
            axis.set_title(
                _shown(f"{method.knob} {value:g}"), loc="left", fontsize=9, parse_math=False
            )
    axes[0, 0].set_yticks(_bins(TICKS), [f"{kilohertz:g}" for kilohertz in TICKS])
    axes[0, 0].xaxis.set_major_locator(MaxNLocator(4, integer=True, prune="upper"))
    for axis in axes[-1]:
        axis.set_xlabel("seconds", fontsize=9)
    figure.colorbar(
        axes[0, 0].images[0], ax=axes, label="mel magnitude in dB, 0 = loudest", aspect=40
    )
    return figure


@dataclass(frozen=True)
class Curves:
    """How scores change with the strength of an edit.

    Attributes
    ----------
    title, knob : str
        The method, and what its strength is.
    values : sequence of float
        Strengths, rising.
    scores : mapping of str to np.ndarray
        By the score's name an array of shape (3, strengths): low end of the interval, mean, high
        end.

    Lesson: 06.
    """

    title: str
    knob: str
    values: Sequence[float]
    scores: Mapping[str, np.ndarray]


def strength_curves(panels: Mapping[str, Sequence[Curves]]) -> Figure:
    """Fig. 4: scores against strength, a column per edit type and a row per method.

    Lines are means and bands their intervals; every panel has the same vertical axis, each its own
    horizontal one, since the methods' knobs differ.

    Parameters
    ----------
    panels : mapping of str to sequence of Curves
        By edit type.

    Raises
    ------
    ValueError
        If there are no curves.

    Lesson: 06.
    """
    titles = list(dict.fromkeys(c.title for curves in panels.values() for c in curves))
    if not titles:
        raise ValueError("There are no curves to show: give at least one method.")
    figure, axes = plt.subplots(
        len(titles),
        len(panels),
        sharey=True,
        squeeze=False,
        figsize=(1 + 3 * len(panels), 0.6 + 2.2 * len(titles)),
        layout="constrained",
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for column, (edit, several) in enumerate(panels.items()):
        for curves in several:
            axis = axes[titles.index(curves.title), column]
            axis.set_axis_on()
            for name, (low, mean, high) in curves.scores.items():
                [line] = axis.plot(curves.values, mean, "o-", label=name, markersize=3)
                axis.fill_between(curves.values, low, high, color=line.get_color(), alpha=0.2)
            axis.set_title(
                _shown(f"{edit}: {curves.title}"), loc="left", fontsize=9, parse_math=False
            )
            axis.set_xlabel(_shown(curves.knob), fontsize=9, parse_math=False)
            axis.tick_params(labelleft=True)
            axis.grid(alpha=0.3)
    drawn = next(axis for axis in axes.flat if axis.lines)
    figure.legend(*drawn.get_legend_handles_labels(), loc="outside upper right", ncols=3)
    return figure


def _shown(text: str) -> str:
    """Return a title with a box for what the font does not have, of which there are warnings."""
    font = get_font(findfont(FontProperties()))
    return "".join(c if font.get_char_index(ord(c)) else "□" for c in " ".join(text.split()))


def _draw(axis: Axes, level: np.ndarray) -> AxesImage:
    """Show levels (64, frames) in dB below the loudest."""
    return axis.imshow(
        level,
        origin="lower",
        aspect="auto",
        cmap="magma",
        vmin=-RANGE,
        vmax=0,
        interpolation="nearest",
        extent=(0, level.shape[1] / FRAMES_PER_SECOND, -0.5, N_MELS - 0.5),
    )


def _bins(kilohertz: tuple[float, ...]) -> np.ndarray:
    """Fractional indices of the mel bins centred on these frequencies."""
    centres = librosa.mel_frequencies(N_MELS + 2, fmin=0, fmax=SAMPLE_RATE / 2)[1:-1]
    return np.interp(1000 * np.array(kilohertz), centres, np.arange(N_MELS))
