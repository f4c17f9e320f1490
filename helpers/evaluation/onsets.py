"""When sounds start: what the CLAP scores do not hear (Sec. 4.2 of the paper)."""

from __future__ import annotations

import librosa
import mir_eval
import numpy as np

from helpers.audio import HOP_LENGTH, LOG_FLOOR, SAMPLE_RATE, Clip

TOLERANCE_SECONDS = 0.05


def detect_onsets(clip: Clip) -> np.ndarray:
    """Onset times of a clip in seconds, sorted, by librosa's peak picking on the log-mel flux."""
    log_mel = clip.log_mel()[0, 0].numpy().T
    decibels = np.maximum(log_mel, LOG_FLOOR + 2) * (20 / np.log(10))
    strength = librosa.onset.onset_strength(S=decibels, sr=SAMPLE_RATE, hop_length=HOP_LENGTH)
    return librosa.onset.onset_detect(
        onset_envelope=strength,
        sr=SAMPLE_RATE,
        hop_length=HOP_LENGTH,
        units="time",
        delta=0.12,
        wait=5,
    )


def onset_f1(reference: np.ndarray, estimated: np.ndarray) -> float:
    """F-measure of estimated onsets within ±50 ms of reference ones, 0…1 (mir_eval).

    Both are times in seconds, sorted.  Two empty lists agree (1.0).
    """
    if len(reference) == 0 and len(estimated) == 0:
        return 1.0
    if len(reference) == 0 or len(estimated) == 0:
        return 0.0
    return mir_eval.onset.f_measure(reference, estimated, window=TOLERANCE_SECONDS)[0]
