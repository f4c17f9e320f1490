"""A tiny Stable Audio Open in the folder its authors publish for diffusers.

The configurations carry the published keys and values; only widths, depths, the vocabulary and the
length of a clip are small.
"""

from __future__ import annotations

from pathlib import Path

from diffusers import AutoencoderOobleck, StableAudioDiTModel
from diffusers.pipelines.stable_audio import StableAudioProjectionModel
from published_audioldm import _write_json, _write_part
from published_layouts import TINY_T5, write_tiny_text_encoder
from transformers import T5Config, T5EncoderModel

INDEX = {
    "_class_name": "StableAudioPipeline",
    "_diffusers_version": "0.30.0.dev0",
    "projection_model": ["stable_audio", "StableAudioProjectionModel"],
    "scheduler": ["diffusers", "CosineDPMSolverMultistepScheduler"],
    "text_encoder": ["transformers", "T5EncoderModel"],
    "tokenizer": ["transformers", "T5TokenizerFast"],
    "transformer": ["diffusers", "StableAudioDiTModel"],
    "vae": ["diffusers", "AutoencoderOobleck"],
}
SCHEDULER = {
    "_class_name": "CosineDPMSolverMultistepScheduler",
    "_diffusers_version": "0.30.0.dev0",
    "euler_at_final": False,
    "final_sigmas_type": "zero",
    "lower_order_final": True,
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "rho": 7.0,
    "sigma_data": 1.0,
    "sigma_max": 500,
    "sigma_min": 0.3,
    "sigma_schedule": "exponential",
    "solver_order": 2,
    "solver_type": "midpoint",
}
TRANSFORMER = {
    "_class_name": "StableAudioDiTModel",
    "_diffusers_version": "0.30.0.dev0",
    "attention_head_dim": 64,
    "cross_attention_dim": 768,
    "cross_attention_input_dim": 768,
    "global_states_input_dim": 1536,
    "in_channels": 64,
    "num_attention_heads": 24,
    "num_key_value_attention_heads": 12,
    "num_layers": 24,
    "out_channels": 64,
    "sample_size": 1024,
    "time_proj_dim": 256,
}
VAE = {
    "_class_name": "AutoencoderOobleck",
    "_diffusers_version": "0.30.0.dev0",
    "audio_channels": 2,
    "channel_multiples": [1, 2, 4, 8, 16],
    "decoder_channels": 128,
    "decoder_input_channels": 64,
    "downsampling_ratios": [2, 4, 4, 8, 8],
    "encoder_hidden_size": 128,
    "sampling_rate": 44100,
}
PROJECTION = {
    "_class_name": "StableAudioProjectionModel",
    "_diffusers_version": "0.30.0.dev0",
    "conditioning_dim": 768,
    "max_value": 512,
    "min_value": 0,
    "text_encoder_dim": 768,
}
WIDTH = TINY_T5["d_model"]
T5 = TINY_T5 | {"feed_forward_proj": "relu"}
TINY_TRANSFORMER = TRANSFORMER | {
    "attention_head_dim": 16,
    "cross_attention_dim": WIDTH,
    "cross_attention_input_dim": WIDTH,
    "global_states_input_dim": 2 * WIDTH,
    "in_channels": 8,
    "num_attention_heads": 2,
    "num_key_value_attention_heads": 1,
    "num_layers": 2,
    "out_channels": 8,
    "sample_size": 96,
    "time_proj_dim": 16,
}
TINY_VAE = VAE | {
    "channel_multiples": [1, 1, 1, 2, 2],
    "decoder_channels": 8,
    "decoder_input_channels": 8,
    "encoder_hidden_size": 16,
}
TINY_PROJECTION = PROJECTION | {"conditioning_dim": WIDTH, "text_encoder_dim": WIDTH}


def write_tiny_stable_audio(folder: Path, frames: int = 96) -> Path:
    """Write all parts, weights as safetensors; the longest clip has so many latent frames."""
    transformer = TINY_TRANSFORMER | {"sample_size": frames}
    parts = {
        "text_encoder": (T5, T5EncoderModel(T5Config(**T5))),
        "projection_model": (
            TINY_PROJECTION,
            StableAudioProjectionModel.from_config(TINY_PROJECTION),
        ),
        "transformer": (transformer, StableAudioDiTModel.from_config(transformer)),
        "vae": (TINY_VAE, AutoencoderOobleck.from_config(TINY_VAE)),
    }
    for seed, (name, (config, module)) in enumerate(parts.items()):
        _write_part(folder / name, config, module, seed, pickled=False)
    _write_json(folder / "model_index.json", INDEX)
    _write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
    write_tiny_text_encoder(folder / "tokenizer", max_length=128)
    (folder / "tokenizer" / "config.json").unlink()
    return folder
