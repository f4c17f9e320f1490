"""Models published in the layout of diffusers: a folder per part, each with its configuration.

The parts are loaded one by one by diffusers and transformers; their pipelines, which may be
deprecated, are not needed.  Nothing large is fetched before the configurations are known, from
which every size is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import AutoencoderKL, ModelMixin
from huggingface_hub.errors import RemoteEntryNotFoundError
from torch import nn
from transformers import PreTrainedTokenizerBase, SpeechT5HifiGan

from helpers.audio import HOP_LENGTH, N_MELS, SAMPLE_RATE
from helpers.models import Family, ModelFileError
from helpers.models.latent_audio_model import LatentAudioModel, is_out_of_memory
from helpers.models.parts import SCHEDULER, Parts, Plan
from helpers.models.published import (
    INDEX,
    are_cached,
    fetch,
    load_tokenizer,
    read_json,
    read_weights,
    some,
)

DENOISERS, DECODERS = ("unet", "transformer"), ("vae", "vocoder")  # parts on the model's device


class Part(NamedTuple):
    """One part of a model.

    Parameters
    ----------
    kind : type
        Class of diffusers or transformers it is loaded as.
    published : type, optional
        Class it was published as, where ``kind`` is but a piece of that.
    left_out : tuple of str
        How the names of weights begin that ``kind`` does not have.
    """

    kind: type
    published: type | None = None
    left_out: tuple[str, ...] = ()

    @property
    def origin(self) -> type:
        """Class it was published as."""
        return self.published or self.kind

    def weights(self, name: str) -> tuple[str, str]:
        """Names of its weights in the subfolder of its name, as safetensors and as a pickle."""
        if issubclass(self.kind, ModelMixin):
            name += "/diffusion_pytorch_model"
            return f"{name}.safetensors", f"{name}.bin"
        return f"{name}/model.safetensors", f"{name}/pytorch_model.bin"


@dataclass(frozen=True)
class DiffusersFolder:
    """The models of one architecture, by name or in a local folder.

    Parameters
    ----------
    class_name : str
        What their ``model_index.json`` says they are.
    repositories : mapping of str to str
        Names of models and the hub repositories that hold them, with a commit after an ``@``; of
        those without one the first download takes what "main" is then and stays with it.
    parts : mapping of str to Part
        By subfolder.
    builder : callable
        From the parts to a model.
    tokenizers : tuple of str
        Subfolders.
    """

    class_name: str
    repositories: Mapping[str, str]
    parts: Mapping[str, Part]
    builder: Callable[[Parts], LatentAudioModel]
    tokenizers: tuple[str, ...] = ("tokenizer",)

    def family(self, terms: str = "") -> Family:
        """Return what :data:`helpers.models.FAMILIES` names."""
        return Family(
            self.repositories, self.model, self.holds, self.blueprint, self._is_cached, terms
        )

    def holds(self, folder: Path) -> bool:
        """Whether a folder says that it is such a model."""
        index = folder / INDEX
        return index.is_file() and read_json(index).get("_class_name") == self.class_name

    def model(
        self,
        source: str | Path,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> LatentAudioModel:
        """Load a model.

        Parameters
        ----------
        source : str or Path
            A name, whose files are taken from the hub's cache or fetched; or a folder with the
            published files.
        device : torch.device or str
            Of everything but the text encoder, which stays on the CPU.
        dtype : torch.dtype
            Of the denoiser.

        Raises
        ------
        ModelFileError
            If a file is missing, out of reach, cut short, holds code or belongs to another model.
        """
        folder = self.files(source)

        def part(name: str) -> Any:
            if name in self.tokenizers:
                return self.tokenizer(folder, name)
            if name in DENOISERS:
                return self.load(folder, name, device, dtype)
            return self.load(folder, name, device if name in DECODERS else "cpu")

        return self.builder(Parts(str(source), folder, part))

    def blueprint(self, source: str | Path) -> LatentAudioModel:
        """Build a model on the meta device, for what is computed beforehand.

        Parameters
        ----------
        source : str or Path
            As for :meth:`model`; only the configurations are read, or fetched.
        """
        return self.plan(str(source), self.configurations(source))

    def plan(self, name: str, folder: Path) -> LatentAudioModel:
        """Build a model on the meta device from a folder of configurations."""
        return self.builder(Plan(name, folder, partial(self.build, folder)))

    def configurations(self, source: str | Path) -> Path:
        """Folder that holds the small files of a model, fetching them if need be.

        Raises
        ------
        ModelFileError
            If one is missing, or the folder holds another kind of model.
        """
        repository = self.repositories.get(str(source))
        folder = fetch(repository, self._small_files()) if repository else Path(source)
        self._check_index(folder)
        return folder

    def files(self, source: str | Path) -> Path:
        """Folder that holds all of a model, fetching what is missing.

        Weights are taken as safetensors where there are any.

        Raises
        ------
        ModelFileError
            As :meth:`configurations`, and if the weights cannot be fetched.
        """
        folder = self.configurations(source)
        repository = self.repositories.get(str(source))
        if repository is None or self._is_cached(repository):
            return folder
        sizes = [_bytes(self.build(folder, name, published=True)) for name in self.parts]
        safe, pickled = (
            dict(zip(names, sizes, strict=True)) for names in zip(*self._weights(), strict=True)
        )
        try:
            return fetch(repository, self._small_files() | safe)
        except ModelFileError as error:
            if not isinstance(error.__cause__, RemoteEntryNotFoundError):
                raise
            return fetch(repository, self._small_files() | pickled)

    def build(self, folder: Path, name: str, published: bool = False) -> nn.Module:
        """Build a part on the meta device, from its configuration, with shapes and no memory."""
        kind = self.parts[name].origin if published else self.parts[name].kind
        config = _config(folder / name, kind)
        with torch.device("meta"):
            if issubclass(kind, ModelMixin):
                declared: Any = kind  # as having a configuration, in the classes below it alone
                return declared.from_config(config)
            return kind(config)

    def load(
        self,
        folder: Path,
        name: str,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> nn.Module:
        """Load a part, its weights cast as they are read.

        Raises
        ------
        ModelFileError
            If its weights are missing, cut short, hold code, or do not fill its configuration.
        """
        kind, _, left_out = self.parts[name]
        config = _config(folder / name, kind)
        safe, pickled = (folder / file for file in self.parts[name].weights(name))
        path = pickled if pickled.is_file() and not safe.is_file() else safe
        weights = {n: w for n, w in read_weights(path).items() if not n.startswith(left_out)}
        try:
            if issubclass(kind, ModelMixin):
                loaded: Any = kind.from_pretrained(
                    folder / name,
                    torch_dtype=dtype,
                    use_safetensors=path.suffix == ".safetensors",
                    local_files_only=True,
                    output_loading_info=True,
                )
            else:
                loaded = kind.from_pretrained(
                    None, config=config, state_dict=weights, dtype=dtype, output_loading_info=True
                )
        except (RuntimeError, ValueError) as error:
            if is_out_of_memory(error):
                raise
            raise ModelFileError(
                f"{path} does not have the shapes of the config.json beside it: download both "
                "again."
            ) from error
        module, found = loaded
        if absent := [*found["missing_keys"], *found["mismatched_keys"]]:
            raise ModelFileError(
                f"{path} lacks {some(absent)}, which its config.json asks for: download both again."
            )
        return module.to(device).eval().requires_grad_(False)

    def tokenizer(self, folder: Path, name: str) -> PreTrainedTokenizerBase:
        """Load a tokenizer, which must be whole.

        Raises
        ------
        ModelFileError
            If a file of it is missing, no JSON, or does not say its kind and longest prompt.
        """
        read_json(folder / name / "tokenizer.json")
        read_json(folder / name / "tokenizer_config.json", {"tokenizer_class", "model_max_length"})
        return load_tokenizer(folder / name, local_files_only=True)

    def _check_index(self, folder: Path) -> None:
        """Refuse another pipeline, and one whose parts are of other classes."""
        index = read_json(folder / INDEX)
        if index.get("_class_name") != self.class_name:
            raise ModelFileError(
                f"{folder / INDEX} names a {index.get('_class_name')}, not a {self.class_name}: "
                "load the folder as the model it is, or name another."
            )
        for name, part in self.parts.items():
            *_, found = index.get(name) or [None]
            if found not in (None, part.kind.__name__, part.origin.__name__):
                raise ModelFileError(
                    f"{folder / INDEX} has {found} as {name}, not {part.origin.__name__}: use a "
                    "checkpoint that turns text into sound."
                )

    def _small_files(self) -> dict[str, int]:
        """Names of the configurations and about how large they are."""
        configs = {f"{name}/config.json": 2000 for name in self.parts}
        words = {f"{name}/tokenizer.json": 2_500_000 for name in self.tokenizers}
        settings = {f"{name}/tokenizer_config.json": 3000 for name in self.tokenizers}
        return {INDEX: 1000, SCHEDULER: 1000, **configs, **words, **settings}

    def _weights(self) -> list[tuple[str, str]]:
        """Names of each part's weights."""
        return [part.weights(name) for name, part in self.parts.items()]

    def _is_cached(self, repository: str) -> bool:
        return are_cached(repository, self._weights())


def _config(folder: Path, kind: type) -> Any:
    """Read config.json as ``kind`` wants it; of a larger class the piece that is ``kind``'s."""
    needed = {"scaling_factor"} if kind is AutoencoderKL else set()
    content = read_json(folder / "config.json", needed)
    if issubclass(kind, ModelMixin):
        return content
    config = kind.config_class.from_dict(content.get(kind.config_class.base_config_key, content))
    if kind is SpeechT5HifiGan:
        _check_front_end(folder, config)
    return config


def _check_front_end(folder: Path, config: Any) -> None:
    """Refuse a vocoder of other log-mels than helpers.audio computes."""
    hop = int(torch.tensor(config.upsample_rates).prod())
    if (config.model_in_dim, config.sampling_rate, hop) != (N_MELS, SAMPLE_RATE, HOP_LENGTH):
        raise ModelFileError(
            f"{folder} turns {config.model_in_dim} mel bins into {config.sampling_rate}"
            f" Hz, {hop} samples a frame; this project's log-mels are {N_MELS}, {SAMPLE_RATE} and "
            f"{HOP_LENGTH}: use a 16 kHz checkpoint."
        )


def _bytes(module: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in module.parameters())
