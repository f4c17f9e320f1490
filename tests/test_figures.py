"""The figures of the report that need no edit, on answers that are known."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from helpers.audio import Clip
from helpers.models.pocket import load_pocket
from helpers.pairs import Pair
from helpers.sounds import foley
from helpers.sounds.vocabulary import LABELS, VOCABULARY
from tools.pocket import figures
from tools.pocket.captions import RELATIONS
from tools.pocket.workers import Bench

HERE = Path()


class Ear:
    """Hears the same in every clip; its labels stand in another order than the vocabulary's."""

    labels = list(reversed(LABELS))

    def __init__(self, *heard):
        self.row = torch.tensor([0.9 if label in heard else 0.1 for label in self.labels])

    def heard(self, clips):
        return self.row.expand(len(clips), -1)


def inside(bench):
    def for_each(measure, work, weights, description):
        for item in work:
            yield item, measure(bench, item)

    return for_each


def hear(table):
    """A stand-in for sampling: what is heard for each prompt, by seed."""

    def generate(prompts, weights, name):
        rows = [[table(prompt, seed) for prompt in prompts] for seed in range(2)]
        one_hot = torch.nn.functional.one_hot
        return one_hot(torch.tensor(rows), len(LABELS)).float()

    return generate


def test_a_prompt_is_right_if_its_own_sound_is_the_likeliest(monkeypatch):
    plain = {VOCABULARY[label].plain: i for i, label in enumerate(LABELS)}
    monkeypatch.setattr(figures, "_generate", hear(lambda prompt, seed: plain[prompt]))
    assert figures.generation(HERE) == {"generation, one sound": 1}
    monkeypatch.setattr(
        figures, "_generate", hear(lambda prompt, seed: plain[prompt] if seed else 0)
    )
    expected = (len(LABELS) + 1) / (2 * len(LABELS))
    assert figures.generation(HERE)["generation, one sound"] == pytest.approx(expected)


def test_other_words_are_those_of_both_held_out_lists(monkeypatch):
    asked = {}

    def generate(prompts, weights, name):
        asked[name] = list(prompts)
        return torch.ones(2, len(prompts), len(LABELS))

    monkeypatch.setattr(figures, "_generate", generate)
    shares = figures.other_words(HERE)
    assert len(asked["paraphrases"]) == 5 * len(LABELS)
    assert len(asked["second list"]) == 4 * len(LABELS)
    assert shares == {
        "paraphrases": pytest.approx(1 / len(LABELS)),  # argmax of equals is the first label
        "second held-out list": pytest.approx(1 / len(LABELS)),
    }


def test_every_sound_comes_first_in_every_relation():
    scenes = figures.held_out_scenes()
    assert {(labels[0], relation) for labels, relation in scenes} == {
        (label, relation) for label in LABELS for relation in RELATIONS
    }
    assert all(first != second for (first, second), _ in scenes)


def test_two_sounds_are_a_share_of_what_true_mixtures_reach(monkeypatch):
    scenes = [(("siren", "wind"), "mixture"), (("duck", "siren"), "mixture")]
    monkeypatch.setattr(figures, "held_out_scenes", lambda: scenes)
    model = load_pocket()
    monkeypatch.setattr(figures, "for_each", inside(Bench(model, Ear("siren", "wind"))))
    heard = torch.zeros(2, 2, len(LABELS))
    heard[:, :, [LABELS.index("siren"), LABELS.index("wind")]] = 0.9
    heard[1] = 0
    monkeypatch.setattr(figures, "_generate", lambda *_: heard)
    assert figures.two_sounds(HERE) == {
        "generation, two sounds": 0.25,
        "true mixtures of two sounds": 0.5,
        "generation, two sounds, of the ceiling": 0.5,
    }


def test_samples_are_heard_in_the_vocabularys_order_and_differ_by_seed(monkeypatch):
    monkeypatch.setattr(figures, "GENERATION", replace(figures.GENERATION, steps=2))
    bench = Bench(load_pocket(), Ear("duck"))
    monkeypatch.setattr(figures, "for_each", inside(bench))
    heard = figures._generate(["a duck", "a siren"], HERE, "two prompts")
    assert heard.shape == (2, 2, len(LABELS))
    assert (heard.argmax(-1) == LABELS.index("duck")).all()
    clips = []
    bench.listener.heard = lambda made: clips.extend(made) or torch.zeros(len(made), len(LABELS))
    figures._generate(["a duck"], HERE, "one prompt")
    assert (clips[0].waveform != clips[1].waveform).any()


def test_a_judge_is_right_if_it_puts_the_hand_made_edit_first(monkeypatch):
    pairs = [
        Pair("a", "foley:duck/9700001", "addition", "A duck with wind", None, "wind"),
        Pair("b", "foley:duck/9700002", "style_transfer", "A siren", None, "siren"),
        Pair("c", "foley:wind/9700002", "inpainting", "Wind", None, "wind"),
    ]
    monkeypatch.setattr(figures, "LABELS", foley.LABELS)  # no recordings: those need a network
    triples = []

    class Judge:
        def embed_audio(self, log_mels):
            triples.append(log_mels)
            best = 0 if len(triples) == 1 else 2
            return torch.eye(3)[:, [best]]

        def embed_text(self, sentences):
            return torch.ones(1, 1)

    monkeypatch.setattr(figures, "load_clap_network", lambda weights: Judge())
    monkeypatch.setattr(figures, "for_each", inside(Bench(load_pocket(), Ear())))
    assert figures.ranked(pairs, HERE, "dev") == {
        "Text CLAP ranks right, addition": 1,
        "Text CLAP ranks right, style transfer": 0,
    }
    assert all(len(triple) == 3 for triple in triples)
    assert not torch.equal(triples[0][0], triples[0][2])
    assert isinstance(figures._triple(Bench(load_pocket(), Ear()), (pairs[0], "dev"))[0], Clip)
