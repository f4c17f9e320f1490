"""The embedded CLAP, trained on the pocket model's sounds alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from helpers.audio import Clip
from helpers.data import data_path
from helpers.evaluation.audio_tower import PocketClapModel, load_judge
from helpers.evaluation.clap import Clap, ClapError, sentences
from helpers.models.minilm import load_minilm
from helpers.storage import content_hash


class PocketClap(Clap):
    """The embedded CLAP: the whole padded 10.24 s window, deterministic.

    Parameters
    ----------
    folder : Path, optional
        Where ``model.safetensors`` is; ``data/pocket/clap`` by default.
    """

    name = "pocket"

    def __init__(self, folder: Path | None = None) -> None:
        self.model: Any = PocketClapModel()
        load_judge(self.model, folder or data_path("pocket", "clap"))

    @property
    def weights(self) -> str:
        """SHA-256 of the contents of the network and of MiniLM."""
        return content_hash([self.model, load_minilm().model])

    @torch.no_grad()
    def embed_audio(self, clips: Sequence[Clip]) -> Tensor:
        """Projections of recordings, shape (clips, 256); see :meth:`Clap.embed_audio`."""
        return self.model.embed_audio(torch.cat([clip.log_mel() for clip in clips]))

    @torch.no_grad()
    def embed_text(self, prompts: Sequence[str]) -> Tensor:
        """Projections of sentences, shape (prompts, 256); see :meth:`Clap.embed_text`."""
        return self.model.embed_text(load_minilm().sentence(sentences(prompts)))


def load(checkpoint: str = "") -> PocketClap:
    """Load it; it has one checkpoint, so none can be named."""
    if checkpoint:
        raise ClapError("The pocket CLAP has one checkpoint: load it as 'pocket'.")
    return PocketClap()
