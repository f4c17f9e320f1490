"""What every builder of a base model has to give, so that all else runs on it unchanged."""

import numpy as np
import pytest
import torch
from published_audioldm import write_tiny_audioldm, write_tiny_audioldm2
from published_layouts import write_tiny_hub, write_tiny_tango
from published_stable_audio import write_tiny_stable_audio
from published_tangoflux import write_tiny_tangoflux
from tiny import tiny_clip

from helpers import load_model
from helpers.editing import Gap
from helpers.editing.embedding import reconstruction_loss
from helpers.editing.finetuning import FinetuningSettings, finetune
from helpers.editing.inpainting import known_mask
from helpers.editing.interpolation import SamplingSettings, interpolate, sample
from helpers.models import FAMILIES
from helpers.models.kinds import clean_estimate, draw_timesteps, training_target
from helpers.models.latent_audio_model import Conditioning, PromptError

WRITERS = {
    "tango": write_tiny_tango,
    "audioldm": write_tiny_audioldm,
    "audioldm2": write_tiny_audioldm2,
    "stable_audio": write_tiny_stable_audio,
    "tangoflux": write_tiny_tangoflux,
}
SHORT, LONG = "rain", "a dog barking on the roof"


@pytest.fixture(scope="module", params=FAMILIES)
def model(request, tmp_path_factory):
    """One of each family: the embedded one, and miniatures in the published layouts."""
    if request.param not in WRITERS:
        yield load_model(request.param, device="cpu")
        return
    folder = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder / "cache"))
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        write_tiny_hub(folder / "cache", folder)
        yield load_model(WRITERS[request.param](folder / "model"), device="cpu")


@pytest.fixture(scope="module")
def source():
    return tiny_clip(3.0)


def draw(model, count=1, seed=0):
    return torch.randn((count, *model.latent_shape), generator=torch.Generator().manual_seed(seed))


def middle(model):
    """A timestep half-way."""
    scheduler = model.sampler()
    scheduler.set_timesteps(2)
    return scheduler.timesteps[1]


def predict(model, *arguments):
    with torch.no_grad():
        return model.predict(*arguments)


def weights(model):
    return [w.clone() for w in model.denoiser.state_dict().values()]


# shapes and lengths


def test_a_recording_becomes_a_latent_of_the_stated_shape(model, source):
    latent = model.encode(source)
    assert latent.shape == (1, *model.latent_shape)
    assert latent.dtype == torch.float32
    assert latent.isfinite().all()
    assert latent.std() > 1e-3
    assert torch.equal(model.encode(source), latent)


def test_a_latent_is_what_the_autoencoder_makes_of_what_it_hears(model, source):
    with torch.no_grad():
        posterior = model.vae.encode(model.heard(source)).latent_dist
    scale = model.vae.config.get("scaling_factor", 1)
    torch.testing.assert_close(posterior.mode() * scale, model.encode(source))


def test_a_latent_frame_lasts_what_the_model_says(model):
    assert model.frame_seconds * model.latent_shape[1] == pytest.approx(
        model.clip_samples / model.sample_rate
    )


def test_a_latent_becomes_sound_as_long_as_the_recording_or_as_a_clip_can_be(model, source):
    latent = model.encode(source)
    decoded, whole = model.decode(latent, like=source), model.decode(latent)
    assert decoded.seconds == pytest.approx(source.seconds, abs=1 / model.sample_rate)
    assert whole.seconds == pytest.approx(model.clip_samples / model.sample_rate, abs=1e-3)
    for clip in (decoded, whole):
        assert clip.sound.sample_rate == model.sample_rate
        assert clip.sound.samples.shape[1] == model.channels
        assert 1e-6 < np.abs(clip.sound.samples).max() <= 1
    two = model.decode_batch(torch.cat([latent, -latent]), source)
    difference = two[0].sound.samples - decoded.sound.samples  # random weights magnify rounding
    assert difference.std() < 1e-3 * decoded.sound.samples.std()


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_a_prediction_is_a_latent_for_each_item(model, scale):
    prompts = model.embed_text([SHORT, LONG])
    output = predict(model, draw(model, 2), middle(model), prompts, scale)
    assert output.shape == (2, *model.latent_shape)
    assert output.isfinite().all()
    assert (output[0] - output[1]).abs().max() > 1e-4


def test_a_gap_s_mask_fits_the_latent(model, source):
    mask = known_mask(model, source, Gap(1.0, 2.0))
    assert mask.dim() == 1 + len(model.latent_shape)
    kept = mask.expand(1, *model.latent_shape)[0, 0].reshape(model.latent_shape[1], -1)[:, 0]
    within = (torch.arange(len(kept)) + 0.5) * model.frame_seconds
    assert not kept[(within > 1) & (within < 2)].any()
    assert kept[within < 0.6].all()


# prompts


@pytest.mark.parametrize("prompt", ["", "  "])
def test_an_empty_prompt_is_refused(model, prompt):
    with pytest.raises(PromptError, match="prompt is empty"):
        model.embed_text(prompt)


def test_a_prompt_that_is_too_long_is_told(model):
    with pytest.warns(UserWarning, match="The prompt is too long"):
        model.embed_text("a dog barking " * 200)


def test_a_prompt_means_the_same_beside_a_longer_one(model):
    t, noisy = middle(model), draw(model)
    short, long = model.embed_text(SHORT), model.embed_text(LONG)
    for batch in (model.embed_text([SHORT, LONG]), Conditioning.cat([short, long])):
        together = predict(model, torch.cat([noisy, noisy]), t, batch)
        torch.testing.assert_close(together[:1], predict(model, noisy, t, short), atol=1e-4, rtol=0)
        torch.testing.assert_close(together[1:], predict(model, noisy, t, long), atol=1e-4, rtol=0)


def test_guidance_leads_from_the_unconditional_branch_to_the_prompt(model):
    t, noisy, prompt = middle(model), draw(model), model.embed_text(LONG)
    conditional, empty, guided = (
        predict(model, noisy, t, c, scale)
        for c, scale in ((prompt, 1.0), (model.unconditional(beside=prompt), 1.0), (prompt, 3.0))
    )
    torch.testing.assert_close(guided, empty + 3 * (conditional - empty), atol=1e-3, rtol=1e-3)
    assert (conditional - empty).abs().max() > 1e-4


def test_an_interpolation_keeps_the_masks_and_both_ends(model):
    target, other = model.embed_text(LONG), model.embed_text(LONG)
    other = other.replace_embeddings([e + 0.1 * e.roll(1, -1) for e in other.embeddings])
    t, noisy = middle(model), draw(model)
    for eta, end in ((0.0, other), (1.0, target)):
        mixed = interpolate(other, target, eta)
        assert all(map(torch.equal, mixed.masks, target.masks))
        expected = predict(model, noisy, t, end)
        torch.testing.assert_close(predict(model, noisy, t, mixed), expected, atol=1e-5, rtol=1e-5)


# gradients and tuning


def test_gradients_reach_what_is_attended_and_nothing_else(model, source):
    target, longer = model.embed_text(SHORT), model.embed_text(LONG)
    target = target.pad_to([mask.shape[1] for mask in longer.masks])
    embeddings = [e.clone().requires_grad_() for e in target.embeddings]
    conditioning = target.replace_embeddings(embeddings)
    latent = model.encode(source)
    reconstruction_loss(model, latent, conditioning, torch.Generator().manual_seed(0)).backward()
    for embedding, attended in zip(embeddings, target.embedding_masks, strict=True):
        reached = (embedding.grad != 0).any(-1)
        assert torch.equal(reached, attended.any(-1))
    assert all(p.grad is None for p in model.denoiser.parameters())


@pytest.mark.parametrize("rank", [2, None], ids=["lora", "whole"])
def test_tuning_gives_a_second_model_and_leaves_the_first_as_it_was(model, source, rank):
    before, t, noisy, prompt = weights(model), middle(model), draw(model), model.embed_text(LONG)
    untouched = predict(model, noisy, t, prompt)
    settings = FinetuningSettings(steps=2, learning_rate=1e-3, lora_rank=rank)
    tuned = finetune(model, model.encode(source), prompt, settings, progress=False)
    assert (predict(tuned.model, noisy, t, prompt) - untouched).abs().max() > 1e-6
    assert torch.equal(predict(model, noisy, t, prompt), untouched)
    assert all(map(torch.equal, weights(model), before))


# sampling


def test_sampling_is_decided_by_its_seed(model):
    prompt = model.embed_text(LONG)
    first, again, other = (
        sample(model, prompt, SamplingSettings(steps=2, seed=seed), progress=False)
        for seed in (0, 0, 1)
    )
    assert first.shape == (1, *model.latent_shape)
    assert first.isfinite().all()
    assert torch.equal(first, again)
    assert (first - other).abs().max() > 1e-3


def test_a_weak_start_stays_near_the_source(model, source):
    latent, prompt = model.encode(source), model.embed_text(LONG)
    near, far = (
        sample(model, prompt, SamplingSettings(steps=20, strength=s), latent, progress=False)
        for s in (0.05, 1.0)
    )
    assert (near - latent).norm() < (far - latent).norm()


def test_the_answer_that_is_trained_for_stands_for_the_latent(model):
    schedule = model.noise_schedule
    t = draw_timesteps(schedule, 8, torch.Generator().manual_seed(0))
    latent, noise = draw(model, 8, 1), draw(model, 8, 2)
    target = training_target(schedule, latent, noise, t)
    found = clean_estimate(schedule, target, schedule.add_noise(latent, noise, t), t)
    torch.testing.assert_close(found, latent, atol=1e-4, rtol=0)


def test_the_fingerprint_is_the_model_s_own(model):
    assert model.fingerprint == model.fingerprint
    assert set(model.weights) >= {"UNet", "autoencoder", "text encoder"}
