"""Sliders whose player and spectrogram follow (lesson 04): plain ipywidgets around one function.

It works wherever ipywidgets do (JupyterLab, Colab, VS Code), and needs no extension of its own.
"""

from __future__ import annotations

import io
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from html import escape
from threading import Lock

import matplotlib.pyplot as plt
from ipywidgets import HTML, Image, Layout, SelectionSlider, ValueWidget, VBox

from helpers.audio import Clip
from helpers.display.clips import label, players, spectrograms

KEPT = 32  # finished renders; each holds some hundred kilobytes
SYMBOLS = {"eta": "η"}
SLIDER_WIDTH = "min(100%, 500px)"


def explore(
    render: Callable[..., Clip | list[Clip]],
    sliders: Mapping[str, ValueWidget | tuple[Sequence, object]],
    reference: Clip,
) -> VBox:
    """Sliders, and below them a player and a spectrogram that follow.

    The first result is rendered before this returns.  Finished ones are kept, so that going back to
    earlier values is instant.  If ``render`` fails, the status line says why, and what was shown
    stays.

    Parameters
    ----------
    render : callable
        From one keyword argument per slider to the clip, or clips, to play.  It is called once at
        a time, but not always from the main thread.
    sliders : mapping of str to widget or tuple
        By keyword argument: any ipywidgets widget with a hashable ``value``, or the values to
        choose from and the one to begin with, which become a slider.
    reference : Clip
        What to compare with: it stands first, on the same axes and equally loud.

    Returns
    -------
    VBox
        The sliders (CSS class ``explorer-sliders``), the status line (``explorer-status``), the
        players (``explorer-players``) and the picture (``explorer-picture``).

    Raises
    ------
    ValueError
        If there is no slider, or one begins with a value that it does not offer.

    Lesson: 04.
    """
    if not sliders:
        raise ValueError("There is no slider to move: give at least one.")
    controls = {name: _control(name, slider) for name, slider in sliders.items()}
    finished: OrderedDict[tuple, tuple[str, bytes]] = OrderedDict()
    lock = Lock()  # recent front ends handle widgets beside the running cell
    status, sounds = HTML(), HTML()
    picture = Image(format="png", layout=Layout(width="100%", max_width="900px"))
    box = VBox([VBox([*controls.values()]), status, sounds, picture])
    parts = ("sliders", "status", "players", "picture")
    for widget, part in zip(box.children, parts, strict=True):
        widget.add_class(f"explorer-{part}")

    def say(text: str) -> None:  # a status line is announced by screen readers
        status.value = f'<span role="status">{escape(text)}</span>'

    def follow(change: object = None) -> None:
        with lock:
            values = {name: control.value for name, control in controls.items()}
            key, told = tuple(values.values()), "from the cache"
            if key not in finished:
                say("rendering …")
                start = time.perf_counter()
                try:
                    finished[key] = _page(render(**values), reference)
                except Exception as error:
                    say(f"this did not work: {_sentence(error)}")
                    return
                told = f"done in {time.perf_counter() - start:.1f} s"
            finished.move_to_end(key)
            if len(finished) > KEPT:
                finished.popitem(last=False)
            sounds.value, picture.value = finished[key]
            say(told)

    for control in controls.values():
        control.observe(follow, "value")
    follow()
    return box


def _page(results: Clip | list[Clip], reference: Clip) -> tuple[str, bytes]:
    """Players as HTML and spectrograms as PNG, the reference first."""
    clips = [reference, *([results] if isinstance(results, Clip) else results)]
    titles = [f"source: {reference.name}", *(clip.name for clip in clips[1:])]
    figure = spectrograms(clips, titles)
    try:
        file = io.BytesIO()
        figure.savefig(file, format="png")
    finally:
        plt.close(figure)
    return str(players(clips, titles).data), file.getvalue()


def _control(name: str, slider: ValueWidget | tuple[Sequence, object]) -> ValueWidget:
    """Make a slider of values and a start, or prepare the widget that was given."""
    shown = SYMBOLS.get(name, name.replace("_", " "))
    if isinstance(slider, tuple):
        values, start = slider
        options = [(label(value), value) for value in values]
        if start not in [value for _, value in options]:
            raise ValueError(
                f"The slider {shown} begins with {start!r}, which is not one of its values: "
                f"choose from {', '.join(text for text, _ in options)}."
            )
        slider = SelectionSlider(options=options, value=start, layout=Layout(width=SLIDER_WIDTH))
    if slider.has_trait("continuous_update"):
        slider.set_trait("continuous_update", False)
    if not getattr(slider, "description", ""):
        slider.set_trait("description", shown)
    return slider


def _sentence(error: Exception) -> str:
    """Give the first line of its message, or what kind of error it is."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
