"""The campaign of ``make torture`` finds a fault that is planted, and none where there is none."""

from contextlib import contextmanager

import pytest
from torture.__main__ import CLASSES, run

from helpers import storage, sweeps
from helpers.comparison import scores
from helpers.editing import optimisation

SMALL = 10


@contextmanager
def opened_unchecked(path):
    with open(path, "rb") as file:
        yield file


FAULTS = {
    "files in a power cut": (storage, "_to_disk", lambda descriptor: None, "lost"),
    "damaged checkpoints": (optimisation, "open_checked", opened_unchecked, "wrong"),
    "damaged tables of scores": (scores, "read_table", storage.read_text, "wrong"),
    "damaged tables of sweeps": (sweeps, "read_table", storage.read_text, "wrong"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_that_is_planted_is_found(monkeypatch, name):
    clean = run(CLASSES[name], SMALL, seed=0)
    assert clean.is_clean, clean.examples
    assert clean.attempts == SMALL
    module, function, fault, outcome = FAULTS[name]
    monkeypatch.setattr(module, function, fault)
    assert getattr(run(CLASSES[name], SMALL, seed=0), outcome) > 0


def test_a_traceback_is_counted():
    def attempt(folder, generator):
        raise KeyError("x")

    count = run(attempt, 2, seed=0)
    assert (count.attempts, count.traceback, count.is_clean) == (2, 2, False)
