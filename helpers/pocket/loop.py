"""The training loop that every stage shares: AdamW, cosine schedule, EMA, checkpoints, resume."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.nn import functional
from tqdm.auto import tqdm

CHECKPOINT_EVERY = 100
WARMUP_STEPS = 100


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a stage trains."""

    steps: int
    learning_rate: float
    batch_size: int
    ema_decay: float = 0.999
    weight_decay: float = 0.01


def train(
    model: nn.Module,
    loss_of: Callable[[nn.Module, np.random.Generator], Tensor],
    schedule: Schedule,
    checkpoint: Path,
) -> nn.Module:
    """Minimise a loss and return the model with its averaged (EMA) weights.

    Parameters
    ----------
    model : nn.Module
        Trained in place, on the device and in the precision that accelerate finds.
    loss_of : callable
        From the model and the step's own generator to a scalar loss; the generator depends on the
        step alone, so that a resumed run sees the batches it would have seen.
    schedule : Schedule
    checkpoint : Path
        Written every 100 steps and at the end; training goes on from it when it is there.

    Raises
    ------
    ValueError
        If the checkpoint is of another schedule.
    FloatingPointError
        If the loss is not finite.
    """
    on_gpu = torch.cuda.is_available()
    precision = "bf16" if on_gpu or _has_fast_bfloat16() else "no"
    accelerator = Accelerator(mixed_precision=precision, cpu=not on_gpu)
    optimizer = torch.optim.AdamW(
        model.parameters(),
        schedule.learning_rate,
        weight_decay=schedule.weight_decay,
        fused=True,
    )
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: _warm_cosine(step, schedule.steps)
    )
    device = accelerator.device
    model.to(device, memory_format=torch.channels_last)
    ema = EMAModel(model.parameters(), decay=schedule.ema_decay, use_ema_warmup=True, power=0.8)
    first, losses = 0, []
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        if state.get("schedule") != repr(schedule):
            raise ValueError(
                f"{checkpoint} is of another recipe: delete it, or train in another --folder."
            )
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        rate.load_state_dict(state["rate"])
        ema.load_state_dict(state["ema"])
        first, losses = state["step"], state["losses"]
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    model.train()
    progress = tqdm(range(first, schedule.steps), initial=first, total=schedule.steps)
    progress.set_description(checkpoint.stem)
    exceptions = nullcontext() if on_gpu or precision == "no" else float32_where_needed()
    with exceptions:
        for step in progress:
            with accelerator.autocast():
                loss = loss_of(wrapped, np.random.default_rng([step, 0x9E3779B9]))
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            rate.step()
            optimizer.zero_grad(set_to_none=True)
            ema.step(model.parameters())
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                raise FloatingPointError(
                    f"The {checkpoint.stem} stage's loss is {losses[-1]} at step {step}: lower its "
                    "learning rate and delete its checkpoint."
                )
            progress.set_postfix(loss=f"{np.mean(losses[-50:]):.4f}")
            if (step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == schedule.steps:
                _save(checkpoint, model, optimizer, rate, ema, step + 1, losses, schedule)
    ema.copy_to(model.parameters())
    return model.eval()


def _has_fast_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 itself; emulated, a step takes ten times longer."""
    features = torch.cpu.get_capabilities()
    return bool(features.get("avx512_bf16") or features.get("amx_bf16"))


@contextmanager
def float32_where_needed() -> Iterator[None]:
    """Inside ``with``, keep autocast on a CPU away from what it does badly in bfloat16.

    oneDNN (torch 2.13, processors with AMX) gives wrong values, now and then NaN, for convolutions
    of stride 2 whose output is one column wide, as the UNet's second one is.  Attention is right,
    but slower than in float32.
    """
    attention, convolution = functional.scaled_dot_product_attention, functional.conv2d

    def float32_attention(*qkv: Tensor, attn_mask: Tensor | None = None, **options) -> Tensor:
        mask = None if attn_mask is None else attn_mask.float()
        with torch.autocast("cpu", enabled=False):
            result = attention(*(part.float() for part in qkv), attn_mask=mask, **options)
        return result.to(qkv[0].dtype)

    def strided_in_float32(image: Tensor, weight: Tensor, bias=None, stride=1, *options) -> Tensor:
        if stride in (1, (1, 1)):
            return convolution(image, weight, bias, stride, *options)
        with torch.autocast("cpu", enabled=False):
            return convolution(image.float(), weight, bias, stride, *options)

    functional.scaled_dot_product_attention = float32_attention
    functional.conv2d = strided_in_float32
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = attention
        functional.conv2d = convolution


def _save(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    rate: torch.optim.lr_scheduler.LRScheduler,
    ema: EMAModel,
    step: int,
    losses: list[float],
    schedule: Schedule,
) -> None:
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "rate": rate.state_dict(),
        "ema": ema.state_dict(),
        "step": step,
        "losses": losses,
        "schedule": repr(schedule),
    }
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def _warm_cosine(step: int, steps: int) -> float:
    if step < WARMUP_STEPS:
        return (step + 1) / WARMUP_STEPS
    done = (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
