"""Stored rows come out again, and planted faults do not pass for rounding; see `make test-all`.

One row of every method of Table 1, and a sample of all stored tables.
"""

from dataclasses import replace

import pytest

from helpers.evaluation.clap import load_clap
from helpers.methods import methods_for
from helpers.models.pocket import load_pocket
from helpers.storage import Provenance
from tools.tolerances import (
    beyond,
    cheapest,
    compute,
    first_steps,
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


@pytest.mark.parametrize("row", sampled(), ids=lambda row: row.name)
def test_a_sampled_row_comes_out_again(row, kept):
    again = compute(load_pocket(), load_clap("pocket"), row, kept)
    assert not beyond(row.figures, again, load()["rows"][row.name])


def test_every_method_and_sweep_has_its_tolerances():
    rows = [*cheapest(), *sampled()]
    allowed = load()["rows"]
    for row in rows:
        assert set(allowed[row.name]) == set(row.figures)
