"""The players that switch between clips, in static pages and in JupyterLab."""

import re

import nbformat
import numpy as np
import pandas as pd
import pytest
from conftest import Lab
from nbconvert import HTMLExporter
from nbformat.sign import NotebookNotary
from nbformat.v4 import new_code_cell, new_notebook, new_output
from playwright.sync_api import FrameLocator, Locator, Page, expect

from helpers.audio import SAMPLE_RATE, Clip
from helpers.display.listening import UNTRUSTED, compare, grid

SECONDS = 10.0
PITCHES = (400.0, 1_000.0, 2_500.0, 5_000.0)  # Hz: what sounds tells which clip it is
EVENTS = np.array([[0.5, 1.0], [3.0, 4.0]])
WAIT = 60_000  # ms, on a busy machine
# Listen at the loudspeakers' socket: `heard()` is the strongest frequency in Hz, 0 in silence.
LISTEN = """
const taps = [], connect = AudioNode.prototype.connect;
AudioNode.prototype.connect = function (to) {
    if (to instanceof AudioDestinationNode) {
        const tap = new AnalyserNode(this.context, {fftSize: 2048, smoothingTimeConstant: 0});
        connect.call(this, tap);
        taps.push(tap);
    }
    return connect.call(this, to);
};
window.heard = () => {
    let loudest = -60, pitch = 0;
    for (const tap of taps.slice(-2)) {
        const levels = new Float32Array(tap.frequencyBinCount);
        tap.getFloatFrequencyData(levels);
        levels.forEach((level, k) => {
            if (level > loudest) {
                loudest = level;
                pitch = k * tap.context.sampleRate / tap.fftSize;
            }
        });
    }
    return pitch;
};
"""


def tones() -> list[Clip]:
    time = np.arange(round(SECONDS * SAMPLE_RATE)) / SAMPLE_RATE
    waves = [0.3 * np.sin(2 * np.pi * pitch * time) for pitch in PITCHES]
    return [
        Clip(wave.astype(np.float32), f"{p:g} Hz") for wave, p in zip(waves, PITCHES, strict=True)
    ]


@pytest.fixture(scope="module")
def comparison() -> str:
    return compare(tones()[:2], ["source <A>", "edit & B"], EVENTS).data


@pytest.fixture(scope="module")
def several() -> str:
    source, *edits = tones()
    table = pd.DataFrame(
        {"η": [0.3, 0.3, 0.6], "start noise": [0.5, 1.0, 0.5], "target heard": [0.1, 0.5, 0.9]}
    )
    return grid(source, edits, table, EVENTS).data


@pytest.fixture
def page(browser, screenshots, request):
    """A page that may fetch nothing, whose console stays empty."""
    complaints = []
    page = browser.new_page(viewport={"width": 900, "height": 800})
    page.add_init_script(LISTEN)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("request", lambda asked: complaints.append(asked.url))
    yield page
    page.screenshot(path=screenshots / f"{request.node.name}.png")
    page.close()
    kept = re.compile(r"(data|blob|about|file):")
    assert [complaint for complaint in complaints if not kept.match(complaint)] == []


def show(page: Page, tmp_path, html: str) -> FrameLocator:
    file = tmp_path / "page.html"
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    file.write_text(f"<!doctype html>{head}{html}", encoding="utf-8")
    page.goto(file.as_uri(), timeout=WAIT)
    player = page.frame_locator("iframe")
    expect(player.locator("#play")).to_be_enabled(timeout=WAIT)
    return player


def endless(page: Page) -> None:
    """Lead the playhead back before the end, so that a slow machine has time to look."""
    page.frames[-1].evaluate("setInterval(() => { if (playing && now() > 8) move(1); }, 50)")


def at(player: FrameLocator) -> float:
    """The playhead in seconds."""
    return float(player.locator("#position").get_attribute("aria-valuenow"))


def sounding(page: Page, pitch: float) -> None:
    """Wait until a pitch is heard."""
    page.frames[-1].wait_for_function(f"Math.abs(heard() - {pitch}) < 60", timeout=WAIT)


def silent(page: Page) -> None:
    """Wait until nothing is heard, though the clip would not have ended by itself."""
    early = f"context.currentTime - zero < {SECONDS} - 0.2"
    page.frames[-1].wait_for_function(f"heard() === 0 && {early}", timeout=WAIT)


def stop(player: FrameLocator) -> float:
    player.locator("#play").press(" ")
    expect(player.locator("#play")).to_have_text("▶ Play", timeout=WAIT)
    return at(player)


def test_it_plays_and_the_playhead_moves_with_the_sound(page, tmp_path, comparison):
    player = show(page, tmp_path, comparison)
    endless(page)
    assert at(player) == 0.0
    player.locator("#play").click()
    sounding(page, PITCHES[0])
    expect(player.locator("#play")).to_have_text("■ Stop", timeout=WAIT)
    page.wait_for_timeout(500)
    where = stop(player)
    assert 0.3 < where <= SECONDS
    left = player.locator("#head").evaluate("head => parseFloat(head.style.left)")
    assert left == pytest.approx(100 * where / SECONDS, abs=0.1)
    silent(page)
    page.wait_for_timeout(300)
    assert at(player) == where


def test_a_switch_keeps_the_position(page, tmp_path, comparison):
    player = show(page, tmp_path, comparison)
    endless(page)
    player.locator("#position").press("ArrowRight")
    player.locator("#play").click()
    sounding(page, PITCHES[0])
    # One step of the page's own clock, however long the test's machine takes.
    before, after = page.frames[-1].evaluate("[now(), (choose(1), now())]")
    assert 0.25 <= before <= after < before + 0.05
    sounding(page, PITCHES[1])
    assert page.frames[-1].evaluate("now()") >= after
    expect(player.get_by_role("radio", name="edit & B")).to_have_attribute("aria-checked", "true")
    expect(player.locator("#name")).to_have_text("edit & B")
    expect(player.get_by_role("img", name="Spectrogram of edit & B")).to_be_visible()
    expect(player.get_by_role("img", name="Spectrogram of source <A>")).to_be_hidden()
    where = stop(player)
    player.get_by_role("radio", name="source <A>").click()
    assert at(player) == where
    expect(player.locator("#play")).to_have_text("▶ Play")


def test_what_sounds_is_what_the_playhead_shows(page, tmp_path):
    time = np.arange(round(SECONDS * SAMPLE_RATE)) / SAMPLE_RATE
    rising = 0.3 * np.sin(2 * np.pi * (1_000 + 150 * time) * time)  # 1,000 Hz + 300 Hz a second
    clips = [tones()[0], Clip(rising.astype(np.float32), "rising")]
    player = show(page, tmp_path, compare(clips).data)
    endless(page)
    in_step = "chosen === 1 && Math.abs(heard() - 1_000 - 300 * now()) < 80"
    page.frames[-1].evaluate("move(3)")
    player.locator("#play").click()
    sounding(page, PITCHES[0])
    page.keyboard.press("2")  # while it plays
    page.frames[-1].wait_for_function(in_step, timeout=WAIT)
    page.frames[-1].evaluate("move(6)")
    page.frames[-1].wait_for_function(f"now() > 6.2 && {in_step}", timeout=WAIT)


def test_keys_do_all_that_the_mouse_does(page, tmp_path, comparison):
    player = show(page, tmp_path, comparison)
    endless(page)
    page.keyboard.press("Tab")
    first, second = player.get_by_role("radio").all()
    expect(first).to_be_focused()
    assert first.evaluate("e => getComputedStyle(e).outlineStyle") == "solid"
    page.keyboard.press("ArrowDown")
    expect(second).to_be_focused()
    expect(second).to_have_attribute("aria-checked", "true")
    page.keyboard.press("1")
    expect(first).to_have_attribute("aria-checked", "true")
    page.keyboard.press("3")  # there is none
    expect(first).to_have_attribute("aria-checked", "true")
    for key, position in (("ArrowRight", 0.25), ("ArrowRight", 0.5), ("ArrowLeft", 0.25)):
        page.keyboard.press(key)
        assert at(player) == position
    page.keyboard.press(" ")
    sounding(page, PITCHES[0])
    page.keyboard.press("2")
    sounding(page, PITCHES[1])
    page.keyboard.press(" ")
    silent(page)
    page.keyboard.press("Tab")
    expect(player.locator("#play")).to_be_focused()
    page.keyboard.press("Tab")
    expect(player.get_by_role("slider", name="Position")).to_be_focused()


def test_a_click_on_the_spectrogram_moves_the_playhead(page, tmp_path, comparison):
    player = show(page, tmp_path, comparison)
    endless(page)
    box = player.locator("#position").bounding_box()
    middle = {"x": 0.5 * box["width"], "y": 20}
    player.locator("#position").click(position=middle)
    assert at(player) == pytest.approx(SECONDS / 2, abs=0.05)
    player.locator("#play").click()
    sounding(page, PITCHES[0])
    first = {"x": 0.2 * box["width"], "y": 20}
    player.locator("#position").click(position=first)
    expect(player.locator("#play")).to_have_text("■ Stop", timeout=WAIT)
    sounding(page, PITCHES[0])


def test_the_end_leads_back_to_the_beginning(page, tmp_path, comparison):
    player = show(page, tmp_path, comparison)
    page.frames[-1].evaluate(f"move({SECONDS} - 0.5)")
    player.locator("#play").click()
    expect(player.locator("#position")).to_have_attribute("aria-valuenow", "0.00", timeout=WAIT)
    expect(player.locator("#play")).to_have_text("▶ Play")


def test_a_click_on_a_cell_plays_it(page, tmp_path, several):
    player = show(page, tmp_path, several)
    endless(page)
    player.get_by_role("radio", name="η 0.3, start noise 1: target heard 0.50").click()
    sounding(page, PITCHES[2])
    expect(player.get_by_role("img", name="Spectrogram of η 0.3, start noise 1")).to_be_visible()
    page.keyboard.press("ArrowLeft")
    sounding(page, PITCHES[1])
    page.keyboard.press("ArrowDown")
    sounding(page, PITCHES[3])
    page.keyboard.press("ArrowRight")  # an empty place
    expect(player.locator("#name")).to_have_text("η 0.6, start noise 0.5: target heard 0.90")
    page.keyboard.press("1")
    sounding(page, PITCHES[0])


@pytest.mark.parametrize("kind", ["comparison", "several"])
def test_a_phone_shows_it_whole(page, tmp_path, kind, request):
    page.set_viewport_size({"width": 390, "height": 800})
    player = show(page, tmp_path, request.getfixturevalue(kind))
    player.locator("#play").click()
    expect(player.locator("#play")).to_have_text("■ Stop", timeout=WAIT)
    wide = "document.documentElement.scrollWidth <= innerWidth"
    assert page.evaluate(wide)
    assert page.frames[-1].evaluate(wide)
    page.frames[-1].wait_for_function("document.documentElement.scrollHeight <= innerHeight")


def notebook(html: str) -> nbformat.NotebookNode:
    output = new_output("display_data", {"text/html": html, "text/plain": "a player"})
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cell = new_code_cell("compare(clips)", outputs=[output])
    return new_notebook(cells=[cell], metadata={"kernelspec": kernel})


def test_it_plays_in_a_converted_notebook(page, tmp_path, comparison):
    html, _ = HTMLExporter(template_name="basic").from_notebook_node(notebook(comparison))
    player = show(page, tmp_path, html)
    player.locator("#play").click()
    sounding(page, PITCHES[0])


def open_stored(page: Page, lab: Lab, html: str, name: str, trusted: bool) -> Locator:
    """Open a stored notebook in a JupyterLab that shows nothing else; return its output."""
    stored = notebook(html)
    nbformat.write(stored, lab.folder / f"{name}.ipynb")
    if trusted:
        NotebookNotary(data_dir=str(lab.folder.parent / "data")).sign(stored)
    page.goto(f"{lab.address}/lab/workspaces/{name}/tree/{name}.ipynb?token={lab.token}")
    output = page.locator(".jp-OutputArea-output")
    expect(output).to_have_count(1, timeout=WAIT)
    return output


def test_it_plays_in_a_trusted_notebook_and_its_keys_are_its_own(
    browser, lab, comparison, screenshots
):
    with browser.new_page(viewport={"width": 1400, "height": 900}) as page:
        page.add_init_script(LISTEN)
        output = open_stored(page, lab, comparison, "trusted", trusted=True)
        player = output.frame_locator("iframe")
        expect(player.locator("#play")).to_be_enabled(timeout=WAIT)
        endless(page)
        player.locator("#play").click()
        sounding(page, PITCHES[0])
        page.keyboard.press("2")  # would make a heading of the cell
        sounding(page, PITCHES[1])
        page.screenshot(path=screenshots / "trusted.png")
        stop(player)
        expect(page.locator(".jp-CodeCell")).to_have_count(1)


def test_a_notebook_that_is_not_trusted_says_what_to_do(browser, lab, comparison):
    with browser.new_page() as page:
        output = open_stored(page, lab, comparison, "untrusted", trusted=False)
        expect(output).to_have_text(UNTRUSTED, timeout=WAIT)
        expect(output.locator("iframe")).to_have_count(0)


def test_widgets_show_it(browser, lab, comparison):
    (lab.folder / "player.html").write_text(comparison, encoding="utf-8")
    show = "from ipywidgets import HTML\nHTML(open('player.html', encoding='utf-8').read())"
    kept = notebook("")
    kept.cells[0].update(source=show, outputs=[])
    nbformat.write(kept, lab.folder / "widget.ipynb")
    with browser.new_page(viewport={"width": 1400, "height": 900}) as page:
        page.add_init_script(LISTEN)
        page.goto(f"{lab.address}/lab/workspaces/widget/tree/widget.ipynb?token={lab.token}")
        expect(page.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]')).to_be_visible(
            timeout=WAIT
        )
        page.locator(".jp-CodeCell .cm-content").click()
        page.keyboard.press("Control+Enter")
        player = page.frame_locator(".jp-OutputArea-output iframe")
        expect(player.locator("#play")).to_be_enabled(timeout=WAIT)
        endless(page)
        player.locator("#play").click()
        sounding(page, PITCHES[0])
