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
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import AutoencoderKL, DDPMScheduler, ModelMixin, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_vae_checkpoint,
    create_vae_diffusers_config_from_ldm,
)
from torch import Tensor
from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig, T5EncoderModel

from helpers.audio import HOP_LENGTH, N_FFT, N_MELS, SAMPLE_RATE
from helpers.data import data_path
from helpers.models import Family, ModelFileError
from helpers.models.diffusers_folder import DiffusersFolder, Part
from helpers.models.latent_audio_model import Conditioning, LatentAudioModel
from helpers.models.parts import Parts, blank, mel_model
from helpers.models.prompts import TextEncoder
from helpers.models.published import (
    INDEX,
    are_cached,
    assemble,
    check_disk,
    fetch,
    load_t5,
    read_json,
    read_weights,
    split,
)
from helpers.storage import check_sums, write_sums

# No commit of these repositories is known to us: the first download takes what "main" is then and
# stays with it; put commits after an @ to pin them.
REPOSITORIES = {
    "tango": "declare-lab/tango",
    "tango-full": "declare-lab/tango-full",
    "tango-full-ft-audiocaps": "declare-lab/tango-full-ft-audiocaps",
    "tango-full-ft-audio-music-caps": "declare-lab/tango-full-ft-audio-music-caps",
    "tango2": "declare-lab/tango2",
    "tango2-full": "declare-lab/tango2-full",
}
CONFIGS_OF_TANGO = data_path("tango")  # in the layout of diffusers; tools/bench_gpu.py reads one
STFT_CONFIG = {  # what helpers.audio computes
    "filter_length": N_FFT,
    "hop_length": HOP_LENGTH,
    "win_length": N_FFT,
    "n_mel_channels": N_MELS,
    "sampling_rate": SAMPLE_RATE,
    "mel_fmin": 0,
    "mel_fmax": SAMPLE_RATE // 2,
}
MAIN, VAE = "pytorch_model_main.bin", "pytorch_model_vae.bin"
CONFIGS = ["main_config.json", "vae_config.json", "stft_config.json"]
SIZES = {MAIN: 4_828_659_488, VAE: 442_567_080, **dict.fromkeys(CONFIGS, 1000)}  # bytes


class T5Text(TextEncoder):
    """FLAN-T5's encoder as TANGO asks it: one token stream, padding unattended."""

    def __call__(self, prompts: list[str]) -> Conditioning:
        """Embed prompts; tokens float32 (batch, length, width), as long as the longest prompt."""
        output, mask = self.read(prompts)
        return Conditioning((output.last_hidden_state,), (mask,))


def build(parts: Parts) -> LatentAudioModel:
    """Make TANGO of its parts; any prompt of a plan has 32 tokens."""
    text = parts.text(
        lambda: T5Text(parts.get("tokenizer"), parts.get("text_encoder")),
        lambda: blank((32, parts.config("unet")["cross_attention_dim"])),
    )
    return mel_model(parts, text, guidance_scale=3.0, scheduler=DDPMScheduler)


CONVERTED = DiffusersFolder(  # what convert() makes
    "Tango",
    {},
    {
        "text_encoder": Part(T5EncoderModel),
        "unet": Part(UNet2DConditionModel),
        "vae": Part(AutoencoderKL),
        "vocoder": Part(SpeechT5HifiGan),
    },
    build,
)


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
        folder = fetch(REPOSITORIES[str(source)], SIZES)
    else:
        folder = Path(source)
    if not (folder / INDEX).is_file():
        return build(Parts(str(source), CONFIGS_OF_TANGO, _published(folder, device, dtype).get))
    for name in (*CONVERTED.parts, "tokenizer", "scheduler"):
        check_sums(folder / name)
    return CONVERTED.model(folder, device, dtype)


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
    index = json.dumps({"_class_name": CONVERTED.class_name, "source": str(source)})
    (folder / INDEX).write_text(f"{index}\n", encoding="utf-8")  # last: the folder is whole
    return folder


def blueprint(source: str | Path = "tango") -> LatentAudioModel:
    """TANGO on the meta device: every shape and no memory, for what is computed beforehand.

    Parameters
    ----------
    source : str or Path
        A name of :data:`REPOSITORIES`, none of whose files are needed; or a folder.
    """
    if str(source) in REPOSITORIES:
        return CONVERTED.plan(str(source), CONFIGS_OF_TANGO)
    return load_tango(source, device="meta")


def holds(folder: Path) -> bool:
    """Whether a folder holds the published files, or is one that :func:`convert` made."""
    return (folder / CONFIGS[0]).is_file() or CONVERTED.holds(folder)


def _published(folder: Path, device: torch.device | str, dtype: torch.dtype) -> dict[str, Any]:
    """Parts of the model from the five files that TANGO's authors publish."""
    main, vae = folder / MAIN, folder / VAE
    main_config = read_json(folder / CONFIGS[0], {"text_encoder_name"})
    if read_json(folder / CONFIGS[2]) != STFT_CONFIG:
        raise ModelFileError(
            f"{folder / CONFIGS[2]} describes another log-mel front end than this project's "
            f"({STFT_CONFIG}): use a TANGO checkpoint."
        )
    autoencoder = _autoencoder_config(folder / CONFIGS[1])
    unet_weights, text_weights = split(read_weights(main), ["unet.", "text_encoder."], main)
    vocoder_weights, vae_weights = split(read_weights(vae), ["vocoder.", ""], vae)
    tokenizer, text_encoder = load_t5(main_config["text_encoder_name"], text_weights, main)
    unet = _unet_config(folder, main_config)
    vocoder = read_json(CONFIGS_OF_TANGO / "vocoder" / "config.json")
    if "conv_pre.bias" in vocoder_weights:
        vocoder["upsample_initial_channel"] = len(vocoder_weights["conv_pre.bias"])
    unet_kind: Any = UNet2DConditionModel  # whose from_config declares another class
    vae_kind: Any = AutoencoderKL
    return {
        "tokenizer": tokenizer,
        "text_encoder": text_encoder,
        "unet": assemble(lambda: unet_kind.from_config(unet), unet_weights, main, device, dtype),
        "vae": assemble(
            lambda: vae_kind.from_config(autoencoder),
            convert_autoencoder(vae_weights, autoencoder, vae),
            vae,
            device,
        ),
        "vocoder": assemble(
            lambda: SpeechT5HifiGan(SpeechT5HifiGanConfig(**vocoder)),
            convert_vocoder(vocoder_weights),
            vae,
            device,
        ),
    }


def convert_autoencoder(weights: dict[str, Tensor], config: dict, path: Path) -> dict[str, Tensor]:
    """Weights of a CompVis autoencoder under the names of diffusers' AutoencoderKL.

    Raises
    ------
    ModelFileError
        If some of them are none of an autoencoder's.
    """
    converted = convert_ldm_vae_checkpoint(weights, config)
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


def _autoencoder_config(path: Path) -> dict:
    """Say in diffusers' words what vae_config.json says."""
    published = read_json(path)
    try:
        stage = {"params": {"ddconfig": published["ddconfig"]}}
        params = {"first_stage_config": stage, "scale_factor": published["scale_factor"]}
        return create_vae_diffusers_config_from_ldm({"model": {"params": params}}, {})
    except KeyError as error:
        raise ModelFileError(f"{path} has no {error.args[0]}: use a TANGO checkpoint.") from error


def _unet_config(folder: Path, main_config: dict) -> dict:
    """Read the file that main_config.json names; the published checkpoints lack it."""
    path = folder / str(main_config.get("unet_model_config_path") or "")
    # By its name: in the hub's cache every file is a link to one outside its folder.
    if not Path(os.path.normpath(path)).is_relative_to(os.path.normpath(folder)):
        raise ModelFileError(
            f"{folder / 'main_config.json'} names {path}, which lies outside its folder and is not "
            "read: get the model from its publisher again."
        )
    return read_json(path if path.is_file() else CONFIGS_OF_TANGO / "unet" / "config.json")


FAMILY = Family(
    REPOSITORIES,
    load_tango,
    holds,
    blueprint,
    lambda repository: are_cached(repository, [[MAIN], [VAE]]),
)
