"""Fixtures that several test files share."""

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
