"""The pocket model's parts before they are trained, and how they are written."""

from pathlib import Path

from diffusers import ModelMixin, SchedulerMixin
from torch import nn

from helpers.models.pocket import (
    COORDINATES,
    FOLD,
    LATENT_SHAPE,
    PocketAutoencoder,
    PocketUNet,
)
from helpers.storage import write_sums

# TANGO's noise schedule (stabilityai/stable-diffusion-2-1's scheduler values), brought to a zero
# terminal SNR: see LatentAudioModel.with_terminal_snr.
NOISE_SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "clip_sample": False,
    "steps_offset": 1,
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
}


def new_autoencoder() -> PocketAutoencoder:
    """Make an untrained autoencoder."""
    return PocketAutoencoder(  # pyright: ignore[reportCallIssue]  # `wraps` tells it of `self`
        out_channels=FOLD**2,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(64, 96, 128),
        layers_per_block=1,
        latent_channels=LATENT_SHAPE[0],
        norm_num_groups=16,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=1.0,
    )


def new_unet() -> PocketUNet:
    """Make an untrained UNet of 12 million parameters."""
    return PocketUNet(  # pyright: ignore[reportCallIssue]  # `wraps` tells it of `self`
        sample_size=LATENT_SHAPE[1:],
        in_channels=LATENT_SHAPE[0] + COORDINATES,
        out_channels=LATENT_SHAPE[0],
        down_block_types=("CrossAttnDownBlock2D",) * 3,
        up_block_types=("CrossAttnUpBlock2D",) * 3,
        block_out_channels=(64, 128, 192),
        layers_per_block=1,
        cross_attention_dim=384,
        attention_head_dim=8,
        norm_num_groups=16,
        use_linear_projection=True,
        class_embed_type="simple_projection",
        projection_class_embeddings_input_dim=384,
    )


def save_part(part: ModelMixin | SchedulerMixin, folder: Path) -> None:
    """Write a part, its weights in float16, its configuration, and the checksums of both."""
    if isinstance(part, nn.Module):
        part.half()
    part.save_pretrained(folder)
    write_sums(folder)
