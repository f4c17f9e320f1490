"""Compute the curves that lessons show: ``python -m tools.sweeps``, which is ``make sweeps``.

Beside each table a stamp names the model and the data that it was made with: a table whose stamp no
longer holds is made anew, and a test says so.  Changed code shows where a row is measured again.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm.auto import tqdm

from helpers.data import DATA
from helpers.models.latent_audio_model import LatentAudioModel
from helpers.models.pocket import load_pocket
from helpers.storage import output_folder, write_table, write_text
from helpers.sweeps import (
    FOLDER,
    SWEEPS,
    Row,
    check_name,
    load_sweep,
    measure,
    read_rows,
    table_path,
)
from tools.command import command

MATERIAL = (  # what a figure depends on beside the model, below data/
    "pairs/pocket27-offline.csv",
    "pocket/clap/model.safetensors",
    "pocket/classifier/model.safetensors",
)


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
    if not path.exists() or not _is_of(path, stamp(model or load_pocket())):
        return False
    points, _ = SWEEPS[name]
    return len(_missing(points(), read_rows(path))) == 0


def run(name: str, model: LatentAudioModel, folder: Path = FOLDER) -> None:
    """Measure the points of a sweep that are not stored yet, each stored as soon as it is known.

    Rows made with another model or data are thrown away first.
    """
    path = table_path(name, folder)
    now = stamp(model)
    with output_folder(folder):
        if not _is_of(path, now):
            path.unlink(missing_ok=True)
            write_text(path.with_suffix(".json"), now)
        points = SWEEPS[name][0]()
        rows = read_rows(path) if path.exists() else []
        missing = _missing(points, rows)
        done = len(points) - len(missing)
        for point in tqdm(missing, desc=name, initial=done, total=len(points)):
            rows.append(measure(name, model, point))
            _write_rows(path, rows)


def stamp(model: LatentAudioModel) -> str:
    """Fingerprints of model and data that a figure depends on, as JSON."""
    data = hashlib.sha256(b"".join((DATA / name).read_bytes() for name in MATERIAL))
    return json.dumps({"model": model.fingerprint, "data": data.hexdigest()}, indent=1) + "\n"


def _is_of(path: Path, stamp: str) -> bool:
    """Tell whether a table's rows were made with what a stamp names."""
    mark = path.with_suffix(".json")
    return mark.is_file() and mark.read_bytes() == stamp.encode()


def _missing(points: Sequence[Row], rows: Sequence[Row]) -> list[Row]:
    """Points that have no row yet."""
    return [point for point in points if not any(point.items() <= row.items() for row in rows)]


def _write_rows(path: Path, rows: Sequence[Row]) -> None:
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_table(path, table.getvalue())


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
        print(f"{name}: {len(load_sweep(name).rows)} rows in {table_path(name)}")


if __name__ == "__main__":
    sys.exit(main())
