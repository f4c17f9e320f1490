"""Every command: what can be expected to go wrong is one sentence, told before the work."""

import io
import json
import os
import shutil
import sys
from collections import namedtuple
from importlib import import_module
from pathlib import Path

import pytest

from helpers import storage
from helpers.models.latent_audio_model import OutOfMemory
from helpers.storage import Provenance, StorageError
from tools import classroom, colab, demo, sweeps, table1, verify
from tools.command import command, told

ROOT = Path(__file__).resolve().parent.parent
ALONE = "tools.bench_gpu"  # it runs where nothing of the project is installed
COMMANDS = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in ROOT.glob("tools/**/*.py")
    if "argparse.ArgumentParser" in path.read_text(encoding="utf-8")
)


def test_there_are_commands():
    assert {"tools.demo", "tools.table1", "tools.sweeps", "tools.pocket.__main__"} <= set(COMMANDS)
    assert ALONE in COMMANDS
    assert len(COMMANDS) == 11


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != ALONE])
def test_every_command_ends_by_the_one_mechanism(name):
    module = import_module(name)
    assert module.main.__wrapped__.__code__.co_filename == module.__file__
    source = Path(module.__file__).read_text(encoding="utf-8")
    assert source.endswith('if __name__ == "__main__":\n    sys.exit(main())\n')


# the mechanism

ERRORS = {
    "a sentence": (ValueError("The prompt is empty."), "The prompt is empty."),
    "two lines": (ValueError("One.\n  Two."), "One. Two."),
    "nothing": (ValueError(), "ValueError"),
    "ours of files": (StorageError("It is full."), "It is full."),
    "the system's": (OSError(28, "No space left on device", "a.wav"), "a.wav cannot be used"),
    "without a name": (OSError(5, "Input/output error"), "A file cannot be used"),
    "no text": (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "invalid start"),
    "memory": (MemoryError(), "memory is too small"),
    "memory by torch": (
        RuntimeError("[enforce fail] . DefaultCPUAllocator: can't allocate memory: you tried"),
        "The computer's memory is too small for this",
    ),
    "the GPU's memory": (OutOfMemory("The GPU is full."), "The GPU is full."),
    "a number": (FloatingPointError("The loss is nan."), "The loss is nan."),
}


@pytest.mark.parametrize(("error", "words"), ERRORS.values(), ids=ERRORS)
def test_an_expected_error_is_one_line(error, words, capsys):
    @command
    def main(arguments=None):
        raise error

    assert main([]) == 2
    printed = capsys.readouterr()
    assert words in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_an_interruption_is_one_sentence(capsys):
    @command
    def main(arguments=None):
        raise KeyboardInterrupt

    assert main([]) == 130
    assert capsys.readouterr().err.strip().startswith("Stopped: run the same command again")


def test_what_nobody_expects_keeps_its_traceback():
    @command
    def main(arguments=None):
        raise AttributeError("a fault of ours")

    with pytest.raises(AttributeError):
        main([])

    @command
    def other(arguments=None):
        raise RuntimeError("a fault of ours")

    with pytest.raises(RuntimeError, match="a fault of ours"):
        other([])


def test_a_terminal_that_knows_no_greek_gets_the_rest(monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "stderr", terminal)

    @command
    def main(arguments=None):
        raise ValueError("η is 7: choose from 0 to 1.")

    assert main([]) == 2
    terminal.flush()
    assert terminal.buffer.getvalue() == b"? is 7: choose from 0 to 1.\n"


def test_the_status_is_main_s():
    assert command(lambda arguments: None)([]) == 0
    assert command(lambda arguments: 1)([]) == 1
    assert told(ValueError("x")) == "x"


# folders that cannot be written


@pytest.fixture
def nothing_is_done(monkeypatch):
    """Fail as soon as a command begins its work."""

    def begun(*arguments, **more):
        raise AssertionError("the work has begun")

    monkeypatch.setattr(demo, "edit", begun)
    monkeypatch.setattr(table1, "load_model", begun)
    monkeypatch.setattr(table1, "load_clap", begun)
    monkeypatch.setattr(verify, "load_model", begun)
    monkeypatch.setattr(classroom, "student_version", begun)


WRITERS = {
    "demo": (demo.main, []),
    "table1": (table1.main, ["--quick", "--pairs", "pocket27-offline"]),
    "verify": (verify.main, ["pocket"]),
    "classroom": (classroom.main, []),
}
Usage = namedtuple("Usage", "total used free")


def read_only(monkeypatch, out):
    usual = os.open

    def refuse(path, flags, *more, **options):
        if flags & os.O_CREAT and str(path).startswith(str(out)):
            raise OSError(30, "Read-only file system", path)
        return usual(path, flags, *more, **options)

    out.mkdir()
    monkeypatch.setattr(os, "open", refuse)


def no_permission(monkeypatch, out):
    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied", str(out))

    monkeypatch.setattr(Path, "mkdir", refuse)


def too_little_room(monkeypatch, out):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9, 1000))


def full(monkeypatch, out):
    usual = os.write

    def refuse(descriptor, content):
        if str(out) in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(28, "No space left on device")
        return usual(descriptor, content)

    if not Path("/proc/self/fd").exists():
        pytest.skip("nobody tells which file a descriptor is of")
    monkeypatch.setattr(os, "write", refuse)


FAULTS = {
    "a file there": (lambda patch, out: out.write_text(""), "a file lies where a folder is needed"),
    "read-only": (read_only, "choose a folder that you may write"),
    "no permission": (no_permission, "choose a folder that you may write"),
    "too little room": (too_little_room, "MB free: make room or name another folder"),
    "full": (full, "is the disk full"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", WRITERS)
def test_a_folder_that_cannot_be_written_is_told_before_the_work(
    name, fault, nothing_is_done, monkeypatch, tmp_path, capsys
):
    main, options = WRITERS[name]
    spoil, words = FAULTS[fault]
    spoil(monkeypatch, tmp_path / "out")
    assert main([*options, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("out", ["a" * 300, "nul\0l", "~nobody-of-this-name/out"])
@pytest.mark.parametrize("name", WRITERS)
def test_a_name_that_no_folder_has_is_told(name, out, nothing_is_done, tmp_path, capsys):
    main, options = WRITERS[name]
    out = out if out.startswith("~") else str(tmp_path / out)
    assert main([*options, "--out", out]) == 2
    error = capsys.readouterr().err
    assert "cannot be written" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("name", WRITERS)
def test_a_tilde_is_one_s_own_folder(name, monkeypatch, tmp_path, capsys):
    main, options = WRITERS[name]

    def begun(*arguments, **more):
        raise ValueError(f"begun in {sorted(p.name for p in tmp_path.iterdir())}")

    for module, works in ((demo, "edit"), (table1, "load_clap"), (verify, "load_model")):
        monkeypatch.setattr(module, works, begun)
    monkeypatch.setattr(classroom, "student_version", begun)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main([*options, "--out", "~/of mine {x}.v2"]) == 2
    assert "begun in ['of mine {x}.v2']" in capsys.readouterr().err


@pytest.mark.parametrize("name", WRITERS)
def test_a_second_run_in_one_folder_is_told_to_wait(
    name, nothing_is_done, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(storage, "WAIT_FOR_FOLDER", 0.5)
    main, options = WRITERS[name]
    with storage.output_folder(tmp_path):
        assert main([*options, "--out", str(tmp_path)]) == 2
    assert "in use by another run: wait until it has ended" in capsys.readouterr().err


# files that are not what they should be

DAMAGE = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "not UTF-8": lambda content: b"\xff\xfe" + content,
    "another kind": lambda content: b"[1, 2]\n",
    "a digit": lambda content: content.replace(b"1", b"7", 1),
}
TOML_DAMAGE = DAMAGE | {"cut": lambda content: content[: content.rindex(b'"')]}  # half may be whole


@pytest.mark.parametrize("damage", ["empty", "cut", "not UTF-8", "another kind"])
def test_colab_names_a_damaged_project_file(damage, monkeypatch, tmp_path, capsys):
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    path = tmp_path / "pyproject.toml"
    path.write_bytes(TOML_DAMAGE[damage](path.read_bytes()))
    content = path.read_bytes()
    monkeypatch.setattr(colab.move_to, "__defaults__", (tmp_path,))
    assert colab.main(["some-one/lessons"]) == 2
    error = capsys.readouterr().err
    assert "pyproject.toml is damaged" in error
    assert error.count("\n") == 1
    assert path.read_bytes() == content


@pytest.mark.parametrize("damage", DAMAGE)
def test_classroom_believes_no_damaged_record(damage, tmp_path, capsys):
    assert classroom.main(["--out", str(tmp_path)]) == 0
    record, answered = tmp_path / classroom.RECORD, tmp_path / "00_quickstart.ipynb"
    answered.write_text(answered.read_text() + " ")
    hashes = json.loads(record.read_text())
    record.write_bytes(DAMAGE[damage](record.read_bytes()))
    assert hashes["00_quickstart.ipynb"] != classroom._hash(answered.read_bytes())
    assert classroom.main(["--out", str(tmp_path)]) == 2
    assert "may hold someone's answers" in capsys.readouterr().err


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_table_of_a_sweep_is_named(damage, monkeypatch, tmp_path):
    points = [{"word": word} for word in "abcd"]
    monkeypatch.setitem(sweeps.SWEEPS, "counting", (lambda: points, lambda model, word: {"n": 1}))
    monkeypatch.setattr(sweeps, "made_from", lambda model: Provenance())
    sweeps.run("counting", None, tmp_path)
    assert sweeps.is_fresh("counting", "a model", tmp_path)
    path = tmp_path / "counting.csv"
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    with pytest.raises(StorageError, match=r"counting.csv is damaged"):
        sweeps.run("counting", None, tmp_path)


@pytest.mark.parametrize("damage", ["empty", "cut", "not UTF-8", "another kind"])
def test_a_sweep_of_unknown_making_is_not_gone_on_with(damage, monkeypatch, tmp_path):
    measured = []
    points = [{"word": word} for word in "ab"]
    monkeypatch.setitem(
        sweeps.SWEEPS, "counting", (lambda: points, lambda m, word: measured.append(word) or {})
    )
    monkeypatch.setattr(sweeps, "made_from", lambda model: Provenance())
    sweeps.run("counting", None, tmp_path)
    path = tmp_path / sweeps.RECORDS
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    for use in (sweeps.is_fresh, sweeps.run):
        with pytest.raises(StorageError, match=r"provenance.json does not say what"):
            use("counting", "a model", tmp_path)
    assert measured == ["a", "b"]
