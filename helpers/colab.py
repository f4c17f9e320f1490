"""Install the lessons on Google Colab without touching the torch and numpy that are there.

Where Colab finds them stands in ``pyproject.toml`` and, since a notebook is opened alone, in every
lesson too; ``python -m helpers.colab owner/name``, which is ``make colab``, writes it to all.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path

from packaging.requirements import Requirement

KEPT = ("torch", "numpy", "transformers")
ROOT = Path(__file__).resolve().parent.parent
ADDRESSED = ("pyproject.toml", "README.md", "CITATION.cff", "notebooks/[0-9]*.ipynb")
# GitHub's own rules for the names of owners and repositories.
OWNER_AND_NAME = r"[A-Za-z0-9](?:-?[A-Za-z0-9]){0,38}/(?!\.{1,2}$)[\w.-]{1,100}(?<!\.git)"


class RepositoryError(ValueError):
    """A repository that cannot be; the message says what one looks like."""


def install(folder: str | Path) -> list[str]:
    """Install the repository in ``folder``, and say whether the runtime has to be restarted.

    Colab's own :data:`KEPT` stay as they are, unless they are older than the lessons need.

    Parameters
    ----------
    folder : str or Path
        The repository's clone.

    Returns
    -------
    list of str
        Distributions that were replaced although the running kernel had imported them: it goes on
        with the old ones until it is restarted.

    Raises
    ------
    subprocess.CalledProcessError
        If pip fails.
    """
    before = _versions(_imported())
    needed = _requirements(Path(folder))
    kept = [
        f"{name}=={number}"
        for name, number in _versions(KEPT).items()
        if needed[name].specifier.contains(number, prereleases=True)
    ]
    with tempfile.TemporaryDirectory() as scratch:
        constraints = Path(scratch, "kept.txt")
        constraints.write_text("\n".join(kept))
        pip = [sys.executable, "-m", "pip", "install", "-q", "-c", str(constraints)]
        subprocess.run([*pip, "-e", str(folder)], check=True)
    after = _versions(before)
    replaced = [name for name, number in before.items() if after.get(name) != number]
    if replaced:
        print(f"Restart the runtime and run the cells again: {', '.join(replaced)} changed.")
    else:
        print("Installed; no restart is needed.")
    return replaced


def repository(root: Path = ROOT) -> str:
    """Where the project says that its repository is, as ``owner/name``."""
    urls = _project(root)["urls"]
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
    address = re.compile(rf"(github(?:\.com)?/){re.escape(repository(root))}(?![\w-])")
    changed = []
    for path in (path for pattern in ADDRESSED for path in sorted(root.glob(pattern))):
        text = path.read_text(encoding="utf-8")
        moved = address.sub(rf"\g<1>{new}", text)
        if moved != text:
            path.write_text(moved, encoding="utf-8")
            changed.append(path)
    return changed


def _imported() -> list[str]:
    """Distributions of which the running kernel has imported something."""
    distributions = packages_distributions()
    modules = set(sys.modules) & set(distributions)
    return sorted({name for module in modules for name in distributions[module]})


def _versions(names: Iterable[str]) -> dict[str, str]:
    """Installed versions of those that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _project(root: Path) -> dict:
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def _requirements(root: Path) -> dict[str, Requirement]:
    """Return what the project depends on, by name."""
    requirements = map(Requirement, _project(root)["dependencies"])
    return {requirement.name: requirement for requirement in requirements}


def main() -> None:
    """Write where the repository is into the project and its lessons."""
    parser = argparse.ArgumentParser(prog="python -m helpers.colab", description=main.__doc__)
    parser.add_argument("repository", help="owner/name on GitHub")
    try:
        changed = move_to(parser.parse_args().repository)
    except RepositoryError as error:
        sys.exit(str(error))
    print(f"{repository()} now stands in {len(changed)} more files.")


if __name__ == "__main__":
    main()
