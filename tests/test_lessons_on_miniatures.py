"""Lessons run on published models as they stand: here on miniatures, offline.

Their weights are random, so what they give is noise: cells tagged `quality` are left out, and a
handful of steps does.  Every lesson runs on the miniature TANGO; those up to inpainting run on a
model of each other kind too, a folder that holds neither UNet nor vocoder nor a mel axis.  All are
run in this process, which imports what they need once.
"""

import re
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from published_layouts import write_tiny_hub
from published_stable_audio import write_tiny_stable_audio
from published_tangoflux import write_tiny_tangoflux
from traitlets.config import Config

from helpers.editing.embedding import EmbeddingSettings
from helpers.editing.finetuning import FinetuningSettings
from helpers.editing.interpolation import SamplingSettings
from helpers.editing.presets import PRESETS, EditSettings

SHORT = EditSettings(
    EmbeddingSettings(steps=2), FinetuningSettings(steps=2, lora_rank=2), SamplingSettings(steps=3)
)
LESSONS = sorted((Path(__file__).resolve().parent.parent / "notebooks").glob("[0-9]*.ipynb"))
FRAMES = 192  # of 2,048 samples: 8.9 s, in which the lessons' recordings find room


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    write_tiny_hub(folder / "cache", folder)
    return folder / "cache"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    writers = {"stable-audio": write_tiny_stable_audio, "tangoflux": write_tiny_tangoflux}
    return {name: write(folder / name, FRAMES) for name, write in writers.items()}


@pytest.fixture
def shell(hub, tmp_path, monkeypatch):
    """What runs cells, with nothing kept from another lesson."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("AUDIO_EDITING_CACHE", str(tmp_path))
    monkeypatch.setitem(PRESETS, "fast", SHORT)
    monkeypatch.chdir(LESSONS[0].parent)
    plt.switch_backend("agg")
    yield InteractiveShell.instance(config=Config(HistoryManager={"enabled": False}))
    InteractiveShell.clear_instance()
    plt.close("all")


def few_steps(lesson: nbformat.NotebookNode) -> dict[str, int]:
    """Two, three … for the numbers of steps that the lesson lets one set."""
    [cell] = [c for c in lesson.cells if "parameters" in c.metadata.get("tags", [])]
    names = [line.split("=")[0].strip() for line in cell.source.splitlines() if "=" in line]
    return {name: 2 + i for i, name in enumerate(n for n in names if n.endswith("_steps"))}


def run(path: Path, model_name: str, shell: InteractiveShell) -> nbformat.NotebookNode:
    """Run a lesson's cells in order, but those that assert quality; the first failure is raised."""
    lesson = load_notebook_node(str(path))
    values = {"model_name": model_name, "preset_name": "fast"} | few_steps(lesson)
    lesson = parameterize_notebook(lesson, values)
    for cell in lesson.cells:
        if cell.cell_type == "code" and "quality" not in cell.metadata.get("tags", []):
            shell.run_cell(cell.source).raise_error()
            plt.close("all")
    return lesson


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_runs_on_tango(path, shell):
    run(path, "tango", shell)
    assert shell.user_ns["model"].name == "tango"


@pytest.mark.parametrize("name", ["stable-audio", "tangoflux"])
@pytest.mark.parametrize("path", LESSONS[1:6], ids=lambda path: path.stem)
def test_a_lesson_runs_on_a_model_of_waveforms(path, name, folders, shell, capsys):
    lesson = run(path, str(folders[name]), shell)
    assert shell.user_ns["model"].vocoder is None
    told = capsys.readouterr().out
    for cell in lesson.cells:
        if "mel" in cell.metadata.get("tags", []):
            [sentence] = re.findall(r'if model.vocoder is None:\n    print\("(.+)"\)', cell.source)
            assert f"{sentence}\n" in told
