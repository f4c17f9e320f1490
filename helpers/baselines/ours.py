"""The paper's method as one entry of the comparison, and without each of its two trainings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from helpers.audio import Clip
from helpers.baselines.method import EDITS, check_strengths
from helpers.editing.inpainting import Gap
from helpers.editing.nonrigid import EditSettings, NonRigidEdit
from helpers.models.latent_audio_model import LatentAudioModel


@dataclass(frozen=True)
class Ours:
    """Steps 1 to 3, with η as the knob.

    Parameters
    ----------
    settings : EditSettings
    name : str
    strengths : tuple of float
        Values of η.
    fixed_strength : float
    """

    settings: EditSettings
    name: str = "Ours"
    strengths: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8, 1.0)
    fixed_strength: float = 0.6
    knob: ClassVar[str] = "η"
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
        """See :meth:`helpers.baselines.method.Method.sweep`; η may be −0.5…1.5."""
        with NonRigidEdit(model, clip, prompt, self.settings, gap, folder, progress) as edit:
            return edit.sweep(list(strengths))


@dataclass(frozen=True)
class OursWithoutStep1:
    """Step 2 on the prompt's own embedding: e_opt := e_target.

    Every η then means the same embedding, so the knob is the paper's other one: where sampling
    starts, from pure noise (1) or from the source noised to a share of the steps.

    Parameters
    ----------
    settings : EditSettings
        Of the full method; Step 1's are not used.
    strengths : tuple of float
        Shares of the sampling steps, above 0, up to 1.
    fixed_strength : float
    """

    settings: EditSettings
    strengths: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8, 1.0)
    fixed_strength: float = 1.0
    name: ClassVar[str] = "Ours without Step 1"
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
        """See :meth:`helpers.baselines.method.Method.sweep`."""
        check_strengths(self, strengths)
        settings = replace(self.settings, embedding=replace(self.settings.embedding, steps=0))
        edits = []
        with NonRigidEdit(model, clip, prompt, settings, gap, folder, progress) as edit:
            for strength in strengths:
                sampling = replace(settings.sampling, strength=strength)
                edit.settings = replace(settings, sampling=sampling)
                name = f"{clip.name}, {self.name}, {self.knob} = {strength:g}"
                edits.append(replace(edit.edit(1.0), name=name))
        return edits


def without_step_2(settings: EditSettings) -> Ours:
    """Ours with the base model's own weights: η leads from e_opt to the prompt, θ* := θ."""
    finetuning = replace(settings.finetuning, steps=0)
    return Ours(replace(settings, finetuning=finetuning), "Ours without Step 2")
