"""What an edit keeps of its source besides its content: loudness over time, and the spectrum.

Both measures compare mel frames (10 ms apart) whose whole window of 64 ms lies in the recording
and, where a mask is given, in its kept part: a gap that was filled is not held against the edit.
"""

from __future__ import annotations

import librosa
import numpy as np

from helpers.audio import HOP_LENGTH, N_FFT, N_FRAMES, Clip

DYNAMIC_RANGE = 60.0  # dB below the source's loudest mel bin that still count
STEADY = 1e-3  # relative standard deviation of an envelope below which it has no shape


def envelope_correlation(source: Clip, edit: Clip, mask: np.ndarray | None = None) -> float | None:
    """Pearson's correlation of two amplitude envelopes (RMS per frame), −1…1.

    It does not depend on either clip's gain.

    Parameters
    ----------
    source, edit : Clip
        Of the same length.
    mask : np.ndarray, optional
        Bool, shape (samples,), 1 where the recording is kept
        (:func:`helpers.editing.inpainting.sample_mask`).

    Returns
    -------
    float or None
        None if one of the envelopes is steady, so that there is no shape to compare.

    Raises
    ------
    ValueError
        If the lengths differ, or the mask keeps no whole frame.
    """
    frames = kept_frames(source, edit, mask)
    envelopes = [_envelope(clip)[frames] for clip in (source, edit)]
    if any(envelope.std() <= STEADY * envelope.mean() for envelope in envelopes):
        return None
    return float(np.corrcoef(envelopes)[0, 1])


def log_spectral_distance(source: Clip, edit: Clip, mask: np.ndarray | None = None) -> float:
    """Log-spectral distance in dB: 0 for equal spectrograms.

    The root of the mean square over the 64 mel bins of the difference in level, averaged over
    frames.  Levels below 60 dB under the source's loudest bin count as that, so that faint noise
    in place of digital silence costs nothing.  A gain of ±g dB costs g, where levels are above that
    floor.

    Parameters
    ----------
    source, edit, mask
        As :func:`envelope_correlation`.

    Raises
    ------
    ValueError
        As :func:`envelope_correlation`.

    Lesson: 05.
    """
    frames = kept_frames(source, edit, mask)
    levels = [20 / np.log(10) * clip.log_mel()[0, 0].numpy()[frames] for clip in (source, edit)]
    floor = levels[0].max() - DYNAMIC_RANGE
    difference = np.maximum(levels[0], floor) - np.maximum(levels[1], floor)
    return float(np.sqrt((difference**2).mean(axis=1)).mean())


def kept_frames(source: Clip, edit: Clip, mask: np.ndarray | None = None) -> np.ndarray:
    """Which mel frames lie wholly in the recording and in its kept part, bool, shape (1024,).

    Raises
    ------
    ValueError
        If the lengths of clips and mask differ, or no frame is left.
    """
    length = len(source.waveform)
    mask = np.ones(length, dtype=bool) if mask is None else mask
    if not length == len(edit.waveform) == len(mask):
        raise ValueError(
            f"{source.name} has {length} samples, {edit.name} {len(edit.waveform)} and the mask "
            f"{len(mask)}: compare clips and a mask of one length."
        )
    around = np.pad(mask, N_FFT // 2)[: (N_FRAMES - 1) * HOP_LENGTH + N_FFT]
    windows = np.lib.stride_tricks.sliding_window_view(around, N_FFT)[::HOP_LENGTH]
    whole = np.all(windows, axis=1)
    frames = np.pad(whole, (0, N_FRAMES - len(whole)))
    if not frames.any():
        raise ValueError(
            f"The mask keeps no {N_FFT} samples of {source.name} together: keep a longer part."
        )
    return frames


def _envelope(clip: Clip) -> np.ndarray:
    """Root mean square of every frame's window, shape (1024,)."""
    rms = librosa.feature.rms(y=clip.padded, frame_length=N_FFT, hop_length=HOP_LENGTH)
    return rms[0, :N_FRAMES]
