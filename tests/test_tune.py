"""The search for presets: which fits go on, what a stopped search keeps, what a reading is."""

import numpy as np
import pandas as pd
import pytest
import torch

from helpers.models.pocket import load_pocket
from helpers.pairs import Pair
from helpers.storage import Provenance
from tools.pocket import tune
from tools.pocket.tune import Fit, Search, best_reading, ranking, search
from tools.pocket.workers import Bench

PAIRS = [Pair(f"p{i}", f"foley:duck/{i}", "style_transfer", "Duck", None, "duck") for i in range(6)]
FITS = tuple(Fit(1e-2, rate) for rate in (1e-4, 2e-4, 4e-4))


def row(pair, fit, eta=1.0, guidance=4.0, **figures):
    reading = {"steps": 10, "eta": eta, "guidance": guidance, "start": 1.0}
    about = {"pair": pair.id, **vars(fit), **reading}
    return about | dict.fromkeys(tune.FIGURES, 0.0) | figures


@pytest.fixture
def small(monkeypatch):
    """Three fits, stages of 2, 4 and 6 pairs, and a stand-in for the measuring."""
    asked = []

    def measure_here(measure, work, weights, description):
        for item in work:
            fit, lengths, pair = item
            asked.append((fit.finetuning_rate, pair.id))
            success = float(fit.finetuning_rate == 2e-4)
            yield (
                item,
                pd.DataFrame(
                    [
                        row(pair, fit, success=success, joint=fit.finetuning_rate),
                        row(pair, fit, 0.0),
                    ]
                ),
            )

    monkeypatch.setattr(tune, "STAGES", ((2, 3), (4, 2), (6, 1)))
    monkeypatch.setitem(tune.SEARCHES, "whole", Search(FITS, (5, 10)))
    monkeypatch.setattr(tune, "for_each", measure_here)
    monkeypatch.setattr(tune, "_made_from", lambda *_: Provenance({"UNet": "one"}))
    return asked


def test_all_fits_are_tried_on_few_pairs_and_the_best_on_all(small, tmp_path):
    rows = search("whole", tmp_path, PAIRS, tmp_path / "tune")
    tried = pd.DataFrame(small, columns=["rate", "pair"]).groupby("rate").size()
    assert tried.to_dict() == {1e-4: 2, 2e-4: 6, 4e-4: 4}
    best = ranking(rows, "whole", PAIRS)
    assert best["finetuning_rate"].tolist() == [2e-4]
    assert best["success"].tolist() == [1]


def test_a_stopped_search_goes_on_with_what_is_missing(small, tmp_path):
    whole = search("whole", tmp_path, PAIRS, tmp_path / "tune")
    path = tmp_path / "tune" / "whole.csv"
    once = list(small)
    again = search("whole", tmp_path, PAIRS, tmp_path / "tune")
    assert small == once
    pd.testing.assert_frame_equal(whole, again, check_dtype=False)
    tune.write_table(path, whole.iloc[:6].to_csv(index=False))
    search("whole", tmp_path, PAIRS, tmp_path / "tune")
    assert small[len(once) :] == once[3:]


def test_a_search_of_other_weights_is_refused(small, tmp_path, monkeypatch):
    search("whole", tmp_path, PAIRS, tmp_path / "tune")
    monkeypatch.setattr(tune, "_made_from", lambda *_: Provenance({"UNet": "two"}))
    with pytest.raises(ValueError, match="another UNet"):
        search("whole", tmp_path, PAIRS, tmp_path / "tune")
    with pytest.raises(ValueError, match="6 are needed"):
        search("whole", tmp_path, PAIRS[:3], tmp_path / "other")


def test_the_best_reading_is_of_the_largest_mean_success_and_not_at_eta_0():
    fit = FITS[0]
    rows = pd.DataFrame(
        [
            row(PAIRS[0], fit, 0.0, success=1.0, joint=1.0),
            row(PAIRS[0], fit, 1.0, success=1.0, joint=0.2),
            row(PAIRS[1], fit, 1.0, success=0.0, joint=0.2),
            row(PAIRS[0], fit, 0.75, success=1.0, joint=0.4),
            row(PAIRS[1], fit, 0.75, success=0.0, joint=0.4),
            row(PAIRS[0], fit, 1.25, success=0.0, joint=0.9),
            row(PAIRS[1], fit, 1.25, success=0.0, joint=0.9),
            row(PAIRS[2], fit, 1.25, success=1.0, joint=0.9),
            row(PAIRS[0], FITS[1], 1.25, success=1.0, joint=0.9),
        ]
    )
    best = best_reading(rows, fit, PAIRS[:2])
    assert best["eta"] == 0.75
    assert best["success"] == 0.5
    assert best["joint"] == pytest.approx(0.4)


def test_a_fit_is_measured_at_every_length_and_reading(monkeypatch):
    class Ear:
        labels = ["duck", "door_knock"]

        def heard(self, clips):
            return torch.full((len(clips), 2), 0.75)

    monkeypatch.setattr(tune, "EMBEDDING_STEPS", 2)
    monkeypatch.setattr(tune, "SAMPLING_STEPS", 2)
    pair = Pair("p", "foley:door_knock/9700003", "style_transfer", "A duck", None, "duck")
    bench = Bench(load_pocket().with_terminal_snr("zero"), Ear())
    rows = tune.measure(bench, (Fit(2e-2, 1e-3, 2, True), (1, 3), pair))
    assert len(rows) == 2 * len(tune.READINGS)
    assert not rows.duplicated(tune.READ_AT).any()
    assert set(rows["steps"]) == {1, 3}
    assert np.isclose(rows["joint"], rows["layout"] * 0.75 * 0.25).all()
    assert rows["layout"].nunique() > len(tune.READINGS)


def test_what_is_searched_is_as_large_as_was_planned():
    assert {name: len(each.fits) for name, each in tune.SEARCHES.items()} == {
        "whole": 12,
        "lora": 12,
    }
    assert all(len(tune.READINGS) * len(each.lengths) <= 20 for each in tune.SEARCHES.values())
