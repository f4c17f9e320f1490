import diffusers
import numpy as np
import pytest
import torch
from tiny import TINY_SHAPE, tiny_model

from helpers.audio import CLIP_SAMPLES
from helpers.models.latent_audio_model import (
    Conditioning,
    OutOfMemory,
    PromptError,
    explain_memory_errors,
)


def random_latent(batch=1, seed=0):
    return torch.randn((batch, *TINY_SHAPE), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("prompt", ["", "   ", [], ["rain", ""]])
def test_an_empty_prompt_is_refused(model, prompt):
    with pytest.raises(PromptError, match="prompt is empty"):
        model.embed_text(prompt)


def test_weights_are_frozen_and_dropout_is_off(model):
    for module in (model.denoiser, model.vae, model.vocoder):
        assert not module.training
        assert not any(parameter.requires_grad for parameter in module.parameters())


def test_encode_gives_the_scaled_mode_or_a_seeded_draw(model, clip):
    posterior = model.vae.encode(clip.log_mel()).latent_dist
    assert torch.equal(model.encode(clip), 0.9 * posterior.mean)
    draws = [model.encode(clip, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert draws[0].shape == (1, *TINY_SHAPE)
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_decode_divides_by_the_scale_and_keeps_the_true_length(model, clip):
    latent = model.encode(clip)
    log_mel = model.decode_log_mel(latent)
    assert log_mel.shape == (1, 1, 1024, 64)
    assert torch.allclose(log_mel, model.vae.decode(latent / 0.9).sample, atol=1e-6)
    decoded = model.decode(latent, like=clip, name="again")
    assert (len(decoded.waveform), decoded.name) == (len(clip.waveform), "again")
    waveform = model.vocode(log_mel)
    assert waveform.shape == (1, CLIP_SAMPLES)
    assert decoded.waveform == pytest.approx(waveform[0, : len(clip.waveform)].numpy(), abs=1e-6)


def test_a_batch_decodes_to_the_clips_each_latent_gives_alone(model):
    latents = random_latent(2)
    for clip, latent in zip(model.decode_batch(latents), latents, strict=True):
        assert clip.waveform == pytest.approx(model.decode(latent[None]).waveform, abs=1e-5)


def test_a_waveform_beyond_full_scale_is_turned_down(model, monkeypatch):
    loud = torch.tensor([[0.0, -4.0, 2.0]])
    monkeypatch.setattr(model, "vocode", lambda log_mel: loud)
    assert model.decode(random_latent()).waveform.tolist() == [0.0, -1.0, 0.5]


def test_a_waveform_that_is_not_finite_is_refused(model):
    with pytest.raises(FloatingPointError, match="not finite"):
        model.decode(random_latent() * torch.nan)


def test_guidance_extrapolates_from_the_empty_prompt(model):
    latent, prompt = random_latent(2), model.embed_text(["a dog barking", "rain"])
    timesteps = torch.tensor([10, 900])
    conditional = model.predict(latent, timesteps, prompt)
    empty = model.predict(latent, timesteps, model.unconditional(2))
    guided = model.predict(latent, timesteps, prompt, guidance_scale=3.0)
    assert not torch.allclose(conditional, empty, atol=1e-3)
    assert torch.allclose(guided, empty + 3.0 * (conditional - empty), atol=1e-5)


def test_padding_of_the_empty_prompt_is_not_attended(model):
    empty = model.unconditional()
    padded = empty.pad_to([7])
    assert padded.masks[0].tolist() == [[True] + [False] * 6]
    noisy_padding = padded.replace_embeddings(
        [torch.where(padded.masks[0][..., None], padded.tokens[0], torch.tensor(9.0))]
    )
    expected = model.predict(random_latent(), 500, empty)
    for conditioning in (padded, noisy_padding):
        assert torch.allclose(
            model.predict(random_latent(), 500, conditioning), expected, atol=1e-6
        )


def test_one_conditioning_serves_a_whole_batch(model):
    prompt = model.embed_text("rain")
    both = model.predict(random_latent(2), 5, prompt)
    assert torch.allclose(both[:1], model.predict(random_latent(2)[:1], 5, prompt), atol=1e-6)


def test_items_of_different_length_are_padded_into_one_batch(model):
    items = [model.embed_text(prompt) for prompt in ("rain", "a dog barks at the rain")]
    batch = Conditioning.cat(items)
    assert batch.masks[0].sum(1).tolist() == [2, 7]
    assert torch.equal(batch.tokens[0][0, :2], items[0].tokens[0][0])
    assert torch.equal(batch.tokens[0][1], items[1].tokens[0][0])
    assert batch.tokens[0][0, 2:].abs().max() == 0


def test_a_mask_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="needs a mask"):
        Conditioning((torch.zeros(1, 3, 4),), (torch.ones(1, 2),))


def test_two_token_streams_reach_the_unet_by_their_names():
    conditioning = tiny_model(streams=2).embed_text("a dog")
    inputs = conditioning.denoiser_inputs()
    assert inputs["encoder_hidden_states_1"] is conditioning.tokens[1]
    assert inputs["encoder_attention_mask_1"] is conditioning.masks[1]
    assert len(conditioning.embeddings) == 2


def test_a_pooled_vector_is_always_on_the_unit_sphere(pooled_model):
    prompt = pooled_model.embed_text(["a dog", "rain"])
    longer = prompt.replace_embeddings([5 * prompt.pooled])
    for conditioning in (prompt, longer, prompt.repeat(2), Conditioning.cat([prompt, longer])):
        norms = conditioning.denoiser_inputs()["class_labels"].norm(dim=1)
        assert torch.allclose(norms, torch.ones_like(norms))
    predictions = [pooled_model.predict(random_latent(2), 500, c) for c in (prompt, longer)]
    assert torch.allclose(*predictions, atol=1e-6)
    assert not torch.allclose(predictions[0][0], predictions[0][1], atol=1e-3)


@pytest.mark.parametrize("name", ["DDPMScheduler", "DDIMScheduler", "EulerDiscreteScheduler"])
def test_a_sampler_inherits_the_schedule(model, name):
    sampler = model.sampler(getattr(diffusers, name), timestep_spacing="trailing")
    assert isinstance(sampler, getattr(diffusers, name))
    assert sampler.config.prediction_type == "v_prediction"
    assert sampler.config.timestep_spacing == "trailing"
    assert torch.equal(sampler.alphas_cumprod, model.noise_schedule.alphas_cumprod)


def test_the_fingerprint_follows_the_weights(model):
    before = model.fingerprint
    assert tiny_model().fingerprint == before
    assert tiny_model("epsilon").fingerprint != before
    with torch.no_grad():
        model.denoiser.conv_out.bias += 1e-3
    assert model.fingerprint != before


def test_the_fingerprint_follows_the_schedule_s_settings_and_no_rounding(model):
    before = model.fingerprint
    model.noise_schedule.alphas_cumprod *= 1 + 1e-6  # as another processor computes it
    assert model.fingerprint == before
    model.noise_schedule.register_to_config(beta_end=0.02)
    assert model.fingerprint != before


def test_a_log_mel_that_is_not_finite_is_named_before_the_vocoder_chokes_on_it(model):
    with pytest.raises(FloatingPointError, match="log-mel that is not finite"):
        model.decode(torch.full((1, *model.latent_shape), torch.nan))


def full_gpu():
    raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize(
    ("exhaust", "place"),
    [
        (full_gpu, "GPU"),
        (lambda: torch.empty(2**60, dtype=torch.uint8), "computer"),
        (lambda: np.empty(2**60, dtype=np.uint8), "computer"),
        (lambda: bytearray(2**60), "computer"),
    ],
    ids=["GPU", "torch", "NumPy", "Python"],
)
def test_out_of_memory_says_where_and_what_needs_less(exhaust, place):
    message = f"The {place}'s memory is too small for Step 2: fine-tune with LoRA"
    with pytest.raises(OutOfMemory, match=message), explain_memory_errors("Step 2"):
        exhaust()


def test_another_error_of_torch_is_not_taken_for_a_want_of_memory():
    with pytest.raises(RuntimeError, match="size") as caught, explain_memory_errors("Step 2"):
        torch.ones(2) + torch.ones(3)
    assert not isinstance(caught.value, OutOfMemory)


def test_a_zero_terminal_snr_ends_in_pure_noise_and_samples_from_there():
    model = tiny_model()
    zero = model.with_terminal_snr("zero")
    before, after = (m.noise_schedule.alphas_cumprod.sqrt() for m in (model, zero))
    assert after[-1] == 0
    assert after[0] == pytest.approx(before[0].item())
    expected = (before - before[-1]) * before[0] / (before[0] - before[-1])  # Lin et al., Alg. 1
    torch.testing.assert_close(after, expected, atol=1e-4, rtol=0)
    sampler = zero.sampler()
    sampler.set_timesteps(10)
    assert sampler.timesteps[0] == len(after) - 1
    assert sampler.alphas_cumprod[-1] == 0
    assert zero.denoiser is model.denoiser
    assert zero.fingerprint != model.fingerprint
    assert model.noise_schedule.alphas_cumprod[-1] > 0
    assert model.with_terminal_snr("as trained") is model


def test_zero_terminal_snr_is_refused_where_it_means_nothing():
    with pytest.raises(ValueError, match="predicts the noise.*as trained"):
        tiny_model("epsilon").with_terminal_snr("zero")
    assert tiny_model("sample").with_terminal_snr("zero").noise_schedule.alphas_cumprod[-1] == 0
    with pytest.raises(ValueError, match="choose from as trained, zero"):
        tiny_model().with_terminal_snr("half")
