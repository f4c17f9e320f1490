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
from typing import Any

import numpy as np
import torch
from torch import Tensor

from helpers.evaluation.clap import ClapError, import_package, needing, sentences
from helpers.evaluation.clap.checkpoints import read_checkpoint
from helpers.evaluation.clap.windows import WindowedClap
from helpers.models import ModelFileError
from helpers.models.published import fetch

REPOSITORY = "lukewys/laion_clap"
REVISION = "b3708341862f581175dba5c356a4ebf74a9b6651"
DEFAULT_CHECKPOINT = "630k-audioset-best.pt"
DEFAULT_BYTES = 1_860_000_000
ARCHITECTURES = {768: "HTSAT-tiny", 1024: "HTSAT-base"}  # by the audio tower's width
ADVICE = f"use a checkpoint of https://huggingface.co/{REPOSITORY}."
NETWORK = (
    ", and connect to the network once, without HF_HUB_OFFLINE, for the tokenizers "
    "bert-base-uncased, roberta-base and facebook/bart-base"
)
# What transformers makes itself nowadays and old checkpoints still hold.
SUPERFLUOUS = "text_branch.embeddings.position_ids"


class LaionClap(WindowedClap):
    """A checkpoint of LAION's package, on the GPU if there is one.

    10.0 s at 48 kHz; short windows are repeated whole and then padded with zeros (``repeatpad``),
    and samples are rounded to 16 bits, as the package does it.

    Parameters
    ----------
    path : str, optional
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

    def __init__(self, path: str = "") -> None:
        self.name = f"laion-clap:{Path(path or DEFAULT_CHECKPOINT).name}"
        if path and not Path(path).is_file():
            raise ModelFileError(
                f"There is no checkpoint {path}: download it from "
                f"https://huggingface.co/{REPOSITORY} and give its path."
            )
        package = import_package("laion_clap", "laion", NETWORK)
        sizes = {DEFAULT_CHECKPOINT: DEFAULT_BYTES}
        file = Path(path) if path else fetch(f"{REPOSITORY}@{REVISION}", sizes) / DEFAULT_CHECKPOINT
        stored = read_checkpoint(file, "state_dict")
        weights = {name.removeprefix("module."): weight for name, weight in stored.items()}
        weights.pop(SUPERFLUOUS, None)
        fusion = "audio_branch.patch_embed.mel_conv2d.weight" in weights
        projection = weights.get("audio_projection.0.weight", torch.empty(0, 0))
        if projection.shape[-1] not in ARCHITECTURES:
            raise ClapError(f"{file} holds no CLAP with an HTSAT audio tower: {ADVICE}")
        with needing("roberta-base"):
            self.model: Any = package.CLAP_Module(
                enable_fusion=fusion, amodel=ARCHITECTURES[projection.shape[-1]]
            )
        try:
            self.model.model.load_state_dict(weights)
        except RuntimeError as error:
            raise ClapError(
                f"{file} does not fit LAION's CLAP with RoBERTa and HTSAT: {ADVICE}"
            ) from error
        self.model.eval().requires_grad_(False)

    def embed_windows(self, windows: Sequence[np.ndarray]) -> Tensor:
        """Projections; see :meth:`WindowedClap.embed_windows`."""
        return torch.from_numpy(self.model.get_audio_embedding_from_data(list(windows)))

    @torch.no_grad()
    def embed_text(self, prompts: Sequence[str]) -> Tensor:
        """Projections of sentences, of which 77 tokens are read."""
        return torch.from_numpy(self.model.get_text_embedding(sentences(prompts)))


load = LaionClap
