"""Tiny AudioLDM and AudioLDM 2 checkpoints in the folders their authors publish.

The configurations carry the published keys, AudioLDM's names of files and of the autoencoder's
attention are those of its release (diffusers 0.15), AudioLDM 2 has CLAP with its audio tower and a
bare GPT-2; only widths, depths and vocabularies are small.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import (
    AudioLDM2ProjectionModel,
    AudioLDM2UNet2DConditionModel,
    AutoencoderKL,
    UNet2DConditionModel,
)
from published_layouts import TINY_T5, write_tiny_text_encoder
from safetensors.torch import save_file
from torch import nn
from transformers import (
    ClapConfig,
    ClapModel,
    ClapTextConfig,
    ClapTextModelWithProjection,
    GPT2Config,
    GPT2Model,
    RobertaTokenizer,
    SpeechT5HifiGan,
    SpeechT5HifiGanConfig,
    T5Config,
    T5EncoderModel,
)

UNET = {  # cvssp/audioldm-s-full-v2
    "_class_name": "UNet2DConditionModel",
    "_diffusers_version": "0.15.0.dev0",
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": [128, 256, 384, 640],
    "center_input_sample": False,
    "class_embed_type": "simple_projection",
    "class_embeddings_concat": True,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "cross_attention_dim": [128, 256, 384, 640],
    "down_block_types": ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 3,
    "downsample_padding": 1,
    "dual_cross_attention": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 8,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "out_channels": 8,
    "projection_class_embeddings_input_dim": 512,
    "resnet_time_scale_shift": "default",
    "sample_size": 128,
    "time_cond_proj_dim": None,
    "time_embedding_type": "positional",
    "timestep_post_act": None,
    "up_block_types": ["CrossAttnUpBlock2D"] * 3 + ["UpBlock2D"],
    "upcast_attention": False,
    "use_linear_projection": False,
}
VAE = {
    "_class_name": "AutoencoderKL",
    "_diffusers_version": "0.15.0.dev0",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "in_channels": 1,
    "latent_channels": 8,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "out_channels": 1,
    "sample_size": 512,
    "scaling_factor": 0.9392935633659363,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
}
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "_diffusers_version": "0.15.0.dev0",
    "beta_end": 0.0195,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.0015,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "trained_betas": None,
}
VOCODER = {
    "architectures": ["SpeechT5HifiGan"],
    "model_type": "hifigan",
    "model_in_dim": 64,
    "sampling_rate": 16000,
    "upsample_initial_channel": 1024,
    "upsample_rates": [5, 4, 2, 2, 2],
    "upsample_kernel_sizes": [16, 16, 8, 4, 4],
    "resblock_kernel_sizes": [3, 7, 11],
    "resblock_dilation_sizes": [[1, 3, 5]] * 3,
    "leaky_relu_slope": 0.1,
    "initializer_range": 0.01,
    "normalize_before": False,
}
CLAP_TEXT = {  # laion/clap-htsat-unfused
    "architectures": ["ClapTextModelWithProjection"],
    "model_type": "clap_text_model",
    "attention_probs_dropout_prob": 0.1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 768,
    "initializer_factor": 1.0,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 514,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 1,
    "projection_dim": 512,
    "projection_hidden_act": "relu",
    "type_vocab_size": 1,
    "vocab_size": 50265,
}
AUDIOLDM = {
    "_class_name": "AudioLDMPipeline",
    "_diffusers_version": "0.15.0.dev0",
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "ClapTextModelWithProjection"],
    "tokenizer": ["transformers", "RobertaTokenizerFast"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "vocoder": ["transformers", "SpeechT5HifiGan"],
}
AUDIOLDM2 = {
    "_class_name": "AudioLDM2Pipeline",
    "_diffusers_version": "0.20.0.dev0",
    "feature_extractor": ["transformers", "ClapFeatureExtractor"],
    "language_model": ["transformers", "GPT2Model"],
    "projection_model": ["audioldm2", "AudioLDM2ProjectionModel"],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "ClapModel"],
    "text_encoder_2": ["transformers", "T5EncoderModel"],
    "tokenizer": ["transformers", "RobertaTokenizerFast"],
    "tokenizer_2": ["transformers", "T5TokenizerFast"],
    "unet": ["audioldm2", "AudioLDM2UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "vocoder": ["transformers", "SpeechT5HifiGan"],
}
UNET2 = {  # cvssp/audioldm2
    "_class_name": "AudioLDM2UNet2DConditionModel",
    "_diffusers_version": "0.20.0.dev0",
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": [128, 256, 384, 640],
    "class_embed_type": None,
    "class_embeddings_concat": False,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "cross_attention_dim": [[None, 768, 1024]] * 4,
    "down_block_types": ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 3,
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 8,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "num_attention_heads": None,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "out_channels": 8,
    "projection_class_embeddings_input_dim": None,
    "resnet_time_scale_shift": "default",
    "sample_size": 256,
    "time_cond_proj_dim": None,
    "time_embedding_act_fn": None,
    "time_embedding_dim": None,
    "time_embedding_type": "positional",
    "timestep_post_act": None,
    "transformer_layers_per_block": 1,
    "up_block_types": ["CrossAttnUpBlock2D"] * 3 + ["UpBlock2D"],
    "upcast_attention": False,
    "use_linear_projection": False,
}
PROJECTION = {
    "_class_name": "AudioLDM2ProjectionModel",
    "_diffusers_version": "0.20.0.dev0",
    "langauge_model_dim": 768,
    "text_encoder_1_dim": 1024,
    "text_encoder_dim": 512,
}
GPT2 = {
    "architectures": ["GPT2Model"],
    "model_type": "gpt2",
    "activation_function": "gelu_new",
    "attn_pdrop": 0.1,
    "embd_pdrop": 0.1,
    "layer_norm_epsilon": 1e-05,
    "max_new_tokens": 8,
    "n_ctx": 1024,
    "n_embd": 768,
    "n_head": 12,
    "n_layer": 12,
    "n_positions": 1024,
    "resid_pdrop": 0.1,
    "vocab_size": 50257,
}

CLAP_WIDTH, T5_WIDTH, GPT2_WIDTH = 20, TINY_T5["d_model"], 32
TINY_BLOCKS = {
    "block_out_channels": [8, 8, 16, 16],
    "norm_num_groups": 4,
    "attention_head_dim": 2,
    "layers_per_block": 1,
}
TINY_UNET = UNET | TINY_BLOCKS
TINY_UNET |= {
    "cross_attention_dim": TINY_BLOCKS["block_out_channels"],
    "projection_class_embeddings_input_dim": CLAP_WIDTH,
}
TINY_UNET2 = UNET2 | TINY_BLOCKS
TINY_UNET2 |= {"cross_attention_dim": [[None, GPT2_WIDTH, T5_WIDTH]] * 4}
TINY_VAE = VAE | {"block_out_channels": [8, 8, 16], "norm_num_groups": 4, "layers_per_block": 1}
TINY_VOCODER = VOCODER | {"upsample_initial_channel": 32}
LETTERS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "Ġ", *"abcdefghijklmnopqrstuvwxyz,.'"]
TINY_CLAP_TEXT = CLAP_TEXT | {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "projection_dim": CLAP_WIDTH,
    "vocab_size": len(LETTERS),
}
TINY_CLAP = {
    "architectures": ["ClapModel"],
    "model_type": "clap",
    "projection_dim": CLAP_WIDTH,
    "text_config": TINY_CLAP_TEXT,
    "audio_config": {
        "model_type": "clap_audio_model",
        "depths": [1, 1],
        "hidden_size": 16,
        "num_attention_heads": [1, 2],
        "num_hidden_layers": 2,
        "patch_embeds_hidden_size": 8,
        "projection_dim": CLAP_WIDTH,
    },
}
TINY_GPT2 = GPT2 | {"n_embd": GPT2_WIDTH, "n_head": 4, "n_layer": 2, "vocab_size": 10}
TINY_GPT2 |= {"bos_token_id": 9, "eos_token_id": 9}
TINY_PROJECTION = PROJECTION | {
    "langauge_model_dim": GPT2_WIDTH,
    "text_encoder_1_dim": T5_WIDTH,
    "text_encoder_dim": CLAP_WIDTH,
}


def write_tiny_audioldm(folder: Path) -> Path:
    """Write AudioLDM: weights as pickles, the autoencoder's attention under its old names."""
    _write_shared(folder, AUDIOLDM, pickled=True)
    clap = ClapTextModelWithProjection(ClapTextConfig(**TINY_CLAP_TEXT))
    _write_part(folder / "text_encoder", TINY_CLAP_TEXT, clap, seed=1, pickled=True)
    unet = UNet2DConditionModel.from_config(TINY_UNET)
    _write_part(folder / "unet", TINY_UNET, unet, seed=0, pickled=True)
    return folder


def write_tiny_audioldm2(folder: Path) -> Path:
    """Write AudioLDM 2: weights as safetensors, CLAP with its audio tower."""
    _write_shared(folder, AUDIOLDM2, pickled=False)
    projection = AudioLDM2ProjectionModel.from_config(TINY_PROJECTION)
    unet = AudioLDM2UNet2DConditionModel.from_config(TINY_UNET2)
    parts = {
        "text_encoder": (TINY_CLAP, ClapModel(ClapConfig(**TINY_CLAP))),
        "text_encoder_2": (TINY_T5, T5EncoderModel(T5Config(**TINY_T5))),
        "projection_model": (TINY_PROJECTION, projection),
        "language_model": (TINY_GPT2, GPT2Model(GPT2Config(**TINY_GPT2))),
        "unet": (TINY_UNET2, unet),
    }
    for seed, (name, (config, module)) in enumerate(parts.items()):
        _write_part(folder / name, config, module, seed, pickled=False)
    write_tiny_text_encoder(folder / "tokenizer_2")
    (folder / "tokenizer_2" / "config.json").unlink()
    return folder


def randomise(module: nn.Module, seed: int) -> nn.Module:
    """Give weights that keep a signal's size: gains near 1, the rest scaled by their fan-in."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() <= 1:
                parameter.copy_(0.1 * noise + name.endswith("weight"))
            elif "upsampler" in name:  # transposed: in, out, kernel
                parameter.copy_(noise * parameter.shape[0] ** -0.5)
            else:
                parameter.copy_(noise * parameter[0].numel() ** -0.5)
    return module


def _write_shared(folder: Path, index: dict, pickled: bool) -> None:
    """Write what both models have: index, schedule, autoencoder, vocoder, RoBERTa's tokenizer."""
    _write_json(folder / "model_index.json", index)
    _write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
    _write_part(folder / "vae", TINY_VAE, AutoencoderKL.from_config(TINY_VAE), 2, pickled)
    vocoder = SpeechT5HifiGan(SpeechT5HifiGanConfig(**TINY_VOCODER))
    _write_part(folder / "vocoder", TINY_VOCODER, vocoder, 3, pickled)
    vocabulary = {letter: index for index, letter in enumerate(LETTERS)}
    tokenizer = RobertaTokenizer(vocab=vocabulary, merges=[], model_max_length=512)
    tokenizer.save_pretrained(folder / "tokenizer")


def _write_part(folder: Path, config: dict, module: nn.Module, seed: int, pickled: bool) -> None:
    _write_json(folder / "config.json", config)
    weights = {name: w.contiguous() for name, w in randomise(module, seed).state_dict().items()}
    # The embedding's second name is not published.
    weights.pop("encoder.embed_tokens.weight", None)
    if pickled and isinstance(module, AutoencoderKL):
        weights = {_old_name(name): weight for name, weight in weights.items()}
    prefix = "diffusion_pytorch_" if "_class_name" in config else ""
    if pickled:
        torch.save(weights, folder / f"{prefix or 'pytorch_'}model.bin")
    else:
        save_file(weights, folder / f"{prefix}model.safetensors", {"format": "pt"})


def _old_name(name: str) -> str:
    """Name of a weight of the autoencoder's attention before diffusers 0.17."""
    renamed = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for new, old in renamed.items():
        name = name.replace(f"attentions.0.{new}.", f"attentions.0.{old}.")
    return name


def _write_json(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
