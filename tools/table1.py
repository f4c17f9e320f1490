"""Compare methods: ``python -m tools.table1``, which is ``make table1``.

Edits every pair with every method at every strength, scores the edits, and writes Table 1 and the
paper's Figures 2 and 4.  Stopped at any moment, the same command goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

from helpers.baselines import METHODS, Method, methods_for
from helpers.editing.loading import load_model
from helpers.evaluation.clap import load_clap
from helpers.evaluation.experiment import Experiment, quick
from helpers.evaluation.pairs import load_pairs
from helpers.evaluation.report import write_report
from helpers.models.latent_audio_model import OutOfMemory


def main(arguments: list[str] | None = None) -> int:
    """Run the comparison.

    Parameters
    ----------
    arguments : list of str, optional
        The command line's by default.

    Returns
    -------
    int
        0, or 1 if the run had to stop, or 2 if the input cannot be used (the reason is on
        stderr), or 130 if it was interrupted.
    """
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except KeyboardInterrupt:
        print("\nStopped: the same command goes on where it was.", file=sys.stderr)
        return 130


def _run(options: argparse.Namespace) -> int:
    try:
        experiment = _prepare(options)
        missing = experiment.missing()
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    try:
        experiment.run()
        written = write_report(experiment, _name(options))
    except (OutOfMemory, ArithmeticError, OSError, ValueError) as error:
        print(f"{error} What was done so far is kept in {options.out}.", file=sys.stderr)
        return 1
    if not missing and not written:
        print(f"Nothing to do: {options.out} holds all of it.")
    else:
        print(f"{len(missing)} sweeps were run, {len(experiment.rows())} edits are scored.")
    print(f"Read:   {options.out / 'table1.md'}, {options.out / 'table1.html'}")
    print(f"Look:   {options.out / 'figure2.png'}, {options.out / 'figure4.png'}")
    print(f"Listen: {options.out / 'audio'}")
    return 0


def _prepare(options: argparse.Namespace) -> Experiment:
    """Check and load everything, before any edit.

    Raises
    ------
    ValueError
        With one sentence, if something cannot be used.
    """
    pairs = load_pairs(options.pairs)
    usual = options.model if options.model in METHODS else "paper"
    methods = _choose(methods_for(options.preset or usual), options.methods)
    strengths = {}
    if options.quick:
        pairs, methods, strengths = quick(pairs, methods)
    if not any(pair.edit in method.edits for pair in pairs for method in methods.values()):
        raise ValueError(
            f"None of {', '.join(methods)} does an edit of {options.pairs}: choose other methods."
        )
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{options.out} cannot be made a folder: name another.") from error
    clap = load_clap(options.clap)
    model = load_model(options.model)
    experiment = Experiment(model, clap, pairs, methods, options.out, strengths)
    experiment.load_sources()
    return experiment


def _choose(methods: Mapping[str, Method], names: list[str] | None) -> dict[str, Method]:
    """Return the named methods, or all of them."""
    if names is None:
        return dict(methods)
    for name in names:
        if name not in methods:
            raise ValueError(f"There is no method {name!r}: choose from {', '.join(methods)}.")
    return {name: methods[name] for name in dict.fromkeys(names)}


def _name(options: argparse.Namespace) -> str:
    """Return what tables call the pair set."""
    name = Path(options.pairs).stem if options.pairs.endswith(".csv") else options.pairs
    return f"{name} (quick)" if options.quick else name


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.table1", description="Compare editing methods by CLAP scores."
    )
    parser.add_argument("--model", default="pocket", help="base model (default: pocket)")
    parser.add_argument("--preset", help="the methods' settings (default: the model's, or paper)")
    parser.add_argument(
        "--pairs",
        default="pocket27",
        help="pocket27, pocket27-offline, pocket-dev, paper21 or a CSV id,audio,edit,prompt",
    )
    parser.add_argument("--methods", nargs="+", metavar="METHOD", help="default: all")
    parser.add_argument("--clap", default="pocket", help="CLAP back end (default: pocket)")
    parser.add_argument("--out", type=Path, default=Path("outputs/table1"), help="results' folder")
    parser.add_argument(
        "--quick", action="store_true", help="three pairs, three methods, three strengths"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
