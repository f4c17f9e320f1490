"""Make the project's own environment: ``python3 tools/set_up.py``, which is ``make setup``.

This runs before anything is installed, so it uses the standard library alone and a syntax that
Python 3.6 can read: an old Python has to get far enough to be told that it is too old.
"""

import os
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

OLDEST_PYTHON = (3, 11)
NEEDED_GB = 6
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
STAMP = ".complete"  # written last: an environment without it is half made


class SetUpError(Exception):
    """The environment cannot be made; the message is one sentence that says what to do."""


def python_version(python):
    """Return the version of an interpreter that can make environments, as (major, minor).

    Parameters
    ----------
    python : str
        Path or name of a Python interpreter.

    Returns
    -------
    tuple of int or None
        None if the interpreter is missing or lacks the modules ``venv`` and ``ensurepip``, which
        some Linux distributions package apart.
    """
    script = "import ensurepip, sys, venv; print(*sys.version_info[:2])"
    try:
        answer = subprocess.check_output([python, "-c", script], stderr=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError):
        return None
    return tuple(int(part) for part in answer.split())


def find_python(candidates):
    """Return the first of the named interpreters that is recent enough.

    Raises
    ------
    SetUpError
        If none of them is.
    """
    for candidate in candidates:
        version = python_version(candidate)
        if version and version >= OLDEST_PYTHON:
            return candidate
    oldest, this = ".".join(map(str, OLDEST_PYTHON)), ".".join(map(str, sys.version_info[:2]))
    raise SetUpError(
        f"This project needs Python {oldest} or newer with its venv module, and {candidates[0]} is "
        f"Python {this} or lacks it: install python{oldest} and python{oldest}-venv (or get Python "
        f"from python.org or conda) and name it: make setup PYTHON=/path/to/python{oldest}"
    )


def is_usable(python):
    """Tell whether an environment's interpreter is recent enough and has pip."""
    if (python_version(python) or (0, 0)) < OLDEST_PYTHON:
        return False
    return subprocess.call([python, "-m", "pip", "--version"], stdout=subprocess.DEVNULL) == 0


def check_disk(environment, needed_gb=NEEDED_GB):
    """Check that the disk has room for what the environment still lacks.

    Parameters
    ----------
    environment : pathlib.Path
        Folder of the environment, which need not exist.
    needed_gb : float
        Size of a complete environment, in gigabytes (1e9 bytes).

    Raises
    ------
    SetUpError
        If the free space and what the folder already holds are together too small.
    """
    held = sum(f.lstat().st_size for f in environment.rglob("*")) if environment.exists() else 0
    folder = environment.parent
    free = shutil.disk_usage(str(folder)).free
    if free + held < needed_gb * 1e9:
        raise SetUpError(
            f"The set-up needs about {needed_gb:g} GB of disk and {folder} has {free / 1e9:.1f} GB "
            "free: free some space there, or move the project to a larger disk, and run it again."
        )


def forget_half_installed(environment):
    """Drop the records of packages whose installation was cut short, so that pip redoes them.

    pip writes a package's file list, RECORD, last; without it a package may lack files although
    pip takes it for installed.
    """
    for info in environment.glob("lib*/python*/site-packages/*.dist-info"):
        if not (info / "RECORD").exists():
            shutil.rmtree(str(info))


def cpu_torch_options(index=TORCH_CPU_INDEX):
    """Return the pip options that find PyTorch's CPU build where that is the right one.

    On Linux the default build brings gigabytes of CUDA.  A machine without an NVIDIA driver is
    spared them, if PyTorch's own index answers; otherwise pip takes the default build.
    """
    if not sys.platform.startswith("linux") or shutil.which("nvidia-smi"):
        return []
    try:
        urllib.request.urlopen(index + "/torch/", timeout=5).close()
    except OSError:
        return []
    return ["--extra-index-url", index]


def run(*command):
    """Run a command, or raise SetUpError naming it."""
    command = [str(part) for part in command]
    try:
        subprocess.check_call(command)
    except (OSError, subprocess.CalledProcessError):
        raise SetUpError(
            f"The set-up stopped at `{' '.join(command)}`; its message stands above. Once that is "
            "mended, run it again: what is installed already is kept."
        ) from None


def make_environment(project, environment, python):
    """Create the environment, or complete a half-made one, and install the project into it.

    Parameters
    ----------
    project : pathlib.Path
        Folder of ``pyproject.toml`` and ``constraints.txt``.
    environment : pathlib.Path
        Folder of the environment.
    python : str
        Interpreter to make it with.
    """
    its_python = environment / "bin" / "python"
    if not is_usable(str(its_python)):
        print(f"Making a Python environment in {environment} ...", flush=True)
        run(python, "-m", "venv", "--clear", environment)
    forget_half_installed(environment)
    pip = [its_python, "-m", "pip", "--disable-pip-version-check"]
    install = [*pip, "install", "--quiet", "--constraint", project / "constraints.txt"]
    options = cpu_torch_options()
    if options:
        print("Installing PyTorch for the CPU ...", flush=True)
        run(*install, *options, "torch")
    print("Installing the project and its packages, which takes minutes ...", flush=True)
    run(*install, "--editable", f"{project}[dev]")
    (environment / STAMP).touch()
    print("The environment is ready.")


def main(project):
    """Check the machine, then make the environment ``.venv`` of the project's folder."""
    environment = project / ".venv"
    try:
        python = find_python([sys.executable, "python3.11", "python3.12", "python3.13"])
        check_disk(environment)
        make_environment(project, environment, python)
    except SetUpError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    os.environ.pop("PYTHONPATH", None)  # nothing already installed may leak in
    main(Path(__file__).resolve().parent.parent)
