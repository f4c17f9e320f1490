"""Listening side by side: one spectrogram with a playhead, and clips to switch between.

Both players are one page (``listening.html``) in an ``iframe``, whose ``srcdoc`` holds all of it:
sounds, pictures and script.  So it needs no kernel, no network and no extension, it also runs where
widgets show HTML, and its keys are not the notebook's.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex
from matplotlib.ticker import MaxNLocator
from PIL import Image

from helpers.audio import N_MELS, Clip, match_loudness
from helpers.display.clips import (
    DECIBELS,
    RANGE,
    TICKS,
    checked,
    data_uri,
    label,
    levels,
    mel_centres,
    sounds,
)

if TYPE_CHECKING:
    import pandas as pd
    from IPython.display import HTML

PAGE = Template(Path(__file__).with_suffix(".html").read_text(encoding="utf-8"))
COLOURS = 36  # one per 2 dB: a picture of few colours is small
FRAMES = 2  # that one column of a picture shows: the louder of them
HEIGHT = 320  # pixels, until the page is shown and says its own
# All that Jupyter leaves of a frame in a notebook that is not trusted.
UNTRUSTED = "A player stands here once you trust this notebook or run the cell."


def compare(
    clips: list[Clip], titles: list[str] | None = None, events: np.ndarray | None = None
) -> HTML:
    """One player for several clips: a switch changes the clip and keeps the position.

    All are equally loud, and their spectrograms share axes and colours.  Space plays and stops, 1
    to 9 and the arrows up and down choose a clip, the arrows left and right move the playhead.

    Parameters
    ----------
    clips : list of Clip
        The first is shown first.
    titles : list of str, optional
        One per clip; the clips' names by default.
    events : np.ndarray, optional
        Onsets and offsets in seconds of what is marked on all spectrograms, shape (events, 2).

    Raises
    ------
    ValueError
        If there are no clips, or not as many titles as clips, or a clip cannot be played; if
        events are no pairs of an onset and a later offset.

    Lesson: 04.
    """
    titles = checked(clips, titles)
    choices = [
        _choice(f"<b>{i}</b> {escape(title)}", title, row=i, column=0)
        for i, title in enumerate(titles, 1)
    ]
    return _player(clips, titles, f'<div class="bar">{"".join(choices)}</div>', "", events)


def grid(
    source: Clip, edits: Sequence[Clip], table: pd.DataFrame, events: np.ndarray | None = None
) -> HTML:
    """Edits as a table, one setting down and another across: a click on a cell plays it.

    It is the player of :func:`compare`, with a table to choose from: what plays is changed and the
    position kept.  In the table the arrows lead from cell to cell.

    Parameters
    ----------
    source : Clip
        What was edited; it stands above the table.
    edits : sequence of Clip
    table : pd.DataFrame
        One row per edit.  The first column is the setting that goes down, the second the one that
        goes across; the others are scores of 0…1, which stand in the cell below each other.  The
        first score is also the cell's colour.  Columns are called what the reader shall read.
    events : np.ndarray, optional
        Onsets and offsets of the source in seconds, shape (events, 2).

    Raises
    ------
    ValueError
        If the table has no score, not as many rows as there are edits, a pair of settings twice,
        or a score outside 0…1; for the reasons of :func:`compare`.

    Lesson: 04.
    """
    _check_table(table, len(edits))
    down, across, *scores = map(str, table.columns)
    rows, columns = (table.iloc[:, k].unique().tolist() for k in (0, 1))
    titles, clips = [f"source: {source.name}"], [source]
    cells = [["<td></td>"] * len(columns) for _ in rows]
    placed = [
        (rows.index(row), columns.index(column), edit, dict(zip(scores, values, strict=True)))
        for edit, (row, column, *values) in zip(
            edits, table.itertuples(index=False, name=None), strict=True
        )
    ]
    for i, j, edit, values in sorted(placed, key=lambda place: place[:2]):
        titles.append(f"{down} {label(rows[i])}, {across} {label(columns[j])}")
        clips.append(edit)
        cells[i][j] = f"<td>{_cell(titles[-1], values, i + 1, j)}</td>"
    head = "".join(f'<th scope="col">{escape(label(value))}</th>' for value in columns)
    lines = "".join(
        f'<tr><th scope="row">{escape(label(value))}</th>{"".join(line)}</tr>'
        for value, line in zip(rows, cells, strict=True)
    )
    chooser = (
        f'<div class="bar">{_choice(escape(titles[0]), titles[0], 0, 0)}</div>'
        f'<table><tr><th scope="col">{escape(down)} ↓<br>{escape(across)} →</th>{head}</tr>'
        f"{lines}</table>"
    )
    low, high = (_colours(share)[0] for share in (0.0, 1.0))
    legend = (
        "A click on a cell plays it; from a cell, the arrows lead to the next one. "
        f"In each cell: {escape(', then '.join(scores))}. Colour: {escape(scores[0])}, from"
        f'<span class="swatch" style="background: {low}"></span>0 to'
        f'<span class="swatch" style="background: {high}"></span>1. '
    )
    return _player(clips, titles, chooser, legend, events)


def _player(
    clips: list[Clip], titles: list[str], chooser: str, legend: str, events: np.ndarray | None
) -> HTML:
    """Fill the page, where ``chooser`` has one choice per clip."""
    from IPython.display import HTML  # figures and commands need no notebook

    events = _checked_events(events)
    playable, called = sounds(clips, titles), escape(f"Player: {', '.join(titles)}")
    seconds = max(clip.seconds for clip in clips)
    marks = [
        f'<div class="event" style="left: {100 * onset / seconds:.2f}%; '
        f'width: {100 * (offset - onset) / seconds:.2f}%"></div>'
        for onset, offset in events
    ]
    if marks:
        legend += f'<span class="swatch event-colour"></span>Event of the source ({len(marks)}). '
    bins = np.interp(1000 * np.array(TICKS), mel_centres(), np.arange(N_MELS))
    ticks = [t for t in MaxNLocator(6, steps=[1, 2, 5]).tick_values(0, seconds) if t <= seconds]
    page = PAGE.substitute(
        title=called,
        chooser=chooser,
        seconds=f"{seconds:.4f}",
        pictures="\n".join(_pictures(clips, titles, seconds)),
        events="\n".join(marks),
        hertz="".join(
            f'<span style="bottom: {100 * (k + 0.5) / N_MELS:.1f}%">{label(hertz)}</span>'
            for k, hertz in zip(bins, TICKS, strict=True)
        ),
        ticks="".join(f'<span style="left: {100 * t / seconds:.1f}%">{t:g}</span>' for t in ticks),
        legend=legend,
        sounds="\n".join(
            f'<p class="plain">{escape(title)} <audio controls preload="none" '
            f'aria-label="{escape(title)}" src="{sound}"></audio></p>'
            for title, sound in zip(titles, playable, strict=True)
        ),
    )
    return HTML(
        f'<div><iframe title="{called}" srcdoc="{escape(page)}" '
        f'style="width: 100%; height: {HEIGHT}px; border: 0">{UNTRUSTED}</iframe></div>'
    )


def _choice(content: str, name: str, row: int, column: int, style: str = "") -> str:
    """Return a button that chooses a clip; arrows lead from place to place."""
    return (
        f'<button type="button" role="radio" aria-checked="false" aria-label="{escape(name)}" '
        f'data-name="{escape(name)}" data-row="{row}" data-column="{column}" '
        f'style="{style}">{content}</button>'
    )


def _cell(title: str, scores: dict[str, float], row: int, column: int) -> str:
    """Return the choice of an edit, in the colour of its first score."""
    figures = [f"{score:.2f}" if np.isfinite(score) else "–" for score in scores.values()]
    spoken = ", ".join(f"{name} {figure}" for name, figure in zip(scores, figures, strict=True))
    behind, text = _colours(next(iter(scores.values())))
    style = f"background: {behind}; color: {text}"
    return _choice("<br>".join(figures), f"{title}: {spoken}", row, column, style)


def _colours(share: float) -> tuple[str, str]:
    """Return the colour of a score of 0…1, grey for a missing one, and one to write on it."""
    if not np.isfinite(share):
        return "#dddddd", "#000000"
    rgb = colormaps["cividis"](float(share))[:3]
    light = np.dot([0.2126, 0.7152, 0.0722], np.power(rgb, 2.2))  # relative luminance
    return to_hex(rgb), "#000000" if light > 0.18 else "#ffffff"


def _pictures(clips: list[Clip], titles: list[str], seconds: float) -> Iterator[str]:
    """Yield the clips' spectrograms, equally loud, on one scale of colours."""
    palette = np.round(255 * colormaps["magma"].resampled(COLOURS)(range(COLOURS))[:, :3])
    shown = levels(match_loudness(clips), max(clip.frames for clip in clips))
    for i, (clip, title, level) in enumerate(zip(clips, titles, shown, strict=True)):
        level = level[:, : clip.frames // FRAMES * FRAMES].reshape(N_MELS, -1, FRAMES).max(2)
        share = np.clip(1 + level[::-1] / RANGE, 0, 1)
        image = Image.fromarray(np.round(share * (COLOURS - 1)).astype(np.uint8))
        image.putpalette(palette.astype(np.uint8).tobytes())
        file = io.BytesIO()
        image.save(file, "PNG", optimize=True)
        strongest = mel_centres()[np.exp(level / DECIBELS).mean(1).argmax()] / 1000
        where = f"strongest near {strongest:.1f} kHz" if clip.waveform.any() else "silent"
        spoken = f"Spectrogram of {title}: {clip.seconds:.1f} s, {where}."
        yield (
            f'<img src="{data_uri("image/png", file.getvalue())}" alt="{escape(spoken)}" '
            f'style="width: {100 * clip.seconds / seconds:.2f}%"{" hidden" if i else ""}>'
        )


def _checked_events(events: np.ndarray | None) -> np.ndarray:
    """Return onsets and offsets, shape (events, 2), or raise a ValueError."""
    if events is None:
        return np.zeros((0, 2))
    events = np.asarray(events, float)
    if events.ndim != 2 or events.shape[1] != 2 or not (events[:, 0] < events[:, 1]).all():
        raise ValueError(
            "Events are pairs of an onset and a later offset in seconds: give an array of shape "
            f"(events, 2), not {events.shape}."
        )
    return events


def _check_table(table: pd.DataFrame, edits: int) -> None:
    if len(table) != edits:
        raise ValueError(f"There are {edits} edits and {len(table)} rows: give one each.")
    if len(table.columns) < 3 or not edits:
        raise ValueError("A grid needs edits and three columns: two settings and a score.")
    if table.iloc[:, :2].duplicated().any():
        raise ValueError("Two edits have the same settings: give each place one edit.")
    scores = table.iloc[:, 2:].to_numpy(float)
    if ((scores < 0) | (scores > 1)).any():
        raise ValueError("A score lies outside 0…1: give shares.")
