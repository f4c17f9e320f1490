"""What an evaluation edits: recordings, each with an edit type and a prompt (Secs. 3.1 and 4.2).

A pair set is a table with the columns ``id,audio,edit,prompt`` and, where wanted,
``start,end,target``.  ``audio`` names

- a file, relative to the table's folder;
- a recording of a registry, ``esc10:dog_bark/5-203128-B.ogg``, downloaded and checked when used;
- a synthesised sound and its seed, ``foley:phone_ringing/9600000``, whose events are known.

``start`` and ``end`` are the gap of an inpainting pair in seconds; without them the gap is the
longest run of digital silence in the recording.  ``target`` is what the independent classifier
should hear in the edit, one of the pocket vocabulary's labels.

Built-in sets are ``data/pairs/*.csv``: ``pocket27`` is only run to report, settings are tuned on
``pocket-dev``, ``pocket27-offline`` needs no download, ``paper21`` are the authors' published
pairs.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np

from helpers.audio import (
    CLIP_SECONDS,
    SAMPLE_RATE,
    AudioError,
    Clip,
    load_clip,
    main_channel,
    read_audio,
)
from helpers.data import Recording, Registry, data_path, load_registry
from helpers.editing.inpainting import Gap, MaskError, blank
from helpers.sounds import foley
from helpers.sounds.vocabulary import LABELS, VOCABULARY

EDITS = ("addition", "inpainting", "style_transfer")
REQUIRED = ("id", "audio", "edit", "prompt")
OPTIONAL = ("start", "end", "target")
REGISTRIES = ("esc10", "paper_pairs")
FOLEY_SECONDS = 10.0
SHORTEST_GAP = 0.1  # seconds of digital silence that pass for a gap


class PairsError(ValueError):
    """A pair set that cannot be used; the message names table, row and column."""


@dataclass(frozen=True)
class Source:
    """What a pair's edit starts from.

    Attributes
    ----------
    clip : Clip
        The recording, silent in the gap.
    whole : Clip
        The recording with what the gap held, where the recording has it.
    gap : Gap, optional
        The part to be filled.
    events : np.ndarray, optional
        True onsets of the whole recording in seconds, sorted; of synthesised sounds alone.
    label : str, optional
        What the recording is of, where the pocket vocabulary has it.
    """

    clip: Clip
    whole: Clip
    gap: Gap | None = None
    events: np.ndarray | None = None
    label: str | None = None

    @property
    def prompt(self) -> str:
        """What the recording sounds like, in words; empty where its label is not known."""
        return f"Sound of {VOCABULARY[self.label].plain}" if self.label in VOCABULARY else ""


@dataclass(frozen=True)
class Pair:
    """One recording and what it should become.

    Attributes
    ----------
    id : str
        Unique in its set, and usable as a folder's name.
    audio : str
        Where the recording comes from, as the table says it.
    edit : str
        One of :data:`EDITS`.
    prompt : str
    given_gap : Gap, optional
        The gap, if the table names one.
    target : str, optional
        The label that the classifier should give the edit.
    folder : Path
        What file names are relative to.
    place : str
        Table and row, for messages.
    """

    id: str
    audio: str
    edit: str
    prompt: str
    given_gap: Gap | None = None
    target: str | None = None
    folder: Path = Path()
    place: str = "pair"

    @cached_property
    def source(self) -> Source:
        """The recording, loaded once; downloaded if need be.

        Raises
        ------
        PairsError
            If it cannot be read as audio, or its gap does not fit or is not to be found.
        DataError
            If a registry's recording cannot be had.
        """
        try:
            whole, path = self._load()
        except AudioError as error:
            raise PairsError(f"{self.place}, column audio: {error}") from error
        if self.edit != "inpainting":
            return whole
        try:
            gap = self.given_gap or _silent_gap(whole.clip, path)
            return replace(whole, clip=blank(whole.clip, gap), gap=gap)
        except MaskError as error:
            raise PairsError(f"{self.place}, columns start and end: {error}") from error

    def _load(self) -> tuple[Source, Path | None]:
        """Load the whole recording; return its file too if it has one."""
        kind, _, name = self.audio.partition(":")
        if kind == "foley":
            label, seed = name.split("/")
            event = foley.synthesise(label, np.random.default_rng(int(seed)), FOLEY_SECONDS)
            clip = Clip.from_waveform(event.waveform, SAMPLE_RATE, name=self.id)
            return Source(clip, clip, events=np.sort(event.onsets), label=label), None
        if kind in REGISTRIES:
            recording = _recording(kind, name)
            assert recording is not None, "It was looked for when the table was read."
            path = _registry(kind).fetch(recording)
            clip = load_clip(path, seconds=CLIP_SECONDS)  # one of the authors' is 2 ms too long
            clip = Clip(clip.waveform, self.id)
            return Source(clip, clip, label=recording.info.get("label")), path
        path = self.folder / self.audio
        clip = Clip(load_clip(path).waveform, self.id)
        return Source(clip, clip), path


def find_gap(path: Path) -> Gap:
    """Return where the longest run of digital silence in a file's main channel lies.

    Raises
    ------
    MaskError
        If there is none of at least 0.1 s.
    """
    waveform, sample_rate = read_audio(path)
    edges = np.flatnonzero(np.diff(np.r_[False, main_channel(waveform, path.name) == 0, False]))
    starts, ends = edges[::2], edges[1::2]
    if len(starts) == 0 or (ends - starts).max() < SHORTEST_GAP * sample_rate:
        raise MaskError(
            f"{path.name} holds no {SHORTEST_GAP} s of digital silence to fill: give the gap's "
            "start and end in seconds."
        )
    longest = (ends - starts).argmax()
    return Gap(float(starts[longest] / sample_rate), float(ends[longest] / sample_rate))


def load_pairs(name: str | Path) -> list[Pair]:
    """Read a pair set.

    Parameters
    ----------
    name : str or Path
        A built-in set, or the path of a CSV of one's own.

    Returns
    -------
    list of Pair
        In the table's order.  Recordings are not loaded yet: :attr:`Pair.source` does that.

    Raises
    ------
    PairsError
        If there is no such set, or the table is wrong; the message names row and column.
    """
    built_in = {path.stem: path for path in sorted(data_path("pairs").glob("*.csv"))}
    path = built_in.get(str(name), Path(name))
    if not path.is_file():
        raise PairsError(
            f"There is no pair set {str(name)!r}: choose from {', '.join(built_in)}, or give the "
            "path of a CSV with the columns id,audio,edit,prompt."
        )
    try:
        with path.open(encoding="utf-8-sig", newline="") as table:
            reader = csv.reader(table, strict=True)
            header = [cell.strip() for cell in next(reader, [])]
            rows = [(reader.line_num, [c.strip() for c in row]) for row in reader if any(row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise PairsError(f"{path} cannot be read as CSV in UTF-8: export it again.") from error
    _check_header(path, header)
    pairs: dict[str, Pair] = {}
    for line, cells in rows:
        pair = _pair(path, f"{path.name}, row {line}", header, cells)
        if pair.id in pairs:
            raise PairsError(f"{pair.place}, column id: {pair.id!r} stands in an earlier row too.")
        pairs[pair.id] = pair
    if not pairs:
        raise PairsError(f"{path} holds no pairs: add a row below its header.")
    return list(pairs.values())


def _check_header(path: Path, header: list[str]) -> None:
    if len(header) == 1 and header[0].count(";") >= len(REQUIRED) - 1:
        raise PairsError(f"{path.name}, row 1: columns stand between semicolons: use commas.")
    for name in REQUIRED:
        if name not in header:
            raise PairsError(f"{path.name}, row 1: there is no column {name}: add it.")
    for name, following in pairwise(sorted(header)):
        if name == following:
            raise PairsError(f"{path.name}, row 1: there are two columns {name!r}: remove one.")
    for name in header:
        if name not in REQUIRED + OPTIONAL:
            raise PairsError(
                f"{path.name}, row 1: column {name!r} means nothing here: use "
                f"{', '.join(REQUIRED + OPTIONAL)}."
            )


def _pair(path: Path, place: str, header: list[str], cells: list[str]) -> Pair:
    """One checked row."""
    if len(cells) != len(header):
        raise PairsError(
            f"{place}: there are {len(cells)} cells for {len(header)} columns: put quotes around "
            "a prompt that holds a comma."
        )
    row = dict(zip(header, cells, strict=True))

    def refuse(column: str, reason: str) -> None:
        raise PairsError(f"{place}, column {column}: {reason}")

    for column in REQUIRED:
        if not row[column]:
            refuse(column, "it is empty.")
    if not re.fullmatch(r"\w[\w.-]{0,99}", row["id"]):
        refuse(
            "id",
            f"{row['id']!r} cannot name a folder: use letters, digits, _, -, dots; 100 at most.",
        )
    if row["edit"] not in EDITS:
        refuse("edit", f"{row['edit']!r} is no edit type: use {', '.join(EDITS)}.")
    target = row.get("target") or None
    if target is not None and target not in LABELS:
        refuse("target", f"{target!r} is no sound the classifier knows: use {', '.join(LABELS)}.")
    if reason := _audio_fault(row["audio"], path.parent):
        refuse("audio", reason)

    given = {column: row.get(column, "") for column in ("start", "end")}
    numbers = {}
    for column, cell in given.items():
        if cell and row["edit"] != "inpainting":
            refuse(column, f"{row['edit']} has no gap: leave it empty.")
        if not cell and any(given.values()):
            refuse(column, "a gap needs both start and end.")
        try:
            numbers[column] = float(cell) if cell else None
        except ValueError:
            refuse(column, f"{cell!r} is no number of seconds.")
    gap = None if numbers["start"] is None else Gap(numbers["start"], numbers["end"])
    return Pair(
        row["id"], row["audio"], row["edit"], row["prompt"], gap, target, path.parent, place
    )


def _audio_fault(audio: str, folder: Path) -> str | None:
    """Say what is wrong with a row's audio, as far as can be told without loading it."""
    kind, _, name = audio.partition(":")
    if kind == "foley":
        label, _, seed = name.partition("/")
        if label not in foley.LABELS:
            return f"no foley sound is called {label!r}: use {', '.join(foley.LABELS)}."
        if not re.fullmatch(r"[0-9]+", seed):
            return f"{audio!r} names no seed: write foley:{label}/1."
    elif kind in REGISTRIES:
        if _recording(kind, name) is None:
            return f"the registry {kind} has no recording {name!r}."
    elif not (folder / audio).is_file():
        return f"there is no file {folder / audio}: check the path."
    return None


@cache
def _registry(name: str) -> Registry:
    return load_registry(name)


def _recording(registry: str, path: str) -> Recording | None:
    found = (r for r in _registry(registry).recordings if r.path == path)
    return next(found, None)


def _silent_gap(clip: Clip, path: Path | None) -> Gap:
    """Where a file is silent, as far as the clip goes."""
    if path is None:
        raise MaskError("A synthesised sound has no gap: give its start and end in seconds.")
    gap = find_gap(path)
    return Gap(gap.start, min(gap.end, clip.seconds))
