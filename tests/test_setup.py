import ast
import io
import json
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

from tools import set_up, site
from tools.set_up import SetUpError

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
PINNED_EXTRAS = ("notebooks", "dev", "maintain", "site")
REQUIREMENTS = [
    Requirement(line)
    for line in PROJECT["dependencies"]
    + [line for extra in PINNED_EXTRAS for line in EXTRAS[extra]]
]
CONSTRAINTS = [
    Requirement(line)
    for line in re.findall(r"^[^#\s].*$", (ROOT / "constraints.txt").read_text(), re.M)
]
ASKED = (
    "AUDIO",
    "START",
    "PROMPT",
    "OUT",
    "ETA",
    "QUICK",
    "REPO",
    "PYTHON",
    "MODEL",
    "PRESET",
    "RAY",
)


# pyproject.toml, constraints.txt and environment.yml agree


def pin(name, python="3.11.0"):
    """Version of a package that is pinned for a Python on Linux."""
    machine = {"python_full_version": python, "python_version": python.rpartition(".")[0]}
    machine |= {"sys_platform": "linux", "platform_machine": "x86_64", "os_name": "posix"}
    [version] = {
        str(constraint.specifier).removeprefix("==")
        for constraint in CONSTRAINTS
        if canonicalize_name(constraint.name) == canonicalize_name(name)
        and (constraint.marker is None or constraint.marker.evaluate(machine))
    }
    return version


def test_every_constraint_is_an_exact_public_version():
    assert pin("torch") == "2.13.0"
    for constraint in CONSTRAINTS:
        assert re.fullmatch(r"==[0-9][0-9a-z.]*", str(constraint.specifier)), constraint


@pytest.mark.parametrize("python", ["3.11.0", "3.12.0", "3.13.0", "3.14.0"])
@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=str)
def test_every_dependency_has_a_lower_bound_that_its_pin_meets(requirement, python):
    assert ">=" in str(requirement.specifier)
    assert requirement.specifier.contains(pin(requirement.name, python))


def test_extras_hold_what_the_default_path_does_not_need():
    others = {"browser", "distributed", "laion-clap", "msclap", "ray"}
    assert set(EXTRAS) == others | set(PINNED_EXTRAS)
    default = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}
    apart = {"laion-clap", "torchaudio", "torchvision", "deepspeed", "pytest", "ruff"}
    assert not default & apart


def test_conda_environment_defers_to_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, installed = environment["dependencies"]
    assert pip == "pip"
    assert installed == {"pip": ["--constraint constraints.txt", "--editable .[notebooks]"]}
    version = python.removeprefix("python=")
    assert SpecifierSet(PROJECT["requires-python"]).contains(version)


def test_oldest_python_is_the_same_everywhere():
    assert PROJECT["requires-python"] == ">={}.{}".format(*set_up.OLDEST_PYTHON)


def test_every_import_is_declared():
    declared = {canonicalize_name(requirement.name) for requirement in REQUIREMENTS}
    declared |= {canonicalize_name(Requirement(r).name) for rs in EXTRAS.values() for r in rs}
    declared |= {"packaging"}  # comes with pytest, for which it is made
    declared |= {"-typeshed"}  # for type checkers alone, which bring it
    own = {"helpers", "tools", "tests"} | {path.stem for path in ROOT.glob("tests/*")}
    distributions = packages_distributions()
    for path in (
        path for room in ("helpers", "tools", "tests") for path in ROOT.glob(f"{room}/**/*.py")
    ):
        for module in imported_modules(path) - sys.stdlib_module_names - own:
            names = {canonicalize_name(name) for name in distributions.get(module, [module])}
            assert names & declared, f"{path} imports {module}, which pyproject.toml does not list"


def imported_names(node):
    if isinstance(node, ast.Import):
        return {alias.name.split(".")[0] for alias in node.names}
    if isinstance(node, ast.ImportFrom) and node.level == 0:
        return {node.module.split(".")[0]}
    return set()


def imported_modules(path):
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return {name for node in nodes for name in imported_names(node)}


# what stands alone


TOOLS = {"helpers.display.sliders"}
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in ROOT.glob("helpers/**/*.py")
    if path.name not in {"__init__.py", "__main__.py"}
)


def test_helpers_import_without_a_notebook():
    """Only sliders need the extra `notebooks`."""
    assert set(MODULES) >= TOOLS
    script = """
import importlib, sys
for name in ("IPython", "ipykernel", "ipywidgets", "jupyterlab", "papermill", "nbconvert",
             "nbformat", "nbgrader", "pytest"):
    sys.modules[name] = None
for module in sys.argv[1:]:
    importlib.import_module(module)
"""
    wanted = [module for module in MODULES if module not in TOOLS]
    command = [sys.executable, "-c", script, *wanted]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_module_imports_what_windows_lacks():
    missing = {"resource", "fcntl", "pwd", "grp", "termios", "pty"}
    for path in ROOT.glob("helpers/**/*.py"):
        top = ast.parse(path.read_text(encoding="utf-8")).body
        assert not missing & {name for node in top for name in imported_names(node)}, path


@pytest.mark.parametrize("path", [*ROOT.glob("helpers/**/*.py"), *ROOT.glob("tools/**/*.py")])
def test_text_is_read_and_written_as_utf8(path):
    """Windows and some servers have another default."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            says = {keyword.arg for keyword in node.keywords}
            place = f"{path.name}:{node.lineno}"
            if node.func.attr in {"read_text", "write_text"}:
                assert "encoding" in says, place
            if node.func.attr == "open" and getattr(node.func.value, "id", None) not in {
                "os",
                "av",
            }:
                modes = [a.value for a in node.args if isinstance(a, ast.Constant)]
                binary = any("b" in mode for mode in modes if isinstance(mode, str))
                assert binary or "encoding" in says, place


# the set-up


def test_set_up_runs_on_an_old_bare_python():
    source = (ROOT / "tools/set_up.py").read_text()
    ast.parse(source, feature_version=(3, 6))
    assert imported_modules(ROOT / "tools/set_up.py") <= sys.stdlib_module_names


def fake_python(folder, name, version, has_venv=True):
    path = folder / name
    path.write_text(f"#!/bin/sh\necho {version.replace('.', ' ')} {int(has_venv)}\n")
    path.chmod(0o755)
    return str(path)


def test_find_python_takes_the_first_that_is_recent_enough(tmp_path):
    old = fake_python(tmp_path, "python3", "3.9")
    new = fake_python(tmp_path, "python3.13", "3.13")
    assert set_up.find_python([old, str(tmp_path / "python3.12"), new]) == new
    assert set_up.find_python([sys.executable, new]) == sys.executable


def test_find_python_prefers_one_that_has_venv(tmp_path):
    bare = fake_python(tmp_path, "python3", "3.13", has_venv=False)
    whole = fake_python(tmp_path, "python3.12", "3.12")
    assert set_up.find_python([bare, whole]) == whole


@pytest.mark.parametrize("version", ["2.7", "3.6", "3.9", "3.10"])
def test_old_python_is_refused_in_one_sentence(tmp_path, version):
    old = fake_python(tmp_path, "python3", version)
    with pytest.raises(SetUpError, match=r"needs Python 3\.11 or newer.*PYTHON=") as error:
        set_up.find_python([old])
    assert "\n" not in str(error.value)
    assert "venv" not in str(error.value)


@pytest.mark.parametrize("version", ["3.11", "3.13", "3.14"])
def test_python_without_venv_is_told_from_an_old_one(tmp_path, version):
    old = fake_python(tmp_path, "python3", "3.10", has_venv=False)
    bare = fake_python(tmp_path, "python3.x", version, has_venv=False)
    sentence = rf"python3\.x is recent enough, but.*`sudo apt install python{version}-venv`"
    with pytest.raises(SetUpError, match=sentence) as error:
        set_up.find_python([old, bare])
    assert "\n" not in str(error.value)


def test_inspect_sees_what_an_interpreter_has(tmp_path):
    assert set_up.inspect(sys.executable) == (sys.version_info[:2], True)
    assert set_up.inspect(str(tmp_path / "python3")) == (None, False)
    bare = tmp_path / "bare"
    hide = "import sys; sys.modules['ensurepip'] = None; exec(sys.argv[1])"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{hide}" "$2"\n')
    bare.chmod(0o755)
    assert set_up.inspect(str(bare)) == (sys.version_info[:2], False)


def test_set_up_looks_for_every_python_on_the_path(tmp_path, monkeypatch, commands):
    """As where python3 is 3.10 and python3.14 stands beside it."""
    fake_python(tmp_path, "python3.14", "3.14")
    old = fake_python(tmp_path, "python3", "3.10")
    monkeypatch.setattr(set_up.sys, "executable", old)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(set_up, "check_disk", lambda environment, needed_gb: None)
    monkeypatch.setattr(set_up, "cpu_torch_options", list)
    (tmp_path / ".venv").mkdir()
    set_up.main(tmp_path)
    assert commands[0][0] == "python3.14"


@pytest.mark.parametrize(
    ("platform", "options", "needed"),
    [("linux", [], 6.1), ("linux", ["--extra-index-url", "x"], 2.3), ("darwin", [], 2.3)],
)
def test_disk_is_checked_for_the_build_that_will_come(monkeypatch, platform, options, needed):
    checked = []
    monkeypatch.setattr(set_up.sys, "platform", platform)
    monkeypatch.setattr(set_up, "find_python", lambda candidates: "python3")
    monkeypatch.setattr(set_up, "cpu_torch_options", lambda: options)
    monkeypatch.setattr(set_up, "check_disk", lambda folder, needed: checked.append(needed))
    monkeypatch.setattr(set_up, "make_environment", lambda *arguments: None)
    set_up.main(ROOT)
    assert checked == [needed]


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
    monkeypatch.setattr(set_up, "run", lambda *parts: recorded.append([str(p) for p in parts]))
    return recorded


def test_fresh_set_up_makes_installs_and_stamps(tmp_path, commands):
    environment = tmp_path / ".venv"
    environment.mkdir()
    set_up.make_environment(tmp_path, environment, "python3", [])
    assert commands[0] == ["python3", "-m", "venv", "--clear", str(environment)]
    assert commands[1][-2:] == ["--editable", f"{tmp_path}[notebooks]"]
    assert str(tmp_path / "constraints.txt") in commands[1]
    assert (environment / set_up.STAMP).exists()


def test_half_made_set_up_is_completed_not_begun_anew(tmp_path, commands, monkeypatch):
    environment = tmp_path / ".venv"
    environment.mkdir()
    monkeypatch.setattr(set_up, "is_usable", lambda python: True)
    set_up.make_environment(tmp_path, environment, "python3", [])
    assert [command[:3] for command in commands] == [[str(environment / "bin/python"), "-m", "pip"]]


def test_cpu_build_is_installed_first_where_it_is_asked_for(tmp_path, commands, monkeypatch):
    environment = tmp_path / ".venv"
    environment.mkdir()
    monkeypatch.setattr(set_up, "is_usable", lambda python: True)
    set_up.make_environment(tmp_path, environment, "python3", ["--extra-index-url", "x"])
    assert [command[-1] for command in commands] == ["torch", f"{tmp_path}[notebooks]"]
    assert commands[0][-3:] == ["--extra-index-url", "x", "torch"]


def test_failed_step_leaves_no_stamp(tmp_path):
    environment = tmp_path / ".venv"
    environment.mkdir()
    with pytest.raises(SetUpError, match="run it again"):
        set_up.make_environment(tmp_path, environment, "no-such-python", [])
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
    (folder / ".venv/.dev").touch()
    return folder


def make(folder, *arguments, **variables):
    dropped = {*ASKED, "AUDIO_EDITING_CACHE"}
    environment = {name: value for name, value in os.environ.items() if name not in dropped}
    environment = {k: v for k, v in environment.items() if not k.startswith("MAKE")} | {"LANG": "C"}
    return subprocess.run(
        ["make", *arguments],
        cwd=folder,
        env=environment | variables,
        capture_output=True,
        text=True,
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


def test_make_test_lints_before_it_tests(checkout):
    lines = make(checkout, "test").stdout.splitlines()
    assert lines.index("ruff") < lines.index("pyright") < lines.index("pytest")


def test_make_test_all_runs_every_kind_of_test(checkout):
    (checkout / "notebooks").mkdir()
    lessons = [f"notebooks/0{number}_lesson.ipynb" for number in (0, 1)]
    for lesson in lessons:
        (checkout / lesson).touch()
    lines = make(checkout, "test-all").stdout.splitlines()
    kinds = {f"tests/{kind}" for kind in ("tables", "mutation", "browser", "setup", "cluster")}
    assert kinds <= set(lines)
    alone = [lines[i - 1] for i, line in enumerate(lines) if line in lessons]
    assert alone == ["notebooks/sanitize.cfg", lessons[0], *["notebooks/sanitize.cfg"] * 2]


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


def test_make_site_installs_what_it_needs_and_passes_the_folder(checkout):
    lines = make(checkout, "site", "OUT=my site").stdout.splitlines()
    assert ".[notebooks,dev,site]" in lines
    assert lines[-4:] == ["-m", "tools.site", "--out", "my site"]


def test_make_verify_passes_what_is_asked(checkout):
    lines = make(checkout, "verify", "MODEL=a folder", "PRESET=t4", "OUT=o").stdout.splitlines()
    assert lines == ["-m", "tools.verify", "a folder", "--preset", "t4", "--out", "o"]
    assert make(checkout, "verify").stdout.splitlines() == ["-m", "tools.verify"]


def test_make_colab_passes_the_repository_as_it_is(checkout):
    assert make(checkout, "colab").stdout.splitlines() == ["-m", "tools.colab"]
    for repository in ("owner/name", "it's $(HOME)"):
        lines = make(checkout, "colab", f"REPO={repository}").stdout.splitlines()
        assert lines == ["-m", "tools.colab", repository]


@pytest.mark.parametrize(
    ("asked", "words"), [([], []), (["QUICK=0"], []), (["QUICK=1"], ["--quick"])]
)
def test_quick_is_yes_or_no(checkout, asked, words):
    expected = ["-m", "tools.table1", *words]
    assert make(checkout, "table1", *asked).stdout.splitlines() == expected


def test_make_table1_passes_the_cluster(checkout):
    lines = make(checkout, "table1", "RAY=10.0.0.1:6379").stdout.splitlines()
    assert lines == ["-m", "tools.table1", "--ray", "10.0.0.1:6379"]


@pytest.mark.parametrize("value", ["2", "no", "yes", "1 1 x", "$(shell touch ran)"])
def test_quick_is_nothing_else(checkout, value):
    result = make(checkout, "table1", f"QUICK={value}")
    assert result.returncode != 0
    assert f"QUICK is 1 (minutes) or 0 (hours), not {value}" in result.stderr
    assert not (checkout / "ran").exists()


@pytest.mark.parametrize("name", ASKED)
def test_an_empty_variable_is_refused_in_one_sentence(checkout, name):
    result = make(checkout, "demo", f"{name}=")
    assert result.returncode != 0
    assert f"{name} is empty: give it a value, or leave it out" in result.stderr
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("name", [*ASKED, "NOTEBOOKS", "run", "pins", "alone", "ANYTHING"])
def test_no_variable_is_run(checkout, name):
    value = "$(shell touch ran) `touch ran` $$(touch ran); touch ran"
    targets = ["setup", "demo", "table1", "student", "colab", "lab"]
    make(checkout, *targets, f"{name}={value}")
    make(checkout, *targets, **{name: value})
    (checkout / ".venv/.complete").unlink()
    make(checkout, "setup", f"{name}={value}")
    assert not [*checkout.rglob("ran")]


def test_make_lab_lets_root_in(checkout):
    """As in Docker and cloud shells, where JupyterLab refuses to start otherwise."""
    tools = checkout / "programs"
    tools.mkdir()
    for user, words in {"0": ["--allow-root"], "1000": []}.items():
        (tools / "id").write_text(f"#!/bin/sh\necho {user}\n")
        (tools / "id").chmod(0o755)
        result = make(checkout, "lab", PATH=f"{tools}{os.pathsep}{os.environ['PATH']}")
        *_, last = result.stdout.partition("-m\n")
        assert last.split() == ["jupyterlab", *words, "notebooks"]


def test_what_tests_need_is_installed_when_they_first_run(checkout):
    (checkout / ".venv/.dev").unlink()
    assert "pip" not in make(checkout, "lab").stdout.split()
    lines = make(checkout, "student").stdout.splitlines()
    assert lines[-2:] == ["-m", "tools.classroom"]
    assert ".[notebooks,dev]" in lines
    assert "pip" not in make(checkout, "student").stdout.split()


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


WORKFLOWS = {path.stem: path for path in sorted((ROOT / ".github/workflows").glob("*.yml"))}


def run_lines(workflow):
    """Commands of a workflow that has one job, in order."""
    [job] = yaml.safe_load(workflow.read_text())["jobs"].values()
    return [step["run"] for step in job["steps"] if "run" in step]


def test_workflows_use_the_oldest_and_the_newest_python():
    assert set(WORKFLOWS) == {"newest", "site", "test"}
    [job] = yaml.safe_load(WORKFLOWS["test"].read_text())["jobs"].values()
    oldest, newest = job["strategy"]["matrix"]["python"]
    assert oldest == "{}.{}".format(*set_up.OLDEST_PYTHON)
    assert f"{oldest} to {newest}" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert f'python-version: "{newest}"' in WORKFLOWS["newest"].read_text()
    assert {system.partition("-")[0] for system in job["strategy"]["matrix"]["system"]} == {
        "macos",
        "ubuntu",
    }


def test_the_site_is_published_from_where_it_is_built(checkout):
    [job] = yaml.safe_load(WORKFLOWS["site"].read_text())["jobs"].values()
    [published] = [s["with"]["path"] for s in job["steps"] if "pages-artifact" in s.get("uses", "")]
    assert ROOT / published == site.OUT / "html"


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_every_line_of_a_workflow_runs(checkout, workflow):
    """On a fresh clone, with a Python that does nothing but print its arguments."""
    for stamp in (".complete", ".dev"):
        (checkout / ".venv" / stamp).unlink()
    tools = checkout / "programs"
    tools.mkdir()
    shutil.copy(checkout / ".venv/bin/python", tools / "python")
    environment = {k: v for k, v in os.environ.items() if k not in ASKED}
    environment |= {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
    told = [
        subprocess.run(
            ["bash", "-e", "-c", line],
            cwd=checkout,
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.splitlines()
        for line in run_lines(WORKFLOWS[workflow])
    ]
    # The package's tests and the mutations; there is no notebook here.
    assert told[-1].count("pytest") == (0 if workflow == "site" else 2)
    pinned = workflow != "newest"
    words = [word for lines in told for word in lines]
    assert ("constraints.txt" in words) == pinned
    assert ("tools/set_up.py" in words) == pinned


def test_the_container_makes_the_set_up_with_a_python_it_is_made_for(checkout):
    container = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())
    [python] = re.findall(r"devcontainers/python:(3\.\d+)-", container["image"])
    assert SpecifierSet(PROJECT["requires-python"]).contains(f"{python}.0")
    (checkout / ".venv/.complete").unlink()
    program, *arguments = container["postCreateCommand"].split()
    assert program == "make"
    tools = checkout / "programs"
    tools.mkdir()
    shutil.copy(checkout / ".venv/bin/python", tools / "python3")
    done = make(checkout, *arguments, PATH=f"{tools}{os.pathsep}{os.environ['PATH']}")
    assert done.stdout.split() == ["tools/set_up.py"], done.stderr
    interpreter = container["customizations"]["vscode"]["settings"]["python.defaultInterpreterPath"]
    assert interpreter == "${containerWorkspaceFolder}/.venv/bin/python"


def test_the_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == PROJECT["version"]


def test_an_issue_form_takes_the_report_of_the_verification():
    form = yaml.safe_load((ROOT / ".github/ISSUE_TEMPLATE/base_model.yml").read_text())
    fields = {field["id"]: field for field in form["body"] if "id" in field}
    assert fields["report"]["type"] == "textarea"
    assert "render" not in fields["report"]["attributes"]  # the report is Markdown
    text = (ROOT / ".github/ISSUE_TEMPLATE/base_model.yml").read_text()
    assert "tools.verify" in text
    assert "report.md" in (ROOT / "tools/verify.py").read_text(encoding="utf-8")


def test_the_changelog_knows_the_version():
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## {PROJECT['version']}\n" in changes
    assert "## Unreleased\n" in changes
