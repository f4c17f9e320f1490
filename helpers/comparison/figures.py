"""The paper's Figures 2 and 4 of a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from matplotlib.figure import Figure

from helpers.audio import Clip, match_loudness
from helpers.comparison.experiment import Experiment
from helpers.comparison.statistics import estimates
from helpers.comparison.tables import EDIT_TITLES, MEASURES, Results
from helpers.display.figures import Curves, Strengths, strength_curves, strength_grid
from helpers.methods import Method


def figure_2(experiment: Experiment) -> Figure:
    """Rising setting on the first style transfer pair, or else on the first pair, equally loud."""
    drawn = [experiment.methods[key] for key in _drawn(experiment.methods)]
    able = [p for p in experiment.pairs if any(p.edit in method.edits for method in drawn)]
    pair = min(able, key=lambda pair: pair.edit != "style_transfer")
    source = Clip(pair.source.clip.waveform, f"source of “{pair.prompt}”")
    shown = [
        Strengths(
            experiment.methods[key].name,
            experiment.methods[key].knob,
            experiment.settings_of(key),
            experiment.edits(pair, key),
        )
        for key in _drawn(experiment.methods)
        if pair.edit in experiment.methods[key].edits
    ]
    # A quiet edit would be black beside a loud one, whatever it holds.
    source, *heard = match_loudness([source, *(clip for row in shown for clip in row.edits)])
    equally_loud = iter(heard)
    rows = [replace(row, edits=[next(equally_loud) for _ in row.edits]) for row in shown]
    return strength_grid(source, rows)


def figure_4(results: Results) -> Figure:
    """Text and Audio CLAP against the setting, a column per edit type."""
    panels: dict[str, list[Curves]] = {}
    for edit in results.edits:
        panels[EDIT_TITLES[edit]] = []
        for key in _drawn(results.methods):
            mine = results.scores.query("edit == @edit and method == @key").sort_values("setting")
            if mine.empty:
                continue
            bands = {}
            for measure in ("text_clap", "audio_clap"):
                found = estimates(mine, ["setting"], measure)
                bands[MEASURES[measure]] = found[["low", "mean", "high"]].to_numpy().T
            method = results.methods[key]
            settings = mine["setting"].unique().tolist()
            panels[EDIT_TITLES[edit]].append(Curves(method.name, method.knob, settings, bands))
    return strength_curves(panels)


def _drawn(methods: Mapping[str, Method]) -> list[str]:
    """Methods that the paper's figures could show, or all if there is none of them."""
    shown = [key for key, m in methods.items() if m.role in ("subject", "baseline")]
    return shown or [*methods]
