"""The demo's command line: what it asks of the lesson, and what it says to bad input."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import nbformat
import numpy as np
import pytest
import soundfile
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from papermill.exceptions import PapermillExecutionError

from tools import demo


@pytest.fixture
def recording(tmp_path):
    """Twelve seconds at 8 kHz: longer than a clip."""
    path = tmp_path / 'a dog\'s "bark".wav'
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 12 * 8_000), 8_000)
    return path


@pytest.fixture
def asked(monkeypatch):
    """Parameters that the lesson would have been run with; it is not run."""
    runs = []

    def edit(out, parameters):
        runs.append(parameters)
        scores = {"prompt": "a bell", "eta": 0.6, "clap": "pocket"}
        scores |= {"text_clap": 0.25, "audio_clap": 0.5}
        (out / "scores.json").write_text(json.dumps(scores))

    monkeypatch.setattr(demo, "edit", edit)
    return runs


def test_without_options_the_lesson_keeps_its_defaults(asked, tmp_path):
    assert demo.main(["--out", str(tmp_path)]) == 0
    assert asked == [{"output_folder": str(tmp_path), "other_prompt": ""}]


def test_what_is_asked_reaches_the_lesson(asked, recording, tmp_path):
    out = tmp_path / "results of mine"
    options = ["--audio", recording, "--start", 1, "--prompt", "a $5 bell", "--eta", "-0.25"]
    assert demo.main([*map(str, options), "--out", str(out)]) == 0
    [parameters] = asked
    assert parameters["audio_path"] == str(recording)
    assert parameters["prompt"] == "a $5 bell"
    assert (parameters["start"], parameters["eta"]) == (1.0, -0.25)
    assert parameters["output_folder"] == str(out)


def test_it_prints_both_scores_and_their_sum(asked, tmp_path, capsys):
    demo.main(["--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "Text CLAP  0.250" in printed
    assert "Audio CLAP 0.500" in printed
    assert "sum        0.750" in printed
    assert str(tmp_path / "edit.wav") in printed


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--audio", "nothing.wav"], "no file nothing.wav"),
        (["--audio", "{text}"], "holds no sound that can be read"),
        (["--audio", "{recording}"], "is longer than the 10.24 s"),
        (["--audio", "{recording}", "--start", "12.5"], "choose a start"),
        (["--start", "1"], "needs a recording"),
        (["--prompt", "  "], "prompt is empty"),
        (["--prompt", "a dog \udcff"], "holds bytes that are no text"),
        (["--audio", "a\udcff.wav"], "is not in UTF-8"),
        (["--out", "a\udcff"], "is not in UTF-8"),
        (["--eta", "7"], "η is 7.0"),
        (["--eta", "nan"], "η is nan"),
        (["--out", "{text}"], "a file lies where a folder is needed"),
    ],
)
def test_bad_input_gets_one_sentence(options, words, asked, recording, tmp_path, capsys):
    text = tmp_path / "notes.wav"
    text.write_text("not audio")
    options = [option.format(recording=recording, text=text) for option in options]
    assert demo.main(["--out", str(tmp_path / "out"), *options]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert words in printed.err
    assert printed.err.count("\n") == 1
    assert asked == []


def test_an_unknown_option_is_refused():
    with pytest.raises(SystemExit, match="2"):
        demo.main(["--eta", "strong"])


def test_a_lesson_that_stops_says_why(monkeypatch, tmp_path, capsys):
    def edit(out, parameters):
        raise PapermillExecutionError(0, 1, "", "DataError", "The model is missing.", [])

    monkeypatch.setattr(demo, "edit", edit)
    assert demo.main(["--out", str(tmp_path)]) == 1
    assert "The lesson stopped: The model is missing." in capsys.readouterr().err


def test_the_lesson_has_every_parameter_that_the_demo_sets():
    options = ["--audio", "a", "--start", "0", "--prompt", "p", "--eta", "1"]
    parameters = demo.lesson_parameters(demo._parser().parse_args(options))
    cells = nbformat.read(demo.LESSON, as_version=4).cells
    [defaults] = [c.source for c in cells if "parameters" in c.metadata.get("tags", [])]
    names = {line.split(" = ")[0] for line in defaults.splitlines()}
    assert set(parameters) <= names


@pytest.mark.parametrize("name", ["results", "of {mine} {}", "100 % $x"])
def test_a_small_lesson_runs_and_becomes_a_page(monkeypatch, tmp_path, name):
    out = tmp_path / name
    out.mkdir()
    lesson = new_notebook(
        cells=[
            new_markdown_cell("# Lesson"),
            new_code_cell("prompt = 'nothing'", metadata={"tags": ["parameters"]}),
            new_code_cell("from IPython.display import HTML\nHTML(f'<b>heard {prompt}</b>')"),
        ],
        metadata={"kernelspec": {"name": "python3", "display_name": "", "language": "python"}},
    )
    nbformat.write(lesson, out / "lesson.ipynb")
    monkeypatch.setattr(demo, "LESSON", out / "lesson.ipynb")
    demo.edit(out, {"prompt": 'a "$5" bell'})
    page = (out / "quickstart.html").read_text()
    assert '<b>heard a "$5" bell</b>' in page
    assert "<title>Quickstart</title>" in page
    assert (out / "quickstart.ipynb").is_file()


LOOP = """
import time
from tqdm.auto import tqdm
list(tqdm(range(7), desc="Loading weights"))
for number in tqdm(range(40), desc="Step 1"):
    time.sleep(0.02)
    if number == stop:
        raise ValueError("enough")
"""


@pytest.fixture
def counting_lesson(monkeypatch, tmp_path):
    """A lesson whose cell counts to 40 beside a bar, and fails at `stop`."""
    cells = [new_code_cell("stop = None", metadata={"tags": ["parameters"]}), new_code_cell(LOOP)]
    kernel = {"name": "python3", "display_name": "", "language": "python"}
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), tmp_path / "l.ipynb")
    monkeypatch.setattr(demo, "LESSON", tmp_path / "l.ipynb")
    return tmp_path


def test_the_terminal_shows_the_bars_of_the_lesson_and_no_warning(counting_lesson, capfd):
    demo.edit(counting_lesson, {})
    told = capfd.readouterr().err.replace("\r", "\n")
    lines = [line for line in told.splitlines() if line.strip()]
    assert re.match(r"Loading weights: 100%.* 7/7 ", lines[1]), told
    assert re.match(r"Step 1: 100%.* 40/40 ", lines[-1]), told
    assert {line.partition(":")[0] for line in lines} == {"Loading weights", "Step 1"}
    assert len(lines) > 4, "the bar does not move"


def test_a_bar_stands_where_the_work_stopped(counting_lesson, capfd):
    with pytest.raises(PapermillExecutionError, match="enough"):
        demo.edit(counting_lesson, {"stop": 30})
    told = capfd.readouterr().err
    assert re.search(r"Step 1:  \d\d%.* [23]\d/40 [^\r]*\n$", told), told


SLOW = """
import time
from tqdm.auto import tqdm
for number in tqdm(range(3000), desc="Step 1"):
    time.sleep(0.02)
"""
INTERRUPTED = """
import signal
import sys
from pathlib import Path
from tools import demo

# As in a terminal: what a shell starts in the background ignores Ctrl-C, and hands that down.
signal.signal(signal.SIGINT, signal.default_int_handler)
demo.LESSON = Path(sys.argv[1])
sys.exit(demo.main(["--out", sys.argv[2]]))
"""


@pytest.mark.skipif(os.name == "nt", reason="no process groups here")
def test_ctrl_c_in_the_terminal_is_one_sentence(tmp_path):
    set_here = "output_folder = None\nother_prompt = None"
    cells = [new_code_cell(set_here, metadata={"tags": ["parameters"]}), new_code_cell(SLOW)]
    kernel = {"name": "python3", "display_name": "", "language": "python"}
    lesson = tmp_path / "lesson.ipynb"
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), lesson)
    told = tmp_path / "told"
    with told.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", INTERRUPTED, lesson, tmp_path / "out"],
            stdout=subprocess.DEVNULL,
            stderr=file,
            cwd=demo.LESSON.parent.parent,
            start_new_session=True,
        )
    try:
        while b"Step 1" not in told.read_bytes():
            assert process.poll() is None, told.read_text()
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) == 130
    finally:
        if process.poll() is None:
            process.kill()
    lines = [line for line in told.read_text().replace("\r", "\n").splitlines() if line.strip()]
    assert lines[-1] == "Stopped: run the same command again; what was done is kept."
    assert {line.partition(":")[0] for line in lines} == {"Step 1", "Stopped"}


def test_no_network_reaches_the_kernel(tmp_path):
    manager = demo._connection(str(tmp_path)).KernelManager
    assert manager.transport == "ipc"
    assert manager.connection_file == str(tmp_path / "kernel.json")


def test_progress_bars_do_not_get_into_the_page(tmp_path):
    bar = new_output("display_data", {demo.WIDGET: {"model_id": "1"}, "text/plain": "0%"})
    player = new_output("display_data", {"text/html": "<audio>"})
    cells = [new_markdown_cell("# Lesson"), new_code_cell("run()", outputs=[bar, player])]
    path = tmp_path / "lesson.ipynb"
    nbformat.write(new_notebook(cells=cells, metadata={"widgets": {}}), path)
    notebook = demo.without_widgets(path)
    assert notebook.cells[1].outputs == [player]
    assert "widgets" not in notebook.metadata
    nbformat.validate(notebook)
