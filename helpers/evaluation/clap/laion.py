"""LAION's CLAP by its own package, for the checkpoints that editing papers score with.

The package reads checkpoints by running what is in them; here only tensors and plain numbers are
read.  Which of its architectures a checkpoint needs follows from the shapes of its weights.

Importing the package needs the tokenizers of ``bert-base-uncased``, ``roberta-base`` and
``facebook/bart-base``, and making its model needs the weights of ``roberta-base``: the hub's cache
must hold them, or the hub be in reach.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from helpers.evaluation.clap import ClapError, require, sentences
from helpers.evaluation.clap.checkpoints import read_checkpoint
from helpers.evaluation.clap.windows import WindowedClap
from helpers.models import ModelFileError
from helpers.models.published import fetch

REPOSITORY = "lukewys/laion_clap"
REVISION = "b3708341862f581175dba5c356a4ebf74a9b6651"
DEFAULT_CHECKPOINT = "630k-audioset-best.pt"
DEFAULT_BYTES = 1_860_000_000
ARCHITECTURES = {768: "HTSAT-tiny", 1024: "HTSAT-base"}  # by the audio tower's width
# What transformers makes itself nowadays and old checkpoints still hold.
SUPERFLUOUS = "text_branch.embeddings.position_ids"


class LaionClap(WindowedClap):
    """A checkpoint of LAION's package, on the GPU if there is one.

    10.0 s at 48 kHz; short windows are repeated whole and then padded with zeros (``repeatpad``),
    and samples are rounded to 16 bits, as the package does it.

    Parameters
    ----------
    path : Path, optional
        A checkpoint of https://huggingface.co/lukewys/laion_clap (a file ``*.pt``) with an HTSAT
        audio tower, with or without fusion; ``630k-audioset-best.pt`` is fetched by default.

    Raises
    ------
    ClapError
        If the package is not installed or cannot be imported, or the checkpoint is another kind.
    ModelFileError
        If the checkpoint is missing, damaged or out of reach.
    """

    sample_rate = 48_000
    window = 480_000

    def __init__(self, path: Path | None = None) -> None:
        self.name = f"laion-clap:{path.name if path else DEFAULT_CHECKPOINT}"
        if path and not path.is_file():
            raise ModelFileError(
                f"There is no checkpoint {path}: download it from "
                f"https://huggingface.co/{REPOSITORY} and give its path."
            )
        package = _import_package()
        path = path or (
            fetch(REPOSITORY, {DEFAULT_CHECKPOINT: DEFAULT_BYTES}, REVISION) / DEFAULT_CHECKPOINT
        )
        weights = _read_weights(path)
        fusion = "audio_branch.patch_embed.mel_conv2d.weight" in weights
        architecture = _architecture(weights, path)
        try:
            self.model: Any = package.CLAP_Module(enable_fusion=fusion, amodel=architecture)
        except OSError as error:
            raise ModelFileError(
                "laion-clap needs the weights of roberta-base in the hub's cache: connect to the "
                "network once, without HF_HUB_OFFLINE."
            ) from error
        try:
            self.model.model.load_state_dict(weights)
        except RuntimeError as error:
            raise ClapError(
                f"{path} does not fit LAION's CLAP with RoBERTa and HTSAT: use a checkpoint of "
                f"https://huggingface.co/{REPOSITORY}."
            ) from error
        self.model.eval().requires_grad_(False)

    def embed_windows(self, windows: Sequence[np.ndarray]) -> Tensor:
        """Projections; see :meth:`WindowedClap.embed_windows`."""
        return torch.from_numpy(self.model.get_audio_embedding_from_data(list(windows)))

    @torch.no_grad()
    def embed_text(self, prompts: Sequence[str]) -> Tensor:
        """Projections of sentences, of which 77 tokens are read."""
        return torch.from_numpy(self.model.get_text_embedding(sentences(prompts)))


def load(checkpoint: str = "") -> LaionClap:
    """Load the checkpoint at a path, :data:`DEFAULT_CHECKPOINT` unless one is named."""
    return LaionClap(Path(checkpoint) if checkpoint else None)


def _read_weights(path: Path) -> dict[str, Tensor]:
    """Weights of a checkpoint by the names that the package's model gives them."""
    checkpoint = read_checkpoint(path, "state_dict")
    weights = {name.removeprefix("module."): weight for name, weight in checkpoint.items()}
    weights.pop(SUPERFLUOUS, None)
    return weights


def _architecture(weights: dict[str, Tensor], path: Path) -> str:
    projection = weights.get("audio_projection.0.weight", torch.empty(0, 0))
    if projection.shape[-1] not in ARCHITECTURES:
        raise ClapError(
            f"{path} holds no CLAP with an HTSAT audio tower: use a checkpoint of "
            f"https://huggingface.co/{REPOSITORY}."
        )
    return ARCHITECTURES[projection.shape[-1]]


def _import_package() -> ModuleType:
    require("laion_clap", "laion")
    try:
        import laion_clap  # pyright: ignore[reportMissingImports]  # in an environment of its own
    except (ImportError, OSError, RuntimeError) as error:
        raise ClapError(
            f"laion-clap cannot be imported ({str(error).splitlines()[0]}): use the packages of "
            "`make setup-laion`, and connect to the network once, without HF_HUB_OFFLINE, for the "
            "tokenizers bert-base-uncased, roberta-base and facebook/bart-base."
        ) from error
    return laion_clap
