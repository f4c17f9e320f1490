"""Figures of edits of rising strength, and of how scores change with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from helpers.audio import Clip
from helpers.display.clips import entitle, panels, shown


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
    rows = [[source], *(method.edits for method in methods)]
    size = 1.2 + 2.4 * max(map(len, rows)), 0.8 + 1.6 * len(rows)
    figure, axes = panels(rows, source.frames, size)
    entitle(axes[0, 0], source.name)
    axes[0, 0].set_ylabel("source\nkHz", fontsize=9)
    for line, method in zip(axes[1:], methods, strict=True):
        line[0].set_ylabel(f"{shown(method.title)}\nkHz", fontsize=9, parse_math=False)
        for axis, value in zip(line, method.values, strict=False):
            entitle(axis, f"{method.knob} {value:g}")
    axes[0, 0].xaxis.set_major_locator(MaxNLocator(4, integer=True, prune="upper"))
    for axis in axes[-1]:
        axis.set_xlabel("seconds", fontsize=9)
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
            entitle(axis, f"{edit}: {curves.title}")
            axis.set_xlabel(shown(curves.knob), fontsize=9, parse_math=False)
            axis.tick_params(labelleft=True)
            axis.grid(alpha=0.3)
    drawn = next(axis for axis in axes.flat if axis.lines)
    figure.legend(*drawn.get_legend_handles_labels(), loc="outside upper right", ncols=3)
    return figure
