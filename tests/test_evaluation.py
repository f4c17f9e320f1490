"""Onsets, the pocket CLAP and the independent classifier."""

import numpy as np
import pytest
import torch

from helpers.audio import SAMPLE_RATE, Clip
from helpers.data import data_path
from helpers.evaluation.audio_tower import PocketClapModel
from helpers.evaluation.clap import load_clap
from helpers.evaluation.classifier import name_sounds
from helpers.evaluation.onsets import detect_onsets, onset_f1
from helpers.sounds import foley
from helpers.sounds.vocabulary import VOCABULARY
from tools.pocket.dataset import HELD_OUT_SEED


def held_out(label, number):
    rng = np.random.default_rng(HELD_OUT_SEED + 700_000 + number)
    return Clip.from_waveform(foley.synthesise(label, rng, 8.0).waveform, SAMPLE_RATE, name=label)


@pytest.fixture(scope="module")
def clap():
    return load_clap("pocket")


def test_onsets_of_clicks_are_found_where_they_are():
    waveform = np.zeros(6 * SAMPLE_RATE, np.float32)
    times = np.array([0.5, 1.4, 2.6, 4.0])
    for time in times:
        waveform[int(time * SAMPLE_RATE) :][:400] += np.hanning(400) * np.sin(np.arange(400))
    found = detect_onsets(Clip.from_waveform(waveform, SAMPLE_RATE))
    assert onset_f1(times, found) == 1.0


def test_onset_f1_by_hand():
    reference = np.array([1.0, 2.0, 3.0])
    assert onset_f1(reference, np.array([1.04, 2.0])) == pytest.approx(2 * 1 * (2 / 3) / (5 / 3))
    assert onset_f1(reference, reference + 0.06) == 0
    assert onset_f1(reference, np.empty(0)) == 0
    assert onset_f1(np.empty(0), np.empty(0)) == 1


def test_clap_scores_are_cosines_of_the_projections(clap):
    edit, source = held_out("siren", 0), held_out("siren", 1)
    audio = clap.embed_audio([edit, source]).numpy()
    text = clap.embed_text(["a siren"]).numpy()[0]
    by_hand = audio[0] @ text / np.linalg.norm(audio[0]) / np.linalg.norm(text)  # Eq. 3
    assert clap.text_score(edit, "a siren") == pytest.approx(by_hand, abs=1e-5)
    assert clap.audio_score(edit, source) == pytest.approx(audio[0] @ audio[1], abs=1e-5)  # Eq. 4
    assert clap.audio_score(edit, edit) == pytest.approx(1, abs=1e-5)


def test_clap_is_deterministic_and_prefers_the_right_sentence(clap):
    labels = ("siren", "typing", "whistle", "gunshot", "church_bell", "wind")
    prompts = [VOCABULARY[label].plain for label in labels]
    clips = [held_out(label, number) for number, label in enumerate(labels)]
    audio, text = clap.embed_audio(clips), clap.embed_text(prompts)
    assert torch.equal(audio, clap.embed_audio(clips))
    right = (audio @ text.T).argmax(1) == torch.arange(len(labels))
    assert right.float().mean() >= 5 / 6


def test_an_unknown_back_end_is_named():
    with pytest.raises(ValueError, match="choose from pocket"):
        load_clap("clapp")


def test_stored_weights_are_half_precision_and_load_whole():
    from safetensors.torch import load_file

    stored = load_file(data_path("pocket", "clap", "model.safetensors"))
    assert {value.dtype for value in stored.values()} == {torch.float16}
    assert stored.keys() == PocketClapModel().state_dict().keys()


def test_the_classifier_names_held_out_foley():
    labels = foley.LABELS
    clips = [held_out(label, 50 + number) for number, label in enumerate(labels)]
    right = [name == label for name, label in zip(name_sounds(clips), labels, strict=True)]
    assert np.mean(right) >= 0.75
