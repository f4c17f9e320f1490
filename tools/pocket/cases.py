"""What the embedded model is tuned and measured on: pairs with known events and a hand-made edit.

Pairs are drawn by seed, over ordered pairs of classes in turn, and a draw is kept if it can be
judged at all: the source has 3 … 20 events, and both the source and the edit made by hand, after
the autoencoder's round trip, have a raw layout of 0.5.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle

import numpy as np

from helpers.audio import Clip
from helpers.data import load_registry
from helpers.evaluation.layout import FEWEST_EVENTS, LEAST_RAW, MOST_EVENTS, raw_layout
from helpers.evaluation.oracles import CONTINUOUS, recorded_events, replace_events, take
from helpers.models.latent_audio_model import LatentAudioModel
from helpers.pairs import FOLEY_SECONDS, Pair
from helpers.sounds import foley
from helpers.sounds.vocabulary import LABELS, VOCABULARY

TARGETS_PER_RECORDING = 3
TRIES = 4  # seeds of one pair of classes before the next pair's turn


@dataclass(frozen=True, eq=False)
class StyleCase:
    """A style transfer that can be judged.

    Attributes
    ----------
    pair : Pair
    events : np.ndarray
        The source's onset and offset times in seconds, shape (events, 2).
    oracle : Clip
        The edit made by hand.
    """

    pair: Pair
    events: np.ndarray
    oracle: Clip

    @property
    def clip(self) -> Clip:
        """The recording."""
        return self.pair.source.clip

    @property
    def label(self) -> str:
        """What the recording is of."""
        return self.pair.source.label

    def is_eligible(self, model: LatentAudioModel) -> bool:
        """Whether the layout can be judged after the autoencoder's round trip."""
        if not FEWEST_EVENTS <= len(self.events) <= MOST_EVENTS:
            return False
        trips = (round_trip(model, clip) for clip in (self.clip, self.oracle))
        return all(raw_layout(trip, self.events) >= LEAST_RAW for trip in trips)


def style_case(pair: Pair, split: str) -> StyleCase:
    """Find a pair's events and make its edit by hand, from takes of a part of the split."""
    clip = pair.source.clip
    events = known_events(pair.audio)
    rng = np.random.default_rng(zlib.crc32(pair.id.encode()))
    waveform, hits = take(pair.target, rng, split, pair.audio.partition(":")[2])
    return StyleCase(pair, events, replace_events(clip, events, pair.target, waveform, hits))


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
    model: LatentAudioModel, count: int, first_seed: int, targets: Sequence[str], split: str
) -> Iterator[tuple[Pair, int]]:
    """Draw style pairs of foley, over ordered pairs of classes in turn.

    Parameters
    ----------
    model : LatentAudioModel
        Whose round trip decides.
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
    sources = [label for label in foley.LABELS if label not in CONTINUOUS]
    kinds = [(a, b) for a in sources for b in targets if a != b]
    np.random.default_rng(first_seed).shuffle(kinds)
    seed, kept = first_seed, 0
    for source, target in cycle(kinds):
        for _ in range(TRIES):
            pair = _pair(f"foley:{source}/{seed}", source, target, seed)
            seed += 1
            if style_case(pair, split).is_eligible(model):
                yield pair, seed - first_seed
                kept += 1
                break
        if kept == count:
            return


def draw_recorded(
    model: LatentAudioModel, targets: Sequence[str], split: str, seed: int
) -> Iterator[Pair]:
    """Every recording of a part of the split with known events, with up to three targets each."""
    registry = load_registry("esc10")
    rng = np.random.default_rng(seed)
    for recording in registry.select(split=split):
        label = recording.info["label"]
        if recording.path not in recorded_events():
            continue
        kept = 0
        for target in rng.permutation([t for t in targets if t != label]).tolist():
            pair = _pair(f"esc10:{recording.path}", label, target, recording.path[-12:-4])
            if style_case(pair, split).is_eligible(model):
                yield pair
                kept += 1
            if kept == TARGETS_PER_RECORDING:
                break


def _pair(audio: str, source: str, target: str, mark: object) -> Pair:
    identifier = f"style_{source}_{target}_{str(mark).strip('/-')}"
    prompt = VOCABULARY[target].plain
    return Pair(identifier, audio, "style_transfer", prompt[0].upper() + prompt[1:], None, target)


def all_targets(left_out: Sequence[str] = ()) -> list[str]:
    """Labels that may be a target."""
    return [label for label in LABELS if label not in left_out]
