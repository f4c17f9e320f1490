"""Pair sets: what the built-in ones hold, how recordings and gaps are found, what is refused."""

import hashlib

import numpy as np
import pytest
import soundfile

from helpers import data
from helpers import pairs as module
from helpers.audio import CLIP_SAMPLES, SAMPLE_RATE
from helpers.comparison.scores import outside_gap
from helpers.data import Recording, Registry, load_registry
from helpers.editing.inpainting import Gap
from helpers.pairs import EDITS, PairsError, find_gap, load_pairs
from helpers.sounds import foley
from helpers.sounds.vocabulary import LABELS, VOCABULARY
from tools.pocket.dataset import HELD_OUT_SEED

HEADER = "id,audio,edit,prompt,start,end,target"
FOLEY = "foley:door_knock/1"


@pytest.fixture
def noise(tmp_path):
    """Three seconds of noise beside the table."""
    waveform = np.random.default_rng(0).uniform(-0.5, 0.5, 3 * SAMPLE_RATE)
    soundfile.write(tmp_path / "noise.wav", waveform, SAMPLE_RATE)
    return waveform


def table(tmp_path, *rows, header=HEADER):
    path = tmp_path / "mine.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def one(tmp_path, row, header=HEADER):
    [pair] = load_pairs(table(tmp_path, row, header=header))
    return pair


def recorded(pairs):
    return [pair for pair in pairs if pair.audio.startswith("esc10:")]


def seeds(pairs):
    return [int(p.audio.rpartition("/")[2]) for p in pairs if p.audio.startswith("foley:")]


# The built-in sets


@pytest.mark.parametrize(
    ("name", "each"), [("pocket27", 9), ("pocket27-offline", 9), ("pocket-dev", 6)]
)
def test_each_edit_type_has_as_many_pairs_and_each_source_is_used_once(name, each):
    pairs = load_pairs(name)
    assert [sum(pair.edit == edit for pair in pairs) for edit in EDITS] == [each] * 3
    assert len({pair.audio for pair in pairs}) == len(pairs)
    assert all(pair.target in LABELS for pair in pairs)
    assert all((pair.given_gap is not None) == (pair.edit == "inpainting") for pair in pairs)


def test_half_of_pocket27_is_recorded_half_synthesised():
    pairs = load_pairs("pocket27")
    assert (len(recorded(pairs)), len(seeds(pairs))) == (14, 13)
    for edit in EDITS:
        assert 4 <= len(recorded(p for p in pairs if p.edit == edit)) <= 5


@pytest.mark.parametrize(("name", "fold"), [("pocket27", "5"), ("pocket-dev", "4")])
def test_recordings_are_of_one_fold(name, fold):
    registry = {r.path: r for r in load_registry("esc10").recordings}
    paths = [pair.audio.partition(":")[2] for pair in recorded(load_pairs(name))]
    assert {registry[path].info["fold"] for path in paths} == {fold}


def test_no_seed_was_trained_on_and_none_serves_tuning_and_reporting():
    reported = {*seeds(load_pairs("pocket27")), *seeds(load_pairs("pocket27-offline"))}
    tuned = {*seeds(load_pairs("pocket-dev"))}
    assert min(reported | tuned) >= HELD_OUT_SEED + 500_000
    assert not reported & tuned


def test_the_offline_set_holds_the_synthesised_pairs_and_nothing_else():
    offline = load_pairs("pocket27-offline")
    assert len(seeds(offline)) == len(offline)
    synthesised = [p.id for p in load_pairs("pocket27") if p.audio.startswith("foley:")]
    assert set(synthesised) <= {pair.id for pair in offline}


def test_a_pair_of_each_edit_type_comes_first_that_needs_no_download():
    pairs = load_pairs("pocket27")
    firsts = [next(pair for pair in pairs if pair.edit == edit) for edit in EDITS]
    assert all(pair.audio.startswith("foley:") for pair in firsts)


def test_additions_describe_the_whole_scene():
    for name in ("pocket27", "pocket27-offline", "pocket-dev"):
        for pair in load_pairs(name):
            if pair.edit == "addition":
                assert " with " in pair.prompt
                assert pair.prompt.endswith("in the background")


def test_paper21_is_the_authors_registry():
    pairs = {pair.audio: pair for pair in load_pairs("paper21")}
    recordings = load_registry("paper_pairs").recordings
    assert len(pairs) == len(recordings) == 21
    for recording in recordings:
        pair = pairs[f"paper_pairs:{recording.path}"]
        assert (pair.id, pair.edit, pair.prompt) == tuple(
            recording.info[column] for column in ("id", "edit", "prompt")
        )


# Sources


def test_a_synthesised_source_is_deterministic_and_knows_its_events(tmp_path):
    pair = one(tmp_path, f"knock,{FOLEY},style_transfer,Gunshots,,,gunshot")
    event = foley.synthesise("door_knock", np.random.default_rng(1), 10.0)
    np.testing.assert_allclose(pair.source.events, event.onsets)
    assert pair.source.clip.seconds == 10.0
    assert pair.source.clip.name == "knock"
    assert pair.source.label == "door_knock"
    assert pair.source.gap is None
    again = one(tmp_path, f"knock,{FOLEY},style_transfer,Gunshots,,,gunshot")
    np.testing.assert_array_equal(again.source.clip.waveform, pair.source.clip.waveform)
    assert pair.source.prompt == f"Sound of {VOCABULARY['door_knock'].plain}"


def test_the_gap_is_silent_and_its_events_do_not_count(tmp_path):
    pair = one(tmp_path, f"fill,{FOLEY},inpainting,Knocking,4,6.5,")
    source, event = pair.source, foley.synthesise("door_knock", np.random.default_rng(1), 10.0)
    assert source.gap == Gap(4.0, 6.5)
    inside = slice(4 * SAMPLE_RATE, round(6.5 * SAMPLE_RATE))
    assert not source.clip.waveform[inside].any()
    outside = (event.onsets < 3.9) | (event.onsets > 6.6)
    assert 0 < outside.sum() < len(event.onsets)
    np.testing.assert_allclose(outside_gap(source.events, source.gap), event.onsets[outside])


def test_a_file_of_ones_own_lies_relative_to_the_table(tmp_path, noise):
    pair = one(tmp_path, "own,noise.wav,addition,Noise with a siren,,,siren")
    assert pair.source.clip.seconds == 3.0
    assert (pair.source.events, pair.source.label, pair.source.prompt) == (None, None, "")


def test_a_short_header_and_a_byte_order_mark_do(tmp_path, noise):
    path = table(tmp_path, "\ufeffid,audio,edit,prompt", header="")
    path.write_text('\ufeffid,audio,edit,prompt\n\nown,noise.wav,addition,"Noise, and rain"\n')
    [pair] = load_pairs(path)
    assert (pair.prompt, pair.target, pair.given_gap) == ("Noise, and rain", None, None)
    assert pair.place == "mine.csv, row 3"


def test_the_longest_run_of_zeros_is_the_gap(tmp_path, noise):
    waveform = np.stack([noise, noise], 1)
    waveform[2000:2100, 0] = 0
    waveform[16_000:24_000, 0] = 0
    waveform[:, 1] = 0  # channel 0 decides
    soundfile.write(tmp_path / "noise.wav", waveform, SAMPLE_RATE)
    assert find_gap(tmp_path / "noise.wav") == Gap(1.0, 1.5)
    pair = one(tmp_path, "fill,noise.wav,inpainting,Noise,,,")
    assert pair.source.gap == Gap(1.0, 1.5)
    assert not pair.source.clip.waveform[16_000:24_000].any()


@pytest.fixture
def authors_files(tmp_path, monkeypatch):
    """Two files like the authors': stereo at 44.1 kHz with a gap, and 2 ms longer than a clip."""
    rng = np.random.default_rng(0)
    stereo = rng.uniform(-0.5, 0.5, (round(9.98 * 44_100), 2))
    stereo[round(0.16 * 44_100) : round(2.16 * 44_100), 0] = 0
    long = rng.uniform(-0.5, 0.5, CLIP_SAMPLES + 32)
    folder = tmp_path / "mirror" / "paper_pairs"
    folder.mkdir(parents=True)
    recordings = []
    for name, waveform, rate in (("a.wav", stereo, 44_100), ("b.wav", long, SAMPLE_RATE)):
        soundfile.write(folder / name, waveform, rate)
        sha = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        recordings.append(Recording(name, sha, f"http://localhost/{name}", "not stated"))
    registry = Registry("paper_pairs", tuple(recordings))
    monkeypatch.setattr(module, "_registry", lambda name: registry)
    monkeypatch.setenv(data.MIRROR_VARIABLE, str(tmp_path / "mirror"))


@pytest.mark.usefixtures("authors_files")
def test_stereo_and_9_98_s_and_a_little_more_than_a_clip_are_read(tmp_path):
    stereo = one(tmp_path, "a,paper_pairs:a.wav,inpainting,A toilet flushing.,,,").source
    assert stereo.clip.seconds == pytest.approx(9.98)
    assert stereo.gap.start == pytest.approx(0.16, abs=1e-4)
    assert stereo.gap.end == pytest.approx(2.16, abs=1e-4)
    long = one(tmp_path, "b,paper_pairs:b.wav,addition,A church bell.,,,").source
    assert len(long.clip.waveform) == CLIP_SAMPLES


# What is refused


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (f",{FOLEY},addition,Rain,,,", "row 2, column id: it is empty"),
        (f"a/b,{FOLEY},addition,Rain,,,", "row 2, column id: 'a/b' cannot name a folder"),
        (f"{'a' * 101},{FOLEY},addition,Rain,,,", "cannot name a folder: use letters"),
        ("a,,addition,Rain,,,", "row 2, column audio: it is empty"),
        ("a,none.wav,addition,Rain,,,", "row 2, column audio: there is no file .*none.wav"),
        ("a,foley:dog/1,addition,Rain,,,", "row 2, column audio: no foley sound is called 'dog'"),
        ("a,foley:duck/x,addition,Rain,,,", "row 2, column audio: .* names no seed"),
        ("a,esc10:x.ogg,addition,Rain,,,", "column audio: the registry esc10 has no recording"),
        (f"a,{FOLEY},remix,Rain,,,", "row 2, column edit: 'remix' is no edit type: use addition"),
        (f"a,{FOLEY},addition,,,,", "row 2, column prompt: it is empty"),
        (f"a,{FOLEY},addition,Rain,1,2,", "row 2, column start: addition has no gap"),
        (f"a,{FOLEY},inpainting,Rain,1,,", "row 2, column end: a gap needs both"),
        (f"a,{FOLEY},inpainting,Rain,one,2,", "row 2, column start: 'one' is no number"),
        (f"a,{FOLEY},addition,Rain,,,cat", "row 2, column target: 'cat' is no sound"),
        (f"a,{FOLEY},addition,Rain, and wind,,,", "row 2: there are 8 cells for 7 columns"),
    ],
)
def test_a_wrong_cell_is_named_by_row_and_column(row, message, tmp_path):
    with pytest.raises(PairsError, match=message) as error:
        load_pairs(table(tmp_path, row))
    assert "mine.csv" in str(error.value)
    assert "\n" not in str(error.value)


def test_an_id_is_used_once(tmp_path):
    rows = [f"a,{FOLEY},addition,Rain,,,", f"a,{FOLEY},addition,Wind,,,"]
    with pytest.raises(PairsError, match="row 3, column id: 'a' stands in an earlier row"):
        load_pairs(table(tmp_path, *rows))


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("id,audio,edit", "no column prompt"),
        ("id;audio;edit;prompt", "columns stand between semicolons: use commas"),
        ("id,audio,edit,prompt,strat", "column 'strat' means nothing"),
        ("id,audio,edit,prompt,prompt", "two columns 'prompt'"),
    ],
)
def test_a_wrong_header_is_named(header, message, tmp_path):
    with pytest.raises(PairsError, match=f"mine.csv, row 1: .*{message}"):
        load_pairs(table(tmp_path, header=header))


def test_an_empty_table_and_other_bytes_are_refused(tmp_path):
    with pytest.raises(PairsError, match="holds no pairs"):
        load_pairs(table(tmp_path))
    (tmp_path / "bytes.csv").write_bytes(b"id,audio,edit,prompt\n\xff\xfe,a,b,c\n")
    with pytest.raises(PairsError, match="cannot be read as CSV"):
        load_pairs(tmp_path / "bytes.csv")


def test_an_unknown_set_is_told_what_there_is():
    with pytest.raises(PairsError, match="no pair set 'pocket28': choose from .*pocket27"):
        load_pairs("pocket28")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a,notes.wav,addition,Rain,,,", "row 2, column audio: .* holds no sound that can be read"),
        ("a,long.wav,addition,Rain,,,", "row 2, column audio: long is longer than the 10.24 s"),
        ("a,noise.wav,inpainting,Rain,2,9,", "row 2, columns start and end: The gap from 2 to 9"),
        ("a,noise.wav,inpainting,Rain,2,1,", "row 2, columns start and end: The gap from 2 to 1"),
        ("a,noise.wav,inpainting,Rain,,,", "row 2, columns start and end: .* digital silence"),
        (f"a,{FOLEY},inpainting,Rain,,,", "row 2, columns start and end: .* has no gap"),
    ],
)
@pytest.mark.usefixtures("noise")
def test_a_recording_that_cannot_be_used_is_named_by_row_and_column(row, message, tmp_path):
    (tmp_path / "notes.wav").write_text("not audio")
    soundfile.write(tmp_path / "long.wav", np.ones(11 * SAMPLE_RATE) * 0.1, SAMPLE_RATE)
    pair = one(tmp_path, row)
    with pytest.raises(PairsError, match=message):
        _ = pair.source
