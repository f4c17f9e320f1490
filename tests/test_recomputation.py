"""What decides whether stored rows come out again; `make test-tables` computes them."""

import json

from helpers.methods import methods_for
from helpers.sweeps import SWEEPS
from tools import tolerances
from tools.tolerances import beyond, cheapest, largest, sampled

METHODS = methods_for("pocket")


def test_every_method_and_sweep_is_computed_again():
    assert {row.name for row in cheapest()} == set(METHODS)
    assert {row.name for row in sampled()} == {*METHODS, *SWEEPS}
    assert sampled() == sampled()


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
