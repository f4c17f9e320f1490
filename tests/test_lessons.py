"""Running and storing lessons, on a lesson of three cells."""

from datetime import date

import nbformat
import pytest
from nbconvert.preprocessors import CellExecutionError

from tools import lessons

BOX = "**Before you start**\n\n| | |\n|---|---|\n| computing | ? |\n| memory | ? |"


@pytest.fixture
def path(tmp_path):
    cells = [
        nbformat.v4.new_markdown_cell(BOX),
        nbformat.v4.new_code_cell("import os\nprint(os.environ['AUDIO_EDITING_CACHE'] != '')"),
    ]
    path = tmp_path / "00_tiny.ipynb"
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"widgets": {}})
    nbformat.write(notebook, path)
    return path


def test_a_lesson_is_stored_with_outputs_and_measured_box(path, monkeypatch):
    monkeypatch.setenv("AUDIO_EDITING_CACHE", "kept")
    told = lessons.run_lesson(path)
    lesson = nbformat.read(path, as_version=4)
    assert lesson.cells[1].outputs[0].text == "True\n"
    assert lesson.cells[1].execution_count == 1
    assert "widgets" not in lesson.metadata
    assert "execution" not in lesson.cells[1].metadata
    assert f"(measured {date.today()})" in lesson.cells[0].source
    assert "GB |" in lesson.cells[0].source
    assert told.startswith("00_tiny: ")


def test_a_lesson_that_fails_is_left_as_it_was(path, monkeypatch):
    monkeypatch.setenv("AUDIO_EDITING_CACHE", "kept")
    lesson = nbformat.read(path, as_version=4)
    lesson.cells[1].source = "1 / 0"
    nbformat.write(lesson, path)
    before = path.read_bytes()
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        lessons.run_lesson(path)
    assert path.read_bytes() == before


def test_a_lesson_without_a_box_is_refused():
    with pytest.raises(ValueError, match="no box"):
        lessons.fill_box(nbformat.v4.new_notebook(), "1 s", "1 GB")
