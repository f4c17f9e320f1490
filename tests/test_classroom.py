"""Exercises: student versions hold no solutions, checks accept solutions and refuse stubs."""

import copy
import functools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbgrader.api import Gradebook
from nbgrader.validator import Validator
from traitlets.config import PyFileConfigLoader

import helpers.models
from tools import classroom
from tools.classroom import ADVICE, LESSONS, TEXT_STUB, student_version, write_student_versions
from tools.lessons import CELL_SECONDS

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


def test_student_version_differs_in_solutions_and_badge_only(lesson):
    first, *rest = zip(lesson.cells, student_version(lesson).cells, strict=True)
    assert first[0].source.startswith(f"{first[1].source}\n\n[![Open in Colab]")
    assert "colab" not in first[1].source
    for cell, student in rest:
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


def nbgrader(course: Path, *arguments: str) -> None:
    """Run nbgrader as from a shell in which the environment is not activated."""
    folder = str(Path(sys.executable).parent)
    path = [entry for entry in os.environ["PATH"].split(os.pathsep) if entry != folder]
    environment = os.environ | {"PATH": os.pathsep.join(path)}
    command = [sys.executable, "-m", "nbgrader", *arguments]
    done = subprocess.run(command, cwd=course, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def course(tmp_path) -> Path:
    """A course's folder with our settings and one assignment: 00's Setup and its exercises."""
    book = copy.deepcopy(NOTEBOOKS["00_quickstart"])
    book.cells = [book.cells[0], *section(book, "Setup"), *section(book, "Exercises")]
    (tmp_path / "source/quickstart").mkdir(parents=True)
    nbformat.write(book, tmp_path / "source/quickstart/00_quickstart.ipynb")
    shutil.copy(LESSONS.parent / "nbgrader_config.py", tmp_path)
    nbgrader(tmp_path, "generate_assignment", "quickstart")
    return tmp_path


def test_nbgrader_makes_an_assignment_and_grades_what_comes_back(course):
    name = "quickstart/00_quickstart.ipynb"
    released = nbformat.read(course / "release" / name, as_version=4)
    assert graded_cells(released).keys() == graded_cells(NOTEBOOKS["00_quickstart"]).keys()
    assert "BEGIN SOLUTION" not in "".join(cell.source for cell in released.cells)

    solved = exercises(NOTEBOOKS["00_quickstart"])
    right = {name: solution.source for name, (solution, _) in solved.items()}
    wrong = right | {"00-mix": "def mix(eta, target, optimised):\n    return target"}
    for student, answers in {"empty": {}, "right": right, "wrong": wrong}.items():
        submission = copy.deepcopy(released)
        for grade, source in answers.items():
            graded_cells(submission)[grade].source = source
        path = course / "submitted" / student / name
        path.parent.mkdir(parents=True)
        nbformat.write(submission, path)
    nbgrader(course, "autograde", "quickstart")
    with Gradebook(f"sqlite:///{course}/gradebook.db") as gradebook:
        submissions = gradebook.assignment_submissions("quickstart")
        points = {s.student.id: s.score for s in submissions}
    check = {name: grading(check)["points"] for name, (_, check) in solved.items()}
    assert points == {
        "empty": 0,
        "right": sum(check.values()),
        "wrong": sum(check.values()) - check["00-mix"],
    }


def test_nbgrader_gives_a_cell_the_time_that_lessons_take(monkeypatch):
    """As long as when we run them; and outputs are awaited longer than a player takes to send."""
    monkeypatch.setenv("PATH", "")
    config = PyFileConfigLoader("nbgrader_config.py", path=str(LESSONS.parent)).load_config()
    assert config.Execute.timeout >= CELL_SECONDS
    assert config.Execute.iopub_timeout >= 60


def test_student_versions_are_written_beside_each_other(tmp_path):
    written = write_student_versions(tmp_path / "new" / "student")
    assert [path.stem for path in written] == list(PATHS)
    assert all(nbformat.read(path, as_version=4) for path in written)


def test_student_versions_are_renewed_where_nobody_changed_them(tmp_path, monkeypatch):
    written = write_student_versions(tmp_path)
    texts = [path.read_text() for path in written]
    assert write_student_versions(tmp_path) == written
    monkeypatch.setattr(classroom, "CODE_STUB", "raise NotImplementedError('today')")
    write_student_versions(tmp_path)
    assert all("today" in path.read_text() for path in written)
    assert [path.read_text() for path in written] != texts


def answer(path: Path) -> None:
    book = nbformat.read(path, as_version=4)
    next(iter(exercises(book).values()))[0].source = "answer = 42"
    nbformat.write(book, path)


def run_it(path: Path) -> None:
    book = nbformat.read(path, as_version=4)
    book.cells[4].execution_count = 1
    nbformat.write(book, path)


@pytest.mark.parametrize("work", [answer, run_it, lambda p: p.write_text(""), Path.touch])
@pytest.mark.parametrize("before", [True, False], ids=["ours", "not ours"])
def test_a_students_work_is_never_overwritten(tmp_path, work, before, monkeypatch):
    """Whether the file was written here or put there, and whatever of it was changed."""
    written = write_student_versions(tmp_path)
    if not before:
        (tmp_path / classroom.RECORD).unlink()
    work(written[3])
    texts = {path: path.read_text() for path in tmp_path.iterdir()}
    monkeypatch.setattr(classroom, "CODE_STUB", "raise NotImplementedError('today')")
    if work is Path.touch and before:
        write_student_versions(tmp_path)  # saved without a change: ours still
        return
    with pytest.raises(ValueError, match=r"may hold someone's answers: move it away") as error:
        write_student_versions(tmp_path)
    assert "\n" not in str(error.value)
    if before:
        assert str(written[3]) in str(error.value)
    assert {path: path.read_text() for path in tmp_path.iterdir()} == texts


def test_writing_cut_short_is_completed_by_the_next(tmp_path, monkeypatch):
    replace, left = classroom.write_text, iter(range(4))

    def cut_short(path, text):
        if next(left, None) is None:
            raise KeyboardInterrupt
        replace(path, text)

    monkeypatch.setattr(classroom, "write_text", cut_short)
    with pytest.raises(KeyboardInterrupt):
        write_student_versions(tmp_path)
    monkeypatch.setattr(classroom, "write_text", replace)
    assert len(write_student_versions(tmp_path)) == len(PATHS)


def test_the_command_says_why_it_does_not_write(tmp_path, capsys):
    (tmp_path / "00_quickstart.ipynb").write_text("my answers")
    assert classroom.main(["--out", str(tmp_path)]) == 2
    assert "may hold someone's answers" in capsys.readouterr().err
