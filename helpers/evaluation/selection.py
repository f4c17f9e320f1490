"""Which strength counts, and how sure a mean is (Sec. 3.2 of the paper).

The paper takes, for every edit, the η with the largest Text CLAP + Audio CLAP.  That tunes on the
metric, so every method gets the same sweep of its own knob, and a strength that was fixed
beforehand is reported beside it.  Methods are compared pair by pair: the difference of two scores
of one recording is far less noisy than either.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from helpers.evaluation.scores import Row

DRAWS = 10_000
LEVELS = 21  # Text CLAP values at which two sweeps are compared


@dataclass(frozen=True)
class Estimate:
    """A mean over pairs with its bootstrap 95 % interval; NaN where there is too little data.

    Attributes
    ----------
    mean, low, high : float
        With one pair there is a mean and no interval.
    n : int
        Pairs.
    """

    mean: float
    low: float
    high: float
    n: int


def bootstrap(values: Iterable[float], seed: int = 0) -> Estimate:
    """Mean of values with the 2.5th and 97.5th percentile of the means of 10,000 resamples."""
    values = np.asarray([*values], dtype=float)
    nan = float("nan")
    if len(values) < 2:
        return Estimate(float(values[0]) if len(values) else nan, nan, nan, len(values))
    rng = np.random.default_rng(seed)
    means = rng.choice(values, (DRAWS, len(values))).mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Estimate(float(values.mean()), float(low), float(high), len(values))


def of_largest_sum(rows: Iterable[Row]) -> list[Row]:
    """For each pair and method the row with the largest sum; of equal ones the weakest strength."""
    best: dict[tuple[str, str], Row] = {}
    for row in sorted(rows, key=lambda row: row.strength):
        key = row.pair, row.method
        if key not in best or row.sum > best[key].sum:
            best[key] = row
    return list(best.values())


def of_fixed_strength(rows: Iterable[Row], strengths: Mapping[str, float]) -> list[Row]:
    """Rows of the one strength that was fixed for each method beforehand."""
    return [row for row in rows if row.strength == strengths[row.method]]


def by_pair(rows: Iterable[Row], method: str, measure: str) -> dict[str, float]:
    """Value of a measure for each pair of a method; pairs without one are left out.

    ``rows`` hold one row per pair and method, as the two selections above give them.
    """
    return {
        row.pair: getattr(row, measure)
        for row in rows
        if row.method == method and getattr(row, measure) is not None
    }


def mean(rows: Iterable[Row], method: str, measure: str) -> Estimate:
    """Mean of a measure over a method's pairs."""
    return bootstrap(by_pair(rows, method, measure).values())


def paired_difference(
    rows: Sequence[Row], method: str, baseline: str, measure: str = "sum"
) -> Estimate:
    """Mean of a measure's difference, ``method`` − ``baseline``, over the pairs that both have."""
    ours, theirs = by_pair(rows, method, measure), by_pair(rows, baseline, measure)
    return bootstrap(ours[pair] - theirs[pair] for pair in ours if pair in theirs)


def rise(rows: Sequence[Row], method: str, measure: str) -> Estimate:
    """Mean change of a measure from a method's weakest to its strongest edit, over pairs."""
    mine = [row for row in rows if row.method == method]
    if not mine:
        return bootstrap([])
    weakest, strongest = (end(row.strength for row in mine) for end in (min, max))
    before = by_pair([row for row in mine if row.strength == weakest], method, measure)
    after = by_pair([row for row in mine if row.strength == strongest], method, measure)
    return bootstrap(after[pair] - before[pair] for pair in after if pair in before)


def best_method(rows: Sequence[Row], methods: Iterable[str], measure: str = "sum") -> str | None:
    """Of some methods the one with the highest mean; None if none has the measure."""
    means = {method: mean(rows, method, measure) for method in methods}
    known = {method: estimate.mean for method, estimate in means.items() if estimate.n}
    return max(known, key=known.get, default=None)


def difference_at_equal_text(
    rows: Sequence[Row], method: str, baseline: str, measure: str = "onset_f1"
) -> Estimate:
    """Mean difference of a measure, ``method`` − ``baseline``, where both follow the text alike.

    Each method's sweep traces a curve of the measure over Text CLAP (points joined by straight
    lines, points of equal Text CLAP averaged).  Two curves of one pair are compared at 21 evenly
    spaced values of the Text CLAP that both reach; pairs whose ranges do not overlap are left out.

    Parameters
    ----------
    rows : sequence of Row
        All strengths of both methods.
    method, baseline : str
    measure : str
    """
    differences = []
    for pair in dict.fromkeys(row.pair for row in rows):
        curves = [_curve(rows, pair, name, measure) for name in (method, baseline)]
        if not all(len(text) for text, _ in curves):
            continue
        low = max(text[0] for text, _ in curves)
        high = min(text[-1] for text, _ in curves)
        if low <= high:
            levels = np.linspace(low, high, LEVELS)
            ours, theirs = (np.interp(levels, *curve) for curve in curves)
            differences.append(float((ours - theirs).mean()))
    return bootstrap(differences)


def _curve(
    rows: Iterable[Row], pair: str, method: str, measure: str
) -> tuple[np.ndarray, np.ndarray]:
    """Text CLAP, rising, and the measure there."""
    points: dict[float, list[float]] = {}
    for row in rows:
        if (row.pair, row.method) == (pair, method) and getattr(row, measure) is not None:
            points.setdefault(row.text_clap, []).append(getattr(row, measure))
    text = np.array(sorted(points))
    return text, np.array([np.mean(points[level]) for level in text])
