import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from huggingface_hub import constants
from huggingface_hub.errors import RemoteEntryNotFoundError
from published_audioldm import (
    CLAP_TEXT,
    TINY_UNET,
    UNET,
    VAE,
    VOCODER,
    write_tiny_audioldm,
)
from published_layouts import add_to_hub_cache
from torch.nn import functional

from helpers import load_model
from helpers.editing import EditSettings, Gap, NonRigidEdit
from helpers.editing.embedding import EmbeddingSettings, reconstruction_loss
from helpers.editing.finetuning import FinetuningSettings
from helpers.editing.interpolation import SamplingSettings, interpolate, sample
from helpers.models import ModelFileError, audioldm, published
from helpers.models.audioldm import FILES
from helpers.models.latent_audio_model import LatentAudioModel

PROMPT = "a dog barking"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_tiny_audioldm(tmp_path_factory.mktemp("audioldm"))


@pytest.fixture(scope="module")
def audioldm_model(folder) -> LatentAudioModel:
    return FILES.model(folder)


@pytest.fixture
def copied(folder, tmp_path) -> Path:
    return shutil.copytree(folder, tmp_path / "copy")


def settings(rank: int | None) -> EditSettings:
    rate = 1e-3 if rank else 1e-4
    return EditSettings(
        EmbeddingSettings(steps=1, learning_rate=0.05),
        FinetuningSettings(steps=1, learning_rate=rate, lora_rank=rank),
        SamplingSettings(steps=1),
    )


class TestFiles:
    def test_name_loads_offline_from_hub_cache(self, folder, tmp_path, monkeypatch):
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        assert not audioldm.FAMILY.is_at_hand("audioldm")
        with pytest.raises(ModelFileError, match="cvssp/audioldm-s-full-v2 is not in .* connect"):
            load_model("audioldm")
        add_to_hub_cache(tmp_path, "cvssp/audioldm-s-full-v2", folder)
        assert audioldm.FAMILY.is_at_hand("audioldm")
        model = load_model("audioldm", device="cpu", dtype=torch.bfloat16)
        assert model.name == "audioldm"
        assert model.dtype == torch.bfloat16
        assert next(model.vae.parameters()).dtype == torch.float32

    def test_pickles_are_fetched_where_there_are_no_safetensors(
        self, folder, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        asked = []

        def download(repository, name, revision):
            asked.append(name)
            if not (folder / name).is_file():
                response = type("Response", (), {"headers": {}, "request": None})()
                raise RemoteEntryNotFoundError("404", response=response)
            return folder / name

        monkeypatch.setattr(published, "hf_hub_download", download)
        monkeypatch.setattr(published, "_hub_sha256", lambda *which: None)
        fetched = FILES.files("audioldm")
        assert fetched == folder
        assert "unet/diffusion_pytorch_model.bin" in asked
        pickles = [name for name in asked if name.endswith(".bin")]
        safetensors = [name for name in asked if name.endswith(".safetensors")]
        assert len(pickles) == 4
        assert asked.index(safetensors[0]) < asked.index(pickles[0])

    def test_blueprint_reads_configurations_alone(self, copied):
        for path in copied.rglob("*.bin"):
            path.unlink()
        model = FILES.blueprint(copied)
        assert model.device.type == "meta"
        noisy = torch.zeros(1, *model.latent_shape, device="meta")
        assert model.predict(noisy, 1, model.embed_text(PROMPT)).shape == noisy.shape

    def test_every_published_weight_has_its_place(self, folder, audioldm_model):
        """Each tensor of the files, under its old name, is in the model with its values."""
        renamed = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
        for part in ("unet", "vae", "vocoder"):
            [path] = (folder / part).glob("*.bin")
            weights = torch.load(path, weights_only=True)
            state = getattr(audioldm_model, "denoiser" if part == "unet" else part).state_dict()
            names = {name: name for name in weights}
            if part == "vae":
                for old, new in renamed.items():
                    names = {n: m.replace(f".{old}.", f".{new}.") for n, m in names.items()}
            assert set(names.values()) == set(state)
            for name, weight in weights.items():
                torch.testing.assert_close(state[names[name]], weight, rtol=0, atol=0)

    def test_published_widths_give_published_sizes(self, tmp_path):
        """Sizes of the .bin files at cvssp/audioldm-s-full-v2; a pickle adds less than 0.1 %."""
        published_sizes = {
            "unet": (UNET, 740_429_981),
            "vae": (VAE, 221_586_505),
            "text_encoder": (CLAP_TEXT, 501_284_353),
        }
        for part, (config, size) in published_sizes.items():
            (tmp_path / part).mkdir()
            (tmp_path / part / "config.json").write_text(json.dumps(config))
            module = FILES.build(tmp_path, part)
            assert sum(p.nbytes for p in module.parameters()) == pytest.approx(size, rel=1e-3)


class TestArithmetic:
    def test_text_path(self, folder, audioldm_model):
        """RoBERTa and the projection written out, padded to 512 tokens as the authors do."""
        text = audioldm_model.text_encoder
        weights = torch.load(folder / "text_encoder" / "pytorch_model.bin", weights_only=True)
        prompts = [PROMPT, "rain"]
        batch = text.tokenizer(prompts, padding="max_length", max_length=512, return_tensors="pt")
        assert batch["attention_mask"].sum(1).tolist() == [15, 6]
        expected = clap_text(weights, batch["input_ids"], batch["attention_mask"])
        pooled = audioldm_model.embed_text(prompts).pooled
        torch.testing.assert_close(pooled, expected, rtol=0, atol=1e-4)
        assert (pooled[0] - pooled[1]).abs().max() > 1e-2

    def test_noise_schedule(self, audioldm_model):
        betas = torch.linspace(0.0015**0.5, 0.0195**0.5, 1000) ** 2
        expected = torch.cumprod(1 - betas, 0)
        schedule = audioldm_model.noise_schedule
        torch.testing.assert_close(schedule.alphas_cumprod, expected, rtol=0, atol=1e-6)
        assert schedule.config.prediction_type == "epsilon"
        assert audioldm_model.guidance_scale == 2.5
        assert audioldm_model.latent_shape == (8, 256, 16)

    def test_guided_sampling(self, folder, audioldm_model):
        """Two DDIM steps from fixed noise, the vector given as class labels, written out."""
        prompt, empty = audioldm_model.embed_text(PROMPT), audioldm_model.unconditional()
        latents = sample(audioldm_model, prompt, SamplingSettings(steps=2, seed=3), progress=False)

        unet = UNet2DConditionModel.from_config(TINY_UNET).eval()
        path = folder / "unet" / "diffusion_pytorch_model.bin"
        unet.load_state_dict(torch.load(path, weights_only=True))
        alphas = torch.cumprod(1 - torch.linspace(0.0015**0.5, 0.0195**0.5, 1000) ** 2, 0)
        z = torch.randn(1, 8, 256, 16, generator=torch.Generator().manual_seed(3))
        for t, following in ((501, 1), (1, None)):
            with torch.no_grad():
                e = {
                    name: unet(z, t, None, class_labels=vector / vector.norm()).sample
                    for name, vector in (("prompt", prompt.pooled), ("empty", empty.pooled))
                }
            noise = e["empty"] + 2.5 * (e["prompt"] - e["empty"])
            now = alphas[t]
            then = alphas[0] if following is None else alphas[following]
            clean = (z - (1 - now).sqrt() * noise) / now.sqrt()
            z = then.sqrt() * clean + (1 - then).sqrt() * noise
        scale = z.abs().max()
        torch.testing.assert_close(latents / scale, z / scale, rtol=0, atol=1e-4)
        assert isinstance(audioldm_model.noise_schedule, DDIMScheduler)

    def test_gradient_reaches_the_vector(self, audioldm_model):
        target = audioldm_model.embed_text(PROMPT)
        vector = target.pooled.clone().requires_grad_()
        latent = torch.randn(1, 8, 256, 16, generator=torch.Generator().manual_seed(0))
        conditioning = target.replace_embeddings([vector])
        loss = reconstruction_loss(
            audioldm_model, latent, conditioning, torch.Generator().manual_seed(0)
        )
        loss.backward()
        assert (vector.grad != 0).all()
        assert all(p.grad is None for p in audioldm_model.denoiser.parameters())


class TestEditing:
    @pytest.mark.parametrize("rank", [2, None], ids=["lora", "full"])
    def test_three_steps(self, audioldm_model, clip, rank):
        before = {n: p.clone() for n, p in audioldm_model.denoiser.named_parameters()}
        with NonRigidEdit(audioldm_model, clip, PROMPT, settings(rank), progress=False) as edit:
            first, last = edit.sweep([0.0, 1.0])
            optimised = edit.embedding.conditioning.pooled
            assert edit.finetuning.settings.lora_rank == rank
        after = dict(audioldm_model.denoiser.named_parameters())
        assert list(after) == list(before)
        assert all(torch.equal(after[name], weight) for name, weight in before.items())
        assert len(first.waveform) == len(clip.waveform)
        assert abs(first.waveform - last.waveform).max() > 1e-4

        target = audioldm_model.embed_text(PROMPT).pooled
        assert (optimised - target).norm() > 1e-3
        middle = interpolate(edit.embedding.conditioning, edit.target, 0.5).pooled
        for vector in (optimised, middle):  # back on the sphere the model was trained on
            assert vector.norm().item() == pytest.approx(1, abs=1e-6)

    def test_inpainting(self, audioldm_model, clip):
        gap = Gap(1.0, 1.5)
        with NonRigidEdit(audioldm_model, clip, PROMPT, settings(2), gap, progress=False) as edit:
            filled = edit.edit(1.0)
        inside = slice(16_000, 24_000)
        assert (filled.waveform[: inside.start] == clip.waveform[: inside.start]).all()
        assert (filled.waveform[inside.stop :] == clip.waveform[inside.stop :]).all()
        assert abs(filled.waveform[inside] - clip.waveform[inside]).max() > 1e-4


class TestErrors:
    @pytest.mark.parametrize(
        "name",
        [
            "model_index.json",
            "scheduler/scheduler_config.json",
            "tokenizer/tokenizer.json",
            "text_encoder/config.json",
            "unet/diffusion_pytorch_model",
            "vocoder/pytorch_model.bin",
        ],
    )
    def test_missing_file(self, copied, name):
        for path in copied.glob(f"{name}*"):
            path.unlink()
        stem = name.removesuffix("pytorch_model.bin")
        with pytest.raises(ModelFileError, match=f"{stem}.* is missing: download"):
            FILES.model(copied)

    def test_truncated_pickle(self, copied):
        path = copied / "unet" / "diffusion_pytorch_model.bin"
        path.write_bytes(path.read_bytes()[:-5000])
        with pytest.raises(ModelFileError, match=r"unet/.*\.bin .* is cut short or damaged"):
            FILES.model(copied)

    def test_pickle_with_code(self, copied, tmp_path):
        torch.save(
            {"weight": Trap(tmp_path / "sprung")}, copied / "vae/diffusion_pytorch_model.bin"
        )
        with pytest.raises(ModelFileError, match="holds Python code, which is not run"):
            FILES.model(copied)
        assert not (tmp_path / "sprung").exists()

    def test_another_pipeline(self, copied):
        change(copied / "model_index.json", _class_name="StableDiffusionPipeline")
        with pytest.raises(ModelFileError, match="names a StableDiffusionPipeline, not a AudioLDM"):
            FILES.model(copied)

    def test_part_of_another_class(self, copied):
        change(copied / "model_index.json", text_encoder=["transformers", "CLIPTextModel"])
        with pytest.raises(ModelFileError, match="has CLIPTextModel as text_encoder"):
            FILES.model(copied)

    @pytest.mark.parametrize("part", ["unet", "text_encoder"])
    def test_weights_of_other_shapes(self, copied, part):
        change(copied / "unet" / "config.json", projection_class_embeddings_input_dim=24)
        change(copied / "text_encoder" / "config.json", projection_dim=24)
        with pytest.raises(ModelFileError, match=rf"{part}/.* config.json"):
            FILES.load(copied, part)

    def test_weights_that_are_not_all_there(self, copied):
        path = copied / "text_encoder" / "pytorch_model.bin"
        weights = torch.load(path, weights_only=True)
        del weights["text_projection.linear1.weight"]
        torch.save(weights, path)
        with pytest.raises(ModelFileError, match="lacks text_projection.linear1.weight, which"):
            FILES.model(copied)

    def test_vocoder_of_another_front_end(self, copied):
        change(copied / "vocoder" / "config.json", **VOCODER | {"sampling_rate": 48_000})
        with pytest.raises(ModelFileError, match="48000 Hz, 160 samples a frame"):
            FILES.blueprint(copied)


class Trap:
    """Runs code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def change(path: Path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def clap_text(weights: dict, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """RoBERTa's tower as its authors write it: post-norm blocks, first token pooled."""

    def linear(x, name):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(x, name):
        x = x - x.mean(-1, keepdim=True)
        x = x / (x.pow(2).mean(-1, keepdim=True) + 1e-12).sqrt()
        return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    base = "text_model.embeddings"
    positions = torch.cumsum(mask, 1) * mask + 1  # the first token is 2, padding 1
    x = weights[f"{base}.word_embeddings.weight"][ids]
    x = x + weights[f"{base}.position_embeddings.weight"][positions]
    x = norm(x + weights[f"{base}.token_type_embeddings.weight"][0], f"{base}.LayerNorm")
    hidden = (1 - mask[:, None, None, :]) * -1e9
    for block in range(2):
        name = f"text_model.encoder.layer.{block}"
        q, k, v = (
            linear(x, f"{name}.attention.self.{part}").unflatten(-1, (2, -1)).transpose(1, 2)
            for part in ("query", "key", "value")
        )
        attended = (q @ k.mT / q.shape[-1] ** 0.5 + hidden).softmax(-1) @ v
        attended = linear(attended.transpose(1, 2).flatten(2), f"{name}.attention.output.dense")
        x = norm(x + attended, f"{name}.attention.output.LayerNorm")
        wide = functional.gelu(linear(x, f"{name}.intermediate.dense"))
        x = norm(x + linear(wide, f"{name}.output.dense"), f"{name}.output.LayerNorm")
    pooled = linear(x[:, 0], "text_model.pooler.dense").tanh()
    vector = linear(linear(pooled, "text_projection.linear1").relu(), "text_projection.linear2")
    return vector / vector.norm(dim=-1, keepdim=True)
