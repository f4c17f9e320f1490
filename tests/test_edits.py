"""Edits of a pair set beside what they compete with."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from helpers.audio import SAMPLE_RATE, Clip
from helpers.editing import presets
from helpers.editing.inpainting import Gap
from helpers.evaluation.layout import raw_layout
from helpers.models.pocket import load_pocket
from helpers.pairs import Pair
from helpers.sounds.vocabulary import LABELS
from tools.pocket import edits
from tools.pocket.workers import Bench

PAIR = Pair("p", "foley:door_knock/9700003", "style_transfer", "A duck", None, "duck")


class Ear:
    labels = list(LABELS)
    network, offsets = torch.nn.Linear(1, 1), torch.zeros(26)

    def heard(self, clips):
        return torch.full((len(clips), len(LABELS)), 0.75)


@pytest.fixture
def bench(monkeypatch):
    quick = presets.preset("pocket")
    quick = dataclasses.replace(
        quick,
        embedding=dataclasses.replace(quick.embedding, steps=2),
        finetuning=dataclasses.replace(quick.finetuning, steps=2),
        sampling=dataclasses.replace(quick.sampling, steps=2),
    )
    monkeypatch.setitem(presets.PRESETS, "pocket", quick)
    return Bench(load_pocket().with_terminal_snr("zero"), Ear())


def test_gated_generation_has_the_sources_envelope_and_its_own_sound():
    time = np.arange(4 * SAMPLE_RATE) / SAMPLE_RATE
    events = np.array([[0.5, 0.9], [2.0, 2.5], [3.2, 3.5]])
    inside = ((events[:, :1] <= time) & (time < events[:, 1:])).any(axis=0)
    source = Clip((0.3 * inside * np.sin(2 * np.pi * 300 * time)).astype(np.float32))
    steady = Clip((0.5 * np.sin(2 * np.pi * 3000 * time)).astype(np.float32))
    made = edits.gated(steady, source)
    assert abs(raw_layout(steady, events)) < 0.1
    assert raw_layout(made, events) > 0.9
    assert np.abs(made.waveform).max() == pytest.approx(0.3, abs=1e-3)
    spectrum = np.abs(np.fft.rfft(made.waveform))
    assert spectrum.argmax() / 4 == pytest.approx(3000, abs=10)


def test_every_eta_and_reference_is_judged(bench):
    rows = edits.measure(bench, (PAIR, "pocket", "dev")).set_index("clip")
    names = ["source", "oracle", "generation", "gated generation"]
    assert rows.index.tolist() == [*map(str, edits.ETAS), *names]
    assert rows.loc["source", "error"] == pytest.approx(1)
    assert rows.loc["source", "layout"] > 0.8
    assert rows.loc["gated generation", "layout"] > rows.loc["generation", "layout"]
    assert (rows["error"] > 0).all()
    means = edits.summary(rows.reset_index())
    assert means.loc[("style_transfer", "oracle"), "pairs"] == 1


def test_a_gap_is_judged_beside_the_recording_as_it_was(bench):
    gap = Pair("g", "foley:wind/9700003", "inpainting", "Wind", Gap(3.0, 5.0), "wind")
    rows = edits.measure(bench, (gap, "pocket", "dev")).set_index("clip")
    assert rows.loc["whole", "success"] == 1
    assert rows.loc["source", "success"] == 0
    assert abs(rows.loc["whole", "level"]) < 3


def test_a_stopped_run_goes_on_and_other_edits_are_refused(bench, tmp_path, monkeypatch):
    asked = []

    def here(measure, work, weights, description):
        for item in work:
            asked.append(item[0].id)
            yield item, pd.DataFrame([{"pair": item[0].id, "clip": "1.0", "success": 1.0}])

    monkeypatch.setattr(edits, "for_each", here)
    monkeypatch.setattr(edits, "load_bench", lambda weights: bench)
    pairs = [SimpleNamespace(id=name) for name in "abc"]
    monkeypatch.setattr(edits, "load_pairs", lambda name: pairs)
    path = tmp_path / "folder" / "edits.csv"
    rows = edits.run("any", "pocket", "dev", tmp_path, path)
    edits.write_table(path, rows[:1].to_csv(index=False))
    again = edits.run("any", "pocket", "dev", tmp_path, path)
    assert asked == ["a", "b", "c", "b", "c"]
    assert again["pair"].tolist() == ["a", "b", "c"]
    with pytest.raises(ValueError, match="holds other edits.*split test instead of dev|split"):
        edits.run("any", "pocket", "test", tmp_path, path)
