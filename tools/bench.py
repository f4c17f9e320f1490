"""Time the method's loops on the embedded model: ``python -m tools.bench``, ``make bench``.

The loops are those of :mod:`tools.bench_gpu`.  Before they are timed, plain and fast loop train
with the same draws, and their losses have to agree at every tenth step.
"""

from __future__ import annotations

import argparse
import platform
import sys
from pathlib import Path

import torch

from helpers import foley_clip, load_model
from tools.bench_gpu import RATES, Case, Subject, steps_of, time_all, write
from tools.command import command

AGREEMENT = 0.01  # of a loss, relative
EVERY = 10  # steps
PROMPT = "A rooster crowing"


def embedded() -> Subject:
    """Return the embedded model with a foley recording and a prompt."""
    model = load_model("pocket")
    prompt = model.embed_text(PROMPT)
    latent = model.encode(foley_clip("duck", seed=0))
    return Subject(model.denoiser, model.noise_schedule, latent, prompt.denoiser_inputs())


def largest_difference(subject: Subject, what: str, steps: int) -> float:
    """Train with plain and fast loop; return by how much of it their losses differ at most."""
    plain, fast = (steps_of(subject, Case(loop, what, 1, "float32")) for loop in ("plain", "fast"))
    losses = [(plain(), fast()) for _ in range(steps)][EVERY - 1 :: EVERY]
    return max(abs(a - b) / a for a, b in losses)


@command
def main(arguments: list[str] | None = None) -> int:
    """Compare and time; return 0, or 1 if the loops do not agree."""
    parser = argparse.ArgumentParser(prog="python -m tools.bench", description="Time the loops.")
    parser.add_argument("--out", type=Path, default=Path("outputs/bench"), help="results' folder")
    parser.add_argument("--steps", type=int, default=10, help="timed steps a case")
    parser.add_argument("--compared", type=int, default=100, help="steps that are compared")
    options = parser.parse_args(arguments)
    subject, agree = embedded(), True
    for what in RATES:
        difference = largest_difference(subject, what, options.compared)
        fits = difference <= AGREEMENT
        print(
            f"{what}: losses of plain and fast loop {'agree' if fits else 'do NOT agree'} within "
            f"{100 * AGREEMENT:g} % at every tenth of {options.compared} steps ({difference:.1e})"
        )
        agree = agree and fits
    chosen = [
        Case(loop, what, batch, "float32")
        for batch in (1, 4)
        for what in (*RATES, "sampling")
        for loop in ("plain", "fast")
    ]
    machine = f"{_device(subject)}, torch {torch.__version__}"
    timings = time_all(subject, chosen, options.steps)
    write(options.out, "bench", machine, timings, {})
    print(f"Read:   {options.out / 'bench.md'}")
    return 0 if agree else 1


def _device(subject: Subject) -> str:
    if subject.latent.device.type == "cuda":
        return torch.cuda.get_device_name()
    return f"{torch.get_num_threads()} threads of {platform.machine()}"


if __name__ == "__main__":
    sys.exit(main())
