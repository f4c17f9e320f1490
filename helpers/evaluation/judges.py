"""The networks that judge edits of the embedded model: a CLAP that hears composition, a classifier.

Both hear a clip through a small convolutional tower.  What it finds is averaged in each quarter of
the clip, so that "a siren, then a dog" and "a dog, then a siren" differ.  The CLAP's text side is
an attention layer over MiniLM's token states, since a mean over words forgets which sound is in the
background.

Weights are float16 safetensors; ``config.json`` beside them says what the outputs mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from helpers.audio import LOG_FLOOR, Clip
from helpers.evaluation.audio_tower import EMBEDDING_WIDTH, WIDTHS, convolutions, load_judge
from helpers.models.latent_audio_model import Conditioning
from helpers.sounds.vocabulary import LABELS

QUARTERS = 4
TOKEN_WIDTH = 384


class AudioTower(nn.Module):
    """From log-mels (batch, 1, 1024, 64) to vectors (batch, outputs).

    Parameters
    ----------
    outputs : int
    """

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.features = convolutions()
        self.head = nn.Linear((QUARTERS + 2) * WIDTHS[-1], outputs)

    def forward(self, log_mel: Tensor) -> Tensor:
        """Averages over quarters, average and maximum over all of the clip, then a linear head."""
        features = self.features((log_mel - LOG_FLOOR) / 6 - 1).mean(-1)
        quarters = functional.adaptive_avg_pool1d(features, QUARTERS).flatten(1)
        pooled = torch.cat([quarters, features.mean(-1), features.amax(-1)], dim=1)
        return self.head(functional.dropout(pooled, 0.2, self.training))


class TextHead(nn.Module):
    """From token states (batch, length, 384) to vectors (batch, 256): attention, then the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.TransformerEncoderLayer(
            TOKEN_WIDTH, 6, 2 * TOKEN_WIDTH, dropout=0.1, batch_first=True, norm_first=True
        )
        self.head = nn.Linear(TOKEN_WIDTH, EMBEDDING_WIDTH)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Embed sentences; ``mask`` is bool, shape (batch, length), 1 = a word."""
        mixed = self.attention(tokens, src_key_padding_mask=~mask)
        attended = mask[..., None].to(mixed)
        return self.head((mixed * attended).sum(1) / attended.sum(1))


class ClapNetwork(nn.Module):
    """Clips and sentences in one space of 256 dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.audio = AudioTower(EMBEDDING_WIDTH)
        self.text = TextHead()
        self.log_scale = nn.Parameter(torch.tensor(2.5))

    def embed_audio(self, log_mel: Tensor) -> Tensor:
        """L2-normalised (batch, 256) of log-mels (batch, 1, 1024, 64)."""
        return functional.normalize(self.audio(log_mel), dim=-1)

    def embed_text(self, sentences: Conditioning) -> Tensor:
        """L2-normalised (batch, 256) of MiniLM's states of sentences."""
        return functional.normalize(self.text(sentences.tokens[0], sentences.masks[0]), dim=-1)

    def forward(self, log_mel: Tensor, sentences: Conditioning) -> Tensor:
        """Scaled cosine similarities, shape (audio, text)."""
        similarity = self.embed_audio(log_mel) @ self.embed_text(sentences).T
        return similarity * self.log_scale.exp().clamp(max=50)


class Listener:
    """The classifier: it names sounds, and has heard recordings and foley but never an edit.

    Parameters
    ----------
    folder : Path
        Of ``model.safetensors`` and ``config.json``.

    Attributes
    ----------
    labels : list of str
        The sounds it knows, in the order of its outputs.
    """

    def __init__(self, folder: Path) -> None:
        self.network = AudioTower(len(LABELS))
        config = load_judge(self.network, folder)
        self.labels: list[str] = config["labels"]
        self.offsets = torch.tensor(config["offsets"])

    @torch.no_grad()
    def heard(self, clips: Sequence[Clip]) -> Tensor:
        """Probability that each sound is heard in each clip, float32, shape (clips, sounds).

        σ(logit − b), where b is the logit of a sound that 5 % of clips without it exceed: above 0.5
        the sound counts as heard.
        """
        logits = self.network(torch.cat([clip.log_mel() for clip in clips]))
        return (logits - self.offsets).sigmoid()

    def probability(self, clip: Clip, label: str) -> float:
        """Probability that one sound is heard in one clip."""
        return float(self.heard([clip])[0, self.labels.index(label)])
