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
from helpers.storage import write_text
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
    path = table_path(name, folder).with_suffix(".json")
    if not (path.exists() and table_path(name, folder).exists()):
        return False
    if json.loads(path.read_text(encoding="utf-8")) != stamp(model or load_pocket()):
        return False
    points, _ = SWEEPS[name]
    return len(_missing(points(), read_rows(table_path(name, folder)))) == 0


def run(name: str, model: LatentAudioModel, folder: Path = FOLDER) -> None:
    """Measure the points of a sweep that are not stored yet, each stored as soon as it is known.

    Rows made with another model or data are thrown away first.
    """
    path = table_path(name, folder)
    now = stamp(model)
    mark = path.with_suffix(".json")
    if not mark.exists() or json.loads(mark.read_text(encoding="utf-8")) != now:
        path.unlink(missing_ok=True)
        write_text(mark, json.dumps(now, indent=1) + "\n")
    points = SWEEPS[name][0]()
    rows = read_rows(path) if path.exists() else []
    missing = _missing(points, rows)
    done = len(points) - len(missing)
    for point in tqdm(missing, desc=name, initial=done, total=len(points)):
        rows.append(measure(name, model, point))
        _write_rows(path, rows)


def stamp(model: LatentAudioModel) -> dict[str, str]:
    """Fingerprints of model and data that a figure depends on."""
    data = hashlib.sha256(b"".join((DATA / name).read_bytes() for name in MATERIAL))
    return {"model": model.fingerprint, "data": data.hexdigest()}


def _missing(points: Sequence[Row], rows: Sequence[Row]) -> list[Row]:
    """Points that have no row yet."""
    return [point for point in points if not any(point.items() <= row.items() for row in rows)]


def _write_rows(path: Path, rows: Sequence[Row]) -> None:
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, table.getvalue())


def main() -> None:
    """Compute what is missing of the sweeps, or of those that are named."""
    parser = argparse.ArgumentParser(prog="python -m tools.sweeps", description=main.__doc__)
    parser.add_argument("names", nargs="*", help=", ".join(SWEEPS))
    names = parser.parse_args().names or list(SWEEPS)
    try:
        for name in names:
            check_name(name)
    except ValueError as error:
        sys.exit(str(error))
    for name in names:
        run(name, load_pocket())
        print(f"{name}: {len(load_sweep(name).rows)} rows in {table_path(name)}")


if __name__ == "__main__":
    main()
