"""Whole writes, checksums, locks and provenance."""

import errno
import json
import multiprocessing
import os
import random
import time
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import filelock
import numpy as np
import pytest
import soundfile
import torch
from torch import nn

from helpers import storage
from helpers.storage import (
    Provenance,
    StorageError,
    clean,
    content_hash,
    from_cell,
    lock,
    open_checked,
    read_records,
    read_table,
    sentence,
    to_cell,
    write_records,
    write_table,
    write_text,
    write_whole,
)

WRITERS = {
    "bytes": lambda file: file.write(bytes(200_000)),
    "tensors": lambda file: torch.save({"a": torch.arange(50_000)}, file),
    "flac": lambda file: soundfile.write(file, noise(), 16_000, format="FLAC"),
    "wav": lambda file: soundfile.write(file, noise(), 16_000, format="WAV"),
}


def noise():
    return np.random.default_rng(0).normal(0, 0.1, 200_000)


def parts(folder):
    return [path for path in folder.iterdir() if path.name.endswith(".part")]


@contextmanager
def other_process(work, *arguments):
    """Another process that does ``work(told, …)``; gives it once it has called ``told()``."""
    if not hasattr(os, "fork"):
        pytest.skip("processes are not forked here")
    context = multiprocessing.get_context("fork")
    told = context.Event()
    process = context.Process(target=work, args=(told.set, *arguments))
    process.start()
    process.told = told
    try:
        yield process
    finally:
        process.kill()
        process.join()


def hold(tell, path, seconds):
    with lock(path):
        tell()
        time.sleep(seconds)


def write_slowly(tell, path):
    def write(file):
        file.write(bytes(100_000))
        file.flush()
        tell()
        time.sleep(60)

    write_whole(path, write)


# --- writing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("writer", WRITERS)
def test_a_file_is_what_its_writer_wrote(tmp_path, writer):
    path = tmp_path / "new" / "file"
    write_whole(path, WRITERS[writer])
    with (tmp_path / "by hand").open("w+b") as file:
        WRITERS[writer](file)
    assert path.read_bytes() == (tmp_path / "by hand").read_bytes()
    assert list(path.parent.iterdir()) == [path]


def test_a_text_is_written_as_utf8(tmp_path):
    write_text(tmp_path / "a.txt", "ö")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "ö"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, MemoryError])
def test_a_writer_that_fails_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def fail(file):
        file.write(b"new")
        raise error

    with pytest.raises(error):
        write_whole(path, fail)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("allowed", [0, 1, 70_000, 190_000])
@pytest.mark.parametrize("writer", WRITERS)
def test_a_disk_that_fills_is_told_and_leaves_the_old_file(tmp_path, capfd, writer, allowed):
    """A limit on the size of files, which fails whichever flush exceeds it."""
    resource = pytest.importorskip("resource")
    path = tmp_path / "a"
    path.write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (allowed, limits[1]))
    try:
        with pytest.raises(StorageError, match="cannot be written.*is the disk full"):
            write_whole(path, WRITERS[writer])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_last_flush_that_fails_is_told(tmp_path, monkeypatch, call, code):
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def fail(*arguments):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(StorageError, match="is the disk full.*is kept"):
        write_text(path, "new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"


def test_a_file_system_that_cannot_flush_is_used_as_it_is(tmp_path, monkeypatch):
    def cannot(descriptor):
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", cannot)
    write_text(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "new"


@pytest.mark.parametrize("way", ["a file in the way", "no permission", "a folder there"])
def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path, monkeypatch, way):
    path = tmp_path / "folder" / "a"
    if way == "a file in the way":
        path.parent.write_text("")
    elif way == "a folder there":
        path.mkdir(parents=True)
    else:

        def refused(*arguments):
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(os, "open", refused)
    with pytest.raises(StorageError, match="cannot be written") as caught:
        write_text(path, "new")
    assert len(str(caught.value).splitlines()) == 1


def test_everything_is_on_the_disk_before_it_is_in_place(tmp_path, monkeypatch):
    """The order that outlives a power cut: content, then the name, then the folder."""
    calls = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor):
        calls.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", lambda *a: (calls.append("replace"), replace(*a)))
    write_text(tmp_path / "a", "new")
    assert calls == ["file", "replace", "folder"]


def test_planted_links_are_not_followed(tmp_path, monkeypatch):
    treasure, path = tmp_path / "treasure", tmp_path / "out" / "a"
    treasure.write_text("gold")
    path.parent.mkdir()
    path.symlink_to(treasure)
    write_text(path, "new")
    assert (treasure.read_text(), path.read_text(), path.is_symlink()) == ("gold", "new", False)
    monkeypatch.setattr(storage.secrets, "token_hex", lambda n: "known")
    part = path.with_name(f".{storage._host()}-{os.getpid()}-known.part")
    part.symlink_to(treasure)
    with pytest.raises(StorageError):
        write_text(path, "newer")
    assert treasure.read_text() == "gold"


def test_a_killed_writer_leaves_the_old_file_and_its_leftovers_go(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with other_process(write_slowly, path) as process:
        assert process.told.wait(60)
        clean(tmp_path)
        assert len(parts(tmp_path)) == 1, "the part of a running process was removed"
    assert len(parts(tmp_path)) == 1
    assert path.read_bytes() == b"old"
    with lock(tmp_path):
        assert parts(tmp_path) == []


def test_parts_of_other_computers_go_after_a_day(tmp_path):
    fresh, old, stranger = (tmp_path / f"{name}.part" for name in (".aa-1-f", ".aa-1-o", "song"))
    for path in (fresh, old, stranger):
        path.write_text("")
        os.utime(path, (0, 0) if path == old else None)
    clean(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([fresh, stranger])


@pytest.mark.parametrize("name", [".lock.break.1.aa", ".run.pt.lock.break.1.aa"])
def test_marks_of_runs_killed_while_they_took_a_lock_over_go_after_a_while(tmp_path, name):
    fresh, old = tmp_path / name, tmp_path / f"{name}2"
    for path in (fresh, old):
        path.write_text("")
    os.utime(old, (time.time() - 60,) * 2)
    with lock(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == [fresh]


# --- tables --------------------------------------------------------------------------------------


def test_every_bit_of_a_table_counts(tmp_path):
    path, generator = tmp_path / "a.csv", random.Random(0)
    for text in ("a,b\n1,2\n", "a,b\n1,2\nö,'x\r\n'\n"):
        write_table(path, text)
        assert read_table(path) == text
    whole = path.read_bytes()
    for _ in range(50):
        damaged = bytearray(whole)
        damaged[generator.randrange(len(whole))] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(StorageError, match="is damaged"):
            read_table(path)


@pytest.mark.parametrize("moment", range(6))
def test_a_table_is_readable_whenever_its_writer_stops(tmp_path, monkeypatch, moment):
    path, replace, left = tmp_path / "a.csv", os.replace, iter(range(moment))
    write_table(path, "old")

    def stop(*arguments):
        if next(left, None) is None:
            raise KeyboardInterrupt
        replace(*arguments)

    monkeypatch.setattr(os, "replace", stop)
    for number in range(4):
        try:
            write_table(path, f"new {number}")
        except KeyboardInterrupt:
            break
    monkeypatch.undo()
    assert read_table(path) in ("old", *(f"new {number}" for number in range(4)))


def test_a_table_without_a_checksum_is_taken_as_it_is(tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n")
    assert read_table(tmp_path / "a.csv") == "a,b\n"
    (tmp_path / "a.csv").write_bytes(b"\xff")
    with pytest.raises(StorageError, match="is damaged: it holds no text in UTF-8"):
        read_table(tmp_path / "a.csv")


# --- checksums -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 5000])
def test_every_bit_counts(tmp_path, size):
    path, generator = tmp_path / "a", random.Random(0)
    content = generator.randbytes(size)
    write_whole(path, lambda file: file.write(content), checked=True)
    with open_checked(path) as file:
        assert file.read(size) == content
    whole = path.read_bytes()
    for _ in range(100):
        damaged = bytearray(whole)
        damaged[generator.randrange(len(whole))] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(StorageError, match="is damaged"), open_checked(path):
            pass
    for cut in (0, 1, size, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(StorageError, match="is damaged"), open_checked(path):
            pass


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(StorageError, match="cannot be read"), open_checked(tmp_path / "a"):
        pass
    with pytest.raises(StorageError, match="cannot be read"), open_checked(tmp_path):
        pass


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "'=1", "''", "'"])
def test_no_cell_is_a_formula_and_every_text_comes_back(text):
    assert to_cell(text).startswith("'")
    assert from_cell(to_cell(text)) == text


@pytest.mark.parametrize("text", ["", "a dog", "a = b", "1", "…", "ä'"])
def test_other_cells_are_the_text_itself(text):
    assert to_cell(text) == text == from_cell(text)


# --- locks ---------------------------------------------------------------------------------------


@pytest.fixture(params=["local", "neither flock nor links nor exchange"])
def file_system(request, monkeypatch):
    if request.param != "local":

        def cannot(*arguments, **options):
            raise OSError(errno.ENOTSUP, "Operation not supported")

        fcntl = pytest.importorskip("fcntl")
        for module, name in ((fcntl, "flock"), (fcntl, "lockf"), (os, "link")):
            monkeypatch.setattr(module, name, cannot)
        monkeypatch.setattr(filelock._soft, "exchange_names", lambda *names: False)
    return request.param


@pytest.mark.parametrize("name", ["folder", "run.pt"])
def test_a_lock_is_held_by_one_and_then_by_the_next(tmp_path, file_system, name):
    path = tmp_path / name
    with lock(path), other_process(hold, path, 0) as process:
        assert not process.told.wait(0.5)
        with (
            pytest.raises(StorageError, match="in use by another run: wait until it has ended"),
            lock(path, wait=0.2),
        ):
            pass
        lock_is_free = process.told
    with lock(path, wait=1):
        pass
    with other_process(hold, path, 0) as process:
        assert process.told.wait(60)
        process.join()
        assert process.exitcode == 0
    assert not lock_is_free.is_set()
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_a_run_that_waits_goes_on_when_the_other_has_ended(tmp_path, file_system):
    with other_process(hold, tmp_path, 1) as process:
        assert process.told.wait(60)
        with lock(tmp_path, wait=30):
            assert not process.is_alive() or process.join(1) is None


def test_a_lock_of_a_dead_process_is_taken_over(tmp_path, file_system, monkeypatch):
    with other_process(hold, tmp_path, 60) as process:
        assert process.told.wait(60)
    assert (tmp_path / ".lock").exists()
    if file_system != "local":
        monkeypatch.setattr(storage, "LEASE", 1.0)
    with lock(tmp_path, wait=2):
        pass
    assert not (tmp_path / ".lock").exists()


def test_a_lock_of_another_computer_is_taken_over_without_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "LEASE", 1.0)
    with lock(tmp_path):
        mark = (tmp_path / ".lock").read_text().replace(str(os.getpid()), "1")
    host = filelock._identity.host_name()
    assert host in mark
    (tmp_path / ".lock").write_text(mark.replace(host, "elsewhere"))
    with pytest.raises(StorageError, match="delete .*lock"), lock(tmp_path, wait=0.3):
        pass
    with lock(tmp_path, wait=3):
        pass


def test_a_folder_that_cannot_be_locked_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"), lock(tmp_path / "file" / "folder"):
        pass


# --- provenance ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sampling:
    guidance_scale: float | None = 3.0
    steps: int = 50
    targets: tuple[str, ...] = ("to_q", "to_k")


@dataclass(frozen=True)
class Edit:
    sampling: Sampling
    dtype: torch.dtype = torch.float32


def made(**changes):
    weights = {name: content_hash(name) for name in ("UNet", "classifier", "CLAP")}
    whole = {
        "weights": weights,
        "settings": {"": Sampling()},
        "inputs": {"recording": content_hash(np.arange(4.0)), "prompt": content_hash("rain")},
    }
    for part, change in changes.items():
        whole[part] = {**whole[part], **change}
    return Provenance(**whole)


def test_what_differs_is_named():
    assert made().differences(made()) == []
    stored = made(
        weights={"classifier": content_hash("other")},
        settings={"": Sampling(guidance_scale=2.5)},
    )
    found = stored.differences(made())
    assert found == ["another classifier", "guidance_scale 2.5 instead of 3.0"]
    assert sentence(found) == (
        "it was made with another classifier, guidance_scale 2.5 instead of 3.0"
    )


@pytest.mark.parametrize("part", ["UNet", "classifier", "CLAP"])
def test_any_weights_count(part):
    other = made(weights={part: content_hash(b"")})
    assert other.differences(made()) == [f"another {part}"]
    assert other != made()
    assert other.digest != made().digest


def test_more_less_and_nested_are_named_too():
    assert made(inputs={"gap": "1"}).differences(made()) == ["a gap beside the rest"]
    assert made().differences(made(inputs={"gap": "1"})) == ["no gap"]
    nested = [Provenance(settings={"edit": Edit(Sampling(g))}) for g in (None, 2)]
    assert nested[0].differences(nested[1]) == ["edit.sampling.guidance_scale nothing instead of 2"]
    many = [f"another {i}" for i in range(9)]
    assert sentence(many).endswith("another 3 and 5 more")


def test_versions_are_information():
    other = Provenance(**{**vars(made()), "versions": {"torch": "1.0"}})
    assert other == made()
    assert hash(other) == hash(made())
    assert other.digest == made().digest
    assert made().versions["torch"] == version("torch")


def test_json_gives_the_same_back():
    stored = Provenance(
        settings={"edit": Edit(Sampling(np.float32(0.1))), "etas": [0.1, 1e-7, 1 / 3], "é": None}
    )
    again = Provenance.from_dict(json.loads(json.dumps(stored.to_dict())))
    assert again == stored
    assert again.versions == stored.versions


def test_records_are_read_as_they_were_written(tmp_path):
    records = {"é": made(), "other": Provenance()}
    write_records(tmp_path / "new" / "records.json", records)
    assert read_records(tmp_path / "new" / "records.json") == records
    assert read_records(tmp_path / "none.json") == {}


OTHER_JSON = ["", "[]", "3", '{"a": {}}', '{"a": {"weights": 1}}', "nonsense", "null", '{"a": 1}']


@pytest.mark.parametrize("text", [*OTHER_JSON, "\xff"])
def test_other_records_are_refused(text, tmp_path):
    path = tmp_path / "records.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(StorageError, match=r"records\.json does not say what .* were made from"):
        read_records(path)


def test_every_byte_of_a_module_counts():
    module = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    seen = {content_hash(module)}
    for tensor in [*module.parameters(), *module.buffers()]:
        with torch.no_grad():
            tensor.view(-1)[-1] += 1
        seen.add(content_hash(module))
    with torch.no_grad():
        module[0].weight.neg_()
        seen.add(content_hash(module))
        module[0].weight.data.flatten()[:1].mul_(2)  # past autograd's own counting
        seen.add(content_hash(module))
    assert len(seen) == 2 + 1 + len([*module.parameters(), *module.buffers()])
    assert content_hash(module.half()) not in seen


def test_the_same_contents_have_the_same_hash_wherever_they_lie(tmp_path):
    torch.manual_seed(0)
    module = nn.Linear(4, 3)
    other = nn.Linear(4, 3)
    other.load_state_dict(module.state_dict())
    assert content_hash(other) == content_hash(module)
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"weights")
    assert content_hash(tmp_path / "a") == content_hash(tmp_path / "b")
    (tmp_path / "b").write_bytes(b"weighty")
    assert content_hash(tmp_path / "a") != content_hash(tmp_path / "b")


def test_kinds_and_shapes_are_told_apart():
    zeros = np.zeros(4, np.float32)
    values = [
        zeros,
        zeros.reshape(2, 2),
        zeros.astype(int),
        "",
        b"",
        None,
        [],
        [""],
        Path(__file__),
    ]
    assert len({content_hash(value) for value in values}) == len(values)
    with pytest.raises(TypeError, match="have no hash"):
        content_hash(3.0)
