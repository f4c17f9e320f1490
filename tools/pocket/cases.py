"""What the embedded model is tuned and measured on: pairs with known events and a hand-made edit.

Pairs are drawn by seed, over ordered pairs of classes in turn, and a draw is kept if it can be
judged at all: the source has 3 … 20 events, and they are still there after the autoencoder's round
trip, in the source and in the edit made by hand.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

import numpy as np

from helpers.audio import Clip
from helpers.data import load_registry
from helpers.editing.inpainting import Gap
from helpers.evaluation.judges import Listener
from helpers.evaluation.layout import FEWEST_EVENTS, LEAST_RAW, MOST_EVENTS, layout, raw_layout
from helpers.evaluation.oracles import (
    ADDITION_DECIBELS,
    CONTINUOUS,
    NoTake,
    add,
    fill,
    recorded_events,
    replace_events,
    take,
)
from helpers.evaluation.success import (
    addition_succeeded,
    events_kept,
    gap_succeeded,
    style_succeeded,
    which_kept,
)
from helpers.models.latent_audio_model import LatentAudioModel
from helpers.pairs import FOLEY_SECONDS, Pair
from helpers.sounds import foley
from helpers.sounds.vocabulary import VOCABULARY

TARGETS_PER_RECORDING = 3
TRIES = 4  # seeds of one pair of classes before the next pair's turn
GAP_SECONDS, MARGIN_SECONDS = 2.0, 1.0  # of a gap, and of what is left at least on either side
ADDED = ADDITION_DECIBELS[1]  # dB, of the edit made by hand


@dataclass(frozen=True, eq=False)
class Case(ABC):
    """An edit that can be judged.

    Attributes
    ----------
    pair : Pair
    events : np.ndarray
        The source's onset and offset times in seconds, shape (events, 2).
    oracle : Clip
        The edit made by hand.
    heard_oracle : Clip
        The same after the autoencoder's round trip: what the model could give at best.
    """

    pair: Pair
    events: np.ndarray
    oracle: Clip
    heard_oracle: Clip

    @property
    def clip(self) -> Clip:
        """The recording, silent in the gap."""
        return self.pair.source.clip

    @property
    def label(self) -> str:
        """What the recording is of."""
        return self.pair.source.label

    def is_eligible(self, model: LatentAudioModel) -> bool:
        """Whether the edit can be judged after the autoencoder's round trip."""
        if not _may_be_judged(self.events):
            return False
        return raw_layout(round_trip(model, self.clip), self.events) >= LEAST_RAW

    @abstractmethod
    def judge(self, listener: Listener, clips: Sequence[Clip]) -> list[dict[str, float]]:
        """Judge edits: what is heard, what is kept, their product ("joint"), and success, 0 or 1.

        Parameters
        ----------
        listener : Listener
        clips : sequence of Clip
            As long as the recording.
        """

    def _heard(self, listener: Listener, clips: Sequence[Clip]) -> Iterator[tuple[float, float]]:
        """Probabilities of target and source in each clip."""
        heard = listener.heard(clips)
        for label in (self.pair.target, self.label):
            yield heard[:, listener.labels.index(label)].tolist()


class StyleCase(Case):
    """A style transfer: the target in the source's places, and the source no longer heard."""

    def is_eligible(self, model: LatentAudioModel) -> bool:
        """Whether the layout can be judged, of source and edit made by hand."""
        return (
            super().is_eligible(model) and raw_layout(self.heard_oracle, self.events) >= LEAST_RAW
        )

    def judge(self, listener: Listener, clips: Sequence[Clip]) -> list[dict[str, float]]:
        """Judge by target, source and layout."""
        rows = []
        for clip, target, source in zip(clips, *self._heard(listener, clips), strict=True):
            kept = layout(clip, self.oracle, self.events)
            rows.append(
                {
                    "target": target,
                    "source": source,
                    "layout": kept,
                    "joint": target * (1 - source) * kept,
                    "success": float(style_succeeded(target, source, kept)),
                }
            )
        return rows


class AdditionCase(Case):
    """An addition: target and source are heard, and the source's events are kept."""

    def is_eligible(self, model: LatentAudioModel) -> bool:
        """Whether the edit made by hand keeps enough events to ask for."""
        if not super().is_eligible(model):
            return False
        return which_kept(self.heard_oracle, self.clip, self.events).sum() >= FEWEST_EVENTS

    def judge(self, listener: Listener, clips: Sequence[Clip]) -> list[dict[str, float]]:
        """Judge by target, source and the events that the edit made by hand keeps."""
        rows = []
        for clip, target, source in zip(clips, *self._heard(listener, clips), strict=True):
            kept = events_kept(clip, self.clip, self.heard_oracle, self.events)
            rows.append(
                {
                    "target": target,
                    "source": source,
                    "kept": kept,
                    "joint": target * source * kept,
                    "success": float(addition_succeeded(target, source, kept)),
                }
            )
        return rows


class GapCase(Case):
    """Inpainting: the recording's own sound in the gap, as loud as what the gap held.

    Only the gap is judged.
    """

    @property
    def gap(self) -> Gap:
        """What is to be filled."""
        return self.pair.source.gap

    def is_eligible(self, model: LatentAudioModel) -> bool:
        """Whether the gap held something: it was not 20 dB below the rest."""
        whole = self.pair.source.whole
        return _decibels(self.part(whole)) > _decibels(whole.waveform) - 20

    def part(self, clip: Clip) -> np.ndarray:
        """Return what a clip holds in the gap, float32, shape (samples,)."""
        return clip.waveform[self.gap.samples(clip)]

    def judge(self, listener: Listener, clips: Sequence[Clip]) -> list[dict[str, float]]:
        """Judge by the target in the gap, and the level there."""
        heard = listener.heard([Clip(self.part(clip)) for clip in clips])
        held = _decibels(self.part(self.pair.source.whole))
        rows = []
        for clip, target in zip(
            clips, heard[:, listener.labels.index(self.pair.target)].tolist(), strict=True
        ):
            level = _decibels(self.part(clip)) - held
            success = float(gap_succeeded(target, level))
            rows.append({"target": target, "level": level, "success": success})
        return rows


def make_case(model: LatentAudioModel, pair: Pair, split: str) -> Case:
    """Find a pair's events and make its edit by hand.

    Parameters
    ----------
    model : LatentAudioModel
        For its autoencoder's round trip.
    pair : Pair
        With a target.
    split : {"dev", "test"}
        Of the recordings that the edit is made of.
    """
    source = pair.source
    events = known_events(pair.audio)
    rng = np.random.default_rng(zlib.crc32(pair.id.encode()))
    waveform, hits = take(pair.target, rng, split, pair.audio.partition(":")[2])
    if pair.edit == "style_transfer":
        kind, oracle = StyleCase, replace_events(source.clip, events, pair.target, waveform, hits)
    elif pair.edit == "addition":
        kind, oracle = AdditionCase, add(source.clip, waveform, ADDED)
    else:
        kind, oracle = GapCase, fill(source.whole, source.gap, waveform)
    return kind(pair, events, oracle, round_trip(model, oracle))


def known_events(audio: str) -> np.ndarray:
    """Onset and offset times in seconds, shape (events, 2), of a pair's foley or recording."""
    kind, _, name = audio.partition(":")
    if kind == "foley":
        label, seed = name.split("/")
        event = foley.synthesise(label, np.random.default_rng(int(seed)), FOLEY_SECONDS)
        return np.stack([event.onsets, event.offsets], axis=1)
    return recorded_events().get(name, np.empty((0, 2)))


def round_trip(model: LatentAudioModel, clip: Clip) -> Clip:
    """Return what autoencoder and vocoder make of a clip."""
    return model.decode(model.encode(clip), clip, clip.name)


def draw_foley(
    model: LatentAudioModel,
    edit: str,
    count: int,
    first_seed: int,
    targets: Sequence[str],
    split: str,
) -> Iterator[tuple[Pair, int]]:
    """Draw pairs of foley, over ordered pairs of classes in turn.

    Parameters
    ----------
    model : LatentAudioModel
        Whose round trip decides.
    edit : {"style_transfer", "addition", "inpainting"}
    count : int
    first_seed : int
        Of the order of classes and of the sounds.
    targets : sequence of str
        Labels that may be a target.
    split : {"dev", "test"}
        Of the recordings that oracles are made of.

    Yields
    ------
    Pair, int
        A pair that is eligible, and how many seeds were drawn so far.
    """
    if edit == "inpainting":
        kinds = [(label, label) for label in foley.LABELS if label in targets]
    else:
        sources = [label for label in foley.LABELS if label not in CONTINUOUS]
        kinds = [(a, b) for a in sources for b in targets if a != b]
    np.random.default_rng(first_seed).shuffle(kinds)
    seed, kept = first_seed, 0
    for source, target in cycle(kinds):
        for _ in range(TRIES):
            pair = _pair(f"foley:{source}/{seed}", edit, source, target, seed)
            seed += 1
            if _is_eligible(model, pair, split):
                yield pair, seed - first_seed
                kept += 1
                break
        if kept == count:
            return


def draw_recorded(
    model: LatentAudioModel, edit: str, targets: Sequence[str], split: str, seed: int
) -> Iterator[Pair]:
    """Pairs of every recording of a part of the split: a gap, or up to three targets of style.

    Parameters
    ----------
    model : LatentAudioModel
        Whose round trip decides.
    edit : {"style_transfer", "inpainting"}
    targets : sequence of str
        Labels that may be a target.
    split : {"dev", "test"}
    seed : int
        Of the targets.
    """
    rng = np.random.default_rng(seed)
    for recording in load_registry("esc10").select(split=split):
        label = recording.info["label"]
        others = rng.permutation([t for t in targets if t != label]).tolist()
        if edit == "inpainting":
            wanted, most = [t for t in targets if t == label], 1
        else:
            wanted, most = others, TARGETS_PER_RECORDING
        mark = recording.path[-12:-4]
        pairs = (_pair(f"esc10:{recording.path}", edit, label, target, mark) for target in wanted)
        yield from islice((pair for pair in pairs if _is_eligible(model, pair, split)), most)


def _is_eligible(model: LatentAudioModel, pair: Pair, split: str) -> bool:
    if pair.edit != "inpainting" and not _may_be_judged(known_events(pair.audio)):
        return False  # before the time that an edit by hand takes
    try:
        case = make_case(model, pair, split)
    except NoTake:
        return False
    return case.is_eligible(model)


def _may_be_judged(events: np.ndarray) -> bool:
    return FEWEST_EVENTS <= len(events) <= MOST_EVENTS


def _pair(audio: str, edit: str, source: str, target: str, mark: str | int) -> Pair:
    identifier = f"{edit}_{source}_{target}_{str(mark).strip('/-')}"
    prompt, gap = VOCABULARY[target].plain, None
    if edit == "addition":
        prompt = f"{VOCABULARY[source].plain} with {prompt} in the background"
    elif edit == "inpainting":
        rng = np.random.default_rng(zlib.crc32(identifier.encode()))
        seconds = Pair(identifier, audio, "addition", prompt).source.clip.seconds
        latest = seconds - GAP_SECONDS - MARGIN_SECONDS
        start = round(rng.uniform(MARGIN_SECONDS, latest), 2)
        gap = Gap(start, start + GAP_SECONDS)
    return Pair(identifier, audio, edit, prompt[0].upper() + prompt[1:], gap, target)


def _decibels(waveform: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(np.square(waveform.astype(np.float64))) + 1e-12))
