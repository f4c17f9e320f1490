"""CLAP back ends: windows, the interface, and transformers' checkpoints in miniature."""

import json
import runpy
import shutil
import sys
import zipfile

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from published_layouts import add_to_hub_cache
from safetensors.torch import load_file, save_file
from tiny_clap import (
    PROCESSOR,
    ROBERTA_SPECIAL,
    check_long_clip,
    check_projections,
    check_scores,
    noise,
    write_byte_tokenizer,
)
from transformers import ClapConfig, ClapModel

from helpers.audio import Clip
from helpers.evaluation import clap as clap_package
from helpers.evaluation.clap import Clap, ClapError, load_clap
from helpers.evaluation.clap.checkpoints import read_checkpoint
from helpers.evaluation.clap.transformers import DEFAULT_CHECKPOINT, REVISIONS
from helpers.evaluation.clap.windows import WindowedClap, fixed_windows, resampled
from helpers.models import ModelFileError

TINY = "someone/tiny-clap"


def write_tiny_clap(folder, fusion=False, safetensors=True):
    """Write what a hub repository of ClapModel holds, with random weights."""
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text |= {"vocab_size": 261, "intermediate_size": 32, "max_position_embeddings": 130}
    audio = {"patch_embeds_hidden_size": 8, "hidden_size": 64, "depths": [1, 1, 1, 1]}
    audio |= {"num_attention_heads": [1, 1, 2, 2], "num_hidden_layers": 4}
    audio |= {"enable_fusion": fusion, "enable_patch_fusion": fusion, "fusion_type": "aff_2d"}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=12))
        for parameter in model.parameters():  # its own start hears hardly anything
            if parameter.dim() == 2:
                torch.nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
    model.save_pretrained(folder)
    if not safetensors:
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    truncation = "fusion" if fusion else "rand_trunc"
    (folder / "preprocessor_config.json").write_text(
        json.dumps(PROCESSOR | {"truncation": truncation})
    )
    write_byte_tokenizer(
        folder, ROBERTA_SPECIAL, tokenizer_class="RobertaTokenizer", model_max_length=128
    )
    return folder


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory):
    return write_tiny_clap(tmp_path_factory.mktemp("clap"))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path


@pytest.fixture
def tiny(hub, tiny_folder):
    """The miniature checkpoint, through the public path."""
    add_to_hub_cache(hub, TINY, tiny_folder)
    return load_clap(f"transformers:{TINY}")


# windows


@pytest.mark.parametrize(
    ("samples", "starts"),
    [
        (480_000, [0]),  # 10 s
        (491_520, [0, 11_520]),  # 10.24 s
        (960_000, [0, 480_000]),
        (960_001, [0, 240_000, 480_001]),  # half a sample rounds to the even one
    ],
)
def test_windows_are_fixed_and_reach_from_beginning_to_end(samples, starts):
    waveform = np.arange(samples)
    windows = fixed_windows(waveform, 480_000)
    assert [window[0] for window in windows] == starts
    assert {len(window) for window in windows} == {480_000}
    assert windows[-1][-1] == samples - 1


def test_a_short_waveform_is_its_own_window():
    [window] = fixed_windows(np.arange(3), 480_000)
    assert window.tolist() == [0, 1, 2]


def test_resampling_gives_the_models_rate_and_nothing_above_8_khz():
    waveform = resampled(noise(2.0), 48_000)
    assert len(waveform) == 96_000
    power = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform)))) ** 2
    frequency = np.fft.rfftfreq(len(waveform), 1 / 48_000)
    assert power[frequency > 8_500].max() < 1e-6 * power.max()


class Loudness(WindowedClap):
    """Hears root mean square and length, at 4 kHz in windows of 2 s."""

    name, sample_rate, window = "loudness", 4_000, 8_000
    sizes = None

    def embed_windows(self, windows):
        self.sizes = (self.sizes or []) + [len(windows)]
        return torch.tensor([[float(np.sqrt((w**2).mean())), len(w) / 8_000] for w in windows])

    def embed_text(self, prompts):
        return torch.tensor([[0.6, 0.8]] * len(prompts))


def test_windows_of_all_clips_go_in_batches_and_come_back_to_their_clips():
    clap = Loudness()
    clips = [noise(10.0), noise(1.0), noise(4.5)]  # 5, 1 and 3 windows
    together = clap.embed_audio(clips)
    assert clap.sizes == [8, 1]
    for clip, projection in zip(clips, together, strict=True):
        assert torch.allclose(clap.embed_audio([clip])[0], projection)


def test_window_average_and_scores_by_hand():
    clap = Loudness()
    one_second = Clip(np.full(16_000, 0.5, np.float32))
    silence_then_sound = Clip(np.r_[np.zeros(32_000), np.full(32_000, 1.0)].astype(np.float32))
    # (0.5, 0.5) and, from (0, 1) and (1, 1), (0, 1) / 2 + (1, 1) / √8, both normalised.
    by_hand = np.array([[0.5, 0.5], [8**-0.5, 0.5 + 8**-0.5]])
    by_hand /= np.linalg.norm(by_hand, axis=1, keepdims=True)
    heard = clap.embed_audio([one_second, silence_then_sound]).numpy()
    assert heard == pytest.approx(by_hand, abs=2e-3)  # resampling rings at the edges
    assert clap.text_score(one_second, "loud") == pytest.approx(1.4 / 2**0.5, abs=2e-3)  # Eq. 3
    cosine = by_hand[0] @ by_hand[1]
    assert clap.audio_score(one_second, silence_then_sound) == pytest.approx(cosine, abs=2e-3)


# transformers


def test_a_checkpoint_of_the_hub_is_heard_through_fixed_windows(tiny):
    assert tiny.name == f"transformers:{TINY}"
    assert (tiny.sample_rate, tiny.window) == (48_000, 480_000)
    check_projections(tiny)
    check_scores(tiny)
    check_long_clip(tiny, [0, 11_520])


def test_short_clips_are_repeated_whole_then_padded(tiny):
    clip = noise(4.0)
    repeated = Clip(np.tile(clip.waveform, 2))  # 8 s, then 2 s of silence
    padded = np.pad(np.tile(resampled(clip, 48_000), 2), (0, 96_000))
    with torch.no_grad():
        by_hand = tiny.embed_windows([padded])[0]
    assert torch.allclose(tiny.embed_audio([clip])[0], by_hand, atol=1e-5)
    assert not torch.allclose(tiny.embed_audio([repeated])[0], tiny.embed_audio([noise(8.0)])[0])


def test_scoring_touches_no_global_random_state(tiny):
    np.random.seed(0)  # noqa: NPY002
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    tiny.embed_audio([noise(10.24), noise(3.0)])
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002


def test_a_fusion_checkpoint_marks_no_clip_as_longer(hub, tmp_path):
    folder = write_tiny_clap(tmp_path / "fusion", fusion=True)
    clap = load_clap(f"transformers:{folder}")
    check_projections(clap)
    check_long_clip(clap, [0, 11_520])


def test_published_checkpoints_are_pinned_and_weights_may_be_a_bin_file(hub, tmp_path):
    folder = write_tiny_clap(tmp_path / "bin", safetensors=False)
    add_to_hub_cache(hub, DEFAULT_CHECKPOINT, folder, REVISIONS[DEFAULT_CHECKPOINT])
    clap = load_clap("transformers")
    assert clap.name == "transformers:laion/clap-htsat-unfused"
    assert clap.embed_text(["a dog"]).shape == (1, 12)
    with pytest.raises(ClapError, match=r"One sentence is no list: write \['a dog'\]"):
        clap.embed_text("a dog")


def test_text_equals_the_models_own(tiny):
    tokens = tiny.tokenizer("a dog", return_tensors="pt")
    assert tokens["input_ids"][0].tolist()[0] == 0  # <s>
    assert tokens["input_ids"][0].tolist()[-1] == 2  # </s>
    with torch.no_grad():
        own = tiny.model.get_text_features(**tokens).pooler_output
    assert torch.allclose(tiny.embed_text(["a dog"]), own, atol=1e-6)


def test_a_checkpoint_out_of_reach_is_refused_in_one_sentence(hub):
    with pytest.raises(ModelFileError, match="nobody/clap cannot be read .* the pocket CLAP"):
        load_clap("transformers:nobody/clap")


def test_another_kind_of_model_is_refused(hub, tmp_path):
    folder = tmp_path / "bert"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ClapError, match="is a bert model and no CLAP"):
        load_clap(f"transformers:{folder}")


def test_a_checkpoint_without_all_its_weights_is_refused(tiny_folder, tmp_path):
    folder = tmp_path / "partial"
    shutil.copytree(tiny_folder, folder)
    weights = load_file(folder / "model.safetensors")
    del weights["audio_projection.linear1.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ClapError, match="lacks audio_projection.linear1.weight"):
        load_clap(f"transformers:{folder}")


def test_a_checkpoint_without_its_processor_is_refused(tiny_folder, tmp_path):
    folder = tmp_path / "weights alone"
    shutil.copytree(tiny_folder, folder)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ModelFileError, match="cannot be read .* the pocket CLAP"):
        load_clap(f"transformers:{folder}")


def test_damaged_weights_are_refused(hub, tiny_folder):
    snapshot = add_to_hub_cache(hub, TINY, tiny_folder)
    blob = (snapshot / "model.safetensors").resolve()
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    with pytest.raises(ModelFileError, match="model.safetensors is damaged"):
        load_clap(f"transformers:{TINY}")
    blob.write_bytes(content[:1000])
    with pytest.raises(ModelFileError, match="cannot be read"):
        load_clap(f"transformers:{TINY}")


# names and packages


def test_the_pocket_clap_is_one_of_them():
    clap = load_clap()
    assert isinstance(clap, Clap)
    assert clap.name == "pocket"
    with pytest.raises(ClapError, match="has one checkpoint"):
        load_clap("pocket:other")


@pytest.mark.parametrize(
    ("back_end", "target"), [("laion-clap", "setup-laion"), ("msclap", "setup-msclap")]
)
def test_a_package_that_is_not_installed_is_named_with_what_to_do(back_end, target, monkeypatch):
    monkeypatch.setattr(clap_package, "find_spec", lambda name: None)
    with pytest.raises(ClapError, match=f"make {target}` makes") as error:
        load_clap(back_end)
    assert error.value.__cause__ is None
    assert load_clap("pocket").name == "pocket"


def test_a_laion_checkpoint_that_is_not_there_is_refused_before_anything_is_imported():
    with pytest.raises(ModelFileError, match="no checkpoint nowhere.pt: download it from"):
        load_clap("laion-clap:nowhere.pt")


def test_an_unknown_msclap_version_is_refused():
    with pytest.raises(ClapError, match="no msclap '2024': choose 2022 or 2023"):
        load_clap("msclap:2024")


def test_importing_the_interface_imports_no_back_end(monkeypatch):
    names = [f"helpers.evaluation.clap.{file}" for file in clap_package.BACK_ENDS.values()]
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    runpy.run_path(clap_package.__file__)
    assert not {*names, "laion_clap", "msclap", "torchvision", "torchaudio"} & {*sys.modules}


# training checkpoints, which hold more than weights


def test_weights_are_read_from_among_numpy_numbers(tmp_path):
    weights = {"module.a": torch.ones(2)}
    extras = {"epoch": 3, "map": np.float64(0.4), "lr": np.float32(0.1), "step": np.int64(7)}
    torch.save({"state_dict": weights, "name": "clap", **extras}, tmp_path / "a.pt")
    assert read_checkpoint(tmp_path / "a.pt", "state_dict")["module.a"].tolist() == [1, 1]


def test_the_name_that_older_numpy_gave_numbers_is_known(tmp_path):
    torch.save({"state_dict": {"a": torch.ones(1)}, "map": np.float64(0.4)}, tmp_path / "a.pt")
    content = (tmp_path / "a.pt").read_bytes()
    old, new = b"numpy.core.multiarray\nscalar", b"numpy._core.multiarray\nscalar"
    assert new in content or old in content
    with zipfile.ZipFile(tmp_path / "a.pt") as source:
        files = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(tmp_path / "old.pt", "w") as target:
        for name, data in files.items():
            target.writestr(name, data.replace(new, old))
    assert read_checkpoint(tmp_path / "old.pt", "state_dict")["a"].tolist() == [1]


class Program:
    def __reduce__(self):
        return print, ("this must not run",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": Program()}, "holds Python code, which is not run"),
        ({"model": {}}, "has no 'state_dict'"),
        ({"state_dict": {"a": 1}}, "something other than weights"),
        ([1], "has no 'state_dict'"),
    ],
)
def test_other_files_are_refused_in_one_sentence(content, message, tmp_path, capsys):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(ModelFileError, match=message):
        read_checkpoint(tmp_path / "a.pt", "state_dict")
    assert "must not run" not in capsys.readouterr().out


def test_a_truncated_or_missing_file_is_refused(tmp_path):
    torch.save({"state_dict": {"a": torch.ones(1000)}}, tmp_path / "a.pt")
    (tmp_path / "a.pt").write_bytes((tmp_path / "a.pt").read_bytes()[:2000])
    with pytest.raises(ModelFileError, match="cut short or damaged"):
        read_checkpoint(tmp_path / "a.pt", "state_dict")
    with pytest.raises(ModelFileError, match="is missing: download"):
        read_checkpoint(tmp_path / "b.pt", "state_dict")
