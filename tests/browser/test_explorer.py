"""Lesson 04 in JupyterLab: its sliders move, and player, picture and status follow."""

import re
import time

import pytest
from conftest import copy_lesson
from playwright.sync_api import Page, expect

FAST = {
    "embedding_steps": 3,
    "finetuning_steps": 3,
    "sampling_steps": 4,
    "explorer_steps": 4,
}
RUN = 300  # s, for the whole lesson on a busy machine
RENDER = 60_000  # ms
IDLE = '.jp-Notebook-ExecutionIndicator[data-status="idle"]'
QUEUED = re.compile(r"\[\*\]")  # the prompt of a cell that runs or is going to
WATCH = """
status => {
    window.seen = [];
    new MutationObserver(() => window.seen.push(status.textContent))
        .observe(status, {childList: true, characterData: true, subtree: true});
}
"""
CONTENT = """
async picture => {
    const bytes = await (await fetch(picture.src)).arrayBuffer();
    const digest = await crypto.subtle.digest("SHA-256", bytes);
    return Array.from(new Uint8Array(digest)).join();
}
"""


@pytest.fixture
def page(browser, lab, screenshots):
    lesson = copy_lesson("04_step3_interpolation", lab.folder, **FAST)
    page = browser.new_page(viewport={"width": 1400, "height": 1300})
    page.goto(f"{lab.address}/lab/tree/{lesson.name}?token={lab.token}")
    yield page
    page.screenshot(path=screenshots / "end.png")
    page.close()


def run_all(page: Page) -> None:
    """Run the lesson; JupyterLab forgets the request if the kernel is not quite there yet."""
    expect(page.locator(IDLE)).to_be_visible(timeout=RENDER)
    for _ in range(5):
        page.locator("#jp-MainMenu").get_by_text("Run", exact=True).click()
        page.locator(".lm-Menu-itemLabel").get_by_text("Run All Cells", exact=True).click()
        for _ in range(50):
            if page.locator(".jp-InputPrompt").filter(has_text=QUEUED).count():
                return
            page.wait_for_timeout(100)
    pytest.fail("The lesson does not begin to run.")


def wait_until_idle(page: Page) -> None:
    """Wait until the kernel has had nothing to do for two seconds."""
    idle, quiet, end = page.locator(IDLE), 0, time.monotonic() + RUN
    while quiet < 4:
        page.wait_for_timeout(500)
        assert time.monotonic() < end, "the lesson is still running"
        quiet = quiet + 1 if idle.is_visible() else 0


def scroll_to(page: Page, selector: str) -> None:
    """Scroll up to something: JupyterLab takes cells that are far away out of the page."""
    page.mouse.move(800, 700)
    for _ in range(400):
        errors = page.locator('[data-mime-type="application/vnd.jupyter.error"]')
        assert errors.all_inner_texts() == []
        if page.locator(selector).count():
            page.locator(selector).first.scroll_into_view_if_needed()
            return
        page.mouse.wheel(0, -400)
        page.wait_for_timeout(50)
    pytest.fail(f"There is no {selector} in the lesson.")


def test_the_explorer_follows_its_slider(page, screenshots):
    run_all(page)
    wait_until_idle(page)
    scroll_to(page, ".explorer-players audio")
    status, picture = page.locator(".explorer-status"), page.locator(".explorer-picture")
    source, result = page.locator(".explorer-players audio").all()
    handle = page.locator(".explorer-sliders .noUi-handle").first
    handle.scroll_into_view_if_needed()
    expect(page.locator(".explorer-sliders .widget-slider").first).to_contain_text("η")
    expect(status).to_have_text(re.compile(r"^done in \d+\.\d s$"))
    page.screenshot(path=screenshots / "explorer.png")
    first = result.get_attribute("src"), picture.evaluate(CONTENT)
    blob = picture.get_attribute("src")
    assert first[0].startswith("data:audio/mpeg;base64,")

    status.evaluate(WATCH)
    handle.focus()
    page.keyboard.press("ArrowRight")
    expect(result).not_to_have_attribute("src", first[0], timeout=RENDER)
    expect(picture).not_to_have_attribute("src", blob)
    expect(status).to_have_text(re.compile(r"^done in \d+\.\d s$"))
    assert "rendering …" in page.evaluate("window.seen")
    # Not the same bytes: both players are as loud as the more peaked of them allows.
    assert source.get_attribute("src").startswith("data:audio/mpeg;base64,")
    assert picture.evaluate(CONTENT) != first[1]
    page.screenshot(path=screenshots / "moved.png")

    page.keyboard.press("ArrowLeft")
    expect(status).to_have_text("from the cache", timeout=RENDER)
    expect(result).to_have_attribute("src", first[0])
    assert picture.evaluate(CONTENT) == first[1]
    assert page.evaluate("window.seen").count("rendering …") == 1
