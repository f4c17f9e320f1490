"""The embedded base model: parts like TANGO's, small enough for a laptop and a repository."""

from __future__ import annotations

from functools import wraps
from pathlib import Path
from typing import TypeVar, cast

import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    ModelMixin,
    SchedulerMixin,
    UNet2DConditionModel,
)
from diffusers.models.autoencoders.vae import DecoderOutput
from torch import Tensor, nn
from torch.nn import functional

from helpers.data import data_path
from helpers.models import Family
from helpers.models.griffin_lim import GriffinLim
from helpers.models.kinds import NoiseSchedule
from helpers.models.latent_audio_model import LatentAudioModel
from helpers.models.minilm import load_minilm
from helpers.storage import check_sums

Part = TypeVar("Part", bound=ModelMixin | SchedulerMixin)
PATCH = 16  # mel frames × mel bins behind one vector of the latent
FOLD = 4  # mel frames × mel bins that the decoder's last convolution makes at one place
LOG_MEL_MEAN, LOG_MEL_SCALE = -6.0, 3.0
COORDINATES = 12
LATENT_SHAPE = (32, 64, 4)  # channels, time (160 ms each), mel


class PocketAutoencoder(AutoencoderKL):
    """AutoencoderKL whose encoder is one linear layer over patches of 16 × 16 log-mel values.

    The best encoder of that form is known without training it: the patches' principal components
    (a linear VAE's optimum, Lucas et al. 2019).  The decoder adds what a convolutional network
    learns to the linear layer that leads back, as shortcuts do in DC-AE (Chen et al. 2025).
    """

    @wraps(AutoencoderKL.__init__)
    def __init__(self, *arguments, **options) -> None:
        super().__init__(*arguments, **options)
        channels = self.config["latent_channels"]
        self.encoder = nn.Conv2d(1, 2 * channels, PATCH, stride=PATCH)
        self.shortcut = nn.ConvTranspose2d(channels, 1, PATCH, stride=PATCH)
        nn.init.zeros_(self.decoder.conv_out.weight)
        nn.init.zeros_(self.decoder.conv_out.get_parameter("bias"))

    def _encode(self, x: Tensor) -> Tensor:
        return super()._encode((x - LOG_MEL_MEAN) / LOG_MEL_SCALE)

    # The parent declares a FloatTensor, which no tensor of torch's own functions is.
    def _decode(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, z: Tensor, return_dict: bool = True
    ) -> DecoderOutput | tuple[Tensor]:
        [patches] = super()._decode(z, return_dict=False)
        detail = functional.pixel_shuffle(patches, FOLD)
        log_mel = (self.shortcut(z) + detail) * LOG_MEL_SCALE + LOG_MEL_MEAN
        return DecoderOutput(sample=log_mel) if return_dict else (log_mel,)


class PocketUNet(UNet2DConditionModel):
    """UNet2DConditionModel that is told where in the clip it is, and what the sentence is about.

    Sines and cosines of time and mel join the latent as input channels: a small convolutional
    network without them reconstructs a pattern but not its place.

    MiniLM's states all lean towards one average sentence, and an unusual sentence lies nearer to it
    than a caption does.  So the average is taken off here, and what is left is brought to one
    length: the direction alone speaks.  The mean over the sentence joins its words as a first
    token, and joins the timestep's embedding, so that every layer hears it.
    """

    @wraps(UNet2DConditionModel.__init__)
    def __init__(self, *arguments, **options) -> None:
        super().__init__(*arguments, **options)
        if self.config["class_embed_type"] is not None:
            self.register_buffer(
                "average_sentence", torch.zeros(self.config["cross_attention_dim"])
            )

    # It takes what this model listens to alone.
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor | None = None,
        **inputs,
    ):
        """As the parent's, on a latent (batch, 32, time, mel) and token states (batch, L, 384)."""
        where = coordinates(*sample.shape[-2:]).to(sample).expand(len(sample), -1, -1, -1)
        tokens, mask = encoder_hidden_states, encoder_attention_mask
        if self.config["class_embed_type"] is not None:
            if mask is None:
                mask = torch.ones_like(tokens[..., 0], dtype=torch.bool)
            attended = mask[..., None].to(tokens)
            mean = (tokens * attended).sum(1) / attended.sum(1)
            direction = functional.layer_norm(mean - self.average_sentence, mean.shape[-1:])
            tokens = functional.layer_norm(tokens - self.average_sentence, mean.shape[-1:])
            tokens = torch.cat([direction[:, None], tokens], dim=1)
            mask = functional.pad(mask.bool(), (1, 0), value=True)
            inputs["class_labels"] = direction
        return super().forward(
            torch.cat([sample, where], dim=1),
            timestep,
            tokens,
            encoder_attention_mask=mask,
            **inputs,
        )


def coordinates(frames: int, bins: int) -> Tensor:
    """Sines and cosines of position, float32, shape (12, frames, bins).

    Five octaves of time, from half a period a clip to eight, and one of mel.
    """
    time = torch.linspace(0, torch.pi, frames)[:, None].expand(frames, bins)
    mel = torch.linspace(0, torch.pi, bins).expand(frames, bins)
    phases = [time * 2**octave for octave in range(5)] + [mel]
    return torch.stack([wave(phase) for phase in phases for wave in (torch.sin, torch.cos)])


def load_part(kind: type[Part], folder: Path) -> Part:
    """Load a part of a folder with its checksums, its weights in float32.

    Raises
    ------
    StorageError
        If a file of the folder is missing, damaged or another one.
    """
    check_sums(folder)
    return cast(Part, kind.from_pretrained(folder))


def load_pocket(folder: Path | None = None) -> LatentAudioModel:
    """Load the pocket model from ``data/pocket``, or from another folder of the same layout.

    Raises
    ------
    StorageError
        If a file of it is missing, damaged or another one.
    """
    folder = folder or data_path("pocket")
    return LatentAudioModel(
        name="pocket",
        denoiser=load_part(PocketUNet, folder / "unet"),
        vae=load_part(PocketAutoencoder, folder / "vae"),
        vocoder=GriffinLim(),
        noise_schedule=cast(NoiseSchedule, load_part(DDPMScheduler, folder / "scheduler")),
        text_encoder=load_minilm(),
        latent_shape=LATENT_SHAPE,
        guidance_scale=3.0,
    )


def _load(source: str | Path, device: torch.device, dtype: torch.dtype) -> LatentAudioModel:
    model = load_pocket()
    for module in model.parts.values():
        module.to(device)
    nn.Module.to(model.denoiser, dtype)  # diffusers' own `to` warns of nothing
    return model


FAMILY = Family({"pocket": None}, _load)
