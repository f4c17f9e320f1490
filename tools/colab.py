"""Say where the repository is: ``python -m tools.colab owner/name``, which is ``make colab``.

The address stands in ``pyproject.toml`` and, since a notebook is opened alone on Colab, in every
lesson too.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ADDRESSED = ("pyproject.toml", "README.md", "CITATION.cff", "notebooks/[0-9]*.ipynb")
# GitHub's own rules for the names of owners and repositories.
OWNER_AND_NAME = r"[A-Za-z0-9](?:-?[A-Za-z0-9]){0,38}/(?!\.{1,2}$)[\w.-]{1,100}(?<!\.git)"


class RepositoryError(ValueError):
    """A repository that cannot be; the message says what one looks like."""


def repository(root: Path = ROOT) -> str:
    """Where the project says that its repository is, as ``owner/name``."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project["urls"]["Repository"].removeprefix("https://github.com/")


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
    address = re.compile(rf"(github(?:\.com)?/){re.escape(repository(root))}(?![\w-])")
    changed = []
    for path in (path for pattern in ADDRESSED for path in sorted(root.glob(pattern))):
        text = path.read_text(encoding="utf-8")
        moved = address.sub(rf"\g<1>{new}", text)
        if moved != text:
            path.write_text(moved, encoding="utf-8")
            changed.append(path)
    return changed


def main() -> None:
    """Write where the repository is into the project and its lessons."""
    parser = argparse.ArgumentParser(prog="python -m tools.colab", description=main.__doc__)
    parser.add_argument("repository", help="owner/name on GitHub")
    try:
        changed = move_to(parser.parse_args().repository)
    except RepositoryError as error:
        sys.exit(str(error))
    print(f"{repository()} now stands in {len(changed)} more files.")


if __name__ == "__main__":
    main()
