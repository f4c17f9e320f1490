"""The Colab set-up, with pip left out."""

from importlib.metadata import version
from pathlib import Path

import pytest

from helpers import colab


@pytest.fixture
def pip(monkeypatch):
    """Commands that would have been run, each with its constraints."""
    calls = []

    def run(command, check):
        assert check
        calls.append((command, Path(command[command.index("-c") + 1]).read_text().splitlines()))

    monkeypatch.setattr(colab.subprocess, "run", run)
    return calls


def test_torch_and_numpy_stay_as_they_are(pip, tmp_path, capsys):
    assert colab.install(tmp_path) == []
    [(command, constraints)] = pip
    assert command[-2:] == ["-e", str(tmp_path)]
    assert constraints == [f"torch=={version('torch')}", f"numpy=={version('numpy')}"]
    assert "no restart" in capsys.readouterr().out


def test_a_missing_torch_is_not_held_back(pip, monkeypatch, tmp_path):
    monkeypatch.setattr(colab, "KEPT", ("numpy", "no-such-distribution"))
    colab.install(tmp_path)
    assert [line.split("==")[0] for line in pip[0][1]] == ["numpy"]


def test_it_asks_for_a_restart_if_an_imported_package_was_replaced(
    pip, monkeypatch, tmp_path, capsys
):
    states = iter([{"pillow": "10"}, {"torch": "2.13.0"}, {"pillow": "11"}])
    monkeypatch.setattr(colab, "_versions", lambda names: next(states))
    assert colab.install(tmp_path) == ["pillow"]
    assert "Restart the runtime and run the cells again: pillow" in capsys.readouterr().out
