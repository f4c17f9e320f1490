"""The ear that this project did not train: as the package hears, and able to tell sounds apart."""

import io
import json
import pickle
import zipfile

import librosa
import numpy as np
import pytest
import torch

from helpers.audio import SAMPLE_RATE, Clip
from helpers.data import data_path
from helpers.evaluation.foreign_ear import RATE, load_foreign_ear, references
from helpers.sounds.foley import foley_clip
from tools import aisfx

LABELS = ("duck", "siren", "typing")
SEED = 9_900_100


@pytest.fixture(scope="module")
def package():
    """Embeddings by the package itself, aisfx 0.1.2 with Essentia's spectrograms, of three clips.

    Each is ``foley_clip(label, SEED, 5.0)``, resampled to 44.1 kHz and scaled to a peak of 1.
    """
    with np.load("tests/aisfx_embeddings.npz") as stored:
        return {label: torch.from_numpy(stored[label]) for label in LABELS}


def resampled(label):
    return librosa.resample(
        foley_clip(label, SEED, 5.0).waveform, orig_sr=SAMPLE_RATE, target_sr=RATE
    )


def test_blocks_are_those_of_the_package(package):
    for label in LABELS:
        mine, theirs = load_foreign_ear().blocks(resampled(label)), package[label]
        assert mine.shape == theirs.shape
        # Half-precision weights, and librosa's spectrogram in place of Essentia's.
        torch.testing.assert_close(mine, theirs, rtol=0, atol=3e-3 * float(theirs.max()))


def test_cosines_are_those_of_the_package(package):
    theirs = torch.nn.functional.normalize(torch.stack([package[x].mean(0) for x in LABELS]), dim=1)
    mine = load_foreign_ear().embed([foley_clip(label, SEED, 5.0) for label in LABELS])
    torch.testing.assert_close(mine @ mine.T, theirs @ theirs.T, rtol=0, atol=2e-4)


def test_loudness_does_not_matter_and_a_short_or_silent_clip_is_heard():
    ear, clip = load_foreign_ear(), foley_clip("duck", SEED, 5.0)
    quiet = Clip(clip.waveform * np.float32(0.01))
    torch.testing.assert_close(ear.embed([quiet]), ear.embed([clip]), atol=1e-3, rtol=0)
    short, silent = Clip(clip.waveform[:4_000]), Clip(np.zeros(SAMPLE_RATE, np.float32))
    assert torch.isfinite(ear.embed([short, silent])).all()


def test_a_sound_is_preferred_to_another_and_the_sign_follows():
    right = []
    for label, other in (("duck", "piano"), ("siren", "typing"), ("church_bell", "door_knock")):
        clips = [foley_clip(sound, SEED + 7, 5.0) for sound in (label, other)]
        mine, others = load_foreign_ear().preference(clips, label, other)
        back = load_foreign_ear().preference(clips, other, label)
        assert back == pytest.approx([-mine, -others], abs=1e-6)
        right += [mine > 0, others < 0]
    assert all(right)


def test_references_are_eight_different_sounds():
    found = references("duck")
    assert found.shape == (8, 512)
    assert float((found @ found.T).triu(1).max()) < 0.9999


def test_the_stored_file_says_whose_it_is():
    config = json.loads(data_path("aisfx", "config.json").read_text(encoding="utf-8"))
    assert config == json.loads(json.dumps(aisfx.CONFIG))
    assert config["license"] == "CC-BY-4.0"
    assert data_path("aisfx", "model.safetensors").stat().st_size < 13_000_000


class Command:
    def __reduce__(self):
        return (print, ("run",))


def test_a_checkpoint_that_would_run_code_is_not_read(capsys):
    archive = io.BytesIO()
    torch.save({}, archive)
    with zipfile.ZipFile(archive) as whole:
        parts = {name: whole.read(name) for name in whole.namelist()}
    [name] = [name for name in parts if name.endswith("data.pkl")]
    parts[name] = pickle.dumps((Command(), {}), protocol=2)
    planted = io.BytesIO()
    with zipfile.ZipFile(planted, "w", zipfile.ZIP_STORED) as whole:
        for name, content in parts.items():
            whole.writestr(name, content)
    with pytest.raises(pickle.UnpicklingError):
        aisfx.convert(planted.getvalue())
    assert "run" not in capsys.readouterr().out
