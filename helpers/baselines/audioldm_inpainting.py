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
from pathlib import Path
from typing import ClassVar

import torch
from diffusers import DDIMScheduler
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor
from tqdm.auto import tqdm

from helpers.audio import Clip
from helpers.baselines.method import LARGEST_GUIDANCE, check_strengths, decode_edits, encode_source
from helpers.editing.inpainting import Gap, latent_mask
from helpers.models.latent_audio_model import (
    Conditioning,
    LatentAudioModel,
    explain_memory_errors,
)


@dataclass(frozen=True)
class AudioLDMInpainting:
    """Fill a gap under the prompt, held to the recording around it; the defaults are published.

    Its knob is the guidance scale.  An earlier start of the reverse process, the other candidate,
    would start the gap from a noised nothing, as no version of the method does.

    Parameters
    ----------
    steps : int
        Of DDIM.
    ddim_eta : float
    strengths : tuple of float
        Classifier-free guidance scales; 1 is the prompt without guidance.
    fixed_strength : float
    seed : int
        Of all noise.
    """

    steps: int = 200
    ddim_eta: float = 1.0
    strengths: tuple[float, ...] = (1.0, 1.75, 2.5, 4.0, 6.0)
    fixed_strength: float = 2.5
    seed: int = 0
    name: ClassVar[str] = "AudioLDM inpainting"
    knob: ClassVar[str] = "guidance scale"
    edits: ClassVar[frozenset[str]] = frozenset({"inpainting"})

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
            Also without a gap.
        """
        check_strengths(self, strengths, LARGEST_GUIDANCE)
        if gap is None:
            raise ValueError(
                f"{self.name} fills a gap and got none: give gap=Gap(start, end) in seconds."
            )
        target = model.embed_text(prompt)
        mask = latent_mask(clip, gap, model.latent_shape[1])
        source = encode_source(model, clip, gap)
        latents = [self.fill(model, target, source, mask, s, progress) for s in strengths]
        return decode_edits(self, model, torch.cat(latents), clip, strengths, gap)

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
        generator = torch.Generator().manual_seed(self.seed)
        scheduler = model.sampler(DDIMScheduler)
        scheduler.set_timesteps(self.steps, device=model.device)
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
                    output, timestep, latent, eta=self.ddim_eta, generator=generator
                ).prev_sample
        return mask * source + (1 - mask) * latent
