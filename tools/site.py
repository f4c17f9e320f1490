"""The lessons, the docs and a reference of ``helpers`` as web pages: ``make site``.

Lessons are shown as they are stored, with their players and without their solutions.  Sphinx reads
pages that are prepared beside the result; ``docs/conf.py`` says how.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from helpers.storage import output_folder, read_text, write_text
from tools.classroom import with_open_exercises
from tools.command import command

ROOT = Path(__file__).resolve().parent.parent
REPOSITORY = tomllib.loads(read_text(ROOT / "pyproject.toml"))["project"]["urls"]["Repository"]
OUT = ROOT / "build" / "site"
LISTENING = ROOT / "outputs" / "listening"  # a page that is whole by itself
LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)\s#]+)")
BADGE = re.compile(r"\[!\[Open in Colab\]\([^)]*\)\]\([^)]*\)")  # opens solutions, and the network
WIDGET = "application/vnd.jupyter.widget-view+json"

HERE = """
## On these pages

The lessons stand here with their sounds. Their exercises are open, and sliders need a kernel:
`make lab` opens the lessons where both can be tried. The [reference](api/index.md) says what each
function does. {listening}
"""
HEAR = '<a href="listening/index.html">The listening page</a> lets you compare the methods by ear.'
CONTENTS = """
```{{toctree}}
:hidden:
:caption: Lessons

{lessons}
```

```{{toctree}}
:hidden:
:caption: Documentation
:glob:

docs/*
api/index
```
"""
REFERENCE = """# Reference

What the lessons call, module by module. Names in the lessons' code lead here, and a docstring that
ends with a lesson leads to the one that introduces it.

```{toctree}
:glob:

helpers*
```
"""
MODULE = """# {name}

```{{eval-rst}}
.. automodule:: {name}
   :members:
   :ignore-module-all:
   :member-order: bysource
```
"""


def write_pages(folder: Path) -> int:
    """Write what Sphinx reads, in the folders that it has in the repository; return the pages.

    Links between pages stay; others lead to the repository.
    """
    lessons = sorted(ROOT.glob("notebooks/[0-9]*.ipynb"))
    docs = sorted(ROOT.glob("docs/*.md"))
    modules = sorted(map(module_name, ROOT.glob("helpers/**/*.py")))
    shown = {*lessons, *docs}

    titles = {}
    for path in lessons:
        lesson = lesson_page(nbformat.read(path, as_version=4))
        for cell in lesson.cells:
            if cell.cell_type == "markdown":
                cell.source = relinked(cell.source, path.parent, shown)
        titles[path.stem] = lesson.cells[0].source.partition("\n")[0].removeprefix("# ")
        write_text(_made(folder / "notebooks") / path.name, nbformat.writes(lesson))
    for path in docs:
        text = relinked(read_text(path), path.parent, shown)
        write_text(_made(folder / "docs") / path.name, text)
    listed = [f"{stem[:2]} {title} <notebooks/{stem}>" for stem, title in titles.items()]
    front = relinked(BADGE.sub("", read_text(ROOT / "README.md")), ROOT, shown)
    here = HERE.format(listening=HEAR if LISTENING.exists() else "")
    contents = CONTENTS.format(lessons="\n".join(listed))
    write_text(folder / "index.md", front + here + contents)

    write_text(_made(folder / "api") / "index.md", REFERENCE)
    for name in modules:
        write_text(folder / "api" / f"{name}.md", MODULE.format(name=name))
    return len(lessons) + len(docs) + len(modules) + 2


def lesson_page(lesson: NotebookNode) -> NotebookNode:
    """Return a lesson with open exercises, and without widgets, which a page cannot draw."""
    page = with_open_exercises(lesson)
    for cell in page.cells:
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if WIDGET not in o.get("data", {})]
    return page


def relinked(text: str, folder: Path, shown: set[Path]) -> str:
    """Point a page's relative links to the repository, but those to other pages of the site."""

    def target(link: re.Match[str]) -> str:
        path = Path(os.path.normpath(folder / link[1]))
        return link[1] if path in shown else f"{REPOSITORY}/blob/main/{path.relative_to(ROOT)}"

    return LINK.sub(target, text)


def module_name(path: Path) -> str:
    """Return the dotted name of a file of ``helpers``."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@command
def main(arguments: list[str] | None = None) -> int:
    """Build the site; return Sphinx's exit status, in which a warning counts as an error."""
    parser = argparse.ArgumentParser(prog="python -m tools.site", description=main.__doc__)
    parser.add_argument("--out", type=Path, default=OUT)
    with output_folder(parser.parse_args(arguments).out) as out:
        pages = out / "pages"
        shutil.rmtree(pages, ignore_errors=True)
        print(f"{write_pages(_made(pages))} pages")
        sphinx = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--quiet"]
        sphinx += ["--conf-dir", ROOT / "docs", "-d", out / "doctrees", pages, out / "html"]
        status = subprocess.run(sphinx, cwd=ROOT).returncode
        if LISTENING.exists():
            shutil.copytree(LISTENING, out / "html" / "listening", dirs_exist_ok=True)
        if status == 0:
            print(f"Open {out / 'html' / 'index.html'}")
        return status


if __name__ == "__main__":
    sys.exit(main())
