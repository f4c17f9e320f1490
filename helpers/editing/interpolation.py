"""Step 3: between the recording's embedding and the prompt's, and from there to sound (Sec. 2.3).

The paper names two knobs for the strength of an edit: η, and the number of diffusion timesteps.
The second is read here as where sampling starts, ``strength``: 1.0 starts from pure noise, less
from the source latent noised to an intermediate timestep, as SDEdit does.
"""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from numbers import Integral

import diffusers
import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor
from tqdm.auto import tqdm

from helpers.editing.optimisation import check_settings, is_number
from helpers.models.latent_audio_model import (
    Conditioning,
    LatentAudioModel,
    explain_memory_errors,
)

ETA_RANGE = (-0.5, 1.5)


@dataclass(frozen=True)
class SamplingSettings:
    """Step 3's hyper-parameters; ``steps`` is the paper's, which names no other.

    Parameters
    ----------
    steps : int
        Sampling steps from pure noise; a ``strength`` below 1 takes that share of them.
    guidance_scale : float, optional
        Classifier-free guidance; None for the model's own.
    strength : float
        Above 0, up to 1: where sampling starts.
    seed : int
        Of the initial noise and of the noise of stochastic samplers.
    scheduler : str
        Class name of any diffusers scheduler.
    ddim_eta : float
        DDIM's own η: 0 is deterministic, 1 as noisy as DDPM.

    Raises
    ------
    ValueError
        If a value is out of range or the scheduler does not exist.
    """

    steps: int = 200
    guidance_scale: float | None = None
    strength: float = 1.0
    seed: int = 0
    scheduler: str = "DDIMScheduler"
    ddim_eta: float = 0.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_settings(self, steps=(Integral, 1), seed=(Integral, 0))
        if self.guidance_scale is not None and not is_number(self.guidance_scale):
            raise ValueError(f"guidance_scale is {self.guidance_scale!r}: give a number, or None.")
        if not (is_number(self.strength) and 0 < self.strength <= 1):
            raise ValueError(f"strength is {self.strength!r}: choose above 0, up to 1.")
        if not (is_number(self.ddim_eta) and 0 <= self.ddim_eta <= 1):
            raise ValueError(f"ddim_eta is {self.ddim_eta!r}: choose from 0 to 1.")
        if not _is_scheduler(str(self.scheduler)):
            raise ValueError(
                f"diffusers has no scheduler {self.scheduler!r}: try DDIMScheduler, DDPMScheduler "
                "or DPMSolverMultistepScheduler."
            )

    def guidance(self, model: LatentAudioModel) -> float:
        """Return the guidance scale: the given one, or the model's own."""
        return model.guidance_scale if self.guidance_scale is None else self.guidance_scale


def interpolate(optimised: Conditioning, target: Conditioning, eta: float) -> Conditioning:
    """Eq. 2: e_int = η·e_target + (1 − η)·e_opt, with the masks they share.

    Parameters
    ----------
    optimised, target : Conditioning
        e_opt and e_target.
    eta : float
        0 is the recording, 1 the prompt.  The paper stays within 0…1; −0.5…1.5 is allowed, to
        hear what lies beyond.

    Raises
    ------
    ValueError
        If η is not a number from −0.5 to 1.5.

    Lesson: 04.
    """
    check_eta(eta)
    pairs = zip(target.embeddings, optimised.embeddings, strict=True)
    return target.replace_embeddings([eta * t + (1 - eta) * o for t, o in pairs])


def check_eta(eta: float) -> None:
    """Raise a ValueError unless η is a number from −0.5 to 1.5.

    Lesson: 00.
    """
    low, high = ETA_RANGE
    if not (is_number(eta) and low <= eta <= high):
        raise ValueError(f"η is {eta!r}: choose from 0 (the recording) to 1 (the prompt).")


def check_sampling(model: LatentAudioModel, settings: SamplingSettings) -> None:
    """Raise a ValueError unless a model can be sampled so: before minutes of Steps 1 and 2."""
    longest = model.noise_schedule.config.get("num_train_timesteps", math.inf)
    if settings.steps > longest:
        raise ValueError(
            f"steps is {settings.steps}: the model has {longest} timesteps, so choose up to that."
        )
    latent = torch.zeros(1, *model.latent_shape, device=model.device)
    try:  # one step of nothing, since schedulers differ in what they want to be told
        scheduler = model.sampler(getattr(diffusers, settings.scheduler))
        scheduler.set_timesteps(settings.steps, device=model.device)
        first = scheduler.timesteps[0]
        latent = scheduler.scale_model_input(latent * scheduler.init_noise_sigma, first)
        scheduler.step(latent, first, latent).prev_sample.view_as(latent)
    except Exception as error:
        raise ValueError(
            f"{settings.scheduler} cannot sample this model in {settings.steps} steps: try "
            "DDIMScheduler, DDPMScheduler or DPMSolverMultistepScheduler."
        ) from error


def _is_scheduler(name: str) -> bool:
    try:
        return hasattr(getattr(diffusers, name, None), "step")
    except ImportError:  # of a package that it needs
        return False


@torch.no_grad()
def sample(
    model: LatentAudioModel,
    conditioning: Conditioning,
    settings: SamplingSettings = SamplingSettings(),
    source: Tensor | None = None,
    progress: bool = True,
) -> Tensor:
    """Sample latents by reverse diffusion, all from the same noise.

    Items of a batch differ in their conditioning alone: each gets the initial noise, and in
    stochastic samplers the noise of every step, that it would get alone.

    Parameters
    ----------
    model : LatentAudioModel
    conditioning : Conditioning
        One item per latent.
    settings : SamplingSettings
    source : torch.Tensor, optional
        z, shape (1, channels, time, mel); needed for a ``strength`` below 1.  Where it is zero
        (a gap), sampling starts from noise alone.
    progress : bool

    Returns
    -------
    torch.Tensor
        float32, shape (batch, channels, time, mel).

    Raises
    ------
    ValueError
        If ``strength`` is below 1 and there is no source.
    OutOfMemory
        If the GPU's memory is too small.

    Lesson: 01.
    """
    if settings.strength < 1 and source is None:
        raise ValueError("A strength below 1 starts from the source: give its latent.")
    guidance = settings.guidance(model)
    scheduler = model.sampler(getattr(diffusers, settings.scheduler))
    scheduler.set_timesteps(settings.steps, device=model.device)

    batch = conditioning.batch_size
    generators = [torch.Generator().manual_seed(settings.seed) for _ in range(batch)]
    noise = randn_tensor((batch, *model.latent_shape), generators, device=model.device)
    if source is None or settings.strength == 1:
        timesteps = scheduler.timesteps
        latent = noise * scheduler.init_noise_sigma
    else:
        skipped = settings.steps - max(1, round(settings.steps * settings.strength))
        first = skipped * scheduler.order
        timesteps = scheduler.timesteps[first:]
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(first)
        latents = source.to(noise).expand_as(noise)
        latent = scheduler.add_noise(latents, noise, timesteps[:1].repeat(batch))

    offered = {"generator": generators, "eta": settings.ddim_eta}
    accepted = inspect.signature(scheduler.step).parameters
    options = {name: value for name, value in offered.items() if name in accepted}
    with explain_memory_errors("Step 3, sampling"):
        for timestep in tqdm(timesteps, desc="Step 3, sampling", disable=not progress):
            scaled = scheduler.scale_model_input(latent, timestep)
            output = model.predict(scaled, timestep, conditioning, guidance)
            latent = scheduler.step(output, timestep, latent, **options).prev_sample
    return latent
