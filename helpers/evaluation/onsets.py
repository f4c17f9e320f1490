"""When sounds start and end: what the CLAP scores do not hear (Sec. 4.2 of the paper).

Times found in an edit are compared with those found in its source, or with the true ones where the
source was synthesised.  Two times match if they lie near enough to each other, each with one other
at most; the score is the F-measure of the best matching (mir_eval).
"""

from __future__ import annotations

from itertools import pairwise

import librosa
import mir_eval
import numpy as np

from helpers.audio import HOP_LENGTH, LOG_FLOOR, N_FRAMES, SAMPLE_RATE, Clip

TOLERANCE_SECONDS = 0.05
OFFSET_TOLERANCE_RATIO = 0.2  # of an event's duration, where that is more
OFFSET_DROP = 25.0  # dB below an event's loudest frame at which it counts as over
LEVEL_WINDOW = 320  # samples, 20 ms


def detect_onsets(clip: Clip) -> np.ndarray:
    """Onset times of a clip in seconds, sorted, by librosa's peak picking on the log-mel flux.

    Lesson: 06.
    """
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


def detect_events(clip: Clip) -> np.ndarray:
    """Onset and offset times of a clip in seconds, shape (events, 2), sorted.

    An event begins at each of :func:`detect_onsets`.  It ends where its level (RMS over 20 ms)
    first lies 25 dB below its loudest frame, after that frame, or else where the next event begins
    or the recording ends.
    """
    rms = librosa.feature.rms(y=clip.padded, frame_length=LEVEL_WINDOW, hop_length=HOP_LENGTH)
    level = librosa.amplitude_to_db(rms[0, :N_FRAMES], ref=1.0, top_db=None)
    onsets = librosa.time_to_frames(detect_onsets(clip), sr=SAMPLE_RATE, hop_length=HOP_LENGTH)
    onsets = onsets[onsets < clip.frames]  # the recording's own end can look like an onset
    events = []
    for onset, end in pairwise([*onsets, clip.frames]):
        loudest = onset + level[onset:end].argmax()
        over = np.flatnonzero(level[loudest:end] < level[loudest] - OFFSET_DROP)
        events.append((onset, loudest + over[0] if len(over) else end))
    return np.reshape(events, (-1, 2)) * (HOP_LENGTH / SAMPLE_RATE)


def onset_f1(reference: np.ndarray, estimated: np.ndarray) -> float:
    """F-measure of estimated onsets within ±50 ms of reference ones, 0…1 (mir_eval).

    Both are times in seconds, sorted.  Two empty lists agree (1.0).

    Lesson: 06.
    """
    if len(reference) == 0 and len(estimated) == 0:
        return 1.0
    if len(reference) == 0 or len(estimated) == 0:
        return 0.0
    return mir_eval.onset.f_measure(reference, estimated, window=TOLERANCE_SECONDS)[0]


def offset_f1(reference: np.ndarray, estimated: np.ndarray) -> float:
    """F-measure of estimated offsets near reference ones, 0…1 (mir_eval).

    Near is within ±50 ms, or ±20 % of the reference event's duration where that is more.  Onsets
    do not count.

    Parameters
    ----------
    reference, estimated : np.ndarray
        Onset and offset times in seconds, shape (events, 2), as :func:`detect_events` gives them.
        Two empty ones agree (1.0).
    """
    if len(reference) == 0 and len(estimated) == 0:
        return 1.0
    if len(reference) == 0 or len(estimated) == 0:
        return 0.0
    return mir_eval.transcription.offset_precision_recall_f1(
        reference,
        estimated,
        offset_ratio=OFFSET_TOLERANCE_RATIO,
        offset_min_tolerance=TOLERANCE_SECONDS,
    )[2]
