"""The Table 1 that comes with the repository: whole, of today's pairs, and printed as scored."""

import json

import pytest

from helpers import load_model
from helpers.comparison.experiment import Experiment
from helpers.comparison.scores import KEY, read_scores, to_csv
from helpers.comparison.tables import Results
from helpers.data import data_path
from helpers.evaluation.clap import load_clap
from helpers.methods import methods_for
from helpers.pairs import load_pairs
from helpers.storage import Provenance, read_text
from tools.table1 import SEAL, made_from, markdown

FOLDER = data_path("table1")
PAIRS = "pocket27"


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    model, clap = load_model("pocket"), load_clap("pocket")
    return Experiment(model, clap, load_pairs(PAIRS), methods_for("pocket"), FOLDER)


@pytest.fixture(scope="module")
def results(experiment) -> Results:
    return Results(read_scores(experiment.table), experiment.methods, PAIRS)


def test_every_method_s_every_setting_is_scored_on_every_pair(experiment, results):
    asked = {(s.pair.id, s.method, value) for s in experiment.sweeps() for value in s.settings}
    assert len(results.scores) == len(asked)
    assert set(results.scores[KEY].itertuples(index=False, name=None)) == asked


def test_it_is_read_and_written_to_the_last_digit(experiment, results):
    assert experiment.table.read_text(encoding="utf-8") == to_csv(results.scores)


def test_it_was_made_with_this_model_and_these_pairs(experiment, results):
    stored = json.loads((FOLDER / SEAL).read_text(encoding="utf-8"))
    today = json.loads(json.dumps(made_from(experiment, results)))
    for name in ("model", "fingerprint", "clap", "pairs", "ids", "settings", "fixed", "scores"):
        assert stored[name] == today[name], (
            "the stored table is out of date: run `make table1` and copy its files to data/table1"
        )
    prompts = {pair.id: pair.prompt for pair in experiment.pairs}
    assert (results.scores["prompt"] == results.scores["pair"].map(prompts)).all()


def test_it_was_scored_by_these_judges(experiment):
    stored = Provenance.from_json(read_text(experiment.judged_by))
    assert stored.differences(experiment.judges) == []


def test_the_printed_table_is_that_of_the_scores(results):
    assert (FOLDER / "table1.md").read_text(encoding="utf-8") == markdown(results)
