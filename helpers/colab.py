"""Install the lessons on Google Colab without touching what its kernel and page are built on.

Where Colab finds them stands in ``pyproject.toml`` and, since a notebook is opened alone, in every
lesson too; ``python -m helpers.colab owner/name``, which is ``make colab``, writes it to all.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution, distributions, version
from pathlib import Path

from packaging.requirements import Requirement

# Colab's kernel and page break if these are replaced; no dependency of ours may ask for it.
KERNEL = ("ipython", "ipykernel", "ipywidgets", "jupyter_client", "tornado", "traitlets")
KEPT = ("torch", "numpy", "transformers")
ROOT = Path(__file__).resolve().parent.parent
ADDRESSED = ("README.md", "CITATION.cff", "notebooks/[0-9]*.ipynb", "pyproject.toml")  # it last
# GitHub's own rules for the names of owners and repositories.
OWNER_AND_NAME = r"[A-Za-z0-9](?:-?[A-Za-z0-9]){0,38}/(?!\.{1,2}$)[\w.-]{1,100}(?<!\.git)"
BADGE = re.compile(r"colab\.research\.google\.com/github/([\w-]+/[\w.-]+)/blob/main/notebooks/")


class RepositoryError(ValueError):
    """A repository that cannot be; the message says what one looks like."""


def install(folder: str | Path) -> list[str]:
    """Install the repository in ``folder``, and say whether the runtime has to be restarted.

    Colab's :data:`KERNEL` stays as it is, and so do :data:`KEPT` unless they are older than the
    lessons need.

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
    before = {each.name: each.version for each in distributions()}
    needed = _requirements(Path(folder))
    kept = [f"{name}=={number}" for name, number in _versions(KERNEL).items()]
    kept += [
        f"{name}=={number}"
        for name, number in _versions(KEPT).items()
        if needed[name].specifier.contains(number, prereleases=True)
    ]
    with tempfile.TemporaryDirectory() as scratch:
        constraints = Path(scratch, "kept.txt")
        constraints.write_text("\n".join(kept), encoding="utf-8")
        pip = [sys.executable, "-m", "pip", "install", "-q", "-c", str(constraints)]
        subprocess.run([*pip, "-e", str(folder)], check=True)
    after = _versions(before)
    changed = [name for name, number in before.items() if after.get(name, number) != number]
    replaced = sorted(filter(_is_imported, changed))
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
    paths = [path for pattern in ADDRESSED for path in sorted(root.glob(pattern))]
    texts = {path: path.read_text(encoding="utf-8") for path in paths}
    # A move that was cut short has left some files at another address than pyproject.toml's.
    present = {repository(root)}.union(*(BADGE.findall(text) for text in texts.values()))
    names = "|".join(map(re.escape, sorted(present)))
    address = re.compile(rf"(github(?:\.com)?/)(?:{names})(?![\w-])")
    changed = []
    for path, text in texts.items():
        moved = address.sub(rf"\g<1>{new}", text)
        if moved != text:
            _replace(path, moved)
            changed.append(path)
    return changed


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
    """Write a file whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8", newline="")
    part.chmod(path.stat().st_mode)
    os.replace(part, path)


def _is_imported(name: str) -> bool:
    """Tell whether the running kernel has imported a file of an installed distribution."""
    loaded = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    found = distribution(name)
    return any(str(found.locate_file(file)) in loaded for file in found.files or ())


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
    parser.add_argument("repository", nargs="?", help="owner/name on GitHub; else git's origin")
    asked = parser.parse_args().repository
    try:
        changed = move_to(origin() if asked is None else asked)
    except RepositoryError as error:
        sys.exit(str(error))
    print(f"{repository()} now stands in {len(changed)} more files.")


if __name__ == "__main__":
    main()
