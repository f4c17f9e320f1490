"""The pocket model's report and its model card."""

import json
from dataclasses import replace

import numpy as np
import pytest

from helpers.data import DATA
from helpers.storage import Provenance
from tools.pocket import report
from tools.pocket.report import TARGETS, Report, write_table

CARD = DATA / "pocket" / "README.md"


@pytest.fixture(scope="module")
def shipped():
    return Report(DATA / "pocket")


def test_the_card_holds_what_was_measured_of_these_weights(shipped):
    stored = Provenance.from_dict(json.loads(shipped.path.read_text())["made from"])
    assert not stored.differences(shipped.made_from), "run make pocket-report"
    assert set(TARGETS) <= set(shipped.figures)
    shown = CARD.read_text().partition("<!-- report -->\n")[2].partition("\n<!-- /report -->")[0]
    assert shown == shipped.table()


def test_figures_of_other_weights_are_not_taken_over(shipped, tmp_path):
    for part in ("scheduler", "unet", "vae", "clap", "classifier"):
        (tmp_path / part).symlink_to(shipped.folder / part)
    weights = shipped.made_from.weights | {"CLAP": "another"}
    others = replace(shipped.made_from, weights=weights).to_dict()
    content = {"made from": others, "figures": {"generation_accuracy": 1.0}}
    (tmp_path / "report.json").write_text(json.dumps(content))
    assert Report(tmp_path).figures == {}
    assert Report(tmp_path).table().count("not measured yet") == len(TARGETS)


def test_a_stopped_report_goes_on_with_what_is_missing(shipped, tmp_path, monkeypatch):
    for part in ("scheduler", "unet", "vae", "clap", "classifier"):
        (tmp_path / part).symlink_to(shipped.folder / part)
    (tmp_path / "README.md").write_text("<!-- report -->\n<!-- /report -->\n")
    firsts = {
        "reconstruction": "vae_log_mel_error",
        "recognition": "clap_zero_shot_accuracy",
        "round_trips": "named_after_vae_accuracy",
        "generation": "generation_accuracy",
        "paraphrases": "paraphrase_accuracy",
        "editing": "text_clap_gain",
    }
    measured, stops = [], {"editing"}

    def stand_in(group):
        def measure(self):
            measured.append(group)
            if group in stops:
                raise KeyboardInterrupt
            return {firsts[group]: 0.25}

        return measure

    for group in firsts:
        monkeypatch.setattr(Report, group, stand_in(group))
    with pytest.raises(KeyboardInterrupt):
        Report(tmp_path).run()
    stops.clear()
    Report(tmp_path).run()
    assert measured == [*firsts, "editing"]
    card = (tmp_path / "README.md").read_text()
    assert "| generation accuracy | ≥ 60 % | 85 % | 25 % |" in card
    assert "| text clap gain | ≥ 0.05 | 0.20 | 0.25 |" in card


def test_the_table_replaces_only_what_stands_between_the_markers(tmp_path):
    card = tmp_path / "README.md"
    card.write_text("before\n<!-- report -->\nold\n<!-- /report -->\nafter\n")
    write_table(card, "new")
    assert card.read_text() == "before\n<!-- report -->\nnew\n<!-- /report -->\nafter\n"
    write_table(card, "newer")
    assert card.read_text().count("new") == 1


def test_a_ratio_is_that_of_the_means_and_an_interval_holds_the_mean():
    rows = [{"a": 1.0, "error_vae": 0.5}, {"a": 3.0, "error_vae": 1.5}]
    assert report._ratio(rows, "a") == 2
    low, high = report._bootstrap(np.array([1.0, 2.0, 3.0, 4.0]))
    assert 1 <= low < 2.5 < high <= 4
    assert report._per_label(["a", "b", "b"], ["a", "a", "b"]) == {"a": 0.5, "b": 1}
