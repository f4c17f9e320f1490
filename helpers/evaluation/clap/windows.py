"""What the published CLAP models hear of a clip: fixed windows at their own rate.

Each takes a window of one length (10.0 s at 48 kHz, for LAION's).  Of a longer clip their own code
takes a random part, so that 10.24 s score differently on every call.  Here a longer clip is covered
by the fewest windows that reach from its beginning to its end, evenly spaced and overlapping, and
its projection is the mean of theirs, normalised again.  Nothing is drawn at random.

Clips are at 16 kHz, so what a model hears at 48 or 44.1 kHz is empty above 8 kHz, as if through a
low-pass filter, where its training data was not.  That is so for the sources and for the edits of
every method alike: their scores compare with one another, not with scores of full-band recordings.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import librosa
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from helpers.audio import SAMPLE_RATE, Clip
from helpers.evaluation.clap import Clap

BATCH_SIZE = 8  # windows


class WindowedClap(Clap):
    """A CLAP model that takes one window length.

    Attributes
    ----------
    sample_rate : int
        Of the model, in Hz.
    window : int
        Samples that it takes at that rate.
    """

    sample_rate: int
    window: int

    @abstractmethod
    def embed_windows(self, windows: Sequence[np.ndarray]) -> Tensor:
        """Projections, shape (windows, width), of waveforms of at most :attr:`window` samples.

        A shorter one is filled up as the model's own code does it.
        """

    @torch.no_grad()
    def embed_audio(self, clips: Sequence[Clip]) -> Tensor:
        """Projections of recordings: means over their windows; see :meth:`Clap.embed_audio`."""
        cut = [fixed_windows(resampled(clip, self.sample_rate), self.window) for clip in clips]
        windows = [window for part in cut for window in part]
        batches = [windows[i : i + BATCH_SIZE] for i in range(0, len(windows), BATCH_SIZE)]
        projections = torch.cat([self.embed_windows(batch).float().cpu() for batch in batches])
        parts = functional.normalize(projections, dim=-1).split([len(part) for part in cut])
        return functional.normalize(torch.stack([part.mean(0) for part in parts]), dim=-1)


def resampled(clip: Clip, sample_rate: int) -> np.ndarray:
    """Waveform of a clip at another rate, float32."""
    return librosa.resample(clip.waveform, orig_sr=SAMPLE_RATE, target_sr=sample_rate)


def fixed_windows(waveform: np.ndarray, length: int) -> list[np.ndarray]:
    """Cut a waveform into the fewest windows of ``length`` samples that cover it, evenly spaced.

    The first begins with the waveform and the last ends with it.  10.24 s at 48 kHz (491,520
    samples) in windows of 480,000 make two, which begin at 0 and 11,520.  A waveform that is not
    longer than a window is returned as the only one, as it is.

    Lesson: 06.
    """
    count = max(1, -(-len(waveform) // length))
    starts = np.linspace(0, max(0, len(waveform) - length), count).round().astype(int)
    return [waveform[start : start + length] for start in starts]
