"""Models published in the layout of diffusers: a folder per part, each with its configuration.

The parts are loaded one by one by diffusers and transformers; their pipelines, which may be
deprecated, are not needed.  Nothing large is fetched before the configurations are known, from
which every size is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from diffusers import DDIMScheduler, ModelMixin
from huggingface_hub.errors import RemoteEntryNotFoundError
from torch import nn
from transformers import PreTrainedTokenizerBase

from helpers.audio import HOP_LENGTH, N_FRAMES, N_MELS, SAMPLE_RATE
from helpers.models import ModelFileError
from helpers.models.kinds import NoiseSchedule
from helpers.models.latent_audio_model import Conditioning, LatentAudioModel, is_out_of_memory
from helpers.models.published import (
    INDEX,
    class_name,
    fetch,
    load_tokenizer,
    missing_files,
    read_json,
    read_weights,
)

SCHEDULER = "scheduler/scheduler_config.json"
NOISE = {"num_train_timesteps", "beta_start", "beta_end", "beta_schedule"}


class Part(NamedTuple):
    """One part of a model.

    Parameters
    ----------
    kind : type
        Class of diffusers or transformers it is loaded as.
    published : type
        Class it was published as, of which ``kind`` may be a piece.
    left_out : tuple of str
        How the names of weights begin that ``kind`` does not have.
    """

    kind: type
    published: type
    left_out: tuple[str, ...] = ()

    @property
    def weights_files(self) -> tuple[str, str]:
        """Names of the weights, first as safetensors, then as a pickle."""
        if issubclass(self.kind, ModelMixin):
            return "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"
        return "model.safetensors", "pytorch_model.bin"


@dataclass(frozen=True)
class DiffusersFolder:
    """The models of one architecture, by name or in a local folder.

    Parameters
    ----------
    class_name : str
        What their ``model_index.json`` says they are.
    repositories : mapping of str to str
        Names of models and the hub repositories that hold them.
    revisions : mapping of str to str
        Commits of repositories; for the others the first download takes what "main" is then and
        stays with it.
    parts : mapping of str to Part
        By subfolder; ``unet``, ``vae`` and ``vocoder`` are always there.
    tokenizers : tuple of str
        Subfolders.
    """

    class_name: str
    repositories: Mapping[str, str]
    revisions: Mapping[str, str]
    parts: Mapping[str, Part]
    tokenizers: tuple[str, ...]

    def is_at_hand(self, source: str | Path) -> bool:
        """Whether the weights of a name are in the hub's cache; those of a folder are."""
        repository = self.repositories.get(str(source))
        return repository is None or bool(self._cached_weights(repository))

    def holds(self, folder: Path) -> bool:
        """Whether a folder says that it is such a model."""
        return class_name(folder) == self.class_name

    def configurations(self, source: str | Path) -> Path:
        """Folder that holds the small files of a model, fetching them if need be.

        Raises
        ------
        ModelFileError
            If one is missing, or the folder holds another kind of model.
        """
        repository = self.repositories.get(str(source))
        if repository is None:
            folder = Path(source)
        else:
            folder = fetch(repository, self._small_files(), self.revision(repository))
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
        if repository is None:
            return folder
        revision, small = self.revision(repository), self._small_files()
        cached = self._cached_weights(repository)
        sizes = {name: _bytes(self.build(folder, name, published=True)) for name in self.parts}
        safe, pickled = (
            {f"{name}/{part.weights_files[i]}": sizes[name] for name, part in self.parts.items()}
            for i in (0, 1)
        )
        try:
            return fetch(repository, small | (cached or safe), revision)
        except ModelFileError as error:
            if not isinstance(error.__cause__, RemoteEntryNotFoundError):
                raise
            return fetch(repository, small | pickled, revision)

    def build(self, folder: Path, name: str, published: bool = False) -> nn.Module:
        """Build a part on the meta device, from its configuration, with shapes and no memory."""
        kind = self.parts[name].published if published else self.parts[name].kind
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
        path = self._weights(folder, name)
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
        absent = [*found["missing_keys"], *found["mismatched_keys"]]
        if absent:
            others = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
            raise ModelFileError(
                f"{path} lacks {absent[0]}{others}, which its config.json asks for: download both "
                "again."
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
        _complete(folder / name / "tokenizer_config.json", {"tokenizer_class", "model_max_length"})
        return load_tokenizer(folder / name, local_files_only=True)

    def model(
        self,
        source: str | Path,
        folder: Path,
        text_encoder: Callable[[list[str]], Conditioning],
        guidance_scale: float,
        device: torch.device | str,
        dtype: torch.dtype,
    ) -> LatentAudioModel:
        """Put UNet, autoencoder, vocoder and noise schedule together around a text encoder.

        The UNet gets ``dtype``; the autoencoder and the vocoder are float32.
        """
        return self._assemble(
            source,
            folder,
            text_encoder,
            guidance_scale,
            unet=self.load(folder, "unet", device, dtype),
            vae=self.load(folder, "vae", device),
            vocoder=self.load(folder, "vocoder", device),
        )

    def blueprint(
        self, source: str | Path, folder: Path, prompt: Conditioning, guidance_scale: float
    ) -> LatentAudioModel:
        """Build the model on the meta device; any prompt becomes ``prompt``."""
        parts = {name: self.build(folder, name) for name in ("unet", "vae", "vocoder")}
        encoder = lambda prompts: prompt.repeat(len(prompts))  # noqa: E731
        return self._assemble(source, folder, encoder, guidance_scale, **parts)

    def _assemble(
        self,
        source: str | Path,
        folder: Path,
        text_encoder: Callable[[list[str]], Conditioning],
        guidance_scale: float,
        unet: nn.Module,
        vae: nn.Module,
        vocoder: nn.Module,
    ) -> LatentAudioModel:
        _check_front_end(folder, vocoder)
        _complete(folder / "vae" / "config.json", {"scaling_factor"})
        inside: Any = vae.config
        outside: Any = unet.config
        shrink = 2 ** (len(inside.block_out_channels) - 1)
        return LatentAudioModel(
            str(source),
            unet,
            vae,
            vocoder,
            cast(NoiseSchedule, DDIMScheduler.from_config(_complete(folder / SCHEDULER, NOISE))),
            text_encoder,
            latent_shape=(outside.in_channels, N_FRAMES // shrink, N_MELS // shrink),
            guidance_scale=guidance_scale,
        )

    def _check_index(self, folder: Path) -> None:
        """Refuse another pipeline, and one whose parts are of other classes."""
        index = read_json(folder / INDEX)
        if index.get("_class_name") != self.class_name:
            raise ModelFileError(
                f"{folder / INDEX} names a {index.get('_class_name')}, not a {self.class_name}: "
                "load the folder as the model it is, or name another."
            )
        for name, part in self.parts.items():
            [*_, found] = [None, *index[name]] if isinstance(index.get(name), list) else [None]
            if found not in (part.kind.__name__, part.published.__name__):
                raise ModelFileError(
                    f"{folder / INDEX} has {found} as {name}, not {part.published.__name__}: use a "
                    "checkpoint that turns text into sound."
                )

    def _weights(self, folder: Path, name: str) -> Path:
        """Weights of a part that are there, safetensors first; else the name that is missing."""
        safe, pickled = (folder / name / file for file in self.parts[name].weights_files)
        return pickled if pickled.is_file() and not safe.is_file() else safe

    def _small_files(self) -> dict[str, int]:
        """Names of the configurations and about how large they are."""
        configs = {f"{name}/config.json": 2000 for name in self.parts}
        words = {f"{name}/tokenizer.json": 2_500_000 for name in self.tokenizers}
        settings = {f"{name}/tokenizer_config.json": 3000 for name in self.tokenizers}
        return {INDEX: 1000, SCHEDULER: 1000, **configs, **words, **settings}

    def _cached_weights(self, repository: str) -> dict[str, int] | None:
        """Weights that are in the hub's cache, if those of every part are."""
        cached = {}
        for name, part in self.parts.items():
            names = [f"{name}/{file}" for file in part.weights_files]
            absent = missing_files(repository, names, self.revision(repository))
            if len(absent) == len(names):
                return None
            cached[next(file for file in names if file not in absent)] = 0
        return cached

    def revision(self, repository: str) -> str:
        """Commit of a repository, or "main"."""
        return self.revisions.get(repository, "main")


def _config(folder: Path, kind: type) -> object:
    """Read config.json as ``kind`` wants it; of a larger class the piece that is ``kind``'s."""
    content = read_json(folder / "config.json")
    if issubclass(kind, ModelMixin):
        return content
    return kind.config_class.from_dict(content.get(kind.config_class.base_config_key, content))


def _complete(path: Path, keys: Set[str]) -> dict:
    """Read a configuration whose values diffusers would make up where they are missing."""
    config = read_json(path)
    if missing := sorted(keys - set(config)):
        raise ModelFileError(f"{path} has no {missing[0]}: download it again.")
    return config


def _check_front_end(folder: Path, vocoder: nn.Module) -> None:
    """Refuse a vocoder of other log-mels than helpers.audio computes."""
    config: Any = vocoder.config
    hop = int(torch.tensor(config.upsample_rates).prod())
    if (config.model_in_dim, config.sampling_rate, hop) != (N_MELS, SAMPLE_RATE, HOP_LENGTH):
        raise ModelFileError(
            f"{folder / 'vocoder'} turns {config.model_in_dim} mel bins into {config.sampling_rate}"
            f" Hz, {hop} samples a frame; this project's log-mels are {N_MELS}, {SAMPLE_RATE} and "
            f"{HOP_LENGTH}: use a 16 kHz checkpoint."
        )


def _bytes(module: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in module.parameters())
