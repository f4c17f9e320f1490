"""Filling a gap in a recording (Sec. 3.1): a mask in time, and the observed part put back.

The loss of Steps 1 and 2 leaves the gap out, or they would learn its silence.  Only the generated
part that fills the gap is used: outside it the result is the recording, sample by sample.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from helpers.audio import CLIP_SAMPLES, SAMPLE_RATE, Clip


class MaskError(ValueError):
    """A gap that does not fit the recording; the message says why and what to do."""


@dataclass(frozen=True)
class Gap:
    """The part of a recording to be filled, from ``start`` to ``end`` in seconds.

    Lesson: 05.
    """

    start: float
    end: float

    def samples(self, clip: Clip) -> slice:
        """Which samples of the clip it covers.

        Raises
        ------
        MaskError
            If it reaches outside the clip, is empty, or leaves nothing of it.
        """
        if not 0 <= self.start < self.end <= clip.seconds:
            raise MaskError(
                f"The gap from {self.start:g} to {self.end:g} s does not lie in {clip.name}, which "
                f"lasts {clip.seconds:.2f} s: choose 0 ≤ start < end ≤ {clip.seconds:.2f}."
            )
        part = slice(round(self.start * SAMPLE_RATE), round(self.end * SAMPLE_RATE))
        if part.start == part.stop:
            raise MaskError("The gap is shorter than one sample: make it longer.")
        if part.stop - part.start == len(clip.waveform):
            raise MaskError(f"The gap covers all of {clip.name}: leave some of it to build on.")
        return part


def sample_mask(clip: Clip, gap: Gap) -> np.ndarray:
    """Bool, shape (samples,), 1 where the recording is kept; raises as :meth:`Gap.samples`.

    Lesson: 05.
    """
    mask = np.ones(len(clip.waveform), dtype=bool)
    mask[gap.samples(clip)] = False
    return mask


def latent_mask(clip: Clip, gap: Gap, latent_frames: int) -> Tensor:
    """Where the latent knows nothing of the gap.

    Returns
    -------
    torch.Tensor
        float32, shape (1, 1, latent_frames, 1).  0 at every latent frame the gap touches and at
        one more on either side, because an STFT window and the autoencoder's receptive field reach
        beyond a frame.

    Raises
    ------
    MaskError
        As :meth:`Gap.samples`, and if no frame is left.

    Lesson: 05.
    """
    part = gap.samples(clip)
    samples_per_frame = CLIP_SAMPLES // latent_frames
    first = part.start // samples_per_frame - 1
    last = (part.stop - 1) // samples_per_frame + 1
    frames = torch.arange(latent_frames)
    mask = (frames < first) | (frames > last)
    recorded = -(-len(clip.waveform) // samples_per_frame)
    if not mask[:recorded].any():
        raise MaskError(f"The gap leaves too little of {clip.name} to build on: make it shorter.")
    return mask.float()[None, None, :, None]


def blank(clip: Clip, gap: Gap) -> Clip:
    """Return the clip with silence in the gap; raises as :meth:`Gap.samples`.

    Lesson: 05.
    """
    return Clip(clip.waveform * sample_mask(clip, gap), clip.name)


def paste(source: Clip, generated: Clip, gap: Gap, crossfade_seconds: float = 0.02) -> Clip:
    """Fill the gap of ``source`` with the same stretch of ``generated``.

    Outside the gap every sample is the source's.  At each edge, and inside the gap, an equal-gain
    crossfade leads from the observed sound, continued by its mirror image, to the generated one;
    what the source holds inside the gap is not used.  Levels are left as they are, since both
    come from the same normalised recording.

    Parameters
    ----------
    source, generated : Clip
        Of the same length.
    gap : Gap
    crossfade_seconds : float
        Shortened where the gap or the observed sound beside it is shorter.

    Raises
    ------
    MaskError
        As :meth:`Gap.samples`.

    Lesson: 05.
    """
    part = gap.samples(source)
    observed = source.waveform
    filling = generated.waveform[part].copy()
    longest = min(round(crossfade_seconds * SAMPLE_RATE), len(filling) // 2)
    _fade_in(filling, observed[: part.start][::-1][:longest])
    _fade_in(filling[::-1], observed[part.stop :][:longest])
    waveform = observed.copy()
    waveform[part] = filling
    return Clip(waveform, generated.name)


def _fade_in(filling: np.ndarray, neighbour: np.ndarray) -> None:
    """Crossfade the beginning of ``filling`` in place; ``neighbour[0]`` is nearest to it."""
    length = len(neighbour)
    weight = ((np.arange(length) + 0.5) / max(length, 1)).astype(np.float32)
    filling[:length] = weight * filling[:length] + (1 - weight) * neighbour
