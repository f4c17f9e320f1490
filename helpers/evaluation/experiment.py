"""Every method on every pair, scored: the run behind Table 1, stoppable and resumable.

A sweep's audio is written first, then its rows, the whole table of scores at once; what is in the
table and has its audio is never run again.  A run that was killed therefore loses at most the
sweep it was in, and of methods that train something not even that: their checkpoints lie in
``unfinished`` until their rows are written.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path

import torch
from tqdm.auto import tqdm

from helpers.audio import save_clip
from helpers.baselines import Method
from helpers.editing.optimisation import fingerprint
from helpers.evaluation.clap import Clap
from helpers.evaluation.pairs import EDITS, Pair
from helpers.evaluation.scores import Row, ScoresError, measure, read_rows, write_rows
from helpers.models.latent_audio_model import LatentAudioModel

QUICK_METHODS = ("ours-lora", "sdedit", "audioldm-inpainting")
QUICK_STRENGTHS = 3
FINGERPRINT_DIGITS = 16


@dataclass(frozen=True)
class Sweep:
    """What one call of a method has still to do."""

    pair: Pair
    method: str
    strengths: tuple[float, ...]


@dataclass(frozen=True)
class Experiment:
    """Which methods edit which pairs, and where the results go.

    Parameters
    ----------
    model : LatentAudioModel
    clap : Clap
    pairs : list of Pair
    methods : mapping of str to Method
        By key; a method is run on the edit types it is for.
    folder : Path
        Gets ``scores.csv`` and ``audio/<pair>/<method>_<strength>.flac``.  It may hold results of
        other pairs, methods and strengths, which stay.
    strengths : mapping of str to tuple of float, optional
        By method, in place of all that it offers.
    """

    model: LatentAudioModel
    clap: Clap
    pairs: Sequence[Pair]
    methods: Mapping[str, Method]
    folder: Path
    strengths: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def table(self) -> Path:
        """The tidy table of scores."""
        return self.folder / "scores.csv"

    def strengths_of(self, method: str) -> tuple[float, ...]:
        """Which strengths a method is run at, weakest first."""
        return tuple(self.strengths.get(method, self.methods[method].strengths))

    def sweeps(self) -> Iterator[Sweep]:
        """All that is asked for, pair by pair, so that the time left can be told early on."""
        for pair in self.pairs:
            for name, method in self.methods.items():
                if pair.edit in method.edits:
                    yield Sweep(pair, name, self.strengths_of(name))

    def rows(self) -> list[Row]:
        """Return what is asked for and has been scored.

        Raises
        ------
        ScoresError
            If the table is damaged, or holds scores of the same name and other making.
        """
        asked = {(s.pair.id, s.method, value) for s in self.sweeps() for value in s.strengths}
        return [row for row in self._checked() if row.key in asked]

    def missing(self) -> list[Sweep]:
        """Find what is asked for and has no scores or no audio; raises as :meth:`rows`."""
        done = {row.key for row in self._checked() if (self.folder / row.audio).is_file()}
        sweeps = []
        for sweep in self.sweeps():
            left = tuple(v for v in sweep.strengths if (sweep.pair.id, sweep.method, v) not in done)
            if left:
                sweeps.append(Sweep(sweep.pair, sweep.method, left))
        return sweeps

    def load_sources(self, progress: bool = True) -> None:
        """Load every recording, so that one that cannot be used is known before any work.

        Raises
        ------
        PairsError, DataError
            As :attr:`helpers.evaluation.pairs.Pair.source`.
        """
        for pair in tqdm(self.pairs, desc="recordings", disable=not progress):
            path = self.folder / "audio" / pair.id / "source.flac"
            source = pair.source.clip
            if not path.exists():
                save_clip(source, path.with_name("part.flac")).replace(path)

    def run(self, progress: bool = True) -> int:
        """Do what is missing; return how many sweeps that was.

        Raises
        ------
        ScoresError
            As :meth:`rows`.
        """
        missing = self.missing()
        total = sum(1 for _ in self.sweeps())
        bar = tqdm(
            total=total,
            initial=total - len(missing),
            desc="edits",
            unit="sweep",
            smoothing=0,
            disable=not progress or not missing,
        )
        with bar:
            for sweep in missing:
                bar.set_postfix_str(f"{sweep.pair.id}, {self.methods[sweep.method].name}")
                self._run(sweep)
                bar.update()
        return len(missing)

    def _run(self, sweep: Sweep) -> None:
        """Edit, keep the audio, score, keep the rows."""
        source = sweep.pair.source
        work = self.folder / "unfinished" / sweep.pair.id / sweep.method
        started = time.perf_counter()
        edits = self.methods[sweep.method].sweep(
            self.model,
            source.clip,
            sweep.pair.prompt,
            list(sweep.strengths),
            source.gap,
            folder=work,
            progress=False,
        )
        seconds = (time.perf_counter() - started) / len(edits)
        rows = []
        scores = measure(self.clap, sweep.pair, edits)
        for strength, edit, score in zip(sweep.strengths, edits, scores, strict=True):
            audio = Path("audio") / sweep.pair.id / f"{sweep.method}_{strength:g}.flac"
            save_clip(edit, self.folder / audio)
            rows.append(
                Row(
                    pair=sweep.pair.id,
                    edit=sweep.pair.edit,
                    method=sweep.method,
                    strength=strength,
                    **score,
                    clap=self.clap.name,
                    model=self.model.name,
                    fingerprint=self.model.fingerprint[:FINGERPRINT_DIGITS],
                    seconds=seconds,
                    prompt=sweep.pair.prompt,
                    audio=audio.as_posix(),
                    identity=self._identities[sweep.pair.id, sweep.method],
                )
            )
        table = {row.key: row for row in read_rows(self.table)}
        table |= {row.key: row for row in rows}
        write_rows(self.table, table.values())
        shutil.rmtree(work, ignore_errors=True)
        for emptied in (work.parent, work.parent.parent):
            with suppress(OSError):  # another sweep that was stopped is kept there
                emptied.rmdir()

    def _checked(self) -> list[Row]:
        """Read the table; none of its rows is of an asked name and of other making."""
        rows = read_rows(self.table)
        for row in rows:
            if row.identity != self._identities.get((row.pair, row.method), row.identity):
                raise ScoresError(
                    f"{self.table} holds scores of {row.method} on {row.pair} that were made with "
                    "another model, CLAP, recording, prompt or settings: name another folder, or "
                    "delete this one."
                )
        return rows

    @cached_property
    def _identities(self) -> dict[tuple[str, str], str]:
        """By pair and method a fingerprint of all that a row depends on, but for the strength."""
        made_with = self.model.fingerprint, self.clap.name
        return {
            (sweep.pair.id, sweep.method): fingerprint(
                *made_with, *_contents(sweep.pair), describe(self.methods[sweep.method])
            )[:FINGERPRINT_DIGITS]
            for sweep in self.sweeps()
        }


def _contents(pair: Pair) -> tuple[object, ...]:
    source = pair.source
    return torch.from_numpy(source.clip.waveform), source.gap, pair.edit, pair.prompt, pair.target


def describe(method: Method) -> str:
    """Tell a method's settings but for its strengths: others may be asked for later."""
    left_out = "strengths", "fixed_strength"
    names = [f.name for f in fields(method) if f.compare and f.name not in left_out]
    return f"{type(method).__name__} {[(name, getattr(method, name)) for name in names]}"


def quick(
    pairs: Sequence[Pair], methods: Mapping[str, Method]
) -> tuple[list[Pair], dict[str, Method], dict[str, tuple[float, ...]]]:
    """Cut a run down to one pair of each edit type, three methods and three strengths.

    Returns
    -------
    pairs, methods, strengths
        As :class:`Experiment` takes them.  Methods are Ours (LoRA), SDEdit and AudioLDM
        inpainting, or the first three where other ones were asked for; strengths are the weakest,
        the fixed one and the strongest.
    """
    first = {edit: next((p for p in pairs if p.edit == edit), None) for edit in EDITS}
    usual = [name for name in QUICK_METHODS if name in methods]
    names = usual if len(usual) == len(QUICK_METHODS) else list(methods)[: len(QUICK_METHODS)]
    chosen = {name: methods[name] for name in names}
    strengths = {name: _three(method) for name, method in chosen.items()}
    return [pair for pair in first.values() if pair], chosen, strengths


def _three(method: Method) -> tuple[float, ...]:
    """Pick the weakest, the fixed and the strongest strength; the middle if two of them agree."""
    offered = method.strengths
    if len(offered) <= QUICK_STRENGTHS:
        return tuple(offered)
    inner = offered[1:-1]
    middle = method.fixed_strength if method.fixed_strength in inner else inner[len(inner) // 2]
    return offered[0], middle, offered[-1]
