"""The small convolutional network that the pocket CLAP and the independent classifier share."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from helpers.audio import LOG_FLOOR

WIDTHS = (32, 64, 128, 192, 256)
EMBEDDING_WIDTH = 256
SENTENCE_WIDTH = 384


class _Saved(nn.Module):
    """Weights as float16 safetensors in a folder."""

    def save(self, folder: Path) -> None:
        """Write ``model.safetensors``."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {name: value.half().contiguous() for name, value in self.state_dict().items()}
        save_file(state, folder / "model.safetensors")

    def load(self, folder: Path) -> Self:
        """Read ``model.safetensors``; returns itself in evaluation mode with frozen weights."""
        self.load_state_dict(load_file(folder / "model.safetensors"))
        return self.float().eval().requires_grad_(False)


def convolutions() -> nn.Sequential:
    """Make the layers from log-mels (batch, 1, 1024, 64) to features (batch, 256, 8, 1).

    A stem of 4 frames × 2 bins; then every block halves both axes.
    """
    blocks = [nn.Conv2d(1, WIDTHS[0], (8, 4), stride=(4, 2), padding=(2, 1))]
    for width_in, width in pairwise((WIDTHS[0], *WIDTHS)):
        blocks += [
            nn.Conv2d(width_in, width, 3, padding=1),
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.AvgPool2d(2),
        ]
    return nn.Sequential(*blocks)


class AudioTower(_Saved):
    """From log-mels (batch, 1, frames, 64) to vectors (batch, outputs), any number of frames."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.features = convolutions()
        self.head = nn.Linear(2 * WIDTHS[-1], outputs)

    def forward(self, log_mel: Tensor) -> Tensor:
        """Average and maximum over time of the features, then a linear head."""
        features = self.features((log_mel - LOG_FLOOR) / 6 - 1).mean(-1)
        pooled = torch.cat([features.mean(-1), features.amax(-1)], dim=1)
        return self.head(functional.dropout(pooled, 0.2, self.training))


class PocketClapModel(_Saved):
    """Audio and frozen MiniLM sentence vectors in one space of 256 dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.audio = AudioTower(EMBEDDING_WIDTH)
        self.text = nn.Linear(SENTENCE_WIDTH, EMBEDDING_WIDTH)
        self.log_scale = nn.Parameter(torch.tensor(2.5))

    def embed_audio(self, log_mel: Tensor) -> Tensor:
        """L2-normalised (batch, 256) of log-mels (batch, 1, frames, 64)."""
        return functional.normalize(self.audio(log_mel), dim=-1)

    def embed_text(self, sentence: Tensor) -> Tensor:
        """L2-normalised (batch, 256) of sentence vectors (batch, 384)."""
        return functional.normalize(self.text(sentence), dim=-1)

    def forward(self, log_mel: Tensor, sentence: Tensor) -> Tensor:
        """Scaled cosine similarities, shape (audio, text)."""
        similarity = self.embed_audio(log_mel) @ self.embed_text(sentence).T
        return similarity * self.log_scale.exp().clamp(max=50)
