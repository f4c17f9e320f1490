"""Compute the curves that lessons show: ``python -m tools.sweeps``, which is ``make sweeps``.

``provenance.json`` beside the tables says what each was made from: a table that was made from
something else is made anew, and a test says so.  Changed code shows where a row is measured again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from helpers.comparison.scores import weights_behind
from helpers.data import data_path
from helpers.editing.presets import preset
from helpers.evaluation.clap import load_clap
from helpers.models.latent_audio_model import LatentAudioModel
from helpers.models.pocket import load_pocket
from helpers.storage import (
    Provenance,
    content_hash,
    output_folder,
    read_records,
    write_records,
    write_table,
)
from helpers.sweeps import (
    FOLDER,
    PAIR_SET,
    PRESET,
    SWEEPS,
    Row,
    check_name,
    load_sweep,
    measure,
    read_rows,
    table_path,
)
from tools.command import command

RECORDS = "provenance.json"


def is_fresh(name: str, model: LatentAudioModel | None = None, folder: Path = FOLDER) -> bool:
    """Tell whether a stored sweep is whole and made with the present model and data.

    Parameters
    ----------
    name : str
    model : LatentAudioModel, optional
        The pocket model by default.
    folder : Path

    Raises
    ------
    ValueError
        If there is no such sweep.
    """
    check_name(name)
    path = table_path(name, folder)
    if not path.exists():
        return False
    if read_records(folder / RECORDS).get(name) != made_from(model or load_pocket()):
        return False
    points, _ = SWEEPS[name]
    return not _missing(points(), read_rows(path).to_dict("records"))


def run(name: str, model: LatentAudioModel, folder: Path = FOLDER) -> None:
    """Measure the points of a sweep that are not stored yet, each stored as soon as it is known.

    Rows that were made from something else are thrown away first.
    """
    path, now = table_path(name, folder), made_from(model)
    with output_folder(folder):
        records = read_records(folder / RECORDS)
        if records.get(name) != now:
            path.unlink(missing_ok=True)
            write_records(folder / RECORDS, records | {name: now})
        points = SWEEPS[name][0]()
        rows = read_rows(path).to_dict("records") if path.exists() else []
        missing = _missing(points, rows)
        done = len(points) - len(missing)
        for point in tqdm(missing, desc=name, initial=done, total=len(points)):
            rows.append(measure(name, model, point))
            write_table(path, pd.DataFrame(rows).to_csv(index=False, lineterminator="\n"))


def made_from(model: LatentAudioModel) -> Provenance:
    """Return what a sweep's figures depend on, beside its points and the code."""
    return Provenance(
        weights_behind(model, load_clap()),
        {"schedule": model.schedule, "preset": preset(PRESET)},
        {PAIR_SET: content_hash(data_path("pairs", f"{PAIR_SET}.csv"))},
    )


def _missing(points: Sequence[Row], rows: Sequence[Row]) -> list[Row]:
    """Points that have no row yet."""
    return [point for point in points if not any(point.items() <= row.items() for row in rows)]


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """Compute what is missing of the sweeps, or of those that are named."""
    parser = argparse.ArgumentParser(prog="python -m tools.sweeps", description=main.__doc__)
    parser.add_argument("names", nargs="*", help=", ".join(SWEEPS))
    names = parser.parse_args(arguments).names or list(SWEEPS)
    for name in names:
        check_name(name)
    for name in names:
        run(name, load_pocket())
        print(f"{name}: {len(load_sweep(name))} rows in {table_path(name)}")


if __name__ == "__main__":
    sys.exit(main())
