"""Table 1 and what stands beside it, as Markdown and HTML (Sec. 4.2 of the paper).

For every method the setting with the largest sum is chosen pair by pair, as the paper does, and a
setting that was fixed beforehand is shown beside it.  Intervals are bootstrap 95 % intervals over
pairs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from typing import Any, cast

import pandas as pd

from helpers.comparison.selection import of_fixed_setting, of_largest_sum
from helpers.comparison.statistics import (
    Estimate,
    best_method,
    bootstrap,
    difference_at_equal_text,
    estimates,
    paired_difference,
    rise,
)
from helpers.data import data_path
from helpers.methods.method import Method, Role
from helpers.methods.ours import Ours

EDIT_TITLES = {
    "addition": "Addition",
    "inpainting": "Inpainting",
    "style_transfer": "Style transfer",
}
POOLED = "Addition and style transfer"
CLAP_MEASURES = {"text_clap": "Text", "audio_clap": "Audio", "sum": "Sum"}
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

PAPER_NOTE = (
    "As published, not measured here: Paissan et al., 2024, Table 1, 27 clips of 10 s. Ours ran on "
    "TANGO there, AudioLDM and AUDIT are models of their own, and the CLAP checkpoint is not "
    "named: its numbers do not compare with any measured here, and its order is one of models as "
    "much as of methods."
)


@dataclass(frozen=True)
class Table:
    """A title, a sentence or two, and cells.

    Attributes
    ----------
    title, note : str
    cells : pandas.DataFrame
        Strings, as they are printed.
    bold : frozenset of (int, str)
        Row numbers and columns of the cells that stand out.
    """

    title: str
    note: str
    cells: pd.DataFrame
    bold: frozenset[tuple[int, str]] = frozenset()

    def markdown(self) -> str:
        """As GitHub's Markdown."""
        cells = self.cells.map(lambda cell: cell.replace("|", "\\|"))
        for row, column in self.bold:
            cells.loc[row, column] = f"**{cells.loc[row, column]}**"
        table = cells.to_markdown(index=False, disable_numparse=True)
        return f"## {self.title}\n\n{self.note}\n\n{table}\n"

    def html(self) -> str:
        """As an HTML section."""
        style = self.cells.style.hide(axis="index").format(escape="html")
        for cell in self.bold:
            style.set_properties(subset=cell, **{"font-weight": "bold"})
        table = style.to_html(table_uuid=re.sub(r"\W+", "-", self.title))
        return f"<h2>{escape(self.title)}</h2>\n<p>{escape(self.note)}</p>\n{table}"


@dataclass(frozen=True)
class Results:
    """Scored edits, and the methods that made them.

    Parameters
    ----------
    scores : pandas.DataFrame
        As :func:`helpers.comparison.scores.read_scores` returns them.
    methods : mapping of str to Method
        By key, in the tables' order.
    pairs : str
        What the pair set is called.
    """

    scores: pd.DataFrame
    methods: Mapping[str, Method]
    pairs: str = "pairs"

    @cached_property
    def chosen(self) -> pd.DataFrame:
        """The row of the largest sum, per pair and method."""
        return of_largest_sum(self.scores)

    @cached_property
    def fixed(self) -> pd.DataFrame:
        """The row of the fixed setting, per pair and method."""
        return of_fixed_setting(self.scores, self.methods)

    @property
    def edits(self) -> list[str]:
        """Edit types that occur."""
        return [edit for edit in EDIT_TITLES if edit in set(self.scores["edit"])]

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """Edit types by title, and the two that the paper pools."""
        groups: dict[str, tuple[str, ...]] = {EDIT_TITLES[edit]: (edit,) for edit in self.edits}
        pooled = ("addition", "style_transfer")
        return groups | ({POOLED: pooled} if set(pooled) <= set(self.edits) else {})

    def of_role(self, *roles: Role) -> list[str]:
        """Keys of the methods that play one of some roles."""
        return [key for key, method in self.methods.items() if method.role in roles]

    @property
    def edited(self) -> list[str]:
        """Keys of all methods but the reference conditions."""
        return self.of_role("subject", "ablation", "baseline")

    @property
    def description(self) -> str:
        """Model, CLAP and pairs in a sentence."""
        first = self.scores.iloc[0]
        counts = self.scores.groupby("edit")["pair"].nunique()
        counted = ", ".join(f"{counts[e]} {EDIT_TITLES[e].lower()}" for e in self.edits)
        return f"Model {first['model']}, CLAP {first['clap']}, pairs {self.pairs}: {counted}."

    def name(self, method: str) -> str:
        """Return what tables call a method."""
        return self.methods[method].name

    def summary(self) -> pd.DataFrame:
        """Every mean and interval: selection, edit type, method, measure, and the estimate."""
        found = {
            (selection, title, measure): estimates(_of(scores, edits), ["method"], measure)
            for selection, scores in self._selections("largest sum", "fixed setting").items()
            for title, edits in self.groups.items()
            for measure in MEASURES
        }
        whole = pd.concat(found, names=["selection", "edit", "measure"]).reset_index()
        columns = ["selection", "edit", "method", "measure", "n", "mean", "low", "high"]
        return whole.loc[whole["n"] > 0, columns]

    def differences(self, scores: pd.DataFrame, measure: str = "sum") -> pd.DataFrame:
        """Paired differences of the paper's method to every other that does the edit.

        Parameters
        ----------
        scores : pandas.DataFrame
            :attr:`chosen` or :attr:`fixed`.
        measure : str

        Returns
        -------
        pandas.DataFrame
            Columns ``method``, ``other``, ``edit`` (a title of :attr:`groups`), ``best`` (whether
            the other is the edit's best baseline), and the estimate's.
        """
        found = []
        for title, edits in self.groups.items():
            mine = _of(scores, edits)
            able = [key for key in self.methods if set(edits) <= self.methods[key].edits]
            best = best_method(mine, [k for k in able if k in self.of_role("baseline")], measure)
            for subject in self.of_role("subject"):
                for other in able:
                    if other != subject:
                        difference = paired_difference(mine, subject, other, measure)
                        found.append([subject, other, title, other == best, *difference])
        return pd.DataFrame(found, columns=["method", "other", "edit", "best", *Estimate._fields])

    def at_equal_text(self) -> pd.DataFrame:
        """Differences in onset F1 where two methods follow the text alike (Fig. 2's claim).

        Columns ``method``, ``other``, ``edit`` and the estimate's; n counts the pairs whose sweeps
        overlap.
        """
        found = [
            [
                subject,
                other,
                title,
                *difference_at_equal_text(_of(self.scores, edits), subject, other),
            ]
            for subject in self.of_role("subject")
            for other in self.of_role("baseline")
            for title, edits in self.groups.items()
        ]
        return pd.DataFrame(found, columns=["method", "other", "edit", *Estimate._fields])

    def tables(self) -> list[Table]:
        """All tables that have rows, Table 1 first and the paper's beside it."""
        tables = [
            self.clap_table(),
            paper_table(),
            self.difference_table(self.chosen, "sum", "setting of the largest sum"),
            self.difference_table(self.fixed, "sum", "fixed setting"),
            self.difference_table(self.chosen, "target_probability", "setting of the largest sum"),
            self.beside_clap_table(),
            self.equal_text_table(),
            self.trend_table(),
            self.pair_table(),
        ]
        return [table for table in tables if len(table.cells)]

    def clap_table(self) -> Table:
        """Table 1: two rows per method, three columns per edit type."""
        rows, bold = [], set()
        selections = self._selections("chosen", "fixed")
        best = {
            (kind, edit): best_method(_of(scores, [edit]), self.edited)
            for kind, scores in selections.items()
            for edit in self.edits
        }
        for method in self.methods:
            for kind, scores in selections.items():
                mine = scores[scores["method"] == method]
                if mine.empty or (kind == "fixed" and not self._has_a_knob(method)):
                    continue
                row = {"Method": self.name(method), "Setting": self._setting(method, kind, mine)}
                for edit in self.edits:
                    for measure, title in CLAP_MEASURES.items():
                        estimate = bootstrap(_of(mine, [edit])[measure])
                        column = f"{EDIT_TITLES[edit]}: {title}"
                        row[column] = _mean(estimate, interval=measure == "sum")
                        if measure == "sum" and best[kind, edit] == method:
                            bold.add((len(rows), column))
                rows.append(row)
        note = (
            f"{self.description} Means over pairs; the sum with its 95 % interval; the highest sum "
            "of each edit type in bold, but for the reference conditions. The largest sum is "
            f"chosen pair by pair, with its median setting in brackets.{self._ablated()}"
        )
        return Table("Table 1: CLAP scores", note, pd.DataFrame(rows), frozenset(bold))

    def difference_table(self, scores: pd.DataFrame, measure: str, kind: str) -> Table:
        """Paired differences of the paper's method to the best baseline and to every other."""
        shown = {}
        differences = cast(Iterable[Any], self.differences(scores, measure).itertuples())
        for d in differences:
            shown[d.method, d.other, d.edit] = _signed(d)
            if d.best:
                shown[d.method, "best", d.edit] = f"{_signed(d)} {self.name(d.other)}"
        cells = self._differences_shown(shown, ["best", *self.methods])
        note = (
            "Mean difference over pairs with its 95 % interval: above 0 the first method is "
            "better. The best baseline of a column is the one with its highest mean."
        )
        of_best = [i for i, d in enumerate(cells["Difference"]) if d.endswith("best baseline")]
        bold = {(i, c) for i in of_best for c in self.groups if cells.loc[i, c] != NOTHING}
        return Table(
            f"Paired differences: {MEASURES[measure].lower()}, {kind}", note, cells, frozenset(bold)
        )

    def beside_clap_table(self) -> Table:
        """Show what CLAP misses: onsets, envelope, spectrum, and what the classifier hears."""
        measures = [measure for measure in MEASURES if measure not in CLAP_MEASURES]
        by = ["edit", "method"]
        rows = []
        for edit in self.edits:
            for method in self.methods:
                mine = self.chosen[(self.chosen[by] == [edit, method]).all(axis=1)]
                if len(mine):
                    row = {"Edit": EDIT_TITLES[edit], "Method": self.name(method)}
                    row |= {MEASURES[m]: _mean(bootstrap(mine[m])) for m in measures}
                    row[MEASURES["seconds"]] = f"{mine['seconds'].mean():.1f}"
                    rows.append(row)
        note = (
            "At the setting of the largest sum, with 95 % intervals. Onset and offset F1: against "
            "what is detected in the source, within 50 ms (offsets: or a fifth of the event); "
            "event F1: onsets against the true ones, where they are known; all of them outside "
            "the gap, as are envelope and log-spectral distance. Target and source "
            "heard: the independent classifier's probability of the sound to add or turn into, "
            "and of the source's own. Seconds: a sweep's, shared by its settings; an edit by "
            "itself pays for Steps 1 and 2 in full."
        )
        return Table("Beside CLAP", note, pd.DataFrame(rows))

    def equal_text_table(self) -> Table:
        """Onsets where two methods follow the text alike (Fig. 2's claim)."""
        differences = cast(Iterable[Any], self.at_equal_text().itertuples())
        shown = {
            (d.method, d.other, d.edit): f"{_signed(d)} n = {d.n}" if d.n else NOTHING
            for d in differences
        }
        note = (
            "Mean difference over pairs, with its 95 % interval, between two sweeps at the Text "
            "CLAP values that both reach; n counts the pairs whose sweeps overlap."
        )
        cells = self._differences_shown(shown, self.of_role("baseline"))
        return Table("Onset F1 at equal Text CLAP", note, cells)

    def trend_table(self) -> Table:
        """Fig. 4 in two numbers per method."""
        rows = []
        for method in filter(self._has_a_knob, self.methods):
            row = {"Method": self.name(method)}
            for title, edits in self.groups.items():
                for measure in ("text_clap", "audio_clap"):
                    able = set(edits) <= self.methods[method].edits
                    change = rise(_of(self.scores, edits), method, measure) if able else None
                    row[f"{title}: {CLAP_MEASURES[measure]}"] = _signed(change)
            rows.append(row)
        note = (
            "Change of the scores between the ends of the sweep, with its 95 % interval: Text CLAP "
            "should rise and Audio CLAP should fall."
        )
        return Table("From the weakest to the strongest edit", note, pd.DataFrame(rows))

    def pair_table(self) -> Table:
        """Return the sum of every pair."""
        pairs, methods = self.scores["pair"].unique(), [*self.methods]
        sums, settings = (
            self.chosen.pivot(index="pair", columns="method", values=name).reindex(
                index=pairs, columns=methods
            )
            for name in ("sum", "setting")
        )
        cells = pd.DataFrame(
            {
                self.name(method): [
                    NOTHING if pd.isna(total) else f"{total:.3f} ({setting:g})"
                    for total, setting in zip(sums[method], settings[method], strict=True)
                ]
                for method in self.methods
            }
        )
        cells.insert(0, "Pair", pairs)
        largest = sums[self.edited].eq(sums[self.edited].max(axis=1), axis=0)
        bold = {(i, self.name(m)) for m in self.edited for i in largest[m].to_numpy().nonzero()[0]}
        note = (
            "The largest sum, and the setting that gave it; the highest in bold, but for the "
            "reference conditions."
        )
        return Table("Pair by pair", note, cells, frozenset(bold))

    def _selections(self, chosen: str, fixed: str) -> dict[str, pd.DataFrame]:
        return {chosen: self.chosen, fixed: self.fixed}

    def _has_a_knob(self, method: str) -> bool:
        return self.scores.loc[self.scores["method"] == method, "setting"].nunique() > 1

    def _setting(self, method: str, kind: str, mine: pd.DataFrame) -> str:
        if not self._has_a_knob(method):
            return NOTHING
        knob = self.methods[method].knob
        if kind == "fixed":
            return f"{knob} {self.methods[method].fixed_setting:g}"
        return f"largest sum ({knob} {mine['setting'].median():g})"

    def _ablated(self) -> str:
        """Say which method the ablations leave a step out of."""
        ablations = [self.methods[key] for key in self.of_role("ablation")]
        for key in self.of_role("subject"):
            whole = self.methods[key]
            if any(
                isinstance(whole, Ours)
                and isinstance(one, Ours)
                and (one.sampling, one.finetuning) == (whole.sampling, whole.finetuning)
                for one in ablations
            ):
                return f" The ablations leave one step out of {whole.name}."
        return ""

    def _differences_shown(
        self, shown: Mapping[tuple[str, str, str], str], others: Sequence[str]
    ) -> pd.DataFrame:
        """Cells of differences, a row per two methods and a column per group of edit types."""
        names = {key: method.name for key, method in self.methods.items()}
        names["best"] = "best baseline"
        rows = [
            {"Difference": f"{names[subject]} − {names[other]}"}
            | {title: shown.get((subject, other, title), NOTHING) for title in self.groups}
            for subject in self.of_role("subject")
            for other in others
            if subject != other
        ]
        return pd.DataFrame(rows, columns=["Difference", *self.groups])


def paper_scores() -> pd.DataFrame:
    """Return the means that the paper's Table 1 prints: a row per method and edit type."""
    return pd.read_csv(data_path("table1", "paper.csv"))


def paper_table() -> Table:
    """Return the paper's Table 1, marked as the paper's."""
    scores = paper_scores()
    published = scores.set_index(["method", "edit"])
    rows = []
    for method in scores["method"].unique():
        row = {"Method": method}
        for edit, title in EDIT_TITLES.items():
            for measure, name in CLAP_MEASURES.items():
                known = (method, edit) in published.index
                value = f"{published.loc[(method, edit), measure]:.3f}" if known else NOTHING
                row[f"{title}: {name}"] = value
        rows.append(row)
    return Table("The paper's Table 1", PAPER_NOTE, pd.DataFrame(rows))


def _of(scores: pd.DataFrame, edits: Sequence[str]) -> pd.DataFrame:
    return scores[scores["edit"].isin(edits)]


def _mean(estimate: Estimate, interval: bool = True) -> str:
    """Return a mean as cells show it."""
    if not estimate.n:
        return NOTHING
    if estimate.n < 2 or not interval:
        return f"{estimate.mean:.3f}"
    return f"{estimate.mean:.3f} ({estimate.low:.3f} … {estimate.high:.3f})"


def _signed(estimate: Estimate | None) -> str:
    """Return a difference as cells show it."""
    if estimate is None or not estimate.n:
        return NOTHING
    text = f"{estimate.mean:+.3f}"
    if estimate.n > 1:
        text += f" ({estimate.low:+.3f} … {estimate.high:+.3f})"
    return text.replace("-", "−")
