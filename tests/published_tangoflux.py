"""A tiny TangoFlux in the layout its authors publish.

Weights have the published names, ``duration_emebdder`` among them; T5's embedding stands under one
of its two names, and there is no tokenizer.  Only widths, depths, the vocabulary and the length of
a clip are small; Flux's three axes of positions ask for heads of 128.
"""

from __future__ import annotations

import json
from pathlib import Path

from diffusers import AutoencoderOobleck, FluxTransformer2DModel
from diffusers.pipelines.stable_audio.modeling_stable_audio import StableAudioNumberConditioner
from published_audioldm import randomise
from published_layouts import FLAN_T5_LARGE, TINY_T5
from published_stable_audio import TINY_VAE
from safetensors.torch import save_file
from torch import nn
from transformers import T5Config, T5EncoderModel

CONFIG = {  # config.json
    "num_layers": 6,
    "num_single_layers": 18,
    "in_channels": 64,
    "attention_head_dim": 128,
    "joint_attention_dim": 1024,
    "num_attention_heads": 8,
    "audio_seq_len": 645,
    "max_duration": 30,
    "uncondition": False,
    "text_encoder_name": "google/flan-t5-large",
}
TINY_CONFIG = CONFIG | {
    "num_layers": 1,
    "num_single_layers": 2,
    "in_channels": TINY_VAE["decoder_input_channels"],
    "joint_attention_dim": TINY_T5["d_model"],
    "num_attention_heads": 1,
    "audio_seq_len": 96,
    "vae": {name: value for name, value in TINY_VAE.items() if not name.startswith("_")},
}


def published_module(config: dict = CONFIG, t5: dict = FLAN_T5_LARGE) -> nn.ModuleDict:
    """All that tangoflux.safetensors holds."""
    width = config["joint_attention_dim"]
    names = ("num_layers", "num_single_layers", "attention_head_dim", "num_attention_heads")
    return nn.ModuleDict(
        {
            "text_encoder": T5EncoderModel(T5Config(**t5)),
            "fc": nn.Sequential(nn.Linear(width, width), nn.ReLU()),
            "duration_emebdder": StableAudioNumberConditioner(width, 0, config["max_duration"]),
            "transformer": FluxTransformer2DModel(
                in_channels=config["in_channels"],
                joint_attention_dim=width,
                pooled_projection_dim=width,
                **{name: config[name] for name in names},
            ),
        }
    )


def published_weights(module: nn.Module) -> dict:
    """Weights by name; the embedding's second name is not published."""
    weights = {name: weight.contiguous() for name, weight in module.state_dict().items()}
    weights.pop("text_encoder.encoder.embed_tokens.weight", None)
    return weights


def write_tiny_tangoflux(folder: Path, frames: int = 96) -> Path:
    """Write the three files; the longest clip has so many latent frames."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(TINY_CONFIG | {"audio_seq_len": frames}))
    main = randomise(published_module(TINY_CONFIG, TINY_T5), seed=0)
    save_file(published_weights(main), folder / "tangoflux.safetensors")
    vae = randomise(AutoencoderOobleck.from_config(TINY_VAE), seed=1)
    save_file(published_weights(vae), folder / "vae.safetensors")
    return folder
