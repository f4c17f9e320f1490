"""Players that switch between clips, as the pages that they are."""

import base64
import io
import re
from html.parser import HTMLParser

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pyloudnorm
import pytest
import soundfile
from tiny import tiny_clip

from helpers.audio import CLIP_SAMPLES, SAMPLE_RATE, Clip
from helpers.display.listening import compare, grid

EVENTS = np.array([[0.5, 0.75], [2.0, 3.0]])
TITLE = 'a "quoted" <b>title</b> & $1 </script>'


class Page(HTMLParser):
    """What stands in a page: its elements by tag, and the text in each."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: dict[str, list[dict]] = {}
        self.open: list[dict] = []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        element = {**dict(attributes), "text": ""}
        self.elements.setdefault(tag, []).append(element)
        if tag not in ("img", "meta", "br"):
            self.open.append(element)

    def handle_endtag(self, tag):
        self.open.pop()

    def handle_data(self, data):
        for element in self.open:
            element["text"] += data

    def __getitem__(self, tag):
        return self.elements.get(tag, [])

    def of_class(self, name):
        return [e for several in self.elements.values() for e in several if e.get("class") == name]

    @property
    def choices(self):
        return [e for e in self["button"] if e.get("role") == "radio"]

    @property
    def sounds(self):
        return [
            soundfile.read(io.BytesIO(content(audio["src"], "audio/mpeg")))
            for audio in self["audio"]
        ]


def content(uri: str, kind: str) -> bytes:
    assert uri.startswith(f"data:{kind};base64,")
    return base64.b64decode(uri.partition(",")[2], validate=True)


def inner(output) -> Page:
    """The page in the frame."""
    [frame] = Page(output.data)["iframe"]
    return Page(frame["srcdoc"])


@pytest.fixture
def clips() -> list[Clip]:
    """A loud, a quiet, a short, and a stereo one of another rate."""
    time = np.arange(2 * 44_100) / 44_100
    sides = np.stack([np.sin(2 * np.pi * f * time) for f in (700, 900)], 1)
    return [
        tiny_clip(4.0),
        Clip(0.05 * tiny_clip(4.0, 1_000.0).waveform, "quiet"),
        tiny_clip(0.3, 2_000.0),
        Clip.from_waveform(sides, 44_100, name="stereo"),
    ]


@pytest.fixture
def table() -> pd.DataFrame:
    """Settings and scores of three edits, out of order, with a place left empty."""
    return pd.DataFrame(
        {
            "η": [0.6, 0.3, 0.3],
            "start <noise>": [0.5, 1.0, 0.5],
            "target heard": [True, False, False],
            "event recall": [0.25, np.nan, 1.0],
        }
    )


def test_every_clip_has_a_choice_a_picture_and_a_sound(clips):
    page = inner(compare(clips, ["one", "two", "three", "four"]))
    assert [choice["text"] for choice in page.choices] == ["1 one", "2 two", "3 three", "4 four"]
    assert [audio["aria-label"] for audio in page["audio"]] == ["one", "two", "three", "four"]
    for (samples, rate), clip in zip(page.sounds, clips, strict=True):
        assert len(samples) / rate == pytest.approx(clip.seconds, abs=1e-3)
    heights = {plt.imread(io.BytesIO(content(i["src"], "image/png"))).shape[0] for i in page["img"]}
    assert heights == {64}
    assert [image["style"] for image in page["img"]] == [
        "width: 100.00%",
        "width: 100.00%",
        "width: 7.50%",
        "width: 50.00%",
    ]
    assert ["hidden" in image for image in page["img"]] == [False, True, True, True]


def test_names_stand_for_titles_that_are_left_out(clips):
    assert [c["data-name"] for c in inner(compare(clips)).choices] == [c.name for c in clips]


def heard(samples: np.ndarray, rate: int) -> float:
    """LUFS, of two loudspeakers; a short sound is measured in the shortest block there is."""
    samples = samples if samples.ndim == 2 else np.stack([samples, samples], 1)
    missing = max(0, round(0.4 * rate) - len(samples))
    return pyloudnorm.Meter(rate).integrated_loudness(np.pad(samples, ((0, missing), (0, 0))))


def test_what_is_heard_is_equally_loud_and_does_not_clip(clips):
    knocks = np.zeros(4 * SAMPLE_RATE, np.float32)
    knock = tiny_clip(0.3, 600.0).waveform
    knocks[16_000 : 16_000 + len(knock)] = knock
    knocks[-800:] = knock[:800]  # the end cuts one
    sounds = inner(compare([*clips, Clip(knocks, "knocks")])).sounds
    loudness = [heard(*sound) for sound in sounds]
    assert np.ptp(loudness) < 0.5
    assert max(np.abs(samples).max() for samples, _ in sounds) < 1.0


def test_titles_are_text_wherever_they_stand(clips):
    output = compare(clips[:2], [TITLE, "two"])
    [frame] = Page(output.data)["iframe"]
    assert frame["title"] == f"Player: {TITLE}, two"
    page = inner(output)
    assert page["title"][0]["text"] == f"Player: {TITLE}, two"
    assert page.choices[0]["text"] == f"1 {TITLE}"
    assert page.choices[0]["data-name"] == page["audio"][0]["aria-label"] == TITLE
    assert page["img"][0]["alt"].startswith(f"Spectrogram of {TITLE}: 4.0 s")
    assert len(page["script"]) == 1


@pytest.mark.parametrize("several", [False, True])
def test_everything_is_labelled_and_nothing_lies_elsewhere(several, clips, table):
    output = grid(clips[0], clips[1:], table, EVENTS) if several else compare(clips, events=EVENTS)
    page = inner(output)
    for control in [*page["button"], *page["audio"]]:
        assert control.get("aria-label") or control["text"].strip()
    [slider] = [e for e in page["div"] if e.get("role") == "slider"]
    assert slider["aria-label"] == "Position in seconds"
    assert slider["tabindex"] == "0"
    assert float(slider["aria-valuemax"]) == 4.0
    assert [e["aria-label"] for e in page["div"] if e.get("role") == "radiogroup"] == ["Clip"]
    alternatives = [image["alt"] for image in page["img"]]
    assert len({*alternatives}) == len(alternatives)
    addresses = re.findall(r'(?:src|href)="(.{5})', Page(output.data)["iframe"][0]["srcdoc"])
    assert {*addresses} == {"data:"}
    assert "http" not in output.data


def test_pictures_say_what_is_strongest(clips):
    alternatives = [image["alt"] for image in inner(compare(clips)).elements["img"]]
    said = [float(re.search(r"strongest near (\d\.\d) kHz", a)[1]) for a in alternatives]
    assert said == pytest.approx([0.44, 1.0, 2.0, 0.7], abs=0.1)


def test_events_are_marked_where_they_are(clips):
    page = inner(compare(clips, events=EVENTS))
    styles = [mark["style"] for mark in page.of_class("event")]
    assert styles == ["left: 12.50%; width: 6.25%", "left: 50.00%; width: 25.00%"]
    assert "Event of the source (2)" in page.of_class("help")[0]["text"]
    assert not inner(compare(clips)).of_class("event")


def test_a_grid_stands_in_the_order_of_its_places(clips, table):
    page = inner(grid(clips[0], clips[1:], table))
    assert [(c["data-row"], c["data-column"]) for c in page.choices] == [
        ("0", "0"),
        ("1", "0"),
        ("2", "0"),
        ("2", "1"),
    ]
    assert [c["data-name"] for c in page.choices] == [
        f"source: {clips[0].name}",
        "η 0.6, start <noise> 0.5: target heard 1.00, event recall 0.25",
        "η 0.3, start <noise> 0.5: target heard 0.00, event recall 1.00",
        "η 0.3, start <noise> 1: target heard 0.00, event recall –",
    ]
    rates = [rate for _, rate in page.sounds]
    assert rates == [
        SAMPLE_RATE,
        SAMPLE_RATE,
        44_100,
        SAMPLE_RATE,
    ]  # the last edit's place is first
    assert [th["text"] for th in page["th"]] == ["η ↓start <noise> →", "0.5", "1", "0.6", "0.3"]
    assert len(page["td"]) == 4


def luminance(colour: str) -> float:
    parts = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_cells_are_brighter_where_the_first_score_is_higher_and_can_be_read():
    shares = [*np.linspace(0, 1, 41), np.nan]
    table = pd.DataFrame({"a": 0, "b": range(42), "score": shares})
    page = inner(grid(tiny_clip(0.3), [tiny_clip(0.3)] * 42, table))
    colours = [re.findall("#[0-9a-f]{6}", c["style"]) for c in page.choices[1:]]
    behind = [luminance(colour) for colour, _ in colours]
    assert behind[:-1] == sorted(behind[:-1])
    for back, (_, text) in zip(behind, colours, strict=True):
        dark, light = sorted([back, luminance(text)])
        assert (light + 0.05) / (dark + 0.05) > 4.5  # WCAG AA


def test_pages_stay_small():
    rng = np.random.default_rng(0)
    noise = [Clip.from_waveform(rng.standard_normal(CLIP_SAMPLES), SAMPLE_RATE) for _ in range(4)]
    assert len(compare(noise[:2]).data) < 220_000
    table = pd.DataFrame({"a": [0, 0, 1, 1], "b": [0, 1, 0, 1], "score": 0.5})
    assert len(grid(noise[0], noise, table).data) < 500_000


@pytest.mark.parametrize(
    "events", [[0.5, 1.0], [[1.0, 0.5]], [[0.5, 0.5]], [[0.0, np.nan]], [[1, 2, 3]]]
)
def test_events_that_are_no_windows_are_refused(events, clips):
    with pytest.raises(ValueError, match="pairs of an onset and a later offset"):
        compare(clips, events=events)


def test_clips_that_cannot_be_compared_are_refused(clips):
    with pytest.raises(ValueError, match="no clips"):
        compare([])
    with pytest.raises(ValueError, match="4 clips and 1 titles"):
        compare(clips, ["one"])
    broken = Clip(np.array([np.nan], np.float32), "broken")
    with pytest.raises(ValueError, match="^broken holds no samples"):
        compare([clips[0], broken])


def test_tables_that_make_no_grid_are_refused(clips, table):
    source, *edits = clips
    with pytest.raises(ValueError, match="2 edits and 3 rows"):
        grid(source, edits[:2], table)
    with pytest.raises(ValueError, match="two settings and a score"):
        grid(source, edits, table.iloc[:, :2])
    with pytest.raises(ValueError, match="two settings and a score"):
        grid(source, [], table.iloc[:0])
    with pytest.raises(ValueError, match="the same settings"):
        grid(source, edits, table.assign(**{"start <noise>": 0.5}))
    with pytest.raises(ValueError, match="outside 0…1"):
        grid(source, edits, table.assign(score=[0.0, 1.0, 1.01]))


def test_silence_can_be_compared(clips):
    silence = Clip(np.zeros(SAMPLE_RATE, np.float32), "silence")
    page = inner(compare([silence, clips[0]]))
    assert not page.sounds[0][0].any()
    assert page["img"][0]["alt"] == "Spectrogram of silence: 1.0 s, silent."
