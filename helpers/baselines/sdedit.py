"""SDEdit (Meng et al., 2021), which on one base model is AudioLDM's style transfer too.

Both add noise to the source latent up to an intermediate timestep and denoise it under the prompt
with DDIM at η = 1; the names stand for two sets of settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch

from helpers.audio import Clip
from helpers.baselines.method import EDITS, check_strengths, decode_edits, encode_source
from helpers.editing.inpainting import Gap
from helpers.editing.interpolation import SamplingSettings, sample
from helpers.models.latent_audio_model import LatentAudioModel


@dataclass(frozen=True)
class SDEdit:
    """Noise to a timestep, denoise under the prompt.

    With a gap, the source is silent there and zero in the latent, so that the gap starts from
    noise alone; what is generated in it is pasted into the recording.

    Parameters
    ----------
    sampling : SamplingSettings
        Of the reverse process; its ``strength`` is replaced by the sweep's.
    strengths : tuple of float
        Shares of the sampling steps that are run, above 0, up to 1 (pure noise).
    fixed_strength : float
    name : str
    """

    sampling: SamplingSettings
    strengths: tuple[float, ...] = (0.25, 0.5, 0.65, 0.75, 0.9)
    fixed_strength: float = 0.5
    name: str = "SDEdit"
    knob: ClassVar[str] = "strength"
    edits: ClassVar[frozenset[str]] = EDITS

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
        """See :meth:`helpers.baselines.method.Method.sweep`; ``folder`` is not used."""
        check_strengths(self, strengths)
        target = model.embed_text(prompt)
        source = encode_source(model, clip, gap)
        latents = [
            sample(model, target, replace(self.sampling, strength=s), source, progress)
            for s in strengths
        ]
        return decode_edits(self, model, torch.cat(latents), clip, strengths, gap)


# As ZETA's authors and the paper's ran it (there on AudioLDM): 25, 50 and 75 % of the steps.
SDEDIT = SDEdit(SamplingSettings(steps=100, guidance_scale=3.0, ddim_eta=1.0))

# `style_transfer` of AudioLDM's release.  Three of its faults are not repeated: it noises the
# source to one step beyond the one that denoising starts from, strength 1 points past the
# schedule's end, and the last three latent frames are dropped.
AUDIOLDM_STYLE_TRANSFER = SDEdit(
    SamplingSettings(steps=200, guidance_scale=2.5, ddim_eta=1.0), name="AudioLDM style transfer"
)
