"""Step 2: a denoiser that reconstructs the recording from e_opt (Sec. 2.2), fully or with LoRA.

What is trained is float32 whatever the model's precision, because steps of 1e-6 vanish in a half-
precision weight.  With LoRA the frozen rest keeps its precision; the whole denoiser, float32 once
it is tuned, computes its training in the model's precision (autocast).

The base model is never touched.  What is tuned belongs to a second model, which shares with the
base model every weight that stays.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from numbers import Integral
from pathlib import Path

import torch
from peft import LoraConfig, LoraModel
from torch import Tensor, nn

from helpers.editing.embedding import reconstruction_loss
from helpers.editing.optimisation import TrainingSettings, check_settings, optimise
from helpers.models.latent_audio_model import (
    Conditioning,
    LatentAudioModel,
    explain_memory_errors,
)

# What LoRA adapts, by the ends of names in diffusers' UNets: every attention projection; or, beside
# them, the convolutions of the residual blocks and what leads into and out of the attention blocks.
LORA_TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
LORA_WIDE_TARGETS = (*LORA_TARGETS, "conv1", "conv2", "proj_in", "proj_out")


@dataclass(frozen=True)
class FinetuningSettings(TrainingSettings):
    """Step 2's hyper-parameters; the defaults are the paper's.

    Parameters
    ----------
    steps : int
    learning_rate : float
        Of Adam.  LoRA needs a far larger one than 1e-6.
    batch_size : int
        Timesteps per step; several steady it.
    seed : int
        Of timesteps, noise and LoRA's initial weights.
    lora_rank : int, optional
        Trains low-rank adapters; without it the whole UNet.
    lora_targets : tuple of str
        Which layers get adapters, by the ends of their names; all attention projections by default.

    Raises
    ------
    ValueError
        If a value is of another kind or out of range.
    """

    steps: int = 1500
    learning_rate: float = 1e-6
    lora_rank: int | None = None
    lora_targets: tuple[str, ...] = (*LORA_TARGETS,)

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        if self.lora_rank is not None:
            check_settings(self, lora_rank=(Integral, 1))
        if isinstance(self.lora_targets, str) or not self.lora_targets:
            raise ValueError(
                f"lora_targets is {self.lora_targets!r}: give a tuple of the ends of layers' names."
            )


@dataclass(frozen=True, eq=False)
class FineTuning:
    """Step 2's result.

    Parameters
    ----------
    model : LatentAudioModel
        The tuned model f_θ*.  It shares with the base model all that was not tuned.
    weights : dict of str to torch.Tensor
        The tuned parameters of its denoiser (or of the denoiser's adapters) by name.
    settings : FinetuningSettings
    losses : list of float
        Eq. 1 at each step.
    kept : dict of int to dict
        ``weights`` as they were after some numbers of steps.
    """

    model: LatentAudioModel
    weights: dict[str, Tensor]
    settings: FinetuningSettings
    losses: list[float]
    kept: dict[int, dict[str, Tensor]] = field(default_factory=dict)

    def after(self, steps: int) -> FineTuning:
        """Return Step 2 as it was after fewer steps: what a shorter run would have given.

        Raises
        ------
        ValueError
            If :func:`finetune` was not asked to keep it.
        """
        if steps not in self.kept:
            raise ValueError(f"Step 2 was not kept after {steps} steps: name them in `keep`.")
        model, parameters = tunable(self.model)
        for name, weight in self.kept[steps].items():
            parameters[name].data = weight
        settings = replace(self.settings, steps=steps)
        return FineTuning(model, self.kept[steps], settings, self.losses[:steps])


def finetune(
    model: LatentAudioModel,
    latent: Tensor,
    conditioning: Conditioning,
    settings: FinetuningSettings = FinetuningSettings(),
    mask: Tensor | None = None,
    checkpoint: Path | None = None,
    progress: bool = True,
    keep: Collection[int] = (),
) -> FineTuning:
    """Optimise the UNet, or adapters of it, to minimise Eq. 1 for one latent and e_opt.

    Parameters
    ----------
    model : LatentAudioModel
        The base model, and unchanged when this returns or raises.
    latent : torch.Tensor
        z, shape (1, channels, time, mel).
    conditioning : Conditioning
        e_opt, of one item.
    settings : FinetuningSettings
    mask : torch.Tensor, optional
        Shape (1, 1, time, 1), 0 where the loss leaves a gap out.
    checkpoint : Path, optional
        Where the run can be stopped and resumed.
    progress : bool
    keep : collection of int
        Numbers of steps after which the weights are kept for :meth:`FineTuning.after`; of a run
        that resumes, those that are still to come.

    Raises
    ------
    CheckpointError, DivergenceError, OutOfMemory
        See :func:`helpers.editing.optimisation.optimise`.
    """
    precision = model.dtype
    tuned, parameters = tunable(model, settings.lora_rank, settings.lora_targets)
    with explain_memory_errors("Step 2, fine-tuning"):
        for parameter in parameters.values():
            parameter.data = parameter.data.to(torch.float32, copy=True)
            parameter.requires_grad_(True)
    if settings.lora_rank is not None:
        _initialise_adapters(parameters, torch.Generator().manual_seed(settings.seed))

    def loss(generator):
        half = precision != torch.float32
        with torch.autocast(model.device.type, precision, enabled=half):
            return reconstruction_loss(
                tuned, latent, conditioning, generator, settings.batch_size, mask
            )

    kept = {}

    def keep_weights(step):
        if step in keep:
            kept[step] = {name: p.detach().clone() for name, p in parameters.items()}

    losses = optimise(
        list(parameters.values()),
        loss,
        description="Step 2, fine-tuning",
        checkpoint=checkpoint,
        progress=progress,
        each_step=keep_weights,
        **settings.on(model, latent, mask, embedding=conditioning),
    )
    for parameter in parameters.values():
        parameter.requires_grad_(False)
    weights = {name: parameter.data for name, parameter in parameters.items()}
    return FineTuning(tuned, weights, settings, losses, kept)


def tunable(
    model: LatentAudioModel,
    lora_rank: int | None = None,
    lora_targets: Sequence[str] = LORA_TARGETS,
) -> tuple[LatentAudioModel, dict[str, nn.Parameter]]:
    """Return a second model that can be tuned, and its tunable parameters by name.

    Until the ``.data`` of a parameter is replaced, the second model shares every weight with the
    first; what is not tunable it shares for ever.

    Parameters
    ----------
    model : LatentAudioModel
        Untouched.
    lora_rank : int, optional
        Adds adapters; without it the whole denoiser is tunable.
    lora_targets : sequence of str
        Which layers get adapters, by the ends of their names.

    Lesson: 07.
    """
    tensors = chain(model.denoiser.parameters(), model.denoiser.buffers())
    memo: dict[int, Tensor] = {id(tensor): tensor for tensor in tensors}
    if lora_rank is None:
        for key, tensor in memo.items():
            if isinstance(tensor, nn.Parameter):
                memo[key] = nn.Parameter(tensor.detach(), False)
    denoiser = copy.deepcopy(model.denoiser, memo)
    if lora_rank is not None:
        config = LoraConfig(r=lora_rank, lora_alpha=lora_rank, target_modules=list(lora_targets))
        LoraModel(denoiser, config, "edit")
    parameters = {
        name: parameter
        for name, parameter in denoiser.named_parameters()
        if lora_rank is None or parameter.requires_grad
    }
    return replace(model, denoiser=denoiser), parameters


def _initialise_adapters(parameters: dict[str, nn.Parameter], generator: torch.Generator) -> None:
    """LoRA's start: A random, B zero, so that the tuned model begins as the base model."""
    for name, parameter in parameters.items():
        if ".lora_A." in name:
            start = torch.empty(parameter.shape)
            nn.init.kaiming_uniform_(start, a=math.sqrt(5), generator=generator)
            parameter.data.copy_(start)
        else:
            parameter.data.zero_()
