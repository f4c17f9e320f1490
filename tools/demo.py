"""Edit a recording with the quickstart lesson: ``python -m tools.demo``, which is ``make demo``.

The lesson runs as it is, with papermill, and leaves what one needs to hear and see the edit.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
import papermill
from nbconvert import HTMLExporter
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import Engine, papermill_engines
from papermill.exceptions import PapermillExecutionError
from tqdm import tqdm
from traitlets.config import Config

from helpers.audio import load_clip
from helpers.editing.interpolation import check_eta
from helpers.models.prompts import check_prompts
from helpers.storage import output_folder, read_text, write_text
from tools.command import command

LESSON = Path(__file__).resolve().parent.parent / "notebooks" / "00_quickstart.ipynb"
ROOM = 20e6  # bytes that the results take, and a little more
WIDGET = "application/vnd.jupyter.widget-view+json"
ENGINE = "lesson"


@command
def main(arguments: list[str] | None = None) -> int:
    """Run the demo.

    Parameters
    ----------
    arguments : list of str, optional
        The command line's by default.

    Returns
    -------
    int
        0, or 1 if the lesson stopped, or 2 if the input cannot be used; the reason is on stderr.
    """
    options = _parser().parse_args(arguments)
    _check(options)
    with output_folder(options.out, ROOM) as out:
        options.out = out
        try:
            edit(out, lesson_parameters(options))
        except PapermillExecutionError as error:
            print(f"The lesson stopped: {error.evalue}", file=sys.stderr)
            print(f"The rest is in {out / 'quickstart.ipynb'}.", file=sys.stderr)
            return 1
        report(out)
    return 0


def lesson_parameters(options: argparse.Namespace) -> dict[str, object]:
    """Parameters for the lesson's cell; what was not asked for keeps its default."""
    asked = {"prompt": options.prompt, "eta": options.eta, "start": options.start}
    if options.audio is not None:
        asked["audio_path"] = str(options.audio.expanduser().resolve())
    fixed = {"output_folder": str(options.out.resolve()), "other_prompt": ""}
    return {name: value for name, value in asked.items() if value is not None} | fixed


def edit(out: Path, parameters: dict[str, object]) -> None:
    """Run the lesson into a folder that exists, and make a page of it.

    Parameters
    ----------
    out : Path
        Gets ``quickstart.ipynb`` and ``quickstart.html``, and from the lesson ``source.wav``,
        ``reconstruction.wav``, ``edit.wav``, ``spectrograms.png`` and ``scores.json``.
    parameters : dict
        Of the lesson's parameter cell.

    Raises
    ------
    PapermillExecutionError
        If a cell fails; the notebook up to there is kept.
    """
    notebook = out / "quickstart.ipynb"
    with tempfile.TemporaryDirectory() as sockets:
        papermill.execute_notebook(
            _literally(LESSON),
            _literally(notebook),
            parameters,
            engine_name=ENGINE,
            progress_bar=False,
            kernel_name="python3",
            cwd=out,
            config=_connection(sockets),
        )
    title = {"metadata": {"name": "Quickstart"}}
    page, _ = HTMLExporter().from_notebook_node(without_widgets(notebook), title)
    write_text(out / "quickstart.html", page)


def _literally(path: Path) -> str:
    """Return a path for papermill, which fills in what stands in braces."""
    return str(path).replace("{", "{{").replace("}", "}}")


def without_widgets(path: Path) -> nbformat.NotebookNode:
    """Read a notebook without progress bars and buttons, which are dead on a page."""
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if WIDGET not in o.get("data", {})]
    return notebook


def report(out: Path) -> None:
    """Print the scores of the edit, and where things are."""
    scores = json.loads(read_text(out / "scores.json"))
    text, audio = scores["text_clap"], scores["audio_clap"]
    print(f"“{scores['prompt']}”, η = {scores['eta']:g}, {scores['clap']} CLAP")
    print(f"Text CLAP  {text:.3f}\nAudio CLAP {audio:.3f}\nsum        {text + audio:.3f}")
    print(f"Listen: {out / 'source.wav'}, {out / 'edit.wav'}")
    print(f"Look:   {out / 'quickstart.html'}, {out / 'quickstart.ipynb'}")


class _Client(PapermillNotebookClient):
    """Runs a notebook, and shows the progress bars of its cells on the terminal."""

    def execute(self, **options: object) -> nbformat.NotebookNode:
        self.widget, self.bar = "", tqdm(disable=True)  # the last bar of the lesson, and ours
        try:
            return super().execute(**options)
        finally:
            self.bar.close()

    def handle_comm_msg(self, outs: list, msg: dict, cell_index: int) -> None:
        """Keep the state of a widget, and let the terminal's bar follow if it is one."""
        super().handle_comm_msg(outs, msg, cell_index)
        name = msg["content"]["comm_id"]
        widget = self.widget_state.get(name, {})
        if widget.get("_model_name") == "FloatProgressModel" and widget.get("value"):
            if name != self.widget:
                self.bar.close()
                self.widget, self.bar = name, tqdm(total=int(widget["max"]), desc=self._label(name))
            self.bar.update(int(widget["value"]) - self.bar.n)

    def _label(self, name: str) -> str:
        """Return what stands to the left of a bar: tqdm's own words, without its percentage."""
        for widget in self.widget_state.values():
            children = [child.removeprefix("IPY_MODEL_") for child in widget.get("children", [])]
            if name in children:
                label, _, _ = self.widget_state[children[0]]["value"].partition(":")
                return label.replace("\u2007", " ")  # tqdm's spaces for HTML
        return ""


class _Engine(Engine):
    """Papermill's way of running a notebook, with our client."""

    @classmethod
    def execute_managed_notebook(
        cls, nb_man: object, kernel_name: str, *, config: Config, **_: object
    ) -> None:
        # What a lesson says comes by messages; the process only complains when it is stopped.
        client = _Client(nb_man, kernel_name=kernel_name, config=config)
        client.execute(stderr=subprocess.DEVNULL)


papermill_engines.register(ENGINE, _Engine)


def _connection(folder: str) -> Config:
    """Return settings that connect the kernel by sockets in a folder, which no network reaches."""
    config = Config()
    if sys.platform != "win32":  # which has no such sockets
        config.KernelManager.transport = "ipc"
        config.KernelManager.connection_file = str(Path(folder, "kernel.json"))
    return config


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.demo", description="Edit a recording with a sentence."
    )
    parser.add_argument("--audio", type=Path, help="recording (default: a synthetic telephone)")
    parser.add_argument("--start", type=float, help="where to begin in a longer one, in seconds")
    parser.add_argument("--prompt", help="what the edit should sound like")
    parser.add_argument("--eta", type=float, help="0 reconstructs, 1 follows the prompt")
    parser.add_argument("--out", type=Path, default=Path("outputs/demo"), help="folder of results")
    return parser


def _check(options: argparse.Namespace) -> None:
    """Raise a ValueError with one sentence, before any work, if the input cannot be used."""
    for path in (options.audio, options.out):
        if path is not None and not _is_text(str(path)):
            raise ValueError(f"The name {path} is not in UTF-8: name another file or folder.")
    if options.audio is not None:
        load_clip(options.audio.expanduser(), options.start)
    elif options.start is not None:
        raise ValueError("A start needs a recording: name one with --audio (AUDIO=path).")
    if options.prompt is not None:
        check_prompts([options.prompt], None)
    if options.eta is not None:
        check_eta(options.eta)


def _is_text(name: str) -> bool:
    return name.encode("utf-8", "replace").decode() == name


if __name__ == "__main__":
    sys.exit(main())
