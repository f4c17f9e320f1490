"""The paper's method as one entry of the comparison, and without each of its two trainings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from helpers.editing.embedding import EmbeddingSettings
from helpers.editing.finetuning import FinetuningSettings
from helpers.editing.interpolation import check_eta, interpolate, sample
from helpers.editing.nonrigid import EditSettings, NonRigidEdit
from helpers.methods.method import Method, Role, Task
from helpers.models.latent_audio_model import Conditioning


@dataclass(frozen=True, kw_only=True)
class Ours(Method):
    """Steps 1 to 3; the setting is η, from −0.5 to 1.5.

    Parameters
    ----------
    embedding, finetuning, terminal_snr
        As in :class:`helpers.editing.nonrigid.EditSettings`.
    """

    name: str = "Ours"
    role: Role = "subject"
    settings: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8, 1.0)
    fixed_setting: float = 0.6
    embedding: EmbeddingSettings = EmbeddingSettings()
    finetuning: FinetuningSettings = FinetuningSettings()
    terminal_snr: str = "as trained"
    knob: ClassVar[str] = "η"

    @classmethod
    def of(cls, preset: EditSettings, **more: object) -> Self:
        """Return the method with a preset's hyper-parameters; ``more`` are further fields."""
        method = cls(
            embedding=preset.embedding,
            finetuning=preset.finetuning,
            sampling=preset.sampling,
            terminal_snr=preset.terminal_snr,
        )
        return replace(method, **more)

    def check_setting(self, value: float) -> None:
        """Raise a ValueError unless it is an η from −0.5 to 1.5."""
        check_eta(value)

    def latents(self, task: Task, settings: Sequence[float]) -> Tensor:
        """See :meth:`helpers.methods.method.Method.latents`."""
        edit = self._fitted(task)
        embedding, finetuning = edit.steps
        optimised, target = embedding.conditioning, edit.target
        mixed = Conditioning.cat([interpolate(optimised, target, eta) for eta in settings])
        return sample(finetuning.model, mixed, self.sampling, edit.latent, task.progress)

    def _fitted(self, task: Task) -> NonRigidEdit:
        """Run Steps 1 and 2."""
        steps = EditSettings(self.embedding, self.finetuning, self.sampling, self.terminal_snr)
        edit = NonRigidEdit(
            task.model, task.clip, task.prompt, steps, task.gap, task.folder, task.progress
        )
        return edit.fit()


@dataclass(frozen=True, kw_only=True)
class OursWithoutStep1(Ours):
    """Step 2 on the prompt's own embedding: e_opt := e_target.

    Every η then means the same embedding, so the setting is the paper's other one: where sampling
    starts, from pure noise (1) or from the source noised to a share of the steps.
    """

    name: str = "Ours without Step 1"
    role: Role = "ablation"
    fixed_setting: float = 1.0
    knob: ClassVar[str] = "strength"

    def __post_init__(self) -> None:
        """Leave Step 1 out."""
        object.__setattr__(self, "embedding", replace(self.embedding, steps=0))

    def check_setting(self, value: float) -> None:
        """Raise a ValueError unless it is a strength above 0, up to 1."""
        Method.check_setting(self, value)

    def latents(self, task: Task, settings: Sequence[float]) -> Tensor:
        """See :meth:`helpers.methods.method.Method.latents`."""
        starts = [replace(self.sampling, strength=strength) for strength in settings]
        edit = self._fitted(task)
        tuned = edit.steps[1].model
        return torch.cat(
            [sample(tuned, edit.target, s, edit.latent, task.progress) for s in starts]
        )


@dataclass(frozen=True, kw_only=True)
class OursWithoutStep2(Ours):
    """The base model's own weights, θ* := θ; η leads from e_opt to the prompt."""

    name: str = "Ours without Step 2"
    role: Role = "ablation"

    def __post_init__(self) -> None:
        """Leave Step 2 out."""
        object.__setattr__(self, "finetuning", replace(self.finetuning, steps=0))
