"""Kill and damage what must not be lost or lie, and count what went wrong.

By class, attempts and how many of them lost something that had been kept, gave another result
without a word, or ended in a traceback.  All three have to be zero.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import random
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from functools import cache
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from unittest import mock

import torch

from helpers import data, storage
from helpers.editing import optimisation
from helpers.editing.optimisation import CheckpointError, optimise
from helpers.storage import Provenance, StorageError, lock, write_text, write_whole

from .attempts import Attempt, damage, killed, run
from .commands import COMMANDS

ATTEMPTS = 20
STEPS = 30
Result = tuple[list[float], torch.Tensor]
OLD, NEW = b"old " * 5000, b"new " * 9000


# --- checkpoints ---------------------------------------------------------------------------------


def minimise(checkpoint: Path | None, pause: float = 0.0) -> Result:
    """Minimise something small that takes its time."""
    parameter = torch.zeros(500, requires_grad=True)

    def loss(generator: torch.Generator) -> torch.Tensor:
        time.sleep(pause)
        return ((parameter - torch.randn(500, generator=generator)) ** 2).mean()

    losses = optimise(
        [parameter],
        loss,
        steps=STEPS,
        learning_rate=0.1,
        seed=0,
        description="a small run",
        provenance=Provenance(settings={"steps": STEPS}),
        subject={"recording": [torch.arange(10.0)]},
        checkpoint=checkpoint,
        progress=False,
    )
    return losses, parameter.detach()


@cache
def never_stopped() -> Result:
    """Return what every run has to end with."""
    return minimise(None)


def same(result: Result) -> bool:
    """Whether a run ended as one that was never stopped."""
    return result[0] == never_stopped()[0] and torch.equal(result[1], never_stopped()[1])


@contextmanager
def saved_at_every_step():
    """Save without waiting for the time."""
    with (
        mock.patch.object(optimisation, "FIRST_SAVE", 0.0),
        mock.patch.object(optimisation, "SAVING_SHARE", 1e9),
    ):
        yield


def checkpoints_of_killed_runs(folder: Path, generator: random.Random) -> str:
    """Kill a run three times and let it end."""
    checkpoint = folder / "run.pt"
    with saved_at_every_step():
        for _ in range(3):
            killed(lambda: minimise(checkpoint, pause=0.01), generator.uniform(0.02, 0.4))
        try:
            result = minimise(checkpoint)
        except CheckpointError:
            return "lost"
    if not same(result):
        return "wrong"
    return "lost" if os.listdir(folder) != ["run.pt"] else ""  # leftovers


@cache
def whole_checkpoint(steps_done: int) -> bytes:
    """Return the file of a run that was interrupted."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "run.pt"
        save, saved = optimisation._Checkpoint.save, []

        def stop(self, run):
            save(self, run)
            saved.append(1)
            if len(saved) == steps_done:
                raise KeyboardInterrupt

        with (
            saved_at_every_step(),
            mock.patch.object(optimisation._Checkpoint, "save", stop),
            suppress(KeyboardInterrupt),
        ):
            minimise(checkpoint)
        return checkpoint.read_bytes()


def damaged_checkpoints(folder: Path, generator: random.Random) -> str:
    """Resume from a damaged file: refused, or the very same numbers."""
    checkpoint = folder / "run.pt"
    checkpoint.write_bytes(damage(whole_checkpoint(generator.choice([10, STEPS])), generator))
    try:
        result = minimise(checkpoint)
    except CheckpointError:
        return ""
    return "" if same(result) else "wrong"


# --- whole files ---------------------------------------------------------------------------------


class PowerCut(BaseException):
    """The moment after which nothing is done any more."""


def files_in_a_power_cut(folder: Path, generator: random.Random) -> str:
    """Cut the power at one of the moments of writing; what was not flushed is gone."""
    path, flushed, left = folder / "file", set(), generator.randrange(4)
    path.write_bytes(OLD)
    fsync, replace = os.fsync, os.replace

    def moment() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise PowerCut

    def noted_fsync(descriptor: int) -> None:
        moment()
        fsync(descriptor)
        flushed.add(os.fstat(descriptor).st_ino)

    def noted_replace(part: Path, target: Path) -> None:
        moment()
        replace(part, target)

    with (
        mock.patch.object(os, "fsync", noted_fsync),
        mock.patch.object(os, "replace", noted_replace),
        suppress(PowerCut),
    ):
        write_whole(path, lambda file: file.write(NEW))
        moment()
    if path.stat().st_ino not in flushed and path.read_bytes() != OLD:
        path.write_bytes(b"")  # as a file system leaves it that keeps names before contents
    return "" if path.read_bytes() in (OLD, NEW) else "lost"


def files_on_a_full_disk(folder: Path, generator: random.Random) -> str:
    """Fill the disk at some byte: told, and the old file is kept."""
    import resource

    path, room = folder / "file", generator.randrange(len(NEW))
    path.write_bytes(OLD)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        write_whole(path, lambda file: file.write(NEW))
    except StorageError as error:
        return "" if path.read_bytes() == OLD and "disk full" in str(error) else "lost"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    return "wrong"


def texts_of_killed_writers(folder: Path, generator: random.Random) -> str:
    """Kill a process that writes a table again and again: what is there is whole."""
    path = folder / "table.csv"
    write_text(path, "0\n" * 2000)

    def write() -> None:
        for number in range(1, 10**6):
            write_text(path, f"{number}\n" * 2000)

    killed(write, generator.uniform(0.01, 0.3))
    lines = path.read_text().splitlines()
    if len(lines) != 2000 or len(set(lines)) != 1:
        return "lost"
    storage.clean(folder)
    return "" if os.listdir(folder) == ["table.csv"] else "lost"


def folders_of_runs_at_once(folder: Path, generator: random.Random) -> str:
    """Three runs add to one number, one of them is killed: no addition is lost or done twice."""
    number, done = folder / "number", folder / "done"
    write_text(number, "0")
    done.write_bytes(b"")

    def add() -> None:
        for _ in range(5):
            with lock(folder):
                value = int(number.read_text()) + 1
                time.sleep(0.002)
                write_text(number, str(value))
                with done.open("ab") as file:
                    file.write(b".")

    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=add) for _ in range(3)]
    [process.start() for process in processes]
    time.sleep(generator.uniform(0.01, 0.2))
    processes[0].kill()
    [process.join() for process in processes]
    if any(process.exitcode for process in processes[1:]):
        return "traceback"
    value, additions = int(number.read_text()), done.stat().st_size
    if additions < 10:
        return "lost"
    return "" if value in (additions, additions + 1) else "wrong"  # killed between the two


# --- downloads -----------------------------------------------------------------------------------


class Handler(SimpleHTTPRequestHandler):
    """Says nothing of what it serves."""

    def log_message(self, *arguments: object) -> None:
        """Stay silent."""


def damaged_downloads(folder: Path, generator: random.Random) -> str:
    """Damage a recording in the cache: it is fetched again, never used."""
    content = generator.randbytes(3000)
    served = folder / "served"
    served.mkdir()
    (served / "a.ogg").write_bytes(content)
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), lambda *args: Handler(*args, directory=str(served))
    )
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/a.ogg"
    recording = data.Recording("a.ogg", hashlib.sha256(content).hexdigest(), url, "CC0")
    registry = data.Registry("sounds", (recording,))
    environment = {data.CACHE_VARIABLE: str(folder / "cache"), data.MIRROR_VARIABLE: ""}
    try:
        with mock.patch.dict(os.environ, environment):
            path = registry.fetch(recording)
            path.write_bytes(damage(content, generator))
            return "" if registry.fetch(recording).read_bytes() == content else "wrong"
    finally:
        server.shutdown()
        server.server_close()


CLASSES: dict[str, Attempt] = {
    "checkpoints of killed runs": checkpoints_of_killed_runs,
    "damaged checkpoints": damaged_checkpoints,
    "files in a power cut": files_in_a_power_cut,
    "files on a full disk": files_on_a_full_disk,
    "texts of killed writers": texts_of_killed_writers,
    "folders of runs at once": folders_of_runs_at_once,
    "damaged downloads": damaged_downloads,
    **COMMANDS,
}


def main() -> int:
    """Run all classes and print what came of them."""
    parser = argparse.ArgumentParser(prog="make torture", description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--attempts", type=int, default=ATTEMPTS, help="of each class, 10 or more")
    asked = parser.parse_args()
    if asked.attempts < 10:
        parser.error("--attempts: 10 or more")
    print(f"{'':28} attempts   lost  wrong  traceback")
    clean = True
    for name, attempt in CLASSES.items():
        count = run(attempt, asked.attempts, asked.seed)
        clean &= count.is_clean
        print(f"{name:28} {count.attempts:8} {count.lost:6} {count.wrong:6} {count.traceback:10}")
        for example in count.examples[:3]:
            print(f"    {example}")
    return 0 if clean else 1


if __name__ == "__main__":
    sys.exit(main())
