"""Where a sound of a training scene is: in a small room, and so far away."""

import numpy as np
from scipy import signal

from helpers.audio import SAMPLE_RATE
from helpers.sounds.foley import _band_noise, _burst, _log_uniform, _ramps, _samples


def reverberate(
    waveform: np.ndarray, rng: np.random.Generator, decay: float | None = None
) -> np.ndarray:
    """Put a dry sound into a small random room.

    The room's response is the direct sound, a few early reflections and a noise tail that loses
    60 dB in `decay` seconds. Length and peak stay those of the input.

    Parameters
    ----------
    waveform : numpy.ndarray
        Shape (samples,), float32, 16 kHz.
    rng : numpy.random.Generator
        Draws the reflections, the tail and, unless given, its decay.
    decay : float, optional
        Reverberation time in seconds; drawn between 0.1 and 0.8 if left out.

    Returns
    -------
    numpy.ndarray
        Shape (samples,), float32.
    """
    decay = float(_log_uniform(rng, 0.1, 0.8)) if decay is None else decay
    n = _samples(decay)
    tail = _burst(rng, _band_noise(rng, n, 150, rng.uniform(2_000, 6_000)), decay / 6.9, n)
    response = rng.uniform(0.1, 0.6) * tail * _ramps(n, 0.02, 0.01) / np.linalg.norm(tail)
    reflections = rng.integers(_samples(0.002), _samples(0.03), rng.integers(3, 8))
    response[reflections] += rng.choice([-1, 1], len(reflections)) * rng.uniform(
        0.05, 0.3, len(reflections)
    )
    response[0] = 1.0
    wet = signal.oaconvolve(waveform, response)[: len(waveform)]
    return (wet * abs(waveform).max() / max(abs(wet).max(), 1e-9)).astype(np.float32)


def place_at_distance(waveform: np.ndarray, distance: float) -> np.ndarray:
    """Dull a sound as air and obstacles do: the farther away, the fewer high frequencies.

    A first-order low-pass at 8 kHz / (1 + distance / 15 m). Only the colour changes; how loud a
    sound is in a scene is for whoever mixes it.

    Parameters
    ----------
    waveform : numpy.ndarray
        Shape (samples,), float32, 16 kHz.
    distance : float
        Metres, not negative; at 0 the sound is returned as it is.

    Returns
    -------
    numpy.ndarray
        Shape (samples,), float32.

    Raises
    ------
    ValueError
        If the distance is negative.
    """
    if distance < 0:
        raise ValueError(f"A distance is 0 metres or more, not {distance}.")
    if distance == 0:
        return waveform.astype(np.float32)
    corner = SAMPLE_RATE / 2 / (1 + distance / 15)
    return signal.lfilter(*signal.butter(1, corner, fs=SAMPLE_RATE), waveform).astype(np.float32)
