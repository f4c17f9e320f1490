"""The training loop that every stage shares: AdamW, a constant rate with a decay at the end, EMA.

A stage can be stopped at any time and resumes to the same numbers.  While its rate is constant its
length is open: a run may be given more steps as long as the decay has not begun.
"""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from tqdm.auto import tqdm

from helpers.models.latent_audio_model import is_out_of_memory
from helpers.models.published import check_archive
from helpers.storage import write_whole

CHECKPOINT_EVERY = 200  # steps
WARMUP_STEPS = 200
DECAY_SHARE = 0.2  # of the steps, at the end


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a stage trains."""

    steps: int
    learning_rate: float
    batch_size: int
    ema_decay: float = 0.999
    weight_decay: float = 0.01
    validate_every: int = 1_000

    def rate(self, step: int) -> float:
        """Share of the learning rate at a step: warm-up, 1, then a line down to 0."""
        decay = max(1, round(DECAY_SHARE * self.steps))
        return min((step + 1) / WARMUP_STEPS, 1.0, (self.steps - step) / decay)

    def agrees(self, other: Schedule, step: int) -> bool:
        """Whether a run of ``step`` steps under ``other`` is the beginning of one under this."""
        mine, theirs = asdict(self), asdict(other)
        for name in ("steps", "validate_every"):
            del mine[name], theirs[name]
        before_decay = step <= (1 - DECAY_SHARE) * min(self.steps, other.steps)
        return mine == theirs and (self.steps == other.steps or before_decay)


def train(
    model: nn.Module,
    loss_of: Callable[[nn.Module, np.random.Generator], Tensor],
    schedule: Schedule,
    checkpoint: Path,
    validate: Callable[[nn.Module], float] | None = None,
    minutes: float = math.inf,
) -> nn.Module | None:
    """Minimise a loss and return the model with its averaged (EMA) weights.

    Training is in float32 on a CPU and under bfloat16 autocast on a GPU.

    Parameters
    ----------
    model : nn.Module
        Trained in place, on the device that accelerate finds.
    loss_of : callable
        From the model and the step's own generator to a scalar loss; the generator depends on the
        step alone, so that a resumed run sees the batches it would have seen.
    schedule : Schedule
    checkpoint : Path
        Written every 200 steps and when training stops; training goes on from it when it is there.
        Beside it, ``<stage>.csv`` logs steps, hours, and losses.
    validate : callable, optional
        From the model, with its averaged weights, to a loss on held-out data.
    minutes : float
        Stop after so long, to go on another time.

    Returns
    -------
    nn.Module or None
        None if the time ran out first.

    Raises
    ------
    ValueError
        If the checkpoint is damaged or of another schedule.
    FloatingPointError
        If the loss is not finite.
    """
    on_gpu = torch.cuda.is_available()
    accelerator = Accelerator(mixed_precision="bf16" if on_gpu else "no", cpu=not on_gpu)
    optimizer = torch.optim.AdamW(
        model.parameters(), schedule.learning_rate, weight_decay=schedule.weight_decay, fused=True
    )
    device = accelerator.device
    model.to(device, memory_format=torch.channels_last)
    ema = _average(model, schedule)
    step, hours, losses = 0, 0.0, []
    if checkpoint.exists():
        try:
            check_archive(checkpoint)
            state = torch.load(checkpoint, map_location=device, weights_only=True)
            step, hours, losses = state["step"], state["hours"], state["losses"]
            earlier = Schedule(**state["schedule"])
        except Exception as error:  # whatever a damaged file makes of reading
            if is_out_of_memory(error):
                raise
            raise ValueError(
                f"{checkpoint} is damaged: delete it, and the stage begins anew."
            ) from error
        if not schedule.agrees(earlier, step):
            raise ValueError(
                f"{checkpoint} is of another recipe: delete it, or train in another --folder."
            )
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        ema.load_state_dict(state["ema"])
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    model.train()
    started = time.monotonic()
    hours_before = hours

    def save() -> None:
        state = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "ema": ema.state_dict(),
            "step": step,
            "hours": hours,
            "losses": losses,
            "schedule": asdict(schedule),
        }
        write_whole(checkpoint, lambda file: torch.save(state, file))

    progress = tqdm(initial=step, total=schedule.steps, desc=checkpoint.stem)
    while step < schedule.steps and (time.monotonic() - started) < 60 * minutes:
        for group in optimizer.param_groups:
            group["lr"] = schedule.learning_rate * schedule.rate(step)
        with accelerator.autocast():
            loss = loss_of(wrapped, np.random.default_rng([step, 0x9E3779B9]))
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ema.step(model.parameters())
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise FloatingPointError(
                f"The {checkpoint.stem} stage's loss is {losses[-1]} at step {step}: lower its "
                "learning rate and delete its checkpoint."
            )
        step += 1
        hours = hours_before + (time.monotonic() - started) / 3600
        progress.update()
        progress.set_postfix(loss=f"{np.mean(losses[-50:]):.4f}", refresh=False)
        if step % CHECKPOINT_EVERY == 0 or step == schedule.steps:
            save()
        if step % schedule.validate_every == 0 or step == schedule.steps:
            ema.store(model.parameters())
            ema.copy_to(model.parameters())
            model.eval()
            validation = validate(model) if validate else math.nan
            model.train()
            ema.restore(model.parameters())
            row = (step, hours, np.mean(losses[-schedule.validate_every :]), validation)
            with checkpoint.with_suffix(".csv").open("a", encoding="utf-8", newline="") as log:
                csv.writer(log).writerow([step, *(f"{value:.4f}" for value in row[1:])])
    save()
    if step < schedule.steps:
        return None
    ema.copy_to(model.parameters())
    return model.eval()


def averaged(model: nn.Module, schedule: Schedule, checkpoint: Path) -> nn.Module:
    """Return a model with the averaged weights of a run that has not ended."""
    ema = _average(model, schedule)
    ema.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True)["ema"])
    ema.copy_to(model.parameters())
    return model.eval()


def _average(model: nn.Module, schedule: Schedule) -> EMAModel:
    return EMAModel(
        model.parameters(), schedule.ema_decay, use_ema_warmup=True, power=0.8, foreach=True
    )
