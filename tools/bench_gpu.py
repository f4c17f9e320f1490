"""Time the method at TANGO's size, on random weights: ``make bench-gpu``.

Time does not depend on what the weights are, so nothing is downloaded.  This file needs torch,
diffusers and peft alone: ``python tools/bench_gpu.py`` runs it on a machine that has nothing else
of the project.

Three loops do the same arithmetic.  *Plain* is how the paper's is written down: attention with its
map in memory, Adam in a loop, gradients of all weights.  *Fast* has fused attention and Adam,
channels last, and gradients only where they are needed.  *Compiled* adds ``torch.compile``, on a
GPU with CUDA graphs.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from peft import LoraConfig, LoraModel
from torch import Tensor, nn
from torch.nn import functional

DATA = Path(__file__).resolve().parent.parent / "data"
LATENT = (8, 256, 16)  # TANGO's, of 10.24 s
TOKENS = 32  # of a prompt
RANK = 8  # of LoRA, on all attention projections
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
RATES = {"embedding": 2e-3, "whole UNet": 1e-6, "LoRA": 1e-4}
WARM_UP = 3
T4_BYTES = 15e9
MINUTES = 9.0
COLUMNS = ("loop", "what", "batch", "precision", "ms a step", "first steps, s", "peak, GB")


@dataclass(frozen=True)
class Case:
    """What is timed.

    Parameters
    ----------
    loop : {"plain", "fast", "compiled"}
    what : {"embedding", "whole UNet", "LoRA", "sampling"}
        Step 1, Step 2 in its two forms, Step 3 with guidance.
    batch : int
        Timesteps a step, or edits that are sampled.
    precision : {"float32", "bfloat16", "float16"}
        Of the arithmetic; what is trained is float32.
    """

    loop: str
    what: str
    batch: int
    precision: str


@dataclass(frozen=True)
class Timing:
    """Of a case: the mean step, the first steps (compiling is in them), and the GPU's memory."""

    case: Case
    seconds: float | None
    first_seconds: float | None
    peak_bytes: int | None
    trouble: str = ""


@dataclass(frozen=True, eq=False)
class Subject:
    """What is edited: a denoiser, a latent z, and the inputs that say what it listens to.

    Parameters
    ----------
    denoiser : torch.nn.Module
        A diffusers UNet in float32; it is copied to the latent's device, and stays as it is: on the
        CPU, where it takes no memory that is measured.
    schedule : DDPMScheduler
    latent : torch.Tensor
        Shape (1, channels, time, mel).
    inputs : dict of str to torch.Tensor or None
        Of one item; ``encoder_hidden_states`` is what Step 1 optimises.
    """

    denoiser: nn.Module
    schedule: Any
    latent: Tensor
    inputs: dict[str, Tensor | None]


def random_subject(config: dict, latent: tuple[int, ...], device: torch.device) -> Subject:
    """Return a UNet of random weights on the CPU, and a random latent and prompt on the device."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel.from_config(config)
    inputs = {
        "encoder_hidden_states": torch.randn(1, TOKENS, config["cross_attention_dim"]).to(device),
        "encoder_attention_mask": torch.ones(1, TOKENS, dtype=torch.bool, device=device),
    }
    schedule = DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
    )
    return Subject(unet.eval(), schedule, torch.randn(1, *latent).to(device), inputs)


def steps_of(subject: Subject, case: Case) -> Callable[[], float]:
    """Return a function that does one step more and returns its loss (of sampling: 0).

    Two cases that differ in their loop alone draw the same timesteps and noise.
    """
    plain = case.loop == "plain"
    device, dtype = subject.latent.device, getattr(torch, case.precision)
    unet: Any = copy.deepcopy(subject.denoiser).requires_grad_(plain and case.what != "sampling")
    unet.set_attn_processor(AttnProcessor() if plain else AttnProcessor2_0())
    inputs = {
        name: None if value is None else value.repeat(case.batch, *[1] * (value.dim() - 1))
        for name, value in subject.inputs.items()
    }
    embedding = subject.inputs["encoder_hidden_states"]
    assert embedding is not None
    embedding = embedding.detach().clone()
    if case.what != "whole UNet" and not plain:
        nn.Module.to(unet, dtype)  # frozen weights need no more; diffusers' own `to` warns
    unet.to(device)
    trained = [embedding.requires_grad_()] if case.what == "embedding" else []
    if case.what == "LoRA":
        torch.manual_seed(0)
        adapters = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=TARGETS)
        LoraModel(unet, adapters, "edit")
        trained = [weight for name, weight in unet.named_parameters() if ".lora_" in name]
        for weight in trained:
            weight.data = weight.data.float()
    elif case.what == "whole UNet":
        trained = list(unet.requires_grad_(True).parameters())
    if not plain:
        nn.Module.to(unet, memory_format=torch.channels_last)
    call = unet
    if case.loop == "compiled":
        call = torch.compile(unet, mode="reduce-overhead" if device.type == "cuda" else None)

    half = dtype != torch.float32
    computing = lambda: torch.autocast(device.type, dtype) if half else nullcontext()  # noqa: E731
    generator = torch.Generator().manual_seed(0)

    if case.what == "sampling":
        latent = subject.latent.repeat(2 * case.batch, 1, 1, 1)
        both = {
            name: None if value is None else torch.cat([value, value])
            for name, value in inputs.items()
        }
        times = torch.full((2 * case.batch,), 500, device=device)

        @torch.no_grad()
        def sample() -> float:
            with computing():
                empty, conditional = call(latent, times, **both).sample.chunk(2)
            _ = empty + 3 * (conditional - empty)
            return 0.0

        return sample

    options = {"foreach": False} if plain else {"fused": True}
    adam = torch.optim.Adam(trained, lr=RATES[case.what], **options)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    latents = subject.latent.repeat(case.batch, 1, 1, 1)

    def step() -> float:
        times = torch.randint(1000, (case.batch,), generator=generator).to(device)
        noise = torch.randn(latents.shape, generator=generator).to(device)
        noisy = subject.schedule.add_noise(latents, noise, times)
        target = subject.schedule.get_velocity(latents, noise, times)
        tokens = embedding.expand(case.batch, -1, -1)
        with computing():
            output = call(noisy, times, **inputs | {"encoder_hidden_states": tokens}).sample
        loss = functional.mse_loss(output.float(), target)
        unet.zero_grad()
        adam.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(adam)
        scaler.update()
        return loss.item()

    return step


def time_case(subject: Subject, case: Case, steps: int) -> Timing:
    """Time some steps; what the machine cannot do is told in :attr:`Timing.trouble`."""
    on_gpu = subject.latent.device.type == "cuda"
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        started = time.perf_counter()
        step = steps_of(subject, case)
        for _ in range(WARM_UP):
            step()
        _wait(on_gpu)
        first = time.perf_counter() - started
        started = time.perf_counter()
        for _ in range(steps):
            step()
        _wait(on_gpu)
        seconds = (time.perf_counter() - started) / steps
    except Exception as error:  # the others are still worth their time
        return Timing(case, None, None, None, f"{type(error).__name__}: {error}".splitlines()[0])
    finally:
        torch.compiler.reset()
    return Timing(case, seconds, first, torch.cuda.max_memory_allocated() if on_gpu else None)


def cases() -> Iterator[Case]:
    """Yield what is timed: what is compared and what presets need come first."""
    halves = ("float16", "bfloat16")
    yield Case("plain", "embedding", 1, "float32")
    yield Case("plain", "whole UNet", 1, "float32")
    yield Case("plain", "sampling", 1, "float32")
    for what in ("LoRA", "embedding", "sampling"):
        yield Case("fast", what, 1, "float16")
        yield Case("compiled", what, 1, "float16")
    yield Case("fast", "embedding", 2, "float16")  # the preset fast's
    yield Case("fast", "LoRA", 2, "float16")
    for batch in (1, 4):
        for precision in ("float32", *halves):
            for what in ("embedding", "whole UNet", "LoRA", "sampling"):
                yield Case("fast", what, batch, precision)
    for what in ("embedding", "whole UNet", "sampling"):
        yield Case("plain", what, 4, "float32")
    for case in (("LoRA", 1, "bfloat16"), ("whole UNet", 1, "bfloat16"), ("LoRA", 4, "float16")):
        yield Case("compiled", *case)


def time_all(
    subject: Subject, chosen: list[Case], steps: int, minutes: float = MINUTES
) -> list[Timing]:
    """Time cases, each once, until the minutes are up; print each."""
    until, timings = time.monotonic() + 60 * minutes, []
    print(" | ".join(COLUMNS))
    for case in dict.fromkeys(chosen):
        if time.monotonic() < until:
            timing = time_case(subject, case, steps)
        else:
            timing = Timing(case, None, None, None, "no time was left")
        print(" | ".join(cells(timing)), flush=True)
        timings.append(timing)
    return timings


def cells(timing: Timing) -> list[str]:
    """Return a row of the table."""
    case = timing.case
    head = [case.loop, case.what, str(case.batch), case.precision]
    if timing.seconds is None or timing.first_seconds is None:
        return [*head, f"not measured: {timing.trouble}", "", ""]
    peak = "" if timing.peak_bytes is None else f"{timing.peak_bytes / 1e9:.1f}"
    return [*head, f"{1000 * timing.seconds:.1f}", f"{timing.first_seconds:.1f}", peak]


def edits(timings: list[Timing], presets: dict[str, dict]) -> dict[str, float | None]:
    """Seconds of a whole edit by preset, computed: its steps times the fastest step measured.

    A preset's batch is that of the case at hand where it was timed, else nothing is said.  The
    preset ``paper`` is also given by the plain loop.
    """
    computed: dict[str, float | None] = {}
    for name, row in presets.items():
        first, second, third = (row.get(k, {}) for k in ("embedding", "finetuning", "sampling"))
        precision = row.get("dtype", "float32")
        tuned = "LoRA" if "lora_rank" in second else "whole UNet"
        parts = [
            ("embedding", first.get("steps", 500), first.get("batch_size", 1)),
            (tuned, second.get("steps", 1500), second.get("batch_size", 1)),
            ("sampling", third.get("steps", 200), 1),
        ]
        for kind, loops in (("ours", ("fast", "compiled")), ("plain", ("plain",))):
            total = 0.0
            for what, steps, batch in parts:
                at_hand = [
                    timing.seconds
                    for timing in timings
                    if timing.seconds is not None
                    and timing.case in [Case(loop, what, batch, precision) for loop in loops]
                ]
                total += steps * min(at_hand, default=float("nan"))
            if kind == "ours" or name == "paper":
                computed[f"{name}, {kind}"] = total if total == total else None
    return computed


def markdown(machine: str, timings: list[Timing], whole: dict[str, float | None]) -> str:
    """Return rows for docs/performance.md."""
    lines = [f"On {machine}:", "", "| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    lines += ["| " + " | ".join(cells(timing)) + " |" for timing in timings]
    lines += ["", "| whole edit, computed | s |", "|---|---|"]
    for name, seconds in whole.items():
        lines.append(f"| {name} | {'not measured' if seconds is None else f'{seconds:.0f}'} |")
    return "\n".join(lines) + "\n"


def t4(subject: Subject, steps: int) -> Timing:
    """Time Step 2 of the preset t4 with 15 GB of the GPU's memory."""
    total = torch.cuda.get_device_properties(subject.latent.device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, T4_BYTES / total))
    try:
        return time_case(subject, Case("fast", "LoRA", 1, "float16"), steps)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def any_presets() -> dict[str, dict]:
    """Read the presets that are for every published model."""
    return tomllib.loads((DATA / "presets.toml").read_text(encoding="utf-8"))["any"]


def write(folder: Path, name: str, machine: str, timings: list[Timing], whole: dict) -> None:
    """Write ``name.json`` and ``name.md``."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = {"machine": machine, "timings": [asdict(t) for t in timings], "edits": whole}
    (folder / f"{name}.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    (folder / f"{name}.md").write_text(markdown(machine, timings, whole), encoding="utf-8")


def _wait(on_gpu: bool) -> None:
    if on_gpu:
        torch.cuda.synchronize()


def main(arguments: list[str] | None = None) -> int:
    """Time all cases on the GPU; return 0, or 2 where there is none."""
    parser = argparse.ArgumentParser(description="Time the method at TANGO's size on a GPU.")
    parser.add_argument("--out", type=Path, default=Path("outputs/bench"), help="results' folder")
    parser.add_argument("--steps", type=int, default=20, help="timed steps a case")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="begin no case after that")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("No CUDA GPU is at hand: run `make bench`, which any machine can.", file=sys.stderr)
        return 2
    device = torch.device("cuda")
    torch.backends.cuda.matmul.allow_tf32 = False  # float32 means float32, as in the paper's loop
    machine = f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    config = json.loads((DATA / "tango/unet/config.json").read_text(encoding="utf-8"))
    subject = random_subject(config, LATENT, device)
    print(f"{machine}\nStep 2 of the preset t4 within 15 GB:", " | ".join(cells(t4(subject, 5))))
    timings = time_all(subject, list(cases()), options.steps, options.minutes)
    write(options.out, "bench-gpu", machine, timings, edits(timings, any_presets()))
    print((options.out / "bench-gpu.md").read_text(encoding="utf-8").split("\n\n")[-1])
    return 0


if __name__ == "__main__":
    sys.exit(main())
