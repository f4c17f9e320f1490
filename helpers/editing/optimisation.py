"""The loop that Steps 1 and 2 share: Adam on Eq. 1, stoppable and resumable."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor
from tqdm.auto import tqdm

from helpers.models.latent_audio_model import (
    Conditioning,
    LatentAudioModel,
    OutOfMemory,
    explain_memory_errors,
)
from helpers.storage import (
    Provenance,
    StorageError,
    check_room,
    lock,
    open_checked,
    sentence,
    write_whole,
)

FIRST_SAVE = 3.0  # seconds until the first checkpoint
SLOWER = 1.5  # how much longer each time until the next
LAST_SAVE = 30.0  # seconds between checkpoints, at most
SAVING_SHARE = 0.1  # of the time may go into writing them
SAME = 1e-2  # relative distance of what two computers make of one recording or prompt, at most

Subject = Mapping[str, Sequence[Tensor | None]]


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
    provenance: Provenance,
    subject: Subject,
    checkpoint: Path | None,
    progress: bool,
    scale_loss: bool = False,
    each_step: Callable[[int], object] | None = None,
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
    provenance : Provenance
        The weights and settings; a checkpoint of others is refused.
    subject : mapping of str to sequence of torch.Tensor or None
        What the model made of the "recording" and the "prompt", and masks.  A checkpoint of another
        subject is refused too; a difference that comes of another computer's rounding is none.
    checkpoint : Path, optional
        Written after 3 seconds, then at growing intervals of up to 30, at the end and on
        KeyboardInterrupt; read at the start.  Another run has to wait for it.
    progress : bool
        Whether to show the progress bar with the mean of the last 50 losses.
    scale_loss : bool
        For float16, whose smallest numbers the gradients fall below: they are computed for the
        loss times a large factor, and a step at which they overflow halves the factor and moves
        nothing (GradScaler).
    each_step : callable, optional
        Gets the number of steps done, after each of them.

    Returns
    -------
    list of float
        The loss of each step.

    Raises
    ------
    CheckpointError
        If the checkpoint belongs to another run, is damaged, or cannot be written; before any work.
    DivergenceError
        If the loss is not finite.
    OutOfMemory
        If the GPU's memory is too small.
    """
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(parameters, lr=learning_rate)
    scaler = torch.amp.GradScaler(parameters[0].device.type, enabled=scale_loss)
    run = _Run(parameters, optimiser, scaler, generator, steps, description)
    file = None if checkpoint is None else _Checkpoint(checkpoint, provenance, subject)
    finished = file is not None and file.load(run) and len(run.losses) == steps
    with ExitStack() as stack:
        if file is not None and not finished:
            file.hold(stack, run)
            file.load(run)  # another run may have gone on meanwhile
        bar = stack.enter_context(
            tqdm(total=steps, initial=len(run.losses), desc=description, disable=not progress)
        )
        stack.enter_context(explain_memory_errors(description))
        while len(run.losses) < steps:
            generator_state = generator.get_state()
            try:
                loss = loss_function(generator)
                optimiser.zero_grad()
                scaler.scale(loss).backward()
                value = loss.item()
            except KeyboardInterrupt:  # no parameter of this step has moved yet
                generator.set_state(generator_state)
                if file is not None:
                    file.save(run)
                raise
            if not torch.isfinite(loss):
                raise DivergenceError(
                    f"{description}: the loss of step {len(run.losses) + 1} is {value}; lower the "
                    "learning rate or use float32."
                )
            scaler.step(optimiser)
            scaler.update()
            run.losses.append(value)
            if each_step is not None:
                each_step(len(run.losses))
            bar.update()
            recent = run.losses[-50:]
            bar.set_postfix(loss=f"{sum(recent) / len(recent):.4f}", refresh=False)
            if file is not None and (file.is_due() or len(run.losses) == steps):
                file.save(run)
    return run.losses


def is_number(value: object) -> TypeGuard[float]:
    """Tell whether a value is a finite number."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    return isinstance(value, Integral) or math.isfinite(value)


def check_settings(settings: object, **ranges: tuple[type, float]) -> None:
    """Raise a ValueError unless each named setting is a number of its kind, not below its least.

    Parameters
    ----------
    settings : dataclass
    **ranges
        By name the kind, ``Integral`` or ``Real``, and the least value; a ``Real`` one has to lie
        above it.
    """
    for name, (kind, least) in ranges.items():
        value, whole = getattr(settings, name), kind is Integral
        fits = is_number(value) and isinstance(value, kind)
        if not (fits and (value > least or (whole and value == least))):
            wanted = f"a whole number, {least} or more" if whole else f"a number above {least}"
            raise ValueError(f"{name} is {value!r}: give {wanted}.")


@dataclass(frozen=True)
class TrainingSettings:
    """The hyper-parameters that Steps 1 and 2 share.

    Parameters
    ----------
    steps : int
    learning_rate : float
        Of Adam.
    batch_size : int
        Timesteps per step; several steady it.
    seed : int
        Of timesteps and noise.

    Raises
    ------
    ValueError
        If a value is of another kind or out of range.
    """

    steps: int
    learning_rate: float
    batch_size: int = 1
    seed: int = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        """Check the ranges."""
        whole = {"steps": (Integral, 0), "batch_size": (Integral, 1), "seed": (Integral, 0)}
        check_settings(self, learning_rate=(Real, 0), **whole)

    def on(
        self,
        model: LatentAudioModel,
        latent: Tensor,
        mask: Tensor | None,
        **conditionings: Conditioning,
    ) -> dict[str, Any]:
        """Return what :func:`optimise` is told of a run with these settings on a latent."""
        settings = {"": self, "precision": model.dtype, "schedule": model.schedule}
        described = {name: [*e.embeddings, *e.masks] for name, e in conditionings.items()}
        return {
            "steps": self.steps,
            "learning_rate": self.learning_rate,
            "seed": self.seed,
            "provenance": Provenance(model.weights, settings),
            "subject": {"recording": [latent], "gap": [mask]} | described,
            "scale_loss": model.dtype == torch.float16,
        }


@dataclass
class _Run:
    """What changes from step to step."""

    parameters: list[Tensor]
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    generator: torch.Generator
    steps: int
    description: str
    losses: list[float] = field(default_factory=list)

    def state(self) -> dict[str, object]:
        """All that a resumed run needs; of a finished one Adam's averages are left out."""
        finished = len(self.losses) >= self.steps
        return {
            "parameters": [p.detach() for p in self.parameters],
            "optimiser": None if finished else self.optimiser.state_dict()["state"],
            "scaler": self.scaler.state_dict(),
            "generator": self.generator.get_state(),
            "losses": self.losses,
        }

    def resume(self, state: dict) -> None:
        """Put everything back; raises whatever comes of a state that is none of this run's."""
        losses, averages = state["losses"], state["optimiser"]
        shapes = [p.shape for p in self.parameters]
        finished = len(losses) == self.steps
        moments = ("exp_avg", "exp_avg_sq")
        expected = {(i, m): shape for i, shape in enumerate(shapes) for m in moments if losses}
        if not (
            [p.shape for p in state["parameters"]] == shapes
            and all(isinstance(loss, float) for loss in losses)
            and len(losses) <= self.steps
            and state["scaler"].keys() == self.scaler.state_dict().keys()
            and (averages is None) == finished
            and (
                finished
                or expected == {(i, m): averages[i][m].shape for i in averages for m in moments}
            )
        ):
            raise ValueError("the state of another run")
        self.generator.set_state(state["generator"])
        self.scaler.load_state_dict(state["scaler"])
        if not finished:
            groups = self.optimiser.state_dict()["param_groups"]
            self.optimiser.load_state_dict({"state": averages, "param_groups": groups})
        with torch.no_grad():
            for parameter, saved in zip(self.parameters, state["parameters"], strict=True):
                parameter.copy_(saved)
        self.losses = losses


class _Checkpoint:
    """A run on the disk."""

    def __init__(self, path: Path, provenance: Provenance, subject: Subject) -> None:
        self.path = Path(path)
        self.provenance = provenance
        self.subject = {
            name: [tensor.detach().cpu() for tensor in tensors if tensor is not None]
            for name, tensors in subject.items()
        }
        self.interval = FIRST_SAVE
        self.due = time.monotonic() + self.interval

    def hold(self, stack: ExitStack, run: _Run) -> None:
        """Lock it for this run, and see whether it can be written when the time comes."""
        needed = 3 * sum(parameter.nbytes for parameter in run.parameters)  # Adam keeps two more
        try:
            stack.enter_context(lock(self.path))
            check_room(self.path.parent, needed)
        except StorageError as error:
            raise CheckpointError(str(error)) from error

    def is_due(self) -> bool:
        """Whether it is time to save again."""
        return time.monotonic() >= self.due

    def save(self, run: _Run) -> None:
        """Write all of a run; what was saved before is kept until that has been done."""
        made = {"made from": self.provenance.to_dict(), "subject": self.subject}
        started = time.monotonic()
        try:
            write_whole(self.path, lambda file: torch.save(made | run.state(), file), checked=True)
        except StorageError as error:
            raise CheckpointError(str(error)) from error
        now = time.monotonic()
        self.due = now + max(self.interval, (now - started) / SAVING_SHARE)
        self.interval = min(LAST_SAVE, self.interval * SLOWER)

    def load(self, run: _Run) -> bool:
        """Resume a run, if it has been saved; say what is wrong with what has been."""
        if not self.path.exists():
            return False
        try:
            with explain_memory_errors(run.description), open_checked(self.path) as file:
                state = torch.load(file, map_location="cpu", weights_only=True)
                self._compare(state)
                run.resume(state)
        except (CheckpointError, OutOfMemory):
            raise
        except Exception as error:  # whatever a damaged file makes of reading it
            raise CheckpointError(
                f"{self.path} is damaged or cannot be read as a checkpoint of {run.description}: "
                "delete it."
            ) from error
        return True

    def _compare(self, state: dict) -> None:
        """Refuse what was made from something else."""
        differences = Provenance.from_dict(state["made from"]).differences(self.provenance)
        for name, tensors in self.subject.items():
            if not _agree(state["subject"].get(name, ()), tensors):
                differences.append(f"another {name}")
        if differences:
            raise CheckpointError(
                f"{self.path} belongs to another run, {sentence(differences)}: delete it or name "
                "another file."
            )


def _agree(saved: Sequence[Tensor], present: Sequence[Tensor]) -> bool:
    """Whether tensors are equal but for rounding."""
    if [tensor.shape for tensor in saved] != [tensor.shape for tensor in present]:
        return False
    pairs = [(a.float(), b.float()) for a, b in zip(saved, present, strict=True)]
    return all((a - b).norm() <= SAME * b.norm() for a, b in pairs)
