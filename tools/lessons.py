"""Run the lessons and store what they print: ``python -m tools.lessons``, or ``make lessons``.

A lesson is run whole, in order, with an empty cache, and stored with its outputs.  The box at its
beginning gets the processor time it took, the memory its kernel held at most, and the date.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from multiprocessing import get_context
from pathlib import Path

import nbformat
from nbconvert.preprocessors import ClearMetadataPreprocessor, ExecutePreprocessor
from nbformat import NotebookNode
from tqdm.auto import tqdm

from helpers.data import CACHE_VARIABLE
from helpers.storage import write_text
from tools.command import command

LESSONS = Path(__file__).resolve().parent.parent / "notebooks"
KEPT_METADATA = {"kernelspec", "language_info"}
CELL_SECONDS = 900  # longer than any cell takes


def run_lesson(path: Path) -> str:
    """Run a lesson and store it with its outputs and the figures of its box.

    Returns
    -------
    str
        Time and memory in words.  They are those of all this process's children, so run each
        lesson in a process of its own.

    Raises
    ------
    nbclient.exceptions.CellExecutionError
        If a cell fails; the file is left as it was.
    """
    import resource  # which Windows lacks

    lesson = nbformat.read(path, as_version=4)
    os.environ.pop("MPLBACKEND", None)  # the kernel's own backend stores figures
    execute = ExecutePreprocessor(timeout=CELL_SECONDS, kernel_name="python3", record_timing=False)
    with tempfile.TemporaryDirectory() as cache:
        os.environ[CACHE_VARIABLE] = cache
        lesson, _ = execute.preprocess(lesson, {"metadata": {"path": str(path.parent)}})
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = f"{used.ru_utime + used.ru_stime:.0f} seconds of one CPU core, without a GPU"
    memory = f"{used.ru_maxrss * (1 if sys.platform == 'darwin' else 1024) / 1e9:.1f} GB"

    clear = ClearMetadataPreprocessor(
        clear_cell_metadata=False, preserve_nb_metadata_mask=KEPT_METADATA
    )
    lesson, _ = clear.preprocess(lesson, {})
    fill_box(lesson, f"{seconds} (measured {date.today()})", memory)
    write_text(path, nbformat.writes(lesson) + "\n")
    return f"{path.stem}: {seconds}, {memory}"


def fill_box(lesson: NotebookNode, computing: str, memory: str) -> None:
    """Write the rows on computing and memory of a lesson's box.

    Raises
    ------
    ValueError
        If the lesson has no box with these two rows.
    """
    for cell in lesson.cells:
        if cell.cell_type == "markdown" and "**Before you start**" in cell.source:
            for row, text in {"computing": computing, "memory": memory}.items():
                cell.source, found = re.subn(
                    rf"^\| {row} \| .* \|$", f"| {row} | {text} |", cell.source, flags=re.M
                )
                if found != 1:
                    raise ValueError(f"The box needs one row on {row}, and has {found}.")
            return
    raise ValueError("The lesson has no box 'Before you start'.")


@command
def main(arguments: list[str] | None = None) -> None:
    """Run the lessons whose numbers are given, or all of them, one after the other."""
    parser = argparse.ArgumentParser(prog="python -m tools.lessons", description=main.__doc__)
    parser.add_argument("numbers", nargs="*", help="00 01 …; all by default")
    numbers = parser.parse_args(arguments).numbers or ["[0-9][0-9]"]
    paths = sorted(path for number in numbers for path in LESSONS.glob(f"{number}_*.ipynb"))
    if not paths:
        parser.error(f"there is no lesson {' '.join(numbers)} in {LESSONS}")
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        for told in tqdm(pool.map(run_lesson, paths), total=len(paths), desc="lessons"):
            tqdm.write(told)


if __name__ == "__main__":
    sys.exit(main())
