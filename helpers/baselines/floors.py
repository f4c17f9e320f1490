"""The two ends between which an edit lies: the prompt without the recording, and the reverse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch

from helpers.audio import Clip
from helpers.baselines.method import EDITS, LARGEST_GUIDANCE, check_strengths, decode_edits
from helpers.editing.inpainting import Gap, blank
from helpers.editing.interpolation import SamplingSettings, sample
from helpers.models.latent_audio_model import LatentAudioModel


@dataclass(frozen=True)
class Generation:
    """Plain text-to-audio: the prompt alone, from pure noise.

    Its knob is the guidance scale, so that it is offered as many tries as any method and each is
    one a user of the model would make; several seeds would be tries of luck, with no weakest or
    strongest.  With a gap, what it generates there is pasted into the recording.

    Parameters
    ----------
    sampling : SamplingSettings
        Its ``guidance_scale`` is replaced by the sweep's, its ``strength`` by 1.
    strengths : tuple of float
        Classifier-free guidance scales; 1 is the prompt without guidance.
    fixed_strength : float
    """

    sampling: SamplingSettings
    strengths: tuple[float, ...] = (1.0, 2.0, 3.0, 4.5, 6.0)
    fixed_strength: float = 3.0
    name: ClassVar[str] = "Generation"
    knob: ClassVar[str] = "guidance scale"
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
        check_strengths(self, strengths, LARGEST_GUIDANCE)
        if gap is not None:
            gap.samples(clip)  # raises if it does not fit
        target = model.embed_text(prompt)
        pure = replace(self.sampling, strength=1.0)
        latents = [
            sample(model, target, replace(pure, guidance_scale=s), progress=progress)
            for s in strengths
        ]
        return decode_edits(self, model, torch.cat(latents), clip, strengths, gap)


@dataclass(frozen=True)
class Source:
    """The recording as it was given, silent in the gap if there is one.

    There is nothing to sweep: every strength gives the same, and one is offered.
    """

    strengths: ClassVar[tuple[float, ...]] = (1.0,)
    fixed_strength: ClassVar[float] = 1.0
    name: ClassVar[str] = "Source"
    knob: ClassVar[str] = "nothing"
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
        """See :meth:`helpers.baselines.method.Method.sweep`; the prompt and model are not used."""
        check_strengths(self, strengths)
        return [clip if gap is None else blank(clip, gap) for _ in strengths]
