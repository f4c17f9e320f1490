"""Tiny TANGO checkpoints in the layout their authors publish, in a local hub cache.

The names and shapes are written from the original module definitions (CompVis' autoencoder,
HiFi-GAN, T5, the UNet of diffusers 0.10), not from what our loader makes of them; at the published
widths they are the published checkpoint's.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from string import ascii_lowercase

import librosa
import numpy as np
import torch
from transformers import T5Tokenizer

Shapes = dict[str, tuple[int, ...]]

UNET = {  # TANGO's configs/diffusion_model_config.json at its own widths
    "_class_name": "UNet2DConditionModel",
    "_diffusers_version": "0.10.0.dev0",
    "act_fn": "silu",
    "attention_head_dim": [5, 10, 20, 20],
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "cross_attention_dim": 1024,
    "down_block_types": [
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "DownBlock2D",
    ],
    "downsample_padding": 1,
    "dual_cross_attention": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 8,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "out_channels": 8,
    "sample_size": [32, 2],
    "up_block_types": [
        "UpBlock2D",
        "CrossAttnUpBlock2D",
        "CrossAttnUpBlock2D",
        "CrossAttnUpBlock2D",
    ],
    "use_linear_projection": True,
    "upcast_attention": True,
}
VAE = {
    "image_key": "fbank",
    "subband": 1,
    "embed_dim": 8,
    "time_shuffle": 1,
    "ddconfig": {
        "double_z": True,
        "z_channels": 8,
        "resolution": 256,
        "downsample_time": False,
        "in_channels": 1,
        "out_ch": 1,
        "ch": 128,
        "ch_mult": [1, 2, 4],
        "num_res_blocks": 2,
        "attn_resolutions": [],
        "dropout": 0.0,
    },
    "scale_factor": 0.9227914214134216,
}
STFT = {
    "filter_length": 1024,
    "hop_length": 160,
    "win_length": 1024,
    "n_mel_channels": 64,
    "sampling_rate": 16000,
    "mel_fmin": 0,
    "mel_fmax": 8000,
}
FLAN_T5_LARGE = {
    "architectures": ["T5ForConditionalGeneration"],
    "d_ff": 2816,
    "d_kv": 64,
    "d_model": 1024,
    "decoder_start_token_id": 0,
    "dropout_rate": 0.1,
    "eos_token_id": 1,
    "feed_forward_proj": "gated-gelu",
    "initializer_factor": 1.0,
    "is_encoder_decoder": True,
    "layer_norm_epsilon": 1e-06,
    "model_type": "t5",
    "num_decoder_layers": 24,
    "num_heads": 16,
    "num_layers": 24,
    "output_past": True,
    "pad_token_id": 0,
    "relative_attention_max_distance": 128,
    "relative_attention_num_buckets": 32,
    "tie_word_embeddings": False,
    "use_cache": True,
    "vocab_size": 32128,
}
FLAN_T5_REVISION = "0613663d0d48ea86ba8cb3d7a44f0f65dc596a2a"
VOCODER_CHANNELS = 1024

TINY_UNET = UNET | {
    "attention_head_dim": [1, 2, 2, 2],
    "block_out_channels": [16, 16, 32, 32],
    "cross_attention_dim": 24,
    "layers_per_block": 1,
    "norm_num_groups": 8,
}
TINY_VAE = VAE | {
    "ddconfig": VAE["ddconfig"] | {"ch": 32, "ch_mult": [1, 1, 2], "num_res_blocks": 1}
}
TINY_T5 = FLAN_T5_LARGE | {
    "d_ff": 40,
    "d_kv": 8,
    "d_model": 24,
    "num_decoder_layers": 2,
    "num_heads": 3,
    "num_layers": 2,
    "vocab_size": 64,
}
TINY_VOCODER_CHANNELS = 32
WORDS = ["a", "dog", "barking", "rooster", "crowing", "rain", "falling", "on", "the", "roof"]


def autoencoder_shapes(config: dict) -> Shapes:
    """CompVis' AutoencoderKL: encoder, decoder and the two convolutions between them."""
    layout = config["ddconfig"]
    z, ch, blocks = layout["z_channels"], layout["ch"], layout["num_res_blocks"]
    widths = [ch * multiple for multiple in layout["ch_mult"]]
    last = len(widths) - 1
    shapes: Shapes = {}

    shapes |= _conv("encoder.conv_in", layout["in_channels"], ch, 3)
    inner = ch
    for level, width in enumerate(widths):
        for block in range(blocks):
            shapes |= _resnet(f"encoder.down.{level}.block.{block}", inner, width)
            inner = width
        if level < last:
            shapes |= _conv(f"encoder.down.{level}.downsample.conv", width, width, 3)
    shapes |= _middle("encoder.mid", inner)
    shapes |= _norm("encoder.norm_out", inner)
    shapes |= _conv("encoder.conv_out", inner, 2 * z, 3)

    shapes |= _conv("decoder.conv_in", z, inner, 3)
    shapes |= _middle("decoder.mid", inner)
    for level in range(last, -1, -1):
        for block in range(blocks + 1):
            shapes |= _resnet(f"decoder.up.{level}.block.{block}", inner, widths[level])
            inner = widths[level]
        if level > 0:
            shapes |= _conv(f"decoder.up.{level}.upsample.conv", inner, inner, 3)
    shapes |= _norm("decoder.norm_out", inner)
    shapes |= _conv("decoder.conv_out", inner, layout["out_ch"], 3)

    shapes |= _conv("quant_conv", 2 * z, 2 * config["embed_dim"], 1)
    return shapes | _conv("post_quant_conv", config["embed_dim"], z, 1)


def vocoder_shapes(channels: int) -> Shapes:
    """HiFi-GAN after weight norm was removed."""
    kernels = [16, 16, 8, 4, 4]
    shapes = _conv1d("conv_pre", 64, channels, 7)
    for level, kernel in enumerate(kernels):
        width = channels // 2 ** (level + 1)
        shapes |= {
            f"ups.{level}.weight": (2 * width, width, kernel),  # transposed: in, out, kernel
            f"ups.{level}.bias": (width,),
        }
        for index, resblock_kernel in enumerate([3, 7, 11]):
            for half in ("convs1", "convs2"):
                for dilation in range(3):
                    name = f"resblocks.{3 * level + index}.{half}.{dilation}"
                    shapes |= _conv1d(name, width, width, resblock_kernel)
    return shapes | _conv1d("conv_post", channels // 2 ** len(kernels), 1, 7)


def t5_shapes(config: dict) -> Shapes:
    """T5's encoder; the token embedding is there under both its names."""
    width, inner = config["d_model"], config["d_kv"] * config["num_heads"]
    embedding = (config["vocab_size"], width)
    shapes: Shapes = {"shared.weight": embedding, "encoder.embed_tokens.weight": embedding}
    for block in range(config["num_layers"]):
        attention = f"encoder.block.{block}.layer.0"
        for name in "qkv":
            shapes[f"{attention}.SelfAttention.{name}.weight"] = (inner, width)
        shapes[f"{attention}.SelfAttention.o.weight"] = (width, inner)
        if block == 0:
            buckets = (config["relative_attention_num_buckets"], config["num_heads"])
            shapes[f"{attention}.SelfAttention.relative_attention_bias.weight"] = buckets
        shapes[f"{attention}.layer_norm.weight"] = (width,)
        feed_forward = f"encoder.block.{block}.layer.1"
        for name in ("wi_0", "wi_1"):
            shapes[f"{feed_forward}.DenseReluDense.{name}.weight"] = (config["d_ff"], width)
        shapes[f"{feed_forward}.DenseReluDense.wo.weight"] = (width, config["d_ff"])
        shapes[f"{feed_forward}.layer_norm.weight"] = (width,)
    return shapes | {"encoder.final_layer_norm.weight": (width,)}


def unet_shapes(config: dict) -> Shapes:
    """UNet2DConditionModel of diffusers 0.10 with linear projections."""
    widths, layers = config["block_out_channels"], config["layers_per_block"]
    text, first, last = config["cross_attention_dim"], widths[0], len(widths) - 1
    time = 4 * first
    shapes: Shapes = _conv("conv_in", config["in_channels"], first, 3)
    shapes |= _linear("time_embedding.linear_1", first, time)
    shapes |= _linear("time_embedding.linear_2", time, time)

    skips, inner = [first], first
    for level, (kind, width) in enumerate(zip(config["down_block_types"], widths, strict=True)):
        name = f"down_blocks.{level}"
        for layer in range(layers):
            shapes |= _unet_resnet(f"{name}.resnets.{layer}", inner, width, time)
            if kind.startswith("CrossAttn"):
                shapes |= _transformer(f"{name}.attentions.{layer}", width, text)
            inner = width
            skips.append(inner)
        if level < last:
            shapes |= _conv(f"{name}.downsamplers.0.conv", inner, inner, 3)
            skips.append(inner)

    shapes |= _unet_resnet("mid_block.resnets.0", inner, inner, time)
    shapes |= _transformer("mid_block.attentions.0", inner, text)
    shapes |= _unet_resnet("mid_block.resnets.1", inner, inner, time)

    for level, kind in enumerate(config["up_block_types"]):
        name, width = f"up_blocks.{level}", widths[last - level]
        for layer in range(layers + 1):
            shapes |= _unet_resnet(f"{name}.resnets.{layer}", inner + skips.pop(), width, time)
            if kind.startswith("CrossAttn"):
                shapes |= _transformer(f"{name}.attentions.{layer}", width, text)
            inner = width
        if level < last:
            shapes |= _conv(f"{name}.upsamplers.0.conv", inner, inner, 3)
    shapes |= _norm("conv_norm_out", inner)
    return shapes | _conv("conv_out", inner, config["out_channels"], 3)


def random_weights(shapes: Shapes, seed: int) -> dict[str, torch.Tensor]:
    """Weights that keep a signal's size: norms near 1, the rest scaled by their fan-in."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        if len(shape) == 1:
            weights[name] = 0.1 * noise + ("norm" in name and name.endswith("weight"))
        elif name.startswith("ups."):
            weights[name] = noise * shape[0] ** -0.5
        else:
            weights[name] = noise * torch.Size(shape[1:]).numel() ** -0.5
    return weights


def tiny_main_weights() -> dict[str, torch.Tensor]:
    """What pytorch_model_main.bin holds."""
    text = random_weights(t5_shapes(TINY_T5), 1)
    text["encoder.embed_tokens.weight"] = text["shared.weight"]
    return {
        **{f"unet.{n}": w for n, w in random_weights(unet_shapes(TINY_UNET), 0).items()},
        **{f"text_encoder.{n}": w for n, w in text.items()},
    }


def tiny_vae_weights() -> dict[str, torch.Tensor]:
    """What pytorch_model_vae.bin holds."""
    vocoder = random_weights(vocoder_shapes(TINY_VOCODER_CHANNELS), 3)
    return {
        **random_weights(autoencoder_shapes(TINY_VAE), 2),
        **{f"vocoder.{n}": w for n, w in vocoder.items()},
    }


def stft_weights() -> dict[str, torch.Tensor]:
    """What pytorch_model_stft.bin holds: windowed Fourier bases and the mel filters."""
    size = STFT["filter_length"]
    fourier = np.fft.fft(np.eye(size))[: size // 2 + 1]
    basis = np.vstack([fourier.real, fourier.imag])
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)  # periodic Hann
    mel = librosa.filters.mel(sr=STFT["sampling_rate"], n_fft=size, n_mels=64, fmin=0, fmax=8000)
    return {
        "mel_basis": torch.from_numpy(mel).float(),
        "stft_fn.forward_basis": torch.from_numpy(basis * window).float()[:, None],
        "stft_fn.inverse_basis": torch.zeros(size + 2, 1, size),  # which nothing here reads
    }


def write_tiny_tango(folder: Path) -> Path:
    """Write the files of a published TANGO, and the UNet's configuration its code holds."""
    main = {
        "text_encoder_name": "google/flan-t5-large",
        "scheduler_name": "stabilityai/stable-diffusion-2-1",
        "unet_model_name": None,
        "unet_model_config_path": "configs/diffusion_model_config.json",
        "snr_gamma": 5.0,
    }
    configs = {
        "main_config.json": main,
        "vae_config.json": TINY_VAE,
        "stft_config.json": STFT,
        "configs/diffusion_model_config.json": TINY_UNET,
    }
    for name, config in configs.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(config))
    torch.save(tiny_main_weights(), folder / "pytorch_model_main.bin")
    torch.save(tiny_vae_weights(), folder / "pytorch_model_vae.bin")
    torch.save(stft_weights(), folder / "pytorch_model_stft.bin")
    return folder


def write_tiny_text_encoder(folder: Path, max_length: int = 512) -> Path:
    """Write the configuration and tokenizer of a FLAN-T5 that knows ten words and all letters."""
    folder.mkdir(parents=True, exist_ok=True)
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0), ("▁", -10.0)]
    pieces += [(f"▁{word}", -2.0 - rank / 10) for rank, word in enumerate(WORDS)]
    pieces += [(letter, -9.0) for letter in ascii_lowercase]
    tokenizer = T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=max_length)
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(TINY_T5))
    return folder


def write_tiny_hub(cache: Path, scratch: Path) -> Path:
    """Fill a hub cache with all that load_model("tango") asks for; returns TANGO's snapshot."""
    text = write_tiny_text_encoder(scratch / "flan-t5")
    add_to_hub_cache(cache, "google/flan-t5-large", text, FLAN_T5_REVISION)
    return add_to_hub_cache(cache, "declare-lab/tango", write_tiny_tango(scratch / "tango"))


def add_to_hub_cache(cache: Path, repository: str, folder: Path, revision: str = "main") -> Path:
    """Put a folder's files into a hub cache as a download would; returns the snapshot."""
    root = cache / ("models--" + repository.replace("/", "--"))
    commit = hashlib.sha1(repository.encode()).hexdigest() if revision == "main" else revision
    snapshot = root / "snapshots" / commit
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        content = path.read_bytes()
        blob = root / "blobs" / hashlib.sha256(content).hexdigest()
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        link = snapshot / path.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    (root / "refs").mkdir(exist_ok=True)
    (root / "refs" / "main").write_text(commit)
    return snapshot


def _conv(name: str, inputs: int, outputs: int, kernel: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs, kernel, kernel), f"{name}.bias": (outputs,)}


def _conv1d(name: str, inputs: int, outputs: int, kernel: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs, kernel), f"{name}.bias": (outputs,)}


def _linear(name: str, inputs: int, outputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _resnet(name: str, inputs: int, outputs: int) -> Shapes:
    shapes = _norm(f"{name}.norm1", inputs) | _conv(f"{name}.conv1", inputs, outputs, 3)
    shapes |= _norm(f"{name}.norm2", outputs) | _conv(f"{name}.conv2", outputs, outputs, 3)
    return shapes | (_conv(f"{name}.nin_shortcut", inputs, outputs, 1) if inputs != outputs else {})


def _middle(name: str, width: int) -> Shapes:
    shapes = _resnet(f"{name}.block_1", width, width) | _norm(f"{name}.attn_1.norm", width)
    for part in ("q", "k", "v", "proj_out"):
        shapes |= _conv(f"{name}.attn_1.{part}", width, width, 1)
    return shapes | _resnet(f"{name}.block_2", width, width)


def _unet_resnet(name: str, inputs: int, outputs: int, time: int) -> Shapes:
    shapes = _norm(f"{name}.norm1", inputs) | _conv(f"{name}.conv1", inputs, outputs, 3)
    shapes |= _linear(f"{name}.time_emb_proj", time, outputs)
    shapes |= _norm(f"{name}.norm2", outputs) | _conv(f"{name}.conv2", outputs, outputs, 3)
    if inputs != outputs:
        shapes |= _conv(f"{name}.conv_shortcut", inputs, outputs, 1)
    return shapes


def _transformer(name: str, width: int, text: int) -> Shapes:
    block = f"{name}.transformer_blocks.0"
    shapes = _norm(f"{name}.norm", width) | _linear(f"{name}.proj_in", width, width)
    for attention, source in (("attn1", width), ("attn2", text)):
        shapes[f"{block}.{attention}.to_q.weight"] = (width, width)
        shapes[f"{block}.{attention}.to_k.weight"] = (width, source)
        shapes[f"{block}.{attention}.to_v.weight"] = (width, source)
        shapes |= _linear(f"{block}.{attention}.to_out.0", width, width)
    shapes |= _linear(f"{block}.ff.net.0.proj", width, 8 * width)
    shapes |= _linear(f"{block}.ff.net.2", 4 * width, width)
    for norm in ("norm1", "norm2", "norm3"):
        shapes |= _norm(f"{block}.{norm}", width)
    return shapes | _linear(f"{name}.proj_out", width, width)
