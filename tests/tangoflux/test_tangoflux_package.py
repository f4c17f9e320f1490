"""TangoFlux stage by stage beside its authors' package; runs in .venv-tangoflux.

`make test-tangoflux` prints how large the largest differences are.
"""

import json

import pytest
import torch
from diffusers import AutoencoderOobleck
from published_layouts import (
    FLAN_T5_REVISION,
    TINY_T5,
    add_to_hub_cache,
    write_tiny_text_encoder,
)
from published_stable_audio import TINY_VAE
from published_tangoflux import write_tiny_tangoflux
from safetensors.torch import load_file
from tangoflux.model import TangoFlux
from transformers import T5Config, T5EncoderModel

from helpers.models.tangoflux import load_tangoflux

PROMPT = "a dog barking on the roof"
SECONDS = 3.0
GUIDANCE = 4.5
STEPS = 4


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The published files, and FLAN-T5 in a folder and in a hub cache of its own."""
    root = tmp_path_factory.mktemp("tangoflux")
    write_tiny_tangoflux(root / "model")
    text = write_tiny_text_encoder(root / "flan-t5")
    add_to_hub_cache(root / "cache", "google/flan-t5-large", text, FLAN_T5_REVISION)
    T5EncoderModel(T5Config(**TINY_T5)).save_pretrained(text)  # their weights come later
    return root


@pytest.fixture(scope="module")
def model(files):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(files / "cache"))
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        yield load_tangoflux(files / "model")


@pytest.fixture(scope="module")
def theirs(files):
    """Their model, loaded as they load it."""
    config = json.loads((files / "model" / "config.json").read_text())
    theirs = TangoFlux(config | {"text_encoder_name": str(files / "flan-t5")})
    found = theirs.load_state_dict(load_file(files / "model" / "tangoflux.safetensors"), False)
    assert found.missing_keys == ["text_encoder.encoder.embed_tokens.weight"]
    assert not found.unexpected_keys
    return theirs.eval()


@pytest.fixture(scope="module")
def run(theirs):
    """What goes into their transformer and out of it while they sample, and what they return."""
    calls = []

    def record(module, arguments, options, output):
        calls.append((options, output[0]))

    # Of one item, their noise is 64 channels wide whatever the latent's.
    width, draw = theirs.in_channels, torch.randn
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randn", lambda count, frames, _: draw(count, frames, width))
        torch.manual_seed(0)
        handle = theirs.transformer.register_forward_hook(record, with_kwargs=True)
        latent = theirs.inference_flow(
            PROMPT, STEPS, guidance_scale=GUIDANCE, duration=SECONDS, disable_progress=True
        )
        handle.remove()
    assert len(calls) == STEPS
    return calls, latent


@pytest.fixture
def prompt(model):
    return model.embed_text(PROMPT, SECONDS)


def assert_same(what, ours, theirs, tolerance=1e-5):
    """Compare to a share of the standard deviation, which is no small one; print the share."""
    assert ours.shape == theirs.shape
    spread = theirs.std().item()
    difference = (ours - theirs).abs().max().item() / spread
    print(f"{what}: largest difference {difference:.1e} of the standard deviation {spread:.3f}")
    assert spread > 0.01
    assert difference < tolerance


def latents_into(call):
    """The latent, (1, channels, time), that one call of their transformer is about."""
    options, _ = call
    return options["hidden_states"][:1].transpose(1, 2)


def test_text(model, theirs, prompt):
    states, mask = theirs.encode_text_classifier_free([PROMPT])
    empty = model.unconditional(beside=prompt)
    for what, index, ours in (("empty prompt", 0, empty), ("prompt", 1, prompt)):
        assert_same(what, ours.tokens[0][0], states[index])
        assert torch.equal(ours.masks[0][0], mask[index])


@pytest.mark.parametrize("seconds", [1.0, SECONDS, 29.95])
def test_duration(model, theirs, seconds):
    ours = model.embed_text(PROMPT, seconds).given["duration_hidden_states"]
    with torch.no_grad():
        assert_same(f"{seconds} s", ours, theirs.encode_duration(torch.tensor([seconds])))


@pytest.mark.parametrize("step", range(STEPS))
def test_denoiser_with_and_without_guidance(model, run, prompt, step):
    call = run[0][step]
    options, output = call
    [sigma] = options["timestep"].tolist()
    assert sigma == pytest.approx(1 - step / STEPS)
    latent = latents_into(call)
    empty, conditional = output.transpose(1, 2).chunk(2)
    with torch.no_grad():
        ours = model.predict(latent, sigma, prompt)
        unguided = model.predict(latent, sigma, model.unconditional(beside=prompt))
        guided = model.predict(latent, sigma, prompt, GUIDANCE)
    assert_same(f"σ = {sigma:g}, prompt", ours, conditional)
    assert_same(f"σ = {sigma:g}, empty prompt", unguided, empty)
    assert_same(f"σ = {sigma:g}, guided", guided, empty + GUIDANCE * (conditional - empty))
    assert (conditional - empty).abs().max() > 1e-3


def test_the_vector_that_leads(model, run, prompt):
    led, empty = (
        model.denoiser.fc((c.tokens[0] * c.masks[0][..., None]).sum(1) / c.masks[0].sum(1))
        for c in (prompt, model.unconditional(beside=prompt))
    )
    assert_same("vector", torch.cat([empty, led]), run[0][0][0]["pooled_projections"])


def test_one_sampling_step(model, run):
    scheduler = model.sampler()
    scheduler.set_timesteps(STEPS)
    calls, latent = run
    following = [*map(latents_into, calls[1:]), latent.transpose(1, 2)]
    for t, call, after in zip(scheduler.timesteps, calls, following, strict=True):
        empty, conditional = call[1].transpose(1, 2).chunk(2)
        output = empty + GUIDANCE * (conditional - empty)
        ours = scheduler.step(output, t, latents_into(call)).prev_sample
        assert_same(f"step from σ = {t:g}", ours, after)


def test_waveform(model, files, run):
    latent = run[1].transpose(1, 2)
    vae = AutoencoderOobleck.from_config(TINY_VAE)
    vae.load_state_dict(load_file(files / "model" / "vae.safetensors"))
    with torch.no_grad():
        decoded = vae.eval().decode(latent).sample
    assert_same("waveform", model.decode_log_mel(latent), decoded)
    decoded = decoded / decoded.abs().max().clamp(min=1)
    assert_same("sound", torch.from_numpy(model.decode(latent).sound.samples.T), decoded[0])
