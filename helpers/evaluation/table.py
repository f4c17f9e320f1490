"""Table 1 and what stands beside it, as Markdown and HTML (Sec. 4.2 of the paper).

For every method the strength with the largest sum is chosen pair by pair, as the paper does, and a
strength that was fixed beforehand is shown beside it.  Intervals are bootstrap 95 % intervals over
pairs.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from statistics import median

from helpers.baselines import Method
from helpers.evaluation.scores import Row
from helpers.evaluation.selection import (
    Estimate,
    best_method,
    difference_at_equal_text,
    mean,
    of_fixed_strength,
    of_largest_sum,
    paired_difference,
    rise,
)

EDIT_TITLES = {
    "addition": "Addition",
    "inpainting": "Inpainting",
    "style_transfer": "Style transfer",
}
POOLED = "Addition and style transfer"
FLOORS = ("generation", "source")
SUBJECTS = ("ours-lora", "ours")  # what the paper proposes
MEASURES = {
    "text_clap": "Text CLAP",
    "audio_clap": "Audio CLAP",
    "sum": "Sum",
    "onset_f1": "Onset F1",
    "offset_f1": "Offset F1",
    "event_f1": "Event F1",
    "envelope_correlation": "Envelope correlation",
    "log_spectral_distance": "Log-spectral distance, dB",
    "target_probability": "Target heard",
    "source_probability": "Source heard",
    "seconds": "Seconds per edit",
}
NOTHING = "–"

# Table 1 of the paper: Text CLAP, Audio CLAP and their sum.
PAPER: dict[str, dict[str, tuple[float, float, float]]] = {
    "AudioLDM": {
        "addition": (0.524, 0.705, 1.229),
        "inpainting": (0.544, 0.921, 1.465),
        "style_transfer": (0.260, 0.710, 0.970),
    },
    "AUDIT": {
        "addition": (0.208, 0.777, 0.985),
        "inpainting": (0.223, 0.689, 0.912),
    },
    "SDEdit": {
        "addition": (0.237, 0.688, 0.925),
        "inpainting": (0.280, 0.699, 0.979),
        "style_transfer": (0.156, 0.495, 0.651),
    },
    "Ours": {
        "addition": (0.544, 0.822, 1.366),
        "inpainting": (0.633, 0.839, 1.472),
        "style_transfer": (0.460, 0.681, 1.141),
    },
    "Ours (LoRA)": {
        "addition": (0.524, 0.883, 1.407),
        "inpainting": (0.645, 0.854, 1.499),
        "style_transfer": (0.465, 0.696, 1.161),
    },
}
PAPER_NOTE = (
    "As published, not measured here: Paissan et al., 2024, Table 1, 27 clips of 10 s. Ours ran on "
    "TANGO there, AudioLDM and AUDIT are models of their own, and the CLAP checkpoint is not "
    "named: its numbers do not compare with any measured here, and its order is one of models as "
    "much as of methods."
)


class Bold(str):
    """A cell that stands out."""


@dataclass(frozen=True)
class Table:
    """A title, a sentence or two, and cells."""

    title: str
    note: str
    header: list[str]
    rows: list[list[str]] = field(default_factory=list)

    def markdown(self) -> str:
        """As GitHub's Markdown."""
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        table = "\n".join(f"| {' | '.join(map(_markdown_cell, line))} |" for line in lines)
        return f"## {self.title}\n\n{self.note}\n\n{table}\n"

    def html(self) -> str:
        """As an HTML section."""
        head = "".join(f"<th>{escape(cell)}</th>" for cell in self.header)
        body = "".join(f"<tr>{''.join(map(_html_cell, row))}</tr>\n" for row in self.rows)
        return (
            f"<h2>{escape(self.title)}</h2>\n<p>{escape(self.note)}</p>\n"
            f"<table>\n<tr>{head}</tr>\n{body}</table>\n"
        )


@dataclass(frozen=True)
class Results:
    """Scored edits, and the methods that made them.

    Parameters
    ----------
    rows : list of Row
    methods : mapping of str to Method
        By key, in the tables' order.
    pairs : str
        What the pair set is called.
    """

    rows: list[Row]
    methods: Mapping[str, Method]
    pairs: str = "pairs"

    @cached_property
    def chosen(self) -> list[Row]:
        """The row of the largest sum, per pair and method."""
        return of_largest_sum(self.rows)

    @cached_property
    def fixed(self) -> list[Row]:
        """The row of the fixed strength, per pair and method."""
        return of_fixed_strength(
            self.rows, {name: method.fixed_strength for name, method in self.methods.items()}
        )

    @property
    def edits(self) -> list[str]:
        """Edit types that occur."""
        present = {row.edit for row in self.rows}
        return [edit for edit in EDIT_TITLES if edit in present]

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """Edit types by title, and the two that the paper pools."""
        groups = {EDIT_TITLES[edit]: (edit,) for edit in self.edits}
        pooled = ("addition", "style_transfer")
        return groups | ({POOLED: pooled} if set(pooled) <= set(self.edits) else {})

    @property
    def baselines(self) -> list[str]:
        """Methods that are neither the paper's nor one of its ablations, nor a floor."""
        return [m for m in self.methods if not m.startswith("ours") and m not in FLOORS]

    @property
    def description(self) -> str:
        """Model, CLAP and pairs in a sentence."""
        row = self.rows[0]
        counts = {edit: len({r.pair for r in self.rows if r.edit == edit}) for edit in self.edits}
        counted = ", ".join(f"{n} {EDIT_TITLES[edit].lower()}" for edit, n in counts.items())
        return (
            f"Model {row.model} ({row.fingerprint}), CLAP {row.clap}, pairs {self.pairs}: "
            f"{counted}."
        )

    def _ablated(self) -> str:
        """Say which method the ablations leave a step out of."""
        ablation = self.methods.get("ours-without-step1")
        whole = [m for m in SUBJECTS if m in self.methods]
        same = [m for m in whole if ablation and self.methods[m].settings == ablation.settings]
        return f" The ablations leave one step out of {self.name(same[0])}." if same else ""

    def name(self, method: str) -> str:
        """Return what tables call a method."""
        return self.methods[method].name

    def tables(self) -> list[Table]:
        """All tables that have rows, Table 1 first and the paper's beside it."""
        tables = [
            self.clap_table(),
            paper_table(),
            self.difference_table(self.chosen, "sum", "strength of the largest sum"),
            self.difference_table(self.fixed, "sum", "fixed strength"),
            self.difference_table(self.chosen, "target_probability", "strength of the largest sum"),
            self.beside_clap_table(),
            self.equal_text_table(),
            self.trend_table(),
            self.pair_table(),
        ]
        return [table for table in tables if table.rows]

    def clap_table(self) -> Table:
        """Table 1: two rows per method, three columns per edit type."""
        header = ["Method", "Strength"]
        for edit in self.edits:
            header += [f"{EDIT_TITLES[edit]}: {name}" for name in ("Text", "Audio", "Sum")]
        selections = {"chosen": self.chosen, "fixed": self.fixed}
        best = {
            (kind, edit): best_method(
                _of(rows, [edit]), [m for m in self.methods if m not in FLOORS]
            )
            for kind, rows in selections.items()
            for edit in self.edits
        }
        table = Table(
            "Table 1: CLAP scores",
            f"{self.description} Means over pairs; the sum with its 95 % interval; the highest "
            "sum of each edit type in bold, but for the floors. The largest sum is chosen pair by "
            f"pair, with its median strength in brackets.{self._ablated()}",
            header,
        )
        for method in self.methods:
            for kind, rows in selections.items():
                mine = [row for row in rows if row.method == method]
                if not mine or (kind == "fixed" and len(self._strengths(method)) == 1):
                    continue
                cells = [self.name(method), self._strength_cell(method, kind, mine)]
                for edit in self.edits:
                    of_edit = _of(mine, [edit])
                    total = _interval(mean(of_edit, method, "sum"))
                    cells += [_score(mean(of_edit, method, m)) for m in ("text_clap", "audio_clap")]
                    cells.append(Bold(total) if best[kind, edit] == method else total)
                table.rows.append(cells)
        return table

    def difference_table(self, rows: list[Row], measure: str, kind: str) -> Table:
        """Paired differences of the paper's method to the best baseline and to every other."""
        table = Table(
            f"Paired differences: {MEASURES[measure].lower()}, {kind}",
            "Mean difference over pairs with its 95 % interval: above 0 the first method is "
            "better. The best baseline of a column is the one with its highest mean.",
            ["Difference", *self.groups],
        )
        for subject in [name for name in SUBJECTS if name in self.methods]:
            cells = [f"{self.name(subject)} − best baseline"]
            for edits in self.groups.values():
                of_edits = _of(rows, edits)
                able = [m for m in self.baselines if set(edits) <= self.methods[m].edits]
                best = best_method(of_edits, able, measure)
                if best is None:
                    cells.append(NOTHING)
                    continue
                difference = paired_difference(of_edits, subject, best, measure)
                cells.append(Bold(f"{_signed(difference)} {self.name(best)}"))
            table.rows.append(cells)
            for other in self.methods:
                if other == subject:
                    continue
                differences = [
                    _signed(paired_difference(_of(rows, edits), subject, other, measure))
                    if set(edits) <= self.methods[other].edits
                    else NOTHING
                    for edits in self.groups.values()
                ]
                table.rows.append([f"{self.name(subject)} − {self.name(other)}", *differences])
        return table

    def beside_clap_table(self) -> Table:
        """Show what CLAP misses: onsets, envelope, spectrum, and what the classifier hears."""
        measures = [m for m in MEASURES if m not in ("text_clap", "audio_clap", "sum")]
        table = Table(
            "Beside CLAP",
            "At the strength of the largest sum, with 95 % intervals. Onset and offset F1: against "
            "what is detected in the source, within 50 ms (offsets: or a fifth of the event); "
            "event F1: onsets against the true ones, where they are known; all of them outside "
            "the gap, as are envelope and log-spectral distance. Target and source "
            "heard: the independent classifier's probability of the sound to add or turn into, "
            "and of the source's own. Seconds: a sweep's, shared by its strengths; an edit by "
            "itself pays for Steps 1 and 2 in full.",
            ["Edit", "Method", *(MEASURES[m] for m in measures)],
        )
        for edit in self.edits:
            rows = _of(self.chosen, [edit])
            for method in self.methods:
                if any(row.method == method for row in rows):
                    cells = [_interval(mean(rows, method, m)) for m in measures[:-1]]
                    seconds = mean(rows, method, "seconds").mean
                    table.rows.append(
                        [EDIT_TITLES[edit], self.name(method), *cells, f"{seconds:.1f}"]
                    )
        return table

    def equal_text_table(self) -> Table:
        """Onsets where two methods follow the text alike (Fig. 2's claim)."""
        table = Table(
            "Onset F1 at equal Text CLAP",
            "Mean difference over pairs, with its 95 % interval, between two sweeps at the Text "
            "CLAP values that both reach; n counts the pairs whose sweeps overlap.",
            ["Difference", *self.groups],
        )
        for subject in [name for name in SUBJECTS if name in self.methods]:
            for other in self.baselines:
                cells = []
                for edits in self.groups.values():
                    difference = difference_at_equal_text(_of(self.rows, edits), subject, other)
                    shown = f"{_signed(difference)} n = {difference.n}"
                    cells.append(shown if difference.n else NOTHING)
                table.rows.append([f"{self.name(subject)} − {self.name(other)}", *cells])
        return table

    def trend_table(self) -> Table:
        """Fig. 4 in two numbers per method."""
        table = Table(
            "From the weakest to the strongest edit",
            "Change of the scores between the ends of the sweep, with its 95 % interval: Text CLAP "
            "should rise and Audio CLAP should fall.",
            ["Method", *(f"{g}: {name}" for g in self.groups for name in ("Text", "Audio"))],
        )
        for method in self.methods:
            if len(self._strengths(method)) < 2:
                continue
            cells = [
                _signed(rise(_of(self.rows, edits), method, measure))
                if set(edits) <= self.methods[method].edits
                else NOTHING
                for edits in self.groups.values()
                for measure in ("text_clap", "audio_clap")
            ]
            table.rows.append([self.name(method), *cells])
        return table

    def pair_table(self) -> Table:
        """Return the sum of every pair."""
        table = Table(
            "Pair by pair",
            "The largest sum, and the strength that gave it; the highest in bold, but for the "
            "floors.",
            ["Pair", *(self.name(method) for method in self.methods)],
        )
        chosen = {(row.pair, row.method): row for row in self.chosen}
        for pair in dict.fromkeys(row.pair for row in self.rows):
            mine = {m: chosen[pair, m] for m in self.methods if (pair, m) in chosen}
            best = max((row.sum for m, row in mine.items() if m not in FLOORS), default=None)
            cells = []
            for method in self.methods:
                row = mine.get(method)
                text = f"{row.sum:.3f} ({row.strength:g})" if row else NOTHING
                stands_out = row is not None and method not in FLOORS and row.sum == best
                cells.append(Bold(text) if stands_out else text)
            table.rows.append([pair, *cells])
        return table

    def summary(self) -> str:
        """Every mean and interval as tidy CSV: selection, edit type, method, measure."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["selection", "edit", "method", "measure", "n", "mean", "low", "high"])
        for kind, rows in {"largest sum": self.chosen, "fixed strength": self.fixed}.items():
            for title, edits in self.groups.items():
                for method in self.methods:
                    for measure in MEASURES:
                        e = mean(_of(rows, edits), method, measure)
                        if e.n:
                            writer.writerow(
                                [kind, title, method, measure, e.n, e.mean, e.low, e.high]
                            )
        return text.getvalue()

    def markdown(self) -> str:
        """Return the whole report."""
        tables = "\n".join(table.markdown() for table in self.tables())
        return (
            f"{tables}\n## Figures\n\n![Spectrograms of rising strength](figure2.png)\n\n"
            "![Scores against strength](figure4.png)\n"
        )

    def html(self) -> str:
        """Return the whole report as a page, with players."""
        tables = "".join(table.html() for table in self.tables())
        return (
            '<!DOCTYPE html>\n<html lang="en">\n<meta charset="utf-8">\n<title>Table 1</title>\n'
            f"<style>{STYLE}</style>\n{tables}<h2>Figures</h2>\n"
            '<p><img src="figure2.png" alt="Spectrograms of rising strength"></p>\n'
            '<p><img src="figure4.png" alt="Scores against strength"></p>\n'
            f"{''.join(self._players())}</html>\n"
        )

    def _players(self) -> Iterator[str]:
        """Yield the sources and the edits of the largest sum, to listen to."""
        chosen = {(row.pair, row.method): row for row in self.chosen}
        yield "<h2>Listen</h2>\n<p>Edits at the strength of the largest sum.</p>\n<table>\n"
        for row in {row.pair: row for row in self.rows}.values():
            yield f"<tr><td>{escape(row.pair)}<br>“{escape(row.prompt)}”</td>"
            yield _player("source", f"audio/{row.pair}/source.flac")
            for method in self.methods:
                if (edit := chosen.get((row.pair, method))) and method != "source":
                    yield _player(f"{self.name(method)} {edit.strength:g}", edit.audio)
            yield "</tr>\n"
        yield "</table>\n"

    def _strengths(self, method: str) -> list[float]:
        return sorted({row.strength for row in self.rows if row.method == method})

    def _strength_cell(self, method: str, kind: str, rows: list[Row]) -> str:
        if len(self._strengths(method)) == 1:
            return NOTHING
        knob = self.methods[method].knob
        if kind == "fixed":
            return f"{knob} {self.methods[method].fixed_strength:g}"
        return f"largest sum ({knob} {median(row.strength for row in rows):g})"


def paper_table() -> Table:
    """Return the paper's Table 1, marked as the paper's."""
    header = ["Method"]
    for title in EDIT_TITLES.values():
        header += [f"{title}: {name}" for name in ("Text", "Audio", "Sum")]
    table = Table("The paper's Table 1", PAPER_NOTE, header)
    for method, scores in PAPER.items():
        cells = [method]
        for edit in EDIT_TITLES:
            published = scores.get(edit)
            cells += [f"{value:.3f}" for value in published] if published else [NOTHING] * 3
        table.rows.append(cells)
    return table


STYLE = (
    "body { font-family: sans-serif; margin: 2em; } table { border-collapse: collapse; } "
    "td, th { border-bottom: 1px solid #ccc; padding: 0.3em 0.6em; text-align: left; "
    "white-space: nowrap; } img { max-width: 100%; } audio { width: 14em; }"
)


def _of(rows: Sequence[Row], edits: Sequence[str]) -> list[Row]:
    return [row for row in rows if row.edit in edits]


def _score(estimate: Estimate) -> str:
    return f"{estimate.mean:.3f}" if estimate.n else NOTHING


def _interval(estimate: Estimate) -> str:
    if estimate.n < 2:
        return _score(estimate)
    return f"{estimate.mean:.3f} ({estimate.low:.3f} … {estimate.high:.3f})"


def _signed(estimate: Estimate) -> str:
    if not estimate.n:
        return NOTHING
    if estimate.n < 2:
        return _minus(f"{estimate.mean:+.3f}")
    return _minus(f"{estimate.mean:+.3f} ({estimate.low:+.3f} … {estimate.high:+.3f})")


def _minus(text: str) -> str:
    return text.replace("-", "−")


def _markdown_cell(cell: str) -> str:
    text = cell.replace("|", "\\|")
    return f"**{text}**" if isinstance(cell, Bold) else text


def _html_cell(cell: str) -> str:
    text = f"<b>{escape(cell)}</b>" if isinstance(cell, Bold) else escape(cell)
    return f"<td>{text}</td>"


def _player(title: str, audio: str) -> str:
    source = escape(audio, quote=True)
    return f'<td>{escape(title)}<br><audio controls preload="none" src="{source}"></audio></td>'
