"""The loop that Steps 1 and 2 share: Adam on Eq. 1, stoppable and resumable."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from helpers.models.latent_audio_model import explain_memory_errors

CHECKPOINT_EVERY = 100  # steps
SAME = 1e-2  # relative distance of what two computers make of one recording or prompt, at most


class CheckpointError(ValueError):
    """A checkpoint that belongs to another run, or cannot be read or written."""


class DivergenceError(ArithmeticError):
    """A loss that is not a number."""


def optimise(
    parameters: list[Tensor],
    loss_function: Callable[[torch.Generator], Tensor],
    *,
    steps: int,
    learning_rate: float,
    seed: int,
    description: str,
    identity: str,
    subject: Sequence[Tensor | None],
    checkpoint: Path | None,
    progress: bool,
    scale_loss: bool = False,
) -> list[float]:
    """Minimise a random loss over ``parameters``, in place.

    A run that was stopped and resumed ends with the numbers of one that never was.

    Parameters
    ----------
    parameters : list of torch.Tensor
        Leaves that require gradients.
    loss_function : callable
        From a CPU generator to a scalar loss.
    steps, learning_rate, seed
        Of Adam and of the generator.
    description : str
        Title of the progress bar, and what messages call the run.
    identity : str
        Fingerprint of the settings and the model; a checkpoint of another is refused.
    subject : sequence of torch.Tensor or None
        What the model made of the recording and the prompt, and masks.  A checkpoint of another
        subject is refused too; a difference that comes of another computer's rounding is none.
    checkpoint : Path, optional
        Written every 100 steps, at the end and on KeyboardInterrupt; read at the start.
    progress : bool
        Whether to show the progress bar with the mean of the last 50 losses.
    scale_loss : bool
        For float16, whose smallest numbers the gradients fall below: they are computed for the
        loss times a large factor, and a step at which they overflow halves the factor and moves
        nothing (GradScaler).

    Returns
    -------
    list of float
        The loss of each step.

    Raises
    ------
    CheckpointError
        If the checkpoint belongs to another run, or cannot be read or written.
    DivergenceError
        If the loss is not finite.
    OutOfMemory
        If the GPU's memory is too small.
    """
    subject = [tensor.detach().cpu() for tensor in subject if tensor is not None]
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(parameters, lr=learning_rate)
    scaler = torch.amp.GradScaler(parameters[0].device.type, enabled=scale_loss)
    losses: list[float] = []
    if checkpoint is not None and checkpoint.exists():
        state = _read(checkpoint, description)
        if state["identity"] != identity or not _agree(state["subject"], subject):
            raise CheckpointError(
                f"{checkpoint} belongs to another recording, prompt, model or settings: delete it "
                "or name another file."
            )
        with explain_memory_errors(description):
            losses = _resume(state, parameters, optimiser, scaler, generator)

    def save(generator_state: Tensor) -> None:
        if checkpoint is None:
            return
        state = {
            "identity": identity,
            "subject": subject,
            "parameters": [p.detach() for p in parameters],
            "optimiser": optimiser.state_dict() if len(losses) < steps else None,
            "scaler": scaler.state_dict(),
            "generator": generator_state,
            "losses": losses,
        }
        try:
            write_atomically(checkpoint, lambda path: torch.save(state, path))
        except (OSError, RuntimeError) as error:  # torch's, when the disk is full
            raise CheckpointError(
                f"{checkpoint} cannot be written: is the disk full? Make room or name another "
                f"folder; what was saved before is kept ({error})."
            ) from error

    bar = tqdm(total=steps, initial=len(losses), desc=description, disable=not progress)
    with bar, explain_memory_errors(description):
        while len(losses) < steps:
            generator_state = generator.get_state()
            try:
                loss = loss_function(generator)
                optimiser.zero_grad()
                scaler.scale(loss).backward()
                value = loss.item()
            except KeyboardInterrupt:  # no parameter of this step has moved yet
                save(generator_state)
                raise
            if not torch.isfinite(loss):
                raise DivergenceError(
                    f"{description}: the loss of step {len(losses) + 1} is {value}; lower the "
                    "learning rate or use float32."
                )
            scaler.step(optimiser)
            scaler.update()
            losses.append(value)
            bar.update()
            bar.set_postfix(loss=f"{sum(losses[-50:]) / len(losses[-50:]):.4f}", refresh=False)
            if len(losses) % CHECKPOINT_EVERY == 0 or len(losses) == steps:
                save(generator.get_state())
    return losses


def fingerprint(*values: object) -> str:
    """Hexadecimal SHA-256 of tensors (their bytes), ``None`` and anything with a stable repr."""
    digest = hashlib.sha256()
    for value in values:
        if isinstance(value, Tensor):
            digest.update(repr((value.dtype, value.shape)).encode())
            value = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        digest.update(value if isinstance(value, bytes) else repr(value).encode())
    return digest.hexdigest()


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Write beside ``path`` and move into place, so that no reader sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _read(checkpoint: Path, description: str) -> dict:
    """Read a checkpoint whole, or say that it is none."""
    needed = {"identity", "subject", "parameters", "optimiser", "scaler", "generator", "losses"}
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        whole = needed <= state.keys()
    except (OSError, EOFError, RuntimeError, AttributeError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"{checkpoint} cannot be read as a checkpoint of {description}: delete it."
        ) from error
    if not whole:
        raise CheckpointError(
            f"{checkpoint} cannot be read as a checkpoint of {description}: delete it."
        )
    return state


def _agree(saved: Sequence[Tensor], present: Sequence[Tensor]) -> bool:
    """Whether tensors are equal but for rounding."""
    if [tensor.shape for tensor in saved] != [tensor.shape for tensor in present]:
        return False
    pairs = [(a.float(), b.float()) for a, b in zip(saved, present, strict=True)]
    return all((a - b).norm() <= SAME * b.norm() for a, b in pairs)


def _resume(
    state: dict,
    parameters: list[Tensor],
    optimiser: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    generator: torch.Generator,
) -> list[float]:
    """Put everything back to where the checkpoint was written; returns its losses."""
    with torch.no_grad():
        for parameter, saved in zip(parameters, state["parameters"], strict=True):
            parameter.copy_(saved)
    if state["optimiser"] is not None:
        optimiser.load_state_dict(state["optimiser"])
    scaler.load_state_dict(state["scaler"])
    generator.set_state(state["generator"])
    return state["losses"]
