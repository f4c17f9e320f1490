"""Step 2: a UNet that reconstructs the recording from e_opt (Sec. 2.2), fully or with LoRA.

What is trained is float32 whatever the model's precision, because steps of 1e-6 vanish in a half-
precision weight.  With LoRA the frozen rest keeps its precision; the whole UNet, float32 while it
is tuned or switched on, computes its training in the model's precision (autocast).

The model is the base model at all times but inside ``with finetuned.enabled():``, and during
:func:`finetune` itself.  No weight of it is ever written: what is tuned are other modules, which
share the weights that stay, and which the UNet stands for while they are switched on.
"""

from __future__ import annotations

import copy
import math
import weakref
from dataclasses import dataclass
from itertools import chain
from numbers import Integral, Real
from pathlib import Path
from types import MethodType

import torch
from peft import LoraConfig, LoraModel
from torch import Tensor, nn

from helpers.editing.objective import reconstruction_loss
from helpers.editing.optimisation import check_settings, optimise
from helpers.models.latent_audio_model import (
    Conditioning,
    LatentAudioModel,
    explain_memory_errors,
)
from helpers.storage import Provenance

# What LoRA adapts, by the ends of names in diffusers' UNets: every attention projection; or, beside
# them, the convolutions of the residual blocks and what leads into and out of the attention blocks.
LORA_TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
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

    Raises
    ------
    ValueError
        If a value is of another kind or out of range.
    """

    steps: int = 1500
    learning_rate: float = 1e-6
    batch_size: int = 1
    lora_rank: int | None = None
    lora_targets: tuple[str, ...] = (*LORA_TARGETS,)
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges."""
        ranges = {"steps": (Integral, 0), "batch_size": (Integral, 1), "seed": (Integral, 0)}
        if self.lora_rank is not None:
            ranges["lora_rank"] = (Integral, 1)
        check_settings(self, learning_rate=(Real, 0), **ranges)
        if isinstance(self.lora_targets, str) or not self.lora_targets:
            raise ValueError(
                f"lora_targets is {self.lora_targets!r}: give a tuple of the ends of layers' names."
            )


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

    def enabled(self) -> tunable:
        """Inside ``with``, the model is the tuned one (θ*); afterwards exactly the base model."""
        settings = self.settings
        return tunable(
            self.model.denoiser,
            settings.lora_rank,
            settings.lora_targets,
            weights=self.weights,
            gives=self.model,
        )


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

    provenance = Provenance(
        model.weights, {"": settings, "precision": precision, "schedule": model.schedule}
    )
    with tunable(model.denoiser, settings.lora_rank, settings.lora_targets) as parameters:
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
            provenance=provenance,
            subject={
                "recording": [latent],
                "gap": [mask],
                "embedding": [*conditioning.embeddings, *conditioning.masks],
            },
            checkpoint=checkpoint,
            progress=progress,
            scale_loss=precision == torch.float16,
        )
        weights = {name: parameter.data for name, parameter in parameters.items()}
    return FineTuning(model, weights, settings, losses)


class _Leaving:
    """The method ``__exit__``, by which a block is known to be running.

    A ``with`` statement asks for the method when it begins, and drops it when its block is left,
    however that happens.  Nothing else keeps what is handed out here.
    """

    def __get__(self, switch: tunable | None, kind: type) -> object:
        if switch is None:
            return self
        leave = MethodType(tunable.leave, switch)
        switch._blocks.append(weakref.ref(leave))
        return leave

    def __call__(self, switch: tunable, *error: object) -> None:
        switch.leave()  # an ExitStack's way


class tunable:
    """Inside ``with``, a UNet stands for a copy of itself whose parameters may be replaced.

    The copy shares all weights with the UNet.  Switching it on and off is one assignment, so that a
    signal comes before or after it.  One that comes at the very moment of leaving can leave it on;
    then the UNet's next use switches it off and says so.

    Parameters
    ----------
    denoiser : torch.nn.Module
    lora_rank : int, optional
        Adds adapters to the copy; without it, the whole copy is tunable.
    lora_targets : tuple of str
        Which layers get adapters.
    weights : mapping of str to torch.Tensor, optional
        What the tunable parameters are set to.
    gives : object, optional
        What the ``with`` statement gives; by default the tunable parameters by name, whose
        ``.data`` may be replaced.

    Raises
    ------
    RuntimeError
        On entering, if another fine-tuning of the UNet is switched on.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        lora_rank: int | None,
        lora_targets: tuple[str, ...] = (*LORA_TARGETS,),
        weights: dict[str, Tensor] | None = None,
        gives: object = None,
    ) -> None:
        self._denoiser = denoiser
        self._rank = lora_rank
        self._targets = lora_targets
        self._weights = weights
        self._gives = gives
        self._blocks: list[weakref.ref] = []

    def __enter__(self) -> object:
        """Switch on."""
        _switch_off_what_was_left(self._denoiser)
        self._base = vars(self._denoiser)
        tuned, parameters = _copy(self._denoiser, self._rank, self._targets)
        for name, parameter in parameters.items():
            if self._weights is not None:
                parameter.data = self._weights[name].to(parameter.device)
        tuned.register_forward_pre_hook(self._check)
        vars(tuned)[_SWITCH] = self
        gives = parameters if self._gives is None else self._gives
        try:
            object.__setattr__(self._denoiser, "__dict__", vars(tuned))
        except BaseException:
            object.__setattr__(self._denoiser, "__dict__", self._base)
            raise
        return gives

    __exit__ = _Leaving()

    @property
    def is_inside(self) -> bool:
        """Whether the ``with`` block is running; an interrupted one may have left it on."""
        return not self._blocks or any(block() is not None for block in self._blocks)

    def leave(self, *error: object) -> None:
        """Switch off."""
        object.__setattr__(self._denoiser, "__dict__", self._base)

    def _check(self, denoiser: nn.Module, inputs: tuple) -> None:
        if not self.is_inside:
            _switch_off_what_was_left(denoiser)
            raise RuntimeError(
                "An interruption had left tuned weights switched on; they are off now, and the "
                "model is as it was loaded: run this again."
            )


_SWITCH = "_tunable"


def _switch_off_what_was_left(denoiser: nn.Module) -> None:
    """Switch off what an interruption left on; refuse what a ``with`` block has on."""
    while (switch := vars(denoiser).get(_SWITCH)) is not None:
        if switch.is_inside:
            raise RuntimeError(
                "Another fine-tuning of this model is switched on: leave its `with` block first."
            )
        object.__setattr__(denoiser, "__dict__", switch._base)


def _copy(
    denoiser: nn.Module, lora_rank: int | None, lora_targets: tuple[str, ...]
) -> tuple[nn.Module, dict[str, nn.Parameter]]:
    """Copy a UNet's modules but not its weights; returns what is tunable by name."""
    shared = {id(tensor): tensor for tensor in chain(denoiser.parameters(), denoiser.buffers())}
    if lora_rank is None:
        own = {i: nn.Parameter(t.detach(), False) for i, t in shared.items() if _is_parameter(t)}
        tuned = copy.deepcopy(denoiser, {**shared, **own})
        return tuned, dict(tuned.named_parameters())
    tuned = copy.deepcopy(denoiser, shared)
    config = LoraConfig(r=lora_rank, lora_alpha=lora_rank, target_modules=list(lora_targets))
    LoraModel(tuned, config, "edit")
    return tuned, {name: p for name, p in tuned.named_parameters() if p.requires_grad}


def _is_parameter(tensor: Tensor) -> bool:
    return isinstance(tensor, nn.Parameter)


def _initialise_adapters(parameters: dict[str, nn.Parameter], generator: torch.Generator) -> None:
    """LoRA's start: A random, B zero, so that the tuned model begins as the base model."""
    for name, parameter in parameters.items():
        if ".lora_A." in name:
            start = torch.empty(parameter.shape)
            nn.init.kaiming_uniform_(start, a=math.sqrt(5), generator=generator)
            parameter.data.copy_(start)
        else:
            parameter.data.zero_()
