"""Load a base model for a preset, and compute what that needs before anything is downloaded.

Memory is computed from the model itself on the meta device: the weights by counting, what Step 2
keeps for its gradients by running one forward pass without numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from torch import Tensor, nn

from helpers.editing.finetuning import tunable
from helpers.editing.presets import PRESETS, EditSettings, presets_for
from helpers.editing.presets import preset as settings_of
from helpers.models import find_device, find_family, reading
from helpers.models.latent_audio_model import LatentAudioModel, explain_memory_errors

# What no shape tells: CUDA's context, the kernels' workspaces and gaps between blocks of memory.
# An assumption.
OVERHEAD = 1_000_000_000  # bytes


def load_model(
    name: str | Path = "pocket",
    preset: str | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> LatentAudioModel:
    """Load a base model.

    What a published model needs is computed and printed before anything is downloaded, and
    whenever a preset is named; a device that cannot hold it is refused.  Before a download it is
    also said who may have the weights, where not everyone may.

    Parameters
    ----------
    name : str or Path
        One of :func:`helpers.models.model_names`, or a folder that holds a model's published files,
        or what :func:`helpers.models.tango.convert` saved.
    preset : str, optional
        Name of the settings it is for (:data:`helpers.editing.PRESETS`).
    device : torch.device or str, optional
        By default the GPU if there is one.
    dtype : torch.dtype, optional
        Of the UNet; by default the preset's on a GPU, else float32.

    Raises
    ------
    ValueError
        If there is no such model, preset or device, or the device's memory is too small for the
        preset, or for every preset.
    ModelFileError
        If a file of the model is missing, damaged or belongs to another model.

    Lesson: 00.
    """
    family = find_family(name)
    device = find_device(device)
    settings = None if preset is None else settings_of(preset)
    if dtype is None and device.type == "cpu":
        dtype = torch.float32
    at_hand = family.is_at_hand(name)
    if family.terms and not at_hand:
        print(family.terms)
    if family.blueprint and (preset or not at_hand):
        with reading(name):
            plan = family.blueprint(name)
        check_device(plan, [preset] if preset else presets_for(str(name)), device, dtype)
    with reading(name), explain_memory_errors(f"loading {name}"):
        return family.load(name, device, dtype or (settings.dtype if settings else torch.float32))


@dataclass(frozen=True)
class Memory:
    """Bytes on the device while a preset fine-tunes a model (Step 2, the largest moment).

    Parameters
    ----------
    weights : int
        UNet, autoencoder and vocoder.
    training : int
        The float32 copy that is tuned, its gradients and Adam's two averages.
    activations : int
        What one forward pass keeps for the gradients, attention maps included: attention that is
        computed in one piece, as on GPUs, keeps less.
    """

    weights: int
    training: int
    activations: int

    @property
    def total(self) -> int:
        """All of it, with an allowance for what shapes do not tell."""
        return self.weights + self.training + self.activations + OVERHEAD


def memory_needed(model: LatentAudioModel, settings: EditSettings, dtype: torch.dtype) -> Memory:
    """Compute what fine-tuning needs, without a device.

    Parameters
    ----------
    model : LatentAudioModel
        On the meta device; its UNet is cast to ``dtype``.
    settings : EditSettings
    dtype : torch.dtype
        Of the UNet.
    """
    nn.Module.to(model.denoiser, dtype)  # diffusers' own `to` warns of nothing
    weights = sum(map(_bytes, model.parts.values()))
    prompt = model.embed_text("a prompt of the usual length")
    noisy = torch.zeros(settings.finetuning.batch_size, *model.latent_shape, device="meta")
    finetuning = settings.finetuning
    rank = finetuning.lora_rank
    tuned, parameters = tunable(model, rank, finetuning.lora_targets)
    trained = 4 * sum(parameter.numel() for parameter in parameters.values())
    for parameter in parameters.values():
        parameter.data = parameter.data if rank is None else parameter.data.float()
        parameter.requires_grad_(True)
    activations = _kept_for_gradients(tuned.denoiser, lambda: tuned.predict(noisy, 1, prompt))
    if rank is None and dtype != torch.float32:
        activations += _bytes(model.denoiser)  # autocast's copies of the float32 weights
    # Adam's own temporaries, as large as what is trained, come when the activations have gone.
    return Memory(weights, 4 * trained, max(activations, trained))


def check_device(
    model: LatentAudioModel,
    presets: list[str],
    device: torch.device,
    dtype: torch.dtype | None = None,
) -> None:
    """Print what presets need and refuse them if none fits the device.

    Parameters
    ----------
    model : LatentAudioModel
        On the meta device.
    presets : list of str
    device : torch.device
    dtype : torch.dtype, optional
        Of the UNet, in place of the presets' own.

    Raises
    ------
    ValueError
        If none fits; the message names a preset that does.
    """
    needed = {name: _total(model, name, dtype) for name in presets}
    print(f"{model.name} needs, while Step 2 runs:")
    for name, memory in needed.items():
        rank = PRESETS[name].finetuning.lora_rank
        trained = "the whole UNet" if rank is None else f"LoRA of rank {rank}"
        precision = str(dtype or PRESETS[name].dtype).removeprefix("torch.")
        print(f"  preset {name!r}: {_gigabytes(memory)} for {trained} in {precision}", flush=True)
    available = device_memory(device)
    if available is None or min(needed.values()) <= available:
        return
    others = {n: _total(model, n, dtype) for n in presets_for(model.name) if n not in needed}
    fitting = [name for name, memory in others.items() if memory <= available]
    if fitting:
        advice = f"use preset={fitting[0]!r} ({_gigabytes(others[fitting[0]])})"
    else:
        advice = "use a larger device, or load_model('pocket')"
    least = min(needed, key=needed.__getitem__)
    raise ValueError(
        f"{model.name} with the preset {least!r} needs about {_gigabytes(needed[least])} and "
        f"the device {str(device)!r} has {_gigabytes(available)}: {advice}."
    )


def device_memory(device: torch.device) -> int | None:
    """Bytes the device has in all; None where that cannot be known."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return psutil.virtual_memory().total if device.type == "cpu" else None


def _total(model: LatentAudioModel, preset: str, dtype: torch.dtype | None) -> int:
    settings = PRESETS[preset]
    return memory_needed(model, settings, dtype or settings.dtype).total


def _bytes(module: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in module.parameters())


def _kept_for_gradients(module: nn.Module, forward: Callable[[], Tensor]) -> int:
    """Bytes that a forward pass keeps for the backward pass, the module's weights not counted."""
    weights = {parameter.untyped_storage()._cdata for parameter in module.parameters()}
    kept = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage  # held, so that no other takes its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        forward()
    return sum(storage.nbytes() for storage in kept.values())


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
