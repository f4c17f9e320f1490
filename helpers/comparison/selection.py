"""Which setting counts (Sec. 3.2 of the paper).

The paper takes, for every edit, the η with the largest Text CLAP + Audio CLAP.  That tunes on the
metric, so every method gets the same sweep of its own knob, and a setting that was fixed beforehand
is reported beside it.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from helpers.methods.method import Method


def of_largest_sum(scores: pd.DataFrame) -> pd.DataFrame:
    """For each pair and method the row with the largest sum; of equal ones the weakest setting.

    Parameters
    ----------
    scores : pandas.DataFrame
        With the columns ``pair``, ``method``, ``setting`` and ``sum``.
    """
    rising = scores.sort_values("setting", kind="stable", ignore_index=True)
    return rising.loc[rising.groupby(["pair", "method"], sort=False)["sum"].idxmax()]


def of_fixed_setting(scores: pd.DataFrame, methods: Mapping[str, Method]) -> pd.DataFrame:
    """Rows of the one setting that was fixed for each method beforehand."""
    fixed = {name: method.fixed_setting for name, method in methods.items()}
    return scores[scores["setting"] == scores["method"].map(fixed)]
