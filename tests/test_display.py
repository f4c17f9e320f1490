"""Players and figures."""

import base64
import io
import re
import warnings
from types import SimpleNamespace

import librosa
import matplotlib.pyplot as plt
import numpy as np
import pyloudnorm
import pytest
import soundfile
from tiny import tiny_clip

from helpers.audio import CLIP_SAMPLES, SAMPLE_RATE, SUFFIXES, Clip, load_clip, save_clip
from helpers.display.clips import TICKS, players, spectrograms, upload_button, uploaded_file
from helpers.display.figures import Curves, Strengths, strength_curves, strength_grid


@pytest.fixture
def clips() -> list[Clip]:
    """A loud, a quiet and a short one."""
    quiet = tiny_clip(4.0, frequency=1_000.0)
    return [
        tiny_clip(4.0),
        Clip(0.05 * quiet.waveform, "quiet <1 kHz> & far"),
        tiny_clip(2.5, frequency=2_000.0),
    ]


@pytest.fixture
def figure(clips):
    figure = spectrograms(clips)
    yield figure
    plt.close(figure)


def decoded(html: str, sample_rate: int = SAMPLE_RATE) -> list[np.ndarray]:
    """What the players play."""
    sources = re.findall(r'<audio controls [^>]*src="data:audio/mpeg;base64,([^"]+)"', html)
    sounds = [soundfile.read(io.BytesIO(base64.b64decode(s, validate=True))) for s in sources]
    assert {rate for _, rate in sounds} == {sample_rate}
    return [waveform for waveform, _ in sounds]


def test_every_player_holds_its_clip_from_start_to_end(clips):
    waveforms = decoded(players(clips).data)
    assert [len(w) for w in waveforms] == [len(clip.waveform) for clip in clips]
    for waveform, clip in zip(waveforms, clips, strict=True):
        assert np.corrcoef(waveform, clip.waveform)[0, 1] > 0.99


def test_players_are_equally_loud_and_do_not_clip(clips):
    meter = pyloudnorm.Meter(SAMPLE_RATE)
    waveforms = decoded(players(clips).data)
    loudness = [meter.integrated_loudness(w) for w in waveforms]
    assert max(loudness) - min(loudness) < 0.5
    assert max(np.abs(w).max() for w in waveforms) < 1.0


def test_clicks_do_not_clip_when_compressed():
    clicks = np.random.default_rng(0).standard_normal(4 * SAMPLE_RATE) * 1e-3
    clicks[8_000::16_000] = 1.0
    [waveform] = decoded(players([Clip.from_waveform(clicks, SAMPLE_RATE)]).data)
    assert 0.4 < np.abs(waveform).max() < 1.0


@pytest.mark.parametrize(
    ("rate", "channels", "played"), [(44_100, 2, 44_100), (22_050, 1, 22_050), (96_000, 6, 44_100)]
)
def test_a_recording_is_played_as_it_came_where_mp3_can(rate, channels, played):
    time = np.arange(4 * rate) / rate
    samples = np.stack([np.sin(2 * np.pi * 1_000 * (i + 1) * time) for i in range(channels)], 1)
    clip = Clip.from_waveform(samples, rate)
    [waveform] = decoded(players([clip]).data, played)
    assert waveform.shape == ((4 * played,) if channels == 1 else (4 * played, 2))
    left = waveform if channels == 1 else waveform[:, 0]
    assert (
        np.corrcoef(left, np.sin(2 * np.pi * 1_000 * np.arange(4 * played) / played))[0, 1] > 0.99
    )


def test_players_stand_in_one_table_under_their_titles(clips):
    html = players(clips).data
    assert html.count("<table>") == 1
    assert html.count("<tr>") == html.count("<audio ") == 3
    assert "quiet &lt;1 kHz&gt; &amp; far" in html
    assert ">edit<" in players(clips[:1], ["edit"]).data


@pytest.mark.parametrize("samples", [[np.nan], [np.inf], [-np.inf], [0.1, np.nan, 0.1], []])
@pytest.mark.parametrize("place", [0, 2])
def test_a_clip_that_cannot_be_played_is_refused(clips, samples, place):
    clips[place] = Clip(np.array(samples, np.float32), "broken")
    with pytest.raises(ValueError, match="^broken holds no samples, or some that are no numbers"):
        players(clips)


def test_ten_seconds_of_noise_stay_small():
    noise = np.random.default_rng(0).standard_normal(CLIP_SAMPLES)
    html = players([Clip.from_waveform(noise, SAMPLE_RATE)]).data
    assert len(html) < 150_000


def test_spectrograms_share_axes_and_colours(clips, figure):
    *axes, colour_bar = figure.axes
    assert len(axes) == 3
    assert {axis.get_xlim() for axis in axes} == {(0.0, 4.0)}
    assert {axis.get_ylim() for axis in axes} == {(-0.5, 63.5)}
    assert {axis.images[0].get_clim() for axis in axes} == {(-70.0, 0.0)}
    assert max(axis.images[0].get_array().max() for axis in axes) == 0.0
    assert "dB" in colour_bar.get_ylabel()


def test_spectrograms_say_what_they_show(clips, figure):
    *axes, _ = figure.axes
    assert [axis.get_title(loc="left") for axis in axes] == [clip.name for clip in clips]
    assert axes[-1].get_xlabel() == "time in seconds"
    assert {axis.get_ylabel() for axis in axes} == {"kHz"}
    assert [t.get_text() for t in axes[0].get_yticklabels()] == [f"{k:g}" for k in TICKS]


TITLES = ["costs $5", "$", "a $x^{$ b", "\\frac{", "€ η 🔔 狗", "two\nlines", "%s {x}", ""]


@pytest.mark.parametrize("title", TITLES)
def test_any_title_is_drawn_as_it_is_without_a_warning(title, clips):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        named = [Clip(clip.waveform, title) for clip in clips]
        for figure in (
            spectrograms(named, [title] * len(named)),
            strength_grid(named[0], [Strengths(title, title, [1.0], named[:1])]),
            strength_curves({title: [Curves(title, title, [1, 2], {"a": np.ones((3, 2))})]}),
        ):
            figure.savefig(io.BytesIO())
            plt.close(figure)
    expected = title.replace("\n", " ").replace("🔔", "□").replace("狗", "□")
    figure = spectrograms(clips[:1], [title])
    assert figure.axes[0].get_title(loc="left") == expected
    plt.close(figure)


def test_a_tone_lies_at_its_frequency(clips, figure):
    loudest_bin = figure.axes[1].images[0].get_array().mean(axis=1).argmax()
    tick = figure.axes[1].get_yticks()[TICKS.index(1)]
    assert abs(loudest_bin - tick) < 1
    edges = librosa.mel_frequencies(66, fmin=0, fmax=8_000)
    assert edges[loudest_bin] < 1_000 < edges[loudest_bin + 2]


@pytest.mark.parametrize("show", [players, spectrograms])
def test_titles_that_do_not_fit_are_refused(show, clips):
    with pytest.raises(ValueError, match="3 clips and 2 titles"):
        show(clips, ["one", "two"])
    with pytest.raises(ValueError, match="no clips"):
        show([])


def test_the_upload_button_offers_what_can_be_read():
    assert upload_button().accept.split(",") == list(SUFFIXES)


def chosen(name, content, version):
    """The value of a button of ipywidgets, as its versions give it."""
    if version == 7:
        return {name: {"metadata": {"name": name, "size": len(content)}, "content": content}}
    return ({"name": name, "size": len(content), "content": memoryview(content)},)


@pytest.mark.parametrize("version", [7, 8])
@pytest.mark.parametrize(
    "name", ["dog.wav", "a/b/dog.wav", "Hund, früh 🐶.wav", "🐶" * 300 + ".wav"]
)
def test_an_uploaded_recording_is_written_and_read(tmp_path, version, name):
    content = save_clip(tiny_clip(1.0), tmp_path / "clip.wav").read_bytes()
    button = SimpleNamespace(value=chosen(name, content, version))
    path = uploaded_file(button)
    assert path.read_bytes() == content
    assert path.suffix == ".wav"
    assert load_clip(path).seconds == 1.0


@pytest.mark.parametrize("value", [{}, ()])
def test_a_button_that_was_not_used_is_told(value):
    with pytest.raises(ValueError, match="No recording is chosen: choose one"):
        uploaded_file(SimpleNamespace(value=value))
