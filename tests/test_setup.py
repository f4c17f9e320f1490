import ast
import io
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from tools import set_up
from tools.set_up import SetUpError

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
REQUIREMENTS = [Requirement(line) for line in PROJECT["dependencies"] + EXTRAS["dev"]]
PINS = {
    canonicalize_name(pin.name): str(pin.specifier)
    for pin in map(
        Requirement, re.findall(r"^[^#\s].*$", (ROOT / "constraints.txt").read_text(), re.M)
    )
}


# pyproject.toml, constraints.txt and environment.yml agree


def test_every_constraint_is_an_exact_public_version():
    assert PINS["torch"] == "==2.13.0"
    for name, pin in PINS.items():
        assert re.fullmatch(r"==[0-9][0-9a-z.]*", pin), f"{name}{pin} is no exact public version"


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=str)
def test_every_dependency_has_a_lower_bound_that_its_pin_meets(requirement):
    assert ">=" in str(requirement.specifier)
    pin = PINS[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(pin.removeprefix("=="))


def test_extras_hold_what_the_default_path_does_not_need():
    assert set(EXTRAS) == {"browser", "dev", "distributed", "laion-clap", "msclap"}
    default = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}
    assert not default & {"laion-clap", "torchaudio", "torchvision", "deepspeed", "pytest", "ruff"}


def test_conda_environment_defers_to_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, installed = environment["dependencies"]
    assert pip == "pip"
    assert installed == {"pip": ["--constraint constraints.txt", "--editable .[dev]"]}
    version = python.removeprefix("python=")
    assert SpecifierSet(PROJECT["requires-python"]).contains(version)


def test_oldest_python_is_the_same_everywhere():
    assert PROJECT["requires-python"] == ">={}.{}".format(*set_up.OLDEST_PYTHON)


def test_every_import_is_declared():
    declared = {canonicalize_name(requirement.name) for requirement in REQUIREMENTS}
    declared |= {canonicalize_name(Requirement(r).name) for rs in EXTRAS.values() for r in rs}
    declared |= {"packaging"}  # comes with pytest, for which it is made
    own = {"helpers", "tools", "tests"} | {path.stem for path in ROOT.glob("tests/*.py")}
    distributions = packages_distributions()
    for path in (
        path for room in ("helpers", "tools", "tests") for path in ROOT.glob(f"{room}/**/*.py")
    ):
        for module in imported_modules(path) - sys.stdlib_module_names - own:
            names = {canonicalize_name(name) for name in distributions.get(module, [module])}
            assert names & declared, f"{path} imports {module}, which pyproject.toml does not list"


def imported_modules(path):
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


# the set-up


def test_set_up_runs_on_an_old_bare_python():
    source = (ROOT / "tools/set_up.py").read_text()
    ast.parse(source, feature_version=(3, 6))
    assert imported_modules(ROOT / "tools/set_up.py") <= sys.stdlib_module_names


def fake_python(folder, name, version):
    path = folder / name
    path.write_text(f"#!/bin/sh\necho {version.replace('.', ' ')}\n")
    path.chmod(0o755)
    return str(path)


def test_find_python_takes_the_first_that_is_recent_enough(tmp_path):
    old = fake_python(tmp_path, "python3", "3.9")
    new = fake_python(tmp_path, "python3.13", "3.13")
    assert set_up.find_python([old, str(tmp_path / "python3.12"), new]) == new
    assert set_up.find_python([sys.executable, new]) == sys.executable


def test_old_python_is_refused_in_one_sentence(tmp_path):
    old = fake_python(tmp_path, "python3", "3.9")
    with pytest.raises(SetUpError, match=r"needs Python 3\.11 or newer.*PYTHON=") as error:
        set_up.find_python([old])
    assert "\n" not in str(error.value)


def test_full_disk_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(SetUpError, match=r"needs about 1e\+09 GB of disk and .* free:") as error:
        set_up.check_disk(tmp_path / ".venv", needed_gb=1e9)
    assert "\n" not in str(error.value)


def test_disk_check_counts_what_is_installed_already(tmp_path, monkeypatch):
    monkeypatch.setattr(set_up.shutil, "disk_usage", lambda path: Usage(free=600))
    environment = tmp_path / ".venv"
    environment.mkdir()
    with pytest.raises(SetUpError):
        set_up.check_disk(environment, needed_gb=1e-6)
    (environment / "package.py").write_bytes(bytes(400))
    set_up.check_disk(environment, needed_gb=1e-6)


class Usage:
    def __init__(self, free):
        self.free = free


def test_half_installed_packages_are_forgotten(tmp_path):
    packages = tmp_path / "lib/python3.11/site-packages"
    for name in ("whole-1.dist-info", "half-1.dist-info"):
        (packages / name).mkdir(parents=True)
        (packages / name / "METADATA").touch()
    (packages / "whole-1.dist-info/RECORD").touch()
    set_up.forget_half_installed(tmp_path)
    assert [path.name for path in packages.iterdir()] == ["whole-1.dist-info"]


def test_cpu_build_is_asked_for_only_where_it_helps(monkeypatch, tmp_path):
    (tmp_path / "torch").mkdir()
    index = tmp_path.as_uri()
    monkeypatch.setattr(set_up.sys, "platform", "linux")
    monkeypatch.setattr(set_up.shutil, "which", lambda name: None)
    monkeypatch.setattr(set_up.urllib.request, "urlopen", lambda url, timeout: io.BytesIO())
    assert set_up.cpu_torch_options(index) == ["--extra-index-url", index]
    monkeypatch.setattr(set_up.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    assert set_up.cpu_torch_options(index) == []
    monkeypatch.undo()
    assert set_up.cpu_torch_options("http://127.0.0.1:1") == []


@pytest.fixture
def commands(monkeypatch):
    """Record the commands a set-up runs, in place of running them."""
    recorded = []
    monkeypatch.setattr(set_up, "cpu_torch_options", list)
    monkeypatch.setattr(set_up, "run", lambda *parts: recorded.append([str(p) for p in parts]))
    return recorded


def test_fresh_set_up_makes_installs_and_stamps(tmp_path, commands):
    environment = tmp_path / ".venv"
    environment.mkdir()
    set_up.make_environment(tmp_path, environment, "python3")
    assert commands[0] == ["python3", "-m", "venv", "--clear", str(environment)]
    assert commands[1][-2:] == ["--editable", f"{tmp_path}[dev]"]
    assert str(tmp_path / "constraints.txt") in commands[1]
    assert (environment / set_up.STAMP).exists()


def test_half_made_set_up_is_completed_not_begun_anew(tmp_path, commands, monkeypatch):
    environment = tmp_path / ".venv"
    environment.mkdir()
    monkeypatch.setattr(set_up, "is_usable", lambda python: True)
    set_up.make_environment(tmp_path, environment, "python3")
    assert [command[:3] for command in commands] == [[str(environment / "bin/python"), "-m", "pip"]]


def test_failed_step_leaves_no_stamp(tmp_path):
    environment = tmp_path / ".venv"
    environment.mkdir()
    with pytest.raises(SetUpError, match="run it again"):
        set_up.make_environment(tmp_path, environment, "no-such-python")
    assert not (environment / set_up.STAMP).exists()


# make


@pytest.fixture
def checkout(tmp_path):
    """A copy of the Makefile beside a finished environment whose Python prints its arguments."""
    folder = tmp_path / "a folder"
    python = folder / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\nfor word in "$@"; do printf "%s\\n" "$word"; done\n')
    python.chmod(0o755)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
        os.utime(folder / name, (0, 0))
    (folder / "tools").mkdir()
    shutil.copy(ROOT / "tools/set_up.py", folder / "tools")
    (folder / ".venv/.complete").touch()
    return folder


def make(folder, *arguments):
    environment = {
        k: v
        for k, v in os.environ.items()
        if k not in {"AUDIO", "START", "PROMPT", "OUT", "ETA", "REPO", "AUDIO_EDITING_CACHE"}
    }
    environment = {k: v for k, v in environment.items() if not k.startswith("MAKE")} | {"LANG": "C"}
    return subprocess.run(
        ["make", *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )


def test_make_setup_is_a_no_op_when_repeated(checkout):
    result = make(checkout, "setup")
    assert result.returncode == 0
    assert "Nothing to be done" in result.stdout


def test_make_demo_leaves_out_what_is_not_asked(checkout):
    assert make(checkout, "demo").stdout.splitlines() == ["-m", "tools.demo"]


@pytest.mark.parametrize(
    "prompt",
    ["a rooster crowing", 'it\'s a "dog", barking', "costs $5 $(HOME) `ls`", r"back\slash; # %"],
)
def test_make_demo_passes_every_character(checkout, prompt):
    audio = "my recordings/it's one.wav"
    result = make(checkout, "demo", f"AUDIO={audio}", f"PROMPT={prompt}", "OUT=o p", "ETA=0.6")
    expected = ["--audio", audio, "--prompt", prompt, "--out", "o p", "--eta", "0.6"]
    assert result.stdout.splitlines() == ["-m", "tools.demo", *expected]


def test_make_test_runs_package_then_notebooks(checkout):
    assert "nbval" not in make(checkout, "test").stdout
    (checkout / "notebooks").mkdir()
    (checkout / "notebooks/00_quickstart.ipynb").touch()
    lines = make(checkout, "test").stdout.splitlines()
    assert "--nbval-current-env" in lines
    assert lines[-1] == "notebooks/00_quickstart.ipynb"


def test_make_test_begins_with_an_empty_cache_of_its_own(checkout):
    (checkout / ".venv/bin/python").write_text('#!/bin/sh\necho "$AUDIO_EDITING_CACHE"\n')
    old = checkout / ".cache/test/result.pt"
    old.parent.mkdir(parents=True)
    old.touch()
    lines = make(checkout, "test").stdout.splitlines()
    assert str(checkout / ".cache/test") in lines
    assert not old.exists()
    assert "/.cache/" not in make(checkout, "lab").stdout


def test_make_student_passes_the_folder(checkout):
    assert make(checkout, "student").stdout.splitlines() == ["-m", "tools.classroom"]
    lines = make(checkout, "student", "OUT=my class").stdout.splitlines()
    assert lines == ["-m", "tools.classroom", "--out", "my class"]


@pytest.mark.parametrize("repository", ["", "owner/name", "it's $(HOME)"])
def test_make_colab_passes_the_repository_as_it_is(checkout, repository):
    lines = make(checkout, "colab", f"REPO={repository}").stdout.splitlines()
    assert lines == ["-m", "tools.colab", repository]


def test_make_names_a_python_that_is_missing(checkout):
    (checkout / ".venv/.complete").unlink()
    result = make(checkout, "setup", "PYTHON=no-such-python")
    assert result.returncode != 0
    assert "There is no no-such-python on this machine" in result.stderr


def test_documented_make_commands_exist():
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.M))
    helped = set(re.findall(r"^make ([a-z0-9-]+)", make(ROOT, "help").stdout, re.M))
    assert targets == helped
    for name in ("README.md", "CONTRIBUTING.md"):
        used = set(re.findall(r"\bmake ([a-z0-9-]+)(?=[`\s]| [A-Z]+=)", code(ROOT / name)))
        assert used
        assert used <= targets, name


def code(path):
    """Return the code spans and blocks of a Markdown file."""
    return "\n".join(re.findall(r"```.*?```|`[^`\n]+`", path.read_text(), re.S))


def test_ci_runs_the_same_tests():
    script = ROOT / ".ci/run"
    assert os.access(script, os.X_OK)
    assert "make test" in script.read_text()
