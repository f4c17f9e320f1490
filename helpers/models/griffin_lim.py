"""A vocoder without weights: Griffin-Lim phase reconstruction, by librosa."""

from __future__ import annotations

import librosa
import numpy as np
import torch
from torch import Tensor, nn

from helpers.audio import HOP_LENGTH, N_FFT, SAMPLE_RATE


class GriffinLim(nn.Module):
    """Invert log-mels as a neural vocoder would, and as deterministically.

    The mel filters are inverted by non-negative least squares, the phase is found in 32 rounds of
    the fast Griffin-Lim algorithm from a fixed random start.
    """

    def forward(self, log_mel: Tensor) -> Tensor:
        """Waveforms (batch, 160 · frames), float32, of log-mels (batch, frames, 64)."""
        waveforms = np.stack([_invert(item) for item in log_mel.float().exp().cpu().numpy()])
        return torch.from_numpy(waveforms).to(log_mel.device)


def _invert(mel: np.ndarray) -> np.ndarray:
    magnitude = librosa.feature.inverse.mel_to_stft(mel.T, sr=SAMPLE_RATE, n_fft=N_FFT, power=1.0)
    waveform = librosa.griffinlim(magnitude, n_iter=32, hop_length=HOP_LENGTH, random_state=0)
    return np.pad(waveform, (0, HOP_LENGTH * len(mel) - len(waveform))).astype(np.float32)
