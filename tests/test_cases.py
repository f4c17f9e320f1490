"""Pairs that can be judged: drawn by seed, with events and a hand-made edit, from foley alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.audio import Clip
from helpers.evaluation.layout import raw_layout
from helpers.evaluation.oracles import CONTINUOUS
from helpers.models.pocket import load_pocket
from helpers.sounds.vocabulary import LABELS
from tools.pocket import cases


@pytest.fixture(scope="module")
def model():
    return load_pocket()


@pytest.fixture
def eligible(monkeypatch):
    monkeypatch.setattr(cases, "_is_eligible", lambda *_: True)


class Ear:
    """Hears what it is told to hear, clip by clip."""

    labels = list(LABELS)

    def __init__(self, *heard):
        self.answers, self.clips = heard, []

    def heard(self, clips):
        self.clips += clips
        table = torch.zeros(len(clips), len(LABELS))
        for row, answer in zip(table, self.answers, strict=True):
            for label, probability in answer.items():
                row[LABELS.index(label)] = probability
        return table


def first(model, edit, target, seed=9_700_000):
    [(pair, _)] = cases.draw_foley(model, edit, 1, seed, [target], "dev")
    return cases.make_case(model, pair, "dev")


def test_drawn_pairs_can_be_judged_and_are_the_same_every_time(model):
    targets = ["duck", "wind", "gunshot"]
    drawn = list(cases.draw_foley(model, "style_transfer", 3, 9_700_000, targets, "dev"))
    again = list(cases.draw_foley(model, "style_transfer", 2, 9_700_000, targets, "dev"))
    assert [pair.id for pair, _ in drawn[:2]] == [pair.id for pair, _ in again]
    assert len({pair.id for pair, _ in drawn}) == 3
    for pair, _ in drawn:
        case = cases.make_case(model, pair, "dev")
        assert case.label not in CONTINUOUS
        assert case.label != pair.target in targets
        assert 3 <= len(case.events) <= 20
        assert raw_layout(cases.round_trip(model, case.clip), case.events) >= 0.5
        assert raw_layout(case.heard_oracle, case.events) >= 0.5
        assert len(case.oracle.waveform) == len(case.clip.waveform)
    counts = [count for _, count in drawn]
    assert counts == sorted(counts)
    assert counts[-1] >= 3


def test_classes_take_turns(model, eligible):
    drawn = cases.draw_foley(model, "style_transfer", 11, 9_700_100, ["duck"], "dev")
    sources = [pair.audio.split(":")[1].split("/")[0] for pair, _ in drawn]
    assert len(set(sources)) == 11  # all twelve but the duck itself


def test_a_source_of_two_events_is_not_eligible(model):
    case = first(model, "style_transfer", "wind")
    assert case.is_eligible(model)
    assert not replace(case, events=case.events[:2]).is_eligible(model)
    silent = Clip(np.zeros_like(case.oracle.waveform))
    assert not replace(case, heard_oracle=silent).is_eligible(model)


def test_a_style_transfer_is_judged_by_what_is_heard_and_where(model):
    case = first(model, "style_transfer", "duck")
    rest = Clip(np.roll(case.oracle.waveform, 8_000))  # half a second late
    ear = Ear({"duck": 0.9, case.label: 0.2}, {"duck": 0.9, case.label: 0.2}, {case.label: 0.9})
    made, late, source = case.judge(ear, [case.oracle, rest, case.clip])
    assert made["layout"] == 1
    assert made["joint"] == pytest.approx(0.9 * 0.8)
    assert made["success"] == 1
    assert late["layout"] < 0.5
    assert late["success"] == 0
    assert source["layout"] > 0.9
    assert source["success"] == 0


def test_an_addition_is_judged_by_both_sounds_and_the_events_kept(model):
    case = first(model, "addition", "wind")
    assert case.pair.prompt.lower().endswith("in the background")
    both = {"wind": 0.8, case.label: 0.7}
    drowned = case.clip.waveform + np.random.default_rng(0).standard_normal(160_000) * 10
    clips = [case.heard_oracle, case.clip, Clip(drowned.astype(np.float32))]
    made, untouched, noise = case.judge(Ear(both, {case.label: 0.9}, both), clips)
    assert made["kept"] == untouched["kept"] == 1
    assert made["joint"] == pytest.approx(0.56)
    assert (made["success"], untouched["success"]) == (1, 0)
    assert noise["kept"] < 0.5
    assert noise["success"] == 0
    silent = Clip(np.zeros_like(case.oracle.waveform))
    assert not replace(case, heard_oracle=silent).is_eligible(model)


def test_a_gap_is_judged_alone_and_against_what_it_held(model):
    case = first(model, "inpainting", "wind")
    part = case.gap.samples(case.clip)
    assert case.pair.target == case.label == "wind"
    assert not case.clip.waveform[part].any()
    whole = case.pair.source.whole
    loud, quiet = (Clip(whole.waveform * np.float32(gain)) for gain in (1.9, 0.4))
    heard = {"wind": 0.9}
    ear = Ear(heard, heard, heard, {"wind": 0.1})
    same, louder, quieter, unheard = case.judge(ear, [whole, loud, quiet, whole])
    assert [len(clip.waveform) for clip in ear.clips] == [part.stop - part.start] * 4
    assert same["level"] == pytest.approx(0)
    assert louder["level"] == pytest.approx(20 * np.log10(1.9), abs=1e-4)
    assert [row["success"] for row in (same, louder, quieter, unheard)] == [1, 1, 0, 0]
    assert case.judge(Ear(heard), [case.oracle])[0]["success"] == 1


def test_a_gap_that_held_next_to_nothing_is_not_eligible(model):
    case = first(model, "inpainting", "wind")
    assert case.is_eligible(model)
    whole = case.pair.source.whole.waveform.copy()
    whole[case.gap.samples(case.clip)] *= np.float32(0.01)
    case.pair.__dict__["source"] = replace(case.pair.source, whole=Clip(whole))
    assert not case.is_eligible(model)
