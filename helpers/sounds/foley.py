"""Procedural foley: sixteen everyday sounds made from numbers alone.

Nearly every sound is one of three physical ideas, and each idea is one building block:

* something **struck** rings with damped modes (`_modes`), excited by a short click (`_burst`);
* something **blown or buzzing** is a harmonic series with a running phase (`_tone`);
* something **rushing** is noise in a band (`_band_noise`) whose level drifts (`_drift`).

A class draws its own pitch, rate, timbre and amount once per clip, then varies level and timing
from hit to hit. All randomness comes from the generator that is passed in.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import fft, signal

from helpers.audio import SAMPLE_RATE, Clip

HIGHEST_PARTIAL = 7_800.0  # Hz: nothing is placed between here and the Nyquist frequency
SHORTEST, LONGEST = 0.5, 10.24  # seconds
LAST_START = 0.1  # seconds: no hit starts nearer to the end of the clip than this
AUDIBLE = 0.03  # share of a hit's peak below which it counts as over

FLOORS = {"wood": (90, 420, 0.03), "gravel": (60, 150, 0.02), "concrete": (900, 3_500, 0.006)}

Layers = tuple[np.ndarray, np.ndarray, np.ndarray]  # waveform, onsets, offsets


@dataclass(frozen=True)
class FoleyEvent:
    """One synthesised sound and where its hits lie.

    Attributes
    ----------
    label : str
        One of `LABELS`.
    waveform : numpy.ndarray
        Shape (samples,), float32, 16 kHz, peak 1.0.
    onsets, offsets : numpy.ndarray
        Shape (hits,), float64, seconds, each sorted. A continuous sound has one of each.
    """

    label: str
    waveform: np.ndarray
    onsets: np.ndarray
    offsets: np.ndarray


# ---------------------------------------------------------------- building blocks


def _samples(seconds: float) -> int:
    return max(1, round(seconds * SAMPLE_RATE))


def _seconds(n: int) -> np.ndarray:
    return np.arange(n) / SAMPLE_RATE


def _log_uniform(rng: np.random.Generator, low: float, high: float, size=None):
    return np.exp(rng.uniform(np.log(low), np.log(high), size))


def _phase(frequency: np.ndarray) -> np.ndarray:
    """Phase in radians of a frequency that changes from sample to sample."""
    return 2 * np.pi * np.cumsum(frequency) / SAMPLE_RATE


def _modes(frequencies, taus, gains, n: int) -> np.ndarray:
    """Sum of damped sines: one matrix product of coarse and fine steps of each exponential."""
    frequencies, taus, gains = np.broadcast_arrays(frequencies, taus, gains)
    rates = (2j * np.pi * frequencies - 1 / taus) / SAMPLE_RATE
    block = int(np.ceil(np.sqrt(n)))
    coarse = np.exp(np.outer(np.arange(-(-n // block)) * block, rates))
    coarse *= gains * (frequencies < HIGHEST_PARTIAL)
    fine = np.exp(np.outer(rates, np.arange(block)))
    return np.imag(coarse @ fine).ravel()[:n]


def _tone(frequency: np.ndarray, brightness) -> np.ndarray:
    """Band-limited harmonic tone whose k-th partial has amplitude brightness**(k − 1).

    The finite geometric series Σ wᵏ with w = brightness·exp(iφ), summed in closed form.
    """
    phase = _phase(frequency)
    partials = np.maximum(1, np.floor(HIGHEST_PARTIAL / frequency))
    w = brightness * np.exp(1j * phase)
    last = brightness ** (partials + 1) * np.exp(1j * phase * (partials + 1))
    return ((w - last) / (1 - w)).imag / brightness


def _band_noise(rng: np.random.Generator, n: int, low: float, high: float) -> np.ndarray:
    """Gaussian noise, unit variance, between two gentle corners in Hz (12 dB per octave)."""
    length = fft.next_fast_len(n, real=True)
    frequencies = np.maximum(np.arange(length // 2 + 1) * SAMPLE_RATE / length, 1.0)
    gain = 1 / ((1 + (low / frequencies) ** 2) * (1 + (frequencies / high) ** 2))
    spectrum = gain * rng.standard_normal((2, len(gain))).T.copy().view(complex)[:, 0]
    noise = fft.irfft(spectrum, length)[:n]
    return noise / noise.std()


def _burst(rng: np.random.Generator, noise: np.ndarray, tau: float, n: int) -> np.ndarray:
    """Take a random stretch of `noise` and let it die away with time constant `tau` seconds."""
    start = rng.integers(0, len(noise) - n + 1)
    return noise[start : start + n] * np.exp(-_seconds(n) / tau)


def _drift(rng: np.random.Generator, n: int, per_second: float, low: float, high: float):
    """Slow random curve between `low` and `high`, with `per_second` turning points."""
    knots = rng.uniform(low, high, int(n / SAMPLE_RATE * per_second) + 3)
    position = _seconds(n) * per_second
    index = position.astype(int)
    blend = (1 - np.cos(np.pi * (position - index))) / 2
    return knots[index] * (1 - blend) + knots[index + 1] * blend


def _ramps(n: int, attack: float, release: float) -> np.ndarray:
    """Envelope with raised-cosine ramps of `attack` and `release` seconds at its ends."""
    time, rest = _seconds(n), _seconds(n)[::-1]
    rise = np.sin(np.pi / 2 * np.minimum(1, time / attack))
    fall = np.sin(np.pi / 2 * np.minimum(1, rest / release))
    return (rise * fall) ** 2


def _resonate(source: np.ndarray, centres, widths, gains) -> np.ndarray:
    """Pass `source` through parallel two-pole resonators (Hz, Hz, linear gain)."""
    passed = [
        gain * signal.lfilter(*signal.iirpeak(centre, centre / width, fs=SAMPLE_RATE), source)
        for centre, width, gain in zip(centres, widths, gains, strict=True)
    ]
    return sum(passed, start=np.zeros(len(source)))


def _scatter(n: int, onsets: Iterable[float], sounds: Iterable[np.ndarray]) -> np.ndarray:
    """Add each sound at its onset (seconds) into a clip of `n` samples."""
    clip = np.zeros(n)
    for onset, sound in zip(onsets, sounds, strict=True):
        start = int(onset * SAMPLE_RATE)
        piece = sound[: max(0, n - start)]
        clip[start : start + len(piece)] += piece
    return clip


def _lay(seconds: float, onsets: ArrayLike, sounds: Sequence[np.ndarray]) -> Layers:
    """Lay hits into a clip and read off where each one stops being audible."""
    lengths = [np.flatnonzero(abs(s) >= AUDIBLE * abs(s).max())[-1] + 1 for s in sounds]
    starts = np.asarray(onsets, dtype=np.float64)
    offsets = np.minimum(starts + np.array(lengths) / SAMPLE_RATE, seconds)
    return _scatter(_samples(seconds), starts, sounds), starts, np.maximum.accumulate(offsets)


def _start(rng: np.random.Generator) -> float:
    return rng.uniform(0.01, 0.12)


def _spaced(rng: np.random.Generator, seconds: float, gaps: np.ndarray) -> np.ndarray:
    """Onsets that are `gaps` seconds apart, as far as the clip goes."""
    return _within(seconds, _start(rng) + np.concatenate([[0.0], np.cumsum(gaps)]))


def _within(seconds: float, onsets: np.ndarray) -> np.ndarray:
    return onsets[onsets < seconds - LAST_START]


def _times(rng: np.random.Generator, seconds: float, low: float, high: float) -> np.ndarray:
    """Onsets whose gaps are drawn between `low` and `high` seconds."""
    return _spaced(rng, seconds, rng.uniform(low, high, int(seconds / low) + 1))


def _groups(rng, seconds: float, sizes, gap, pause, jitter=0.1) -> np.ndarray:
    """Onsets in groups: `sizes` hits (low, high) a `gap` apart, groups a `pause` apart."""
    step, onsets, time = rng.uniform(*gap), [], _start(rng)
    while time < seconds - LAST_START:
        gaps = step * rng.uniform(1 - jitter, 1 + jitter, rng.integers(sizes[0], sizes[1] + 1))
        onsets.extend(time + np.concatenate([[0.0], np.cumsum(gaps[1:])]))
        time = onsets[-1] + rng.uniform(*pause)
    return _within(seconds, np.array(onsets))


def _continuous(rng: np.random.Generator, seconds: float) -> tuple[float, int]:
    """Start (seconds) and number of samples of one sound that fills the clip."""
    start = _start(rng)
    return start, _samples((seconds - start) * rng.uniform(0.92, 1.0))


def _tune(rng, seconds: float, beat: float, low: float, high: float):
    """Onsets, durations (seconds) and pitches (Hz) of a random walk on a major pentatonic."""
    semitones = np.add.outer(12 * np.arange(6), [0, 2, 4, 7, 9]).ravel()
    pitches = low * 2 ** (semitones / 12)
    pitches = pitches[pitches <= high]
    durations = beat * rng.choice([1, 1, 1, 2, 2, 3, 4], int(seconds / beat) + 1)
    onsets = _spaced(rng, seconds, durations[:-1])
    steps = rng.integers(len(pitches)) + np.cumsum(rng.choice([-2, -1, 1, 2, 3], len(onsets)))
    place = abs((steps + len(pitches)) % (2 * len(pitches)) - len(pitches) + 0.5)  # fold back
    return onsets, durations[: len(onsets)], pitches[place.astype(int)]


# ---------------------------------------------------------------- struck


def _gunshot(rng: np.random.Generator, seconds: float) -> Layers:
    if rng.random() < 0.6:
        onsets = _times(rng, seconds, 0.7, 2.4)
    else:
        onsets = _groups(rng, seconds, (2, 6), (0.08, 0.16), (1.0, 2.2))
    n = _samples(rng.uniform(0.8, 1.6))
    crack = _band_noise(rng, n + SAMPLE_RATE, 700, 9_000)
    body = _band_noise(rng, n + SAMPLE_RATE, 60, rng.uniform(350, 900))
    tail = _band_noise(rng, n + SAMPLE_RATE, 150, rng.uniform(700, 2_000))
    crack_tau, body_tau = rng.uniform(0.006, 0.02), rng.uniform(0.03, 0.09)
    tail_tau, tail_level = rng.uniform(0.15, 0.45), rng.uniform(0.06, 0.25)
    thump = rng.uniform(45, 110)

    def shot() -> np.ndarray:
        boom = _modes(thump * np.array([1, 1.7]), 0.06, [1.2, 0.8], n)
        blast = 1.4 * _burst(rng, crack, crack_tau, n) + _burst(rng, body, body_tau, n) + boom
        rumble = tail_level * _burst(rng, tail, tail_tau, n) * _ramps(n, 0.02, 0.2)
        return rng.uniform(0.7, 1.0) * (np.tanh(0.8 * blast) + rumble)

    return _lay(seconds, onsets, [shot() for _ in onsets])


def _church_bell(rng: np.random.Generator, seconds: float) -> Layers:
    # hum, prime, tierce, quint, nominal, then the upper partials of a tuned bell
    ratios = np.array([0.5, 1, 1.2, 1.5, 2, 2.52, 2.67, 3.01, 4.17, 5.43, 6.8])
    gains = np.array([0.5, 0.7, 0.8, 0.35, 1, 0.3, 0.35, 0.5, 0.35, 0.25, 0.15])
    taus = np.array([4, 2.2, 1.8, 1.3, 1.1, 0.7, 0.7, 0.55, 0.35, 0.25, 0.18])
    period = rng.uniform(1.0, 3.0)
    onsets = _times(rng, seconds, 0.96 * period, 1.04 * period)
    clapper = _band_noise(rng, SAMPLE_RATE, 800, 5_000)
    n = _samples(seconds)

    def bell(prime: float) -> np.ndarray:
        frequencies = prime * ratios * rng.uniform(0.99, 1.01, len(ratios))
        beating = frequencies + rng.uniform(0.2, 1.5, len(ratios))
        levels = gains * rng.uniform(0.5, 1.5, len(ratios))
        ring = taus * rng.uniform(0.7, 1.3) * (300 / prime) ** 0.4
        pair = np.concatenate([frequencies, beating])
        return _modes(pair, np.tile(ring, 2), np.concatenate([levels, 0.4 * levels]), n)

    tuning = _log_uniform(rng, 180, 650) * rng.choice([1, 4 / 5, 3 / 4, 2 / 3], rng.integers(1, 3))
    peal = [bell(prime) for prime in tuning]

    def strike(index: int) -> np.ndarray:
        sound = rng.uniform(0.75, 1.0) * peal[index % len(peal)]
        sound[:2_000] += 0.6 * _burst(rng, clapper, 0.008, 2_000)[:n]
        return sound

    return _lay(seconds, onsets, [*map(strike, range(len(onsets)))])


def _door_knock(rng: np.random.Generator, seconds: float) -> Layers:
    onsets = _groups(rng, seconds, (2, 5), (0.14, 0.32), (0.6, 1.5), jitter=0.12)
    panel = np.sort(_log_uniform(rng, 150, 900, 6))
    taus = rng.uniform(0.015, 0.045) * (300 / panel) ** 0.5
    knuckle = _band_noise(rng, SAMPLE_RATE, 300, rng.uniform(900, 2_200))
    n = _samples(0.25)

    def knock() -> np.ndarray:
        wood = _modes(panel * rng.uniform(0.99, 1.01), taus, rng.uniform(0.3, 1, 6), n)
        return rng.uniform(0.6, 1.0) * (wood + 0.7 * _burst(rng, knuckle, 0.004, n))

    return _lay(seconds, onsets, [knock() for _ in onsets])


def _typing(rng: np.random.Generator, seconds: float) -> Layers:
    onsets = _groups(rng, seconds, (3, 9), (1 / 12, 1 / 5), (0.2, 0.55), jitter=0.45)
    click = _band_noise(rng, SAMPLE_RATE, rng.uniform(1_500, 3_000), rng.uniform(5_000, 7_500))
    thud = _band_noise(rng, SAMPLE_RATE, 150, 500)
    plastic = _log_uniform(rng, 1_300, 6_500, 4)
    thud_level, release_level = rng.uniform(0.1, 0.4), rng.uniform(0.15, 0.4)
    n, short = _samples(0.14), _samples(0.03)

    def key() -> np.ndarray:
        sound = np.zeros(n)
        space_bar = rng.random() < 0.15
        weight = 3 * thud_level if space_bar else thud_level
        colour = plastic * (0.6 if space_bar else rng.uniform(0.9, 1.1))
        sound[:short] = 0.8 * _burst(rng, click, 0.0035, short)
        sound[:short] += _modes(colour, 0.004, rng.uniform(0, 0.8, 4), short)
        sound[:short] += weight * _burst(rng, thud, 0.01, short)
        lift = _samples(rng.uniform(0.05, 0.1))
        sound[lift : lift + short] += release_level * _burst(rng, click, 0.0025, short)
        return rng.uniform(0.35, 1.0) * sound

    return _lay(seconds, onsets, [key() for _ in onsets])


def _footsteps(rng: np.random.Generator, seconds: float) -> Layers:
    period = 1 / rng.uniform(1.4, 2.4)
    onsets = _times(rng, seconds, 0.94 * period, 1.06 * period)
    floor = rng.choice(list(FLOORS))
    low, high, tau = FLOORS[floor]
    thud = _band_noise(rng, SAMPLE_RATE, 40, rng.uniform(90, 220))
    scrape = _band_noise(rng, SAMPLE_RATE, rng.uniform(600, 1_500), rng.uniform(3_000, 7_000))
    ring = _log_uniform(rng, low, high, 5)
    roll, toe_level = rng.uniform(0.06, 0.13), rng.uniform(0.3, 0.7)
    limp = rng.uniform(0.65, 1.0)
    n = _samples(0.3)

    def contact(level: float) -> np.ndarray:
        sound = _burst(rng, thud, 0.03, n) + _modes(ring, tau, rng.uniform(0.2, 0.8, 5), n)
        if floor == "gravel":
            grit = np.zeros(n)
            stones = rng.integers(0, _samples(rng.uniform(0.1, 0.18)), 45)
            grit[np.append(stones, 0)] = rng.exponential(1.0, 46)
            crunch = signal.lfilter([1], [1, -np.exp(-1 / (0.004 * SAMPLE_RATE))], grit)
            sound = 0.6 * sound + 0.8 * crunch * _burst(rng, scrape, 1.0, n)
        return level * (sound + 0.35 * _burst(rng, scrape, 0.012, n))

    def step(index: int) -> np.ndarray:
        heel_and_toe = _scatter(n, [0, roll], [contact(1.0), contact(toe_level)])
        return heel_and_toe * rng.uniform(0.8, 1.0) * (limp if index % 2 else 1.0)

    return _lay(seconds, onsets, [*map(step, range(len(onsets)))])


def _piano(rng: np.random.Generator, seconds: float) -> Layers:
    beat = rng.uniform(0.16, 0.42)
    onsets, durations, pitches = _tune(rng, seconds, beat, _log_uniform(rng, 110, 300), 1_400)
    hammer = _band_noise(rng, SAMPLE_RATE, 80, 500)
    hardness, pedal = rng.uniform(0.25, 0.5), rng.uniform(0.1, 1.2)
    chord_share = rng.choice([0.1, 0.6])
    chord = np.array([1, 5 / 4, 3 / 2])

    def string(pitch: float, n: int) -> np.ndarray:
        k = np.arange(1, min(20, int(HIGHEST_PARTIAL / pitch)) + 1)
        stretched = pitch * k * np.sqrt(1 + 3e-4 * (pitch / 260) * k**2)
        gains = abs(np.sin(np.pi * k / 7.5)) * np.exp(-hardness * k * (pitch / 260) ** 0.3)
        taus = 1.1 * (260 / pitch) ** 0.5 / (1 + 0.25 * k)
        return _modes(stretched, taus, gains, n)

    def note(pitch: float, duration: float) -> np.ndarray:
        n = _samples(min(duration + pedal, 2.5, seconds) + 0.1)
        notes = chord * pitch / 2 if rng.random() < chord_share else [pitch]
        sound = sum(string(each, n) for each in notes) * _ramps(n, 0.003, 0.1)
        sound[:1_500] += 0.05 * _burst(rng, hammer, 0.02, 1_500)
        return rng.uniform(0.5, 1.0) * sound

    return _lay(seconds, onsets, [*map(note, pitches, durations)])


def _glass(rng: np.random.Generator, seconds: float) -> Layers:
    impact = _band_noise(rng, 2 * SAMPLE_RATE, 3_500, 9_000)

    def clink(base: float, tau: float) -> np.ndarray:
        ratios = np.array([1, 1.57, 2.24, 2.9]) * rng.uniform(0.98, 1.02, 4)
        n = _samples(min(5 * tau, 1.2))
        sound = _modes(base * ratios, tau / ratios, rng.uniform(0.2, 1, 4), n)
        return rng.uniform(0.5, 1.0) * (sound + 0.4 * _burst(rng, impact, 0.003, n))

    def shatter() -> np.ndarray:
        n, count = _samples(rng.uniform(0.9, 1.4)), rng.integers(20, 60)
        panes = _log_uniform(rng, 2_200, HIGHEST_PARTIAL, 70)
        taus = _log_uniform(rng, 0.01, 0.1, 70)
        crash = _modes(panes, taus, rng.uniform(-0.35, 0.35, 70), n)
        crash += _burst(rng, impact, rng.uniform(0.02, 0.06), n)
        falls = np.minimum(0.04 + rng.exponential(0.25, count), n / SAMPLE_RATE)
        levels = np.exp(-falls / 0.5) * rng.uniform(0.1, 0.6, count)
        bases = _log_uniform(rng, 2_500, 7_000, count)
        bits = map(clink, bases, _log_uniform(rng, 0.01, 0.06, count))
        bits = [level * bit for level, bit in zip(levels, bits, strict=True)]
        return crash + _scatter(n, falls, bits)

    if rng.random() < 0.6:
        onsets = _times(rng, seconds, 1.3, 2.6)
        return _lay(seconds, onsets, [shatter() for _ in onsets])
    onsets = _times(rng, seconds, 0.35, 1.2)
    base, tau = _log_uniform(rng, 2_100, 4_000), _log_uniform(rng, 0.06, 0.35)
    return _lay(seconds, onsets, [clink(base * rng.choice([1, 1.06]), tau) for _ in onsets])


def _applause(rng: np.random.Generator, seconds: float) -> Layers:
    start, n = _continuous(rng, seconds)
    people = int(_log_uniform(rng, 15, 70))
    length = _samples(0.03)
    lows, highs = _log_uniform(rng, 600, 1_200, 12), _log_uniform(rng, 1_400, 3_000, 12)
    bands = zip(lows, highs, rng.uniform(0.003, 0.008, 12), strict=True)
    hands = [
        _burst(rng, _band_noise(rng, 2 * length, low, high), tau, length)
        for low, high, tau in bands
    ]
    claps = int(n / SAMPLE_RATE / 0.2) + 2
    gaps = rng.uniform(0.2, 0.34, (people, 1)) * rng.uniform(0.88, 1.12, (people, claps))
    times = (np.cumsum(gaps, axis=1) - gaps[:, :1] * rng.uniform(0, 1, (people, 1))).ravel()
    levels = (rng.uniform(0.15, 1.0, (people, 1)) * rng.uniform(0.7, 1.0, (people, claps))).ravel()
    kept = times < n / SAMPLE_RATE
    sounds = (level * hands[rng.integers(12)] for level in levels[kept])
    crowd = _scatter(n, times[kept], sounds)
    swell = _drift(rng, n, 0.8, 0.5, 1.0) * _ramps(n, rng.uniform(0.02, 0.3), rng.uniform(0.1, 0.5))
    return _lay(seconds, [start], [crowd * swell])


# ---------------------------------------------------------------- blown and buzzing


def _siren(rng: np.random.Generator, seconds: float) -> Layers:
    start, n = _continuous(rng, seconds)
    time, kind = _seconds(n) + rng.uniform(0, 3), rng.choice(["wail", "yelp", "hi-lo"])
    if kind == "hi-lo":
        low, ratio, period = rng.uniform(400, 750), rng.uniform(1.2, 1.45), rng.uniform(0.8, 1.6)
        sweep = (np.tanh(12 * np.sin(2 * np.pi * time / period)) + 1) / 2
    else:
        low, ratio = _log_uniform(rng, 380, 750), rng.uniform(1.8, 2.8)
        period = rng.uniform(2.2, 5.5) if kind == "wail" else rng.uniform(0.22, 0.5)
        rising = rng.uniform(0.35, 0.65)
        cycle = (time / period) % 1
        triangle = np.minimum(cycle / rising, (1 - cycle) / (1 - rising))
        sweep = (1 - np.cos(np.pi * triangle)) / 2
    tone = _tone(low * ratio**sweep, rng.uniform(0.4, 0.75))
    horn = _resonate(tone, rng.uniform([800, 2_000], [1_600, 3_200]), [500, 900], [1.5, 0.8])
    level = _drift(rng, n, 0.7, 0.7, 1.0) * _ramps(n, 0.03, 0.1)
    return _lay(seconds, [start], [(0.4 * tone + horn) * level])


def _phone_ringing(rng: np.random.Generator, seconds: float) -> Layers:
    ring, pause = rng.uniform(0.4, 1.8), rng.uniform(0.25, 1.2)
    onsets = _times(rng, seconds, ring + pause, ring + pause + 0.03)
    n = _samples(ring)

    def bells() -> np.ndarray:
        rate, base = rng.uniform(17, 26), _log_uniform(rng, 900, 1_900)
        shape = np.array([1, 2.3, 2.9, 4.1])
        tau = rng.uniform(0.08, 0.25)
        pair = [
            _modes(gong * shape, tau / shape**0.7, rng.uniform(0.3, 1, 4), _samples(5 * tau))
            for gong in (base, base * rng.uniform(1.15, 1.3))
        ]
        hits = np.arange(0, ring, 1 / rate)
        hits[1:] += rng.normal(0, 0.0015, len(hits) - 1)
        strokes = [rng.uniform(0.8, 1.0) * pair[i % 2] for i in range(len(hits))]
        fading = n + _samples(3 * tau)
        return _scatter(fading, hits, strokes) * _ramps(fading, 0.001, 2 * tau)

    def warble() -> np.ndarray:
        low, rate = _log_uniform(rng, 650, 1_800), rng.uniform(9, 24)
        swing = (1 + np.tanh(6 * np.sin(2 * np.pi * rate * _seconds(n)))) / 2
        tone = _tone(low * rng.uniform(1.15, 1.45) ** swing, rng.uniform(0.2, 0.7))
        return tone * _ramps(n, 0.005, 0.015)

    def beeps() -> np.ndarray:
        rate, tone = rng.uniform(6, 11), _tone(np.full(n, _log_uniform(rng, 1_600, 2_900)), 0.3)
        on = 0.5 + 0.5 * np.tanh(12 * (np.cos(2 * np.pi * rate * (_seconds(n) - 0.2 / rate)) + 0.1))
        return tone * on * _ramps(n, 0.005, 0.01)

    sound = (bells, warble, beeps)[int(rng.choice(3, p=[0.5, 0.3, 0.2]))]()
    return _lay(seconds, onsets, [rng.uniform(0.9, 1.0) * sound for _ in onsets])


def _car_horn(rng: np.random.Generator, seconds: float) -> Layers:
    low, third = rng.uniform(300, 480), rng.uniform(1.18, 1.27)
    centres, brightness = rng.uniform([1_000, 2_200], [1_800, 3_400]), rng.uniform(0.75, 0.9)
    longest = _log_uniform(rng, 0.3, 1.5)
    onsets, sounds, time = [], [], _start(rng)
    while time < seconds - LAST_START:
        length = rng.uniform(max(0.15, 0.4 * longest), longest)
        n = _samples(length)
        scoop = 1 - 0.03 * np.exp(-_seconds(n) / 0.02)
        pair = _tone(low * scoop, brightness) + _tone(low * third * scoop, brightness)
        honk = pair * 0.3 + _resonate(pair, centres, [700, 1_000], [1, 0.7])
        onsets.append(time)
        sounds.append(honk * _ramps(n, 0.012, 0.04) * rng.uniform(0.85, 1.0))
        time += length + _log_uniform(rng, 0.12, 0.9)
    return _lay(seconds, onsets, sounds)


def _duck(rng: np.random.Generator, seconds: float) -> Layers:
    onsets = _groups(rng, seconds, (2, 7), (0.24, 0.5), (0.5, 1.2), jitter=0.12)
    base, length = _log_uniform(rng, 170, 300), rng.uniform(0.13, 0.24)
    formants = rng.uniform([850, 1_600, 2_500], [1_250, 2_100, 3_100])
    rasp = rng.uniform(0.1, 0.3)

    def quack() -> np.ndarray:
        n = _samples(length * rng.uniform(0.85, 1.1))
        time = _seconds(n) / (n / SAMPLE_RATE)
        pitch = base * rng.uniform(0.94, 1.06) * (1.12 - 0.4 * time**1.5)
        roughness = 1 + rasp * rng.standard_normal(n // 80 + 2).repeat(80)[:n]
        voice = _tone(pitch, 0.93) * roughness
        opening = formants * rng.uniform(0.95, 1.05, 3)
        sound = _resonate(voice, opening, [180, 220, 300], [1, 0.9, 0.5])
        return rng.uniform(0.6, 1.0) * sound * _ramps(n, 0.01, 0.07) * (1 - 0.4 * time)

    return _lay(seconds, onsets, [quack() for _ in onsets])


def _trumpet(rng: np.random.Generator, seconds: float) -> Layers:
    beat, low = rng.uniform(0.12, 0.32), rng.uniform(180, 330)
    onsets, durations, pitches = _tune(rng, seconds, beat, low, 3.2 * low)
    peak, bell = rng.uniform(0.72, 0.88), rng.uniform(1_000, 1_600)
    vibrato, depth, legato = rng.uniform(4.5, 6.5), rng.uniform(0.002, 0.012), rng.uniform(0.75, 1)

    def note(pitch: float, duration: float) -> np.ndarray:
        n = _samples(max(0.1, legato * duration))
        time = _seconds(n)
        swelling = 1 - np.exp(-time / 0.035)
        wobble = depth * np.minimum(1, time / 0.4) * np.sin(2 * np.pi * vibrato * time)
        frequency = pitch * (1 + wobble - 0.025 * np.exp(-time / 0.02))
        tone = _tone(frequency, peak * (0.45 + 0.55 * swelling) * _drift(rng, n, 3, 0.95, 1.0))
        brass = tone + 1.2 * _resonate(tone, [bell], [900], [1.0])
        return rng.uniform(0.75, 1.0) * brass * _ramps(n, 0.025, 0.04)

    return _lay(seconds, onsets, [*map(note, pitches, durations)])


def _whistle(rng: np.random.Generator, seconds: float) -> Layers:
    breath = _band_noise(rng, SAMPLE_RATE, 1_200, 5_000)
    airiness = _log_uniform(rng, 0.002, 0.015)

    def blow(frequency: np.ndarray, level) -> np.ndarray:
        n = len(frequency)
        air = airiness * np.resize(breath, n)
        return (_tone(frequency, 0.03) + air) * level * _ramps(n, 0.02, 0.05)

    def referee(duration: float) -> np.ndarray:
        time = _seconds(_samples(duration))
        pea = np.sin(_phase(_drift(rng, len(time), 6, rate, 1.2 * rate)))
        return blow(pitch * (1 + 0.012 * pea), 0.75 + 0.25 * pea)

    def sung(target: float, duration: float) -> np.ndarray:
        time = _seconds(_samples(max(0.12, duration)))
        vibrato = 0.008 * np.sin(2 * np.pi * wobble * time)
        glide = rng.normal(0, slide) * np.exp(-time / 0.05) + rng.choice([0, 0, bend]) * time
        return blow(target * 2 ** (glide + vibrato), rng.uniform(0.7, 1.0))

    if rng.random() < 0.35:
        pitch, rate = rng.uniform(2_000, 3_500), rng.uniform(22, 40)
        onsets = _times(rng, seconds, 0.5, 1.5)
        gaps = np.diff(onsets, append=seconds)
        blows = [referee(max(0.15, gap * rng.uniform(0.5, 0.85))) for gap in gaps]
        return _lay(seconds, onsets, blows)
    wobble, slide, bend = rng.uniform(4, 7), rng.uniform(0.03, 0.15), rng.uniform(-1, 1)
    low = _log_uniform(rng, 800, 1_500)
    onsets, durations, pitches = _tune(rng, seconds, rng.uniform(0.15, 0.4), low, 2.3 * low)
    return _lay(seconds, onsets, [*map(sung, pitches, 0.9 * durations)])


# ---------------------------------------------------------------- rushing and turning


def _engine(rng: np.random.Generator, seconds: float) -> Layers:
    start, n = _continuous(rng, seconds)
    idle, revs = _log_uniform(rng, 20, 50), rng.choice([0.1, 1.0, 2.5])
    throttle = _drift(rng, n, rng.uniform(0.5, 1.8), 0, 1) ** 1.5
    turns = np.cumsum(idle * (1 + revs * throttle)) / SAMPLE_RATE + _drift(rng, n, 12, 0, 0.05)
    at = np.flatnonzero(np.diff(np.floor(turns)) > 0)
    pulses = np.zeros(n)
    cylinders = np.resize(rng.uniform(0.8, 1.0, 4), len(at))
    pulses[at] = cylinders * rng.uniform(0.9, 1.1, len(at))
    puff = signal.lfilter([1], [1, -np.exp(-1 / (0.002 * SAMPLE_RATE))], pulses)
    breath = puff * _band_noise(rng, n, 100, rng.uniform(500, 1_500))
    pipe = np.sort(_log_uniform(rng, 70, 1_500, 6))
    body = _resonate(puff, pipe, 40 + pipe / 4, rng.uniform(0.5, 1.2, 6))
    mix = body / body.std() + rng.uniform(0.1, 0.4) * breath
    return _lay(seconds, [start], [mix * (0.4 + 0.6 * throttle) * _ramps(n, 0.05, 0.15)])


def _wind(rng: np.random.Generator, seconds: float) -> Layers:
    start, n = _continuous(rng, seconds)
    gust = _drift(rng, n, rng.uniform(0.5, 1.5), 0.1, 1.0)
    rumble = _band_noise(rng, n, 40, rng.uniform(100, 220)) * gust
    rush = _band_noise(rng, n, 150, rng.uniform(350, 700)) * gust**2
    centre = rng.uniform(280, 520) * (0.75 + 0.6 * gust) * _drift(rng, n, 2, 0.95, 1.05)
    swirl = _band_noise(rng, n, 1, rng.uniform(15, 60))
    howl = swirl * np.sin(_phase(centre)) * gust**2
    mix = rumble + rng.uniform(0.4, 1.0) * rush + rng.uniform(0.2, 1.4) * howl
    return _lay(seconds, [start], [mix * _ramps(n, rng.uniform(0.05, 0.3), 0.3)])


SYNTHESISERS: dict[str, Callable[[np.random.Generator, float], Layers]] = {
    "siren": _siren,
    "gunshot": _gunshot,
    "church_bell": _church_bell,
    "phone_ringing": _phone_ringing,
    "door_knock": _door_knock,
    "engine": _engine,
    "car_horn": _car_horn,
    "typing": _typing,
    "footsteps": _footsteps,
    "duck": _duck,
    "wind": _wind,
    "applause": _applause,
    "piano": _piano,
    "trumpet": _trumpet,
    "whistle": _whistle,
    "glass": _glass,
}
LABELS = tuple(SYNTHESISERS)


# ---------------------------------------------------------------- public


def synthesise(label: str, rng: np.random.Generator, seconds: float) -> FoleyEvent:
    """Synthesise one foley sound.

    Parameters
    ----------
    label : str
        One of `LABELS`.
    rng : numpy.random.Generator
        The only source of randomness: the same state gives the same samples.
    seconds : float
        Length of the clip, 0.5 to 10.24.

    Returns
    -------
    FoleyEvent
        Waveform of round(16000 · seconds) float32 samples, peak 1.0, with onsets and offsets.

    Raises
    ------
    ValueError
        If the label is unknown or the length is out of range.

    Lesson: 00.
    """
    if label not in SYNTHESISERS:
        raise ValueError(f"No foley sound is called {label!r}; choose one of {', '.join(LABELS)}.")
    if not SHORTEST <= seconds <= LONGEST:
        raise ValueError(
            f"A foley clip lasts {SHORTEST} to {LONGEST} seconds, not {seconds}; change `seconds`."
        )
    waveform, onsets, offsets = SYNTHESISERS[label](rng, seconds)
    waveform = (waveform / abs(waveform).max()).astype(np.float32)
    return FoleyEvent(label, waveform, onsets, offsets)


def foley_clip(label: str, seed: int, seconds: float = 8.0) -> Clip:
    """Synthesise one foley sound as a clip, named by its label; see :func:`synthesise`.

    Lesson: 01.
    """
    event = synthesise(label, np.random.default_rng(seed), seconds)
    return Clip.from_waveform(event.waveform, SAMPLE_RATE, name=label.replace("_", " "))
