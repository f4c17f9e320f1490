"""Install the lessons on Google Colab without touching the torch and numpy that are there."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path

from packaging.requirements import Requirement

KEPT = ("torch", "numpy", "transformers")


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
