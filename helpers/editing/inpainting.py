"""Filling a gap in a recording (Sec. 3.1): a mask in time, and the observed part put back.

The loss of Steps 1 and 2 leaves the gap out, or they would learn its silence.  Only the generated
part that fills the gap is used: outside it the result is the recording, sample by sample.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from helpers.audio import CLIP_SECONDS, SAMPLE_RATE, Clip, Sound
from helpers.models.latent_audio_model import LatentAudioModel


class MaskError(ValueError):
    """A gap that does not fit the recording; the message says why and what to do."""


@dataclass(frozen=True)
class Gap:
    """The part of a recording to be filled, from ``start`` to ``end`` in seconds.

    Lesson: 05.
    """

    start: float
    end: float

    def samples(self, clip: Clip, sample_rate: int = SAMPLE_RATE) -> slice:
        """Which samples of the clip it covers, at a rate in Hz.

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
        part = slice(round(self.start * sample_rate), round(self.end * sample_rate))
        if part.start == part.stop:
            raise MaskError("The gap is shorter than one sample: make it longer.")
        if part.stop - part.start == clip.samples_at(sample_rate):
            raise MaskError(f"The gap covers all of {clip.name}: leave some of it to build on.")
        return part


def sample_mask(clip: Clip, gap: Gap) -> np.ndarray:
    """Bool, shape (samples,), 1 where the recording is kept; raises as :meth:`Gap.samples`.

    Lesson: 05.
    """
    mask = np.ones(len(clip.waveform), dtype=bool)
    mask[gap.samples(clip)] = False
    return mask


def latent_mask(
    clip: Clip, gap: Gap, latent_frames: int, frame_seconds: float | None = None
) -> Tensor:
    """Where the latent knows nothing of the gap.

    Parameters
    ----------
    clip : Clip
    gap : Gap
    latent_frames : int
    frame_seconds : float, optional
        How long one of them lasts; by default all of them are 10.24 s.

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
    frame_seconds = frame_seconds or CLIP_SECONDS / latent_frames
    samples_per_frame = round(SAMPLE_RATE * frame_seconds, 6)
    first = part.start // samples_per_frame - 1
    last = (part.stop - 1) // samples_per_frame + 1
    frames = torch.arange(latent_frames)
    mask = (frames < first) | (frames > last)
    recorded = math.ceil(len(clip.waveform) / samples_per_frame)
    if not mask[:recorded].any():
        raise MaskError(f"The gap leaves too little of {clip.name} to build on: make it shorter.")
    return mask.float()[None, None, :, None]


def known_mask(model: LatentAudioModel, clip: Clip, gap: Gap | None) -> Tensor | None:
    """Where a latent is the recording's, 1, and where not: in the gap, and behind the clip's end.

    Behind the end is what most models take for silence that belongs to the recording; those that
    are told how long a clip is do not.

    Returns
    -------
    torch.Tensor or None
        float32, (1, 1, time, 1), or (1, 1, time) for a latent without a mel axis; None if all of it
        is the recording's.

    Raises
    ------
    MaskError
        As :func:`latent_mask`.

    Lesson: 05.
    """
    frames = model.latent_shape[1]
    mask = torch.ones(frames)
    if gap is not None:
        mask = latent_mask(clip, gap, frames, model.frame_seconds).flatten()
    if model.timing is not None:
        mask = mask * (torch.arange(frames) * model.frame_seconds < clip.seconds)
    return None if mask.all() else mask.reshape(1, 1, -1, *[1] * (len(model.latent_shape) - 2))


def blank(clip: Clip, gap: Gap) -> Clip:
    """Return the clip with silence in the gap; raises as :meth:`Gap.samples`.

    Lesson: 05.
    """
    recording = clip.recording
    if recording is not None:
        samples = recording.samples.copy()
        samples[gap.samples(clip, recording.sample_rate)] = 0
        recording = Sound(samples, recording.sample_rate)
    return Clip(clip.waveform * sample_mask(clip, gap), clip.name, recording)


def paste(source: Clip, generated: Clip, gap: Gap, crossfade_seconds: float = 0.02) -> Clip:
    """Fill the gap of ``source`` with the same stretch of ``generated``.

    Outside the gap every sample is the source's.  At each edge, and inside the gap, an equal-gain
    crossfade leads from the observed sound, continued by its mirror image, to the generated one;
    what the source holds inside the gap is not used.  Levels are left as they are, since both
    come from the same normalised recording; rate and channels are those of ``generated``.

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
    samples, sample_rate = generated.sound
    part = gap.samples(source, sample_rate)
    observed = source.take(sample_rate, samples.shape[1])
    filling = samples[part].copy()
    longest = min(round(crossfade_seconds * sample_rate), len(filling) // 2)
    _fade_in(filling, observed[: part.start][::-1][:longest])
    _fade_in(filling[::-1], observed[part.stop :][:longest])
    pasted = observed.copy()
    pasted[part] = filling
    return Clip.made(Sound(pasted, sample_rate), generated.name, source)


def _fade_in(filling: np.ndarray, neighbour: np.ndarray) -> None:
    """Crossfade the beginning of ``filling`` in place; ``neighbour[0]`` is nearest to it."""
    length = len(neighbour)
    weight = ((np.arange(length) + 0.5) / max(length, 1)).astype(np.float32)[:, None]
    filling[:length] = weight * filling[:length] + (1 - weight) * neighbour
