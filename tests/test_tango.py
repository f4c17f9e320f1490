import dataclasses
import functools
import hashlib
import json
import os
import shutil

import huggingface_hub.errors
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from published_layouts import (
    FLAN_T5_REVISION,
    STFT,
    add_to_hub_cache,
    write_tiny_hub,
    write_tiny_tango,
)
from tiny import tiny_clip, tiny_model
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import SpeechT5HifiGan

from helpers import load_model
from helpers.editing import PRESETS, EditSettings, Gap, NonRigidEdit, loading
from helpers.editing.embedding import EmbeddingSettings, optimise_embedding, reconstruction_loss
from helpers.editing.finetuning import FinetuningSettings, finetune
from helpers.editing.inpainting import sample_mask
from helpers.editing.interpolation import SamplingSettings
from helpers.editing.loading import memory_needed
from helpers.editing.optimisation import optimise
from helpers.models import ModelFileError, model_names, published, tango
from helpers.storage import Provenance, StorageError

MAIN, VAE = "pytorch_model_main.bin", "pytorch_model_vae.bin"
FAMILY = ["tango", "tango-full", "tango-full-ft-audiocaps", "tango2", "tango2-full"]
SETTINGS = EditSettings(
    EmbeddingSettings(steps=1, learning_rate=5e-2),
    FinetuningSettings(steps=1, learning_rate=1e-2, lora_rank=2),
    SamplingSettings(steps=1),
)


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A hub cache with the miniature TANGO; nothing can be downloaded."""
    folder = tmp_path_factory.mktemp("hub")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder / "cache"))
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        write_tiny_hub(folder / "cache", folder)
        yield folder / "cache"


@pytest.fixture(scope="module")
def model(hub):
    return load_model("tango", device="cpu")


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """The miniature's files in a local folder."""
    return write_tiny_tango(tmp_path_factory.mktemp("original"))


@pytest.fixture
def folder(original, tmp_path):
    """A copy of them to be spoilt."""
    return shutil.copytree(original, tmp_path / "tango")


@pytest.fixture
def empty_hub(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


@pytest.fixture
def known_needs(monkeypatch):
    """What the presets need, as it was computed before."""
    needs = {"paper": 22.6, "t4": 6.2, "fast": 9.2}
    monkeypatch.setattr(loading, "_total", lambda model, name, dtype: int(needs[name] * 1e9))


def weights_of(model):
    parts = (model.denoiser, model.vae, model.vocoder, model.text_encoder.model)
    return [weight for part in parts for weight in part.state_dict().values()]


def refused(source, error=ModelFileError):
    """The message with which a model is refused, which is one sentence."""
    with pytest.raises(error) as caught:
        load_model(source, device="cpu")
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


# loading


def test_the_parts_are_today_s_and_frozen(model):
    assert isinstance(model.denoiser, UNet2DConditionModel)
    assert isinstance(model.vae, AutoencoderKL)
    assert isinstance(model.vocoder, SpeechT5HifiGan)
    assert isinstance(model.noise_schedule, DDPMScheduler)
    assert model.noise_schedule.config.variance_type == "fixed_small"
    assert (model.name, model.latent_shape, model.guidance_scale) == ("tango", (8, 256, 16), 3.0)
    for part in (model.denoiser, model.vae, model.vocoder, model.text_encoder.model):
        assert not part.training
        assert not any(p.requires_grad or p.is_meta for p in part.parameters())
        assert not any(b.is_meta for b in part.buffers())


def test_the_whole_family_is_known():
    assert set(FAMILY) < set(model_names())
    assert all(repository.startswith("declare-lab/") for repository in tango.REPOSITORIES.values())


def test_every_schedule_inherits_the_values_the_hub_lost(model):
    sampler = model.sampler()
    assert sampler.config.set_alpha_to_one is False
    assert sampler.config.steps_offset == 1
    assert sampler.config.clip_sample is False
    assert sampler.config.prediction_type == "v_prediction"


def test_a_local_folder_holds_the_same_model(model, original):
    other = load_model(original, device="cpu")
    assert all(map(torch.equal, weights_of(model), weights_of(other)))


@pytest.fixture(scope="module")
def converted(hub, tmp_path_factory):
    return tango.convert("tango", tmp_path_factory.mktemp("converted") / "tango")


def test_a_converted_folder_holds_the_same_model_without_pickles(model, converted):
    names = {path.suffix or path.name for path in converted.rglob("*") if path.is_file()}
    assert names == {".json", ".safetensors", "SHA256SUMS"}
    other = load_model(converted, device="cpu")
    assert all(map(torch.equal, weights_of(model), weights_of(other)))
    assert other.noise_schedule.config.set_alpha_to_one is False
    ours, theirs = (m.embed_text("a dog barking").tokens[0] for m in (model, other))
    assert torch.equal(ours, theirs)


def test_a_conversion_overwrites_nothing(converted):
    with pytest.raises(ModelFileError, match="is not empty"):
        tango.convert("tango", converted)


def test_a_conversion_that_was_stopped_is_no_model(converted, tmp_path):
    stopped = shutil.copytree(converted, tmp_path / "stopped")
    (stopped / "model_index.json").unlink()
    assert "holds no model" in refused(stopped)


def test_a_truncated_converted_file_is_refused(converted, tmp_path):
    folder = shutil.copytree(converted, tmp_path / "cut")
    os.truncate(folder / "unet" / "diffusion_pytorch_model.safetensors", 1000)
    message = refused(folder, StorageError)
    assert "diffusion_pytorch_model.safetensors is damaged or another file" in message


def test_precision_is_the_unet_s_alone(model, hub):
    half = load_model("tango", device="cpu", dtype=torch.float16)
    assert half.dtype == torch.float16
    for part in (half.vae, half.vocoder, half.text_encoder.model):
        assert {p.dtype for p in part.parameters()} == {torch.float32}
    pairs = zip(model.denoiser.parameters(), half.denoiser.parameters(), strict=True)
    assert all(torch.equal(one.half(), other) for one, other in pairs)


def test_weights_are_in_memory_once(original, monkeypatch):
    """float32 weights stay in the memory the file is mapped to; no second copy is made."""
    read = {}
    monkeypatch.setattr(
        tango, "read_weights", lambda path: read.setdefault(path, published.read_weights(path))
    )
    model = load_model(original, device="cpu")
    places = {weight.data_ptr() for weights in read.values() for weight in weights.values()}
    for part in (model.denoiser, model.text_encoder.model):
        assert all(parameter.data_ptr() in places for parameter in part.parameters())
    text = model.text_encoder.model
    assert text.shared.weight is text.encoder.embed_tokens.weight


def test_the_text_encoder_takes_no_memory_of_the_device(original):
    model = load_model(original, device="meta")
    for part in (model.denoiser, model.vae, model.vocoder):
        assert all(parameter.is_meta for parameter in part.parameters())
    assert {p.device.type for p in model.text_encoder.model.parameters()} == {"cpu"}
    assert model.embed_text("a dog").tokens[0].is_meta


# wrong files


@pytest.mark.parametrize(
    ("typo", "meant"),
    [
        ("tang0", "'tango'"),
        ("tango-2", "'tango2'"),
        ("Tango2-Full", "'tango2-full'"),
        ("declare-lab/tango-full-ft-audiocap", "'tango-full-ft-audiocaps'"),
    ],
)
def test_a_typo_is_answered_with_what_was_meant(typo, meant):
    assert f"did you mean {meant}" in refused(typo, ValueError)


def test_an_unknown_name_lists_the_models():
    message = refused("riffusion", ValueError)
    assert "did you mean" not in message
    assert all(name in message for name in FAMILY)


def test_an_unknown_preset_is_refused_before_loading(monkeypatch):
    monkeypatch.setattr(tango, "fetch", None)
    with pytest.raises(ValueError, match="no preset 'slow'"):
        load_model("tango", preset="slow")


@pytest.mark.parametrize("name", ["main_config.json", "vae_config.json", MAIN, VAE])
def test_a_missing_file_is_named(hub, folder, name):
    (folder / name).unlink()
    message = refused(folder)
    expected = "holds no model" if name == "main_config.json" else f"{name} is missing"
    assert expected in message


@pytest.mark.parametrize("name", [MAIN, VAE])
@pytest.mark.parametrize("share", [0, 0.5, 0.999])
def test_a_truncated_file_is_refused(hub, folder, name, share):
    path = folder / name
    os.truncate(path, int(path.stat().st_size * share))
    message = refused(folder)
    assert name in message
    assert "is cut short or damaged: delete it and download it again" in message


class Program:
    """Runs a command when it is unpickled."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("name", [MAIN, VAE])
def test_code_in_a_pickle_is_refused_and_does_not_run(hub, folder, name):
    trace = folder / "it-ran"
    torch.save({"unet.conv_in.weight": Program(f"touch {trace}")}, folder / name)
    assert f"{name} holds Python code, which is not run" in refused(folder)
    assert not trace.exists()


@pytest.mark.parametrize("content", [[torch.zeros(1)], {"unet": {"conv_in": torch.zeros(1)}}])
def test_a_file_of_other_things_is_refused(hub, folder, content):
    torch.save(content, folder / MAIN)
    assert "holds something other than named tensors" in refused(folder)


def respoil(path, change):
    weights = torch.load(path, weights_only=True)
    change(weights)
    torch.save(weights, path)


@pytest.mark.parametrize(
    ("name", "change", "complaint"),
    [
        (MAIN, lambda w: w.pop("unet.conv_in.bias"), "lacks conv_in.bias:"),
        (MAIN, lambda w: w.pop("text_encoder.shared.weight"), "lacks shared.weight:"),
        (MAIN, lambda w: w.update({"group_in.weight": torch.zeros(1)}), "holds group_in.weight,"),
        (MAIN, lambda w: w.update({"unet.x": torch.zeros(1)}), "holds x, which this model does"),
        (MAIN, lambda w: w.update({"unet.conv_in.bias": torch.zeros(3)}), "conv_in.bias of shape"),
        (VAE, lambda w: w.pop("decoder.conv_in.bias"), "lacks decoder.conv_in.bias:"),
        (VAE, lambda w: w.pop("vocoder.conv_pre.weight"), "lacks conv_pre.weight"),
        (VAE, lambda w: w.update({"loss.logvar": torch.zeros(1)}), "weights of an autoencoder"),
        (VAE, lambda w: w.clear(), "lacks"),
    ],
)
def test_weights_of_another_model_are_refused(hub, folder, name, change, complaint):
    respoil(folder / name, change)
    message = refused(folder)
    assert complaint in message
    assert name in message
    assert "belongs to another model" in message


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("main_config.json", "<html>", "is not JSON"),
        ("vae_config.json", "[1]", "holds no JSON object"),
        ("main_config.json", "{}", "has no text_encoder_name"),
        ("vae_config.json", "{}", "has no ddconfig"),
        (
            "vae_config.json",
            '{"ddconfig": {}, "embed_dim": 8, "scale_factor": 1}',
            "has no ch",
        ),
        ("stft_config.json", json.dumps(STFT | {"hop_length": 256}), "another log-mel front end"),
    ],
)
def test_a_wrong_configuration_is_refused(hub, folder, name, text, complaint):
    (folder / name).write_text(text)
    message = refused(folder)
    assert name in message
    assert complaint in message


@pytest.mark.parametrize("repository", ["../t5", "a/b/c", "", "C:\\t5", None, 3])
def test_a_text_encoder_that_no_hub_has_is_refused(hub, folder, repository):
    (folder / "main_config.json").write_text(json.dumps({"text_encoder_name": repository}))
    assert "names no repository of the hub: correct the model's configuration" in refused(folder)


def test_weights_that_torch_wrote_before_2020_are_read(tmp_path):
    path, weights = tmp_path / "a.bin", {"a": torch.arange(4.0)}
    torch.save(weights, path, _use_new_zipfile_serialization=False)
    assert torch.equal(published.read_weights(path)["a"], weights["a"])


def test_a_folder_without_a_model_is_refused(tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    assert "holds no model that can be loaded" in refused(tmp_path)


# the hub


def test_offline_says_what_is_missing_how_large_and_where_it_goes(empty_hub, known_needs):
    message = refused("tango2")
    assert f"{MAIN} (4.8 GB) of declare-lab/tango2 is not in {empty_hub}" in message
    assert "HF_HUB_OFFLINE" in message
    assert "keeps the files that arrived whole" in message


def test_offline_without_the_tokenizer_names_its_repository(empty_hub, original):
    assert "tokenizer.json (2.5 MB) of google/flan-t5-large" in refused(original)


def test_a_part_of_a_download_is_completed_from_the_same_commit(empty_hub, original, monkeypatch):
    snapshot = add_to_hub_cache(empty_hub, "declare-lab/tango", original)
    (snapshot / VAE).unlink()
    asked = []

    def download(repository, name, revision):
        asked.append((name, revision))
        shutil.copy(original / name, snapshot / name)
        return str(snapshot / name)

    monkeypatch.setattr(published, "hf_hub_download", download)
    monkeypatch.setattr(published, "_hub_sha256", lambda *which: None)
    sizes = dict.fromkeys([MAIN, VAE, "main_config.json"], 1000)
    assert published.fetch("declare-lab/tango", sizes) == snapshot
    assert asked == [(VAE, snapshot.name)]
    assert published.fetch("declare-lab/tango", sizes) == snapshot
    assert len(asked) == 1


def test_a_download_is_compared_with_the_hub_s_hash(empty_hub, original, monkeypatch):
    snapshot = add_to_hub_cache(empty_hub, "declare-lab/tango", original)
    blob = (snapshot / VAE).resolve()
    assert blob.name == hashlib.sha256(blob.read_bytes()).hexdigest()
    published.check_sha256(snapshot / VAE)
    blob.write_bytes(blob.read_bytes()[:-1] + b"?")
    monkeypatch.setattr(published, "_cached", lambda *which: None)
    monkeypatch.setattr(published, "hf_hub_download", lambda *which, **at: str(snapshot / VAE))
    with pytest.raises(ModelFileError, match=r"is damaged \(its SHA-256 is .*: delete .*"):
        published.fetch("declare-lab/tango", {VAE: 1000})


def test_a_download_is_compared_where_the_cache_has_no_links(empty_hub, original, monkeypatch):
    class Metadata:
        etag = hashlib.sha256((original / VAE).read_bytes()).hexdigest()

    monkeypatch.setattr(published, "get_hf_file_metadata", lambda url: Metadata)
    arrived = empty_hub / "models--declare-lab--tango/snapshots/abc" / VAE
    arrived.parent.mkdir(parents=True)
    shutil.copy(original / VAE, arrived)
    monkeypatch.setattr(published, "_cached", lambda *which: None)
    monkeypatch.setattr(published, "hf_hub_download", lambda *which, **at: str(arrived))
    published.fetch("declare-lab/tango", {VAE: 1000})
    arrived.write_bytes(arrived.read_bytes()[:-1] + b"?")
    with pytest.raises(ModelFileError, match=r"is damaged \(its SHA-256 is .*: delete .*"):
        published.fetch("declare-lab/tango", {VAE: 1000})


@pytest.mark.parametrize(
    ("fault", "complaint"),
    [
        (huggingface_hub.errors.LocalEntryNotFoundError("no connection"), "is out of reach"),
        (huggingface_hub.errors.EntryNotFoundError("404"), "The hub has no x.bin in some/model"),
        (ConnectionResetError(), r"x.bin \(5.0 GB\) .* did not arrive whole \(ConnectionReset"),
    ],
)
def test_a_download_that_fails_says_how_to_go_on(empty_hub, monkeypatch, fault, complaint):
    def download(*which, **at):
        raise fault

    monkeypatch.setattr(published, "hf_hub_download", download)
    with pytest.raises(ModelFileError, match=complaint):
        published.fetch("some/model", {"x.bin": 5_000_000_000})


def test_a_full_disk_is_noticed_before_a_download(empty_hub, monkeypatch):
    monkeypatch.setattr(published, "hf_hub_download", None)
    with pytest.raises(ModelFileError, match=r"needs 1000000\.0 GB .* set HF_HOME"):
        published.fetch("some/model", {"x.bin": 10**15})


def test_a_download_is_announced(empty_hub, monkeypatch, capsys, original):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    target = empty_hub / "models--some--model/snapshots/abc/x.bin"
    monkeypatch.setattr(published, "hf_hub_download", lambda *which, **at: str(target))
    monkeypatch.setattr(published, "_hub_sha256", lambda *which: None)
    published.fetch("some/model", {"x.bin": 5_000_000_000})
    assert capsys.readouterr().out == f"Downloading some/model, 5.0 GB, to {empty_hub}.\n"


def test_the_text_encoder_s_revision_is_pinned():
    pinned = published.PINNED["google/flan-t5-large"]
    assert published.pinned(pinned) == ("google/flan-t5-large", FLAN_T5_REVISION)


# what a preset needs


def test_needs_are_the_published_model_s():
    model = tango.blueprint()
    paper = memory_needed(model, PRESETS["paper"], torch.float32)
    assert paper.training == 16 * 865_933_768  # weights, gradients, two averages: 13.9 GB
    t4 = memory_needed(model, PRESETS["t4"], torch.float16)
    assert t4.training == 16 * 1_659_904  # LoRA of rank 8
    assert t4.weights < 0.6 * paper.weights
    assert t4.total < 15e9 < paper.total
    assert memory_needed(model, PRESETS["fast"], torch.float16).total < 15e9
    assert not any(p.requires_grad for p in model.denoiser.parameters())


def test_activations_are_those_of_a_real_pass(model, original):
    """The same bytes on the meta device as on a real one whose attention keeps its maps."""
    counts = []
    for one in (model, tango.blueprint(original)):
        prompt = one.embed_text("a dog")
        prompt = prompt.replace_embeddings([e.requires_grad_() for e in prompt.embeddings])
        latent = torch.zeros(1, 8, 64, 16, device=one.device)
        predict = functools.partial(one.predict, latent, 1, prompt)
        with sdpa_kernel(SDPBackend.MATH):
            counts.append(loading._kept_for_gradients(one.denoiser, predict))
    assert counts[0] == pytest.approx(counts[1], rel=0.02)


@pytest.mark.parametrize(
    ("gigabytes", "preset", "advice"),
    [(15, "paper", "use preset='t4'"), (4, "paper", "use a larger device"), (4, None, "larger")],
)
def test_a_device_too_small_is_refused_before_downloading(
    empty_hub, known_needs, monkeypatch, gigabytes, preset, advice, capsys
):
    monkeypatch.setattr(loading, "device_memory", lambda device: gigabytes * 10**9)
    monkeypatch.setattr("helpers.editing.loading.find_device", torch.device)
    monkeypatch.setattr(published, "hf_hub_download", None)
    with pytest.raises(ValueError, match=advice) as error:
        load_model("tango", preset=preset, device="cuda")
    assert f"has {gigabytes}.0 GB" in str(error.value)
    printed = capsys.readouterr().out
    assert "tango needs, while Step 2 runs" in printed
    assert ("preset 'fast'" in printed) == (preset is None)


def test_a_preset_sets_the_precision_on_a_gpu_only(hub, known_needs, monkeypatch, capsys):
    asked = []
    family = dataclasses.replace(tango.FAMILY, load=lambda *arguments: asked.append(arguments))
    monkeypatch.setattr(tango, "FAMILY", family)
    monkeypatch.setattr(loading, "device_memory", lambda device: None)
    monkeypatch.setattr("helpers.editing.loading.find_device", torch.device)
    for device, dtype in (("cuda", None), ("cpu", None), ("cuda", torch.bfloat16)):
        load_model("tango", preset="t4", device=device, dtype=dtype)
    assert [dtype for *_, dtype in asked] == [torch.float16, torch.float32, torch.bfloat16]
    assert "LoRA of rank 8 in float16" in capsys.readouterr().out


def test_this_machine_s_memory_is_known():
    assert 10**9 < loading.device_memory(torch.device("cpu")) < 10**14


# the method


def test_step_1_has_a_gradient_at_every_token_and_none_at_padding(model):
    prompt = model.embed_text("a rooster crowing on the roof").pad_to([11])
    [tokens] = [e.requires_grad_() for e in prompt.detach().embeddings]
    latent = torch.randn(1, 8, 32, 16, generator=torch.Generator().manual_seed(0))
    conditioning = prompt.replace_embeddings([tokens])
    reconstruction_loss(model, latent, conditioning, torch.Generator().manual_seed(1)).backward()
    gradient = tokens.grad.abs().amax(dim=-1)[0]
    assert (gradient[prompt.masks[0][0]] > 1e-8).all()
    assert (gradient[~prompt.masks[0][0]] == 0).all()
    assert prompt.masks[0].sum() == 7


@pytest.mark.parametrize(
    ("rank", "gap"), [(None, None), (2, Gap(1.0, 2.0))], ids=["full", "LoRA and inpainting"]
)
def test_the_three_steps_edit_a_clip(model, rank, gap):
    before = {name: weight.clone() for name, weight in model.denoiser.state_dict().items()}
    clip = tiny_clip(3.0)
    settings = dataclasses.replace(
        SETTINGS, finetuning=dataclasses.replace(SETTINGS.finetuning, lora_rank=rank)
    )
    with NonRigidEdit(model, clip, "a dog barking", settings, gap, progress=False) as edit:
        edited = edit.edit(1.0)
        assert len(edit.embedding.losses) == len(edit.finetuning.losses) == 1
    assert len(edited.waveform) == len(clip.waveform)
    assert not np.allclose(edited.waveform, clip.waveform, atol=1e-2)
    if gap:
        observed = sample_mask(clip, gap)
        assert np.array_equal(edited.waveform[observed], clip.waveform[observed])
    assert all(torch.equal(before[n], w) for n, w in model.denoiser.state_dict().items())


# half precision: a T4 has float16 and no bfloat16


@pytest.fixture
def half_model():
    model = tiny_model()
    nn.Module.to(model.denoiser, torch.float16)
    return model


def latent_of(model):
    return torch.randn(1, *model.latent_shape, generator=torch.Generator().manual_seed(3))


def test_step_1_of_a_half_model_is_that_of_a_whole_one(half_model):
    settings = EmbeddingSettings(steps=3, learning_rate=1e-2)
    results = []
    for model in (half_model, tiny_model()):
        target = model.embed_text("a dog")
        result = optimise_embedding(model, latent_of(model), target, settings, progress=False)
        [tokens] = result.conditioning.embeddings
        assert tokens.dtype == torch.float32
        results.append((tokens - target.tokens[0], torch.tensor(result.losses)))
    (moved, losses), (expected, whole_losses) = results
    assert torch.allclose(losses, whole_losses, rtol=0.01)
    similarity = torch.cosine_similarity(moved.flatten(), expected.flatten(), dim=0)
    assert similarity > 0.95


@pytest.mark.parametrize("rank", [None, 2])
def test_step_2_of_a_half_model_trains_in_float32(half_model, rank):
    before = {name: weight.clone() for name, weight in half_model.denoiser.state_dict().items()}
    prompt, latent = half_model.embed_text("a dog"), latent_of(half_model)
    # a step of 1e-6 is lost in most float16 weights
    settings = FinetuningSettings(steps=3, learning_rate=1e-6, lora_rank=rank)
    tuned = finetune(half_model, latent, prompt, settings, progress=False)
    assert {weight.dtype for weight in tuned.weights.values()} == {torch.float32}
    if rank is None:
        moved = [not torch.equal(w, before[n].float()) for n, w in tuned.weights.items()]
        assert sum(moved) > 0.9 * len(moved)
    whole = tiny_model()
    nn.Module.to(whole.denoiser, torch.float16).to(torch.float32)  # the same rounded weights
    expected = finetune(whole, latent, prompt, settings, progress=False)
    assert tuned.losses == pytest.approx(expected.losses, rel=0.02)

    assert half_model.dtype == torch.float16
    assert all(torch.equal(before[n], w) for n, w in half_model.denoiser.state_dict().items())
    assert tuned.model.predict(latent, 500, prompt).isfinite().all()


def test_a_step_whose_gradients_overflow_moves_nothing():
    """65,536 times this loss is finite, its gradient is not in float16; the factor is halved."""
    parameter = nn.Parameter(torch.ones(1))

    def run(steps, scale_loss):
        parameter.data.fill_(1)
        optimise(
            [parameter],
            lambda generator: (parameter.half() * 300).float().sum() / 100,
            steps=steps,
            learning_rate=0.1,
            seed=0,
            description="a test",
            provenance=Provenance(),
            subject={},
            checkpoint=None,
            progress=False,
            scale_loss=scale_loss,
        )
        return parameter.item()

    assert run(1, scale_loss=False) == pytest.approx(0.9)
    assert run(1, scale_loss=True) == 1.0
    assert run(4, scale_loss=True) < 1.0


def test_a_stopped_half_precision_run_resumes_with_its_scale(half_model, tmp_path, monkeypatch):
    monkeypatch.setattr("helpers.editing.optimisation.FIRST_SAVE", 0)
    prompt, latent = half_model.embed_text("a dog"), latent_of(half_model)
    settings = EmbeddingSettings(steps=4, learning_rate=1e-2)
    whole = optimise_embedding(half_model, latent, prompt, settings, progress=False)

    class Stopped(Exception):
        pass

    predict, calls = half_model.predict, []

    def stop_at_the_fourth(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise Stopped
        return predict(*arguments)

    half_model.predict = stop_at_the_fourth
    checkpoint = tmp_path / "step1.pt"
    arguments = (half_model, latent, prompt, settings)
    with pytest.raises(Stopped):
        optimise_embedding(*arguments, checkpoint=checkpoint, progress=False)
    assert torch.load(checkpoint, weights_only=True)["scaler"]["scale"] > 0
    resumed = optimise_embedding(*arguments, checkpoint=checkpoint, progress=False)
    assert resumed.losses == whole.losses
    assert torch.equal(resumed.conditioning.tokens[0], whole.conditioning.tokens[0])
