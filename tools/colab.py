"""Say where the repository is: ``python -m tools.colab owner/name``, which is ``make colab``.

The address stands in ``pyproject.toml`` and, since a notebook is opened alone on Colab, in every
lesson too.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

from helpers.colab import project
from helpers.storage import read_text, write_text
from tools.command import command

ROOT = Path(__file__).resolve().parent.parent
ADDRESSED = ("README.md", "CITATION.cff", "notebooks/[0-9]*.ipynb", "pyproject.toml")  # it last
# GitHub's own rules for the names of owners and repositories.
OWNER_AND_NAME = r"[A-Za-z0-9](?:-?[A-Za-z0-9]){0,38}/(?!\.{1,2}$)[\w.-]{1,100}(?<!\.git)"
BADGE = re.compile(r"colab\.research\.google\.com/github/([\w-]+/[\w.-]+)/blob/main/notebooks/")


class RepositoryError(ValueError):
    """A repository that cannot be; the message says what one looks like."""


def repository(root: Path = ROOT) -> str:
    """Where the project says that its repository is, as ``owner/name``."""
    urls = project(root)["urls"]
    return urls["Repository"].removeprefix("https://github.com/")


def move_to(new: str, root: Path = ROOT) -> list[Path]:
    """Write another repository wherever the present one stands; return the files that changed.

    Parameters
    ----------
    new : str
        ``owner/name`` on GitHub.
    root : Path
        The clone.

    Raises
    ------
    RepositoryError
        If no repository can be called that; nothing is written.
    """
    if not re.fullmatch(OWNER_AND_NAME, new, re.ASCII):
        raise RepositoryError(
            f"{new!r} names no repository: give owner and name, as in REPO=owner/name for "
            "https://github.com/owner/name."
        )
    paths = [path for pattern in ADDRESSED for path in sorted(root.glob(pattern))]
    texts = {path: read_text(path) for path in paths}
    # A move that was cut short has left some files at another address than pyproject.toml's.
    present = {repository(root)}.union(*(BADGE.findall(text) for text in texts.values()))
    names = "|".join(map(re.escape, sorted(present)))
    address = re.compile(rf"(github(?:\.com)?/)(?:{names})(?![\w-])")
    pages = re.compile("|".join(re.escape(_pages(name)) for name in sorted(present)))
    changed = []
    for path, text in texts.items():
        moved = pages.sub(_pages(new), address.sub(rf"\g<1>{new}", text))
        if moved != text:
            _replace(path, moved)
            changed.append(path)
    return changed


def _pages(name: str) -> str:
    """Return where GitHub Pages shows a repository's site."""
    return "https://{}.github.io/{}/".format(*name.split("/"))


def origin(root: Path = ROOT) -> str:
    """Return the repository on GitHub that git calls origin, as ``owner/name``.

    Raises
    ------
    RepositoryError
        If there is no origin, or it is not on GitHub.
    """
    git = ["git", "-C", str(root), "remote", "get-url", "origin"]
    try:
        url = subprocess.run(git, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        url = ""
    found = re.search(r"\bgithub\.com[:/](?:\d+/)?([^/\s]+/[^/\s]+?)(?:\.git)?/?$", url)
    if not found:
        raise RepositoryError(
            "git knows no origin of this clone on GitHub: say where the repository is, as in "
            "REPO=owner/name for https://github.com/owner/name."
        )
    return found[1]


def _replace(path: Path, text: str) -> None:
    """Write a file whole or not at all; its mode stays."""
    mode = path.stat().st_mode
    write_text(path, text)
    path.chmod(mode)


@command
def main(arguments: list[str] | None = None) -> None:
    """Write where the repository is into the project and its lessons."""
    parser = argparse.ArgumentParser(prog="python -m tools.colab", description=main.__doc__)
    parser.add_argument("repository", nargs="?", help="owner/name on GitHub; else git's origin")
    asked = parser.parse_args(arguments).repository
    changed = move_to(origin() if asked is None else asked)
    print(f"{repository()} now stands in {len(changed)} more files.")


if __name__ == "__main__":
    sys.exit(main())
