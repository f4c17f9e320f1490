"""Step 2: a UNet that reconstructs the recording from e_opt (Sec. 2.2), fully or with LoRA.

What is trained is float32 whatever the model's precision, because steps of 1e-6 vanish in a half-
precision weight.  With LoRA the frozen rest keeps its precision; the whole UNet, float32 while it
is tuned or switched on, computes its training in the model's precision (autocast).

The model is the base model at all times but inside ``with finetuned.enabled():``, and during
:func:`finetune` itself; both put weights and modules back exactly, whatever happens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, LoraModel
from torch import Tensor, nn

from helpers.editing.objective import reconstruction_loss
from helpers.editing.optimisation import fingerprint, optimise
from helpers.models.latent_audio_model import (
    Conditioning,
    LatentAudioModel,
    explain_memory_errors,
)

# What LoRA adapts, by the ends of names in diffusers' UNets: every attention projection; or, beside
# them, the convolutions of the residual blocks and what leads into and out of the attention blocks.
LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
LORA_WIDE_TARGETS = (*LORA_TARGETS, "conv1", "conv2", "proj_in", "proj_out")


@dataclass(frozen=True)
class FinetuningSettings:
    """Step 2's hyper-parameters; the defaults are the paper's.

    Parameters
    ----------
    steps : int
    learning_rate : float
        Of Adam.  LoRA needs a far larger one than 1e-6.
    batch_size : int
        Timesteps per step; several steady it.
    lora_rank : int, optional
        Trains low-rank adapters; without it the whole UNet.
    lora_targets : tuple of str
        Which layers get adapters, by the ends of their names; all attention projections by default.
    seed : int
        Of timesteps, noise and LoRA's initial weights.
    """

    steps: int = 1500
    learning_rate: float = 1e-6
    batch_size: int = 1
    lora_rank: int | None = None
    lora_targets: tuple[str, ...] = LORA_TARGETS
    seed: int = 0


@dataclass(frozen=True, eq=False)
class FineTuning:
    """Step 2's result: weights that can be switched on for a while.

    Parameters
    ----------
    model : LatentAudioModel
        The base model they belong to.
    weights : dict of str to torch.Tensor
        The tuned parameters of the UNet (or of its adapters) by name.
    settings : FinetuningSettings
    losses : list of float
        Eq. 1 at each step.
    """

    model: LatentAudioModel
    weights: dict[str, Tensor]
    settings: FinetuningSettings
    losses: list[float]

    @contextmanager
    def enabled(self) -> Iterator[LatentAudioModel]:
        """Inside ``with``, the model is the tuned one (θ*); afterwards exactly the base model."""
        settings = self.settings
        with tunable(self.model.unet, settings.lora_rank, settings.lora_targets) as parameters:
            for name, parameter in parameters.items():
                parameter.data = self.weights[name].to(parameter.device)
            yield self.model


def finetune(
    model: LatentAudioModel,
    latent: Tensor,
    conditioning: Conditioning,
    settings: FinetuningSettings = FinetuningSettings(),
    mask: Tensor | None = None,
    checkpoint: Path | None = None,
    progress: bool = True,
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

    Raises
    ------
    CheckpointError, DivergenceError, OutOfMemory
        See :func:`helpers.editing.optimisation.optimise`.
    """
    precision = model.dtype

    def loss(generator):
        half = precision != torch.float32
        with torch.autocast(model.device.type, precision, enabled=half):
            return reconstruction_loss(
                model, latent, conditioning, generator, settings.batch_size, mask
            )

    with tunable(model.unet, settings.lora_rank, settings.lora_targets) as parameters:
        with explain_memory_errors("Step 2, fine-tuning"):
            for parameter in parameters.values():
                parameter.data = parameter.data.to(torch.float32, copy=True)
                parameter.requires_grad_(True)
        if settings.lora_rank is not None:
            _initialise_adapters(parameters, torch.Generator().manual_seed(settings.seed))
        losses = optimise(
            list(parameters.values()),
            loss,
            steps=settings.steps,
            learning_rate=settings.learning_rate,
            seed=settings.seed,
            description="Step 2, fine-tuning",
            identity=fingerprint(settings, model.fingerprint, precision),
            subject=[latent, mask, *conditioning.embeddings, *conditioning.masks],
            checkpoint=checkpoint,
            progress=progress,
            scale_loss=precision == torch.float16,
        )
        weights = {name: parameter.data for name, parameter in parameters.items()}
    return FineTuning(model, weights, settings, losses)


@contextmanager
def tunable(
    unet: nn.Module, lora_rank: int | None, lora_targets: tuple[str, ...] = LORA_TARGETS
) -> Iterator[dict[str, nn.Parameter]]:
    """Parameters whose ``.data`` may be replaced; on leaving, the UNet is exactly as before."""
    if hasattr(unet, "peft_config"):
        raise RuntimeError(
            "Another fine-tuning of this model is switched on: leave its `with` block first."
        )
    if lora_rank is None:
        parameters = dict(unet.named_parameters())
        originals = {name: parameter.data for name, parameter in parameters.items()}
        try:
            yield parameters
        finally:
            for name, parameter in parameters.items():
                parameter.requires_grad_(False).grad = None
                parameter.data = originals[name]
    else:
        config = LoraConfig(r=lora_rank, lora_alpha=lora_rank, target_modules=list(lora_targets))
        adapters = LoraModel(unet, config, "edit")
        try:
            yield {name: p for name, p in unet.named_parameters() if p.requires_grad}
        finally:
            adapters.unload()
            vars(unet).pop("peft_config", None)  # some releases of peft leave it behind


def _initialise_adapters(parameters: dict[str, nn.Parameter], generator: torch.Generator) -> None:
    """LoRA's start: A random, B zero, so that the tuned model begins as the base model."""
    for name, parameter in parameters.items():
        if ".lora_A." in name:
            start = torch.empty(parameter.shape)
            nn.init.kaiming_uniform_(start, a=math.sqrt(5), generator=generator)
            parameter.data.copy_(start)
        else:
            parameter.data.zero_()
