"""The site on a phone, without a network: every page, every player, every equation."""

import re
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import nbformat
import pytest
from conftest import NOTEBOOKS

LESSONS = sorted(path.stem for path in NOTEBOOKS.glob("[0-9]*.ipynb"))
PHONE = {"width": 390, "height": 844}
BUSY = 180_000  # ms, for a page on a busy machine
PLAY = """
async players => {
    const heard = [];
    for (const player of players) {
        await player.play();
        player.pause();
        heard.push(player.duration);
    }
    return heard;
}
"""
DRAWN = """
async equations => {
    await window.MathJax?.startup?.promise;
    return equations.filter(equation => {
        const drawing = equation.querySelector("mjx-container svg");
        const box = drawing?.getBoundingClientRect();
        const wrong = drawing?.querySelector('[data-mml-node="merror"]');
        return box?.width > 0 && box.height > 0 && !wrong;
    }).length;
}
"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    subprocess.run(
        [sys.executable, "-m", "tools.site", "--out", out], cwd=NOTEBOOKS.parent, check=True
    )
    return out / "html"


@pytest.fixture(scope="module")
def address(html):
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=html))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def page(browser):
    """A phone's page; what goes wrong on it is collected, and has to be nothing."""
    page, wrong = browser.new_page(viewport=PHONE), []
    page.set_default_timeout(BUSY)
    page.on("requestfailed", lambda request: wrong.append(f"{request.url}: {request.failure}"))
    page.on("response", lambda r: r.status < 400 or wrong.append(f"{r.url}: {r.status}"))
    page.on("console", lambda told: told.type == "error" and wrong.append(told.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    yield page
    page.close()
    assert wrong == []


def width(page):
    return page.evaluate("document.documentElement.scrollWidth")


@pytest.mark.parametrize("name", LESSONS)
def test_a_lesson_is_heard_and_drawn(page, address, screenshots, name):
    page.goto(f"{address}/notebooks/{name}.html")
    lesson = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    outputs = [o for cell in lesson.cells for o in cell.get("outputs", [])]
    stored = sum(o.get("data", {}).get("text/html", "").count("<audio") for o in outputs)
    durations = page.locator("audio").evaluate_all(PLAY)
    assert len(durations) == stored > 0
    assert all(0.25 < duration < 60 for duration in durations)
    assert page.locator(".math").evaluate_all(DRAWN) == page.locator(".math").count() > 0
    page.screenshot(path=screenshots / f"{name}.png")
    assert width(page) == PHONE["width"]
    assert "SOLUTION" not in page.content()


def test_no_other_page_fails_or_scrolls_sideways(page, html, address):
    others = [
        p for p in sorted(html.rglob("*.html")) if p.parent.name not in ("notebooks", "_static")
    ]
    assert len(others) > 60
    for path in others:
        page.goto(f"{address}/{path.relative_to(html)}")
        assert page.locator(".math").evaluate_all(DRAWN) == page.locator(".math").count(), path
        assert width(page) == PHONE["width"], path


def test_lessons_and_reference_lead_to_each_other(page, address):
    page.goto(f"{address}/notebooks/00_quickstart.html")
    page.locator("a.sphinx-codeautolink-a", has_text="synthesise").first.click()
    page.wait_for_url(
        re.compile(r"/api/helpers\.sounds\.foley\.html#helpers\.sounds\.foley\.synthesise$")
    )
    function = page.locator("dl", has=page.locator('[id="helpers.sounds.foley.synthesise"]'))
    function.get_by_role("link", name="Quickstart").click()
    page.wait_for_url(re.compile(r"/notebooks/00_quickstart\.html$"))
