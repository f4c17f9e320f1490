"""Microsoft's package on miniature checkpoints; runs in .venv-msclap (`make test-msclap`).

The text encoders are one small layer of the width that the package demands; its audio towers are at
their own size, with random weights.
"""

from importlib import import_module, resources

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import constants
from published_layouts import add_to_hub_cache
from tiny_clap import (
    check_long_clip,
    check_projections,
    check_scores,
    noise,
    write_byte_tokenizer,
)
from transformers import BertConfig, BertModel, GPT2Config, GPT2Model

from helpers.evaluation.clap import load_clap
from helpers.evaluation.clap.msclap import REPOSITORY, REVISION, VERSIONS
from helpers.models import ModelFileError

WIDTH = 768
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "rain", "on", "tin", "and"]


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A hub cache with the text encoders, one layer each."""
    files, cache = tmp_path_factory.mktemp("files"), tmp_path_factory.mktemp("hub")
    torch.manual_seed(0)
    gpt = GPT2Config(vocab_size=257, n_positions=80, n_embd=WIDTH, n_layer=1, n_head=4)
    GPT2Model(gpt).save_pretrained(files / "gpt2")
    write_byte_tokenizer(
        files / "gpt2", last=["<|endoftext|>"], tokenizer_class="GPT2Tokenizer"
    )  # "!" is 0, as in the published one
    bert = BertConfig(vocab_size=len(WORDS), hidden_size=WIDTH, num_hidden_layers=1)
    BertModel(bert).save_pretrained(files / "bert")
    (files / "bert/vocab.txt").write_text("\n".join(WORDS))
    (files / "bert/tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        add_to_hub_cache(cache, "gpt2", files / "gpt2")
        add_to_hub_cache(cache, "bert-base-uncased", files / "bert")
        yield cache


def write_checkpoint(hub, folder, version):
    """Put what Microsoft publishes into the hub's cache; returns the weights."""
    settings = yaml.safe_load(
        resources.files("msclap").joinpath(f"configs/config_{version}.yml").read_text()
    )
    names = ("window_size", "hop_size", "mel_bins", "fmin", "fmax", "out_emb", "text_model")
    names += ("audioenc_name", "transformer_embed_dim", "d_proj")
    torch.manual_seed(1)
    model = import_module("msclap.models.clap").CLAP(
        sample_rate=settings["sampling_rate"],
        classes_num=settings["num_classes"],
        **{name: settings[name] for name in names},
    )
    weights = model.state_dict()
    folder.mkdir(exist_ok=True)
    torch.save({"epoch": 1, "model": weights}, folder / VERSIONS[version].file)
    add_to_hub_cache(hub, REPOSITORY, folder, REVISION)
    return weights


@pytest.fixture(scope="module")
def weights(hub, tmp_path_factory):
    return write_checkpoint(hub, tmp_path_factory.mktemp("msclap"), "2023")


@pytest.fixture(scope="module")
def clap(hub, weights):
    return load_clap("msclap")


def test_the_package_hears_fixed_windows(clap):
    assert clap.name == "msclap:2023"
    assert (clap.sample_rate, clap.window) == (44_100, 308_700)  # 7 s
    check_projections(clap)
    check_scores(clap)


def test_a_long_clip_is_the_mean_of_two_windows(clap):
    check_long_clip(clap, [0, 142_884])  # 0 to 7 s and 3.24 to 10.24 s


def test_the_weights_are_the_checkpoints(clap, weights):
    loaded = clap.model.state_dict()
    assert loaded.keys() == weights.keys()
    assert all(torch.equal(weight.cpu(), weights[name]) for name, weight in loaded.items())


def test_short_clips_are_repeated_and_cut(clap):
    import librosa

    clip = noise(3.0)
    waveform = librosa.resample(clip.waveform, orig_sr=16_000, target_sr=44_100)
    repeated = np.tile(waveform, 3)[: clap.window]
    by_hand = torch.nn.functional.normalize(clap.embed_windows([repeated]).cpu(), dim=-1)
    assert torch.allclose(clap.embed_audio([clip]), by_hand, atol=1e-5)


def test_text_is_the_packages_own(clap):
    prompt = "rain on a tin roof"
    own = clap.wrapper.tokenizer(
        prompt + " <|endoftext|>", padding="max_length", max_length=77, return_tensors="pt"
    )
    length = int((own["input_ids"] != 0).sum())
    assert own["input_ids"][0, length - 1] == 256  # <|endoftext|>, whose state is read
    states = clap.model.caption_encoder.base(own["input_ids"].to(clap.device))[0]
    by_hand = clap.model.caption_encoder.projection(states[:, length - 1]).cpu()
    by_hand = torch.nn.functional.normalize(by_hand, dim=-1)
    assert torch.allclose(clap.embed_text([prompt]), by_hand, atol=1e-5)


def test_the_version_of_2022_has_its_own_window(hub, tmp_path):
    write_checkpoint(hub, tmp_path / "2022", "2022")
    clap = load_clap("msclap:2022")
    assert clap.name == "msclap:2022"
    assert (clap.sample_rate, clap.window) == (44_100, 220_500)  # 5 s
    check_long_clip(clap, [0, 115_542, 231_084])
    assert clap.embed_text(["a dog"]).shape == (1, 1024)


def test_a_checkpoint_that_lacks_weights_is_refused(hub, weights, tmp_path, monkeypatch):
    name = "audio_encoder.projection.linear1.weight"
    part = {key: weight for key, weight in weights.items() if key != name}
    torch.save({"model": part}, tmp_path / VERSIONS["2023"].file)
    cache = tmp_path / "hub"
    for repository in ("gpt2", "bert-base-uncased"):
        folder = "models--" + repository
        cache.mkdir(exist_ok=True)
        (cache / folder).symlink_to(hub / folder)
    files = tmp_path / "files"
    files.mkdir()
    (tmp_path / VERSIONS["2023"].file).rename(files / VERSIONS["2023"].file)
    add_to_hub_cache(cache, REPOSITORY, files, REVISION)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    with pytest.raises(ModelFileError, match=f"lacks {name}"):
        load_clap("msclap")
