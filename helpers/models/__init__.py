"""Base models: one class, and one builder per published or embedded checkpoint."""

from collections.abc import Callable

from helpers.models.latent_audio_model import Conditioning, LatentAudioModel
from helpers.models.pocket import load_pocket

BUILDERS: dict[str, Callable[[], LatentAudioModel]] = {"pocket": load_pocket}


def load_model(name: str = "pocket") -> LatentAudioModel:
    """Load a base model by name.

    Raises
    ------
    ValueError
        If there is no such model.
    """
    if name not in BUILDERS:
        raise ValueError(f"There is no model {name!r}: choose from {', '.join(BUILDERS)}.")
    return BUILDERS[name]()


__all__ = ["Conditioning", "LatentAudioModel", "load_model"]
