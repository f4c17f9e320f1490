"""Stored rows come out again, and planted faults do not pass for rounding.

One row of every method of Table 1; lessons 02, 03, 04 and 07 compute one of each sweep.
"""

import json
from dataclasses import replace

import pytest

from helpers.evaluation.clap import load_clap
from helpers.methods import methods_for
from helpers.models.pocket import load_pocket
from helpers.storage import Provenance
from helpers.sweeps import SWEEPS
from tools import tolerances
from tools.tolerances import (
    beyond,
    cheapest,
    compute,
    first_steps,
    largest,
    load,
    made_from,
    sampled,
    steps_beyond,
    subjects,
)

METHODS = methods_for("pocket")


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Where the methods find the Step 1 that they share."""
    return tmp_path_factory.mktemp("kept")


@pytest.mark.parametrize("row", cheapest(), ids=lambda row: row.name)
def test_a_row_of_every_method_comes_out_again(row, kept):
    again = compute(load_pocket(), load_clap("pocket"), row, kept)
    assert not beyond(row.figures, again, load()["rows"][row.name])


def test_first_steps_come_out_again():
    model = load_pocket()
    stored = Provenance.from_dict(load()["made from"])
    assert not stored.differences(made_from(model)), "out of date: run `make tolerances`"
    again = first_steps(model, *subjects())
    assert set(again) == set(load()["steps"])
    assert not steps_beyond(again)


def faster(pair, method):
    return pair, replace(method, embedding=_faster(method.embedding))


def faster_tuning(pair, method):
    return pair, replace(method, finetuning=_faster(method.finetuning))


def _faster(settings):
    return replace(settings, learning_rate=1.1 * settings.learning_rate)


def more_guidance(pair, method):
    return pair, method.with_sampling(guidance_scale=method.sampling.guidance_scale + 0.5)


def swapped_prompt(pair, method):
    return replace(pair, prompt="A phone ringing"), method


STEP_1 = {"Step 1, loss", "Step 1, distance"}
STEP_2 = {"Ours, Step 2, loss", "Ours (LoRA), Step 2, loss"}
STEP_3 = {"Step 3, latent"}
NOTICED = {
    faster: STEP_1,
    faster_tuning: STEP_2,
    more_guidance: STEP_3,
    swapped_prompt: STEP_1 | STEP_2 | STEP_3,
}


@pytest.mark.parametrize("fault", NOTICED, ids=lambda fault: fault.__name__)
def test_a_planted_fault_is_noticed_within_three_steps(fault):
    pair, methods = subjects()
    faulty, broken = zip(*(fault(pair, method) for method in methods), strict=True)
    again = first_steps(load_pocket(), faulty[0], broken, steps=3)
    found = steps_beyond(again)
    assert {name for name in again if any(told.startswith(name) for told in found)} == (
        NOTICED[fault]
    )


# the machinery


def test_every_method_and_sweep_has_its_tolerances():
    rows = [*cheapest(), *sampled()]
    assert {row.name for row in cheapest()} == set(METHODS)
    assert {row.name for row in sampled()} == {*METHODS, *SWEEPS}
    assert sampled() == sampled()
    allowed = load()["rows"]
    for row in rows:
        assert set(allowed[row.name]) == set(row.figures)


def test_figures_beyond_what_is_allowed_are_named():
    nan = float("nan")
    stored = {"text_clap": 0.5, "event_f1": nan, "sum": 1.0}
    allowed = {"text_clap": 0.01, "event_f1": 0.01, "sum": 0.01}
    assert beyond(stored, {"text_clap": 0.509, "event_f1": nan, "sum": 0.995}, allowed) == []
    found = beyond(stored, {"text_clap": 0.52, "event_f1": 0.0, "sum": nan}, allowed)
    assert [told.split()[0] for told in found] == ["text_clap", "event_f1", "sum"]
    assert found[0] == "text_clap is 0.52 instead of 0.5 ± 0.01"


def test_largest_difference_is_that_of_any_two():
    assert largest([{"sum": 1.0}, {"sum": 1.5}, {"sum": 0.75}]) == {"sum": 0.75}


def test_command_stores_twice_what_computers_differ_by(monkeypatch, tmp_path, capsys):
    [row] = [row for row in cheapest() if row.name == "source"]
    lower = {name: value - 0.25 for name, value in row.figures.items()}
    everywhere = [([f], {"Step 1, loss": [2.0, v]}) for f, v in ((row.figures, 1.0), (lower, 1.5))]
    monkeypatch.setattr(tolerances, "FILE", tmp_path / "tolerances.json")
    monkeypatch.setattr(tolerances, "cheapest", lambda: [row])
    monkeypatch.setattr(tolerances, "sampled", lambda: [])
    monkeypatch.setattr(tolerances, "_everywhere", lambda: everywhere)
    assert tolerances.main([]) == 0
    content = json.loads((tmp_path / "tolerances.json").read_text())
    assert content["rows"]["source"]["sum"] == 0.5
    assert content["steps"]["Step 1, loss"] == {
        "values": [2.0, 1.0],
        "tolerances": [tolerances.RESOLUTION, 1.0],
    }
    assert "source" in capsys.readouterr().out
