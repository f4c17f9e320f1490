"""Seeded attempts, what came of them, and the two ways to do harm: killing and damaging."""

from __future__ import annotations

import multiprocessing
import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Count:
    """What came of the attempts of a class."""

    attempts: int = 0
    lost: int = 0
    wrong: int = 0
    traceback: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Whether nothing went wrong."""
        return not (self.lost or self.wrong or self.traceback)

    def note(self, outcome: str, example: str) -> None:
        """Count one attempt; its outcome is "", "lost", "wrong" or "traceback"."""
        self.attempts += 1
        if outcome:
            setattr(self, outcome, getattr(self, outcome) + 1)
            self.examples.append(f"{outcome}: {example}")


Attempt = Callable[[Path, random.Random], str]


def run(attempt: Attempt, attempts: int, seed: int) -> Count:
    """Make seeded attempts, each in a new folder."""
    count = Count()
    for number in range(attempts):
        generator = random.Random(f"{attempt.__name__} {seed} {number}")
        with tempfile.TemporaryDirectory() as folder:
            try:
                count.note(attempt(Path(folder), generator), f"number {number}")
            except Exception as error:  # whatever it is: no user should see it
                count.note("traceback", f"number {number}: {error!r}")
    return count


def killed(work: Callable[[], object], seconds: float) -> None:
    """Do something in another process, which is killed after a while."""
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(seconds)
    process.kill()
    process.join()


def damage(content: bytes, generator: random.Random) -> bytes:
    """Cut it, flip bits, lose a block, exchange two, or put a text in its place."""
    damaged = bytearray(content)
    place, other = (generator.randrange(len(content)) for _ in range(2))
    match generator.choice(["cut", "bits", "bits", "bits", "block", "exchange", "text"]):
        case "cut":
            del damaged[place:]
        case "bits":
            for _ in range(generator.choice([1, 8])):
                damaged[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        case "block":
            damaged[place : place + 512] = bytes(len(damaged[place : place + 512]))
        case "exchange":
            damaged[place], damaged[other] = damaged[other], damaged[place]
        case "text":
            damaged = bytearray(b"no checkpoint")
    return bytes(damaged)
