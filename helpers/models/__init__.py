"""Base models: one class, and one file per family of published or embedded checkpoints.

A family's file holds a :class:`Family` called ``FAMILY``, and its name stands in :data:`FAMILIES`.
:func:`helpers.load_model` loads what they build.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

import torch

from helpers.models.latent_audio_model import LatentAudioModel, OutOfMemory, is_out_of_memory

FAMILIES = ("pocket", "tango", "audioldm", "audioldm2", "stable_audio", "tangoflux")  # files


class ModelFileError(ValueError):
    """A file of a model is missing, damaged or another one; the message says what to do."""


@dataclass(frozen=True)
class Family:
    """The models of one architecture: what they are called, and how they are made.

    Parameters
    ----------
    names : mapping of str to str or None
        Of its models, each with the hub repository that holds it, and after an ``@`` the commit
        that is used; None for what comes with the project.
    load : callable
        From a name or folder, a device and the UNet's dtype to a model.
    holds : callable
        Whether a folder is one of its models, by the small files in it.
    blueprint : callable, optional
        From a name or folder to a model on the meta device, from which its needs are computed.
    is_cached : callable
        Whether all that is large of a repository is in the hub's cache.
    terms : str
        One sentence on who may have the weights and for what, said before they are downloaded.
    hashes : mapping of str to str
        SHA-256 of published files by name, where they are known to us.
    """

    names: Mapping[str, str | None]
    load: Callable[[str | Path, torch.device, torch.dtype], LatentAudioModel]
    holds: Callable[[Path], bool] = lambda folder: False
    blueprint: Callable[[str | Path], LatentAudioModel] | None = None
    is_cached: Callable[[str], bool] = lambda repository: True
    terms: str = ""
    hashes: Mapping[str, str] = field(default_factory=dict)

    def is_at_hand(self, source: str | Path) -> bool:
        """Whether nothing large of a name or folder has to be downloaded."""
        repository = self.names.get(str(source))
        return repository is None or self.is_cached(repository)


def families() -> Iterator[Family]:
    """Every family, imported when its turn comes."""
    for file in FAMILIES:
        yield import_module(f"{__name__}.{file}").FAMILY


def model_names() -> list[str]:
    """Every name that :func:`helpers.load_model` takes beside folders."""
    return [name for family in families() for name in family.names]


def find_family(source: str | Path) -> Family:
    """Find the family that a name or folder belongs to, or say what was meant.

    Raises
    ------
    ValueError
        If there is no such model and no such folder.
    ModelFileError
        If the folder holds no model.
    """
    for family in families():
        if str(source) in family.names:
            return family
    folder = Path(source)
    if folder.is_dir():
        for family in families():
            if family.holds(folder):
                return family
        raise ModelFileError(
            f"{folder} holds no model that can be loaded: give a folder with the published files "
            "of a model that is known (TANGO's main_config.json and the rest, or a folder in "
            "diffusers' layout), or one that convert() made."
        )
    names = model_names()
    close = difflib.get_close_matches(str(source).rsplit("/")[-1].lower(), names, n=1, cutoff=0.6)
    meant = f", did you mean {close[0]!r}?" if close else ":"
    raise ValueError(
        f"There is no model and no folder {str(source)!r}{meant} choose from {', '.join(names)}."
    )


@contextmanager
def reading(source: str | Path) -> Iterator[None]:
    """Turn what no check foresaw in a model's files into one sentence.

    Raises
    ------
    ModelFileError
        In place of whatever a configuration without sense makes of building and filling a model.
    """
    try:
        yield
    except (ModelFileError, OSError):
        raise
    except Exception as error:
        if isinstance(error, OutOfMemory) or is_out_of_memory(error):
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ModelFileError(
            f"The files of {source} describe no model that can be built ({reason[:200]}): get them "
            "from the model's publisher again, or name another folder."
        ) from error


def find_device(name: torch.device | str | None = None) -> torch.device:
    """Return a device that is there, or say which ones are.

    Parameters
    ----------
    name : torch.device or str, optional
        By default a CUDA GPU if there is one, or else the CPU.  Apple's GPU is taken when it is
        asked for (``"mps"``) and not before: no lesson has been run on it yet.

    Raises
    ------
    ValueError
        If the device cannot be used here.
    """
    gpus = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name is None:
        return torch.device("cuda" if gpus["cuda"] else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        found = [gpu for gpu, is_there in gpus.items() if is_there]
        there = " or ".join([*found, "cpu"]) if found else "cpu (there is no GPU)"
        raise ValueError(f"The device {str(name)!r} cannot be used here: take {there}.") from error
    return device
