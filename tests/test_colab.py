"""The Colab set-up, with pip left out, and the one address that all lessons share."""

import re
import shutil
from importlib.metadata import version
from pathlib import Path

import nbformat
import pytest

from helpers import colab
from tools import colab as command
from tools.colab import RepositoryError, move_to, repository

ROOT = Path(__file__).resolve().parent.parent
LESSONS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))


@pytest.fixture
def pip(monkeypatch):
    """Commands that would have been run, each with its constraints."""
    calls = []

    def run(command, check):
        assert check
        calls.append((command, Path(command[command.index("-c") + 1]).read_text().splitlines()))

    monkeypatch.setattr(colab.subprocess, "run", run)
    return calls


@pytest.fixture
def clone(tmp_path):
    """A copy of all files that name the repository."""
    for pattern in command.ADDRESSED:
        for path in ROOT.glob(pattern):
            copy = tmp_path / path.relative_to(ROOT)
            copy.parent.mkdir(exist_ok=True)
            shutil.copy(path, copy)
    return tmp_path


# the set-up


def test_what_is_recent_enough_stays_as_it_is(pip, clone, capsys):
    assert colab.install(clone) == []
    [(command, constraints)] = pip
    assert command[-2:] == ["-e", str(clone)]
    names = ("torch", "numpy", "transformers")
    assert constraints == [f"{name}=={version(name)}" for name in names]
    assert "no restart" in capsys.readouterr().out


def test_what_is_too_old_is_not_held_back(pip, monkeypatch, clone):
    installed = {"torch": "2.8.0+cu126", "numpy": "1.25.2", "transformers": "4.57.1"}
    monkeypatch.setattr(colab, "version", lambda name: installed.get(name, "1"))
    colab.install(clone)
    assert pip[0][1] == ["torch==2.8.0+cu126"]


def test_a_preview_of_a_later_release_is_recent_enough(pip, monkeypatch, clone):
    installed = {"torch": "2.14.0.dev20261101", "numpy": "2.5.0rc1", "transformers": "5.1.0"}
    monkeypatch.setattr(colab, "version", lambda name: installed.get(name, "1"))
    colab.install(clone)
    assert len(pip[0][1]) == 3


def test_a_missing_torch_is_not_held_back(pip, monkeypatch, clone):
    monkeypatch.setattr(colab, "KEPT", ("numpy", "no-such-distribution"))
    colab.install(clone)
    assert [line.split("==")[0] for line in pip[0][1]] == ["numpy"]


def test_it_asks_for_a_restart_if_an_imported_package_was_replaced(pip, monkeypatch, clone, capsys):
    states = iter([{"pillow": "10"}, {"torch": "2.13.0"}, {"pillow": "11"}])
    monkeypatch.setattr(colab, "_versions", lambda names: next(states))
    assert colab.install(clone) == ["pillow"]
    assert "Restart the runtime and run the cells again: pillow" in capsys.readouterr().out


# the address


def check_addresses(root: Path) -> None:
    """Every lesson's badge and setup cell, and all else, name the project's repository."""
    here = repository(root)
    for path in sorted((root / "notebooks").glob("[0-9]*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        link = f"https://colab.research.google.com/github/{here}/blob/main/notebooks/{path.name}"
        assert notebook.cells[0].source.count(f"]({link})") == 1, path.name
        [setup] = [c for c in notebook.cells if "colab" in c.metadata.get("tags", [])]
        assert setup.source.startswith(f'REPOSITORY = "https://github.com/{here}"\n'), path.name
    owner, name = here.split("/")
    for path in (path for pattern in command.ADDRESSED for path in root.glob(pattern)):
        found = re.findall(rf"github(?:\.com)?/([\w-]+)/{re.escape(name)}\b", path.read_text())
        assert set(found) <= {owner}, path.name


def test_every_lesson_names_the_projects_repository():
    check_addresses(ROOT)


def test_setup_cells_are_alike():
    books = [nbformat.read(path, as_version=4) for path in LESSONS]
    cells = {
        c.source for book in books for c in book.cells if "colab" in c.metadata.get("tags", [])
    }
    assert len(cells) == 1


def test_moving_changes_the_address_everywhere_and_nothing_else(clone):
    old = repository(clone)
    before = {path: path.read_text() for path in clone.rglob("*.*") if path.is_file()}
    changed = move_to("some-one/lessons.2", clone)
    assert repository(clone) == "some-one/lessons.2"
    check_addresses(clone)
    assert len(changed) >= 1 + len(LESSONS)
    assert all(nbformat.read(path, as_version=4) for path in changed if path.suffix == ".ipynb")
    assert move_to("some-one/lessons.2", clone) == []
    move_to(old, clone)
    assert {path: path.read_text() for path in before} == before


@pytest.mark.parametrize(
    "wrong",
    ["", "lessons", "a/b/c", "https://github.com/a/b", "-a/b", "a b/c", "a/..", "a/b.git", "ä/b"],
)
def test_what_is_no_repository_is_refused_in_one_sentence(wrong, clone):
    before = (clone / "pyproject.toml").read_text()
    with pytest.raises(
        RepositoryError, match="give owner and name, as in REPO=owner/name"
    ) as error:
        move_to(wrong, clone)
    assert "\n" not in str(error.value)
    assert (clone / "pyproject.toml").read_text() == before


def test_command_says_what_was_wrong(monkeypatch):
    monkeypatch.setattr("sys.argv", ["colab", "nowhere"])
    with pytest.raises(SystemExit, match="'nowhere' names no repository"):
        command.main()
