"""Compare methods: ``python -m tools.table1``, which is ``make table1``.

Edits every pair with every method at every setting, scores the edits, and writes Table 1 and the
paper's Figures 2 and 4.  Stopped at any moment, the same command goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from html import escape
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from helpers import load_model
from helpers.comparison.experiment import Experiment
from helpers.comparison.figures import figure_2, figure_4
from helpers.comparison.scores import to_csv, weights_behind
from helpers.comparison.tables import Results
from helpers.evaluation.clap import load_clap
from helpers.methods import METHODS, Method, methods_for
from helpers.pairs import EDITS, Pair, load_pairs
from helpers.storage import (
    Provenance,
    StorageError,
    content_hash,
    output_folder,
    read_records,
    write_records,
    write_text,
    write_whole,
)
from tools.cluster import Workers, cluster
from tools.command import EXPECTED, command, told

WRITTEN = ("summary.csv", "table1.md", "table1.html", "figure2.png", "figure4.png")
ROOM = 50e6  # bytes that tables, figures and a few edits take
SEAL = "report.json"  # written last: what the files beside it were made from
QUICK_METHODS = ("ours-lora", "sdedit", "audioldm-inpainting")
STYLE = (
    "body { font-family: sans-serif; margin: 2em; } table { border-collapse: collapse; } "
    "td, th { border-bottom: 1px solid #ccc; padding: 0.3em 0.6em; text-align: left; "
    "white-space: nowrap; } img { max-width: 100%; } audio { width: 14em; }"
)


@command
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
    pairs, methods, settings = _choose(options)
    with ExitStack() as stack:
        folder = stack.enter_context(output_folder(options.out, ROOM))
        if options.ray:
            stack.enter_context(cluster(options.ray))
        # A GPU is left to the workers, where there are any.
        model = load_model(options.model, device="cpu" if options.ray else None)
        clap = load_clap(options.clap)
        experiment = Experiment(model, clap, pairs, methods, folder, settings)
        experiment.load_sources()
        missing = experiment.missing()
        try:
            workers = Workers(experiment, options.model, options.clap) if options.ray else None
            experiment.run(scored=workers)
            written = write_report(experiment, _name(options))
        except EXPECTED as error:
            print(f"{told(error)} What was done so far is kept in {folder}.", file=sys.stderr)
            return 1
        if not missing and not written:
            print(f"Nothing to do: {folder} holds all of it.")
        else:
            print(f"{len(missing)} sweeps were run, {len(experiment.scores())} edits are scored.")
    print(f"Read:   {folder / 'table1.md'}, {folder / 'table1.html'}")
    print(f"Look:   {folder / 'figure2.png'}, {folder / 'figure4.png'}")
    print(f"Listen: {folder / 'audio'}")
    return 0


def quick(
    pairs: Sequence[Pair], methods: Mapping[str, Method]
) -> tuple[list[Pair], dict[str, Method], dict[str, tuple[float, ...]]]:
    """Cut a run down to one pair of each edit type, three methods and three settings.

    Returns
    -------
    pairs, methods, settings
        As :class:`Experiment` takes them.  Methods are Ours (LoRA), SDEdit and AudioLDM
        inpainting, or the first three where other ones were asked for; settings are the weakest,
        the fixed one and the strongest.
    """
    first = list({pair.edit: pair for pair in reversed(pairs)}.values())
    usual = [name for name in QUICK_METHODS if name in methods]
    names = usual if len(usual) == len(QUICK_METHODS) else list(methods)[: len(QUICK_METHODS)]
    chosen = {name: methods[name] for name in names}
    settings = {
        name: tuple(sorted({m.settings[0], m.fixed_setting, m.settings[-1]}))
        for name, m in chosen.items()
    }
    return sorted(first, key=lambda pair: EDITS.index(pair.edit)), chosen, settings


def write_report(experiment: Experiment, pairs: str) -> bool:
    """Write tables and figures of a run, unless they are there already.

    Parameters
    ----------
    experiment : Experiment
        All of it scored.
    pairs : str
        What the pair set is called.

    Returns
    -------
    bool
        Whether anything was written.
    """
    results = Results(experiment.scores(), experiment.methods, pairs)
    folder = experiment.folder
    seal = {"report": made_from(experiment, results)}
    whole = all((folder / name).is_file() for name in (*WRITTEN, SEAL))
    with suppress(StorageError):  # a damaged one is written again
        if whole and read_records(folder / SEAL) == seal:
            return False
    (folder / SEAL).unlink(missing_ok=True)
    write_text(folder / "summary.csv", to_csv(results.summary()))
    write_text(folder / "table1.md", markdown(results))
    _write_figure(folder / "figure2.png", figure_2(experiment))
    _write_figure(folder / "figure4.png", figure_4(results))
    write_text(folder / "table1.html", page(results, folder))
    write_records(folder / SEAL, seal)
    return True


def made_from(experiment: Experiment, results: Results) -> Provenance:
    """Return what decides what the report says: model, judges, pairs, settings and scores."""
    methods = experiment.methods.items()
    return Provenance(
        weights_behind(experiment.model, experiment.clap),
        {
            "pairs": results.pairs,
            "ids": [pair.id for pair in experiment.pairs],
            "settings": {name: experiment.settings_of(name) for name, _ in methods},
            "fixed": {name: method.fixed_setting for name, method in methods},
            "names": {name: method.name for name, method in methods},
        },
        {"scores": content_hash(to_csv(results.scores))},
    )


def markdown(results: Results) -> str:
    """Return the whole report as Markdown."""
    tables = "\n".join(table.markdown() for table in results.tables())
    return (
        f"{tables}\n## Figures\n\n![Spectrograms of rising settings](figure2.png)\n\n"
        "![Scores against the setting](figure4.png)\n"
    )


def page(results: Results, folder: Path) -> str:
    """Return the whole report as a page, with players of the audio that the folder holds."""
    tables = "".join(table.html() for table in results.tables())
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<meta charset="utf-8">\n<title>Table 1</title>\n'
        f"<style>{STYLE}</style>\n{tables}<h2>Figures</h2>\n"
        '<p><img src="figure2.png" alt="Spectrograms of rising settings"></p>\n'
        '<p><img src="figure4.png" alt="Scores against the setting"></p>\n'
        f"{''.join(_players(results, folder))}</html>\n"
    )


def _players(results: Results, folder: Path) -> Iterator[str]:
    """Yield the sources and the edits of the largest sum, to listen to."""
    yield "<h2>Listen</h2>\n<p>Edits at the setting of the largest sum.</p>\n<table>\n"
    for (pair, prompt), edits in results.chosen.groupby(["pair", "prompt"], sort=False):
        yield f"<tr><td>{escape(pair)}<br>“{escape(prompt)}”</td>"
        yield _player("source", f"audio/{pair}/source.flac")
        for edit in edits.itertuples():
            if edit.method != "source" and (folder / edit.audio).is_file():
                yield _player(f"{results.name(edit.method)} {edit.setting:g}", edit.audio)
        yield "</tr>\n"
    yield "</table>\n"


def _player(title: str, audio: str) -> str:
    source = escape(audio, quote=True)
    return f'<td>{escape(title)}<br><audio controls preload="none" src="{source}"></audio></td>'


def _choose(
    options: argparse.Namespace,
) -> tuple[list[Pair], dict[str, Method], dict[str, tuple[float, ...]]]:
    """Return pairs, methods and settings that are asked for, before anything is loaded.

    Raises
    ------
    ValueError
        With one sentence, if something cannot be used.
    """
    pairs = load_pairs(options.pairs)
    usual = options.model if options.model in METHODS else "paper"
    methods = _named(methods_for(options.preset or usual), options.methods)
    settings = {}
    if options.quick:
        pairs, methods, settings = quick(pairs, methods)
    if not any(pair.edit in method.edits for pair in pairs for method in methods.values()):
        raise ValueError(
            f"None of {', '.join(methods)} does an edit of {options.pairs}: choose other methods."
        )
    return pairs, methods, settings


def _named(methods: Mapping[str, Method], names: list[str] | None) -> dict[str, Method]:
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


def _write_figure(path: Path, figure: Figure) -> None:
    write_whole(path, lambda file: figure.savefig(file, format="png", dpi=120))
    plt.close(figure)


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
        "--ray", metavar="ADDRESS", help="do sweeps on a Ray cluster (1: of this machine alone)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="three pairs, three methods, three settings"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
