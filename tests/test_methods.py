"""Methods of the comparison against hand-computed values."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import AudioLDM2UNet2DConditionModel, DDIMScheduler
from tiny import CHANNELS, TINY_SHAPE, WIDTH, tiny_clip, tiny_model
from torch import nn

from helpers.editing import EditSettings, Gap, NonRigidEdit
from helpers.editing.embedding import EmbeddingSettings, optimise_embedding
from helpers.editing.finetuning import FinetuningSettings, finetune
from helpers.editing.inpainting import MaskError, latent_mask, sample_mask
from helpers.editing.interpolation import SamplingSettings, interpolate, sample
from helpers.methods import METHODS, methods_for
from helpers.methods.audioldm_inpainting import AudioLDMInpainting
from helpers.methods.ddpm_inversion import DDPMInversion, invert, posterior_mean, regenerate
from helpers.methods.method import Method, Task
from helpers.methods.ours import Ours, OursWithoutStep1, OursWithoutStep2
from helpers.methods.references import Generation, Source
from helpers.methods.sdedit import SDEdit
from helpers.models.latent_audio_model import PromptError
from helpers.pairs import EDITS

PROMPT = "a dog barking"
GAP = Gap(1, 2)
STEPS = 4
SAMPLING = SamplingSettings(steps=STEPS, guidance_scale=2.0, strength=0.8)
SETTINGS = EditSettings(
    EmbeddingSettings(steps=2, learning_rate=5e-2),
    FinetuningSettings(steps=2, learning_rate=1e-2, lora_rank=2),
    SAMPLING,
)
WHOLE_UNET = dataclasses.replace(
    SETTINGS, finetuning=dataclasses.replace(SETTINGS.finetuning, lora_rank=None)
)
TINY_METHODS = {
    "ours": Ours.of(WHOLE_UNET),
    "ours-lora": Ours.of(SETTINGS, name="Ours (LoRA)"),
    "ours-without-step1": OursWithoutStep1.of(SETTINGS),
    "ours-without-step2": OursWithoutStep2.of(SETTINGS),
    "sdedit": SDEdit(sampling=dataclasses.replace(SAMPLING, ddim_eta=1.0)),
    "audioldm-inpainting": AudioLDMInpainting().with_sampling(steps=STEPS),
    "ddpm-inversion": DDPMInversion().with_sampling(steps=STEPS),
    "generation": Generation(sampling=SAMPLING),
    "source": Source(),
}
TRAINING_FREE = ["sdedit", "audioldm-inpainting", "ddpm-inversion", "generation"]
FILLING = ["sdedit", "audioldm-inpainting", "generation", "ours-lora"]
KEPT = dict.fromkeys(TINY_METHODS, []) | {
    "ours": ["embedding.pt", "finetuning"],
    "ours-lora": ["embedding.pt", "finetuning"],
    "ours-without-step1": ["finetuning"],
    "ours-without-step2": ["embedding.pt"],
}
MODEL_FORMS = ["TANGO's", "AudioLDM's", "AudioLDM 2's"]

every_method = pytest.mark.parametrize("key", TINY_METHODS)
every_form = pytest.mark.parametrize("form", MODEL_FORMS)
every_prediction = pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])


def model_of(form, prediction_type):
    """A tiny model that listens as the named one does."""
    if form == "AudioLDM 2's":
        model = tiny_model(prediction_type, streams=2)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            unet = AudioLDM2UNet2DConditionModel(
                in_channels=CHANNELS,
                out_channels=CHANNELS,
                down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
                block_out_channels=(8, 16),
                layers_per_block=1,
                norm_num_groups=4,
                attention_head_dim=2,
                cross_attention_dim=((None, WIDTH, WIDTH),) * 2,
            )
        model.denoiser = unet.eval().requires_grad_(False)
        return model
    return tiny_model(prediction_type, pooled=form == "AudioLDM's")


class KnownUNet(nn.Module):
    """Outputs one value everywhere and remembers what it was shown."""

    def __init__(self, value=0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(float(value)), requires_grad=False)
        self.seen = []

    def forward(self, latent, timesteps, **inputs):
        self.seen.append((int(timesteps[0]), latent[-1:].clone()))
        return SimpleNamespace(sample=torch.full_like(latent, float(self.weight)))

    @property
    def timesteps(self):
        return [timestep for timestep, _ in self.seen]


@pytest.fixture
def source(model, clip):
    return model.encode(clip)


def sweep(key, model, clip, settings, gap=None, **options):
    method = TINY_METHODS[key]
    if gap is None and "addition" not in method.edits:
        gap = GAP
    return method.sweep(model, clip, PROMPT, settings, gap, progress=False, **options)


def same(one, other, tolerance=1e-4):
    return np.allclose(one.waveform, other.waveform, atol=tolerance)


def alpha_bar(timestep):
    """Of the tiny model's schedule, from its published definition."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return float((1 - betas[: timestep + 1]).prod()) if timestep >= 0 else 1.0


# --- every method --------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "kept"), KEPT.items())
def test_a_sweep_is_what_each_setting_gives_alone(key, kept, model, clip, tmp_path):
    settings = TINY_METHODS[key].settings[-2:]
    before = {name: weight.clone() for name, weight in model.denoiser.state_dict().items()}
    swept = sweep(key, model, clip, settings, folder=tmp_path)
    assert len(swept) == len(settings)
    assert {len(edit.waveform) for edit in swept} == {len(clip.waveform)}
    # What was trained is kept, and read again below.
    assert sorted(path.name.partition("-")[0] for path in tmp_path.rglob("*.pt")) == kept

    torch.randn(7)  # the global generator decides nothing
    [alone] = sweep(key, model, clip, settings[-1:], folder=tmp_path)
    assert same(alone, swept[-1])

    after = model.denoiser.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], weight) for name, weight in before.items())


@pytest.mark.parametrize("key", TRAINING_FREE)
@every_form
def test_the_knob_works_on_every_form_of_model(key, form, clip):
    weakest, *_, strongest = TINY_METHODS[key].settings
    model = model_of(form, "v_prediction" if form == "TANGO's" else "epsilon")
    gap = GAP if key == "audioldm-inpainting" else None
    task = Task(model, clip, PROMPT, gap, progress=False)
    latents = TINY_METHODS[key].latents(task, [weakest, strongest])
    assert latents.isfinite().all()
    assert (latents[0] - latents[1]).abs().max() > 1e-3


@pytest.mark.parametrize("key", FILLING)
def test_filling_a_gap_keeps_what_is_around_it_and_knows_nothing_of_what_it_held(key, model, clip):
    observed = sample_mask(clip, GAP)
    waveform = clip.waveform.copy()
    waveform[~observed] *= -0.3
    settings = TINY_METHODS[key].settings[-1:]
    edit, other = (
        sweep(key, model, recording, settings, GAP)[0].waveform
        for recording in (clip, dataclasses.replace(clip, waveform=waveform))
    )
    assert np.array_equal(edit[observed], clip.waveform[observed])
    assert not np.allclose(edit[~observed], clip.waveform[~observed], atol=1e-3)
    assert np.array_equal(edit, other)


@every_method
@pytest.mark.parametrize("settings", [[], [0.5, float("nan")], [1000.0]])
def test_bad_strengths_are_refused_before_any_work(key, settings, clip):
    model = tiny_model()
    model.denoiser = KnownUNet()
    with pytest.raises(ValueError, match=r"η|strength|share of steps|guidance scale|nothing"):
        sweep(key, model, clip, settings)
    assert model.denoiser.seen == []


def test_what_a_refusal_of_strengths_says(model, clip):
    with pytest.raises(ValueError, match=r"^SDEdit's strength is 1\.5: choose above 0, up to 1\.$"):
        sweep("sdedit", model, clip, [1.5])
    with pytest.raises(ValueError, match=r"DDPM inversion got no share of steps.*e\.g\. \[0\.5\]"):
        sweep("ddpm-inversion", model, clip, [])


@pytest.mark.parametrize("key", [key for key in TINY_METHODS if key != "source"])
def test_an_empty_prompt_is_refused(key, model, clip):
    method = TINY_METHODS[key]
    gap = None if "addition" in method.edits else GAP
    with pytest.raises(PromptError, match="prompt is empty"):
        method.sweep(model, clip, " ", [0.5], gap, progress=False)


@pytest.mark.parametrize("key", [key for key in TINY_METHODS if key != "ddpm-inversion"])
def test_a_gap_that_does_not_fit_is_refused(key, model, clip):
    with pytest.raises(MaskError, match="does not lie in"):
        sweep(key, model, clip, [0.5], Gap(2, 9))


# --- methods_for ---------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["paper", "pocket"])
def test_a_preset_has_every_method(preset):
    methods = methods_for(preset)
    assert list(methods) == list(TINY_METHODS)
    for key, method in methods.items():
        assert type(method) is type(TINY_METHODS[key])
        assert len(method.settings) == (1 if key == "source" else 5)
        assert list(method.settings) == sorted(set(method.settings))
        assert method.fixed_setting in method.settings
        assert method.edits <= set(EDITS)
    assert len({method.name for method in methods.values()}) == len(methods)


def test_an_unknown_preset_is_refused():
    with pytest.raises(ValueError, match="no methods for 'fastest': choose from paper, pocket"):
        methods_for("fastest")


def test_published_settings():
    sdedit, inpainting, inversion = (
        METHODS["paper"][key] for key in ("sdedit", "audioldm-inpainting", "ddpm-inversion")
    )
    assert sdedit.sampling == SamplingSettings(steps=100, guidance_scale=3, ddim_eta=1)
    assert {0.25, 0.5, 0.75} <= set(sdedit.settings)
    assert inpainting.sampling == SamplingSettings(steps=200, ddim_eta=1)
    assert inversion.sampling == SamplingSettings(steps=200, guidance_scale=12, ddim_eta=1)
    assert (inpainting.fixed_setting, inversion.fixed_setting) == (2.5, 0.5)
    assert inversion.source_guidance_scale == 3


@pytest.mark.parametrize("key", ["ours-lora", "sdedit", "ddpm-inversion", "generation"])
def test_sampling_is_changed_in_one_place(key):
    method = TINY_METHODS[key]
    assert method.with_sampling(steps=9, seed=4).sampling == dataclasses.replace(
        method.sampling, steps=9, seed=4
    )


def test_roles():
    roles = {}
    for key, method in METHODS["pocket"].items():
        roles.setdefault(method.role, []).append(key)
    assert roles == {
        "subject": ["ours", "ours-lora"],
        "ablation": ["ours-without-step1", "ours-without-step2"],
        "baseline": ["sdedit", "audioldm-inpainting", "ddpm-inversion"],
        "reference": ["generation", "source"],
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loud(Method):
    """A method of one's own: noise, the louder the larger the setting."""

    name: str = "Loud"
    settings: tuple[float, ...] = (0.5, 1.0)
    fixed_setting: float = 0.5
    knob = "loudness"

    def latents(self, task: Task, settings):
        noise = torch.randn(task.latent.shape, generator=torch.Generator().manual_seed(0))
        return torch.cat([noise * value for value in settings])


def test_a_method_of_ones_own_needs_its_latents_alone(model, clip):
    one, other = Loud().sweep(model, clip, PROMPT, [0.5, 1.0])
    assert (one.name, Loud().role) == ("pulses, Loud, loudness = 0.5", "baseline")
    assert not same(one, other)
    [filled] = Loud().sweep(model, clip, PROMPT, [0.5], GAP)
    observed = sample_mask(clip, GAP)
    assert np.array_equal(filled.waveform[observed], clip.waveform[observed])


# --- clips that stop in mid-sound ----------------------------------------------------------------


class Watching(SDEdit):
    """SDEdit that remembers what it was given."""

    given = []

    def latents(self, task, settings):
        self.given.append(task.clip)
        return super().latents(task, settings)


# --- SDEdit --------------------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [0.25, 0.5, 1.0])
def test_sdedit_denoises_from_the_very_timestep_it_noised_to(model, clip, source, strength):
    model.denoiser = unet = KnownUNet()
    sweep("sdedit", model, clip, [strength])
    assert unet.timesteps == [751, 501, 251, 1][-round(4 * strength) :]

    noise = torch.randn((1, *TINY_SHAPE), generator=torch.Generator().manual_seed(0))
    timestep, first = unet.seen[0]
    signal = alpha_bar(timestep)
    noised = math.sqrt(signal) * source + math.sqrt(1 - signal) * noise
    assert torch.allclose(first, noise if strength == 1 else noised, atol=1e-5)


def test_sdedit_s_gap_starts_from_noise_alone(model, clip):
    model.denoiser = unet = KnownUNet()
    sweep("sdedit", model, clip, [0.5], GAP)
    noise = torch.randn((1, *TINY_SHAPE), generator=torch.Generator().manual_seed(0))
    timestep, first = unet.seen[0]
    inside = latent_mask(clip, GAP, TINY_SHAPE[1])[0, 0, :, 0] == 0
    expected = math.sqrt(1 - alpha_bar(timestep)) * noise
    assert torch.allclose(first[:, :, inside], expected[:, :, inside], atol=1e-6)


# --- AudioLDM inpainting -------------------------------------------------------------------------


def filled(model, source, mask, **settings):
    method = AudioLDMInpainting().with_sampling(steps=STEPS, **settings)
    return method.fill(model, model.embed_text(PROMPT), source, mask, 2.0, progress=False)


def test_inpainting_ends_in_the_source_where_it_is_kept_and_in_the_model_s_elsewhere(clip):
    model = tiny_model("sample")
    model.denoiser = KnownUNet(0.7)
    source, mask = model.encode(clip), latent_mask(clip, GAP, TINY_SHAPE[1])
    latent = filled(model, source, mask)
    kept = mask.bool().expand_as(latent)
    assert torch.equal(latent[kept], source[kept])
    assert torch.allclose(latent[~kept], torch.tensor(0.7), atol=1e-6)


def test_inpainting_shows_the_source_noised_to_the_step_s_own_timestep(clip):
    model = tiny_model("sample")
    model.denoiser = unet = KnownUNet(0.7)
    source, mask = model.encode(clip), latent_mask(clip, GAP, TINY_SHAPE[1])
    filled(model, source, mask)
    kept = mask.bool().expand_as(source)
    assert unet.timesteps == [751, 501, 251, 1]

    noises = []
    for timestep, latent in unet.seen:
        signal = alpha_bar(timestep)
        noises.append((latent - math.sqrt(signal) * source)[kept] / math.sqrt(1 - signal))
    noises = torch.stack(noises)
    assert torch.allclose(noises.std(dim=1), torch.ones(STEPS), atol=0.1)
    correlations = torch.corrcoef(noises) - torch.eye(STEPS)
    assert correlations.abs().max() < 0.2  # new noise at each step


def test_the_gap_of_inpainting_follows_ddim(clip):
    model = tiny_model("sample")
    model.denoiser = unet = KnownUNet(0.7)
    source, mask = model.encode(clip), latent_mask(clip, GAP, TINY_SHAPE[1])
    filled(model, source, mask, ddim_eta=0.0)
    gap = ~mask.bool().expand_as(source)
    latents = [latent[gap] for _, latent in unet.seen]
    noise = torch.randn((1, *TINY_SHAPE), generator=torch.Generator().manual_seed(0))
    assert torch.equal(latents[0], noise[gap])
    signal, following = alpha_bar(751), alpha_bar(501)
    epsilon = (latents[0] - math.sqrt(signal) * 0.7) / math.sqrt(1 - signal)
    expected = math.sqrt(following) * 0.7 + math.sqrt(1 - following) * epsilon
    assert torch.allclose(latents[1], expected, atol=1e-5)


def test_inpainting_without_a_gap_is_refused(model, clip):
    with pytest.raises(ValueError, match=r"fills a gap and got none: give gap=Gap"):
        TINY_METHODS["audioldm-inpainting"].sweep(model, clip, PROMPT, [2.0])


# --- DDPM inversion ------------------------------------------------------------------------------


@every_prediction
@pytest.mark.parametrize(("timestep", "following"), [(751, 501), (1, -249)])
def test_the_posterior_mean_is_ddpm_s(prediction_type, timestep, following):
    scheduler = tiny_model(prediction_type).sampler(DDIMScheduler)
    scheduler.set_timesteps(STEPS)
    latent, output = torch.tensor([[[[0.3]]]]), torch.tensor([[[[-0.8]]]])
    signal, signal_next = alpha_bar(timestep), alpha_bar(following)
    match prediction_type:
        case "epsilon":
            clean = (0.3 + math.sqrt(1 - signal) * 0.8) / math.sqrt(signal)
        case "v_prediction":
            clean = math.sqrt(signal) * 0.3 + math.sqrt(1 - signal) * 0.8
        case "sample":
            clean = -0.8
    # Ho et al. (2020), Eq. 7, between two timesteps of the shortened chain
    alpha = signal / signal_next
    mean = math.sqrt(signal_next) * (1 - alpha) / (1 - signal) * clean
    mean += math.sqrt(alpha) * (1 - signal_next) / (1 - signal) * 0.3
    result = posterior_mean(scheduler, output, torch.tensor(timestep), latent)
    assert result.item() == pytest.approx(mean, abs=1e-5)


def test_the_noises_of_a_hand_computed_chain():
    model = tiny_model("sample")
    model.denoiser = KnownUNet(0.5)  # always estimates x_0 = 0.5
    source = torch.full((1, 1, 1, 1), 2.0)
    inversion = invert(model, source, model.unconditional(), steps=2, seed=3, progress=False)
    noise = torch.randn((2, 1, 1, 1), generator=torch.Generator().manual_seed(3)).flatten()

    high, low = alpha_bar(501), alpha_bar(1)
    first = math.sqrt(high) * 2 + math.sqrt(1 - high) * noise[0]
    second = math.sqrt(low) * 2 + math.sqrt(1 - low) * noise[1]
    assert torch.allclose(inversion.latents.flatten(), torch.stack([first, second]), atol=1e-5)
    alpha = high / low
    mean = (math.sqrt(low) * (1 - alpha) * 0.5 + math.sqrt(alpha) * (1 - low) * first) / (1 - high)
    assert inversion.noises[0].item() == pytest.approx(float(second - mean), abs=1e-5)
    assert inversion.noises[1].item() == 0

    model.denoiser.weight.fill_(0.7)  # the chain ends in the estimate
    edited = regenerate(model, inversion, model.unconditional(), progress=False)
    assert edited.item() == pytest.approx(0.7, abs=1e-5)


@pytest.mark.parametrize(
    ("form", "prediction_type"),
    [("TANGO's", "v_prediction"), ("AudioLDM's", "epsilon"), ("AudioLDM 2's", "sample")],
)
def test_inversion_leads_to_the_source_but_for_the_last_step(prediction_type, form, clip):
    model = model_of(form, prediction_type)
    source, conditioning = model.encode(clip), model.embed_text("pulses of a sine")
    inversion = invert(model, source, conditioning, 3.0, steps=4, progress=False)
    assert inversion.noises[-1].abs().max() == 0
    last, timestep = inversion.latents[-1:], inversion.scheduler.timesteps[-1]
    output = model.predict(last, timestep, conditioning, 3.0)
    estimate = inversion.scheduler.step(output, timestep, last).pred_original_sample
    for share in (1.0, 0.5):
        again = regenerate(model, inversion, conditioning, 3.0, share, progress=False)
        signal = alpha_bar(-1)
        assert (again - signal**0.5 * estimate).abs().max() < 1e-4
    edited = regenerate(model, inversion, model.embed_text(PROMPT), 12.0, 0.5, progress=False)
    assert (edited - again).abs().max() > 1e-3


def test_the_noise_of_each_timestep_is_its_own(model, source):
    steps = 8
    inversion = invert(model, source, model.unconditional(), steps=steps, progress=False)
    noises = []
    for timestep, latent in zip(inversion.scheduler.timesteps, inversion.latents, strict=True):
        signal = alpha_bar(int(timestep))
        noises.append(((latent - math.sqrt(signal) * source) / math.sqrt(1 - signal)).flatten())
    noises = torch.stack(noises)
    assert torch.allclose(noises.std(dim=1), torch.ones(steps), atol=0.1)
    assert (torch.corrcoef(noises) - torch.eye(steps)).abs().max() < 0.15


def test_a_partial_inversion_is_the_end_of_a_whole_one(model, source):
    whole, part = (
        invert(model, source, model.unconditional(), steps=STEPS, share=share, progress=False)
        for share in (1.0, 0.5)
    )
    assert len(part.noises) == 2
    assert torch.equal(part.noises, whole.noises[-2:])
    assert torch.equal(part.latents, whole.latents[-2:])
    with pytest.raises(ValueError, match="3 steps are to be run and 2 were inverted"):
        regenerate(model, part, model.unconditional(), share=0.75, progress=False)


def test_only_the_last_steps_are_edited(model, clip):
    model.denoiser = unet = KnownUNet()
    sweep("ddpm-inversion", model, clip, [0.25, 0.75])
    assert unet.timesteps == [501, 251] + [1] + [501, 251, 1]


def test_a_source_prompt_is_inverted_with_its_own_guidance(model, clip):
    method = TINY_METHODS["ddpm-inversion"]
    unguided = dataclasses.replace(method, source_guidance_scale=1.0)
    results = [
        one.sweep(model, clip, PROMPT, [0.75], source_prompt=described, progress=False)[0]
        for one, described in [(method, ""), (method, "a sine"), (unguided, "a sine")]
    ]
    assert not same(results[0], results[1])
    assert not same(results[1], results[2])


def test_inversion_of_a_gap_is_refused(model, clip):
    with pytest.raises(ValueError, match="cannot fill a gap: use it for addition or style"):
        sweep("ddpm-inversion", model, clip, [0.5], GAP)


# --- ours and its ablations ----------------------------------------------------------------------


def test_ours_is_the_three_steps(model, clip):
    edits = sweep("ours-lora", model, clip, [0.2, 1.0])
    with NonRigidEdit(model, clip, PROMPT, SETTINGS, progress=False) as edit:
        by_hand = edit.sweep([0.2, 1.0])
        assert all(same(*pair) for pair in zip(edits, by_hand, strict=True))


def test_without_step_1_the_model_is_tuned_on_the_prompt_itself(model, clip, source):
    [result] = sweep("ours-without-step1", model, clip, [0.5])
    target = model.embed_text(PROMPT)
    tuned = finetune(model, source, target, SETTINGS.finetuning, progress=False)
    sampling = dataclasses.replace(SAMPLING, strength=0.5)
    latent = sample(tuned.model, target, sampling, source, progress=False)
    assert same(result, model.decode(latent, clip))
    assert result.name == "pulses, Ours without Step 1, strength = 0.5"


def test_without_step_2_the_base_model_samples_from_e_opt_to_the_prompt(model, clip, source):
    results = sweep("ours-without-step2", model, clip, [0.0, 0.6])
    target = model.embed_text(PROMPT)
    optimised = optimise_embedding(model, source, target, SETTINGS.embedding, progress=False)
    for eta, result in zip([0.0, 0.6], results, strict=True):
        conditioning = interpolate(optimised.conditioning, target, eta)
        latent = sample(model, conditioning, SAMPLING, source, progress=False)
        assert same(result, model.decode(latent, clip))


# --- reference conditions -------------------------------------------------------------------------


def test_generation_is_the_prompt_s_alone(model, clip):
    [edit] = sweep("generation", model, clip, [2.0])
    [other] = sweep("generation", model, tiny_clip(3.0, frequency=880), [2.0])
    assert np.array_equal(edit.waveform, other.waveform)
    sampling = dataclasses.replace(SAMPLING, strength=1.0)
    latent = sample(model, model.embed_text(PROMPT), sampling, progress=False)
    assert same(edit, model.decode(latent, clip))


def test_the_source_is_the_recording_without_what_is_to_be_filled(model, clip):
    assert sweep("source", model, clip, [1.0]) == [clip]
    [silent] = sweep("source", model, clip, [1.0], GAP)
    observed = sample_mask(clip, GAP)
    assert np.array_equal(silent.waveform[observed], clip.waveform[observed])
    assert np.abs(silent.waveform[~observed]).max() == 0


def test_a_source_latent_is_zero_in_the_gap(model, clip):
    latent = Task(model, clip, PROMPT, GAP).latent
    kept = latent_mask(clip, GAP, TINY_SHAPE[1]).bool().expand_as(latent)
    assert latent[~kept].abs().max() == 0
    assert latent[kept].abs().min() > 0
