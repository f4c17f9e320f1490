"""Install the lessons on Google Colab without touching what its kernel and page are built on."""

from __future__ import annotations

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
    # A name may stand twice, as setuptools brings copies of its own; the first is what is imported.
    before = {each.name: each.version for each in reversed([*distributions()])}
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


def project(root: Path) -> dict:
    """Return the table ``project`` of a clone's ``pyproject.toml``.

    Raises
    ------
    ValueError
        If the file is damaged.
    """
    path = root / "pyproject.toml"
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path} is damaged: restore it with `git checkout`.") from error


def _requirements(root: Path) -> dict[str, Requirement]:
    """Return what the project depends on, by name."""
    requirements = map(Requirement, project(root)["dependencies"])
    return {requirement.name: requirement for requirement in requirements}
