"""A vocoder without weights: Griffin-Lim phase reconstruction, by librosa."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import librosa
import numpy as np
import torch
from torch import Tensor, nn

from helpers.audio import HOP_LENGTH, mel_filters

UPDATES = 10  # of the magnitudes
ROUNDS = 16  # of the phase


class GriffinLim(nn.Module):
    """Invert log-mels as a neural vocoder would, and as deterministically.

    The mel filters are inverted under the condition that magnitudes are not negative, the phase is
    found in 16 rounds of the fast Griffin-Lim algorithm from a fixed random start.
    """

    def forward(self, log_mel: Tensor) -> Tensor:
        """Waveforms (batch, 160 · frames), float32, of log-mels (batch, frames, 64)."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            waveforms = list(pool.map(_invert, log_mel.float().exp().cpu().numpy()))
        return torch.from_numpy(np.stack(waveforms)).to(log_mel.device)


def _invert(mel: np.ndarray) -> np.ndarray:
    waveform = librosa.griffinlim(
        invert_mel(mel.T), n_iter=ROUNDS, hop_length=HOP_LENGTH, random_state=0
    )
    return np.pad(waveform, (0, HOP_LENGTH * len(mel) - len(waveform))).astype(np.float32)


def invert_mel(mel: np.ndarray) -> np.ndarray:
    """Find magnitudes x ≥ 0, shape (513, frames), whose mel spectrogram F·x is near ``mel``.

    ``mel`` has the shape (64, frames) and is linear, not logarithmic.

    The pseudo-inverse, clipped at 0, then ten multiplicative updates x ← x · Fᵀm / FᵀFx (Lee and
    Seung, 2001), which never raise the squared error.  ``librosa.feature.inverse.mel_to_stft``
    takes many times as long to stay at the clipped pseudo-inverse.
    """
    filters, inverse = _filters()
    magnitude = np.maximum(inverse @ mel, 0)
    for _ in range(UPDATES):
        magnitude *= (filters.T @ mel) / (filters.T @ (filters @ magnitude) + np.float32(1e-12))
    return magnitude


@cache
def _filters() -> tuple[np.ndarray, np.ndarray]:
    filters = mel_filters().numpy()
    return filters, np.linalg.pinv(filters)
