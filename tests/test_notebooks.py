"""What nbval does not see: that every lesson is stored executed, whole and in the agreed form."""

import base64
import io
import re
from datetime import date
from pathlib import Path

import ipykernel.kernelspec
import nbformat
import numpy as np
import pyloudnorm
import pytest
import soundfile
from nbformat import NotebookNode

from helpers.audio import CLIP_SAMPLES, SAMPLE_RATE, Clip
from helpers.evaluation.clap import load_clap
from helpers.evaluation.classifier import name_sounds

LESSONS = sorted((Path(__file__).resolve().parent.parent / "notebooks").glob("[0-9]*.ipynb"))
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
BOX = ["your time", "computing", "memory", "downloads"]
EXERCISE = r"^### (\d)\. .+ \((?:easy|medium|hard), (?:open question, )?\d+ minutes\)$"
UNCOMPARED = {"colab", "nbval-ignore-output", "nbval-skip"}
PLAYER = r'<td[^>]*>([^<]*)</td><td><audio [^>]*src="data:audio/mpeg;base64,([^"]+)"'


@pytest.fixture(params=LESSONS, ids=lambda path: path.stem)
def lesson(request) -> NotebookNode:
    notebook = nbformat.read(request.param, as_version=4)
    nbformat.validate(notebook)
    return notebook


def code_cells(lesson: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in lesson.cells if cell.cell_type == "code"]


def prose_of(lesson: NotebookNode) -> str:
    return "\n".join(cell.source for cell in lesson.cells if cell.cell_type == "markdown")


def tags(cell: NotebookNode) -> set[str]:
    return set(cell.metadata.get("tags", []))


def texts(cell: NotebookNode) -> list[str]:
    """What a cell printed or returned in words and figures; an object's repr is neither."""
    printed = [o.text for o in cell.outputs if o.get("name") == "stdout"]
    returned = [o.get("data", {}).get("text/plain", "") for o in cell.outputs]
    return printed + [text for text in returned if not re.match(r"<|\w+\(|$", text)]


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
    assert set(lesson.metadata) <= {"kernelspec", "language_info"}


def test_saving_a_lesson_in_jupyterlab_changes_nothing(request, lesson, tmp_path):
    """JupyterLab writes the kernel's own name for itself, and the notebook as nbformat does."""
    kernel = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    assert lesson.metadata.kernelspec == kernel
    specification = ipykernel.kernelspec.get_kernel_dict()
    assert specification["display_name"] == kernel["display_name"]
    stored = request.node.callspec.params["lesson"].read_text(encoding="utf-8")
    assert f"{nbformat.writes(lesson)}\n" == stored


def test_no_run_has_injected_parameters(lesson):
    found = [tag for cell in code_cells(lesson) for tag in tags(cell)]
    assert found.count("parameters") == 1
    assert "injected-parameters" not in found


def test_nothing_is_left_to_fill_in(lesson):
    for cell in lesson.cells:
        assert not re.search(r"\b(?:BOX_\w+|TODO|FIXME|XXX)\b", cell.source), cell.source


def test_no_path_of_the_writers_machine_is_stored(lesson):
    for text in (text for cell in code_cells(lesson) for text in texts(cell)):
        assert not re.search(r"/(?:home|root|tmp|Users)/", text), text


def test_enough_is_compared(lesson):
    """nbval holds what a lesson says only where a cell says something."""
    compared = [cell for cell in code_cells(lesson) if not tags(cell) & UNCOMPARED]
    compared = [cell for cell in compared if "NBVAL_" not in cell.source]
    assert sum(any(text.strip() for text in texts(cell)) for cell in compared) >= 8


def test_cells_are_short(lesson):
    lengths = [len(cell.source.splitlines()) for cell in code_cells(lesson)]
    assert max(lengths) <= 40
    assert np.median(lengths) <= 8


def test_sections_stand_in_their_order(lesson):
    prose = re.sub(r"^```.*?^```", "", prose_of(lesson), flags=re.DOTALL | re.MULTILINE)
    assert re.findall(r"^## (.+)$", prose, re.MULTILINE) == SECTIONS
    assert re.match(r"# .+\n\n\*\*", prose), "a title, then one sentence in bold"
    assert prose.index("## Goals") < prose.index("**Before you start**")
    assert prose.index("**Before you start**") < prose.index("## Setup")
    assert r"\tag{" in prose.partition("## Theory")[2].partition("## Practice")[0]


def test_goals_are_named(lesson):
    goals = prose_of(lesson).partition("## Goals")[2].partition("**Before you start**")[0]
    assert "After this lesson you can" in goals
    assert len(re.findall(r"^- ", goals, re.MULTILINE)) >= 2


def test_box_tells_measured_time_and_memory_and_when_they_were_measured(lesson):
    box = prose_of(lesson).partition("**Before you start**")[2].partition("## Setup")[0]
    box = dict(re.findall(r"^\| (.+?) \| (.+) \|$", box, re.MULTILINE))
    assert list(box) == BOX
    assert re.search(r"\d+ (?:s|seconds|minutes)\b", box["computing"]), box["computing"]
    assert re.search(r"\d [MG]B\b", box["memory"]), box["memory"]
    [day] = re.findall(r"\d{4}-\d{2}-\d{2}", box["computing"])
    date.fromisoformat(day)


def test_every_practice_cell_follows_or_precedes_prose(lesson):
    kinds = "".join(cell.cell_type[0] for cell in lesson.cells)
    assert "ccc" not in kinds, "three code cells without a word between them"


def test_exercises_have_a_difficulty_a_time_and_a_check(lesson):
    """Three to five; one of them may be a question that is graded by hand."""
    inside, checks = False, []
    for cell in lesson.cells:
        if cell.cell_type == "markdown":
            for heading in re.findall(r"^##+ .+$", cell.source, re.MULTILINE):
                if heading.startswith("## "):
                    inside = heading == "## Exercises"
                elif inside and "SOLUTION" not in heading:
                    assert re.match(EXERCISE, heading), heading
                    checks.append([])
                    assert heading.startswith(f"### {len(checks)}. "), heading
        if inside and cell.metadata.get("nbgrader", {}).get("grade"):
            checks[-1].append(cell.cell_type)
    assert 3 <= len(checks) <= 5
    assert all(len(kinds) == 1 for kinds in checks), checks
    assert checks.count(["markdown"]) <= 1


def test_there_is_something_to_see_and_to_hear(lesson):
    assert len(outputs(lesson, "image/png")) >= 2
    tables = [html for html in outputs(lesson, "text/html") if "<audio" in html]
    assert len(tables) >= 2 or len(player_sounds(lesson)) >= 3


def test_players_hold_sound_that_is_neither_clipped_nor_silent(lesson):
    meter = pyloudnorm.Meter(SAMPLE_RATE)
    for title, waveform in player_sounds(lesson):
        assert np.isfinite(waveform).all(), title
        assert 0.01 < np.abs(waveform).max() < 1.0, title
        padded = np.pad(waveform, (0, max(0, CLIP_SAMPLES - len(waveform))))
        assert -35 < meter.integrated_loudness(padded) < -20, title


def test_links_lead_somewhere(lesson):
    for target in re.findall(r"\]\((?!https?:|#)([^)]+)\)", prose_of(lesson)):
        assert (LESSONS[0].parent / target).exists(), target


def test_the_quickstart_edit_moves_from_the_recording_to_the_sentence():
    """Stored sounds: Text CLAP grows with η, Audio CLAP falls, and the classifier agrees."""
    (_, source), *rest = player_sounds(nbformat.read(LESSONS[0], as_version=4))[:5]
    source, edits = Clip(source), [Clip(waveform, title) for title, waveform in rest]
    clap = load_clap("pocket")
    text = [clap.text_score(edit, "Sound of knocking on the door") for edit in edits]
    audio = [clap.audio_score(edit, source) for edit in edits]
    assert text[-1] > text[0]
    assert audio[0] > audio[-1]
    heard = name_sounds([source, edits[0], edits[-1]])
    assert heard == ["phone_ringing", "phone_ringing", "door_knock"]
