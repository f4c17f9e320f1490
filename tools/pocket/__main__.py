"""Make and measure the pocket model.

``python -m tools.pocket [stage …] [--recipe cpu] [--folder DIR]
[--minutes M]`` trains it, or
the stages named; ``python -m tools.pocket report`` measures the weights in ``data/pocket``.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path

from helpers.data import cache_folder
from tools.command import command
from tools.pocket import report
from tools.pocket.training import RECIPES, Trainer


@command
def main(arguments: list[str] | None = None) -> None:
    """Run the named stages, or all of them in order."""
    parser = argparse.ArgumentParser(prog="python -m tools.pocket", description=main.__doc__)
    parser.add_argument("stages", nargs="*", help="corpus vae … unet, or report")
    parser.add_argument("--recipe", choices=RECIPES, default="cpu")
    parser.add_argument("--folder", type=Path, default=cache_folder() / "pocket-training")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop a stage after these")
    options = parser.parse_args(arguments)
    if options.stages == ["report"]:
        report.main()
        return
    trainer = Trainer(options.folder, RECIPES[options.recipe], options.minutes)
    unknown = set(options.stages) - set(trainer.stages)
    if unknown:
        parser.error(f"unknown stage {sorted(unknown)}: choose from {list(trainer.stages)}")
    for name in options.stages or trainer.stages:
        started = time.perf_counter()
        trainer.stages[name]()
        print(f"{name}: {(time.perf_counter() - started) / 60:.1f} minutes")


if __name__ == "__main__":
    sys.exit(main())
