"""Sweeps: the stored ones are up to date, and the machinery does what it says on a tiny model."""

import csv
from dataclasses import replace

import pytest
import torch
from tiny import tiny_model

from helpers import sweeps
from helpers.editing.presets import preset
from helpers.sweeps import SWEEPS, load_sweep, measure
from tools import sweeps as command
from tools.sweeps import is_fresh, run

NUMBERS = {"a": 1, "b": 0.5, "c": 1e-3}
COLUMNS = {
    "step1": "source target learning_rate steps loss distance error text_half audio_half",
    "step2": "source target method steps loss error text_one target_probability",
    "strengths": "pair edit eta text audio sum onset_f1",
    "lora": "source target rank learning_rate parameters seconds_per_step loss error eta "
    "text audio sum",
}


@pytest.fixture
def short(monkeypatch):
    """The preset with two steps of each kind."""
    settings = preset(sweeps.PRESET)
    settings = replace(
        settings,
        embedding=replace(settings.embedding, steps=2),
        finetuning=replace(settings.finetuning, steps=2),
        sampling=replace(settings.sampling, steps=2),
    )
    monkeypatch.setattr(sweeps, "preset", lambda name: settings)
    monkeypatch.setattr("helpers.editing.nonrigid.preset", lambda name: settings)


@pytest.fixture
def counting(monkeypatch):
    """A sweep of three points that fails at the point that is named; what was measured."""
    measured, state = [], {"fails": None}

    def points():
        return [{"word": word, "number": number} for word, number in NUMBERS.items()]

    def measure_point(model, word, number):
        if word == state["fails"]:
            raise KeyboardInterrupt
        measured.append(word)
        return {"double": 2 * number}

    monkeypatch.setitem(SWEEPS, "counting", (points, measure_point))
    return measured, state


# the stored sweeps


@pytest.mark.parametrize("name", COLUMNS)
def test_stored_sweep_is_up_to_date(name):
    assert is_fresh(name), f"the sweep {name} is missing or out of date: run `make sweeps`"


def test_sweeps_are_those_that_the_lessons_show():
    sizes = {name: len(points()) for name, (points, _) in SWEEPS.items()}
    assert sizes == {"step1": 12, "step2": 12, "strengths": 90, "lora": 20}


# each measurement


@pytest.mark.parametrize("name", COLUMNS)
def test_rows_have_their_columns_and_come_out_alike_every_time(name, model, short, tmp_path):
    point = SWEEPS[name][0]()[1]
    row = measure(name, model, point)
    assert list(row) == COLUMNS[name].split()
    assert point.items() <= row.items()
    assert all(value == value for value in row.values())
    again = measure(name, tiny_model(), row)  # another model object: nothing is shared
    times = {"seconds_per_step"}
    assert {k: again[k] for k in again.keys() - times} == {k: row[k] for k in row.keys() - times}


def test_step1_figures_tell_how_far_the_embedding_went(model, short):
    point = {"source": "duck", "target": "trumpet", "learning_rate": 5e-3}
    near, far = (measure("step1", model, {**point, "steps": steps}) for steps in (0, 4))
    assert near["distance"] == 0
    assert far["distance"] > 0
    assert far["loss"] != near["loss"]


def test_step2_begins_at_the_base_model_and_leaves_it_as_it_was(model, short):
    point = {"source": "duck", "target": "trumpet"}
    before = [p.clone() for p in model.denoiser.parameters()]
    lora, full = (
        measure("step2", model, {**point, "method": method, "steps": 0})
        for method in ("lora", "full")
    )
    assert lora["loss"] == pytest.approx(full["loss"], rel=1e-5)
    tuned = measure("step2", model, {**point, "method": "full", "steps": 3})
    assert tuned["loss"] != full["loss"]
    assert all(map(torch.equal, before, model.denoiser.parameters()))


def test_lora_counts_what_is_trained(model, short):
    point = {"source": "duck", "target": "trumpet", "learning_rate": 1e-3}
    small, large, whole = (measure("lora", model, {**point, "rank": rank}) for rank in (2, 8, 0))
    assert large["parameters"] == 4 * small["parameters"]
    assert whole["parameters"] == sum(p.numel() for p in model.denoiser.parameters())
    assert small["eta"] > 0


# running and reading


def test_interrupted_run_goes_on_where_it_stopped(counting, model, tmp_path):
    measured, state = counting
    state["fails"] = "c"
    with pytest.raises(KeyboardInterrupt):
        run("counting", model, tmp_path)
    assert not is_fresh("counting", model, tmp_path)
    assert len(load_sweep("counting", tmp_path)) == 2
    state["fails"] = None
    run("counting", model, tmp_path)
    assert measured == ["a", "b", "c"]
    assert is_fresh("counting", model, tmp_path)
    run("counting", model, tmp_path)
    assert measured == ["a", "b", "c"]


def test_numbers_come_back_as_numbers(counting, model, tmp_path):
    run("counting", model, tmp_path)
    assert load_sweep("counting", tmp_path).to_dict("records") == [
        {"word": "a", "number": 1, "double": 2},
        {"word": "b", "number": 0.5, "double": 1.0},
        {"word": "c", "number": 1e-3, "double": 2e-3},
    ]
    assert list(csv.reader((tmp_path / "counting.csv").open()))[0] == ["word", "number", "double"]


def test_rows_of_another_model_are_made_anew(counting, model, tmp_path):
    measured, _ = counting
    run("counting", model, tmp_path)
    with torch.no_grad():
        model.denoiser.conv_out.bias += 1
    assert not is_fresh("counting", model, tmp_path)
    run("counting", model, tmp_path)
    assert measured == ["a", "b", "c"] * 2
    assert is_fresh("counting", model, tmp_path)


def test_unknown_and_missing_sweeps_are_refused_in_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="no sweep 'step9': choose from step1, step2"):
        load_sweep("step9")
    with pytest.raises(ValueError, match="compute it with `make sweeps`"):
        load_sweep("step1", tmp_path)


def test_command_refuses_an_unknown_name(capsys):
    assert command.main(["step1", "step9"]) == 2
    assert "no sweep 'step9'" in capsys.readouterr().err
