"""Text CLAP and Audio CLAP (Sec. 3.2 of the paper).

CLAP puts recordings and sentences into one space; scores are cosines in it.  Scores of different
checkpoints are not comparable, so a score never travels without :attr:`PocketClap.name`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from helpers.audio import Clip
from helpers.data import data_path
from helpers.evaluation.audio_tower import PocketClapModel
from helpers.models.minilm import load_minilm


class PocketClap:
    """The embedded CLAP: the whole padded 10.24 s window, deterministic.

    Parameters
    ----------
    folder : Path, optional
        Where ``model.safetensors`` is; ``data/pocket/clap`` by default.
    """

    name = "pocket"

    def __init__(self, folder: Path | None = None) -> None:
        self.model = PocketClapModel().load(folder or data_path("pocket", "clap"))

    @torch.no_grad()
    def embed_audio(self, clips: Sequence[Clip]) -> Tensor:
        """Projections h_a of recordings, float32, shape (clips, 256), L2-normalised."""
        return self.model.embed_audio(torch.cat([clip.log_mel() for clip in clips]))

    @torch.no_grad()
    def embed_text(self, prompts: Sequence[str]) -> Tensor:
        """Projections h_t of sentences, float32, shape (prompts, 256), L2-normalised."""
        return self.model.embed_text(load_minilm().sentence(list(prompts)))

    def text_score(self, edit: Clip, prompt: str) -> float:
        """Text CLAP, Eq. 3: cosine of the edit and the sentence that describes it, −1…1."""
        return float(self.embed_audio([edit])[0] @ self.embed_text([prompt])[0])

    def audio_score(self, edit: Clip, source: Clip) -> float:
        """Audio CLAP, Eq. 4: cosine of the edit and the recording it was made from, −1…1."""
        edited, original = self.embed_audio([edit, source])
        return float(edited @ original)


BACK_ENDS = {"pocket": PocketClap}


def load_clap(name: str = "pocket") -> PocketClap:
    """Load a CLAP back end by name.

    Raises
    ------
    ValueError
        If there is no such back end.
    """
    if name not in BACK_ENDS:
        raise ValueError(f"There is no CLAP {name!r}: choose from {', '.join(BACK_ENDS)}.")
    return BACK_ENDS[name]()
