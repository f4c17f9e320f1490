"""What nbval does not see: that every lesson is stored executed, whole and in the agreed form."""

import base64
import io
import re
from pathlib import Path

import nbformat
import numpy as np
import pyloudnorm
import pytest
import soundfile
from nbformat import NotebookNode

from helpers.audio import CLIP_SAMPLES, SAMPLE_RATE, Clip
from helpers.evaluation.clap import load_clap

LESSONS = sorted((Path(__file__).resolve().parent.parent / "notebooks").glob("*.ipynb"))
SECTIONS = [
    "Goals",
    "Setup",
    "Theory",
    "Practice",
    "Listen",
    "Exercises",
    "What to take away",
    "References",
]
PLAYER = r'<td[^>]*>([^<]*)</td><td><audio [^>]*src="data:audio/mpeg;base64,([^"]+)"'


@pytest.fixture(params=LESSONS, ids=lambda path: path.stem)
def lesson(request) -> NotebookNode:
    notebook = nbformat.read(request.param, as_version=4)
    nbformat.validate(notebook)
    return notebook


def code_cells(lesson: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in lesson.cells if cell.cell_type == "code"]


def outputs(lesson: NotebookNode, mime: str) -> list[str]:
    data = [o.get("data", {}) for cell in code_cells(lesson) for o in cell.outputs]
    return [bundle[mime] for bundle in data if mime in bundle]


def player_sounds(lesson: NotebookNode) -> list[tuple[str, np.ndarray]]:
    """Title and samples of every player, in order."""
    found = re.findall(PLAYER, "".join(outputs(lesson, "text/html")))
    sounds = [(t, *soundfile.read(io.BytesIO(base64.b64decode(code)))) for t, code in found]
    assert {rate for *_, rate in sounds} == {SAMPLE_RATE}
    return [(title, waveform.astype(np.float32)) for title, waveform, _ in sounds]


def test_there_are_lessons():
    assert [path.stem for path in LESSONS][0] == "00_quickstart"


def test_every_cell_was_run_once_and_in_order(lesson):
    counts = [cell.execution_count for cell in code_cells(lesson)]
    assert counts == list(range(1, len(counts) + 1))


def test_no_error_and_no_warning_is_stored(lesson):
    stored = [output for cell in code_cells(lesson) for output in cell.outputs]
    assert stored
    assert [o.evalue for o in stored if o.output_type == "error"] == []
    assert [o.text for o in stored if o.get("name") == "stderr"] == []


def test_no_widget_state_is_stored(lesson):
    assert "widgets" not in lesson.metadata


def test_no_run_has_injected_parameters(lesson):
    tags = [tag for cell in code_cells(lesson) for tag in cell.metadata.get("tags", [])]
    assert tags.count("parameters") == 1
    assert "injected-parameters" not in tags


def test_cells_are_short(lesson):
    lengths = [len(cell.source.splitlines()) for cell in code_cells(lesson)]
    assert max(lengths) <= 40
    assert np.median(lengths) <= 8


def test_sections_stand_in_their_order(lesson):
    prose = "\n".join(cell.source for cell in lesson.cells if cell.cell_type == "markdown")
    prose = re.sub(r"^```.*?^```", "", prose, flags=re.DOTALL | re.MULTILINE)
    assert re.findall(r"^## (.+)$", prose, re.MULTILINE) == SECTIONS
    assert re.match(r"# .+\n\n\*\*", prose), "a title, then one sentence in bold"
    assert prose.index("## Goals") < prose.index("> **Before you start**")
    assert prose.index("> **Before you start**") < prose.index("## Setup")
    assert r"\tag{" in prose.partition("## Theory")[2].partition("## Practice")[0]


def test_every_practice_cell_follows_or_precedes_prose(lesson):
    kinds = "".join(cell.cell_type[0] for cell in lesson.cells)
    assert "ccc" not in kinds, "three code cells without a word between them"


def test_there_is_something_to_see_and_to_hear(lesson):
    assert len(outputs(lesson, "image/png")) >= 1
    assert len(player_sounds(lesson)) >= 3


def test_players_hold_sound_that_is_neither_clipped_nor_silent(lesson):
    meter = pyloudnorm.Meter(SAMPLE_RATE)
    for title, waveform in player_sounds(lesson):
        assert np.isfinite(waveform).all(), title
        assert 0.01 < np.abs(waveform).max() < 1.0, title
        padded = np.pad(waveform, (0, max(0, CLIP_SAMPLES - len(waveform))))
        assert -35 < meter.integrated_loudness(padded) < -20, title


def test_links_lead_somewhere(lesson):
    prose = "\n".join(cell.source for cell in lesson.cells if cell.cell_type == "markdown")
    for target in re.findall(r"\]\((?!https?:|#)([^)]+)\)", prose):
        assert (LESSONS[0].parent / target).exists(), target


def test_the_quickstart_edit_moves_from_the_recording_to_the_sentence():
    """Stored sounds: Text CLAP grows with η and Audio CLAP falls."""
    (_, source), *rest = player_sounds(nbformat.read(LESSONS[0], as_version=4))[:5]
    source, edits = Clip(source), [Clip(waveform, title) for title, waveform in rest]
    clap = load_clap("pocket")
    text = [clap.text_score(edit, "Sound of knocking on the door") for edit in edits]
    audio = [clap.audio_score(edit, source) for edit in edits]
    assert text[-1] > text[0]
    assert audio[0] > audio[-1]
