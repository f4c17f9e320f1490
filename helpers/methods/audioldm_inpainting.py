"""Inpainting as AudioLDM does it (Liu et al., 2023): the prompt fills a gap, nothing is trained.

Where the recording is known, every step of the reverse process starts from the recording itself,
noised to that step's timestep; the gap is the model's.  Upstream's release differs in what is not
repeated here: it returns the decoded latent as it is, so that the observed part is a
reconstruction too; it encodes the recording with what the gap held, which the autoencoder smears
into its neighbourhood; and it draws three candidates and keeps the one that CLAP likes best, which
would count twice in a comparison by CLAP.
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
from helpers.methods.method import LARGEST_GUIDANCE, Method, Task
from helpers.models.latent_audio_model import (
    Conditioning,
    LatentAudioModel,
    explain_memory_errors,
)


@dataclass(frozen=True, kw_only=True)
class AudioLDMInpainting(Method):
    """Fill a gap under the prompt, held to the recording around it; the defaults are published.

    Its setting is the guidance scale; 1 is the prompt without guidance.  An earlier start of the
    reverse process, the other candidate, would start the gap from a noised nothing, as no version
    of the method does.
    """

    name: str = "AudioLDM inpainting"
    settings: tuple[float, ...] = (1.0, 1.75, 2.5, 4.0, 6.0)
    fixed_setting: float = 2.5
    sampling: SamplingSettings = SamplingSettings(steps=200, ddim_eta=1.0)
    knob: ClassVar[str] = "guidance scale"
    highest: ClassVar[float] = LARGEST_GUIDANCE
    edits: ClassVar[frozenset[str]] = frozenset({"inpainting"})

    def latents(self, task: Task, settings: Sequence[float]) -> Tensor:
        """See :meth:`helpers.methods.method.Method.latents`."""
        assert task.mask is not None, "It has been checked that there is a gap."
        known = task.model, task.target, task.latent, task.mask
        return torch.cat([self.fill(*known, scale, task.progress) for scale in settings])

    @torch.no_grad()
    def fill(
        self,
        model: LatentAudioModel,
        conditioning: Conditioning,
        source: Tensor,
        mask: Tensor,
        guidance_scale: float,
        progress: bool = True,
    ) -> Tensor:
        """Sample a latent that is the source's where it is known.

        Before the step at timestep t, z_t := mask · q_sample(z_0, t) + (1 − mask) · z_t, with new
        noise each time; at the end the same with t = 0, that is with z_0 itself.

        Parameters
        ----------
        model : LatentAudioModel
        conditioning : Conditioning
            Of one item.
        source : torch.Tensor
            z_0, shape (1, channels, time, mel).
        mask : torch.Tensor
            Shape (1, 1, time, 1), 1 where the source is kept.
        guidance_scale : float
        progress : bool

        Returns
        -------
        torch.Tensor
            float32, shape (1, channels, time, mel).

        Raises
        ------
        OutOfMemory
            If the GPU's memory is too small.
        """
        generator = torch.Generator().manual_seed(self.sampling.seed)
        scheduler = model.sampler(DDIMScheduler)
        scheduler.set_timesteps(self.sampling.steps, device=model.device)
        mask = mask.to(source)
        latent = randn_tensor(source.shape, generator, device=model.device)
        bar = tqdm(scheduler.timesteps, desc=self.name, disable=not progress)
        with explain_memory_errors(self.name):
            for timestep in bar:
                noise = randn_tensor(source.shape, generator, device=model.device)
                known = scheduler.add_noise(source, noise, timestep[None])
                latent = mask * known + (1 - mask) * latent
                output = model.predict(latent, timestep, conditioning, guidance_scale)
                latent = scheduler.step(
                    output, timestep, latent, eta=self.sampling.ddim_eta, generator=generator
                ).prev_sample
        return mask * source + (1 - mask) * latent
