"""The Colab set-up, with pip left out, and the one address that all lessons share."""

import contextlib
import re
import shutil
import subprocess
import sys
import tomllib
import types
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import nbformat
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from helpers import colab
from tools import colab as command
from tools.colab import RepositoryError, move_to, origin, repository

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
COLAB = tomllib.loads((ROOT / "tests/setup/colab.toml").read_text())
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


def held(names):
    return [f"{name}=={version(name)}" for name in names]


def test_what_is_recent_enough_stays_as_it_is(pip, clone, capsys):
    assert colab.install(clone) == []
    [(command, constraints)] = pip
    assert command[-2:] == ["-e", str(clone)]
    assert constraints == held([*colab.KERNEL, "torch", "numpy", "transformers"])
    assert "no restart" in capsys.readouterr().out


def test_what_is_too_old_is_not_held_back(pip, monkeypatch, clone):
    installed = {"torch": "2.8.0+cu126", "numpy": "1.25.2", "transformers": "4.57.1"}
    monkeypatch.setattr(colab, "version", lambda name: installed.get(name, "1"))
    colab.install(clone)
    kernel = [f"{name}==1" for name in colab.KERNEL]
    assert pip[0][1] == [*kernel, "torch==2.8.0+cu126"]


def test_a_preview_of_a_later_release_is_recent_enough(pip, monkeypatch, clone):
    installed = {"torch": "2.14.0.dev20261101", "numpy": "2.5.0rc1", "transformers": "5.1.0"}
    monkeypatch.setattr(colab, "version", lambda name: installed.get(name, "1"))
    colab.install(clone)
    assert len(pip[0][1]) == len(colab.KERNEL) + 3


def test_a_missing_torch_is_not_held_back(pip, monkeypatch, clone):
    monkeypatch.setattr(colab, "KEPT", ("numpy", "no-such-distribution"))
    colab.install(clone)
    assert pip[0][1] == held([*colab.KERNEL, "numpy"])


@pytest.mark.parametrize(
    ("changed", "replaced"),
    [
        (["numpy", "pytest"], ["numpy", "pytest"]),
        (["nbgrader"], []),  # installed, and not imported here
        ([], []),
    ],
)
def test_it_asks_for_a_restart_if_an_imported_package_was_replaced(
    pip, monkeypatch, clone, capsys, changed, replaced
):
    for name in [name for name in sys.modules if name.split(".")[0] == "nbgrader"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(colab, "_versions", lambda of: dict.fromkeys(changed, "1000") if of else {})
    monkeypatch.setattr(colab, "KEPT", ())
    monkeypatch.setattr(colab, "KERNEL", ())
    assert colab.install(clone) == replaced
    asks = "Restart the runtime and run the cells again: numpy" in capsys.readouterr().out
    assert asks == ("numpy" in replaced)


def test_what_another_package_brings_along_is_no_import_of_its_own(monkeypatch, tmp_path):
    """Setuptools holds copies of `jaraco.context` and others, which replace nothing."""
    copy = types.ModuleType("jaraco.context")
    copy.__file__ = str(tmp_path / "setuptools/_vendor/jaraco/context.py")
    monkeypatch.setitem(sys.modules, "jaraco.context", copy)
    info = tmp_path / "jaraco_context-6.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: jaraco.context\nVersion: 6.0\n")
    (info / "RECORD").write_text("jaraco/context.py,,\n")
    (tmp_path / "jaraco").mkdir()
    (tmp_path / "jaraco/context.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert not colab._is_imported("jaraco.context")
    copy.__file__ = str(tmp_path / "jaraco/context.py")
    assert colab._is_imported("jaraco.context")


@pytest.mark.parametrize("runtime", COLAB)
def test_no_dependency_asks_for_another_kernel_than_colabs(runtime):
    """Nothing that the project brings along needs more than Colab has of what it is built on."""
    packages = {canonicalize_name(name): v for name, v in COLAB[runtime]["packages"].items()}
    kernel = {canonicalize_name(name) for name in colab.KERNEL}
    assert {"ipython", "ipykernel", "ipywidgets"} <= kernel & set(packages)
    requirements = requirements_of(PROJECT["dependencies"])
    assert {"torch", "matplotlib", "markupsafe"} <= {
        canonicalize_name(r.name) for r in requirements
    }
    for requirement in requirements:
        name = canonicalize_name(requirement.name)
        if name in kernel:
            assert name in packages, requirement
            assert requirement.specifier.contains(packages[name]), requirement


def requirements_of(lines):
    """What these requirements need, and what that needs, here."""
    found, waiting = {}, [Requirement(line) for line in lines]
    while waiting:
        requirement = waiting.pop()
        if str(requirement) in found:
            continue
        found[str(requirement)] = requirement
        try:
            needed = map(Requirement, requires(requirement.name) or [])
        except PackageNotFoundError:  # of another platform
            continue
        for each in needed:
            extras = requirement.extras or {""}
            if each.marker is None or any(each.marker.evaluate({"extra": e}) for e in extras):
                waiting.append(each)
    return list(found.values())


def test_the_notebooks_extra_takes_colabs_widgets():
    packages = COLAB["2026-08-19"]["packages"]
    for line in PROJECT["optional-dependencies"]["notebooks"]:
        requirement = Requirement(line)
        if requirement.name in packages:
            assert requirement.specifier.contains(packages[requirement.name])


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
    readme = (root / "README.md").read_text(encoding="utf-8")
    assert readme.count(f"](https://{owner}.github.io/{name}/)") == 1


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


@pytest.mark.parametrize("files", range(12))
@pytest.mark.parametrize("again", ["some-one/lessons.2", "an-other/course"])
def test_a_move_cut_short_is_completed_by_the_next(clone, monkeypatch, files, again):
    replace = command._replace
    left = iter(range(files))

    def cut_short(path, text):
        if next(left, None) is None:
            raise KeyboardInterrupt
        replace(path, text)

    monkeypatch.setattr(command, "_replace", cut_short)
    with contextlib.suppress(KeyboardInterrupt):
        move_to("some-one/lessons.2", clone)
    monkeypatch.setattr(command, "_replace", replace)
    move_to(again, clone)
    assert repository(clone) == again
    check_addresses(clone)
    for path in (path for pattern in command.ADDRESSED for path in clone.glob(pattern)):
        text = path.read_text()
        left_over = text.replace(again, "").replace(again.replace("/", ".github.io/"), "")
        assert "some-one" not in left_over
        assert "OWNER/audio" not in text


@pytest.mark.parametrize(
    "url",
    [
        "https://github.com/some-one/lessons.2.git",
        "https://github.com/some-one/lessons.2",
        "https://user:secret@github.com/some-one/lessons.2.git",
        "git@github.com:some-one/lessons.2.git",
        "ssh://git@github.com:22/some-one/lessons.2.git",
        "ssh://git@github.com/some-one/lessons.2/",
    ],
)
def test_origin_is_what_git_says(tmp_path, url):
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    subprocess.run(["git", "-C", tmp_path, "remote", "add", "origin", url], check=True)
    assert origin(tmp_path) == "some-one/lessons.2"


@pytest.mark.parametrize(
    "url", [None, "https://example.org/a/b", "/a/folder", "git@gitlab.com:a/b"]
)
def test_without_an_origin_on_github_it_asks_for_the_address(tmp_path, url):
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    if url:
        subprocess.run(["git", "-C", tmp_path, "remote", "add", "origin", url], check=True)
    with pytest.raises(RepositoryError, match="say where the repository is, as in REPO=") as error:
        origin(tmp_path)
    assert "\n" not in str(error.value)


def test_the_readme_has_a_badge_for_every_lesson():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in LESSONS:
        link = f"github/{repository(ROOT)}/blob/main/notebooks/{path.name})"
        assert readme.count(link) == 1, path.name


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


def test_command_says_what_was_wrong(capsys):
    assert command.main(["nowhere"]) == 2
    assert "'nowhere' names no repository" in capsys.readouterr().err
