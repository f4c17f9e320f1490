"""TANGO (Ghosal et al., 2023): the paper's base model, from its published files.

TANGO's own code no longer starts: it fetches its noise schedule from a hub repository that was
removed.  The schedule and the UNet's configuration, which the checkpoints do not carry, are
therefore kept here.  The published modules become today's: the autoencoder of CompVis an
AutoencoderKL, HiFi-GAN a SpeechT5HifiGan, the UNet of diffusers 0.10 today's of the same names.

The text encoder stays on the CPU in float32: it runs once per prompt, takes no GPU memory, and its
half-precision faults cannot occur.  The autoencoder and the vocoder are float32 as well.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import AutoencoderKL, DDPMScheduler, ModelMixin, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from torch import Tensor, nn
from transformers import (
    PreTrainedTokenizerBase,
    SpeechT5HifiGan,
    SpeechT5HifiGanConfig,
    T5Config,
    T5EncoderModel,
)

from helpers.audio import HOP_LENGTH, N_FFT, N_FRAMES, N_MELS, SAMPLE_RATE
from helpers.data import data_path
from helpers.models import Family, ModelFileError
from helpers.models.kinds import NoiseSchedule
from helpers.models.latent_audio_model import Conditioning, LatentAudioModel
from helpers.models.published import (
    INDEX,
    assemble,
    check_disk,
    class_name,
    fetch,
    load_tokenizer,
    missing_files,
    read_json,
    read_weights,
    split,
)
from helpers.storage import check_sums, write_sums

REPOSITORIES = {
    "tango": "declare-lab/tango",
    "tango-full": "declare-lab/tango-full",
    "tango-full-ft-audiocaps": "declare-lab/tango-full-ft-audiocaps",
    "tango-full-ft-audio-music-caps": "declare-lab/tango-full-ft-audio-music-caps",
    "tango2": "declare-lab/tango2",
    "tango2-full": "declare-lab/tango2-full",
}
# The text encoder's revision is pinned.  Those of TANGO's repositories are not known to us: the
# first download takes what "main" is then and stays with it; put commits here to pin them.
REVISIONS = {"google/flan-t5-large": "0613663d0d48ea86ba8cb3d7a44f0f65dc596a2a"}

NOISE_SCHEDULE = {  # of stabilityai/stable-diffusion-2-1, whose repository is gone
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "variance_type": "fixed_small",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
}
# configs/diffusion_model_config.json of TANGO's code; tools/bench_gpu.py reads it too.
UNET_CONFIG = read_json(data_path("tango_unet.json"))
VAE_CONFIG = {  # vae_config.json
    "embed_dim": 8,
    "scale_factor": 0.9227914214134216,
    "ddconfig": {
        "double_z": True,
        "z_channels": 8,
        "in_channels": 1,
        "out_ch": 1,
        "ch": 128,
        "ch_mult": [1, 2, 4],
        "num_res_blocks": 2,
        "attn_resolutions": [],
    },
}
TEXT_ENCODER_CONFIG = {  # of FLAN-T5 large
    "vocab_size": 32128,
    "d_model": 1024,
    "d_kv": 64,
    "d_ff": 2816,
    "num_layers": 24,
    "num_heads": 16,
    "feed_forward_proj": "gated-gelu",
}
STFT_CONFIG = {  # what helpers.audio computes
    "filter_length": N_FFT,
    "hop_length": HOP_LENGTH,
    "win_length": N_FFT,
    "n_mel_channels": N_MELS,
    "sampling_rate": SAMPLE_RATE,
    "mel_fmin": 0,
    "mel_fmax": SAMPLE_RATE // 2,
}
VOCODER_CHANNELS = 1024
MAIN, VAE = "pytorch_model_main.bin", "pytorch_model_vae.bin"
CONFIGS = ["main_config.json", "vae_config.json", "stft_config.json"]
CLASS_NAME = "Tango"  # of a converted folder
SAFE_WEIGHTS = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "vocoder": "model.safetensors",
    "text_encoder": "model.safetensors",
}


class T5Text:
    """FLAN-T5's encoder as TANGO asks it: one token stream, padding unattended.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
    model : T5EncoderModel
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, model: T5EncoderModel) -> None:
        self.tokenizer = tokenizer
        self.model = model

    @torch.no_grad()
    def __call__(self, prompts: list[str]) -> Conditioning:
        """Embed prompts; tokens float32 (batch, length, width), as long as the longest prompt."""
        batch = self.tokenizer(
            prompts,
            padding=True,
            truncation=True,
            max_length=self.tokenizer.model_max_length,
            return_tensors="pt",
        )
        mask = batch["attention_mask"]
        states = self.model(input_ids=batch["input_ids"], attention_mask=mask).last_hidden_state
        return Conditioning((states,), (mask,))


def load_tango(
    source: str | Path = "tango",
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> LatentAudioModel:
    """Load TANGO.

    Parameters
    ----------
    source : str or Path
        A name of :data:`REPOSITORIES`, whose files are taken from the hub's cache or fetched; a
        folder with the published files; or one that :func:`convert` made.
    device : torch.device or str
        Of everything but the text encoder, which stays on the CPU.
    dtype : torch.dtype
        Of the UNet.

    Raises
    ------
    ModelFileError
        If a file is missing, cut short, holds code or belongs to another model.
    """
    if str(source) in REPOSITORIES:
        repository = REPOSITORIES[str(source)]
        folder = fetch(repository, file_sizes(), revision(repository))
    else:
        folder = Path(source)
    read = _read_converted if (folder / INDEX).is_file() else _read_published
    parts = read(folder, device, dtype)
    return _model(str(source), **parts)


def convert(source: str | Path, folder: str | Path, dtype: torch.dtype = torch.float32) -> Path:
    """Save TANGO as a folder in the layout of diffusers, without pickles, that loads faster.

    Parameters
    ----------
    source : str or Path
        As for :func:`load_tango`.
    folder : str or Path
        New or empty; give it to :func:`load_tango` as ``source``.
    dtype : torch.dtype
        Of the UNet.

    Raises
    ------
    ModelFileError
        If the folder holds something or its disk is too small, and as :func:`load_tango`.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ModelFileError(f"{folder} is not empty: name a new folder for the converted model.")
    model = load_tango(source, dtype=dtype)
    text = cast(T5Text, model.text_encoder)
    parts = {
        "unet": model.denoiser,
        "vae": model.vae,
        "vocoder": model.vocoder,
        "text_encoder": text.model,
    }
    check_disk(folder, sum(p.nbytes for part in parts.values() for p in part.parameters()))
    parts |= {"tokenizer": text.tokenizer, "scheduler": model.noise_schedule}
    for name, part in parts.items():
        cast(ModelMixin, part).save_pretrained(folder / name)
        write_sums(folder / name)
    index = json.dumps({"_class_name": CLASS_NAME, "source": str(source)})
    (folder / INDEX).write_text(f"{index}\n", encoding="utf-8")  # last: the folder is whole
    return folder


def blueprint(source: str | Path = "tango") -> LatentAudioModel:
    """TANGO on the meta device: every shape and no memory, for what is computed beforehand.

    Parameters
    ----------
    source : str or Path
        A name of :data:`REPOSITORIES`, none of whose files are needed (any prompt then has 32
        tokens); or a folder.
    """
    if str(source) not in REPOSITORIES:
        return load_tango(source, device="meta")
    with torch.device("meta"):
        tokens = torch.zeros(1, 32, UNET_CONFIG["cross_attention_dim"])
        prompt = Conditioning((tokens,), (torch.ones(1, 32),))
        return _model(
            str(source),
            unet=cast(nn.Module, UNet2DConditionModel.from_config(UNET_CONFIG)),
            vae=_build_vae(VAE_CONFIG),
            vocoder=_build_vocoder(VOCODER_CHANNELS),
            noise_schedule=_build_schedule(),
            text_encoder=lambda prompts: prompt.repeat(len(prompts)),
        )


def file_sizes() -> dict[str, int]:
    """Bytes of the published files, computed from the modules they hold in float32."""
    model = blueprint()
    with torch.device("meta"):
        text = T5EncoderModel(T5Config(**TEXT_ENCODER_CONFIG))
    unet, text, vae, vocoder = (
        sum(p.nbytes for p in part.parameters())
        for part in (model.denoiser, text, model.vae, model.vocoder)
    )
    return {MAIN: unet + text, VAE: vae + vocoder, **dict.fromkeys(CONFIGS, 1000)}


def is_at_hand(source: str | Path) -> bool:
    """Whether the large files of a name are in the hub's cache; of a folder they are."""
    repository = REPOSITORIES.get(str(source))
    return repository is None or not missing_files(repository, [MAIN, VAE], revision(repository))


def revision(repository: str) -> str:
    """Revision of a hub repository that is used."""
    return REVISIONS.get(repository, "main")


def holds(folder: Path) -> bool:
    """Whether a folder holds the published files, or is one that :func:`convert` made."""
    return (folder / CONFIGS[0]).is_file() or class_name(folder) == CLASS_NAME


def _read_published(folder: Path, device: torch.device | str, dtype: torch.dtype) -> dict:
    """Parts of a LatentAudioModel from the six files that TANGO's authors publish."""
    main_config, vae_config, stft_config = (read_json(folder / name) for name in CONFIGS)
    if stft_config != STFT_CONFIG:
        raise ModelFileError(
            f"{folder / CONFIGS[2]} describes another log-mel front end than this project's "
            f"({STFT_CONFIG}): use a TANGO checkpoint."
        )
    _check_keys(folder / CONFIGS[0], main_config, {"text_encoder_name"})
    _check_keys(folder / CONFIGS[1], vae_config, VAE_CONFIG.keys())
    _check_keys(folder / CONFIGS[1], vae_config["ddconfig"], VAE_CONFIG["ddconfig"].keys())
    repository = main_config["text_encoder_name"]
    sizes = {"tokenizer.json": 2_500_000, "tokenizer_config.json": 3000, "config.json": 1000}
    text_folder = fetch(repository, sizes, revision(repository))

    unet, text = split(read_weights(folder / MAIN), ["unet.", "text_encoder."], folder / MAIN)
    vocoder, vae = split(read_weights(folder / VAE), ["vocoder.", ""], folder / VAE)
    return {
        "unet": assemble(
            lambda: cast(
                nn.Module, UNet2DConditionModel.from_config(_unet_config(folder, main_config))
            ),
            unet,
            folder / MAIN,
            device,
            dtype,
        ),
        "vae": assemble(
            lambda: _build_vae(vae_config),
            convert_autoencoder(vae, len(vae_config["ddconfig"]["ch_mult"]), folder / VAE),
            folder / VAE,
            device,
        ),
        "vocoder": assemble(
            lambda: _build_vocoder(len(vocoder.get("conv_pre.bias", range(VOCODER_CHANNELS)))),
            convert_vocoder(vocoder),
            folder / VAE,
            device,
        ),
        "noise_schedule": _build_schedule(),
        "text_encoder": _text_encoder(text_folder, text_folder, text, folder / MAIN),
    }


def _read_converted(folder: Path, device: torch.device | str, dtype: torch.dtype) -> dict:
    """Parts of a LatentAudioModel from the folder that :func:`convert` made."""
    builders = {
        "unet": UNet2DConditionModel.from_config,
        "vae": AutoencoderKL.from_config,
        "vocoder": lambda config: SpeechT5HifiGan(SpeechT5HifiGanConfig(**config)),
    }
    for name in (*SAFE_WEIGHTS, "tokenizer", "scheduler"):
        check_sums(folder / name)
    parts = {}
    for name, build in builders.items():
        config = read_json(folder / name / "config.json")
        path = folder / name / SAFE_WEIGHTS[name]
        precision = dtype if name == "unet" else torch.float32
        parts[name] = assemble(
            lambda build=build, config=config: build(config),
            read_weights(path),
            path,
            device,
            precision,
        )
    schedule = read_json(folder / "scheduler" / "scheduler_config.json")
    path = folder / "text_encoder" / SAFE_WEIGHTS["text_encoder"]
    return {
        **parts,
        "noise_schedule": cast(NoiseSchedule, DDPMScheduler.from_config(schedule)),
        "text_encoder": _text_encoder(
            folder / "tokenizer", folder / "text_encoder", read_weights(path), path
        ),
    }


def convert_autoencoder(weights: dict[str, Tensor], levels: int, path: Path) -> dict[str, Tensor]:
    """Weights of a CompVis autoencoder under the names of diffusers' AutoencoderKL.

    Raises
    ------
    ModelFileError
        If some of them are none of an autoencoder's.
    """
    blocks = {"down_block_types": range(levels), "up_block_types": range(levels)}
    converted = convert_ldm_vae_checkpoint(weights, blocks)
    if len(converted) != len(weights):
        raise ModelFileError(
            f"{path} holds {len(weights)} weights of an autoencoder, {len(converted)} of which "
            "this model has: it belongs to another model."
        )
    return converted


def convert_vocoder(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of HiFi-GAN under the names of SpeechT5HifiGan, whose own normalisation is off."""
    renamed = {name.replace("ups.", "upsampler.", 1): weight for name, weight in weights.items()}
    return {**renamed, "mean": torch.zeros(N_MELS), "scale": torch.ones(N_MELS)}


def _text_encoder(
    tokenizer_folder: Path, config_folder: Path, weights: dict[str, Tensor], path: Path
) -> T5Text:
    config = T5Config.from_dict(read_json(config_folder / "config.json"))
    # The embedding has two names: one tensor serves both.
    if "shared.weight" in weights:
        weights["encoder.embed_tokens.weight"] = weights["shared.weight"]
    model = assemble(lambda: T5EncoderModel(config), weights, path)
    model.tie_weights()
    return T5Text(load_tokenizer(tokenizer_folder), model)


def _check_keys(path: Path, config: dict, keys: Iterable[str]) -> None:
    if missing := sorted(set(keys) - set(config)):
        raise ModelFileError(f"{path} has no {missing[0]}: use a TANGO checkpoint.")


def _unet_config(folder: Path, main_config: dict) -> dict:
    """Read the file that main_config.json names; the published checkpoints lack it."""
    path = folder / str(main_config.get("unet_model_config_path") or "")
    # By its name: in the hub's cache every file is a link to one outside its folder.
    if not Path(os.path.normpath(path)).is_relative_to(os.path.normpath(folder)):
        raise ModelFileError(
            f"{folder / 'main_config.json'} names {path}, which lies outside its folder and is not "
            "read: get the model from its publisher again."
        )
    return read_json(path) if path.is_file() else UNET_CONFIG


def _build_schedule() -> NoiseSchedule:
    return cast(NoiseSchedule, DDPMScheduler.from_config(NOISE_SCHEDULE))


def _build_vae(config: dict) -> AutoencoderKL:
    """AutoencoderKL of the shape that vae_config.json describes."""
    layout = config["ddconfig"]
    levels = len(layout["ch_mult"])
    build: Any = AutoencoderKL  # which declares tuples of one
    return build(
        in_channels=layout["in_channels"],
        out_channels=layout["out_ch"],
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=tuple(layout["ch"] * multiple for multiple in layout["ch_mult"]),
        layers_per_block=layout["num_res_blocks"],
        latent_channels=config["embed_dim"],
        scaling_factor=config["scale_factor"],
    )


def _build_vocoder(channels: int) -> SpeechT5HifiGan:
    """HiFi-GAN of 160 samples a frame."""
    return SpeechT5HifiGan(
        SpeechT5HifiGanConfig(
            model_in_dim=N_MELS,
            sampling_rate=SAMPLE_RATE,
            upsample_initial_channel=channels,
            upsample_rates=[5, 4, 2, 2, 2],
            upsample_kernel_sizes=[16, 16, 8, 4, 4],
            resblock_kernel_sizes=[3, 7, 11],
            resblock_dilation_sizes=[[1, 3, 5]] * 3,
            normalize_before=False,
        )
    )


def _model(name: str, unet: nn.Module, **parts: Any) -> LatentAudioModel:
    config: Any = unet.config
    shape = (config.in_channels, N_FRAMES // 4, N_MELS // 4)
    return LatentAudioModel(name, unet, latent_shape=shape, guidance_scale=3.0, **parts)


FAMILY = Family(REPOSITORIES, load_tango, holds, blueprint, is_at_hand, revision)
