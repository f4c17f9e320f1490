"""Student versions of the lessons: ``python -m tools.classroom``, which is ``make student``.

A lesson holds its exercises' solutions and checks in nbgrader's convention.  Here nbgrader's own
preprocessors take the solutions out, as ``nbgrader generate_assignment`` does, without a course
database; a course that grades gives it the lessons themselves.  nbgrader comes with the extra
``dev``.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import re
import sys
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbgrader.preprocessors import (
    CheckCellMetadata,
    ClearOutput,
    ClearSolutions,
    ComputeChecksums,
    LockCells,
    NbGraderPreprocessor,
)

from helpers.storage import output_folder, write_text
from tools.command import command

LESSONS = Path(__file__).resolve().parent.parent / "notebooks"
ADVICE = "Write your answer here, then run this cell and the check below."
CODE_STUB = f'raise NotImplementedError("{ADVICE}")'
TEXT_STUB = "*Write your answer here.*"
RECORD = ".written.json"  # hashes of what was written, by file name
BADGE = re.compile(r"\n\n\[!\[Open in Colab\][^\n]*")  # opens the lesson, with its solutions


def with_open_exercises(lesson: NotebookNode) -> NotebookNode:
    """Return a lesson without solutions and Colab badge, its checks locked.

    Parameters
    ----------
    lesson : NotebookNode
        It is left as it is.  In place of its solutions, code cells raise a NotImplementedError
        that says what to do.  Exercises and checks lose their outputs, the other cells keep them.

    Raises
    ------
    RuntimeError
        If a solution is not closed, or does not stand in a solution cell.
    """
    clear = ClearSolutions(code_stub={"python": CODE_STUB}, text_stub=TEXT_STUB)
    opened = _preprocessed(copy.deepcopy(lesson), LockCells(), clear)
    for cell in opened.cells:
        if cell.cell_type == "code" and "nbgrader" in cell.metadata:
            cell.outputs, cell.execution_count = [], None
    opened.cells[0].source = BADGE.sub("", opened.cells[0].source)
    return opened


def student_version(lesson: NotebookNode) -> NotebookNode:
    """Return a lesson with open exercises, as :func:`with_open_exercises`, and without outputs."""
    opened = with_open_exercises(lesson)
    return _preprocessed(opened, ClearOutput(), ComputeChecksums(), CheckCellMetadata())


def _preprocessed(notebook: NotebookNode, *preprocessors: NbGraderPreprocessor) -> NotebookNode:
    for preprocessor in preprocessors:
        notebook, _ = preprocessor.preprocess(notebook, {})
    return notebook


def write_student_versions(out: Path, lessons: Path = LESSONS) -> list[Path]:
    """Write the student version of every lesson of a folder; return the files.

    Raises
    ------
    ValueError
        If they would overwrite the lessons or a file that is not as it was written here, which
        may hold a student's answers, or if ``out`` is a file; nothing is written.
    """
    if out.resolve() == lessons.resolve() or out.is_file():
        raise ValueError(f"Students' versions cannot be written to {out}: name another folder.")
    record = out / RECORD
    written = _record(record)
    texts = {}
    for path in sorted(lessons.glob("[0-9]*.ipynb")):
        student = student_version(nbformat.read(path, as_version=4))
        texts[out / path.name] = nbformat.writes(student) + "\n"
    for path, text in texts.items():
        if path.exists() and _hash(path.read_bytes()) not in {
            written.get(path.name),
            _hash(text.encode()),
        }:
            raise ValueError(
                f"{path} is not as it was written here and may hold someone's answers: move it "
                "away, or name another folder with OUT=."
            )
    for path, text in texts.items():
        write_text(path, text)
    hashes = {path.name: _hash(text.encode()) for path, text in texts.items()}
    write_text(record, json.dumps(hashes, indent=1))
    return list(texts)


def _record(path: Path) -> dict[str, str]:
    """Read which files were written; of a damaged record nothing is believed."""
    try:
        written = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return written if isinstance(written, dict) else {}


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@command
def main(arguments: list[str] | None = None) -> None:
    """Write the student versions of all lessons."""
    parser = argparse.ArgumentParser(prog="python -m tools.classroom", description=main.__doc__)
    parser.add_argument("--out", type=Path, default=LESSONS.parent / "student")
    with output_folder(parser.parse_args(arguments).out) as out:
        print(f"{len(write_student_versions(out))} lessons without solutions in {out}")


if __name__ == "__main__":
    sys.exit(main())
