"""Edit-friendly DDPM inversion (Huberman-Spiegelglas et al., 2023), as ZETA uses it for audio.

ZETA is the zero-shot text-based editing of Manor and Michaeli (2024).  A DDPM chain is a starting
point and one noise per step.  Inversion finds those that lead the model to the recording; the same
noises then lead it, under another prompt, to an edit that keeps the recording's structure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from diffusers import DDIMScheduler
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor
from tqdm.auto import tqdm

from helpers.editing.interpolation import SamplingSettings
from helpers.methods.method import Method, Task
from helpers.models.kinds import FlowSchedule, NoiseSchedule
from helpers.models.latent_audio_model import (
    Conditioning,
    LatentAudioModel,
    explain_memory_errors,
)


@dataclass(frozen=True, eq=False)
class Inversion:
    """The last ``n`` steps of a DDPM chain that leads to the source.

    Parameters
    ----------
    scheduler : NoiseSchedule
        With the timesteps of the whole chain.
    latents : torch.Tensor
        x_t before each of the steps, noisiest first, shape (n, channels, time, mel).
    noises : torch.Tensor
        σ_t · z_t of each step, as ``latents``.  The last is zero, as in the authors' code: DDPM
        adds no noise there, so that the chain ends in the model's own estimate of x_0.
    """

    scheduler: NoiseSchedule
    latents: Tensor
    noises: Tensor


@torch.no_grad()
def invert(
    model: LatentAudioModel,
    source: Tensor,
    conditioning: Conditioning,
    guidance_scale: float = 1.0,
    steps: int = 200,
    share: float = 1.0,
    seed: int = 0,
    progress: bool = True,
) -> Inversion:
    """Find the noises with which the DDPM chain leads to the source.

    Each x_t = √ᾱ_t · x_0 + √(1−ᾱ_t) · ε_t gets an ε_t of its own, independent of its neighbours,
    which makes the noises z_t = (x_{t−1} − μ_t(x_t)) / σ_t large and hence keep the structure.

    Parameters
    ----------
    model : LatentAudioModel
    source : torch.Tensor
        x_0, shape (1, channels, time, mel).
    conditioning : Conditioning
        Of the recording, or the empty prompt's.
    guidance_scale : float
    steps : int
        Of the whole chain.
    share : float
        Above 0, up to 1: the share of them, from the last on, to invert.
    seed : int
        Of ε; the same for every ``share``.
    progress : bool

    Raises
    ------
    ValueError
        If the model is a flow, which has no such chain.
    OutOfMemory
        If the GPU's memory is too small.
    """
    _check_kind(model)
    scheduler = model.sampler(DDIMScheduler)
    scheduler.set_timesteps(steps, device=model.device)
    count = _steps_run(steps, share)
    timesteps = scheduler.timesteps[-count:]
    generator = torch.Generator().manual_seed(seed)
    noise = randn_tensor((steps, *source.shape[1:]), generator, device=model.device)[-count:]
    latents = scheduler.add_noise(source.expand_as(noise), noise, timesteps)

    noises = torch.zeros_like(latents)
    bar = tqdm(timesteps[:-1], desc="DDPM inversion", disable=not progress)
    with explain_memory_errors("DDPM inversion"):
        for i, timestep in enumerate(bar):
            latent, following = latents[i : i + 1], latents[i + 1 : i + 2]
            output = model.predict(latent, timestep, conditioning, guidance_scale)
            noises[i : i + 1] = following - posterior_mean(scheduler, output, timestep, latent)
    return Inversion(scheduler, latents, noises)


@torch.no_grad()
def regenerate(
    model: LatentAudioModel,
    inversion: Inversion,
    conditioning: Conditioning,
    guidance_scale: float = 1.0,
    share: float = 1.0,
    progress: bool = True,
) -> Tensor:
    """Run the inverted chain, from x_t on, under another conditioning.

    Parameters
    ----------
    model : LatentAudioModel
    inversion : Inversion
        Of at least this share of the steps.
    conditioning : Conditioning
        Of one item; the one that was inverted, at its guidance, gives the source back, up to the
        model's error in the last step.
    guidance_scale : float
    share : float
        Above 0, up to 1: the share of the chain's steps to run.
    progress : bool

    Returns
    -------
    torch.Tensor
        float32, shape (1, channels, time, mel).

    Raises
    ------
    ValueError
        If fewer steps were inverted.
    OutOfMemory
        If the GPU's memory is too small.
    """
    scheduler = inversion.scheduler
    count = _steps_run(len(scheduler.timesteps), share)
    if count > len(inversion.noises):
        raise ValueError(
            f"{count} steps are to be run and {len(inversion.noises)} were inverted: invert a "
            "larger share."
        )
    latent = inversion.latents[-count:][:1]
    steps = list(zip(scheduler.timesteps[-count:], inversion.noises[-count:], strict=True))
    with explain_memory_errors("DDPM inversion"):
        for timestep, noise in tqdm(steps, desc="DDPM edit", disable=not progress):
            output = model.predict(latent, timestep, conditioning, guidance_scale)
            latent = posterior_mean(scheduler, output, timestep, latent) + noise
    return latent


def posterior_mean(
    scheduler: NoiseSchedule, output: Tensor, timestep: Tensor, latent: Tensor
) -> Tensor:
    """μ_t(x_t), the mean of q(x_{t−1} | x_t, x_0) at the x_0 that the UNet's output stands for.

    DDIM's step at η = 1 is DDPM's; with zeros for its noise, the mean is left.  The scheduler turns
    noise, velocity or sample into x_0, by its ``prediction_type``.
    """
    return scheduler.step(
        output, timestep, latent, eta=1.0, variance_noise=torch.zeros_like(latent)
    ).prev_sample


@dataclass(frozen=True, kw_only=True)
class DDPMInversion(Method):
    """Invert the recording, regenerate it under the prompt; the defaults are ZETA's.

    Its setting is the share of the steps that is regenerated (1 − T_skip / T).  Where the task says
    what the recording sounds like, it is inverted under that sentence, with guidance; otherwise
    under the empty prompt.  It fills no gap: silence would be inverted, and kept, like any other
    sound.

    Parameters
    ----------
    sampling : SamplingSettings
        The guidance scale is that of the edit, published for AudioLDM 2, whose usual one is 3.5.
    source_guidance_scale : float
        Of the inversion under a source prompt.
    """

    name: str = "DDPM inversion"
    settings: tuple[float, ...] = (0.2, 0.35, 0.5, 0.65, 0.8)
    fixed_setting: float = 0.5
    sampling: SamplingSettings = SamplingSettings(steps=200, guidance_scale=12.0, ddim_eta=1.0)
    source_guidance_scale: float = 3.0
    knob: ClassVar[str] = "share of steps"
    edits: ClassVar[frozenset[str]] = frozenset({"addition", "style_transfer"})

    def check_model(self, model: LatentAudioModel) -> None:
        """Raise a ValueError for a flow, which has no DDPM chain."""
        _check_kind(model)

    def latents(self, task: Task, settings: Sequence[float]) -> Tensor:
        """See :meth:`helpers.methods.method.Method.latents`."""
        if task.source_prompt:
            described = (
                task.model.embed_text(task.source_prompt, task.clip.seconds),
                self.source_guidance_scale,
            )
        else:
            described = task.model.unconditional(beside=task.target), 1.0
        inversion = invert(
            task.model,
            task.latent,
            *described,
            self.sampling.steps,
            max(settings),
            self.sampling.seed,
            task.progress,
        )
        guidance = self.sampling.guidance(task.model)
        return torch.cat(
            [
                regenerate(task.model, inversion, task.target, guidance, share, task.progress)
                for share in settings
            ]
        )


def _check_kind(model: LatentAudioModel) -> None:
    if isinstance(model.noise_schedule, FlowSchedule):
        raise ValueError(
            f"DDPM inversion is not defined for {model.name}, which learnt a flow and no DDPM "
            "chain: use another method, such as SDEdit."
        )


def _steps_run(steps: int, share: float) -> int:
    """How many steps a share of them is, at least one."""
    return max(1, round(steps * share))
