"""Step 3: η, sampling and its second knob."""

import diffusers
import pytest
import torch
from tiny import TINY_SHAPE

from helpers.editing.interpolation import (
    SamplingSettings,
    check_eta,
    check_sampling,
    interpolate,
    sample,
)
from helpers.models.latent_audio_model import Conditioning

SCHEDULERS = [
    "DDIMScheduler",
    "DDPMScheduler",
    "DPMSolverMultistepScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "UniPCMultistepScheduler",
]


@pytest.fixture
def source(model, clip):
    return model.encode(clip)


@pytest.fixture
def pair(model):
    target = model.embed_text("a dog barking")
    return target.replace_embeddings([target.tokens[0] + 1.0]), target


def test_the_ends_of_eta_are_exact(pair):
    optimised, target = pair
    assert torch.equal(interpolate(optimised, target, 0).tokens[0], optimised.tokens[0])
    assert torch.equal(interpolate(optimised, target, 1).tokens[0], target.tokens[0])
    assert torch.equal(interpolate(optimised, target, 1).masks[0], target.masks[0])


def test_between_them_it_is_linear(pair):
    optimised, target = pair
    middle = interpolate(optimised, target, 0.25).tokens[0]
    assert torch.allclose(middle, 0.25 * target.tokens[0] + 0.75 * optimised.tokens[0])


def test_beyond_the_prompt_it_extrapolates(pair):
    optimised, target = pair
    beyond = interpolate(optimised, target, 1.2).tokens[0]
    assert torch.allclose(beyond, target.tokens[0] - 0.2, atol=1e-6)


def test_pooled_vectors_are_interpolated_on_the_sphere(pooled_model):
    one, other = (pooled_model.embed_text(prompt) for prompt in ("rain", "a dog"))
    for eta in (0.0, 0.3, 1.0):
        mixed = interpolate(one, other, eta).pooled
        assert mixed.norm().item() == pytest.approx(1.0)
        expected = eta * other.pooled + (1 - eta) * one.pooled
        assert torch.allclose(mixed, expected / expected.norm(), atol=1e-6)


@pytest.mark.parametrize("eta", [float("nan"), float("inf"), -0.6, 1.6])
def test_an_eta_that_makes_no_sense_is_refused(pair, eta):
    with pytest.raises(ValueError, match="η is"):
        interpolate(*pair, eta)


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_a_batch_is_what_each_item_gives_alone(model, pair, source, name, strength):
    settings = SamplingSettings(steps=6, strength=strength, scheduler=name, ddim_eta=0.5)
    conditionings = [interpolate(*pair, eta) for eta in (0, 0.5, 1)]
    batch = sample(model, Conditioning.cat(conditionings), settings, source, progress=False)
    assert batch.shape == (3, *TINY_SHAPE)
    assert batch.isfinite().all()
    for item, conditioning in zip(batch, conditionings, strict=True):
        alone = sample(model, conditioning, settings, source, progress=False)
        assert torch.allclose(item, alone[0], atol=1e-4)


def test_equal_conditionings_give_equal_samples(model, pair):
    settings = SamplingSettings(steps=4, scheduler="DDPMScheduler")
    batch = sample(model, pair[1].repeat(3), settings, progress=False)
    assert torch.allclose(batch[0], batch[1], atol=1e-5)
    assert torch.allclose(batch[0], batch[2], atol=1e-5)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_tiny_strength_gives_the_source_back(model, pair, source, name):
    """One last step: no further away than the noise that was added for it."""
    settings = SamplingSettings(steps=200, strength=0.005, scheduler=name, guidance_scale=1.0)
    result = sample(model, pair[1], settings, source, progress=False)
    scheduler = model.sampler(getattr(diffusers, name))
    scheduler.set_timesteps(200)
    alpha_bar = model.noise_schedule.alphas_cumprod[scheduler.timesteps[-1].long()]
    assert alpha_bar > 0.99
    assert (result - source).square().mean().sqrt() < 1.2 * (1 - alpha_bar).sqrt()


def test_more_strength_goes_further_from_the_source(model, pair, source):
    distances = []
    for strength in (0.1, 0.5, 1.0):
        settings = SamplingSettings(steps=20, strength=strength)
        result = sample(model, pair[1], settings, source, progress=False)
        distances.append((result - source).norm().item())
    assert distances == sorted(distances)


@pytest.mark.parametrize(("strength", "calls"), [(1.0, 20), (0.5, 10), (0.01, 1)])
def test_strength_is_a_share_of_the_steps(model, pair, source, strength, calls):
    timesteps = []
    model.denoiser.register_forward_pre_hook(lambda module, inputs: timesteps.append(inputs[1][0]))
    settings = SamplingSettings(steps=20, strength=strength)
    sample(model, pair[1], settings, source, progress=False)
    expected = model.sampler()
    expected.set_timesteps(20)
    assert timesteps == expected.timesteps[-calls:].tolist()


def test_full_strength_knows_nothing_of_the_source(model, pair, source):
    settings = SamplingSettings(steps=4)
    results = [sample(model, pair[1], settings, s, progress=False) for s in (None, source)]
    assert torch.equal(*results)


def test_where_the_source_is_zero_it_starts_from_noise_alone(model, pair, monkeypatch):
    """One DDIM step of a model that predicts no velocity returns a multiple of where it began."""
    monkeypatch.setattr(model, "predict", lambda z, *a: torch.zeros_like(z))
    settings = SamplingSettings(steps=10, strength=0.1)
    zeros = torch.zeros(1, *TINY_SHAPE)
    result = sample(model, pair[1], settings, zeros, progress=False)
    noise = torch.randn(zeros.shape, generator=torch.Generator().manual_seed(0))
    correlation = torch.corrcoef(torch.stack([result.flatten(), noise.flatten()]))[0, 1]
    assert correlation.item() == pytest.approx(1.0, abs=1e-5)


def test_seeds_decide_and_repeat(model, pair):
    results = [
        sample(model, pair[1], SamplingSettings(steps=3, seed=seed), progress=False)
        for seed in (0, 0, 1)
    ]
    assert torch.equal(results[0], results[1])
    assert not torch.allclose(results[0], results[2], atol=1e-2)


def test_the_model_s_guidance_is_the_default(model, pair):
    model.guidance_scale = 5.0
    default, five, one = (
        sample(model, pair[1], SamplingSettings(steps=3, guidance_scale=g), progress=False)
        for g in (None, 5.0, 1.0)
    )
    assert torch.equal(default, five)
    assert not torch.allclose(default, one, atol=1e-3)


def test_partial_strength_needs_a_source(model, pair):
    with pytest.raises(ValueError, match="starts from the source"):
        sample(model, pair[1], SamplingSettings(strength=0.5))


NO_NUMBERS = (float("nan"), float("inf"), "1", True, [0.5])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("steps", value) for value in (0, -1, 1.5, 50.0, None, *NO_NUMBERS)),
        *(("seed", value) for value in (-1, 0.5, None, *NO_NUMBERS)),
        *(("strength", value) for value in (0.0, -1.0, 1.1, None, *NO_NUMBERS)),
        *(("guidance_scale", value) for value in NO_NUMBERS),
        *(("ddim_eta", value) for value in (-0.1, 1.1, None, *NO_NUMBERS)),
    ],
)
def test_settings_that_cannot_be_are_refused_when_they_are_made(name, value):
    with pytest.raises(ValueError, match=f"^{name} is .*: (give|choose)") as error:
        SamplingSettings(**{name: value})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("eta", [-0.51, 1.6, None, 1j, *NO_NUMBERS])
def test_an_edit_amount_that_cannot_be_is_refused(eta):
    with pytest.raises(ValueError, match="^η is .*: choose from 0"):
        check_eta(eta)


@pytest.mark.parametrize("steps", [1001, 10**6])
def test_more_steps_than_the_model_has_timesteps_are_refused(model, steps):
    with pytest.raises(ValueError, match=f"steps is {steps}: the model has 1000 timesteps"):
        check_sampling(model, SamplingSettings(steps=steps))


ALL_SCHEDULERS = [name for name in dir(diffusers) if name.endswith("Scheduler")]


@pytest.mark.parametrize("name", ALL_SCHEDULERS)
def test_a_scheduler_is_refused_before_any_work_or_it_samples(model, pair, name):
    refused, settings = "", None
    try:
        settings = SamplingSettings(steps=4, scheduler=name)
        check_sampling(model, settings)
    except ValueError as error:
        refused = str(error)
    if refused:
        assert "try DDIMScheduler, DDPMScheduler" in refused
        assert name not in SCHEDULERS
    else:
        assert sample(model, pair[1], settings, progress=False).isfinite().all()


@pytest.mark.parametrize("name", ["DIMScheduler", "AutoencoderKL"])
def test_an_unknown_scheduler_is_refused(name):
    with pytest.raises(ValueError, match=f"no scheduler '{name}'"):
        SamplingSettings(scheduler=name)
