"""Files of published models: found in the hub's cache or fetched, and read without running code.

A published ``.bin`` file is a pickle, which could hold a program; only tensors are read from it.
Weights go from the file straight into a model's parameters in the wanted precision, one tensor
after the other, so that a model is in memory once.
"""

from __future__ import annotations

import json
import pickle
import re
import shutil
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from huggingface_hub import (
    constants,
    errors,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase, T5Config, T5EncoderModel

from helpers.models import ModelFileError
from helpers.models.latent_audio_model import is_out_of_memory
from helpers.storage import content_hash

INDEX = "model_index.json"  # of a folder in the layout of diffusers
DAMAGED = (OSError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile)  # by torch.load
SHA256 = re.compile("[0-9a-f]{64}")
PINNED = {"google/flan-t5-large": "google/flan-t5-large@0613663d0d48ea86ba8cb3d7a44f0f65dc596a2a"}
T5_FILES = {"tokenizer.json": 2_500_000, "tokenizer_config.json": 3000, "config.json": 1000}
Module = TypeVar("Module", bound=nn.Module)


def pinned(repository: str) -> tuple[str, str]:
    """Return the name of a hub repository and its revision: "main", or what stands after an @."""
    name, _, revision = repository.partition("@")
    return name, revision or "main"


def are_cached(repository: str, names: Iterable[Sequence[str]]) -> bool:
    """Whether files of a hub repository, each by one of its names, are in the hub's cache."""
    name, revision = pinned(repository)
    return all(any(_cached(name, file, revision) for file in each) for each in names)


def fetch(repository: str, sizes: Mapping[str, int]) -> Path:
    """Folder that holds files of a hub repository, fetching those that are not in the hub's cache.

    What is there is used as it is, without asking the hub.  A file that had to be fetched is
    compared with the SHA-256 the hub gives for it.  After a stopped download, files that arrived
    whole are kept.  ``HF_HOME`` moves the cache.

    Parameters
    ----------
    repository : str
        Such as ``"declare-lab/tango"``, or with a commit, branch or tag after an ``@``.
    sizes : mapping of str to int
        Names of the files, and about how many bytes each has.

    Raises
    ------
    ModelFileError
        If a file is not there and cannot be fetched, the disk is too small, or what came is not
        what the hub has.
    """
    repository, revision = pinned(repository)
    cached = {name: _cached(repository, name, revision) for name in sizes}
    folders = [_folder(path, name) for name, path in cached.items() if path]
    if folders:
        revision = folders[-1].name  # stay with the same commit
    missing = {name: size for name, size in sizes.items() if not cached[name]}
    if missing:
        needed, cache = sum(missing.values()), Path(constants.HF_HUB_CACHE)
        check_disk(cache, needed)
        if not constants.HF_HUB_OFFLINE:
            print(f"Downloading {repository}, {_gigabytes(needed)}, to {cache}.", flush=True)
    for name, size in missing.items():
        folders.append(_folder(_download(repository, name, revision, size), name))
    return folders[0]


def check_disk(folder: Path, needed: int) -> None:
    """Raise a ModelFileError if ``needed`` bytes do not fit where ``folder`` is or will be."""
    existing = next(parent for parent in [folder, *folder.parents] if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise ModelFileError(
            f"{folder} needs {_gigabytes(needed)} and its disk has {_gigabytes(free)} free: make "
            "room, or set HF_HOME to a folder on a larger disk."
        )


def check_sha256(path: Path, expected: str | None = None) -> None:
    """Compare a file of the hub's cache with the SHA-256 that the hub gave for it.

    The cache calls every large file by that hash; a small one, called by another, is not compared.

    Parameters
    ----------
    path : Path
    expected : str, optional
        The hub's hash, where the cache has no links and calls the file by its own name.

    Raises
    ------
    ModelFileError
        If they differ.
    """
    blob = path.resolve()
    if SHA256.fullmatch(blob.name):
        expected = blob.name
    if expected and (digest := content_hash(blob)) != expected:
        raise ModelFileError(
            f"{path} is damaged (its SHA-256 is {digest[:12]}…, the hub's {expected[:12]}…): "
            f"delete {blob} and load the model again."
        )


def read_json(path: Path, needed: Iterable[str] = ()) -> dict:
    """Read a JSON file that holds one object.

    Parameters
    ----------
    path : Path
    needed : iterable of str
        Keys it must have; diffusers would make up values in place of what is missing.

    Raises
    ------
    ModelFileError
        If it is missing, lacks a key or holds anything else.
    """
    _check_exists(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelFileError(f"{path} is not JSON: delete it and download it again.") from error
    if not isinstance(content, dict):
        raise ModelFileError(f"{path} holds no JSON object: delete it and download it again.")
    if missing := sorted(set(needed) - set(content)):
        raise ModelFileError(f"{path} has no {missing[0]}: download it again.")
    return content


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors of a ``.safetensors`` or a ``.bin`` file by name, mapped from the file, on the CPU.

    Raises
    ------
    ModelFileError
        If the file is missing, cut short, holds code, or holds anything but named tensors.
    """
    return named_tensors(read_content(path), path)


def read_content(path: Path) -> object:
    """Read what a file of weights holds, as :func:`read_weights`, beside tensors plain values too.

    Raises
    ------
    ModelFileError
        If the file is missing, cut short or holds code.
    """
    _check_exists(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        mapped = check_archive(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise ModelFileError(
            f"{path} holds Python code, which is not run, or is no file of weights: get it from "
            "the model's publisher again."
        ) from error
    except (*DAMAGED, SafetensorError) as error:
        if is_out_of_memory(error):
            raise
        raise ModelFileError(
            f"{path} ({_gigabytes(path.stat().st_size)}) is cut short or damaged: delete it and "
            "download it again."
        ) from error


def named_tensors(content: object, path: Path, what: str = "named tensors") -> dict[str, Tensor]:
    """Return what a file holds if that is tensors by name, or raise a ModelFileError."""
    if not isinstance(content, dict) or not all(isinstance(w, Tensor) for w in content.values()):
        raise ModelFileError(f"{path} holds something other than {what}: replace it.")
    return content


def check_archive(path: Path) -> bool:
    """Compare what torch saved with the checksums in it, which torch itself does not.

    Returns
    -------
    bool
        Whether it is an archive, which can be mapped; what torch wrote before 2020 is none.

    Raises
    ------
    zipfile.BadZipFile
        If a byte of it has changed.
    """
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        if (name := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f"{name} has changed")
    return True


def load_tokenizer(source: str | Path, **options: object) -> PreTrainedTokenizerBase:
    """Load a tokenizer of transformers; code that comes with it is neither run nor asked about.

    Parameters
    ----------
    source : str or Path
        A folder or a hub repository.
    **options
        Of ``from_pretrained``.

    Raises
    ------
    ModelFileError
        If it is not one of transformers' own kinds, or damaged.
    OSError
        If it is out of reach.
    """
    try:
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False, **options)
    except OSError:
        raise
    except Exception as error:  # whatever a damaged file makes of reading, or code that is wanted
        raise ModelFileError(
            f"The tokenizer of {source} is damaged, or wants code of its own to be run, which is "
            "not done: get the model from its publisher again, or use another."
        ) from error


def load_t5(
    repository: str, weights: dict[str, Tensor], path: Path
) -> tuple[PreTrainedTokenizerBase, T5EncoderModel]:
    """Make FLAN-T5's encoder of weights that lie in a model's file.

    Parameters
    ----------
    repository : str
        Whose tokenizer and configuration are used.
    weights : dict of str to torch.Tensor
    path : Path
        The file that they come from.

    Raises
    ------
    ModelFileError
        If there can be no such repository, its files are out of reach, or the weights do not fit.
    """
    try:
        validate_repo_id(repository or "")
    except errors.HFValidationError as error:
        raise ModelFileError(
            f"{repository!r} names no repository of the hub: correct the model's configuration."
        ) from error
    folder = fetch(PINNED.get(repository, repository), T5_FILES)
    config = T5Config.from_dict(read_json(folder / "config.json"))
    # The embedding has two names: one tensor serves both.
    if "shared.weight" in weights:
        weights["encoder.embed_tokens.weight"] = weights["shared.weight"]
    model = assemble(lambda: T5EncoderModel(config), weights, path)
    model.tie_weights()
    return load_tokenizer(folder), model


def split(weights: Mapping[str, Tensor], prefixes: list[str], path: Path) -> list[dict]:
    """Weights by their name's prefix, which is taken off: one dictionary per prefix.

    Raises
    ------
    ModelFileError
        If a name begins with none of them.
    """
    if strangers := [name for name in weights if not name.startswith(tuple(prefixes))]:
        raise ModelFileError(
            f"{path} holds {some(strangers)}, which this model does not have: it belongs to "
            "another model."
        )
    parts: dict[str, dict[str, Tensor]] = {prefix: {} for prefix in prefixes}
    for name, weight in weights.items():
        prefix = next(filter(name.startswith, prefixes))
        parts[prefix][name.removeprefix(prefix)] = weight
    return list(parts.values())


def assemble(
    build: Callable[[], Module],
    weights: Mapping[str, Tensor],
    path: Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Module:
    """Build a module without memory and give it weights, cast one by one.

    Parameters
    ----------
    build : callable
        Makes the module; called under the meta device.
    weights : mapping of str to torch.Tensor
        Named as the module names them.
    path : Path
        The file they come from, for messages.
    device, dtype
        Of the module's parameters.

    Raises
    ------
    ModelFileError
        If a weight is missing, unknown or of another shape.
    """
    with torch.device("meta"):
        module = build()
    expected = {name: tensor.shape for name, tensor in module.state_dict().items()}
    missing = [name for name in expected if name not in weights]
    strangers = [name for name in weights if name not in expected]
    if missing or strangers:
        found = [f"lacks {some(missing)}"] if missing else []
        found += [f"holds {some(strangers)}, which this model does not have"] if strangers else []
        raise ModelFileError(f"{path} {' and '.join(found)}: it belongs to another model.")
    for name, shape in expected.items():
        if weights[name].shape != shape:
            raise ModelFileError(
                f"{path} holds {name} of shape {tuple(weights[name].shape)} where this model has "
                f"{tuple(shape)}: it belongs to another model."
            )
    placed = {name: weight.to(device, dtype) for name, weight in weights.items()}
    module.load_state_dict(placed, assign=True)
    return module.eval().requires_grad_(False)


def some(names: list[str]) -> str:
    """Say the first of some names, and how many others there are."""
    others = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]}{others}"


def _check_exists(path: Path) -> None:
    if not path.is_file():
        raise ModelFileError(
            f"{path} is missing: download the model's files again, or name a complete folder."
        )


def _cached(repository: str, name: str, revision: str) -> Path | None:
    path = try_to_load_from_cache(repository, name, revision=revision)
    return Path(path) if isinstance(path, str) else None


def _folder(path: Path, name: str) -> Path:
    """Snapshot's folder, of the path of a file in it."""
    return path.parents[name.count("/")]


def _download(repository: str, name: str, revision: str, size: int) -> Path:
    try:
        path = Path(hf_hub_download(repository, name, revision=revision))
        expected = None if path.is_symlink() else _hub_sha256(repository, name, revision)
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise ModelFileError(
            f"{name} ({_gigabytes(size)}) of {repository} is not in {constants.HF_HUB_CACHE} and "
            "the hub is out of reach: connect to the network (without HF_HUB_OFFLINE) and load the "
            "model again, which keeps the files that arrived whole, or set HF_HOME to the folder "
            "that holds them."
        ) from error
    except errors.GatedRepoError as error:
        raise ModelFileError(
            f"{repository} is given to those alone who accept its licence: do so at "
            f"https://huggingface.co/{repository}, log in with `hf auth login` and load the model "
            "again."
        ) from error
    except (
        errors.RepositoryNotFoundError,
        errors.RevisionNotFoundError,
        errors.EntryNotFoundError,
    ) as error:
        raise ModelFileError(
            f"The hub has no {name} in {repository} at {revision}: check whether the model was "
            "moved, and load it from a local folder."
        ) from error
    except (errors.HfHubHTTPError, OSError) as error:
        raise ModelFileError(
            f"{name} ({_gigabytes(size)}) of {repository} did not arrive whole "
            f"({type(error).__name__}): load the model again, which keeps the files that arrived."
        ) from error
    check_sha256(path, expected)
    return path


def _hub_sha256(repository: str, name: str, revision: str) -> str | None:
    """Ask the hub for a file's hash; it keeps no SHA-256 of small ones."""
    etag = get_hf_file_metadata(hf_hub_url(repository, name, revision=revision)).etag
    return etag if etag and SHA256.fullmatch(etag) else None


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 5e7 else f"{size / 1e6:.1f} MB"
