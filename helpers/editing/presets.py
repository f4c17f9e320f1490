"""Settings of all three steps, and the named ones."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from helpers.editing.embedding import EmbeddingSettings
from helpers.editing.finetuning import LORA_WIDE_TARGETS, FinetuningSettings
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


# "pocket": the paper's protocol on the embedded model, from pure noise and with the whole UNet, on
# a schedule of zero terminal SNR; "pocket-lora": the same with adapters.  "pocket-noised" starts
# from the noised recording instead and tunes little: a gentle edit that keeps much.
# "t4": the paper's steps on a GPU of 16 GB without bfloat16, such as Colab's; adapters replace the
# whole UNet, at a learning rate that is a choice of ours.  "fast": the same for a first listen.

PRESETS = {
    "paper": EditSettings(),
    "pocket": EditSettings(
        EmbeddingSettings(steps=100, learning_rate=2e-2, batch_size=4),
        FinetuningSettings(steps=300, learning_rate=1e-4, batch_size=4),
        SamplingSettings(steps=50, guidance_scale=4.0),
        terminal_snr="zero",
    ),
    "pocket-lora": EditSettings(
        EmbeddingSettings(steps=100, learning_rate=2e-2, batch_size=4),
        FinetuningSettings(
            steps=400,
            learning_rate=1e-3,
            batch_size=4,
            lora_rank=16,
            lora_targets=LORA_WIDE_TARGETS,
        ),
        SamplingSettings(steps=50, guidance_scale=4.0),
        terminal_snr="zero",
    ),
    "pocket-noised": EditSettings(
        EmbeddingSettings(steps=100, learning_rate=5e-3, batch_size=4),
        FinetuningSettings(steps=60, learning_rate=5e-4, batch_size=4, lora_rank=8),
        SamplingSettings(steps=50, guidance_scale=2.5, strength=0.9),
    ),
    "t4": EditSettings(
        finetuning=FinetuningSettings(learning_rate=1e-4, lora_rank=8),
        dtype=torch.float16,
    ),
    "fast": EditSettings(
        EmbeddingSettings(steps=100, learning_rate=5e-3, batch_size=2),
        FinetuningSettings(steps=200, learning_rate=2e-4, batch_size=2, lora_rank=8),
        SamplingSettings(steps=50),
        dtype=torch.float16,
    ),
}


def preset(name: str) -> EditSettings:
    """Return one of :data:`PRESETS`; raise a ValueError for another name.

    Lesson: 00.
    """
    if name not in PRESETS:
        raise ValueError(f"There is no preset {name!r}: choose from {', '.join(PRESETS)}.")
    return PRESETS[name]
