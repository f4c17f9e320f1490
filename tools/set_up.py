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
CPU_GB, CUDA_GB = 2.3, 6.1  # what .venv holds with PyTorch's CPU build, and with CUDA's
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
STAMP = ".complete"  # written last: an environment without it is half made


class SetUpError(Exception):
    """The environment cannot be made; the message is one sentence that says what to do."""


def inspect(python):
    """Return an interpreter's version, and whether it can make environments.

    Parameters
    ----------
    python : str
        Path or name of a Python interpreter.

    Returns
    -------
    version : tuple of int or None
        (major, minor), or None if there is no such interpreter.
    has_venv : bool
        Whether it has ``venv`` and ``ensurepip``, which some Linux distributions package apart.
    """
    script = (
        "import sys, importlib.util as util; modules = map(util.find_spec, ['venv', 'ensurepip']);"
        "print(sys.version_info[0], sys.version_info[1], int(None not in modules))"
    )
    try:
        answer = subprocess.check_output([python, "-c", script], stderr=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError):
        return None, False
    major, minor, has_venv = map(int, answer.split())
    return (major, minor), bool(has_venv)


def find_python(candidates):
    """Return the first of the named interpreters that is recent enough and has ``venv``.

    Raises
    ------
    SetUpError
        If none of them is; it tells one that is too old from one that only lacks ``venv``.
    """
    found = [(python, *inspect(python)) for python in candidates]
    found = [(python, version, has_venv) for python, version, has_venv in found if version]
    recent = [(python, version) for python, version, _ in found if version >= OLDEST_PYTHON]
    for python, version, has_venv in found:
        if has_venv and version >= OLDEST_PYTHON:
            return python
    if recent:
        python, version = recent[0]
        name = "python" + ".".join(map(str, version))
        raise SetUpError(
            f"{python} is recent enough, but lacks Python's module venv: install it, on Debian and "
            f"Ubuntu with `sudo apt install {name}-venv`, and run this again."
        )
    oldest, this = ".".join(map(str, OLDEST_PYTHON)), ".".join(map(str, sys.version_info[:2]))
    raise SetUpError(
        f"This project needs Python {oldest} or newer, and {candidates[0]} is Python {this}: "
        "install a newer one from your system's packages, python.org or conda, and name it: "
        "make setup PYTHON=/path/to/python3"
    )


def is_usable(python):
    """Tell whether an environment's interpreter is recent enough and has pip."""
    if (inspect(python)[0] or (0, 0)) < OLDEST_PYTHON:
        return False
    return subprocess.call([python, "-m", "pip", "--version"], stdout=subprocess.DEVNULL) == 0


def check_disk(environment, needed_gb):
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


def make_environment(project, environment, python, torch_options):
    """Create the environment, or complete a half-made one, and install the project into it.

    Parameters
    ----------
    project : pathlib.Path
        Folder of ``pyproject.toml`` and ``constraints.txt``.
    environment : pathlib.Path
        Folder of the environment.
    python : str
        Interpreter to make it with.
    torch_options : list of str
        What tells pip where PyTorch's CPU build is; empty to take the default build.
    """
    its_python = environment / "bin" / "python"
    if not is_usable(str(its_python)):
        print(f"Making a Python environment in {environment} with {python} ...", flush=True)
        run(python, "-m", "venv", "--clear", environment)
    forget_half_installed(environment)
    log = environment / "install.log"  # --quiet keeps the reason of a conflict to itself
    pip = [its_python, "-m", "pip", "--disable-pip-version-check", "--log", log]
    install = [*pip, "install", "--quiet", "--constraint", project / "constraints.txt"]
    if torch_options:
        print("Installing PyTorch for the CPU ...", flush=True)
        run(*install, *torch_options, "torch")
    print("Installing the project and its packages, which takes minutes ...", flush=True)
    run(*install, "--editable", f"{project}[notebooks]")
    (environment / STAMP).touch()
    print("The environment is ready.")


def main(project):
    """Check the machine, then make the environment ``.venv`` of the project's folder."""
    environment = project / ".venv"
    try:
        python = find_python([sys.executable, *(f"python3.{minor}" for minor in range(11, 20))])
        torch_options = cpu_torch_options()
        has_cuda = sys.platform.startswith("linux") and not torch_options
        check_disk(environment, CUDA_GB if has_cuda else CPU_GB)
        make_environment(project, environment, python, torch_options)
    except SetUpError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    os.environ.pop("PYTHONPATH", None)  # nothing already installed may leak in
    main(Path(__file__).resolve().parent.parent)
