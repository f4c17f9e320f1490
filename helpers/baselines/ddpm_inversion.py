"""Edit-friendly DDPM inversion (Huberman-Spiegelglas et al., 2023), as ZETA uses it for audio.

ZETA is the zero-shot text-based editing of Manor and Michaeli (2024).  A DDPM chain is a starting
point and one noise per step.  Inversion finds those that lead the model to the recording; the same
noises then lead it, under another prompt, to an edit that keeps the recording's structure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from diffusers import DDIMScheduler
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor
from tqdm.auto import tqdm

from helpers.audio import Clip
from helpers.baselines.method import check_strengths, decode_edits
from helpers.editing.inpainting import Gap
from helpers.models.latent_audio_model import (
    Conditioning,
    LatentAudioModel,
    explain_memory_errors,
)


@dataclass(frozen=True, eq=False)
class Inversion:
    """The last ``n`` steps of a DDPM chain that ends in the source.

    Parameters
    ----------
    scheduler : DDIMScheduler
        With the timesteps of the whole chain.
    latents : torch.Tensor
        x_t before each of the steps, noisiest first, shape (n, channels, time, mel).
    noises : torch.Tensor
        σ_t · z_t of each step, as ``latents``.  The last is what the model's estimate of x_0 is
        short of, since DDPM adds no noise there.
    """

    scheduler: DDIMScheduler
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
    """Find the noises with which the DDPM chain reproduces the source.

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
    OutOfMemory
        If the GPU's memory is too small.
    """
    scheduler = model.sampler(DDIMScheduler)
    scheduler.set_timesteps(steps, device=model.device)
    count = _steps_run(steps, share)
    timesteps = scheduler.timesteps[-count:]
    generator = torch.Generator().manual_seed(seed)
    noise = randn_tensor((steps, *source.shape[1:]), generator, device=model.device)[-count:]
    latents = scheduler.add_noise(source.expand_as(noise), noise, timesteps)

    noises = torch.empty_like(latents)
    chain = torch.cat([latents, source])
    bar = tqdm(timesteps, desc="DDPM inversion", disable=not progress)
    with explain_memory_errors("DDPM inversion"):
        for i, timestep in enumerate(bar):
            latent, following = chain[i : i + 1], chain[i + 1 : i + 2]
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
        Of one item; the one that was inverted, at its guidance, gives the source back.
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
    scheduler: DDIMScheduler, output: Tensor, timestep: Tensor, latent: Tensor
) -> Tensor:
    """μ_t(x_t), the mean of q(x_{t−1} | x_t, x_0) at the x_0 that the UNet's output stands for.

    DDIM's step at η = 1 is DDPM's; with zeros for its noise, the mean is left.  The scheduler turns
    noise, velocity or sample into x_0, by its ``prediction_type``.
    """
    return scheduler.step(
        output, timestep, latent, eta=1.0, variance_noise=torch.zeros_like(latent)
    ).prev_sample


@dataclass(frozen=True)
class DDPMInversion:
    """Invert the recording, regenerate it under the prompt; the defaults are ZETA's.

    It has no gap: silence to be filled would be inverted, and kept, like any other sound.

    Parameters
    ----------
    steps : int
    source_guidance_scale : float
        Of the inversion; without a source prompt it changes nothing.
    target_guidance_scale : float
        Of the edit.  Published for AudioLDM 2, whose usual one is 3.5.
    source_prompt : str
        What the recording sounds like; the empty prompt is ZETA's default.
    strengths : tuple of float
        Shares of the steps that are regenerated (1 − T_skip / T), above 0, up to 1.
    fixed_strength : float
    seed : int
        Of the noises x_t is made with.
    """

    steps: int = 200
    source_guidance_scale: float = 3.0
    target_guidance_scale: float = 12.0
    source_prompt: str = ""
    strengths: tuple[float, ...] = (0.2, 0.35, 0.5, 0.65, 0.8)
    fixed_strength: float = 0.5
    seed: int = 0
    name: ClassVar[str] = "DDPM inversion"
    knob: ClassVar[str] = "share of steps"
    edits: ClassVar[frozenset[str]] = frozenset({"addition", "style_transfer"})

    def sweep(
        self,
        model: LatentAudioModel,
        clip: Clip,
        prompt: str,
        strengths: Sequence[float],
        gap: Gap | None = None,
        folder: Path | None = None,
        progress: bool = True,
    ) -> list[Clip]:
        """See :meth:`helpers.baselines.method.Method.sweep`; ``folder`` is not used.

        Raises
        ------
        ValueError
            Also for a gap.
        """
        check_strengths(self, strengths)
        if gap is not None:
            raise ValueError(
                f"{self.name} cannot fill a gap: use it for addition or style transfer, or fill "
                "the gap with AudioLDM inpainting."
            )
        target = model.embed_text(prompt)
        inversion = self._invert(model, model.encode(clip), max(strengths), progress)
        latents = [
            regenerate(model, inversion, target, self.target_guidance_scale, s, progress)
            for s in strengths
        ]
        return decode_edits(self, model, torch.cat(latents), clip, strengths, gap)

    def _invert(
        self, model: LatentAudioModel, source: Tensor, share: float, progress: bool
    ) -> Inversion:
        if self.source_prompt:
            described, guidance = model.embed_text(self.source_prompt), self.source_guidance_scale
        else:
            described, guidance = model.unconditional(), 1.0
        return invert(model, source, described, guidance, self.steps, share, self.seed, progress)


def _steps_run(steps: int, share: float) -> int:
    """How many steps a share of them is, at least one."""
    return max(1, round(steps * share))
