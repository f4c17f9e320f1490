"""Text-prompted audio editing with latent diffusion: the code behind the notebooks.

The names that lessons start from, each imported when it is asked for.
"""

from __future__ import annotations

from importlib import import_module

_HOMES = {  # name: module
    "Clip": "audio",
    "Conditioning": "models.latent_audio_model",
    "NonRigidEdit": "editing.nonrigid",
    "cache_folder": "data",
    "foley_clip": "sounds.foley",
    "load_clap": "evaluation.clap",
    "load_clip": "audio",
    "load_model": "editing.loading",
    "players": "display.clips",
    "preset": "editing.presets",
    "save_clip": "audio",
    "spectrograms": "display.clips",
}


def __getattr__(name: str) -> object:
    """Import one of the names above from where it lives (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """List the names, imported or not."""
    return [*globals(), *_HOMES]


__all__ = list(_HOMES)
