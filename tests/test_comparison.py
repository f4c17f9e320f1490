"""The run behind Table 1: scores, resuming, what the tables say, and the command."""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from test_selection import row, table
from tiny import tiny_clip

from helpers.audio import SAMPLE_RATE, Clip, save_clip
from helpers.comparison import scores as scoring
from helpers.comparison.experiment import RECORDS, Experiment
from helpers.comparison.figures import figure_2, figure_4
from helpers.comparison.scores import (
    KEY,
    ScoresError,
    clap_scores,
    measure,
    read_scores,
    write_scores,
)
from helpers.comparison.tables import NOTHING, Results, paper_scores, paper_table
from helpers.display.figures import Strengths, strength_curves, strength_grid
from helpers.methods import methods_for
from helpers.methods.method import Method
from helpers.pairs import EDITS, load_pairs
from helpers.sounds.vocabulary import LABELS
from helpers.storage import StorageError, read_records
from tools import table1 as command
from tools.table1 import SEAL, WRITTEN, markdown, page, quick

SECONDS = 1.0


class FakeClap:
    """Puts a clip where its loudness points: (rms, 0.1); every sentence is (1, 0)."""

    name = "fake"
    weights = "0" * 64

    def embed_audio(self, clips):
        levels = [float(np.sqrt((clip.waveform.astype(float) ** 2).mean())) for clip in clips]
        return torch.tensor([[level, 0.1] for level in levels])

    def embed_text(self, prompts):
        return torch.tensor([[1.0, 0.0]] * len(prompts))


@dataclass(frozen=True, kw_only=True)
class Louder(Method):
    """An edit that multiplies by 1 + setting; it counts its calls and can break down."""

    name: str = "Ours"
    role: str = "subject"
    gain: float = 1.0
    settings: tuple[float, ...] = (0.25, 0.5, 1.0)
    fixed_setting: float = 0.5
    edits: frozenset = frozenset(EDITS)
    calls: list = field(default_factory=list, repr=False, compare=False)
    fails_on: list = field(default_factory=list, repr=False, compare=False)
    knob: ClassVar[str] = "gain"

    def sweep(self, model, clip, prompt, settings, gap, source_prompt, folder, progress):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "checkpoint.pt").write_text("unfinished")
        if clip.name in self.fails_on:
            raise KeyboardInterrupt
        self.calls.append((clip.name, tuple(settings)))
        return [Clip(clip.waveform * (1 + s) * self.gain, clip.name) for s in settings]

    def latents(self, task, settings):
        raise NotImplementedError


def sdedit(**more):
    return Louder(name="SDEdit", role="baseline", gain=0.5, **more)


@pytest.fixture
def sounds(monkeypatch):
    """A classifier that hears rain in everything, and nothing of what takes long to measure."""
    monkeypatch.setattr(scoring, "detect_events", lambda clip: np.array([[1.0, 2.0]]))
    monkeypatch.setattr(scoring, "envelope_correlation", lambda *compared: None)
    monkeypatch.setattr(scoring, "log_spectral_distance", lambda *compared: 1.0)
    hear_rain(monkeypatch)


@pytest.fixture
def rain(monkeypatch):
    """Only the classifier of `sounds`."""
    hear_rain(monkeypatch)


def hear_rain(monkeypatch):
    probabilities = torch.full((len(LABELS),), 0.125)
    probabilities[LABELS.index("rain")] = 0.75
    monkeypatch.setattr(scoring, "sound_probabilities", lambda clips: [probabilities] * len(clips))


@pytest.fixture
def table_of_pairs(tmp_path):
    for name, frequency in (("add", 440), ("fill", 880), ("turn", 1200)):
        save_clip(tiny_clip(SECONDS, frequency), tmp_path / f"{name}.wav")
    path = tmp_path / "mine.csv"
    path.write_text(
        "id,audio,edit,prompt,start,end,target\n"
        "add,add.wav,addition,Knocking and rain,,,rain\n"
        "fill,fill.wav,inpainting,A piano playing,0.4,0.6,piano\n"
        "turn,turn.wav,style_transfer,A dog barking,,,\n"
    )
    return path


@pytest.fixture
def pairs(table_of_pairs):
    return load_pairs(table_of_pairs)


@pytest.fixture
def foley_pairs(tmp_path):
    path = tmp_path / "foley.csv"
    path.write_text(
        "id,audio,edit,prompt,start,end,target\n"
        "add,foley:door_knock/1,addition,Knocking and rain,,,rain\n"
        "fill,foley:piano/2,inpainting,A piano playing,4,6,piano\n"
        "turn,foley:duck/3,style_transfer,A dog barking,,,\n"
    )
    return load_pairs(path)


@pytest.fixture
def methods():
    return {
        "ours": Louder(),
        "sdedit": sdedit(),
        "turner": Louder(
            name="Turner",
            role="baseline",
            edits=frozenset({"style_transfer"}),
            settings=(0.5,),
        ),
    }


@pytest.fixture
def experiment(model, pairs, methods, sounds, tmp_path):
    return Experiment(model, FakeClap(), pairs, methods, tmp_path / "out")


def files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def calls(methods):
    return {name: list(method.calls) for name, method in methods.items() if method.calls}


# Scores


def test_clap_scores_by_hand():
    class Vectors:
        def embed_audio(self, clips):
            return torch.tensor([[3.0, 4.0], [0.0, 2.0], [4.0, 3.0]])  # source, two edits

        def embed_text(self, prompts):
            assert prompts == ["rain"]
            return torch.tensor([[1.0, 0.0]])

    silence = Clip(np.zeros(16, np.float32))
    found = clap_scores(Vectors(), [silence, silence], "rain", silence)
    # Eq. 3: cosines with (1, 0); Eq. 4: cosines with (3, 4).
    assert found[0] == pytest.approx((0.0, 0.8))
    assert found[1] == pytest.approx((0.8, 0.96))


@pytest.mark.usefixtures("rain")
def test_an_edit_that_changes_nothing_loses_nothing(foley_pairs):
    add, _, turn = foley_pairs
    same = measure(FakeClap(), add, [add.source.clip]).iloc[0]
    assert same["audio_clap"] == pytest.approx(1.0)
    assert same["sum"] == pytest.approx(same["text_clap"] + 1)
    assert same["onset_f1"] == same["offset_f1"] == 1.0
    assert same["event_f1"] > 0.9
    assert same["envelope_correlation"] == pytest.approx(1.0)
    assert same["log_spectral_distance"] == pytest.approx(0.0, abs=1e-4)
    assert (same["label"], same["target_probability"]) == ("rain", 0.75)
    assert same["source_probability"] == 0.125
    turned = measure(FakeClap(), turn, [turn.source.clip]).iloc[0]
    assert np.isnan(turned["target_probability"])


@pytest.mark.usefixtures("rain")
def test_what_fills_the_gap_counts_as_neither_lost_nor_gained_structure(foley_pairs):
    _, fill, _ = foley_pairs
    clip = fill.source.clip
    clicks = clip.waveform.copy()
    clicks[fill.source.gap.samples(clip)][3000::8000] = 0.5
    edits = [Clip(clicks, "filled"), Clip(clicks[::-1].copy(), "spoilt")]
    filled, spoilt = measure(FakeClap(), fill, edits).to_dict("records")
    assert filled["onset_f1"] == 1.0
    assert filled["log_spectral_distance"] == pytest.approx(0.0, abs=0.5)
    assert spoilt["onset_f1"] < 0.9
    assert spoilt["log_spectral_distance"] > 3


# Running


def test_a_run_leaves_a_row_and_a_recording_for_every_edit(experiment):
    assert experiment.run(progress=False) == 2 * 3 + 1
    scores = experiment.scores()
    assert len(scores) == 2 * 3 * 3 + 1
    assert set(scores.loc[scores["method"] == "turner", "pair"]) == {"turn"}
    for audio in scores["audio"]:
        waveform, rate = soundfile.read(experiment.folder / audio)
        assert rate == SAMPLE_RATE
        assert len(waveform) == SECONDS * SAMPLE_RATE
    assert not (experiment.folder / "unfinished").exists()


def test_the_table_of_scores_by_hand(experiment, pairs):
    experiment.run(progress=False)
    rows = pd.read_csv(experiment.table).set_index(KEY)
    r = rows.loc["add", "sdedit", 1.0]
    clip = pairs[0].source.clip
    level = np.sqrt((clip.waveform.astype(float) ** 2).mean())
    edited = np.array([level * (1 + 1.0) * 0.5, 0.1])
    text = edited[0] / np.linalg.norm(edited)
    audio = edited @ [level, 0.1] / np.linalg.norm(edited) / np.linalg.norm([level, 0.1])
    assert r["text_clap"] == pytest.approx(text, abs=1e-5)
    assert r["audio_clap"] == pytest.approx(audio, abs=1e-5)
    assert r["sum"] == r["text_clap"] + r["audio_clap"]
    assert (r["edit"], r["clap"], r["model"]) == ("addition", "fake", "tiny")
    assert r["prompt"] == "Knocking and rain"
    assert r["audio"] == "audio/add/sdedit_1.flac"
    assert (r["label"], r["target_probability"]) == ("rain", 0.75)
    assert r["seconds"] > 0
    assert np.isnan(rows.loc["turn", "turner", 0.5]["target_probability"])


@pytest.mark.parametrize(("preset", "whole"), [("pocket", "Ours (LoRA)"), ("paper", "Ours")])
def test_the_table_says_whose_step_the_ablations_leave_out(preset, whole):
    results = Results(table(row("a", "ours", 0.6, 0.5, 0.7)), methods_for(preset))
    assert results.clap_table().note.endswith(f"The ablations leave one step out of {whole}.")


def test_scores_are_read_as_they_were_written(tmp_path):
    scores = table(
        row("NA", "ours", 0.1, 1 / 3, 0.7, prompt='"A", b\n', label="null"),
        row("b", "ours", 1, 0, 0, clap="0123456789012345", event_f1=0.25, prompt="=1+1"),
    )
    write_scores(tmp_path / "scores.csv", scores)
    assert ",'=1+1," in (tmp_path / "scores.csv").read_text()  # no spreadsheet computes it
    pd.testing.assert_frame_equal(read_scores(tmp_path / "scores.csv"), scores)
    assert read_scores(tmp_path / "none.csv").empty


def test_a_second_run_touches_nothing(experiment, methods):
    experiment.run(progress=False)
    before = files(experiment.folder)
    done = calls(methods)
    assert experiment.run(progress=False) == 0
    assert calls(methods) == done
    assert files(experiment.folder) == before


def test_another_run_in_the_same_folder_keeps_what_a_stopped_one_began(experiment):
    begun = experiment.folder / "unfinished" / "fill" / "ours" / "embedding.pt"
    begun.parent.mkdir(parents=True)
    begun.write_text("half of Step 1")
    only = {"sdedit": experiment.methods["sdedit"]}
    replace(experiment, methods=only).run(progress=False)
    assert begun.exists()


def test_a_killed_run_goes_on_with_what_is_missing(model, pairs, sounds, tmp_path):
    methods = {"ours": Louder(), "sdedit": sdedit(fails_on=["fill"])}
    experiment = Experiment(model, FakeClap(), pairs, methods, tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        experiment.run(progress=False)
    settings = (0.25, 0.5, 1.0)
    assert calls(methods) == {
        "ours": [("add", settings), ("fill", settings)],
        "sdedit": [("add", settings)],
    }
    kept = experiment.scores().set_index(KEY)
    assert len(kept) == 3 * 3
    # What a method had trained when it was stopped is still there, and only that.
    unfinished = [p.relative_to(experiment.folder) for p in experiment.folder.rglob("*.pt")]
    assert unfinished == [Path("unfinished/fill/sdedit/checkpoint.pt")]

    methods["sdedit"].fails_on.clear()
    for method in methods.values():
        method.calls.clear()
    assert experiment.run(progress=False) == 3
    assert calls(methods) == {
        "ours": [("turn", settings)],
        "sdedit": [("fill", settings), ("turn", settings)],
    }
    scores = experiment.scores().set_index(KEY)
    assert len(scores) == 3 * 2 * 3
    pd.testing.assert_frame_equal(scores.loc[kept.index], kept)


def test_an_interruption_while_the_table_is_written_leaves_the_old_one(
    experiment, methods, monkeypatch
):
    class Killed(BaseException):
        pass

    def die(*args):
        raise Killed

    monkeypatch.setattr("helpers.storage.os.replace", die)
    with pytest.raises(Killed):
        experiment.run(progress=False)
    monkeypatch.undo()
    assert not experiment.table.exists()


@pytest.mark.usefixtures("sounds")
def test_other_settings_are_added(model, pairs, methods, tmp_path):
    only = {"ours": methods["ours"]}
    first = Experiment(model, FakeClap(), pairs[:1], only, tmp_path, {"ours": (0.5,)})
    first.run(progress=False)
    every = Experiment(model, FakeClap(), pairs[:1], only, tmp_path)
    every.run(progress=False)
    assert methods["ours"].calls == [("add", (0.5,)), ("add", (0.25, 1.0))]
    assert first.scores()["setting"].tolist() == [0.5]
    assert every.scores()["setting"].tolist() == [0.25, 0.5, 1.0]


def test_scores_alone_count_as_done_and_audio_is_made_on_request(experiment, pairs, methods):
    experiment.run(progress=False)
    heard = experiment.edits(pairs[0], "ours")
    done = len(methods["ours"].calls)
    for path in (experiment.folder / "audio" / "add").glob("*.flac"):
        path.unlink()
    assert experiment.run(progress=False) == 0
    again = experiment.edits(pairs[0], "ours")
    assert len(methods["ours"].calls) == done + 1
    assert len(again) == 3
    assert all(
        np.array_equal(one.waveform, other.waveform)
        for one, other in zip(heard, again, strict=True)
    )
    assert not (experiment.folder / "unfinished").exists()


def test_a_new_baseline_costs_its_own_sweeps_alone(experiment, methods):
    experiment.run(progress=False)
    done = calls(methods)
    more = replace(experiment, methods=methods | {"new": sdedit()})
    assert more.run(progress=False) == 3
    assert calls(methods) == done


@pytest.mark.usefixtures("sounds")
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("model", "ours, but it was made with another UNet"),
        ("clap", "ours, but it was made with another CLAP"),
        ("clap's name", "ours, but it was made with CLAP fake instead of another"),
        ("classifier", "ours, but it was made with another classifier"),
        ("prompt", "add, but it was made with prompt Knocking and rain instead of Rain"),
        ("recording", "add, but it was made with another recording"),
        ("settings", "ours, but it was made with gain 1.0 instead of 2.0"),
        ("no record", "ours, but it was made with no UNet, no autoencoder"),
    ],
)
def test_results_of_another_making_are_not_mixed(
    change, told, experiment, pairs, methods, tmp_path, monkeypatch
):
    experiment.run(progress=False)
    before = files(experiment.folder)
    model, clap = experiment.model, FakeClap()
    if change == "model":
        next(model.denoiser.parameters()).data[0] += 1
    elif change == "clap":
        clap.weights = "1" * 64
    elif change == "clap's name":
        clap.name = "another"
    elif change == "classifier":
        monkeypatch.setattr("helpers.comparison.scores.classifier_weights", lambda: "another")
    elif change == "recording":
        save_clip(tiny_clip(SECONDS, 500), tmp_path / "add.wav")
        pairs = load_pairs(tmp_path / "mine.csv")
    elif change == "no record":
        (experiment.folder / RECORDS).unlink()
        before = files(experiment.folder)
    elif change == "prompt":
        path = tmp_path / "mine.csv"
        path.write_text(path.read_text().replace("Knocking and rain", "Rain"))
        pairs = load_pairs(path)
    else:
        methods["ours"] = Louder(gain=2.0)
    other = Experiment(model, clap, pairs, methods, experiment.folder)
    for refused in (other.load_sources, other.run):
        with pytest.raises(ScoresError, match="name another folder") as error:
            refused(progress=False)
        assert f"holds scores of {told}" in str(error.value)
        assert "\n" not in str(error.value)
    assert files(experiment.folder) == before


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"ours": {}}'])
def test_scores_of_unknown_making_are_not_gone_on_with(experiment, content):
    experiment.run(progress=False)
    (experiment.folder / RECORDS).write_bytes(content)
    with pytest.raises(StorageError, match=r"provenance.json does not say what"):
        experiment.missing()


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "shorter"])
def test_audio_that_is_damaged_is_made_again(experiment, pairs, damage):
    experiment.load_sources(progress=False)
    experiment.run(progress=False)
    paths = sorted((experiment.folder / "audio" / "add").glob("*.flac"))
    whole = {path: path.read_bytes() for path in paths}
    assert len(whole) == 7
    for path, content in whole.items():
        if damage == "shorter":
            save_clip(tiny_clip(SECONDS / 2), path)
        else:
            cut = content[: len(content) // 2]
            path.write_bytes({"cut": cut, "empty": b"", "text": b"no audio"}[damage])
    experiment.load_sources(progress=False)
    for method in ("ours", "sdedit"):
        assert len(experiment.edits(pairs[0], method)) == 3
    assert {path: path.read_bytes() for path in paths} == whole


def test_the_source_that_is_kept_is_the_pair_s_own(experiment, pairs, methods, model, tmp_path):
    experiment.load_sources(progress=False)
    kept = experiment.folder / "audio" / "add" / "source.flac"
    before, time = kept.read_bytes(), kept.stat().st_mtime_ns
    experiment.load_sources(progress=False)
    assert kept.stat().st_mtime_ns == time
    save_clip(tiny_clip(SECONDS, 555), tmp_path / "add.wav")
    changed = load_pairs(tmp_path / "mine.csv")
    Experiment(model, FakeClap(), changed, methods, experiment.folder).load_sources(progress=False)
    assert kept.read_bytes() != before


@pytest.mark.usefixtures("sounds")
def test_another_grid_of_settings_is_no_other_making(experiment, pairs, methods):
    experiment.run(progress=False)
    methods["ours"] = Louder(settings=(0.5, 2.0), fixed_setting=2.0)
    other = Experiment(experiment.model, FakeClap(), pairs, methods, experiment.folder)
    other.run(progress=False)
    assert {settings for _, settings in methods["ours"].calls} == {(2.0,)}


@pytest.mark.parametrize("checked", [True, False])
@pytest.mark.parametrize(
    "damage",
    [
        "other columns",
        "a missing score",
        "a row twice",
        "a word",
        "NaN",
        "cut",
        "a digit",
        "a folder",
    ],
)
def test_a_damaged_table_is_named(damage, checked, experiment):
    experiment.folder.mkdir()
    write_scores(experiment.table, table(row("a", "ours", 0.5, 0.25, 0.5)))
    if not checked:  # as another program leaves it
        experiment.table.with_name("scores.csv.sha256").unlink()
        if damage == "a digit":
            return
    text = experiment.table.read_text()
    changed = {
        "other columns": "pair,method\na,b\n",
        "a missing score": text.replace(",0.25,", ",,"),
        "a row twice": text + text.splitlines()[1] + "\n",
        "a word": text.replace(",0.25,", ",much,"),
        "NaN": text.replace(",0.25,", ",nan,"),
        "cut": text[:-30],
        "a digit": text.replace(",0.25,", ",0.75,"),
        "a folder": None,
    }
    if changed[damage] is None:
        experiment.table.unlink()
        experiment.table.mkdir()
    else:
        experiment.table.write_text(changed[damage])
    with pytest.raises(ScoresError, match=r"scores.csv cannot be read.*delete it"):
        experiment.run(progress=False)


def test_quick_is_three_pairs_three_methods_at_most_three_settings(pairs):
    offered = (0.2, 0.4, 0.6, 0.8, 1.0)
    names = ("ours", "ours-lora", "sdedit", "audioldm-inpainting", "source")
    methods = {name: Louder(settings=offered, fixed_setting=0.4) for name in names}
    few, chosen, settings = quick(load_pairs("pocket27"), methods)
    assert [pair.edit for pair in few] == ["addition", "inpainting", "style_transfer"]
    assert list(chosen) == ["ours-lora", "sdedit", "audioldm-inpainting"]
    assert set(settings.values()) == {(0.2, 0.4, 1.0)}
    at_the_end = {"ours": Louder(settings=offered, fixed_setting=1.0)}
    assert quick(pairs, at_the_end)[2] == {"ours": (0.2, 1.0)}
    assert quick(pairs, {"source": Louder(settings=(1.0,), fixed_setting=1.0)})[2] == {
        "source": (1.0,)
    }


# Tables


@pytest.fixture
def results():
    """Two pairs of each of two edit types; sums are known by heart."""
    rows = []
    for edit in ("addition", "style_transfer"):
        for number in (1, 2):
            pair = f"{edit}{number}"
            lift = 0.1 * number
            rows += [
                row(pair, "ours", 0.5, 0.3, 0.6 + lift, edit=edit, onset_f1=0.9),
                row(pair, "ours", 1.0, 0.5, 0.2, edit=edit, onset_f1=0.5),
                row(pair, "sdedit", 0.5, 0.2, 0.6, edit=edit, onset_f1=0.4),
                row(pair, "sdedit", 1.0, 0.4, 0.3, edit=edit, onset_f1=0.2),
                row(pair, "source", 1.0, 0.1, 1.0, edit=edit),
            ]
    grid = {"settings": (0.5, 1.0), "fixed_setting": 1.0}
    methods = {
        "ours": Louder(**grid),
        "sdedit": sdedit(**grid),
        "source": Louder(name="Source", role="reference", settings=(1.0,), fixed_setting=1.0),
    }
    return Results(table(*rows), methods, "mine")


def cells(shown, *start):
    [line] = [line for line in shown.cells.to_numpy().tolist() if line[: len(start)] == [*start]]
    return line[len(start) :]


def bold(shown):
    return {shown.cells.loc[cell] for cell in shown.bold}


def test_table_1_by_hand(results):
    shown = results.clap_table()
    assert list(shown.cells)[:5] == ["Method", "Setting", "Addition: Text", "Addition: Audio"] + [
        "Addition: Sum"
    ]
    # Ours: 0.3 + 0.7 and 0.3 + 0.8 at the largest sum; 0.5 + 0.2 at the fixed strength.
    assert cells(shown, "Ours", "largest sum (gain 0.5)")[:3] == [
        "0.300",
        "0.750",
        "1.050 (1.000 … 1.100)",
    ]
    assert cells(shown, "Ours", "gain 1")[:3] == ["0.500", "0.200", "0.700 (0.700 … 0.700)"]
    assert cells(shown, "SDEdit", "largest sum (gain 0.5)")[2] == "0.800 (0.800 … 0.800)"
    assert cells(shown, "Source", NOTHING)[2] == "1.100 (1.100 … 1.100)"
    assert len(shown.cells) == 5  # the source has no setting to fix


def test_the_highest_sum_is_bold_but_no_reference_condition(results):
    shown = results.clap_table()
    assert "1.050 (1.000 … 1.100)" in bold(shown)
    assert not any(cell.startswith("1.100") for cell in bold(shown))
    assert "**1.050 (1.000 … 1.100)**" in shown.markdown()


def test_paired_differences_by_hand(results):
    shown = results.difference_table(results.chosen, "sum", "largest sum")
    assert list(shown.cells) == [
        "Difference",
        "Addition",
        "Style transfer",
        "Addition and style transfer",
    ]
    # 1.0 − 0.8 and 1.1 − 0.8; the source's sum is higher and no baseline.
    assert cells(shown, "Ours − SDEdit")[0] == "+0.250 (+0.200 … +0.300)"
    assert cells(shown, "Ours − best baseline")[2] == "+0.250 (+0.200 … +0.300) SDEdit"
    assert cells(shown, "Ours − Source")[0] == "−0.050 (−0.100 … +0.000)"
    assert bold(shown) == set(cells(shown, "Ours − best baseline"))


def test_differences_are_numbers_before_they_are_cells(results):
    found = results.differences(results.chosen).set_index(["method", "other", "edit"])
    one = found.loc["ours", "sdedit", "Addition"]
    assert (one["mean"], one["low"], one["high"]) == pytest.approx((0.25, 0.2, 0.3))
    assert (one["n"], one["best"]) == (2, True)
    assert not found.loc["ours", "source", "Addition"]["best"]
    equal = results.at_equal_text().set_index(["method", "other", "edit"])
    assert equal.loc["ours", "sdedit", "Addition"]["mean"] == pytest.approx(0.55)


def test_a_method_stays_out_of_edits_it_is_not_for(results):
    filler = Louder(name="Filler", role="baseline", edits=frozenset({"inpainting"}))
    results = Results(results.scores, {**results.methods, "filler": filler})
    shown = results.difference_table(results.chosen, "sum", "largest sum")
    assert set(cells(shown, "Ours − Filler")) == {NOTHING}


def test_onsets_at_equal_text_by_hand(results):
    # Over Text CLAP 0.3 … 0.4: ours 0.9 → 0.7, SDEdit 0.3 → 0.2.
    shown = cells(results.equal_text_table(), "Ours − SDEdit")[0]
    assert shown == "+0.550 (+0.550 … +0.550) n = 2"


def test_the_trend_by_hand(results):
    text, audio, *_ = cells(results.trend_table(), "Ours")
    assert text == "+0.200 (+0.200 … +0.200)"
    assert audio == "−0.550 (−0.600 … −0.500)"


def test_pair_by_pair(results):
    assert cells(results.pair_table(), "addition1") == ["1.000 (0.5)", "0.800 (0.5)", "1.100 (1)"]
    assert "1.000 (0.5)" in bold(results.pair_table())


def test_the_papers_table_is_marked_as_the_papers():
    shown = paper_table()
    assert shown.title == "The paper's Table 1"
    for word in ("TANGO", "not measured here", "do not compare"):
        assert word in shown.note
    ours = cells(shown, "Ours (LoRA)")
    assert ours == [
        *("0.524", "0.883", "1.407"),
        *("0.645", "0.854", "1.499"),
        *("0.465", "0.696", "1.161"),
    ]
    assert cells(shown, "AUDIT")[-3:] == [NOTHING] * 3
    published = paper_scores()
    assert len(published) == 14
    error = published["text_clap"] + published["audio_clap"] - published["sum"]
    assert error.abs().max() < 1.1e-3


def test_the_report_says_what_it_was_made_with(results):
    text = markdown(results)
    assert "pairs mine: 2 addition, 2 style transfer." in text
    assert text.index("## Table 1: CLAP scores") < text.index("## The paper's Table 1")
    for heading in ("Paired differences", "Beside CLAP", "Onset F1 at equal", "Pair by pair"):
        assert f"## {heading}" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in lines)


def test_tables_of_nothing_are_left_out(results):
    methods = {name: results.methods[name] for name in ("sdedit", "source")}
    scores = results.scores[results.scores["method"].isin([*methods])]
    titles = [shown.title for shown in Results(scores, methods).tables()]
    assert not any(title.startswith("Paired differences") for title in titles)
    assert "From the weakest to the strongest edit" in titles


def test_the_page_escapes_what_users_wrote_and_plays_what_there_is(results, tmp_path):
    written = row("p", "ours", 0.5, 0.3, 0.6, prompt="<b>rain</b> & wind", audio="audio/p/o.flac")
    results = Results(table(written), results.methods, "<i>mine</i>")
    text = page(results, tmp_path)
    assert "“&lt;b&gt;rain&lt;/b&gt; &amp; wind”" in text
    assert "<i>" not in text
    assert "font-weight: bold" in text
    ids = re.findall(r'<table id="([^"]+)"', text)
    assert len(ids) == len(set(ids)) > 3
    assert 'src="audio/p/source.flac"' in text
    assert 'src="audio/p/o.flac"' not in text
    (tmp_path / "audio/p").mkdir(parents=True)
    (tmp_path / "audio/p/o.flac").touch()
    assert 'src="audio/p/o.flac"' in page(results, tmp_path)


def test_cells_are_printed_as_they_are(results):
    odd = Louder(name="a|b <c>")
    shown = Results(results.scores, results.methods | {"ours": odd}).clap_table()
    assert "a\\|b <c>" in shown.markdown()
    assert "a|b &lt;c&gt;" in shown.html()


def test_the_summary_is_tidy(results):
    keys = ["selection", "edit", "method", "measure"]
    ours = results.summary().set_index(keys).loc["largest sum", "Addition", "ours", "sum"]
    assert (ours["mean"], ours["low"], ours["high"]) == pytest.approx((1.05, 1.0, 1.1))
    assert ours["n"] == 2


# Figures


@pytest.fixture
def drawn():
    """Close what a test draws."""
    yield
    plt.close("all")


@pytest.mark.usefixtures("drawn")
def test_the_grid_shows_rising_strength_on_one_scale(clip):
    louder = [Clip(clip.waveform * gain, "edit") for gain in (0.5, 0.9)]
    methods = [Strengths("Ours", "η", [0.2, 1.0], louder), Strengths("SDEdit", "t", [3], [clip])]
    *axes, colour_bar = strength_grid(clip, methods).axes
    shown = [axis for axis in axes if axis.images]
    assert [axis.get_title(loc="left") for axis in shown] == ["pulses", "η 0.2", "η 1", "t 3"]
    assert [axis.get_ylabel().split("\n")[0] for axis in shown] == ["source", "Ours", "", "SDEdit"]
    assert {axis.get_xlim() for axis in shown} == {(0.0, 3.0)}
    assert {axis.images[0].get_clim() for axis in shown} == {(-70.0, 0.0)}
    assert max(axis.images[0].get_array().max() for axis in shown) == 0.0
    quiet, loud = (axis.images[0].get_array().max() for axis in shown[1:3])
    assert loud - quiet == pytest.approx(20 * np.log10(0.9 / 0.5), abs=0.01)
    assert "dB" in colour_bar.get_ylabel()


@pytest.mark.usefixtures("drawn")
def test_figure_2_shows_quiet_edits_as_bright_as_loud_ones(experiment):
    experiment.run(progress=False)
    *axes, _ = figure_2(experiment).axes
    shown = [axis for axis in axes if axis.images]
    assert len(shown) == 1 + 3 + 3 + 1  # the source, then each method's strengths
    # Every edit is the source times a gain between 0.625 and 2, which is 10 dB.
    brightest = [axis.images[0].get_array().max() for axis in shown]
    np.testing.assert_allclose(brightest, 0.0, atol=0.01)


@pytest.mark.usefixtures("drawn")
def test_the_curves_are_means_with_their_intervals(results):
    figure = figure_4(results)
    shown = {axis.get_title(loc="left"): axis for axis in figure.axes if axis.lines}
    assert list(shown) == ["Addition: Ours", "Style transfer: Ours"] + [
        "Addition: SDEdit",
        "Style transfer: SDEdit",
    ]
    text, audio = shown["Addition: Ours"].lines
    np.testing.assert_allclose(text.get_xydata(), [[0.5, 0.3], [1.0, 0.5]])
    np.testing.assert_allclose(audio.get_xydata(), [[0.5, 0.75], [1.0, 0.2]])
    band = shown["Addition: Ours"].collections[1].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == (pytest.approx(0.2), pytest.approx(0.8))
    assert shown["Addition: Ours"].get_xlabel() == "gain"
    [legend] = figure.legends
    assert [label.get_text() for label in legend.get_texts()] == ["Text CLAP", "Audio CLAP"]


def test_figures_of_nothing_are_refused(clip):
    with pytest.raises(ValueError, match="no edits to show"):
        strength_grid(clip, [])
    with pytest.raises(ValueError, match="Ours has 1 edits and 2 strengths"):
        strength_grid(clip, [Strengths("Ours", "η", [0.2, 1.0], [clip])])
    with pytest.raises(ValueError, match="no curves to show"):
        strength_curves({"Addition": []})


# The command


@pytest.fixture
def figures():
    """Asks for the real figures."""


@pytest.fixture
def run(request, monkeypatch, model, methods, sounds, table_of_pairs, tmp_path):
    """The command with fakes for what is slow to load."""
    monkeypatch.setattr(command, "methods_for", lambda preset: methods)
    monkeypatch.setattr(command, "load_model", lambda name, device: model)
    monkeypatch.setattr(command, "load_clap", lambda name: FakeClap())
    if "figures" not in request.fixturenames:  # they take long
        for name in ("figure_2", "figure_4"):
            monkeypatch.setattr(command, name, lambda *made_from: plt.figure(figsize=(1, 1)))

    def run(*options):
        defaults = ["--pairs", str(table_of_pairs), "--out", str(tmp_path / "out")]
        return command.main([*defaults, *options])

    return run


def test_the_command_writes_everything_and_then_has_nothing_to_do(
    run, figures, methods, tmp_path, capsys
):
    out = tmp_path / "out"
    assert run() == 0
    assert "7 sweeps were run, 19 edits are scored." in capsys.readouterr().out
    for name in (*WRITTEN, SEAL, "scores.csv"):
        assert (out / name).stat().st_size > 0
    assert read_records(out / SEAL)["report"].settings["ids"] == ["add", "fill", "turn"]
    assert (
        "pairs mine: 1 addition, 1 inpainting, 1 style transfer" in (out / "table1.md").read_text()
    )
    before, done = files(out), calls(methods)
    assert run() == 0
    assert "Nothing to do" in capsys.readouterr().out
    assert files(out) == before
    assert calls(methods) == done


def test_a_lost_report_is_written_again_from_the_scores(run, methods, tmp_path):
    run()
    done = calls(methods)
    written = tmp_path / "out" / "table1.md"
    text = written.read_text()
    written.unlink()
    assert run() == 0
    assert written.read_text() == text
    assert calls(methods) == done


def test_a_stopped_command_says_how_to_go_on(run, methods, tmp_path, capsys):
    methods["sdedit"].fails_on.append("turn")
    assert run() == 130
    assert "run the same command again" in capsys.readouterr().err
    assert not (tmp_path / "out" / "table1.md").exists()
    methods["sdedit"].fails_on.clear()
    assert run() == 0
    assert [name for name, _ in methods["ours"].calls] == ["add", "fill", "turn"]


def test_a_quick_run_and_a_whole_one_share_their_results(run, methods, tmp_path):
    assert run("--quick", "--methods", "ours", "sdedit") == 0
    assert "(quick)" in (tmp_path / "out" / "table1.md").read_text()
    done = len(methods["ours"].calls)
    assert run() == 0
    assert len(methods["ours"].calls) == done
    assert "(quick)" not in (tmp_path / "out" / "table1.md").read_text()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--pairs", "pocket28"], "There is no pair set 'pocket28'"),
        (["--methods", "ours", "magic"], "There is no method 'magic': choose from ours, sdedit"),
        (["--out", "{text}"], "a file lies where a folder is needed, so name another"),
        (["--pairs", "{text}"], "row 1: there is no column id"),
        (["--pairs", "{silent}"], "silent.csv, row 2, columns start and end: "),
        (["--pairs", "{silent}", "--methods", "turner"], "None of turner does an edit of"),
    ],
)
def test_bad_input_gets_one_sentence_and_no_work(options, words, run, methods, tmp_path, capsys):
    text, silent = tmp_path / "notes.csv", tmp_path / "silent.csv"
    text.write_text("not a table\n")
    silent.write_text("id,audio,edit,prompt\na,foley:duck/1,inpainting,Ducks\n")
    assert run(*(option.format(text=text, silent=silent) for option in options)) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert words in error
    assert calls(methods) == {}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model", "pockett"], "There is no model"),
        (["--preset", "fast"], "There are no methods for 'fast'"),
        (["--clap", "clapp"], "There is no CLAP 'clapp'"),
    ],
)
def test_unknown_names_get_one_sentence(options, words, tmp_path, capsys):
    arguments = ["--pairs", "pocket27-offline", "--out", str(tmp_path), *options]
    assert command.main(arguments) == 2
    assert words in capsys.readouterr().err
