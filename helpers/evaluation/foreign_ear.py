"""An ear that this project did not train: aiSFX, a network that sorts libraries of sound effects.

Ma and Lerch, *Representation Learning for the Automatic Indexing of Sound Effects Libraries* (ISMIR
2022), published weights under CC BY 4.0; ``data/aisfx`` holds its convolutions in half precision.
It needs no training here: what an edit sounds like is how near it lies to recordings of a sound
that neither pairs nor edits made by hand are taken from.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import librosa
import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from helpers.audio import SAMPLE_RATE, Clip, load_clip
from helpers.data import data_path, load_registry
from helpers.sounds import foley
from helpers.storage import content_hash

RATE = 44_100
WINDOW, HOP, BINS = 2_048, 1_024, 96
LARGEST = 9.457798957824707  # of log10(1 + 10⁴ · mel) over all that it was trained on
BLOCK, BLOCK_HOP = 100, 50  # frames: 2.3 s, and half of it
WIDTHS = (64, 128, 256, 512)
REFERENCES = 8  # recordings or pieces of foley of a sound
REFERENCE_SEED, REFERENCE_SECONDS = 9_900_000, 5.0


class EffectsNetwork(nn.Module):
    """From log-mels (blocks, 100, 96) to vectors (blocks, 512).

    Four blocks of two convolutions; all but the last halve both axes.  Then the mean over mel and
    the maximum over time.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width_in, width in zip((1, *WIDTHS), WIDTHS, strict=False):
            for size in (width_in, width):
                layers += [
                    nn.Conv2d(size, width, 3, padding=1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(),
                ]
            layers.append(nn.MaxPool2d(2))
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, log_mel: Tensor) -> Tensor:
        """Embed blocks."""
        return self.layers(log_mel[:, None]).mean(3).amax(2)


class ForeignEar:
    """aiSFX, and what it has heard of each sound.

    Parameters
    ----------
    folder : Path, optional
        Of ``model.safetensors``; ``data/aisfx`` by default.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.network = EffectsNetwork()
        weights = load_file((folder or data_path("aisfx")) / "model.safetensors")
        self.network.load_state_dict({name: value.float() for name, value in weights.items()})
        self.network.eval().requires_grad_(False)

    @property
    def weights(self) -> str:
        """SHA-256 of the contents of the network."""
        return content_hash(self.network)

    def blocks(self, waveform: np.ndarray) -> Tensor:
        """Embed each block of a waveform, float32, shape (blocks, 512).

        Parameters
        ----------
        waveform : np.ndarray
            float32, shape (samples,), at 44.1 kHz, of any level.  What is shorter than 2.3 s is
            filled up with silence; a last block that is not full is left out.
        """
        mel = librosa.feature.melspectrogram(
            y=waveform / (np.abs(waveform).max() or 1),
            sr=RATE,
            n_fft=WINDOW,
            hop_length=HOP,
            n_mels=BINS,
            norm=1,
            htk=True,
        )
        frames = torch.from_numpy(np.log10(1 + 1e4 * mel).T / LARGEST).float()
        missing = max(0, BLOCK - len(frames))
        frames = functional.pad(frames, (0, 0, 0, missing))
        return self.network(frames.unfold(0, BLOCK, BLOCK_HOP).transpose(1, 2))

    def embed(self, clips: Sequence[Clip]) -> Tensor:
        """L2-normalised mean embedding of each clip, float32, shape (clips, 512)."""
        means = []
        for clip in clips:
            waveform = librosa.resample(clip.waveform, orig_sr=SAMPLE_RATE, target_sr=RATE)
            means.append(self.blocks(waveform).mean(0))
        return functional.normalize(torch.stack(means), dim=-1)

    def preference(self, clips: Sequence[Clip], target: str, source: str) -> list[float]:
        """How much nearer each clip lies to one sound than to another, −2…2.

        Mean cosine to eight references of the target, less that to eight of the source.  References
        are recordings that the embedded model was trained on, or foley of other seeds, so that none
        is part of a pair or of an edit made by hand.

        Parameters
        ----------
        clips : sequence of Clip
        target, source : str
            Labels of the pocket vocabulary.
        """
        difference = references(target).mean(0) - references(source).mean(0)
        return (self.embed(clips) @ difference).tolist()


@cache
def load_foreign_ear() -> ForeignEar:
    """Load aiSFX from ``data/aisfx``."""
    return ForeignEar()


@cache
def references(label: str) -> Tensor:
    """Embeddings of eight references of a sound, float32, shape (8, 512)."""
    if label in foley.LABELS:
        seeds = range(REFERENCE_SEED, REFERENCE_SEED + REFERENCES)
        clips = [foley.foley_clip(label, seed, REFERENCE_SECONDS) for seed in seeds]
    else:
        registry = load_registry("esc10")
        recordings = registry.select(label=label, split="train")
        originals = {recording.info["source"]: recording for recording in recordings}
        chosen = list(originals.values())[:REFERENCES]
        clips = [load_clip(registry.fetch(recording)) for recording in chosen]
    return load_foreign_ear().embed(clips)
