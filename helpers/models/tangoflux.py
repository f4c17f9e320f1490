"""TangoFlux (Hung et al., 2024): a flow, and a transformer of the kind of Flux, over stereo.

As in Stable Audio there is neither spectrogram nor vocoder: the same autoencoder takes 44.1 kHz and
gives it back, one latent frame for 2,048 samples.  The denoiser answers ε − z on the way
x = (1 − σ)·z + σ·ε (:mod:`.kinds`).  It reads the frames, FLAN-T5's tokens and one token for how
long the sound is as a single sequence, and is led by a vector besides, made of the mean of the
text's tokens.  That mean is taken inside the call, so that Step 1's gradient passes through it and
Step 3's interpolation changes it.

The model attends to every token, and one prompt has no padding.  The empty sentence that guidance
needs is padded to the length of the prompt, and this padding is attended to as well; what pads a
short prompt beside a longer one is zero, and is not.

The text encoder and what makes a token of the length stay on the CPU in float32: they run once per
prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderOobleck, FluxTransformer2DModel
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.pipelines.stable_audio.modeling_stable_audio import StableAudioNumberConditioner
from torch import Tensor, nn
from torch.nn import functional

from helpers.data import data_path
from helpers.models import Family
from helpers.models.kinds import FlowSchedule
from helpers.models.latent_audio_model import Conditioning, LatentAudioModel
from helpers.models.parts import Parts, Plan, blank, of_waveforms
from helpers.models.prompts import TextEncoder
from helpers.models.published import (
    are_cached,
    assemble,
    fetch,
    load_t5,
    read_json,
    read_weights,
    split,
)

REPOSITORIES = {"tangoflux": "declare-lab/TangoFlux"}  # no commit of it is known to us
# config.json as published, and arguments of AutoencoderOobleck, which needs none.
CONFIG = data_path("tangoflux", "config.json")
MAIN, VAE, SETTINGS = "tangoflux.safetensors", "vae.safetensors", "config.json"
SIZES = {MAIN: 3_437_051_960, VAE: 624_500_000, SETTINGS: 1000}  # bytes
SHA256 = {MAIN: "720ae39607a6aa95c2c8f6a49457268b0ce2a5cd4ef0b34d2eea756553cdb588"}
TERMS = (
    "TangoFlux's weights are for research only: read https://huggingface.co/declare-lab/TangoFlux."
)
MAX_TOKENS = 64  # in training; the authors' sampler reads up to T5's 512


class TangoFluxDenoiser(nn.Module):
    """Flux's transformer, and the layer that makes of the text the vector that leads it.

    Both are tuned, as the authors tune them.

    Parameters
    ----------
    config : mapping
        As the file of :data:`CONFIG`.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        width = config["joint_attention_dim"]
        names = ("num_layers", "num_single_layers", "attention_head_dim", "num_attention_heads")
        self.transformer = FluxTransformer2DModel(
            in_channels=config["in_channels"],
            joint_attention_dim=width,
            pooled_projection_dim=width,
            **{name: config[name] for name in names},
        )
        self.fc = nn.Sequential(nn.Linear(width, width), nn.ReLU())

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor,
        duration_hidden_states: Tensor,
    ) -> Transformer2DModelOutput:
        """Answer ε − z.

        Parameters
        ----------
        sample : torch.Tensor
            x_σ, shape (batch, 64, time).
        timestep : torch.Tensor
            σ, shape (batch,).
        encoder_hidden_states : torch.Tensor
            The text's tokens, (batch, length, width); those that are zero are not attended to.
        encoder_attention_mask : torch.Tensor
            (batch, length), true for those of which the mean is taken.
        duration_hidden_states : torch.Tensor
            (batch, 1, width).
        """
        own = encoder_attention_mask[..., None]
        mean = (encoder_hidden_states * own).sum(1) / own.sum(1)
        tokens = torch.cat([encoder_hidden_states, duration_hidden_states], 1)
        frames = sample.shape[2]
        attended = functional.pad(tokens.any(-1), (0, frames), value=True)
        answer = self.transformer(
            hidden_states=sample.transpose(1, 2),
            encoder_hidden_states=tokens,
            pooled_projections=self.fc(mean),
            timestep=timestep,
            img_ids=torch.arange(frames, device=sample.device)[:, None].expand(-1, 3),
            txt_ids=torch.zeros(tokens.shape[1], 3, device=sample.device),
            joint_attention_kwargs={"attention_mask": attended[:, None, None]},
        ).sample
        return Transformer2DModelOutput(sample=answer.transpose(1, 2))


@dataclass(eq=False)
class TimedText(TextEncoder):
    """FLAN-T5 and the length's layer: a prompt becomes tokens, and a length in seconds one.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
    model : T5EncoderModel
    duration : StableAudioNumberConditioner
    """

    max_tokens = MAX_TOKENS
    duration: StableAudioNumberConditioner

    def __call__(self, prompts: list[str]) -> Conditioning:
        """Embed prompts; tokens float32 (batch, length, width), zero where there is padding."""
        output, mask = self.read(prompts)
        return Conditioning((output.last_hidden_state * mask[..., None],), (mask,))

    @torch.no_grad()
    def time(self, conditioning: Conditioning, seconds: float) -> Conditioning:
        """Add that the sound lasts so many seconds."""
        lengths = torch.full((conditioning.batch_size,), float(seconds))
        return replace(conditioning, given={"duration_hidden_states": self.duration(lengths)})

    def without_prompt(self, conditioning: Conditioning) -> Conditioning:
        """Return the unconditional branch beside prompts: "" padded to the length of each."""
        [tokens], [mask] = conditioning.tokens, conditioning.masks
        states, own = (part[:, : mask.shape[1]].to(mask.device) for part in self._empty)
        empty = states.to(tokens) * mask[..., None]
        return replace(conditioning, tokens=(empty,), masks=(own.expand_as(mask),))

    @cached_property
    def _empty(self) -> tuple[Tensor, Tensor]:
        """Tokens of "" and their mask, of any length: what padding is read as depends on none."""
        output, mask = self.read([""], padding="max_length")
        return output.last_hidden_state, mask


def build(parts: Parts) -> LatentAudioModel:
    """Make TangoFlux of its parts; any prompt of a plan has 32 tokens."""
    config = _config(parts.folder)

    def encoder() -> TimedText:
        return TimedText(*map(parts.get, ("tokenizer", "text_encoder", "duration")))

    def prompt() -> Conditioning:
        width = config["joint_attention_dim"]
        given = {"duration_hidden_states": torch.zeros(1, 1, width)}
        return replace(blank((32, width)), given=given)

    text = parts.text(encoder, prompt)
    vae = parts.get("vae")
    return LatentAudioModel(
        parts.name,
        parts.get("denoiser"),
        vae,
        text_encoder=text,
        guidance_scale=4.5,
        timing=text.time,
        unconditional_beside=text.without_prompt,
        **of_waveforms(FlowSchedule(), vae, config["in_channels"], config["audio_seq_len"]),
    )


def load_tangoflux(
    source: str | Path = "tangoflux",
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> LatentAudioModel:
    """Load TangoFlux.

    Parameters
    ----------
    source : str or Path
        A name of :data:`REPOSITORIES`, whose files are taken from the hub's cache or fetched; or a
        folder with the published files.  FLAN-T5's tokenizer and configuration, which they lack,
        come from the hub's cache.
    device : torch.device or str
        Of everything but the text encoder, which stays on the CPU.
    dtype : torch.dtype
        Of the denoiser.

    Raises
    ------
    ModelFileError
        If a file is missing, out of reach, cut short or belongs to another model.
    """
    repository = REPOSITORIES.get(str(source))
    folder = fetch(repository, SIZES) if repository else Path(source)
    config, main, vae = _config(folder), folder / MAIN, folder / VAE
    prefixes = ["text_encoder.", "duration_emebdder.", ""]
    text, duration, denoiser = split(read_weights(main), prefixes, main)
    tokenizer, text_encoder = load_t5(config["text_encoder_name"], text, main)
    made = {
        "tokenizer": tokenizer,
        "text_encoder": text_encoder,
        "duration": assemble(lambda: _duration(config), duration, main),
        "denoiser": assemble(lambda: TangoFluxDenoiser(config), denoiser, main, device, dtype),
        "vae": assemble(lambda: _autoencoder(config), read_weights(vae), vae, device),
    }
    return build(Parts(str(source), folder, made.get))


def blueprint(source: str | Path = "tangoflux") -> LatentAudioModel:
    """TangoFlux on the meta device: every shape and no memory, for what is computed beforehand.

    Parameters
    ----------
    source : str or Path
        A name of :data:`REPOSITORIES`, none of whose files are needed; or a folder, of which only
        ``config.json`` is read.  Any prompt has 32 tokens.
    """
    folder = CONFIG.parent if str(source) in REPOSITORIES else Path(source)
    config = _config(folder)
    with torch.device("meta"):
        made = {"denoiser": TangoFluxDenoiser(config), "vae": _autoencoder(config)}
    return build(Plan(str(source), folder, made.get))


def holds(folder: Path) -> bool:
    """Whether a folder holds the published files."""
    return (folder / MAIN).is_file()


def _duration(config: Mapping[str, Any]) -> StableAudioNumberConditioner:
    return StableAudioNumberConditioner(config["joint_attention_dim"], 0, config["max_duration"])


def _autoencoder(config: Mapping[str, Any]) -> AutoencoderOobleck:
    return AutoencoderOobleck(**config["vae"])


def _config(folder: Path) -> dict[str, Any]:
    return read_json(CONFIG) | read_json(folder / SETTINGS)


FAMILY = Family(
    REPOSITORIES,
    load_tangoflux,
    holds,
    blueprint,
    lambda repository: are_cached(repository, [[MAIN], [VAE]]),
    TERMS,
    SHA256,
)
