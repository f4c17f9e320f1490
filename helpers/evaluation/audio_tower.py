"""The small convolutional network that the pocket CLAP and the independent classifier share."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional

from helpers.audio import LOG_FLOOR, N_FRAMES, N_MELS, SAMPLE_RATE
from helpers.storage import check_sums, read_text, write_sums, write_text, write_whole

FRONT_END = {"sample_rate": SAMPLE_RATE, "log_mel": [N_FRAMES, N_MELS]}
WIDTHS = (32, 64, 128, 192, 256)
EMBEDDING_WIDTH = 256
SENTENCE_WIDTH = 384


def save_judge(network: nn.Module, folder: Path, **meaning: object) -> None:
    """Write a network's weights in float16, and ``config.json``, which says what they are for.

    Parameters
    ----------
    network : nn.Module
        Of log-mels (batch, 1, 1024, 64).
    folder : Path
        Of ``model.safetensors``, ``config.json`` and their checksums.
    **meaning
        What JSON can hold: ``labels`` in the order of the outputs, ``text``, the text encoder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.half().contiguous() for name, value in network.state_dict().items()}
    write_whole(folder / "model.safetensors", lambda file: file.write(save(state)))
    text = json.dumps(FRONT_END | meaning, indent=1, ensure_ascii=False)
    write_text(folder / "config.json", text + "\n")
    write_sums(folder)


def load_judge(network: nn.Module, folder: Path) -> dict:
    """Read what :func:`save_judge` wrote into a network and freeze it; return ``config.json``.

    Raises
    ------
    StorageError
        If a file is missing, damaged or another one.
    ValueError
        If the weights are of another network, or hear other log-mels.
    """
    check_sums(folder)
    config = json.loads(read_text(folder / "config.json"))
    strange = [name for name, value in FRONT_END.items() if config.get(name) != value]
    weights = load_file(folder / "model.safetensors")
    shapes = {name: tensor.shape for name, tensor in weights.items()}
    if strange or shapes != {n: tensor.shape for n, tensor in network.state_dict().items()}:
        what = strange[0] if strange else "shapes"
        raise ValueError(
            f"{folder} holds weights of another network (its {what} differ): train it anew, or "
            "name another folder."
        )
    network.load_state_dict(weights)
    network.float().eval().requires_grad_(False)
    return config


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


class AudioTower(nn.Module):
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


class PocketClapModel(nn.Module):
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
