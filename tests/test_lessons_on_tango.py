"""Every lesson runs on a published model as it stands: here the miniature TANGO, offline.

Its weights are random, so what it gives is noise: cells tagged `quality` are left out, and a
handful of steps does.
"""

from pathlib import Path

import nbformat
import pytest
from nbconvert.preprocessors import ExecutePreprocessor, TagRemovePreprocessor
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from published_layouts import write_tiny_hub

SHORT_PRESET = """
from helpers.editing.embedding import EmbeddingSettings
from helpers.editing.finetuning import FinetuningSettings
from helpers.editing.interpolation import SamplingSettings
from helpers.editing.presets import PRESETS, EditSettings

PRESETS["fast"] = EditSettings(
    EmbeddingSettings(steps=2), FinetuningSettings(steps=2, lora_rank=2), SamplingSettings(steps=3)
)
"""
LESSONS = sorted((Path(__file__).resolve().parent.parent / "notebooks").glob("[0-9]*.ipynb"))


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    write_tiny_hub(folder / "cache", folder)
    return folder / "cache"


def few_steps(lesson: nbformat.NotebookNode) -> dict[str, int]:
    """Two, three … for the numbers of steps that the lesson lets one set."""
    [cell] = [c for c in lesson.cells if "parameters" in c.metadata.get("tags", [])]
    names = [line.split("=")[0].strip() for line in cell.source.splitlines() if "=" in line]
    return {name: 2 + i for i, name in enumerate(n for n in names if n.endswith("_steps"))}


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_runs_on_tango(path, hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(hub))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("AUDIO_EDITING_CACHE", str(tmp_path))
    monkeypatch.setenv("MPLBACKEND", "Agg")
    lesson = load_notebook_node(str(path))
    values = {"model_name": "tango", "preset_name": "fast"} | few_steps(lesson)
    lesson = parameterize_notebook(lesson, values)
    lesson, _ = TagRemovePreprocessor(remove_cell_tags={"quality"}).preprocess(lesson, {})
    lesson.cells.insert(0, nbformat.v4.new_code_cell(SHORT_PRESET))
    execute = ExecutePreprocessor(timeout=300, kernel_name="python3")
    lesson, _ = execute.preprocess(lesson, {"metadata": {"path": str(path.parent)}})
    assert all(c.execution_count for c in lesson.cells if c.cell_type == "code" and c.source)
