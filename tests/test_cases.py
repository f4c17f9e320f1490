"""Pairs that can be judged: drawn by seed, with events and a hand-made edit, from foley alone."""

import numpy as np
import pytest

from helpers.evaluation.layout import raw_layout
from helpers.evaluation.oracles import CONTINUOUS
from helpers.models.pocket import load_pocket
from tools.pocket import cases


@pytest.fixture(scope="module")
def model():
    return load_pocket()


def test_drawn_pairs_can_be_judged_and_are_the_same_every_time(model):
    targets = ["duck", "wind", "gunshot"]
    drawn = list(cases.draw_foley(model, 3, 9_700_000, targets, "dev"))
    again = list(cases.draw_foley(model, 2, 9_700_000, targets, "dev"))
    assert [pair.id for pair, _ in drawn[:2]] == [pair.id for pair, _ in again]
    assert len({pair.id for pair, _ in drawn}) == 3
    for pair, _ in drawn:
        case = cases.style_case(pair, "dev")
        assert case.label not in CONTINUOUS
        assert case.label != pair.target in targets
        assert 3 <= len(case.events) <= 20
        assert raw_layout(cases.round_trip(model, case.clip), case.events) >= 0.5
        assert raw_layout(case.oracle, case.events) >= 0.4
        assert len(case.oracle.waveform) == len(case.clip.waveform)
    counts = [count for _, count in drawn]
    assert counts == sorted(counts)
    assert counts[-1] >= 3


def test_classes_take_turns(model, monkeypatch):
    monkeypatch.setattr(cases.StyleCase, "is_eligible", lambda self, model: True)
    pairs = [pair for pair, _ in cases.draw_foley(model, 11, 9_700_100, ["duck"], "dev")]
    sources = [pair.audio.split(":")[1].split("/")[0] for pair in pairs]
    assert len(set(sources)) == 11  # all twelve but the duck itself


def test_a_source_of_two_events_is_not_eligible(model):
    [(pair, _)] = cases.draw_foley(model, 1, 9_700_000, ["wind"], "dev")
    case = cases.style_case(pair, "dev")
    few = cases.StyleCase(pair, case.events[:2], case.oracle)
    assert case.is_eligible(model)
    assert not few.is_eligible(model)
    silent = cases.StyleCase(pair, case.events, cases.Clip(np.zeros_like(case.oracle.waveform)))
    assert not silent.is_eligible(model)
