"""Reference conditions: the prompt without the recording, and the recording without the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from helpers.audio import Clip
from helpers.editing.inpainting import Gap, blank
from helpers.editing.interpolation import sample
from helpers.methods.method import LARGEST_GUIDANCE, Method, Role, Task
from helpers.models.latent_audio_model import LatentAudioModel


@dataclass(frozen=True, kw_only=True)
class Generation(Method):
    """Plain text-to-audio: the prompt alone, from pure noise.

    Its setting is the guidance scale, so that it is offered as many tries as any method and each
    is one a user of the model would make; several seeds would be tries of luck, with no weakest or
    strongest.  With a gap, what it generates there is pasted into the recording.
    """

    name: str = "Generation"
    role: Role = "reference"
    settings: tuple[float, ...] = (1.0, 2.0, 3.0, 4.5, 6.0)
    fixed_setting: float = 3.0
    knob: ClassVar[str] = "guidance scale"
    highest: ClassVar[float] = LARGEST_GUIDANCE

    def latents(self, task: Task, settings: Sequence[float]) -> Tensor:
        """See :meth:`helpers.methods.method.Method.latents`."""
        pure = replace(self.sampling, strength=1.0)
        guided = [replace(pure, guidance_scale=scale) for scale in settings]
        return torch.cat([sample(task.model, task.target, s, None, task.progress) for s in guided])


@dataclass(frozen=True, kw_only=True)
class Source(Method):
    """The recording as it was given, silent in the gap if there is one.

    There is nothing to set: one setting is offered, and it means nothing.
    """

    name: str = "Source"
    role: Role = "reference"
    settings: tuple[float, ...] = (1.0,)
    fixed_setting: float = 1.0
    knob: ClassVar[str] = "nothing"

    def sweep(
        self,
        model: LatentAudioModel,
        clip: Clip,
        prompt: str,
        settings: Sequence[float],
        gap: Gap | None = None,
        *unused: object,
        **ignored: object,
    ) -> list[Clip]:
        """Return the recording, not even encoded; prompt and model are not used."""
        self._check(settings, gap)
        return [clip if gap is None else blank(clip, gap) for _ in settings]

    def latents(self, task: Task, settings: Sequence[float]) -> Tensor:
        """Latent of the recording, which :meth:`sweep` has no need of."""
        return torch.cat([task.latent for _ in settings])
