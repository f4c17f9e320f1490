"""Fixtures that several test files share."""

import numpy as np
import pytest
from tiny import tiny_clip, tiny_model

from helpers.audio import Clip
from helpers.models.latent_audio_model import LatentAudioModel

# Each has a make target of its own.
collect_ignore = [
    "laion",
    "msclap",
    "tangoflux",
    "browser",
    "mutation",
    "setup",
    "tables",
    "cluster",
]


@pytest.fixture
def model() -> LatentAudioModel:
    """A tiny random model in TANGO's form: one token stream, v-prediction."""
    return tiny_model()


@pytest.fixture
def pooled_model() -> LatentAudioModel:
    """A tiny random model in AudioLDM's form: one pooled vector, noise prediction."""
    return tiny_model("epsilon", pooled=True)


@pytest.fixture
def clip() -> Clip:
    """Three seconds of a pulsed sine."""
    return tiny_clip(3.0)


@pytest.fixture(scope="session")
def stereo() -> Clip:
    """Three seconds at 44.1 kHz: tones that pulse in turn left and right, above 8 kHz too."""
    rate = 44_100
    time = np.arange(3 * rate) / rate
    left = np.sin(2 * np.pi * 440 * time) * (np.sin(4 * np.pi * time) > 0)
    right = np.sin(2 * np.pi * 11_000 * time) * (np.sin(4 * np.pi * time) < 0)
    return Clip.from_waveform(np.stack([left, 0.5 * right], 1), rate, name="stereo")
