"""A sample of all stored tables comes out again: every method, every sweep; see `make test-all`."""

import pytest

from helpers.evaluation.clap import load_clap
from helpers.models.pocket import load_pocket
from tools.tolerances import beyond, compute, load, sampled


@pytest.mark.parametrize("row", sampled(), ids=lambda row: row.name)
def test_a_sampled_row_comes_out_again(row, tmp_path):
    again = compute(load_pocket(), load_clap("pocket"), row, tmp_path)
    assert not beyond(row.figures, again, load()["rows"][row.name])
