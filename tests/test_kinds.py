"""Every kind of diffusion on a Gaussian, whose posterior means are known in closed form."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDPMScheduler
from tiny import tiny_model

from helpers.editing.embedding import reconstruction_loss
from helpers.editing.interpolation import SamplingSettings, sample
from helpers.methods.audioldm_inpainting import AudioLDMInpainting
from helpers.methods.ddpm_inversion import invert, regenerate
from helpers.models import kinds
from helpers.models.kinds import (
    AngleSchedule,
    FlowSchedule,
    clean_estimate,
    draw_timesteps,
    every_timestep,
    training_target,
)
from helpers.models.latent_audio_model import Conditioning

MEAN, SPREAD = 1.0, 0.8  # of every value of a latent
SHAPE = (4, 128, 64)


def discrete(prediction_type, zero=False):
    return DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction_type,
        clip_sample=False,
        steps_offset=1,
        rescale_betas_zero_snr=zero,
        timestep_spacing="trailing" if zero else "leading",
    )


SCHEDULES = {
    "epsilon": discrete("epsilon"),
    "v": discrete("v_prediction"),
    "sample": discrete("sample"),
    "v, zero SNR": discrete("v_prediction", zero=True),
    "sample, zero SNR": discrete("sample", zero=True),
    "angle": AngleSchedule(),
    "flow": FlowSchedule(),
}
TO_PURE_NOISE = ("v, zero SNR", "sample, zero SNR", "angle", "flow")
EVERY_KIND = pytest.mark.parametrize("kind", SCHEDULES)


def mixture(kind, t):
    """a(t) and b(t) in float64, written out anew."""
    match kind:
        case "angle":
            return torch.cos(math.pi / 2 * t.double()), torch.sin(math.pi / 2 * t.double())
        case "flow":
            return 1 - t.double(), t.double()
    alpha_bar = SCHEDULES[kind].alphas_cumprod.double()[t.long()]
    return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()


def posterior_means(kind, noisy, t):
    """E[z | x_t] and E[ε | x_t], float64, for z ~ N(MEAN, SPREAD²) and x_t = a·z + b·ε."""
    a, b = (part.reshape(-1, *[1] * (noisy.dim() - 1)) for part in mixture(kind, t))
    surplus = (noisy.double() - a * MEAN) / (a**2 * SPREAD**2 + b**2)
    return MEAN + a * SPREAD**2 * surplus, b * surplus


def best_answer(kind, noisy, t):
    """What a perfect denoiser answers: the mean of its training target given x_t."""
    a, b = (part.reshape(-1, *[1] * (noisy.dim() - 1)) for part in mixture(kind, t))
    latent, noise = posterior_means(kind, noisy, t)
    answers = {"epsilon": noise, "sample": latent, "flow": noise - latent}
    return answers.get(kind.split(",")[0], a * noise - b * latent).float()


class Gaussian(torch.nn.Module):
    """A perfect denoiser."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, latent, timesteps, **conditioning):
        return SimpleNamespace(sample=best_answer(self.kind, latent, timesteps))


def gaussian_model(kind):
    return replace(
        tiny_model(),
        name=kind,
        denoiser=Gaussian(kind),
        noise_schedule=SCHEDULES[kind],
        latent_shape=SHAPE,
    )


def draws(seed, count=1):
    return torch.randn((count, *SHAPE), generator=torch.Generator().manual_seed(seed))


def timesteps(kind):
    """Twelve, from nearly clean to the noisiest there is."""
    if kind in ("angle", "flow"):
        return torch.linspace(0.01, 1, 12)
    return torch.linspace(0, 999, 12).long()


def assert_gaussian(values, tolerance=0.02):
    """Mean and standard deviation of many values."""
    assert values.mean().item() == pytest.approx(MEAN, rel=tolerance)
    assert values.std().item() == pytest.approx(SPREAD, rel=tolerance)


@EVERY_KIND
def test_every_timestep_leads_from_the_latent_to_noise(kind):
    timesteps = every_timestep(SCHEDULES[kind])
    a, b = (part.flatten() for part in kinds.mixture(SCHEDULES[kind], timesteps, torch.zeros(1)))
    assert len(timesteps) == 1000
    assert (a.diff() < 0).all()
    assert (b.diff() > 0).all()
    assert a[0] > 0.99
    assert b[-1] > 0.99


@EVERY_KIND
def test_noise_is_added_and_the_target_formed_as_by_hand(kind):
    t, schedule = timesteps(kind), SCHEDULES[kind]
    latent, noise = MEAN + SPREAD * draws(1, len(t)), draws(2, len(t))
    a, b = (part[:, None, None, None] for part in mixture(kind, t))
    noisy = schedule.add_noise(latent, noise, t)
    torch.testing.assert_close(noisy.double(), a * latent + b * noise, atol=1e-5, rtol=0)
    expected = {"epsilon": noise, "sample": latent, "flow": noise - latent}
    expected = expected.get(kind.split(",")[0], a * noise - b * latent).double()
    target = training_target(schedule, latent, noise, t)
    torch.testing.assert_close(target.double(), expected, atol=1e-5, rtol=0)


@EVERY_KIND
def test_the_clean_estimate_of_a_target_is_the_latent_and_of_its_mean_the_latent_s_mean(kind):
    t, schedule = timesteps(kind), SCHEDULES[kind]
    latent, noise = MEAN + SPREAD * draws(3, len(t)), draws(4, len(t))
    noisy = schedule.add_noise(latent, noise, t)
    target = training_target(schedule, latent, noise, t)
    found = clean_estimate(schedule, target, noisy, t)
    torch.testing.assert_close(found, latent, atol=1e-5, rtol=0)
    found = clean_estimate(schedule, best_answer(kind, noisy, t), noisy, t)
    expected, _ = posterior_means(kind, noisy, t)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=0)


@EVERY_KIND
@pytest.mark.parametrize(("ddim_eta", "tolerance"), [(0.0, 0.02), (1.0, 0.05)])
def test_samples_have_the_mean_and_spread_of_the_data(kind, ddim_eta, tolerance):
    """From pure noise where the schedule ends in it, else one step below its noisiest."""
    model = gaussian_model(kind)
    settings = SamplingSettings(
        steps=200,
        guidance_scale=1.0,
        ddim_eta=ddim_eta,
        strength=1.0 if kind in TO_PURE_NOISE else 0.995,
    )
    prompt, source = model.embed_text("rain"), MEAN + SPREAD * draws(5)
    assert_gaussian(sample(model, prompt, settings, source, progress=False), tolerance)


@EVERY_KIND
def test_a_noised_start_keeps_the_source_as_the_theory_says(kind):
    """Deterministic sampling of a Gaussian is an affine map, known without the sampler."""
    model = gaussian_model(kind)
    source = MEAN + SPREAD * draws(5)
    settings = SamplingSettings(steps=200, guidance_scale=1.0, strength=0.5)
    edited = sample(model, model.embed_text("rain"), settings, source, progress=False)
    scheduler = model.sampler()
    scheduler.set_timesteps(200)
    start = scheduler.timesteps[100:101]
    a, b = mixture(kind, start)
    noisy = a * source + b * draws(0)
    expected = MEAN + SPREAD / (a**2 * SPREAD**2 + b**2).sqrt() * (noisy - a * MEAN)
    assert (edited - expected).abs().mean() < 0.02 * SPREAD
    assert_gaussian(edited)


@EVERY_KIND
def test_inpainting_keeps_the_known_and_fills_the_gap_with_the_data_s_distribution(kind):
    model, source = gaussian_model(kind), MEAN + SPREAD * draws(6)
    mask = torch.ones(1, 1, SHAPE[1], 1)
    mask[:, :, 16:] = 0
    method = AudioLDMInpainting()
    filled = method.fill(model, model.embed_text("rain"), source, mask, 1.0, progress=False)
    assert torch.equal(filled[:, :, :16], source[:, :, :16])
    assert_gaussian(filled[:, :, 16:], tolerance=0.05)


@EVERY_KIND
def test_an_inverted_chain_gives_the_source_back(kind):
    model, source = gaussian_model(kind), MEAN + SPREAD * draws(7)
    prompt = model.embed_text("rain")
    if kind == "flow":
        with pytest.raises(ValueError, match="DDPM inversion is not defined for flow"):
            invert(model, source, prompt, progress=False)
        return
    inversion = invert(model, source, prompt, steps=50, share=0.6, progress=False)
    found = regenerate(model, inversion, prompt, share=0.6, progress=False)
    last = inversion.scheduler.timesteps[-1:]  # its step ends in the model's own estimate
    expected, _ = posterior_means(kind, inversion.latents[-1:], last)
    torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=0)
    assert (found - source).std() < 0.2 * SPREAD


@EVERY_KIND
def test_the_loss_of_a_perfect_denoiser_is_the_target_s_own_variance(kind):
    """Beyond E[target | x_t] nothing can be predicted, and no lower loss is possible."""
    model = gaussian_model(kind)
    latent = MEAN + SPREAD * draws(8)
    prompt = model.embed_text("rain")
    loss = reconstruction_loss(model, latent, prompt, torch.Generator().manual_seed(9), 64)
    t = draw_timesteps(SCHEDULES[kind], 64, torch.Generator().manual_seed(9))
    a, b = mixture(kind, t)
    joint = a**2 * SPREAD**2 + b**2  # variance of x_t
    # The target is p·z + q·ε; its variance given x_t is (p·b − q·a)²·SPREAD² / Var(x_t).
    p, q = {"epsilon": (0, 1), "sample": (1, 0), "flow": (-1, 1)}.get(kind.split(",")[0], (-b, a))
    expected = ((p * b - q * a) ** 2 * SPREAD**2 / joint).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=0.02)


def test_levels_are_drawn_as_the_model_was_trained():
    def drawn(schedule):
        return draw_timesteps(schedule, 100_000, torch.Generator().manual_seed(0)).double()

    even, normal = drawn(AngleSchedule()), drawn(FlowSchedule()).logit()
    assert even.mean().item() == pytest.approx(0.5, abs=0.01)
    assert even.std().item() == pytest.approx(12**-0.5, abs=0.01)
    assert normal.mean().item() == pytest.approx(0, abs=0.02)
    assert normal.std().item() == pytest.approx(1, abs=0.02)
    whole = drawn(discrete("epsilon"))
    assert set(whole.tolist()) == set(range(1000))
    with pytest.raises(ValueError, match="choose uniform or logit-normal"):
        FlowSchedule(drawn="evenly")


def test_a_continuous_model_has_one_sampler_and_ends_in_pure_noise_already():
    model = gaussian_model("flow")
    with pytest.raises(ValueError, match="does not know: use DDIMScheduler"):
        model.sampler(DDPMScheduler)
    assert model.with_terminal_snr("zero") is model
    assert model.schedule == {"kind": "FlowSchedule", "drawn": "logit-normal"}
    assert model.sampler() is not model.noise_schedule  # each run has timesteps of its own


def test_items_of_a_batch_are_sampled_as_each_alone():
    model = gaussian_model("angle")
    settings = SamplingSettings(steps=5, guidance_scale=1.0, ddim_eta=1.0)
    prompt = model.embed_text("rain")
    two = sample(model, Conditioning.cat([prompt, prompt]), settings, progress=False)
    alone = sample(model, prompt, settings, progress=False)
    assert torch.equal(two[0], two[1])
    torch.testing.assert_close(two[:1], alone)
