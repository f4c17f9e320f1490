"""Every method on every pair, scored: the run behind Table 1, stoppable and resumable.

What is in the table of scores is done, and never run again; a run that was killed loses at most the
sweep it was in, and of methods that train something not even that: their checkpoints lie in
``unfinished`` until their rows are written.  Audio is kept where it was made, and made again when
somebody asks for edits whose audio is not there.

``provenance.json`` says of every method and every pair what its rows were made from.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
from tqdm.auto import tqdm

from helpers.audio import Clip, Sound, save_clip
from helpers.comparison.scores import (
    COLUMNS,
    KEY,
    ScoresError,
    measure,
    read_scores,
    weights_behind,
    write_scores,
)
from helpers.evaluation.clap import Clap
from helpers.methods import Method
from helpers.models.latent_audio_model import LatentAudioModel
from helpers.pairs import Pair
from helpers.storage import (
    Provenance,
    clean,
    content_hash,
    read_records,
    sentence,
    write_records,
)

RECORDS = "provenance.json"
ROUNDING = 2**-14  # of samples that were stored in 16 bits, at most


@dataclass(frozen=True)
class Sweep:
    """One call of a method."""

    pair: Pair
    method: str
    settings: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Scored:
    """What a sweep gives.

    Parameters
    ----------
    edits : list of Clip
        One per setting.
    rows : pd.DataFrame
        The columns from ``text_clap`` to ``source_probability``, and ``seconds``.
    """

    edits: list[Clip]
    rows: pd.DataFrame


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
        Gets ``scores.csv``, ``provenance.json`` and ``audio/<pair>/<method>_<setting>.flac``.  It
        may hold results of other pairs, methods and settings, which stay.
    settings : mapping of str to tuple of float, optional
        By method, in place of all that it offers.
    """

    model: LatentAudioModel
    clap: Clap
    pairs: Sequence[Pair]
    methods: Mapping[str, Method]
    folder: Path
    settings: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def table(self) -> Path:
        """The tidy table of scores."""
        return self.folder / "scores.csv"

    def settings_of(self, method: str) -> tuple[float, ...]:
        """Which settings a method is run at, weakest first."""
        return tuple(self.settings.get(method, self.methods[method].settings))

    def sweeps(self) -> Iterator[Sweep]:
        """All that is asked for, pair by pair, so that the time left can be told early on."""
        for pair in self.pairs:
            for name, method in self.methods.items():
                if pair.edit in method.edits:
                    yield Sweep(pair, name, self.settings_of(name))

    def scores(self) -> pd.DataFrame:
        """Return what is asked for and has been scored, in the order of :meth:`sweeps`.

        Raises
        ------
        ScoresError
            If the table is damaged, or a method or a pair of the same name was made from something
            else.
        """
        asked = [[s.pair.id, s.method, value] for s in self.sweeps() for value in s.settings]
        return pd.DataFrame(asked, columns=KEY).merge(self._checked(), on=KEY)[list(COLUMNS)]

    def missing(self) -> list[Sweep]:
        """Find what is asked for and has no scores; raises as :meth:`scores`."""
        done = set(self._checked()[KEY].itertuples(index=False, name=None))
        left = []
        for sweep in self.sweeps():
            key = sweep.pair.id, sweep.method
            if settings := tuple(v for v in sweep.settings if (*key, v) not in done):
                left.append(replace(sweep, settings=settings))
        return left

    def load_sources(self, progress: bool = True) -> None:
        """Load every recording, so that one that cannot be used is known before any work.

        Raises
        ------
        PairsError, DataError
            As :attr:`helpers.pairs.Pair.source`.
        ScoresError
            As :meth:`scores`.
        """
        with tqdm(self.pairs, desc="recordings", disable=not progress) as bar:
            for pair in bar:
                _ = pair.source  # loaded once
        self._checked()
        for pair in self.pairs:
            path = self.folder / "audio" / pair.id / "source.flac"
            clean(path.parent)
            kept = self._kept(path, pair)
            if kept is None or np.abs(kept.waveform - pair.source.clip.waveform).max() > ROUNDING:
                save_clip(pair.source.clip, path)

    def run(
        self,
        progress: bool = True,
        scored: Callable[[Sequence[Sweep]], Iterable[tuple[Sweep, Scored]]] | None = None,
    ) -> int:
        """Do what is missing; return how many sweeps that was.

        Parameters
        ----------
        progress : bool
        scored : callable, optional
            From sweeps to each with what it gives, in any order; by default they are done here, one
            after the other.  Whoever does them, only this process writes.

        Raises
        ------
        ScoresError
            As :meth:`scores`.
        """
        missing = self.missing()
        if missing:
            write_records(self.folder / RECORDS, self._stored | self._records)
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
            for sweep, result in (scored or self._one_by_one)(missing):
                self._keep(sweep, result)
                bar.set_postfix_str(f"{sweep.pair.id}, {self.methods[sweep.method].name}")
                bar.update()
        return len(missing)

    def edits(self, pair: Pair, method: str) -> list[Clip]:
        """Return a method's edits of a pair, one per setting, weakest first, as loud as written.

        They are read where their audio was kept whole, and made again where it was not.
        """
        sweep = Sweep(pair, method, self.settings_of(method))
        paths = [self.folder / self.audio(pair.id, method, value) for value in sweep.settings]
        kept = [self._kept(path, pair) for path in paths]
        if None in kept:
            work = self._work(sweep)
            self._save(sweep, edit(self.model, self.methods[method], pair, sweep.settings, work))
            self._clear(sweep)
            kept = [self._kept(path, pair) for path in paths]
        return [clip for clip in kept if clip is not None]

    @staticmethod
    def _kept(path: Path, pair: Pair) -> Clip | None:
        """Read a file of a run; None if it is not there, damaged or not as long as its source."""
        try:
            sound = Sound(*soundfile.read(path, dtype="float32", always_2d=True))
        except soundfile.SoundFileError:
            return None
        source = pair.source.clip
        whole = len(sound.samples) == source.samples_at(sound.sample_rate)
        return Clip.made(sound, path.stem, source) if whole else None

    @staticmethod
    def audio(pair: str, method: str, setting: float) -> Path:
        """Where an edit is kept, relative to the folder."""
        return Path("audio") / pair / f"{method}_{setting:g}.flac"

    def _one_by_one(self, sweeps: Sequence[Sweep]) -> Iterator[tuple[Sweep, Scored]]:
        for sweep in sweeps:
            method, work = self.methods[sweep.method], self._work(sweep)
            yield sweep, score(self.model, self.clap, method, sweep, work)

    def _keep(self, sweep: Sweep, result: Scored) -> None:
        """Write audio and rows of a sweep, and remove what it has trained."""
        self._save(sweep, result.edits)
        rows = result.rows.assign(
            pair=sweep.pair.id,
            edit=sweep.pair.edit,
            method=sweep.method,
            setting=sweep.settings,
            clap=self.clap.name,
            model=self.model.name,
            prompt=sweep.pair.prompt,
            audio=[
                self.audio(sweep.pair.id, sweep.method, value).as_posix()
                for value in sweep.settings
            ],
        )
        write_scores(self.table, pd.concat([read_scores(self.table), rows[list(COLUMNS)]]))
        self._clear(sweep)

    def _save(self, sweep: Sweep, edits: list[Clip]) -> None:
        for setting, clip in zip(sweep.settings, edits, strict=True):
            save_clip(clip, self.folder / self.audio(sweep.pair.id, sweep.method, setting))

    def _work(self, sweep: Sweep) -> Path:
        return self.folder / "unfinished" / sweep.pair.id / sweep.method

    def _clear(self, sweep: Sweep) -> None:
        """Remove what a finished sweep has trained."""
        work = self._work(sweep)
        shutil.rmtree(work, ignore_errors=True)
        for emptied in (work.parent, work.parent.parent):
            with suppress(OSError):  # another sweep that was stopped is kept there
                emptied.rmdir()

    def _checked(self) -> pd.DataFrame:
        """Read the table; none of its asked methods and pairs was made from something else."""
        scores = read_scores(self.table)
        if scores.empty:
            return scores
        stored, held = self._stored, {*scores["method"], *scores["pair"]}
        for name, asked in self._records.items():
            if name in held:
                differences = stored.get(name, Provenance()).differences(asked)
                if differences:
                    raise ScoresError(
                        f"{self.table} holds scores of {name}, but {sentence(differences)}: name "
                        "another folder, or delete this one."
                    )
        return scores

    @property
    def _stored(self) -> dict[str, Provenance]:
        return read_records(self.folder / RECORDS)

    @cached_property
    def _records(self) -> dict[str, Provenance]:
        """What the asked rows are made from, by method and by pair."""
        records = {}
        for sweep in self.sweeps():
            if sweep.method not in records:
                records[sweep.method] = self.record(sweep.method)
            if sweep.pair.id not in records:
                records[sweep.pair.id] = _record_of_pair(sweep.pair)
        return records

    @cached_property
    def weights(self) -> dict[str, str]:
        """What :func:`weights_behind` says of model and CLAP."""
        return weights_behind(self.model, self.clap)

    def record(self, method: str) -> Provenance:
        """Tell what a method's rows are made from, but for the pair and the setting."""
        recorded = self.methods[method]
        left_out = "settings", "fixed_setting", "role"
        names = [f.name for f in fields(recorded) if f.compare and f.name not in left_out]
        return Provenance(
            self.weights,
            {
                "model": self.model.name,
                "schedule": self.model.schedule,
                "CLAP": self.clap.name,
                "method": type(recorded).__name__,
                "": {name: getattr(recorded, name) for name in names},
            },
        )


def score(
    model: LatentAudioModel,
    clap: Clap,
    method: Method,
    sweep: Sweep,
    folder: Path | None = None,
) -> Scored:
    """Do a sweep: edit, as :func:`edit` does, and score the edits; nothing else is written."""
    started = time.perf_counter()
    edits = edit(model, method, sweep.pair, sweep.settings, folder)
    seconds = (time.perf_counter() - started) / len(edits)
    return Scored(edits, measure(clap, sweep.pair, edits).assign(seconds=seconds))


def edit(
    model: LatentAudioModel,
    method: Method,
    pair: Pair,
    settings: Sequence[float],
    folder: Path | None = None,
) -> list[Clip]:
    """Edit a pair as the table's rows are made.

    Parameters
    ----------
    model : LatentAudioModel
    method : Method
    pair : Pair
    settings : sequence of float
    folder : Path, optional
        Keeps Steps 1 and 2: a stopped run resumes, and what methods have in common is done once.

    Returns
    -------
    list of Clip
        One per setting.
    """
    source = pair.source
    described = ""  # as the stored table was made: the source's own prompt comes with the next
    return method.sweep(
        model,
        source.clip,
        pair.prompt,
        list(settings),
        source.gap,
        described,
        folder=folder,
        progress=False,
    )


def _record_of_pair(pair: Pair) -> Provenance:
    source = pair.source
    return Provenance(
        settings={
            "edit": pair.edit,
            "prompt": pair.prompt,
            "source's prompt": source.prompt,
            "target": pair.target,
            "gap": source.gap,
        },
        inputs={"recording": content_hash(source.clip.waveform)},
    )
