"""Where the project's data lies, and verified downloads of the recordings it names.

A registry is a table in ``data/registries``: path, SHA-256, URL and licence of each recording, and
what else is known about it.  Recordings are fetched when asked for, checked against their hash and
kept in a cache folder; one that is there already is not fetched again.

Two environment variables move things:

- ``AUDIO_EDITING_DATA``: a folder that holds the same files as ``<registry>/<path>``, for instance
  ``esc10/dog_bark/1-100032-A.ogg``.  What lies there is checked and used in place of a download.
- ``AUDIO_EDITING_CACHE``: where downloads and the lessons' intermediate results are kept; by
  default the user's cache folder.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pooch
import requests

MIRROR_VARIABLE = "AUDIO_EDITING_DATA"
CACHE_VARIABLE = "AUDIO_EDITING_CACHE"
DATA = Path(__file__).resolve().parent.parent / "data"
THIS_COMPUTER = ("127.0.0.1", "::1", "localhost")  # needs no https
_COLUMNS = ("path", "sha256", "url", "licence")

pooch.get_logger().setLevel("WARNING")  # a progress bar tells of downloads, not a log


class DataError(ValueError):
    """A file of the project's data is missing, damaged or out of reach."""


def data_path(*parts: str) -> Path:
    """Return the path of something in the repository's ``data`` folder.

    Parameters
    ----------
    *parts
        Folders and file name below ``data``; none for the folder itself.

    Raises
    ------
    DataError
        If there is no such file or folder.

    Lesson: 08.
    """
    if not DATA.is_dir():
        raise DataError(
            f"The folder {DATA} is missing because the package was installed without its "
            "repository: clone the repository and install from there with `pip install -e .`."
        )
    path = DATA.joinpath(*parts)
    if not path.exists():
        raise DataError(f"{path} is missing: restore it with `git checkout -- data`.")
    return path


def cache_folder(path: str | Path | None = None) -> Path:
    """Return the folder that keeps downloads and the lessons' intermediate results.

    Parameters
    ----------
    path : str or Path, optional
        Another folder, for instance one that outlives the runtime (Google Drive on Colab).  Without
        it, the one that ``AUDIO_EDITING_CACHE`` names, or the user's cache folder.

    Lesson: 00.
    """
    named = path or os.environ.get(CACHE_VARIABLE) or pooch.os_cache("audio-editing")
    return Path(named).expanduser()


@dataclass(frozen=True)
class Recording:
    """One recording of a registry.

    Attributes
    ----------
    path : str
        Path below the registry's folder, with forward slashes.
    sha256 : str
        Hash of the file, 64 hexadecimal digits.
    url : str
        Where it is downloaded from.
    licence : str
        Its licence as the source states it, or "not stated".
    info : Mapping of str to str
        The registry's other columns, among them ``label``, ``fold``, ``title`` and ``author``
        (ESC-10) or ``edit`` and ``prompt`` (the paper's pairs).
    """

    path: str
    sha256: str
    url: str
    licence: str
    info: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Check that it stays in its folder and comes by a safe way."""
        _check_inside(self.path)
        address = urlsplit(self.url)
        if address.scheme != "https" and address.hostname not in THIS_COMPUTER:
            raise DataError(f"{self.url} is no https address: correct the registry.")


@dataclass(frozen=True)
class Registry:
    """The recordings of one data set, and how to get hold of them.

    Attributes
    ----------
    name : str
        Name of the data set, and of its folder in the cache and in a mirror.
    recordings : tuple of Recording
        In the order of the table.
    """

    name: str
    recordings: tuple[Recording, ...]

    def __post_init__(self) -> None:
        """Check that its folder lies in the cache."""
        _check_inside(self.name)

    def select(self, **info: object) -> list[Recording]:
        """Return the recordings whose ``info`` has these values, such as ``fold=5``.

        Raises
        ------
        DataError
            If the registry has no such column.
        """
        for recording in self.recordings:
            if missing := info.keys() - recording.info.keys():
                raise DataError(
                    f"The registry {self.name} has no column {min(missing)!r}: "
                    f"it has {', '.join(sorted(recording.info))}."
                )
        wanted = {key: str(value) for key, value in info.items()}
        return [r for r in self.recordings if wanted.items() <= r.info.items()]

    def fetch(self, recording: Recording) -> Path:
        """Return the path of a recording's verified file, downloading it if need be.

        The file is taken from the folder that ``AUDIO_EDITING_DATA`` names, if it lies there, or
        else from the cache, or else from its URL.  A download that was interrupted leaves nothing
        behind that could pass for the recording.

        Raises
        ------
        DataError
            If the file is not the one the registry names, or cannot be downloaded.
        """
        mirror = os.environ.get(MIRROR_VARIABLE)
        if not mirror:
            return self._download(recording)
        folder = Path(mirror).expanduser()
        if not folder.is_dir():
            raise DataError(f"{MIRROR_VARIABLE} names {folder}, which is no folder: correct it.")
        path = folder / self.name / recording.path
        return _verified(path, recording) if path.is_file() else self._download(recording)

    def _download(self, recording: Recording) -> Path:
        name = f"{self.name}/{recording.path}"
        cache = pooch.create(
            path=cache_folder(),
            base_url="",
            registry={name: f"sha256:{recording.sha256}"},
            urls={name: recording.url},
            retry_if_failed=1,
        )
        try:
            return Path(cache.fetch(name))
        except requests.exceptions.RequestException as error:
            raise DataError(
                f"{recording.url} could not be downloaded ({type(error).__name__}): check the "
                f"network and try again, or set {MIRROR_VARIABLE} to a folder that holds the "
                f"file as {name}."
            ) from error
        except OSError as error:
            raise DataError(
                f"{name} cannot be kept in {cache_folder()} ({error.strerror or error}): make room "
                f"there, or set {CACHE_VARIABLE} to a folder that can be written."
            ) from error
        except ValueError as error:
            raise DataError(
                f"{recording.url} no longer gives the file this project was written with (its "
                f"SHA-256 is not {recording.sha256}): set {MIRROR_VARIABLE} to a folder that "
                f"holds the right one as {name}."
            ) from error


def _check_inside(path: str) -> None:
    """Raise a DataError for a path that could leave the folder it is put below, on any system."""
    parts = re.split(r"[/\\]", path)
    if {"", ".", ".."} & set(parts) or ":" in path or not path.isprintable():
        raise DataError(
            f"The registry names {path!r}, which does not lie in its folder: correct the registry."
        )


def _verified(path: Path, recording: Recording) -> Path:
    if pooch.file_hash(str(path), alg="sha256") != recording.sha256:
        raise DataError(
            f"{path} is damaged or another file (its SHA-256 is not {recording.sha256}): replace "
            f"it, or delete it to have it downloaded from {recording.url}."
        )
    return path


def load_registry(name: str) -> Registry:
    """Read a registry of ``data/registries``.

    Parameters
    ----------
    name : str
        ``"esc10"``: 400 recordings of environmental sounds in ten classes and five folds.
        ``"paper_pairs"``: the paper's published evaluation recordings with their prompts.

    Raises
    ------
    DataError
        If there is no registry of that name.
    """
    names = sorted(path.stem for path in data_path("registries").glob("*.csv"))
    if name not in names:
        raise DataError(f"There is no registry {name!r}: choose one of {', '.join(names)}.")
    with data_path("registries", f"{name}.csv").open(encoding="utf-8", newline="") as table:
        rows = list(csv.DictReader(table))
    recordings = (
        Recording(
            *(row[column] for column in _COLUMNS),
            info={key: value for key, value in row.items() if key not in _COLUMNS},
        )
        for row in rows
    )
    return Registry(name, tuple(recordings))
