"""How sure a mean is.

Methods are compared pair by pair: the difference of two scores of one recording is far less noisy
than either.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

DRAWS = 10_000
LEVELS = 21  # Text CLAP values at which two sweeps are compared


class Estimate(NamedTuple):
    """A mean over pairs with its bootstrap 95 % interval; NaN where there is too little data.

    With one pair there is a mean and no interval.
    """

    mean: float
    low: float
    high: float
    n: int


def bootstrap(values: Iterable[float], seed: int = 0) -> Estimate:
    """Mean of the values that are known, and its percentile interval from 10,000 resamples."""
    known = np.asarray([*values], dtype=float)
    known = known[~np.isnan(known)]
    mean = float(known.mean()) if len(known) else np.nan
    if len(known) < 2:
        return Estimate(mean, np.nan, np.nan, len(known))
    interval = stats.bootstrap(
        (known,), np.mean, n_resamples=DRAWS, method="percentile", rng=np.random.default_rng(seed)
    ).confidence_interval
    return Estimate(mean, float(interval.low), float(interval.high), len(known))


def estimates(scores: pd.DataFrame, by: list[str], measure: str) -> pd.DataFrame:
    """Mean of a measure with its interval: a row per group, columns as in :class:`Estimate`."""
    groups = scores.groupby(by, sort=False)[measure]
    found = [[*key, *bootstrap(values)] for key, values in groups]
    return pd.DataFrame(found, columns=[*by, *Estimate._fields])


def by_pair(scores: pd.DataFrame, method: str, measure: str) -> pd.Series:
    """Values of a measure for a method, indexed by pair; pairs without one are left out.

    ``scores`` hold one row per pair and method, as the two selections give them.
    """
    return scores[scores["method"] == method].set_index("pair")[measure].dropna()


def paired_difference(
    scores: pd.DataFrame, method: str, baseline: str, measure: str = "sum"
) -> Estimate:
    """Mean of a measure's difference, ``method`` − ``baseline``, over the pairs that both have."""
    ours, theirs = (by_pair(scores, name, measure) for name in (method, baseline))
    return bootstrap(ours - theirs.reindex(ours.index))


def rise(scores: pd.DataFrame, method: str, measure: str) -> Estimate:
    """Mean change of a measure from a method's weakest to its strongest edit, over pairs."""
    mine = scores[scores["method"] == method]
    weakest, strongest = (
        by_pair(mine[mine["setting"] == end], method, measure)
        for end in (mine["setting"].min(), mine["setting"].max())
    )
    return bootstrap(strongest - weakest.reindex(strongest.index))


def best_method(scores: pd.DataFrame, methods: Iterable[str], measure: str = "sum") -> str | None:
    """Of some methods the one with the highest mean; None if none has the measure."""
    means = scores.groupby("method")[measure].mean().reindex([*methods]).dropna()
    return None if means.empty else str(means.idxmax())


def difference_at_equal_text(
    scores: pd.DataFrame, method: str, baseline: str, measure: str = "onset_f1"
) -> Estimate:
    """Mean difference of a measure, ``method`` − ``baseline``, where both follow the text alike.

    Each method's sweep traces a curve of the measure over Text CLAP (points joined by straight
    lines, points of equal Text CLAP averaged).  Two curves of one pair are compared at 21 evenly
    spaced values of the Text CLAP that both reach; pairs whose ranges do not overlap are left out.

    Parameters
    ----------
    scores : pandas.DataFrame
        All settings of both methods.
    method, baseline : str
    measure : str
    """
    both = scores[scores["method"].isin([method, baseline])].dropna(subset=measure)
    differences = []
    for _, of_pair in both.groupby("pair", sort=False):
        points = of_pair.groupby(["method", "text_clap"])[measure].mean()  # text rising
        if points.index.get_level_values("method").nunique() < 2:
            continue
        ours, theirs = points[method], points[baseline]
        low = max(ours.index[0], theirs.index[0])
        high = min(ours.index[-1], theirs.index[-1])
        if low <= high:
            levels = np.linspace(low, high, LEVELS)
            curves = [np.interp(levels, curve.index, curve) for curve in (ours, theirs)]
            differences.append((curves[0] - curves[1]).mean())
    return bootstrap(differences)
