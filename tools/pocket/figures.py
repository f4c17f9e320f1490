"""The figures of the pocket model's report that need no edit: what it generates and what is heard.

All prompts and sounds are held out: paraphrases that were never captions, foley of other seeds,
recordings of ESC-10's part "test".
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from helpers.audio import SAMPLE_RATE, Clip, load_clip
from helpers.data import data_path, load_registry
from helpers.editing.interpolation import SamplingSettings, sample
from helpers.evaluation.audio_tower import load_judge
from helpers.evaluation.judges import ClapNetwork
from helpers.models.minilm import load_minilm
from helpers.pairs import Pair
from helpers.sounds.vocabulary import LABELS, VOCABULARY
from tools.pocket.captions import RELATIONS, compose
from tools.pocket.cases import make_case, round_trip
from tools.pocket.corpus import RECORDED_LABELS, make_scene
from tools.pocket.dataset import HELD_OUT_SEED
from tools.pocket.workers import Bench, for_each

GENERATION = SamplingSettings(steps=50)
SEEDS = (7, 8)
BATCH = 13  # prompts that are sampled at once
TWO_SOUNDS = 78  # scenes: each sound three times in front
SCENE_SEED = HELD_OUT_SEED + 600_000

Request = tuple[tuple[str, ...], int]  # prompts and the seed of their noise


def generation(weights: Path) -> dict[str, float]:
    """Share of samples of each plain prompt that the classifier names right, two a prompt."""
    prompts = [(VOCABULARY[label].plain, label) for label in LABELS]
    return {"generation, one sound": _named_right(prompts, weights, "plain prompts")}


def other_words(weights: Path) -> dict[str, float]:
    """Share of samples that are named right for prompts in words that no caption used."""
    paraphrases = [(text, label) for label in LABELS for text in VOCABULARY[label].paraphrases]
    held_out = json.loads(data_path("sounds", "held_out.json").read_text(encoding="utf-8"))
    second = [(text, label) for label in LABELS for text in held_out[label]]
    return {
        "paraphrases": _named_right(paraphrases, weights, "paraphrases"),
        "second held-out list": _named_right(second, weights, "second list"),
    }


def _named_right(prompts: Sequence[tuple[str, str]], weights: Path, name: str) -> float:
    heard = _generate([text for text, _ in prompts], weights, name)
    names = heard.argmax(-1)
    right = names == torch.tensor([LABELS.index(label) for _, label in prompts])
    return float(right.float().mean())


def two_sounds(weights: Path) -> dict[str, float]:
    """How often both sounds of a scene are heard: in samples of its caption, and in the scene."""
    scenes = held_out_scenes()
    captions = [
        compose(labels, relation, np.random.default_rng(SCENE_SEED + number))
        for number, (labels, relation) in enumerate(scenes)
    ]
    heard = _generate(captions, weights, "two sounds")
    work = list(enumerate(scenes))
    mixed = [both for _, both in for_each(_both_in_scene, work, weights, "true mixtures")]
    both = [
        all(heard[seed, number, LABELS.index(label)] > 0.5 for label in labels)
        for seed in range(len(SEEDS))
        for number, (labels, _) in enumerate(scenes)
    ]
    made, ceiling = float(np.mean(both)), float(np.mean(mixed))
    return {
        "generation, two sounds": made,
        "true mixtures of two sounds": ceiling,
        "generation, two sounds, of the ceiling": made / ceiling,
    }


def held_out_scenes() -> list[tuple[tuple[str, str], str]]:
    """Draw two sounds and a relation for each scene; every sound comes first equally often."""
    rng = np.random.default_rng(SCENE_SEED)
    firsts = [LABELS[number % len(LABELS)] for number in range(TWO_SOUNDS)]
    return [
        ((first, str(rng.choice([x for x in LABELS if x != first]))), RELATIONS[number % 3])
        for number, first in enumerate(firsts)
    ]


def _both_in_scene(bench: Bench, work: tuple[int, tuple[tuple[str, str], str]]) -> bool:
    number, (labels, relation) = work
    rng = np.random.default_rng(SCENE_SEED + 1_000 + number)
    scene = make_scene(rng, labels, relation, "test")
    clip = Clip.from_waveform(scene.waveform, SAMPLE_RATE, name="scene")
    [heard] = _heard(bench, [round_trip(bench.model, clip)])
    return all(heard[LABELS.index(label)] > 0.5 for label in labels)


def _generate(prompts: Sequence[str], weights: Path, name: str) -> Tensor:
    """Hear a sample of every prompt: float32, shape (seeds, prompts, sounds)."""
    parts = [tuple(prompts[first : first + BATCH]) for first in range(0, len(prompts), BATCH)]
    requests = list(product(parts, SEEDS))
    heard = dict(for_each(_hear_samples, requests, weights, name))
    return torch.stack([torch.cat([heard[part, seed] for part in parts]) for seed in SEEDS])


def _hear_samples(bench: Bench, request: Request) -> Tensor:
    prompts, seed = request
    model = bench.model
    settings = replace(GENERATION, seed=seed)
    latents = sample(model, model.embed_text(list(prompts)), settings, progress=False)
    return _heard(bench, model.decode_batch(latents))


def _heard(bench: Bench, clips: Sequence[Clip]) -> Tensor:
    """Probabilities in the order of the vocabulary."""
    return bench.listener.heard(clips)[:, [bench.listener.labels.index(label) for label in LABELS]]


def zero_shot(weights: Path) -> dict[str, float]:
    """Share of ESC-10's test recordings whose class CLAP and the classifier name right."""
    registry = load_registry("esc10")
    recordings = registry.select(split="test")
    clips = [load_clip(registry.fetch(recording)) for recording in recordings]
    truth = torch.tensor([RECORDED_LABELS.index(r.info["label"]) for r in recordings])
    clap = load_clap_network(weights)
    prompts = [VOCABULARY[label].plain for label in RECORDED_LABELS]
    with torch.no_grad():
        audio = clap.embed_audio(torch.cat([clip.log_mel() for clip in clips]))
        named = (audio @ clap.embed_text(load_minilm()(prompts)).T).argmax(1)
    return {"CLAP zero-shot, ESC-10 test": float((named == truth).float().mean())}


def load_clap_network(weights: Path) -> ClapNetwork:
    """Load the CLAP that lies beside a model."""
    network = ClapNetwork()
    load_judge(network, weights / "clap")
    return network


def ranked(pairs: Sequence[Pair], weights: Path, split: str) -> dict[str, float]:
    """Share of pairs in which Text CLAP prefers the edit made by hand to source and control.

    The control is an edit made by hand with another sound.
    """
    clap = load_clap_network(weights)
    right: dict[str, list[bool]] = {}
    work = [(pair, split) for pair in pairs if pair.edit != "inpainting"]
    for (pair, _), clips in for_each(_triple, work, weights, "triples"):
        with torch.no_grad():
            audio = clap.embed_audio(torch.cat([clip.log_mel() for clip in clips]))
            scores = (audio @ clap.embed_text(load_minilm()([pair.prompt])).T)[:, 0]
        right.setdefault(pair.edit, []).append(bool(scores[0] > scores[1:].max()))
    return {
        f"Text CLAP ranks right, {edit.replace('_', ' ')}": float(np.mean(hits))
        for edit, hits in sorted(right.items())
    }


def _triple(bench: Bench, work: tuple[Pair, str]) -> list[Clip]:
    pair, split = work
    rng = np.random.default_rng(zlib.crc32(pair.id.encode()))
    others = [label for label in LABELS if label not in (pair.target, pair.source.label)]
    case = make_case(bench.model, pair, split)
    wrong = replace(pair, target=str(rng.choice(others)))
    control = make_case(bench.model, wrong, split)
    return [case.heard_oracle, round_trip(bench.model, case.clip), control.heard_oracle]
