"""Files that must not be lost or lie: whole writes, checksums, locks, and what a result is made of.

A file is written beside its place, flushed to the disk and moved into place, so that a reader finds
the old one or the new one, whatever stops the program.  What a stored result was made from is one
value, :class:`Provenance`; comparing two of them says in words what differs.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import platform
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import psutil
import torch
from filelock import SoftFileLease, Timeout
from torch import Tensor, nn

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

ABANDONED = 24 * 3600  # seconds after which a part that another computer left is nobody's
LEASE = 30.0  # seconds without a sign of life after which a lock is nobody's
WAIT = 300.0  # seconds to wait for another run
WAIT_FOR_FOLDER = LEASE + 5  # the same for an output folder: long enough to notice a dead run
SUMS = ".sha256"  # what the name of the file ends with that holds a table's checksums
CHECKSUM = b"\nsha256 "  # what a checked file ends with, before 64 digits
SUMS_OF_FOLDER = "SHA256SUMS"  # a folder's checksums, as `sha256sum` writes and checks them
FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")  # how a cell begins that is not taken as text
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
PACKAGES = ("torch", "diffusers", "transformers", "peft", "numpy", "librosa")


class StorageError(OSError):
    """A file that cannot be written or read as what it should be; the message says what to do."""


def write_whole(
    path: str | Path, write: Callable[[BinaryIO], object], checked: bool = False
) -> None:
    """Write a file so that no reader ever sees half of it, not even after a power cut.

    Parameters
    ----------
    path : str or Path
        A link there is replaced, not followed.
    write : callable
        Gets a new file, open for reading and writing bytes, and fills it.
    checked : bool
        Whether a SHA-256 of the content is added at its end, for :func:`open_checked`.

    Raises
    ------
    StorageError
        If the disk is full or the folder cannot be written; a file that was there before is kept.
    """
    path = Path(path)
    part = path.with_name(f".{_host()}-{os.getpid()}-{secrets.token_hex(8)}.part")
    raw = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        raw = _Raw(part)
        with io.BufferedRandom(raw) as file:
            write(file)
            if checked:
                file.write(CHECKSUM + _sha256_of_file(file).encode())
            file.flush()
            if raw.failure:
                raise raw.failure
            _to_disk(file.fileno())
        os.replace(part, path)
        _folder_to_disk(path.parent)
    except (OSError, RuntimeError) as error:  # a RuntimeError is torch's, when the disk is full
        failure = raw.failure if raw else None
        if failure is None and isinstance(error, RuntimeError):
            raise
        raise _unwritable(path, failure or error) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text as UTF-8 by :func:`write_whole`."""
    write_whole(path, lambda file: file.write(text.encode("utf-8")))


def read_text(path: str | Path) -> str:
    """Read a text in UTF-8; raise a StorageError if it is none, or cannot be read."""
    try:
        with _reading(path):
            return Path(path).read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise StorageError(f"{path} is damaged: it holds no text in UTF-8.") from error


def write_table(path: str | Path, text: str) -> None:
    """Write a table whole, and beside it the checksum by which :func:`read_table` knows it."""
    path = Path(path)
    sums = [content_hash(text.encode())]
    if path.is_file():
        sums.append(content_hash(path.read_bytes()))  # right until the new one is in place
    write_text(path.with_name(path.name + SUMS), "\n".join(sums) + "\n")
    write_text(path, text)


def read_table(path: str | Path) -> str:
    """Read what :func:`write_table` wrote; a table without a checksum is taken as it is.

    Raises
    ------
    StorageError
        If it cannot be read, or a single bit of it has changed.
    """
    path, text = Path(path), read_text(path)
    sums = path.with_name(path.name + SUMS)
    if sums.exists() and content_hash(text.encode()) not in read_text(sums).split():
        raise StorageError(f"{path} is damaged or was changed by hand.")
    return text


def write_sums(folder: str | Path) -> None:
    """Write a folder's ``SHA256SUMS``, by which :func:`check_sums` knows every file in it."""
    folder = Path(folder)
    lines = [f"{content_hash(folder / name)}  {name}\n" for name in _files(folder)]
    write_text(folder / SUMS_OF_FOLDER, "".join(lines))


def check_sums(folder: str | Path) -> None:
    """Compare all files of a folder with its ``SHA256SUMS``.

    Raises
    ------
    StorageError
        If a file is missing, was added, or differs by a single bit, or if there is no list.
    """
    folder = Path(folder)
    path = folder / SUMS_OF_FOLDER
    lines = [line.partition("  ") for line in read_text(path).splitlines()]
    listed = {name: digest for digest, _, name in lines}
    restore = "restore the folder (what lies in data/ by `git checkout -- data`)"
    if found := sorted(set(listed) ^ set(_files(folder))):
        what = "is missing" if found[0] in listed else f"is not listed in {SUMS_OF_FOLDER}"
        raise StorageError(f"{folder / found[0]} {what}: {restore}.")
    for name, digest in listed.items():
        if content_hash(folder / name) != digest:
            raise StorageError(
                f"{folder / name} is damaged or another file, since its SHA-256 is not the one in "
                f"{SUMS_OF_FOLDER}: {restore}."
            )


def to_cell(text: str) -> str:
    """Text for a cell of a CSV file that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(FORMULA) else text


def from_cell(cell: str) -> str:
    """Give back what :func:`to_cell` was given."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(FORMULA) else cell


@contextmanager
def open_checked(path: str | Path) -> Iterator[BinaryIO]:
    """Open a file that was written ``checked``, after its content was compared with its SHA-256.

    Raises
    ------
    StorageError
        If it cannot be read, or a single bit of it has changed.
    """
    with ExitStack() as stack:
        with _reading(path):
            file = stack.enter_context(Path(path).open("rb"))
        content = max(0, os.fstat(file.fileno()).st_size - len(CHECKSUM) - 64)
        digest = _sha256_of_file(file, content)
        if file.read() != CHECKSUM + digest.encode():
            raise StorageError(f"{path} is damaged: its content is not what was written.")
        file.seek(0)
        yield file


def clean(folder: str | Path) -> None:
    """Remove the parts that stopped runs have left in a folder; those of running ones stay."""
    for part in Path(folder).glob(".*.part"):
        with suppress(OSError, ValueError):
            host, process, _ = part.name.removeprefix(".").split("-")
            abandoned = time.time() - part.lstat().st_mtime > ABANDONED
            if not psutil.pid_exists(int(process)) if host == _host() else abandoned:
                part.unlink()
    for mark in Path(folder).glob(".*lock.break.*"):  # of a run killed while it took a lock over
        with suppress(OSError):
            if time.time() - mark.lstat().st_mtime > LEASE:
                mark.unlink()


@contextmanager
def lock(path: str | Path, wait: float = WAIT) -> Iterator[None]:
    """Keep other runs from a folder or a file while this one writes it.

    The lock is a small file, which needs neither ``flock`` nor hard links, so that it works on
    network drives too.  A run that waits takes the lock of a dead process over.

    Parameters
    ----------
    path : str or Path
        A folder, or a file, which has a suffix, of an existing or a new folder.
    wait : float
        Seconds to wait for another run to end; shorter than 30, and a dead run on another computer
        is not told from one that is alive.

    Raises
    ------
    StorageError
        If another run still holds it, or the folder cannot be written.
    """
    path = Path(path)
    is_file = path.suffix and not path.is_dir()
    mark = path.with_name(f".{path.name}.lock") if is_file else path / ".lock"
    lease = SoftFileLease(mark, lease_duration=LEASE, thread_local=False)
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        before = _look(mark)
        try:
            lease.acquire(timeout=wait, poll_interval=min(0.25, wait / 4))
        except Timeout:
            # Where a file cannot be exchanged for another in one step, a lease is not taken over.
            if wait < LEASE or before is None or _look(mark) != before:
                raise
            mark.unlink(missing_ok=True)
            lease.acquire(timeout=1)
    except Timeout as error:
        raise StorageError(
            f"{path} is in use by another run: wait until it has ended and start again. If none "
            f"is running, delete {mark}."
        ) from error
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        clean(mark.parent)
        yield
    finally:
        lease.release()


@contextmanager
def output_folder(path: str | Path, room: float = 10e6) -> Iterator[Path]:
    """Hold a folder for one run's results, and see before the work that they can be written.

    Parameters
    ----------
    path : str or Path
        It is made if need be; a leading ``~`` is one's own folder.
    room : float
        Bytes that the results will take at least.

    Yields
    ------
    Path

    Raises
    ------
    StorageError
        If another run is writing there, the folder cannot be written, or its disk is too full.
    """
    try:
        folder = Path(path).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError, ValueError) as error:  # an unknown user; a name no folder has
        raise _unwritable(Path(path), error) from error
    with lock(folder, wait=WAIT_FOR_FOLDER):
        check_room(folder, room)
        yield folder


def check_room(folder: Path, needed: float) -> None:
    """Raise a StorageError unless a folder's disk has ``needed`` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise StorageError(
            f"{folder} needs {needed / 1e6:.0f} MB and its disk has {free / 1e6:.0f} MB free: make "
            "room or name another folder."
        )


@dataclass(frozen=True)
class Provenance:
    """What a stored result was made from.

    Parameters
    ----------
    weights : mapping of str to str
        SHA-256 of the contents of every set of weights that took part, by what it is: "UNet",
        "autoencoder", "vocoder", "text encoder", "CLAP", "classifier"; see :func:`content_hash`.
    settings : mapping of str to object
        Numbers, words and lists of them by name; a dataclass becomes "name.field", and under the
        name "" its fields' own names.
    inputs : mapping of str to str
        SHA-256 of pairs and recordings by name.
    versions : mapping of str to str
        Of the packages that computed it: information, which is not compared.

    Lesson: 08.
    """

    weights: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=lambda: versions(), compare=False)

    def __post_init__(self) -> None:
        """Bring the settings to what JSON gives back, so that reading and writing change none."""
        settings = json.loads(json.dumps(_flat(self.settings), default=_plain))
        object.__setattr__(self, "settings", settings)

    def __hash__(self) -> int:
        """Hash what is compared."""
        return hash(self.digest)

    @property
    def digest(self) -> str:
        """SHA-256 of all that is compared: a name for folders and rows."""
        compared = [dict(self.weights), dict(self.settings), dict(self.inputs)]
        return hashlib.sha256(json.dumps(compared, sort_keys=True).encode()).hexdigest()

    def differences(self, other: Provenance) -> list[str]:
        """Say how this, as stored, differs from what is asked for now.

        Returns
        -------
        list of str
            Such as ``["another classifier", "guidance_scale 2.5 instead of 3.0"]``; empty if the
            stored result may be used.
        """
        found = []
        for part in ("weights", "inputs", "settings"):
            mine, others = getattr(self, part), getattr(other, part)
            for name in dict.fromkeys([*mine, *others]):
                one, two = mine.get(name), others.get(name)
                if one == two:
                    continue
                if part == "settings":
                    found.append(f"{name} {_said(one)} instead of {_said(two)}")
                elif one is None:
                    found.append(f"no {name}")
                else:
                    found.append(f"a {name} beside the rest" if two is None else f"another {name}")
        return found

    def to_dict(self) -> dict[str, dict]:
        """Return what JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: object) -> Provenance:
        """Take what :meth:`to_dict` gave.

        Raises
        ------
        ValueError
            If it is anything else.
        """
        parts = {each.name for each in fields(cls)}
        if not (
            isinstance(content, dict)
            and set(content) == parts
            and all(isinstance(part, dict) for part in content.values())
        ):
            raise ValueError("This is no record of what a result was made from.")
        return cls(**content)


def write_records(path: str | Path, records: Mapping[str, Provenance]) -> None:
    """Write what the results of a folder were made from, by their names, as JSON."""
    content = {name: record.to_dict() for name, record in records.items()}
    write_table(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_records(path: str | Path) -> dict[str, Provenance]:
    """Read what :func:`write_records` wrote; there are none where there is no such file.

    Raises
    ------
    StorageError
        If it is anything else.
    """
    path = Path(path)
    if not path.exists():
        return {}
    try:
        content = json.loads(read_table(path))
        return {name: Provenance.from_dict(record) for name, record in content.items()}
    except (StorageError, ValueError, AttributeError) as error:  # ValueErrors are JSON's, too
        raise StorageError(
            f"{path} does not say what the results beside it were made from: name another folder, "
            "or delete this one."
        ) from error


def sentence(differences: list[str]) -> str:
    """Join differences to the end of a sentence: "it was made with another CLAP, η 1 instead …"."""
    named, others = differences[:4], len(differences) - 4
    return f"it was made with {', '.join(named)}" + (f" and {others} more" if others > 0 else "")


def content_hash(value: object) -> str:
    """SHA-256, 64 hexadecimal digits, of the contents of something.

    Parameters
    ----------
    value : torch.nn.Module, Path, torch.Tensor, np.ndarray, bytes, str, None, or a list of them
        Of a module all parameters and buffers with their names; of a file its bytes.

    Raises
    ------
    TypeError
        For anything else.

    Lesson: 02.
    """
    digest = hashlib.sha256()
    if isinstance(value, Path):
        with value.open("rb") as file:
            return _sha256_of_file(file)
    if isinstance(value, nn.Module):
        tensors = dict(chain(value.named_parameters(), value.named_buffers()))
        for name, tensor in sorted(tensors.items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(_bytes(tensor))
    elif isinstance(value, Tensor | np.ndarray):
        digest.update(repr((str(value.dtype), tuple(value.shape))).encode())
        digest.update(_bytes(value))
    elif isinstance(value, bytes | str | None):
        digest.update(type(value).__name__.encode())
        digest.update(value if isinstance(value, bytes) else str(value).encode())
    elif isinstance(value, list | tuple):
        digest.update(" ".join(["list", *map(content_hash, value)]).encode())
    else:
        raise TypeError(f"The contents of a {type(value).__name__} have no hash.")
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that compute."""
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}


class _Raw(io.FileIO):
    """A new file that remembers an error of writing."""

    def __init__(self, path: Path) -> None:
        self.failure: OSError | None = None
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
        flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        super().__init__(path, "r+b", opener=lambda name, _: os.open(name, flags, 0o666))

    def write(self, content: ReadableBuffer) -> int:
        """Write, or after a failure let it vanish: whoever writes may not be able to stop."""
        if self.failure is None:
            try:
                return super().write(content)
            except OSError as error:
                self.failure = error
        return memoryview(content).nbytes


@contextmanager
def _reading(path: str | Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"{path} cannot be read ({error.strerror}).") from error


def _unwritable(path: Path, error: Exception) -> StorageError:
    code = getattr(error, "errno", None)
    if code in (errno.EACCES, errno.EPERM, errno.EROFS):
        advice = "choose a folder that you may write"
    elif code in (errno.ENOTDIR, errno.EEXIST):
        advice = "a file lies where a folder is needed, so name another"
    elif code is None or code in FULL:
        advice = "is the disk full? Make room or name another folder"
    else:
        advice = "name another place"
    reason = getattr(error, "strerror", None) or error
    return StorageError(f"{path} cannot be written ({reason}): {advice}; what was there is kept.")


def _to_disk(descriptor: int) -> None:
    """Flush a file or a folder, where the file system can."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EBADF):
            raise


def _folder_to_disk(folder: Path) -> None:
    with suppress(OSError):  # Windows cannot open a folder
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            _to_disk(descriptor)
        finally:
            os.close(descriptor)


def _sha256_of_file(file: BinaryIO, size: int | None = None) -> str:
    """Hash the first ``size`` bytes of a file, or all; it is left at their end."""
    file.seek(0)
    digest, left = hashlib.sha256(), sys.maxsize if size is None else size
    while left and (block := file.read(min(left, 1 << 20))):
        digest.update(block)
        left -= len(block)
    return digest.hexdigest()


def _files(folder: Path) -> list[str]:
    """Names of a folder's files, but hidden ones and the list of their checksums."""
    with _reading(folder):
        names = [path.name for path in folder.iterdir() if path.is_file()]
    return sorted(name for name in names if name != SUMS_OF_FOLDER and not name.startswith("."))


def _host() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def _look(mark: Path) -> tuple[int, int, bytes] | None:
    with suppress(OSError):
        status = mark.lstat()
        return status.st_mtime_ns, status.st_ino, mark.read_bytes()[:1024]
    return None


def _bytes(array: Tensor | np.ndarray) -> memoryview:
    if isinstance(array, Tensor):
        array = array.detach().contiguous().flatten().view(torch.uint8).cpu().numpy()
    return np.ascontiguousarray(array).data


def _flat(settings: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Give settings dotted names."""
    flat: dict[str, object] = {}
    for name, value in settings.items():
        if is_dataclass(value) and not isinstance(value, type):
            value = {each: getattr(value, each) for each in value.__dataclass_fields__}
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}." if name else prefix)
        else:
            flat[prefix + name] = value
    return flat


def _plain(value: object) -> object:
    return value.item() if isinstance(value, np.generic) else str(value)


def _said(value: object) -> str:
    return "nothing" if value is None else str(value)
