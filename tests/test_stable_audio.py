"""Stable Audio Open: stage by stage what diffusers' own pipeline computes."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderOobleck,
    EDMDPMSolverMultistepScheduler,
    StableAudioDiTModel,
    StableAudioPipeline,
)
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from diffusers.pipelines.stable_audio import StableAudioProjectionModel
from huggingface_hub.errors import GatedRepoError
from published_stable_audio import (
    PROJECTION,
    TRANSFORMER,
    VAE,
    write_tiny_stable_audio,
)
from safetensors.torch import load_file
from transformers import AutoTokenizer, T5EncoderModel

from helpers import load_model
from helpers.audio import AudioError, Clip
from helpers.editing import EditSettings, Gap, NonRigidEdit
from helpers.editing.embedding import EmbeddingSettings, reconstruction_loss
from helpers.editing.finetuning import FinetuningSettings
from helpers.editing.inpainting import known_mask
from helpers.editing.interpolation import SamplingSettings
from helpers.methods import methods_for
from helpers.models import ModelFileError, published
from helpers.models.latent_audio_model import LatentAudioModel
from helpers.models.stable_audio import FILES

PROMPT = "a dog barking"
SECONDS = 3.0
RATE = 44_100


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_tiny_stable_audio(tmp_path_factory.mktemp("stable_audio"))


@pytest.fixture(scope="module")
def model(folder) -> LatentAudioModel:
    return FILES.model(folder)


@pytest.fixture(scope="module")
def pipeline(folder) -> StableAudioPipeline:
    """diffusers' own pipeline, its parts loaded anew by diffusers and transformers."""
    return StableAudioPipeline(
        vae=AutoencoderOobleck.from_pretrained(folder / "vae"),
        text_encoder=T5EncoderModel.from_pretrained(folder / "text_encoder"),
        projection_model=StableAudioProjectionModel.from_pretrained(folder / "projection_model"),
        tokenizer=AutoTokenizer.from_pretrained(folder / "tokenizer"),
        transformer=StableAudioDiTModel.from_pretrained(folder / "transformer"),
        scheduler=EDMDPMSolverMultistepScheduler(sigma_data=1.0, prediction_type="v_prediction"),
    )


@pytest.fixture
def noisy(model):
    return torch.randn((1, *model.latent_shape), generator=torch.Generator().manual_seed(0))


def assert_same(ours, theirs):
    """To 1e-5 of the standard deviation, which is no small one."""
    assert theirs.std() > 0.01
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() < 1e-5 * theirs.std()


def settings(rank: int | None) -> EditSettings:
    return EditSettings(
        EmbeddingSettings(steps=1, learning_rate=0.05),
        FinetuningSettings(steps=1, learning_rate=1e-3, lora_rank=rank),
        SamplingSettings(steps=1),
    )


def their_inputs(pipeline):
    """Tokens and what goes ahead, of the prompt and of the unconditional branch."""
    text = pipeline.encode_prompt(PROMPT, "cpu", True)
    start, end = pipeline.encode_duration(0.0, SECONDS, "cpu", False, 1)
    tokens, ahead = torch.cat([text, start, end], 1), torch.cat([start, end], 2)
    return torch.cat([torch.zeros_like(tokens), tokens]), torch.cat([ahead, ahead])


def their_output(pipeline, latent, t):
    tokens, ahead = their_inputs(pipeline)
    size = pipeline.rotary_embed_dim, latent.shape[2] + 1
    rotary = get_1d_rotary_pos_embed(*size, use_real=True, repeat_interleave_real=False)
    with torch.no_grad():
        return pipeline.transformer(
            torch.cat([latent, latent]),
            torch.tensor([t]),
            encoder_hidden_states=tokens,
            global_hidden_states=ahead,
            rotary_embedding=rotary,
            return_dict=False,
        )[0].chunk(2)


class TestAgreement:
    def test_text_and_seconds(self, model, pipeline):
        (_, tokens), (_, ahead) = their_inputs(pipeline)
        ours = model.embed_text(PROMPT, SECONDS)
        assert_same(ours.tokens[0][0], tokens[:128])
        assert_same(ours.given["seconds_hidden_states"][0], tokens[128:])
        assert_same(ours.given["global_hidden_states"][0], ahead)
        assert ours.masks[0].sum() == 4
        other = model.embed_text(PROMPT, SECONDS + 1).given["seconds_hidden_states"][0]
        assert torch.equal(other[0], tokens[128])
        assert (other[1] - tokens[129]).abs().max() > 1e-4

    @pytest.mark.parametrize("t", [0.1855, 0.5, 0.9987])
    def test_denoiser_with_and_without_guidance(self, model, pipeline, noisy, t):
        empty, conditional = their_output(pipeline, noisy, t)
        prompt = model.embed_text(PROMPT, SECONDS)
        with torch.no_grad():
            ours = model.predict(noisy, t, prompt)
            guided = model.predict(noisy, t, prompt, 7.0)
            unguided = model.predict(noisy, t, model.unconditional(beside=prompt))
        assert_same(ours, conditional)
        assert_same(unguided, empty)
        theirs = empty + 7.0 * (conditional - empty)
        assert (guided - theirs).abs().max() < 2e-5 * theirs.std()  # float32 times 7
        assert (conditional - empty).abs().max() > 1e-3

    def test_one_sampling_step(self, model, pipeline, noisy):
        """Theirs is written for z + σ·ε, with t = 2/π · atan σ; ours is that over √(1 + σ²)."""
        scheduler = model.sampler()
        scheduler.set_timesteps(10)
        now, after = scheduler.timesteps[3:5]
        sigma, sigma_after = (torch.tan(math.pi / 2 * t.double()).float() for t in (now, after))
        output, _ = their_output(pipeline, noisy, now.item())
        ours = scheduler.step(output, now, noisy).prev_sample

        theirs = pipeline.scheduler
        sample = noisy * (1 + sigma**2).sqrt()
        assert_same(theirs.precondition_inputs(sample, sigma), noisy)
        clean = theirs.precondition_outputs(sample, output, sigma)
        moved = sigma_after / sigma * sample + (1 - sigma_after / sigma) * clean
        assert_same(ours, theirs.precondition_inputs(moved, sigma_after))

    def test_a_noised_start_is_theirs_at_that_level(self, model, pipeline, noisy):
        theirs, latent = pipeline.scheduler, torch.ones_like(noisy)
        t = torch.tensor([0.6])
        sigma = torch.tan(math.pi / 2 * t)
        ours = model.noise_schedule.add_noise(latent, noisy, t)
        assert_same(ours, theirs.precondition_inputs(latent + sigma * noisy, sigma))

    def test_waveforms(self, model, pipeline, stereo, noisy):
        samples = torch.zeros(1, 2, model.clip_samples)
        samples[0, :, : round(SECONDS * RATE)] = torch.from_numpy(stereo.sound.samples.T)
        with torch.no_grad():
            latent = pipeline.vae.encode(samples).latent_dist.mode()
            decoded = pipeline.vae.decode(noisy).sample
        assert_same(model.encode(stereo), latent)
        decoded = decoded / decoded.abs().max().clamp(min=1)
        ours = torch.from_numpy(model.decode(noisy).sound.samples.T)
        assert_same(ours, decoded[0])


class TestFiles:
    def test_every_published_weight_has_its_place(self, folder, model):
        text = model.text_encoder
        parts = {
            "transformer": model.denoiser,
            "vae": model.vae,
            "text_encoder": text.model,
            "projection_model": text.projection,
        }
        for part, module in parts.items():
            [path] = (folder / part).glob("*.safetensors")
            state, weights = module.state_dict(), load_file(path)
            assert set(state) - set(weights) <= {"encoder.embed_tokens.weight"}
            for name, weight in weights.items():
                assert torch.equal(state[name], weight), name

    def test_published_widths_give_published_sizes(self, tmp_path):
        """The paper gives the transformer 1,057 and the autoencoder 156 million parameters."""
        for part, (config, millions) in {
            "transformer": (TRANSFORMER, 1057),
            "vae": (VAE, 156),
            "projection_model": (PROJECTION, 0),
        }.items():
            (tmp_path / part).mkdir()
            (tmp_path / part / "config.json").write_text(json.dumps(config))
            module = FILES.build(tmp_path, part)
            assert round(sum(p.numel() for p in module.parameters()) / 1e6) == millions

    def test_blueprint_reads_configurations_alone(self, folder, tmp_path):
        copied = shutil.copytree(folder, tmp_path / "copy")
        for path in copied.rglob("*.safetensors"):
            path.unlink()
        planned = FILES.blueprint(copied)
        noisy = torch.zeros(1, *planned.latent_shape, device="meta")
        assert planned.predict(noisy, 1, planned.embed_text(PROMPT)).shape == noisy.shape

    def test_another_scheduler_is_refused(self, folder, tmp_path):
        copied = shutil.copytree(folder, tmp_path / "copy")
        path = copied / "scheduler" / "scheduler_config.json"
        path.write_text(json.dumps({"prediction_type": "epsilon"}))
        with pytest.raises(ModelFileError, match="is that of another model"):
            FILES.model(copied)

    def test_the_licence_is_named_where_it_was_not_accepted(self, tmp_path, monkeypatch):
        response = type("Response", (), {"headers": {}, "request": None})()

        def refuse(*arguments, **options):
            raise GatedRepoError("403", response=response)

        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr(published, "hf_hub_download", refuse)
        with pytest.raises(ModelFileError, match="accept its licence: do so at https://hugg.* log"):
            load_model("stable-audio", device="cpu")


class TestSound:
    def test_it_takes_and_gives_stereo_at_its_own_rate(self, model, stereo):
        decoded = model.decode(model.encode(stereo), like=stereo)
        assert decoded.sound.samples.shape == (round(SECONDS * RATE), 2)
        assert decoded.sound.sample_rate == RATE
        assert decoded.seconds == pytest.approx(SECONDS, abs=1e-3)
        left = model.encode(Clip.from_waveform(stereo.sound.samples[:, 0], RATE))
        assert (left - model.encode(stereo)).abs().max() > 1e-3  # it hears both

    def test_a_clip_that_is_too_long_is_refused(self, model):
        noise = np.random.default_rng(0).uniform(-0.5, 0.5, 5 * RATE)
        with pytest.raises(AudioError, match="lasts 5.00 s and .* takes 4.46 s: take a part"):
            model.encode(Clip.from_waveform(noise, RATE))

    def test_what_lies_behind_the_clip_s_end_is_not_learnt(self, model, stereo):
        mask = known_mask(model, stereo, None)
        assert mask.shape == (1, 1, 96)
        assert mask.sum() == math.ceil(SECONDS * RATE / 2048)
        latent = model.encode(stereo)
        other = torch.where(mask.bool(), latent, 7.0)
        losses = [
            reconstruction_loss(
                model, z, model.embed_text(PROMPT), torch.Generator().manual_seed(0), 2, mask
            ).item()
            for z in (latent, other)
        ]
        assert losses[0] == losses[1]
        assert known_mask(model, Clip(np.zeros(71_400, np.float32)), None) is None  # 4.46 s


class TestEditing:
    @pytest.mark.parametrize("rank", [2, None], ids=["lora", "whole"])
    def test_three_steps(self, model, stereo, rank):
        before = {name: w.clone() for name, w in model.denoiser.state_dict().items()}
        with NonRigidEdit(model, stereo, PROMPT, settings(rank), progress=False) as edit:
            first, last = edit.sweep([0.0, 1.0])
            [optimised], [target] = edit.embedding.conditioning.tokens, edit.target.tokens
            moved = (optimised - target).abs().amax(-1) > 0.01
            assert torch.equal(moved, edit.target.masks[0])
            assert not any("time_proj" in name for name in edit.finetuning.weights)
            assert edit.finetuning.weights
        assert all(torch.equal(w, before[name]) for name, w in model.denoiser.state_dict().items())
        assert first.sound.samples.shape == stereo.sound.samples.shape
        assert np.abs(first.sound.samples - last.sound.samples).max() > 1e-4

    @pytest.mark.parametrize("key", ["sdedit", "ddpm-inversion", "audioldm-inpainting"])
    def test_every_baseline_runs_on_it(self, model, stereo, key):
        method = methods_for("pocket")[key].with_sampling(steps=2)
        gap = Gap(1.0, 1.5) if key == "audioldm-inpainting" else None
        [edit] = method.sweep(
            model, stereo, PROMPT, [method.fixed_setting], gap, "rain", progress=False
        )
        assert edit.sound.samples.shape == stereo.sound.samples.shape
        assert np.abs(edit.sound.samples - stereo.sound.samples).max() > 1e-3

    def test_inpainting_keeps_every_sample_of_the_recording(self, model, stereo):
        with NonRigidEdit(
            model, stereo, PROMPT, settings(2), Gap(1.0, 1.5), progress=False
        ) as edit:
            filled = edit.edit(1.0).sound.samples
        inside, kept = slice(RATE, round(1.5 * RATE)), stereo.sound.samples
        assert np.array_equal(filled[: inside.start], kept[: inside.start])
        assert np.array_equal(filled[inside.stop :], kept[inside.stop :])
        assert np.abs(filled[inside] - kept[inside]).max() > 1e-4
