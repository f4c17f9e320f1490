"""Random models of the real parts at toy widths, so that a whole edit takes a second."""

from __future__ import annotations

import zlib

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

from helpers.audio import CLIP_SAMPLES, SAMPLE_RATE, Clip
from helpers.models.latent_audio_model import Conditioning, LatentAudioModel

WIDTH = 16  # of tokens and of the pooled vector
CHANNELS = 4  # of the latent
TINY_SHAPE = (CHANNELS, 64, 4)


def tiny_model(
    prediction_type: str = "v_prediction", streams: int = 1, pooled: bool = False
) -> LatentAudioModel:
    """A model with ``streams`` token streams (one: TANGO's form) or a pooled vector (AudioLDM's).

    Every call gives the same weights.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = _pooled_unet() if pooled else _token_unet()
        vae = AutoencoderKL(
            in_channels=1,
            out_channels=1,
            latent_channels=CHANNELS,
            down_block_types=("DownEncoderBlock2D",) * 5,
            up_block_types=("UpDecoderBlock2D",) * 5,
            block_out_channels=(4, 4, 8, 8, 8),
            layers_per_block=1,
            norm_num_groups=2,
            scaling_factor=0.9,
            mid_block_add_attention=False,
        )
        vocoder = SpeechT5HifiGan(
            SpeechT5HifiGanConfig(
                model_in_dim=64,
                sampling_rate=SAMPLE_RATE,
                upsample_initial_channel=32,
                upsample_rates=[5, 4, 2, 2, 2],
                upsample_kernel_sizes=[16, 16, 8, 4, 4],
                resblock_kernel_sizes=[3],
                resblock_dilation_sizes=[[1, 3]],
                normalize_before=False,
            )
        )
        for parameter in vocoder.parameters():  # its own start is too quiet to hear
            if parameter.dim() == 3:
                torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    schedule = DDPMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction_type,
        clip_sample=False,
        steps_offset=1,
    )
    encoder = _pooled_text if pooled else lambda prompts: _token_text(prompts, streams)
    return LatentAudioModel("tiny", unet, vae, vocoder, schedule, encoder, latent_shape=TINY_SHAPE)


def tiny_clip(seconds: float = CLIP_SAMPLES / SAMPLE_RATE, frequency: float = 440.0) -> Clip:
    """A pulsed sine: four bursts a second."""
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    waveform = np.sin(2 * np.pi * frequency * time) * (np.sin(2 * np.pi * 4 * time) > 0)
    return Clip.from_waveform(waveform, SAMPLE_RATE, name="pulses")


def _token_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=2,
        cross_attention_dim=WIDTH,
        use_linear_projection=True,
    )


def _pooled_unet() -> UNet2DConditionModel:
    """AudioLDM's form: the vector joins the time embedding, attention has nothing to cross to."""
    return UNet2DConditionModel(
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=2,
        cross_attention_dim=(8, 16),
        class_embed_type="simple_projection",
        projection_class_embeddings_input_dim=WIDTH,
        class_embeddings_concat=True,
    )


def _vector(word: str) -> torch.Tensor:
    """A random vector that depends on nothing but the word."""
    generator = torch.Generator().manual_seed(zlib.crc32(word.encode()))
    return torch.randn(WIDTH, generator=generator)


def _token_text(prompts: list[str], streams: int) -> Conditioning:
    """One token per word and an end token, as T5 has: "" is the end token alone."""
    items = []
    for prompt in prompts:
        tokens = torch.stack([_vector(word) for word in [*prompt.lower().split(), "</s>"]])[None]
        masks = torch.ones(tokens.shape[:2])
        items.append(Conditioning((tokens,) * streams, (masks,) * streams))
    return Conditioning.cat(items)


def _pooled_text(prompts: list[str]) -> Conditioning:
    return Conditioning(pooled=torch.stack([_vector(prompt.lower()) for prompt in prompts]))
