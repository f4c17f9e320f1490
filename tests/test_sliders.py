"""Sliders and what follows them, driven without a browser."""

import base64
import io
import re

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pytest
import soundfile
from tiny import tiny_clip

from helpers.audio import SAMPLE_RATE, Clip
from helpers.display import sliders
from helpers.display.sliders import explore

PITCHES = (250.0, 500.0, 1_000.0, 2_000.0)  # Hz


class Renderer:
    """A sine of the pitch asked for; remembers what it was asked and what the status was then."""

    def __init__(self) -> None:
        self.calls: list[dict] = []
        self.statuses: list[str] = []
        self.box = None

    def __call__(self, **values: float) -> Clip:
        self.calls.append(values)
        if self.box is not None:
            self.statuses.append(status(self.box))
        if values["pitch"] > 1_500:
            raise ValueError("The pitch is too high: choose a lower one.\nA second line.")
        return Clip(tiny_clip(1.0, values["pitch"]).waveform, f"pitch {values['pitch']:g}")


@pytest.fixture
def render() -> Renderer:
    return Renderer()


@pytest.fixture
def box(render) -> ipywidgets.VBox:
    render.box = explore(render, {"pitch": (PITCHES, 250.0)}, tiny_clip(1.0))
    return render.box


def slider(box, number=0):
    return box.children[0].children[number]


def status(box) -> str:
    return re.fullmatch(r'<span role="status">(.*)</span>', box.children[1].value)[1]


def sounds(box) -> list[np.ndarray]:
    codes = re.findall(r'src="data:audio/mpeg;base64,([^"]+)"', box.children[2].value)
    return [soundfile.read(io.BytesIO(base64.b64decode(code)))[0] for code in codes]


def picture(box) -> np.ndarray:
    return plt.imread(io.BytesIO(box.children[3].value), format="png")


def loudest_hertz(waveform: np.ndarray) -> float:
    return np.abs(np.fft.rfft(waveform)).argmax() * SAMPLE_RATE / len(waveform)


def test_it_begins_with_a_finished_render(box, render):
    assert render.calls == [{"pitch": 250.0}]
    assert re.fullmatch(r"done in \d+\.\d s", status(box))
    assert len(sounds(box)) == 2
    assert picture(box).ndim == 3
    assert "autoplay" not in box.children[2].value


def test_player_and_picture_follow_the_slider(box):
    before, players = picture(box), box.children[2].value
    slider(box).value = 1_000.0
    source, result = sounds(box)
    assert loudest_hertz(source) == pytest.approx(440, abs=5)
    assert loudest_hertz(result) == pytest.approx(1_000, abs=5)
    assert box.children[2].value != players
    assert "source: pulses" in box.children[2].value
    assert "pitch 1000" in box.children[2].value
    assert before.shape == picture(box).shape
    assert not np.array_equal(before, picture(box))


def test_going_back_is_answered_from_the_cache(box, render):
    first = box.children[2].value, box.children[3].value
    slider(box).value = 500.0
    assert len(render.calls) == 2
    slider(box).value = 250.0
    assert len(render.calls) == 2
    assert status(box) == "from the cache"
    assert (box.children[2].value, box.children[3].value) == first
    slider(box).value = 500.0
    assert len(render.calls) == 2


def test_it_says_that_it_is_rendering(box, render):
    slider(box).value = 1_000.0
    assert render.statuses == ["rendering …"]
    assert status(box).startswith("done in")


def test_an_error_is_one_sentence_and_is_not_kept(box, render):
    before = box.children[2].value, box.children[3].value
    slider(box).value = 2_000.0
    assert status(box) == "this did not work: The pitch is too high: choose a lower one."
    assert (box.children[2].value, box.children[3].value) == before
    slider(box).value = 250.0
    slider(box).value = 2_000.0
    assert [call["pitch"] for call in render.calls] == [250.0, 2_000.0, 2_000.0]


def test_an_error_at_the_start_leaves_a_usable_explorer(render):
    box = explore(render, {"pitch": (PITCHES, 2_000.0)}, tiny_clip(1.0))
    assert status(box).startswith("this did not work")
    slider(box).value = 500.0
    assert len(sounds(box)) == 2


def test_an_error_is_shown_as_text():
    def render(**values):
        raise ValueError("<b>no</b> & never")

    box = explore(render, {"pitch": (PITCHES, 250.0)}, tiny_clip(1.0))
    assert status(box) == "this did not work: &lt;b&gt;no&lt;/b&gt; &amp; never"


def test_an_error_without_words_is_named():
    def render(**values):
        raise NotImplementedError

    box = explore(render, {"pitch": (PITCHES, 250.0)}, tiny_clip(1.0))
    assert status(box) == "this did not work: NotImplementedError"


def test_the_cache_is_bounded_and_drops_what_was_used_least_recently(box, render, monkeypatch):
    monkeypatch.setattr(sliders, "KEPT", 2)
    for pitch in (500.0, 250.0, 1_000.0):  # 250 is used again, so 500 goes
        slider(box).value = pitch
    assert len(render.calls) == 3
    slider(box).value = 250.0
    assert status(box) == "from the cache"
    slider(box).value = 500.0
    assert len(render.calls) == 4


def test_every_slider_counts_and_widgets_are_taken_as_they_are(render):
    own = ipywidgets.FloatSlider(value=1.0, max=2.0, description="how loud")
    box = explore(render, {"pitch": (PITCHES, 250.0), "gain": own}, tiny_clip(1.0))
    assert slider(box, 1) is own
    own.value = 2.0
    assert render.calls == [{"pitch": 250.0, "gain": 1.0}, {"pitch": 250.0, "gain": 2.0}]
    assert own.description == "how loud"


def test_sliders_wait_until_they_are_let_go_and_have_names(render):
    own = ipywidgets.FloatSlider()
    controls = {"pitch": (PITCHES, 250.0), "eta": own, "sampling_steps": ((10, 20), 20)}
    box = explore(render, controls, tiny_clip(1.0))
    assert [s.description for s in box.children[0].children] == ["pitch", "η", "sampling steps"]
    assert not any(s.continuous_update for s in box.children[0].children)
    assert [label for label, _ in slider(box).options] == ["250", "500", "1000", "2000"]


def test_several_clips_stand_below_each_other():
    box = explore(
        lambda pitch: [tiny_clip(1.0, pitch), tiny_clip(1.0, 2 * pitch)],
        {"pitch": (PITCHES, 500.0)},
        tiny_clip(1.0),
    )
    assert [round(loudest_hertz(sound), -1) for sound in sounds(box)] == [440, 500, 1_000]


def test_no_figure_is_left_open(box):
    slider(box).value = 1_000.0
    assert plt.get_fignums() == []


def test_sliders_that_cannot_be_are_refused(render):
    with pytest.raises(ValueError, match="no slider to move"):
        explore(render, {}, tiny_clip(1.0))
    with pytest.raises(ValueError, match="begins with 300.0.*choose from 250, 500, 1000, 2000"):
        explore(render, {"pitch": (PITCHES, 300.0)}, tiny_clip(1.0))
    assert render.calls == []
