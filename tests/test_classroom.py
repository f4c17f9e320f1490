"""Exercises: student versions hold no solutions, checks accept solutions and refuse stubs."""

import copy
import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbgrader.validator import Validator

import helpers
from tools.classroom import ADVICE, LESSONS, TEXT_STUB, student_version, write_student_versions

PATHS = {path.stem: path for path in sorted(LESSONS.glob("[0-9]*.ipynb"))}
NOTEBOOKS = {name: nbformat.read(path, as_version=4) for name, path in PATHS.items()}
REGION = re.compile(r"^[^\n]*BEGIN SOLUTION[^\n]*\n(.*?)^[^\n]*END SOLUTION", re.M | re.S)


def grading(cell: NotebookNode) -> dict:
    return cell.metadata.get("nbgrader", {})


def graded_cells(notebook: NotebookNode) -> dict[str, NotebookNode]:
    return {grading(cell)["grade_id"]: cell for cell in notebook.cells if grading(cell)}


def exercises(notebook: NotebookNode) -> dict[str, tuple[NotebookNode, NotebookNode]]:
    """Solution and check of every programming exercise, by the solution's identifier."""
    cells = graded_cells(notebook)
    names = [name for name, c in cells.items() if c.cell_type == "code" and grading(c)["solution"]]
    return {name: (cells[name], cells[f"check-{name}"]) for name in names}


def section(notebook: NotebookNode, title: str) -> list[NotebookNode]:
    """Cells from the heading of a section up to the next section's."""
    found, inside = [], False
    for cell in notebook.cells:
        headings = re.findall(r"^## (.+)$", cell.source, re.M)
        if cell.cell_type == "markdown" and headings:
            inside = title in headings
        if inside:
            found.append(cell)
    return found


EXERCISES = [(lesson, name) for lesson, book in NOTEBOOKS.items() for name in exercises(book)]


@pytest.fixture(scope="module")
def set_up():
    """Names that a lesson's Setup section defines; its model is loaded once for all lessons."""
    load = functools.cache(helpers.load_model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(helpers, "load_model", load)

        @functools.cache
        def names(lesson: str) -> dict:
            namespace = {"__name__": "__main__"}
            for cell in section(NOTEBOOKS[lesson], "Setup"):
                if cell.cell_type == "code":
                    exec(compile(cell.source, f"{lesson}, Setup", "exec"), namespace)
            return namespace

        yield names


@pytest.fixture(params=NOTEBOOKS)
def lesson(request) -> NotebookNode:
    return NOTEBOOKS[request.param]


def test_every_lesson_has_exercises_with_identifiers_of_their_own():
    assert {lesson for lesson, _ in EXERCISES} == set(NOTEBOOKS)
    identifiers = [
        grading(cell)["grade_id"] for book in NOTEBOOKS.values() for cell in book.cells
        if grading(cell)
    ]  # fmt: skip
    assert len(identifiers) == len(set(identifiers))
    for name, book in NOTEBOOKS.items():
        number = name.partition("_")[0]
        assert all(re.match(f"(check-)?{number}-", grade) for grade in graded_cells(book))


def test_every_exercise_has_a_solution_and_a_check(lesson):
    for solution, check in exercises(lesson).values():
        assert REGION.search(solution.source)
        assert grading(check)["grade"]
        assert not grading(check)["solution"]
        assert grading(check)["points"] > 0
        assert check.source.count("assert ") >= 2
        assert re.search(r'^print\(f?"Right: ', check.source, re.M)
    open_questions = [c for c in lesson.cells if grading(c) and c.cell_type == "markdown"]
    assert len(open_questions) <= 1
    for question in open_questions:
        assert grading(question)["grade"]
        assert grading(question)["solution"]


def test_student_version_holds_no_solution_and_no_output(lesson):
    before = copy.deepcopy(lesson)
    student = student_version(lesson)
    assert lesson == before
    nbformat.validate(student)
    text = "\n".join(cell.source for cell in student.cells)
    for cell in graded_cells(lesson).values():
        for answer in REGION.findall(cell.source):
            assert answer.strip()
            assert answer.strip() not in text
    assert "SOLUTION" not in text
    assert not any(cell.get("outputs") for cell in student.cells)
    for solution, check in exercises(student).values():
        assert ADVICE in solution.source
        assert grading(check)["locked"]
        assert grading(check)["checksum"]
    answers = [c for c in student.cells if c.cell_type == "markdown" and grading(c)]
    assert [cell.source for cell in answers] == [TEXT_STUB] * len(answers)


def test_students_versions_never_overwrite_the_lessons(tmp_path):
    with pytest.raises(ValueError, match="name another folder"):
        write_student_versions(LESSONS)
    (tmp_path / "out").write_text("a file")
    with pytest.raises(ValueError, match="name another folder"):
        write_student_versions(tmp_path / "out")


def test_student_version_differs_in_solutions_only(lesson):
    for cell, student in zip(lesson.cells, student_version(lesson).cells, strict=True):
        assert cell.source == student.source or grading(cell)["solution"]


@pytest.mark.parametrize(("lesson", "name"), EXERCISES)
def test_check_refuses_the_stub_and_accepts_the_solution(lesson, name, set_up, capsys):
    """With what the Setup section defines, and nothing else of the lesson."""

    def attempt(notebook: NotebookNode) -> None:
        names = dict(set_up(lesson))
        for cell in exercises(notebook)[name]:
            exec(compile(cell.source, f"{lesson}, {name}", "exec"), names)

    with pytest.raises(NotImplementedError, match=ADVICE):
        attempt(student_version(NOTEBOOKS[lesson]))
    capsys.readouterr()
    attempt(NOTEBOOKS[lesson])
    assert re.search("^Right: ", capsys.readouterr().out, re.M)


def test_nbgrader_validates_the_solutions(tmp_path):
    """All lessons' Setup and Exercises sections, one after the other, in one kernel."""
    first, *_ = NOTEBOOKS.values()
    cells = [
        cell
        for book in NOTEBOOKS.values()
        for title in ("Setup", "Exercises")
        for cell in section(book, title)
    ]
    together = nbformat.v4.new_notebook(metadata=first.metadata, cells=copy.deepcopy(cells))
    for number, cell in enumerate(together.cells):
        cell.id = f"cell-{number}"
    nbformat.write(together, tmp_path / "exercises.ipynb")
    assert Validator().validate(str(tmp_path / "exercises.ipynb")) == {}


def test_nbgrader_makes_an_assignment_of_a_lesson(tmp_path):
    lesson = PATHS["00_quickstart"]
    source = tmp_path / "source/quickstart"
    source.mkdir(parents=True)
    (source / lesson.name).write_bytes(lesson.read_bytes())
    command = [sys.executable, "-m", "nbgrader", "generate_assignment", "quickstart"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # finds alembic
    environment = {**os.environ, "PATH": path}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    released = nbformat.read(tmp_path / "release/quickstart" / lesson.name, as_version=4)
    assert graded_cells(released).keys() == graded_cells(NOTEBOOKS["00_quickstart"]).keys()
    assert "BEGIN SOLUTION" not in "".join(cell.source for cell in released.cells)


def test_student_versions_are_written_beside_each_other(tmp_path):
    written = write_student_versions(tmp_path / "new" / "student")
    assert [path.stem for path in written] == list(PATHS)
    assert all(nbformat.read(path, as_version=4) for path in written)
