"""Make and measure the pocket model.

``python -m helpers.pocket [stage …] [--recipe cpu] [--folder DIR] [--start DIR]`` trains it, or
the stages named; ``python -m helpers.pocket report`` measures the weights in ``data/pocket``.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from helpers.data import cache_folder
from helpers.pocket import report
from helpers.pocket.training import RECIPES, Workshop


def main() -> None:
    """Run the named stages, or all of them in order."""
    parser = argparse.ArgumentParser(prog="python -m helpers.pocket", description=main.__doc__)
    parser.add_argument("stages", nargs="*", help="corpus vae … unet, or report")
    parser.add_argument("--recipe", choices=RECIPES, default="cpu")
    parser.add_argument("--folder", type=Path, default=cache_folder() / "pocket-training")
    parser.add_argument("--start", type=Path, help="go on from a model's weights: data/pocket")
    options = parser.parse_args()
    if options.stages == ["report"]:
        report.main()
        return
    workshop = Workshop(options.folder, RECIPES[options.recipe], options.start)
    unknown = set(options.stages) - set(workshop.stages)
    if unknown:
        parser.error(f"unknown stage {sorted(unknown)}: choose from {list(workshop.stages)}")
    for name in options.stages or workshop.stages:
        started = time.perf_counter()
        workshop.stages[name]()
        print(f"{name}: {(time.perf_counter() - started) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
