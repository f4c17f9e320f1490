"""Which setting is chosen, and means, intervals and differences against known numbers."""

import math

import numpy as np
import pandas as pd
import pytest

from helpers.comparison.scores import COLUMNS
from helpers.comparison.selection import of_fixed_setting, of_largest_sum
from helpers.comparison.statistics import (
    best_method,
    bootstrap,
    by_pair,
    difference_at_equal_text,
    estimates,
    paired_difference,
    rise,
)
from helpers.methods.sdedit import SDEdit


def row(pair, method, setting, text_clap, audio_clap, **more):
    scores = {
        "edit": "addition",
        "onset_f1": 1.0,
        "offset_f1": 1.0,
        "event_f1": None,
        "envelope_correlation": 1.0,
        "log_spectral_distance": 0.0,
        "label": "rain",
        "target_probability": 0.5,
        "source_probability": None,
        "seconds": 1.0,
        "text_clap": text_clap,
        "audio_clap": audio_clap,
        "sum": text_clap + audio_clap,
    }
    made = dict.fromkeys(("clap", "model", "prompt", "audio"), "")
    return {"pair": pair, "method": method, "setting": setting} | scores | made | more


def table(*rows):
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def keys(scores):
    return [(r.pair, r.method, r.setting) for r in scores.itertuples()]


SWEEP = table(
    row("a", "ours", 0.2, 0.1, 0.9),
    row("a", "ours", 0.6, 0.5, 0.7),  # the largest sum of a
    row("a", "ours", 1.0, 0.6, 0.4),
    row("b", "ours", 0.2, 0.25, 0.75),  # the largest sum of b
    row("b", "ours", 0.6, 0.5, 0.25),
    row("a", "sdedit", 0.5, 0.3, 0.5),
    row("b", "sdedit", 0.5, 0.2, 0.6),
)


def test_the_largest_sum_is_chosen_pair_by_pair_whatever_the_order():
    chosen = of_largest_sum(SWEEP[::-1])
    assert set(keys(chosen)) == {
        ("a", "ours", 0.6),
        ("b", "ours", 0.2),
        ("a", "sdedit", 0.5),
        ("b", "sdedit", 0.5),
    }
    assert len(chosen) == 4


def test_of_equal_sums_the_weakest_edit_is_chosen():
    rows = table(*(row("a", "ours", setting, 0.5, 0.25) for setting in (1.0, 0.4, 0.6)))
    assert keys(of_largest_sum(rows)) == [("a", "ours", 0.4)]


def test_the_fixed_setting_is_each_methods_own():
    methods = {"ours": SDEdit(fixed_setting=0.6), "sdedit": SDEdit(fixed_setting=0.5)}
    assert keys(of_fixed_setting(SWEEP, methods)) == [
        ("a", "ours", 0.6),
        ("b", "ours", 0.6),
        ("a", "sdedit", 0.5),
        ("b", "sdedit", 0.5),
    ]


def mean(scores, method, measure):
    return bootstrap(by_pair(scores, method, measure))


def test_estimates_have_a_row_for_each_group():
    found = estimates(SWEEP, ["method", "setting"], "sum")
    assert list(found.columns) == ["method", "setting", "mean", "low", "high", "n"]
    [middle] = found.query("method == 'ours' and setting == 0.6").itertuples()
    assert (middle.mean, middle.n) == (pytest.approx((1.2 + 0.75) / 2), 2)
    assert (middle.low, middle.high) == (pytest.approx(0.75), pytest.approx(1.2))


def test_means_and_paired_differences_by_hand():
    chosen = of_largest_sum(SWEEP)
    assert mean(chosen, "ours", "sum").mean == pytest.approx((1.2 + 1.0) / 2)
    assert mean(chosen, "ours", "text_clap").mean == pytest.approx((0.5 + 0.25) / 2)
    difference = paired_difference(chosen, "ours", "sdedit")
    assert difference.mean == pytest.approx(((1.2 - 0.8) + (1.0 - 0.8)) / 2)
    assert difference.n == 2
    assert (difference.low, difference.high) == (pytest.approx(0.2), pytest.approx(0.4))
    opposite = paired_difference(chosen, "sdedit", "ours")
    assert opposite.mean == pytest.approx(-difference.mean)


def test_only_pairs_that_both_methods_edited_are_compared():
    rows = pd.concat([of_largest_sum(SWEEP), table(row("c", "ours", 0.2, 5.0, 5.0))])
    assert paired_difference(rows, "ours", "sdedit").n == 2
    assert paired_difference(rows, "ours", "nobody").n == 0


def test_pairs_without_a_measure_are_left_out():
    rows = table(row("a", "ours", 1, 0, 0, event_f1=0.5), row("b", "ours", 1, 0, 0))
    estimate = mean(rows, "ours", "event_f1")
    assert (estimate.mean, estimate.n) == (0.5, 1)
    assert math.isnan(mean(rows, "ours", "source_probability").mean)


def test_pairing_sees_a_difference_that_hides_in_the_spread():
    rng = np.random.default_rng(0)
    level = rng.uniform(0, 1, 18)
    rows = [row(f"{i}", "ours", 1, x + 0.05, 0) for i, x in enumerate(level)]
    rows += [row(f"{i}", "sdedit", 1, x, 0) for i, x in enumerate(level)]
    rows = table(*rows)
    assert mean(rows, "ours", "sum").low < mean(rows, "sdedit", "sum").high
    difference = paired_difference(rows, "ours", "sdedit")
    assert difference.low == pytest.approx(0.05)
    assert difference.high == pytest.approx(0.05)


def test_the_interval_is_that_of_the_mean():
    values = np.random.default_rng(1).normal(3.0, 2.0, 400)
    estimate = bootstrap(values)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert estimate.mean == pytest.approx(values.mean())
    assert estimate.low == pytest.approx(values.mean() - half, abs=0.02)
    assert estimate.high == pytest.approx(values.mean() + half, abs=0.02)
    assert bootstrap(values) == estimate
    # Written out, as lesson 08 does.
    means = np.random.default_rng(0).choice(values, (10_000, len(values))).mean(axis=1)
    assert [estimate.low, estimate.high] == pytest.approx(np.percentile(means, [2.5, 97.5]))


def test_the_interval_covers_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(2)
    found = [bootstrap(rng.normal(0, 1, 27)) for _ in range(200)]
    covered = np.mean([e.low <= 0 <= e.high for e in found])
    assert 0.88 <= covered <= 0.98


def test_equal_values_have_no_width_and_one_value_has_no_interval():
    assert bootstrap([0.5] * 5) == bootstrap([0.5] * 5, seed=1)
    assert bootstrap([0.5] * 5).low == bootstrap([0.5] * 5).high == 0.5
    one = bootstrap([0.5])
    assert (one.mean, one.n) == (0.5, 1)
    assert math.isnan(one.low)
    assert math.isnan(one.high)
    assert bootstrap([]).n == 0
    assert math.isnan(bootstrap([]).mean)


def test_the_best_method_has_the_highest_mean():
    chosen = of_largest_sum(SWEEP)
    assert best_method(chosen, ["sdedit", "ours"]) == "ours"
    assert best_method(chosen, ["sdedit", "ours"], "audio_clap") == "ours"
    assert best_method(chosen, ["sdedit"]) == "sdedit"
    assert best_method(chosen, ["nobody"]) is None


def test_the_rise_is_from_the_weakest_to_the_strongest():
    assert rise(SWEEP[:3], "ours", "text_clap").mean == pytest.approx(0.5)
    assert rise(SWEEP[:3], "ours", "audio_clap").mean == pytest.approx(-0.5)
    assert rise(SWEEP, "nobody", "sum").n == 0


def test_onsets_are_compared_where_the_text_is_followed_alike():
    ours = [row("a", "ours", s, text, 0, onset_f1=1 - text) for s, text in ((1, 0.0), (2, 1.0))]
    other = [
        row("a", "sdedit", s, t, 0, onset_f1=f) for s, t, f in ((1, 0.5, 0.25), (2, 2.0, 0.25))
    ]
    # They share Text CLAP 0.5 … 1, where ours falls from 0.5 to 0 and the other stays at 0.25.
    difference = difference_at_equal_text(table(*ours, *other), "ours", "sdedit")
    assert difference.mean == pytest.approx(0.25 - 0.25)
    better = [row("a", "sdedit", s, t, 0, onset_f1=0.0) for s, t in ((1, 0.5), (2, 0.7))]
    # Over 0.5 … 0.7 ours is 0.4 on average.
    assert difference_at_equal_text(table(*ours, *better), "ours", "sdedit").mean == pytest.approx(
        0.4
    )


def test_sweeps_that_never_follow_the_text_alike_are_not_compared():
    rows = table(
        row("a", "ours", 1, 0.1, 0), row("a", "sdedit", 1, 0.2, 0), row("b", "ours", 1, 0.1, 0)
    )
    assert difference_at_equal_text(rows, "ours", "sdedit").n == 0
