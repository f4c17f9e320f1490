import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AudioLDM2Pipeline, AudioLDM2UNet2DConditionModel
from huggingface_hub import constants
from published_audioldm import (
    GPT2,
    GPT2_WIDTH,
    PROJECTION,
    T5_WIDTH,
    TINY_UNET2,
    UNET2,
    write_tiny_audioldm2,
)
from published_layouts import add_to_hub_cache
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import ClapModel, GPT2LMHeadModel

from helpers import load_model
from helpers.editing import EditSettings, Gap, NonRigidEdit
from helpers.editing.embedding import EmbeddingSettings, reconstruction_loss
from helpers.editing.finetuning import FinetuningSettings
from helpers.editing.interpolation import SamplingSettings
from helpers.models import ModelFileError, audioldm2
from helpers.models.audioldm2 import FILES, REPOSITORIES
from helpers.models.latent_audio_model import LatentAudioModel

PROMPT = "a dog barking"
STREAMS = ("", "_1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_tiny_audioldm2(tmp_path_factory.mktemp("audioldm2"))


@pytest.fixture(scope="module")
def audioldm2_model(folder) -> LatentAudioModel:
    return FILES.model(folder)


@pytest.fixture(scope="module")
def pipeline(folder, audioldm2_model) -> AudioLDM2Pipeline:
    """diffusers' own pipeline around the miniature, with the GPT-2 class that works in it."""
    text = audioldm2_model.text_encoder
    return AudioLDM2Pipeline(
        vae=audioldm2_model.vae,
        text_encoder=ClapModel.from_pretrained(folder / "text_encoder"),
        text_encoder_2=text.t5.model,
        projection_model=text.projection,
        language_model=GPT2LMHeadModel.from_pretrained(folder / "language_model"),
        tokenizer=text.clap.tokenizer,
        tokenizer_2=text.t5.tokenizer,
        feature_extractor=None,
        unet=audioldm2_model.denoiser,
        scheduler=audioldm2_model.noise_schedule,
        vocoder=audioldm2_model.vocoder,
    )


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
        assert not audioldm2.FAMILY.is_at_hand("audioldm2")
        with pytest.raises(ModelFileError, match="cvssp/audioldm2 is not in .* connect"):
            load_model("audioldm2")
        _, commit = REPOSITORIES["audioldm2"].split("@")
        add_to_hub_cache(tmp_path, "cvssp/audioldm2", folder, commit)
        assert audioldm2.FAMILY.is_at_hand("audioldm2")
        model = load_model("audioldm2", device="cpu", dtype=torch.bfloat16)
        assert model.name == "audioldm2"
        assert model.dtype == torch.bfloat16

    def test_blueprint_reads_configurations_alone(self, copied):
        for path in copied.rglob("*.safetensors"):
            path.unlink()
        model = FILES.blueprint(copied)
        noisy = torch.zeros(1, *model.latent_shape, device="meta")
        assert model.predict(noisy, 1, model.embed_text(PROMPT)).shape == noisy.shape

    def test_every_published_weight_has_its_place(self, folder, audioldm2_model):
        """Each tensor of the files is in the model with its values; of CLAP, the text tower's."""
        text = audioldm2_model.text_encoder
        parts = {
            "unet": audioldm2_model.denoiser,
            "vae": audioldm2_model.vae,
            "vocoder": audioldm2_model.vocoder,
            "text_encoder": text.clap.model,
            "text_encoder_2": text.t5.model,
            "projection_model": text.projection,
            "language_model": text.language_model,
        }
        for part, module in parts.items():
            [path] = (folder / part).glob("*.safetensors")
            state = module.state_dict()
            weights = load_file(path)
            if part == "text_encoder":
                left_out = {name for name in weights if not name.startswith("text_")}
                assert all(name.startswith(("audio_", "logit_scale")) for name in left_out)
                weights = {name: w for name, w in weights.items() if name not in left_out}
            assert set(state) - set(weights) <= {"encoder.embed_tokens.weight"}
            for name, weight in weights.items():
                torch.testing.assert_close(state[name], weight, rtol=0, atol=0)

    def test_published_widths(self, tmp_path):
        """The paper gives the latent diffusion model 346 million parameters."""
        counts = {}
        for part, config in (("unet", UNET2), ("projection_model", PROJECTION)):
            (tmp_path / part).mkdir()
            (tmp_path / part / "config.json").write_text(json.dumps(config))
            counts[part] = sum(p.numel() for p in FILES.build(tmp_path, part).parameters())
        assert 346e6 <= counts["unet"] < 347e6
        # two projections with their biases, a start and an end for each
        assert counts["projection_model"] == (512 + 1 + 1024 + 1 + 4) * GPT2["n_embd"]


class TestArithmetic:
    @pytest.mark.parametrize("prompt", [PROMPT, "rain", ""])
    def test_text_path_is_that_of_diffusers(self, audioldm2_model, pipeline, prompt):
        tokens, mask, states = pipeline.encode_prompt(prompt, "cpu", 1, False, max_new_tokens=8)
        ours = audioldm2_model.text_encoder([prompt])
        assert states.shape == (1, 8, GPT2_WIDTH)
        torch.testing.assert_close(ours.tokens[0], states, rtol=0, atol=1e-4)
        torch.testing.assert_close(ours.tokens[1], tokens, rtol=0, atol=1e-4)
        assert ours.masks[0].all()
        assert ours.masks[1].tolist() == mask.bool().tolist()

    def test_generated_states(self, folder, audioldm2_model):
        """Projection and GPT-2 written out, without a cache."""
        text = audioldm2_model.text_encoder
        vector = text.clap([PROMPT]).pooled
        sentence = text.t5([PROMPT]).tokens[0][0]
        projection = load_file(folder / "projection_model/diffusion_pytorch_model.safetensors")

        def project(x, suffix):
            weight = projection[f"projection{suffix}.weight"]
            x = x @ weight.T + projection[f"projection{suffix}.bias"]
            ends = (projection[f"{end}_embed{suffix}"][None] for end in ("sos", "eos"))
            start, stop = ends
            return torch.cat([start, x, stop])

        sequence = torch.cat([project(vector, ""), project(sentence, "_1")])
        length = len(sequence)
        weights = load_file(folder / "language_model" / "model.safetensors")
        for _ in range(8):
            sequence = torch.cat([sequence, gpt2(weights, sequence)[-1:]])
        states = audioldm2_model.embed_text(PROMPT).tokens[0][0]
        torch.testing.assert_close(states, sequence[length:], rtol=0, atol=1e-4)

    def test_a_prompt_does_not_depend_on_its_neighbours(self, audioldm2_model):
        alone = audioldm2_model.embed_text(PROMPT)
        beside = audioldm2_model.embed_text([PROMPT, "a dog barking on the roof a dog barking"])
        length = alone.tokens[1].shape[1]
        torch.testing.assert_close(beside.tokens[0][:1], alone.tokens[0])
        torch.testing.assert_close(beside.tokens[1][:1, :length], alone.tokens[1])
        assert beside.masks[1].sum(1).tolist() == [length, beside.masks[1].shape[1]]

    def test_noise_schedule(self, audioldm2_model):
        betas = torch.linspace(0.0015**0.5, 0.0195**0.5, 1000) ** 2
        schedule = audioldm2_model.noise_schedule
        expected = torch.cumprod(1 - betas, 0)
        torch.testing.assert_close(schedule.alphas_cumprod, expected, rtol=0, atol=1e-6)
        assert schedule.config.prediction_type == "epsilon"
        assert audioldm2_model.guidance_scale == 3.5
        assert audioldm2_model.latent_shape == (8, 256, 16)

    def test_guided_step(self, folder, audioldm2_model):
        """Two unpadded calls of the UNet, each stream where its authors put it."""
        prompt, empty = audioldm2_model.embed_text(PROMPT), audioldm2_model.unconditional()
        assert prompt.tokens[1].shape[1] > empty.tokens[1].shape[1]  # one of them gets padded
        noisy = torch.randn(1, 8, 256, 16, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            guided = audioldm2_model.predict(noisy, 400, prompt, guidance_scale=3.5)

        unet = AudioLDM2UNet2DConditionModel.from_config(TINY_UNET2).eval()
        unet.load_state_dict(load_file(folder / "unet" / "diffusion_pytorch_model.safetensors"))
        with torch.no_grad():
            c, u = (
                unet(
                    noisy,
                    400,
                    encoder_hidden_states=e.tokens[0],
                    encoder_hidden_states_1=e.tokens[1],
                ).sample
                for e in (prompt, empty)
            )
        torch.testing.assert_close(guided, u + 3.5 * (c - u), rtol=0, atol=1e-4)
        assert (c - u).abs().max() > 1e-3

    def test_gradient_reaches_every_token_and_no_padding(self, audioldm2_model):
        target = audioldm2_model.embed_text(PROMPT).pad_to([10, 7])
        assert [mask.sum().item() for mask in target.masks] == [8, 4]
        embeddings = [e.clone().requires_grad_() for e in target.embeddings]
        latent = torch.randn(1, 8, 256, 16, generator=torch.Generator().manual_seed(0))
        conditioning = target.replace_embeddings(embeddings)
        loss = reconstruction_loss(
            audioldm2_model, latent, conditioning, torch.Generator().manual_seed(0)
        )
        loss.backward()
        for embedding, mask in zip(embeddings, target.masks, strict=True):
            reached = embedding.grad.abs().sum(-1) > 0
            assert reached.tolist() == mask.tolist()


class TestEditing:
    @pytest.mark.parametrize("rank", [2, None], ids=["lora", "full"])
    def test_three_steps(self, audioldm2_model, clip, rank):
        assert not hasattr(audioldm2_model.denoiser, "add_adapter")  # LoRA gets in without it
        before = {n: p.clone() for n, p in audioldm2_model.denoiser.named_parameters()}
        with NonRigidEdit(audioldm2_model, clip, PROMPT, settings(rank), progress=False) as edit:
            first, last = edit.sweep([0.0, 1.0])
            tuned = edit.finetuning.weights
            pairs = zip(edit.embedding.conditioning.tokens, edit.target.tokens, strict=True)
            assert all(((o - t).abs().amax(-1) > 0.01).all() for o, t in pairs)
            assert edit.finetuning.settings.lora_rank == rank
        after = dict(audioldm2_model.denoiser.named_parameters())
        assert list(after) == list(before)
        assert all(torch.equal(after[name], weight) for name, weight in before.items())
        if rank is None:
            assert any(not torch.equal(tuned[name], weight) for name, weight in before.items())
        else:
            touched = {name.split(".attn")[0] for name in tuned}
            assert len(touched) == len({n.split(".attn")[0] for n in before if ".to_q." in n})
        assert abs(first.waveform - last.waveform).max() > 1e-4

    def test_inpainting(self, audioldm2_model, clip):
        gap = Gap(1.0, 1.5)
        with NonRigidEdit(audioldm2_model, clip, PROMPT, settings(2), gap, progress=False) as edit:
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
            "tokenizer_2/tokenizer.json",
            "language_model/model.safetensors",
            "projection_model/config.json",
        ],
    )
    def test_missing_file(self, copied, name):
        (copied / name).unlink()
        with pytest.raises(ModelFileError, match=f"{name} is missing: download"):
            FILES.model(copied)

    def test_truncated_safetensors(self, copied):
        path = copied / "unet" / "diffusion_pytorch_model.safetensors"
        path.write_bytes(path.read_bytes()[:-5000])
        with pytest.raises(ModelFileError, match=r"unet/.*\.safetensors .* is cut short or damage"):
            FILES.model(copied)

    def test_another_pipeline(self, copied):
        change(copied / "model_index.json", _class_name="AudioLDMPipeline")
        with pytest.raises(ModelFileError, match="names a AudioLDMPipeline, not a AudioLDM2"):
            FILES.model(copied)

    def test_text_to_speech_checkpoint(self, copied):
        change(copied / "model_index.json", text_encoder_2=["transformers", "VitsModel"])
        with pytest.raises(ModelFileError, match="has VitsModel as text_encoder_2, not T5Encoder"):
            FILES.model(copied)

    def test_weights_of_other_shapes(self, copied):
        change(copied / "projection_model" / "config.json", text_encoder_dim=T5_WIDTH + 1)
        with pytest.raises(ModelFileError, match=r"projection_model/.* config.json"):
            FILES.model(copied)

    def test_weights_that_are_not_all_there(self, copied):
        path = copied / "language_model" / "model.safetensors"
        weights = load_file(path)
        del weights["ln_f.weight"]
        save_file(weights, path, {"format": "pt"})
        with pytest.raises(ModelFileError, match=r"lacks ln_f.weight, which its config.json"):
            FILES.model(copied)


def change(path: Path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def gpt2(weights: dict, x: torch.Tensor) -> torch.Tensor:
    """GPT-2's final states for one sequence (length, width) of inputs: pre-norm, causal."""

    def norm(x, name):
        x = x - x.mean(-1, keepdim=True)
        x = x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
        return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def linear(x, name):  # stored as (in, out)
        return x @ weights[f"{name}.weight"] + weights[f"{name}.bias"]

    x = x + weights["wpe.weight"][: len(x)]
    later = torch.ones(len(x), len(x)).triu(1) * -1e9
    for block in range(2):
        name = f"h.{block}"
        qkv = linear(norm(x, f"{name}.ln_1"), f"{name}.attn.c_attn").chunk(3, -1)
        q, k, v = (part.unflatten(-1, (4, -1)).transpose(0, 1) for part in qkv)
        attended = ((q @ k.mT) / q.shape[-1] ** 0.5 + later).softmax(-1) @ v
        x = x + linear(attended.transpose(0, 1).flatten(1), f"{name}.attn.c_proj")
        wide = linear(norm(x, f"{name}.ln_2"), f"{name}.mlp.c_fc")
        wide = functional.gelu(wide, approximate="tanh")
        x = x + linear(wide, f"{name}.mlp.c_proj")
    return norm(x, "ln_f")
