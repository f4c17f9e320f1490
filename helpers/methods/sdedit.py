"""SDEdit (Meng et al., 2021), which on one base model is AudioLDM's style transfer too.

Both add noise to the source latent up to an intermediate timestep and denoise it under the prompt
with DDIM at η = 1; the names stand for two sets of settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from helpers.editing.interpolation import SamplingSettings, sample
from helpers.methods.method import Method, Task


@dataclass(frozen=True, kw_only=True)
class SDEdit(Method):
    """Noise to a timestep, denoise under the prompt; the setting is the share of steps run.

    A gap is silent in the source and zero in the latent, so that it starts from noise alone.

    The defaults are near those of ZETA's comparison, which varied the start in quarters of the
    steps; its script names other guidance scales for other base models.
    """

    name: str = "SDEdit"
    settings: tuple[float, ...] = (0.25, 0.5, 0.65, 0.75, 0.9)
    fixed_setting: float = 0.5
    sampling: SamplingSettings = SamplingSettings(steps=100, guidance_scale=3.0, ddim_eta=1.0)
    knob: ClassVar[str] = "strength"

    def latents(self, task: Task, settings: Sequence[float]) -> Tensor:
        """See :meth:`helpers.methods.method.Method.latents`."""
        return torch.cat(
            [
                sample(
                    task.model,
                    task.target,
                    replace(self.sampling, strength=strength),
                    task.latent,
                    task.progress,
                )
                for strength in settings
            ]
        )
