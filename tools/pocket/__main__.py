"""Make, tune and measure the pocket model.

``python -m tools.pocket [stage …] [--recipe cpu] [--folder DIR] [--minutes M]`` trains it, or the
stages named.  Finished weights, ``data/pocket`` or the folder of ``--weights``, are served by
``pairs``, which draws what they are tuned and measured on, ``tune``, which chooses presets,
``edits``, which edits a pair set, and ``report``, which measures those of ``data/pocket``.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path

from helpers.data import cache_folder, data_path
from helpers.editing.presets import PRESETS
from tools.command import command
from tools.pocket import edits, pairs, report, tune
from tools.pocket.training import RECIPES, Trainer


@command
def main(arguments: list[str] | None = None) -> None:
    """Run the named stages, or all of them in order; or one of pairs, tune, edits, report."""
    parser = argparse.ArgumentParser(prog="python -m tools.pocket", description=main.__doc__)
    parser.add_argument("stages", nargs="*", help="of training; or pairs, tune, edits, report")
    training = parser.add_argument_group("training")
    training.add_argument("--recipe", choices=RECIPES, default="cpu")
    training.add_argument("--folder", type=Path, default=cache_folder() / "pocket-training")
    training.add_argument("--minutes", type=float, default=math.inf, help="then stop a stage")
    measuring = parser.add_argument_group("measuring")
    measuring.add_argument("--weights", type=Path, default=data_path("pocket"))
    measuring.add_argument("--pairs", default="pocket-gate", help="a pair set, for edits")
    measuring.add_argument("--preset", choices=PRESETS, default="pocket")
    measuring.add_argument("--split", choices=("dev", "test"), default="dev")
    measuring.add_argument("--out", type=Path, default=Path("outputs", "edits.csv"))
    options = parser.parse_args(arguments)
    if options.stages == ["report"]:
        report.main()
    elif options.stages == ["pairs"]:
        pairs.main(options.weights)
    elif options.stages == ["tune"]:
        tune.main(options.weights)
    elif options.stages == ["edits"]:
        rows = edits.run(options.pairs, options.preset, options.split, options.weights, options.out)
        print(edits.summary(rows).to_string(float_format="%.3g"))
    else:
        train(parser, options)


def train(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Run stages of the training."""
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
