"""The set-up cell, and lessons behind it, in an environment made as Colab's is.

It has Colab's packages of `colab.toml`, the PyTorch of this environment, and a module
`google.colab`; what it lacks is Colab's page.
"""

import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import nbformat
import pytest
from nbconvert.preprocessors import ExecutePreprocessor
from nbformat import NotebookNode

from helpers.colab import KERNEL
from tools.set_up import cpu_torch_options

ROOT = Path(__file__).resolve().parents[2]
RUNTIME = tomllib.loads((ROOT / "tests/setup/colab.toml").read_text())["2026-01"]
COLAB, COLABS_PYTHON = RUNTIME["packages"], tuple(map(int, RUNTIME["python"].split(".")))
LESSONS = [
    path
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
    if path.name.startswith("00") or "from ipywidgets import" in path.read_text(encoding="utf-8")
]
CELL_SECONDS = 900
pytestmark = pytest.mark.skipif(
    sys.version_info[:2] > COLABS_PYTHON,
    reason=f"Colab's packages are of Python {RUNTIME['python']}; some cannot be built on a newer",
)


@pytest.fixture(scope="module")
def colab(tmp_path_factory) -> Iterator[Path]:
    """Folder of an environment with Colab's packages, as the kernel `colab`."""
    folder = tmp_path_factory.mktemp("colab")
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    python = folder / "venv/bin/python"
    install = [python, "-m", "pip", "install", "--quiet"]
    torch = f"torch=={version('torch').partition('+')[0]}"
    subprocess.run([*install, *cpu_torch_options(), torch], check=True)
    packages = [f"{name}=={number}" for name, number in COLAB.items() if name != "torch"]
    subprocess.run([*install, *packages], check=True)
    [site] = (folder / "venv/lib").glob("python*/site-packages")
    (site / "google/colab").mkdir(parents=True)
    (site / "google/colab/__init__.py").touch()

    specification = folder / "jupyter/kernels/colab/kernel.json"
    specification.parent.mkdir(parents=True)
    kernel = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    specification.write_text(
        json.dumps({"argv": kernel, "display_name": "Colab", "language": "python"})
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(folder / "jupyter"))
        patch.setenv("AUDIO_EDITING_CACHE", str(folder / "cache"))
        patch.delenv("MPLBACKEND", raising=False)
        patch.delenv("PYTHONPATH", raising=False)
        yield folder


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """A git repository of the working tree as it is."""
    folder = tmp_path_factory.mktemp("repository")
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]
    listed = subprocess.check_output(
        [*git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, text=True
    )
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((ROOT / name).read_bytes())
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "as it is"]):
        subprocess.run([*git, *command], cwd=folder, check=True)
    return folder


def versions(folder: Path) -> dict[str, str]:
    command = [folder / "venv/bin/python", "-m", "pip", "list", "--format", "json"]
    listed = json.loads(subprocess.check_output(command))
    return {package["name"].lower().replace("-", "_"): package["version"] for package in listed}


def on_colab(path: Path, repository: Path, folder: Path) -> NotebookNode:
    """Return a lesson that clones from and to folders of the test, and is not yet run."""
    lesson = nbformat.read(path, as_version=4)
    [cell] = [c for c in lesson.cells if "colab" in c.metadata.get("tags", [])]
    address, _, rest = cell.source.partition("\n")
    assert address.startswith("REPOSITORY = ")
    assert "/content/lessons" in rest
    rest = rest.replace("/content/lessons", str(folder / "lessons"))
    cell.source = f'REPOSITORY = "{repository.as_uri()}"\n{rest}'
    return lesson


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_runs_and_leaves_colabs_kernel_alone(path, colab, repository):
    before = versions(colab)
    assert {name: before[name] for name in KERNEL} == {name: COLAB[name] for name in KERNEL}
    lesson = on_colab(path, repository, colab)
    execute = ExecutePreprocessor(timeout=CELL_SECONDS, kernel_name="colab")
    lesson, _ = execute.preprocess(lesson, {"metadata": {"path": str(colab)}})
    [cell] = [c for c in lesson.cells if "colab" in c.metadata.get("tags", [])]
    assert "Installed; no restart is needed." in "".join(o.get("text", "") for o in cell.outputs)
    after = versions(colab)
    kept = {*KERNEL, "torch", "numpy", "matplotlib", "scipy"}
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}


def test_the_placeholder_is_named_in_one_sentence(colab, repository):
    lesson = on_colab(LESSONS[0], repository, colab)
    [cell] = [c for c in lesson.cells if "colab" in c.metadata.get("tags", [])]
    _, _, rest = cell.source.partition("\n")
    cell.source = f'REPOSITORY = "https://github.com/OWNER/lessons"\n{rest}'
    lesson.cells = [cell]
    execute = ExecutePreprocessor(timeout=CELL_SECONDS, kernel_name="colab", allow_errors=True)
    lesson, _ = execute.preprocess(lesson, {"metadata": {"path": str(colab)}})
    [error] = [o for o in lesson.cells[0].outputs if o.output_type == "error"]
    assert error.evalue == "Put the name of the repository's owner in place of OWNER, above."
