"""Settings of all three steps, and the named ones, which stand in ``data/presets.toml``."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from typing import Any

import torch

from helpers.data import data_path
from helpers.editing.embedding import EmbeddingSettings
from helpers.editing.finetuning import FinetuningSettings
from helpers.editing.interpolation import SamplingSettings


@dataclass(frozen=True)
class EditSettings:
    """The hyper-parameters of the three steps; the defaults are the paper's.

    Parameters
    ----------
    embedding, finetuning, sampling
        Of Steps 1, 2 and 3.
    terminal_snr : {"as trained", "zero"}
        The schedule of all three steps; see
        :meth:`helpers.models.latent_audio_model.LatentAudioModel.with_terminal_snr`.
    dtype : torch.dtype
        In which :func:`helpers.load_model` loads the UNet onto a GPU for these settings.
    """

    embedding: EmbeddingSettings = field(default_factory=EmbeddingSettings)
    finetuning: FinetuningSettings = field(default_factory=FinetuningSettings)
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    terminal_snr: str = "as trained"
    dtype: torch.dtype = torch.float32


def _read(row: dict[str, Any]) -> EditSettings:
    """Make settings of one row of the file."""
    steps = {
        "embedding": EmbeddingSettings,
        "finetuning": FinetuningSettings,
        "sampling": SamplingSettings,
    }
    for step in steps.keys() & row:
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in row[step].items()}
        row[step] = steps[step](**values)
    return EditSettings(**row | {"dtype": getattr(torch, row.get("dtype", "float32"))})


# By model, then by name.
_ROWS = tomllib.loads(data_path("presets.toml").read_text(encoding="utf-8"))
PRESETS = {name: _read(row) for rows in _ROWS.values() for name, row in rows.items()}


def presets_for(model: str) -> list[str]:
    """Names of the presets for a published model: its own, then those for any."""
    return [*_ROWS.get(model, ()), *_ROWS["any"]]


def preset(name: str) -> EditSettings:
    """Return one of :data:`PRESETS`; raise a ValueError for another name.

    Lesson: 00.
    """
    if name not in PRESETS:
        raise ValueError(f"There is no preset {name!r}: choose from {', '.join(PRESETS)}.")
    return PRESETS[name]
