"""What a family's builder asks for, and the models that it makes of it.

A builder runs twice: on parts that are filled from files, and on a :class:`Plan` of them, before
anything large is downloaded, from which a model's needs are computed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import DDIMScheduler
from torch import nn

from helpers.audio import N_FRAMES, N_MELS
from helpers.models.kinds import ContinuousSchedule
from helpers.models.latent_audio_model import Conditioning, LatentAudioModel
from helpers.models.published import read_json

Encoder = TypeVar("Encoder")
SCHEDULER = "scheduler/scheduler_config.json"
BETAS = {"num_train_timesteps", "beta_start", "beta_end", "beta_schedule"}


@dataclass(frozen=True)
class AnyPrompt:
    """A text encoder to which every prompt is the same one."""

    prompt: Conditioning

    def __call__(self, prompts: list[str]) -> Conditioning:
        """Return the prompt as often as there are prompts."""
        return self.prompt.repeat(len(prompts))

    def time(self, conditioning: Conditioning, seconds: float) -> Conditioning:
        """Return it as it is, whatever the length."""
        return conditioning

    def without_prompt(self, conditioning: Conditioning) -> Conditioning:
        """Return it as it is."""
        return conditioning


@dataclass(frozen=True)
class Parts:
    """The parts of a model, filled with their weights.

    Parameters
    ----------
    name : str
        Of the model.
    folder : Path
        Where its configurations are.
    get : callable
        From a part's name to the part.
    """

    name: str
    folder: Path
    get: Callable[[str], Any]

    def config(self, name: str) -> dict:
        """Read a part's configuration."""
        return read_json(self.folder / name / "config.json")

    def text(
        self, encoder: Callable[[], Encoder], prompt: Callable[[], Conditioning]
    ) -> Encoder | AnyPrompt:
        """Make the text encoder; ``prompt`` makes what a plan has in its place."""
        return encoder()


class Plan(Parts):
    """The parts on the meta device: every shape and no memory; any prompt is the same."""

    def text(
        self, encoder: Callable[[], Encoder], prompt: Callable[[], Conditioning]
    ) -> Encoder | AnyPrompt:
        """Make a prompt of the usual shape."""
        with torch.device("meta"):
            return AnyPrompt(prompt())


def blank(*shapes: tuple[int, int]) -> Conditioning:
    """Return a prompt of one stream of tokens for each (length, width), all of them zero."""
    return Conditioning(
        tuple(torch.zeros(1, *shape) for shape in shapes),
        tuple(torch.ones(1, length) for length, _ in shapes),
    )


def mel_model(
    parts: Parts,
    text_encoder: Callable[[list[str]], Conditioning],
    guidance_scale: float,
    scheduler: type = DDIMScheduler,
) -> LatentAudioModel:
    """Put UNet, autoencoder of log-mels, vocoder and schedule together around a text encoder."""
    schedule: Any = scheduler  # whose base class does not declare what it has
    unet, vae = parts.get("unet"), parts.get("vae")
    shrink = 2 ** (len(vae.config.block_out_channels) - 1)
    return LatentAudioModel(
        parts.name,
        unet,
        vae,
        parts.get("vocoder"),
        schedule.from_config(read_json(parts.folder / SCHEDULER, BETAS)),
        text_encoder,
        latent_shape=(unet.config.in_channels, N_FRAMES // shrink, N_MELS // shrink),
        guidance_scale=guidance_scale,
    )


def of_waveforms(
    schedule: ContinuousSchedule, vae: nn.Module, channels: int, frames: int
) -> dict[str, Any]:
    """Return what a model over an AutoencoderOobleck's latents (channels, frames) declares."""
    autoencoder: Any = vae
    return {
        "noise_schedule": schedule,
        "vocoder": None,
        "latent_shape": (channels, frames),
        "sample_rate": autoencoder.config.sampling_rate,
        "channels": autoencoder.config.audio_channels,
        "clip_samples": frames * autoencoder.hop_length,
    }
