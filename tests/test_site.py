"""What the site is made from; ``tests/browser`` opens the site itself."""

import re

import nbformat
import pytest
from test_classroom import NOTEBOOKS, REGION, graded_cells

from tools.site import BADGE, LINK, REPOSITORY, ROOT, WIDGET, relinked, write_pages


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    assert write_pages(folder) == len([p for p in folder.rglob("*") if p.is_file()])
    return folder


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_page_has_its_lessons_players_and_none_of_its_solutions(pages, name):
    lesson, page = NOTEBOOKS[name], nbformat.read(pages / f"notebooks/{name}.ipynb", as_version=4)
    nbformat.validate(page)
    assert players(page) == players(lesson) > 0
    text = (pages / f"notebooks/{name}.ipynb").read_text(encoding="utf-8")
    assert "SOLUTION" not in text
    assert not BADGE.search(text)
    assert WIDGET not in text
    source = "\n".join(cell.source for cell in page.cells)
    answers = [a for cell in graded_cells(lesson).values() for a in REGION.findall(cell.source)]
    assert answers
    assert not [answer for answer in answers if answer.strip() in source]
    assert not [c for c in graded_cells(page).values() if c.get("outputs")]


def players(notebook):
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", [])]
    return sum(o.get("data", {}).get("text/html", "").count("<audio") for o in outputs)


def test_every_link_leads_to_a_page_or_to_the_repository(pages):
    for path in [*pages.glob("*.md"), *pages.glob("docs/*.md"), *pages.glob("notebooks/*.ipynb")]:
        text = path.read_text(encoding="utf-8")
        assert all((path.parent / link).exists() for link in LINK.findall(text)), path.name
        for link in re.findall(re.escape(REPOSITORY) + r"/blob/main/([^)\s#]+)", text):
            assert (ROOT / link).exists(), f"{path.name} links {link}"


def test_a_link_stays_if_its_target_is_on_the_site():
    shown = {ROOT / "docs/scale.md"}
    text = "[a](../docs/scale.md#gpu) [b](../data/x.csv) [c](https://d.org) [e](#here)"
    assert relinked(text, ROOT / "notebooks", shown) == (
        f"[a](../docs/scale.md#gpu) [b]({REPOSITORY}/blob/main/data/x.csv) "
        "[c](https://d.org) [e](#here)"
    )


def test_every_public_module_has_a_page_of_the_reference(pages):
    for path in ROOT.glob("helpers/**/[a-z]*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        assert f"automodule:: {name}\n" in (pages / f"api/{name}.md").read_text(encoding="utf-8")


def test_the_listening_page_is_linked_where_there_is_one(tmp_path, monkeypatch):
    for name, listening in {"with": tmp_path, "without": tmp_path / "none"}.items():
        monkeypatch.setattr("tools.site.LISTENING", listening)
        write_pages(tmp_path / name)
        text = (tmp_path / name / "index.md").read_text(encoding="utf-8")
        assert ('href="listening/index.html"' in text) == (name == "with")
