"""What a finished run leaves: Table 1, its summary and the paper's Figures 2 and 4."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import soundfile
from matplotlib.figure import Figure

from helpers.audio import Clip, match_loudness
from helpers.display.figures import Curves, Strengths, strength_curves, strength_grid
from helpers.editing.optimisation import write_atomically
from helpers.evaluation.experiment import Experiment, describe
from helpers.evaluation.selection import bootstrap
from helpers.evaluation.table import EDIT_TITLES, FLOORS, MEASURES, Results

WRITTEN = ("summary.csv", "table1.md", "table1.html", "figure2.png", "figure4.png")
SEAL = "run.json"  # written last: what the files beside it were made from
ABLATIONS = ("ours-without-step1", "ours-without-step2")


def write_report(experiment: Experiment, pairs: str) -> bool:
    """Write tables and figures of a run, unless they are there already.

    Parameters
    ----------
    experiment : Experiment
        All of it done.
    pairs : str
        What the pair set is called.

    Returns
    -------
    bool
        Whether anything was written.
    """
    results = Results(experiment.rows(), experiment.methods, pairs)
    folder = experiment.folder
    seal = json.dumps(made_from(experiment, results), indent=1, ensure_ascii=False) + "\n"
    if is_written(folder, seal):
        return False
    (folder / SEAL).unlink(missing_ok=True)
    _write_text(folder / "summary.csv", results.summary())
    _write_text(folder / "table1.md", results.markdown())
    _write_text(folder / "table1.html", results.html())
    _write_figure(folder / "figure2.png", figure_2(experiment))
    _write_figure(folder / "figure4.png", figure_4(results))
    _write_text(folder / SEAL, seal)
    return True


def is_written(folder: Path, seal: str) -> bool:
    """Tell whether a folder holds every file of the report that this seal describes."""
    if not all((folder / name).is_file() for name in (*WRITTEN, SEAL)):
        return False
    return (folder / SEAL).read_text(encoding="utf-8") == seal


def made_from(experiment: Experiment, results: Results) -> dict[str, object]:
    """Collect what decides what the report says: model, judge, pairs, methods and scores."""
    return {
        "model": experiment.model.name,
        "fingerprint": experiment.model.fingerprint,
        "clap": experiment.clap.name,
        "pairs": results.pairs,
        "ids": [pair.id for pair in experiment.pairs],
        "settings": {name: describe(method) for name, method in experiment.methods.items()},
        "strengths": {name: experiment.strengths_of(name) for name in experiment.methods},
        "fixed": {name: method.fixed_strength for name, method in experiment.methods.items()},
        "scores": hashlib.sha256(repr(results.rows).encode()).hexdigest(),
    }


def figure_2(experiment: Experiment) -> Figure:
    """Rising strength on the first style transfer pair, or else on the first pair, equally loud."""
    rows = experiment.rows()
    pairs = sorted(experiment.pairs, key=lambda pair: pair.edit != "style_transfer")
    pair = next(pair for pair in pairs if any(row.pair == pair.id for row in rows))
    source = Clip(pair.source.clip.waveform, f"source of “{pair.prompt}”")
    shown = []
    for name in _with_a_knob(experiment.methods):
        mine = sorted(
            (row for row in rows if (row.pair, row.method) == (pair.id, name)),
            key=lambda row: row.strength,
        )
        if mine:
            edits = [_read(experiment.folder / row.audio) for row in mine]
            method = experiment.methods[name]
            shown.append(Strengths(method.name, method.knob, [r.strength for r in mine], edits))
    # A quiet edit would be black beside a loud one, whatever it holds.
    source, *heard = match_loudness([source, *(clip for row in shown for clip in row.edits)])
    equally_loud = iter(heard)
    rows_shown = [replace(row, edits=[next(equally_loud) for _ in row.edits]) for row in shown]
    return strength_grid(source, rows_shown)


def figure_4(results: Results) -> Figure:
    """Text and Audio CLAP against strength, a column per edit type."""
    panels: dict[str, list[Curves]] = {}
    for edit in results.edits:
        panels[EDIT_TITLES[edit]] = []
        for name in _with_a_knob(results.methods):
            rows = [row for row in results.rows if (row.edit, row.method) == (edit, name)]
            values = sorted({row.strength for row in rows})
            if not values:
                continue
            scores = {}
            for measure in ("text_clap", "audio_clap"):
                estimates = [
                    bootstrap(getattr(row, measure) for row in rows if row.strength == value)
                    for value in values
                ]
                scores[MEASURES[measure]] = np.array([[e.low, e.mean, e.high] for e in estimates]).T
            method = results.methods[name]
            panels[EDIT_TITLES[edit]].append(Curves(method.name, method.knob, values, scores))
    return strength_curves(panels)


def _with_a_knob(methods: Sequence[str]) -> list[str]:
    """Methods that the paper's figures could show, or all if there is none of them."""
    shown = [name for name in methods if name not in (*FLOORS, *ABLATIONS)]
    return shown or list(methods)


def _read(path: Path) -> Clip:
    """Read an edit with the level it was written with."""
    waveform, _ = soundfile.read(path, dtype="float32")
    return Clip(waveform, path.stem)


def _write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda part: part.write_text(text, encoding="utf-8"))


def _write_figure(path: Path, figure: Figure) -> None:
    write_atomically(path, lambda part: figure.savefig(part, format="png", dpi=120))
    plt.close(figure)
