"""The Table 1 that comes with the repository: of today's model, settings and pairs, and whole."""

import json

import pytest

from helpers import load_model
from helpers.baselines import methods_for
from helpers.data import data_path
from helpers.evaluation.clap import load_clap
from helpers.evaluation.experiment import Experiment
from helpers.evaluation.pairs import load_pairs
from helpers.evaluation.report import SEAL, made_from
from helpers.evaluation.scores import read_rows
from helpers.evaluation.table import Results

FOLDER = data_path("table1")
PAIRS = "pocket27"


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    model, clap = load_model("pocket"), load_clap("pocket")
    return Experiment(model, clap, load_pairs(PAIRS), methods_for("pocket"), FOLDER)


@pytest.fixture(scope="module")
def results(experiment) -> Results:
    return Results(read_rows(experiment.table), experiment.methods, PAIRS)


def test_every_method_s_every_strength_is_scored_on_every_pair(experiment, results):
    asked = {(s.pair.id, s.method, value) for s in experiment.sweeps() for value in s.strengths}
    assert len(results.rows) == len(asked)
    assert {row.key for row in results.rows} == asked


def test_it_was_made_with_this_model_these_settings_and_these_pairs(experiment, results):
    stored = json.loads((FOLDER / SEAL).read_text(encoding="utf-8"))
    assert stored == json.loads(json.dumps(made_from(experiment, results))), (
        "the stored table is out of date: run `make table1` and copy its files to data/table1"
    )
    prompts = {pair.id: pair.prompt for pair in experiment.pairs}
    assert all(row.prompt == prompts[row.pair] for row in results.rows)


def test_the_printed_table_is_that_of_the_scores(results):
    assert (FOLDER / "table1.md").read_text(encoding="utf-8") == results.markdown()
