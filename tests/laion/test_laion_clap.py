"""LAION's package on miniature checkpoints; runs in .venv-laion (`make test-laion`).

The package's text encoder is made from the hub's ``roberta-base``, here one small layer of its
width, and its audio tower is HTSAT at its own size, with random weights.
"""

import json

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from published_layouts import add_to_hub_cache
from tiny_clap import (
    ROBERTA_SPECIAL,
    check_long_clip,
    check_projections,
    check_scores,
    noise,
    write_byte_tokenizer,
)
from transformers import BartConfig, BertConfig, RobertaConfig, RobertaModel

from helpers.evaluation.clap import ClapError, load_clap
from helpers.evaluation.clap.laion import DEFAULT_CHECKPOINT, REPOSITORY, REVISION, SUPERFLUOUS
from helpers.models import ModelFileError

WIDTH = 768  # the package's text projection takes no other


def write_roberta(folder):
    config = RobertaConfig(
        vocab_size=261,
        hidden_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=130,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        type_vocab_size=1,
    )
    RobertaModel(config).save_pretrained(folder)
    write_byte_tokenizer(folder, ROBERTA_SPECIAL, tokenizer_class="RobertaTokenizer")


def write_other_tokenizers(bert, bart):
    """What importing the package asks for and then does not use."""
    BertConfig(vocab_size=5).save_pretrained(bert)
    (bert / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n")
    (bert / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    BartConfig(vocab_size=261).save_pretrained(bart)
    write_byte_tokenizer(bart, ROBERTA_SPECIAL, tokenizer_class="BartTokenizer")


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A hub cache with what the package fetches."""
    files, cache = tmp_path_factory.mktemp("files"), tmp_path_factory.mktemp("hub")
    torch.manual_seed(0)
    write_roberta(files / "roberta")
    write_other_tokenizers(files / "bert", files / "bart")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        add_to_hub_cache(cache, "roberta-base", files / "roberta")
        add_to_hub_cache(cache, "bert-base-uncased", files / "bert")
        add_to_hub_cache(cache, "facebook/bart-base", files / "bart")
        yield cache


def write_checkpoint(path, amodel="HTSAT-tiny", enable_fusion=False):
    """Write a checkpoint as LAION's training does: with an optimiser's state and NumPy numbers."""
    import laion_clap

    torch.manual_seed(1)
    module = laion_clap.CLAP_Module(enable_fusion=enable_fusion, amodel=amodel, device="cpu")
    for name, parameter in module.named_parameters():
        if parameter.dim() == 2 and "proj" in name:
            torch.nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
    weights = {f"module.{name}": weight for name, weight in module.model.state_dict().items()}
    weights[f"module.{SUPERFLUOUS}"] = torch.arange(130)[None]
    path.parent.mkdir(parents=True, exist_ok=True)
    optimizer = {"param_groups": [{"lr": np.float64(1e-4), "betas": (0.9, 0.99)}]}
    torch.save({"epoch": 7, "name": "tiny", "state_dict": weights, "optimizer": optimizer}, path)
    return path


@pytest.fixture(scope="module")
def checkpoint(hub, tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("clap") / DEFAULT_CHECKPOINT)


@pytest.fixture(scope="module")
def clap(checkpoint):
    return load_clap(f"laion-clap:{checkpoint}")


def test_the_package_hears_fixed_windows(clap):
    assert clap.name == "laion-clap:630k-audioset-best.pt"
    check_projections(clap)
    check_scores(clap)


def test_a_long_clip_is_the_mean_of_two_windows(clap):
    check_long_clip(clap, [0, 11_520])


def test_the_weights_are_the_checkpoints(clap, checkpoint):
    stored = torch.load(checkpoint, weights_only=False)["state_dict"]
    loaded = clap.model.model.state_dict()
    assert {f"module.{name}" for name in loaded} == stored.keys() - {f"module.{SUPERFLUOUS}"}
    assert all(
        torch.equal(stored[f"module.{name}"], weight.cpu()) for name, weight in loaded.items()
    )


def test_short_clips_are_repeated_whole_then_padded(clap):
    import librosa

    clip = noise(4.0)
    waveform = librosa.resample(clip.waveform, orig_sr=16_000, target_sr=48_000)
    padded = np.pad(np.tile(waveform, 2), (0, 96_000))
    assert torch.allclose(clap.embed_audio([clip]), clap.embed_windows([padded]).cpu(), atol=1e-5)


def test_no_part_is_drawn_at_random(clap):
    np.random.seed(0)  # noqa: NPY002
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    clap.embed_audio([noise(10.24), noise(3.0)])
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002


def test_the_usual_checkpoint_comes_from_the_hub_at_a_pinned_commit(hub, checkpoint):
    add_to_hub_cache(hub, REPOSITORY, checkpoint.parent, REVISION)
    clap = load_clap("laion-clap")
    assert clap.name == "laion-clap:630k-audioset-best.pt"
    assert clap.embed_text(["a dog"]).shape == (1, 512)


def test_fusion_and_size_follow_from_the_weights(hub, tmp_path):
    path = write_checkpoint(tmp_path / "fusion.pt", "HTSAT-base", enable_fusion=True)
    clap = load_clap(f"laion-clap:{path}")
    assert clap.name == "laion-clap:fusion.pt"
    check_projections(clap)


def test_another_checkpoint_is_refused(hub, tmp_path):
    torch.save({"state_dict": {"unet.weight": torch.ones(2)}}, tmp_path / "other.pt")
    with pytest.raises(ClapError, match="holds no CLAP with an HTSAT audio tower"):
        load_clap(f"laion-clap:{tmp_path / 'other.pt'}")
    incomplete = {"audio_projection.0.weight": torch.ones(512, 768)}
    torch.save({"state_dict": incomplete}, tmp_path / "part.pt")
    with pytest.raises(ClapError, match="does not fit LAION's CLAP"):
        load_clap(f"laion-clap:{tmp_path / 'part.pt'}")


def test_a_checkpoint_that_holds_code_is_not_run(hub, tmp_path, capsys):
    class Program:
        def __reduce__(self):
            return print, ("this must not run",)

    torch.save({"state_dict": Program()}, tmp_path / "code.pt")
    with pytest.raises(ModelFileError, match="which is not run"):
        load_clap(f"laion-clap:{tmp_path / 'code.pt'}")
    assert "must not run" not in capsys.readouterr().out
