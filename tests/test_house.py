"""The house: floors of modules, arrows that only lead down, and nothing that no lesson reaches."""

import ast
import inspect
import json
import re
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

import helpers
from helpers import models
from helpers.evaluation import clap

ROOT = Path(__file__).resolve().parent.parent
LESSONS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
FLOORS = [  # from the ground up; a room and all that is in it, the longest name that fits
    {"helpers.audio", "helpers.colab", "helpers.data", "helpers.storage"},
    {"helpers.display", "helpers.sounds"},
    {"helpers.models"},
    {"helpers.editing"},
    {"helpers.pairs"},
    {"helpers.methods"},
    {"helpers.evaluation"},
    {"helpers.comparison", "helpers.sweeps"},
    {"helpers"},  # the face
    {"tools"},
]
# What the next embedded model, the comparison and the lessons are about to use.
WAITING = {
    "helpers.display.listening",
    *(
        f"helpers.evaluation.{name}"
        for name in ("foreign_ear", "judges", "layout", "oracles", "success")
    ),
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {
    module_name(path): path
    for room in ("helpers", "tools")
    for path in ROOT.glob(f"{room}/**/*.py")
}


def imported(source: str) -> set[str]:
    """Our modules that a piece of code imports anywhere, in its functions too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module in FILES:
            for alias in node.names:
                home = f"helpers.{helpers._HOMES.get(alias.name)}"
                below = f"{node.module}.{alias.name}"
                face = node.module == "helpers" and home in FILES
                found.add(below if below in FILES else home if face else node.module)
    return found & set(FILES)


ARROWS = {name: imported(path.read_text(encoding="utf-8")) for name, path in FILES.items()}
REGISTRIES = {  # what is imported by its name in a table
    "helpers.models": {f"helpers.models.{file}" for file in models.FAMILIES},
    "helpers.evaluation.clap": {f"helpers.evaluation.clap.{f}" for f in clap.BACK_ENDS.values()},
}


def floor(module: str) -> int:
    """Floor of the longest room's name that a module's begins with."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        if length == 1 < len(parts) and parts[0] == "helpers":
            break  # the face alone, not whatever lies beside it
        for number, rooms in enumerate(FLOORS):
            if ".".join(parts[:length]) in rooms:
                return number
    raise AssertionError(f"{module} lies on no floor: give it one in FLOORS and in CONTRIBUTING.md")


def reached(modules: set[str], registries: dict[str, set[str]]) -> set[str]:
    found, waiting = set(), list(modules)
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting += ARROWS[module] | registries.get(module, set())
    return found


def code_of(lesson: Path) -> str:
    """All code of a lesson but what Colab alone runs."""
    cells = json.loads(lesson.read_text(encoding="utf-8"))["cells"]
    kept = [
        c
        for c in cells
        if c["cell_type"] == "code" and "colab" not in c["metadata"].get("tags", [])
    ]
    code = "\n\n".join("".join(cell["source"]) for cell in kept)
    return re.sub(r"^\s*[%!].*$", "", code, flags=re.M)


@pytest.mark.parametrize("module", FILES)
def test_arrows_lead_down(module):
    up = {other for other in ARROWS[module] if floor(other) > floor(module)}
    assert not up, f"{module} reaches up to {', '.join(sorted(up))}"


def test_there_is_no_circle():
    TopologicalSorter(ARROWS).prepare()  # names the circle if there is one


def test_display_knows_clips_and_arrays_only():
    for module in (name for name in FILES if name.startswith("helpers.display")):
        others = {other for other in ARROWS[module] if not other.startswith("helpers.display")}
        assert others <= {"helpers.audio"}, module


def test_no_lesson_imports_tools():
    assert not any("tools" in module for lesson in LESSONS for module in imported(code_of(lesson)))


def test_the_quickstart_reaches_few_modules():
    default = {name: {f"{name}.pocket"} for name in REGISTRIES}
    assert len(reached(imported(code_of(LESSONS[0])), default)) <= 25


def test_lessons_reach_every_module_of_helpers():
    used = reached(set().union(*(imported(code_of(lesson)) for lesson in LESSONS)), REGISTRIES)
    packages = {name for name, path in FILES.items() if path.stem == "__init__"}
    left = {name for name in FILES if name.startswith("helpers.")} - used - packages
    assert left <= {*WAITING, "helpers.colab"}


def test_base_models_that_are_no_unets_are_named_in_their_own_files_alone():
    names = re.compile("stable.?audio|tango.?flux", re.I)
    named = {module for module, path in FILES.items() if names.search(path.read_text("utf-8"))}
    own = {"helpers.models.stable_audio", "helpers.models.tangoflux"}
    assert named == {"helpers.models", *own}


def test_contributing_names_the_floors():
    text = re.sub(r"\s+", " ", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert (
        "`audio`, `data`, `storage` → `sounds`, `display` → `models` → `editing` → `pairs` → "
        "`methods` → `evaluation` → `comparison`" in text
    )


# docstrings

UNNAMED = {  # modules whose docstrings name no lesson yet
    "helpers.audio",
    "helpers.display.clips",
    "helpers.editing.finetuning",
    "helpers.editing.optimisation",
    *(name for name in FILES if floor(name) in (4, 5)),
    *(name for name in FILES if name.startswith("helpers.comparison")),
}


def introduced(lesson: Path) -> set[tuple[str, str]]:
    """Module and name of every function and class of ours that a lesson imports."""
    found = set()
    for node in ast.walk(ast.parse(code_of(lesson))):
        if isinstance(node, ast.ImportFrom) and node.module in FILES:
            module = import_module(node.module)
            described = [getattr(module, alias.name) for alias in node.names]
            found |= {(d.__module__, d.__name__) for d in described if callable(d)}
    return found


INTRODUCED = sorted(set().union(*map(introduced, LESSONS)))


@pytest.mark.parametrize(("module", "name"), [i for i in INTRODUCED if i[0] not in UNNAMED])
def test_docstrings_name_the_lesson_that_introduces_them(module, name):
    text = inspect.getdoc(getattr(import_module(module), name))
    [number] = re.findall(r"^Lesson: (\d\d)\.$", text, re.M)
    [lesson] = [path for path in LESSONS if path.name.startswith(number)]
    assert re.search(rf"\b{name}\b", lesson.read_text(encoding="utf-8")), f"not in {lesson.name}"


# the face


def test_the_face_gives_each_name_from_its_home():
    assert len(helpers.__all__) == 12
    for name in helpers.__all__:
        assert callable(getattr(helpers, name)), name
        assert name in dir(helpers)


def test_the_face_refuses_another_name():
    with pytest.raises(AttributeError, match="no attribute 'load_modle'"):
        helpers.load_modle  # noqa: B018
