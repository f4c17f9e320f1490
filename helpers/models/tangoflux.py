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
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderOobleck, FluxTransformer2DModel
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.pipelines.stable_audio.modeling_stable_audio import StableAudioNumberConditioner
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedTokenizerBase, T5Config, T5EncoderModel

from helpers.models import Family
from helpers.models.kinds import FlowSchedule
from helpers.models.latent_audio_model import Conditioning, LatentAudioModel
from helpers.models.published import (
    assemble,
    fetch,
    load_tokenizer,
    missing_files,
    read_json,
    read_weights,
    split,
)

REPOSITORIES = {"tangoflux": "declare-lab/TangoFlux"}
# The text encoder's revision is pinned; the commit of the model's own repository is not known to
# us: the first download takes what "main" is then and stays with it.
REVISIONS = {"google/flan-t5-large": "0613663d0d48ea86ba8cb3d7a44f0f65dc596a2a"}
CONFIG = {  # config.json as published, and arguments of AutoencoderOobleck, which needs none
    "num_layers": 6,
    "num_single_layers": 18,
    "in_channels": 64,
    "attention_head_dim": 128,
    "joint_attention_dim": 1024,
    "num_attention_heads": 8,
    "audio_seq_len": 645,
    "max_duration": 30,
    "text_encoder_name": "google/flan-t5-large",
    "vae": {},
}
MAIN, VAE, SETTINGS = "tangoflux.safetensors", "vae.safetensors", "config.json"
SIZES = {MAIN: 3_437_051_960, VAE: 624_500_000, SETTINGS: 1000}  # bytes
SHA256 = {MAIN: "720ae39607a6aa95c2c8f6a49457268b0ce2a5cd4ef0b34d2eea756553cdb588"}
TERMS = (
    "TangoFlux's weights are for research only: read https://huggingface.co/declare-lab/TangoFlux."
)
GUIDANCE_SCALE = 4.5
MAX_TOKENS = 64  # in training; the authors' sampler reads up to T5's 512


class TangoFluxDenoiser(nn.Module):
    """Flux's transformer, and the layer that makes of the text the vector that leads it.

    Both are tuned, as the authors tune them.

    Parameters
    ----------
    config : mapping
        As :data:`CONFIG`.
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


class TimedText:
    """FLAN-T5 and the length's layer: a prompt becomes tokens, and a length in seconds one.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
    model : T5EncoderModel
    duration : StableAudioNumberConditioner
    """

    max_tokens = MAX_TOKENS

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        model: T5EncoderModel,
        duration: StableAudioNumberConditioner,
    ) -> None:
        self.tokenizer = tokenizer
        self.model = model
        self.duration = duration

    def __call__(self, prompts: list[str]) -> Conditioning:
        """Embed prompts; tokens float32 (batch, length, width), zero where there is padding."""
        states, mask = self._read(prompts, padding=True)
        return Conditioning((states * mask[..., None],), (mask,))

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
        return self._read([""], padding="max_length")

    @torch.no_grad()
    def _read(self, prompts: list[str], padding: bool | str) -> tuple[Tensor, Tensor]:
        """T5's states and the mask of what is no padding."""
        batch = self.tokenizer(
            prompts,
            padding=padding,
            truncation=True,
            max_length=self.max_tokens,
            return_tensors="pt",
        )
        mask = batch["attention_mask"]
        states = self.model(input_ids=batch["input_ids"], attention_mask=mask).last_hidden_state
        return states, mask


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
    folder = fetch(repository, SIZES, revision(repository)) if repository else Path(source)
    config = CONFIG | read_json(folder / SETTINGS)
    main, vae = folder / MAIN, folder / VAE
    prefixes = ["text_encoder.", "duration_emebdder.", ""]
    text, duration, denoiser = split(read_weights(main), prefixes, main)
    timed = TimedText(
        *_text_encoder(config["text_encoder_name"], text, main),
        assemble(lambda: _duration(config), duration, main),
    )
    return LatentAudioModel(
        str(source),
        assemble(lambda: TangoFluxDenoiser(config), denoiser, main, device, dtype),
        assemble(lambda: AutoencoderOobleck(**config["vae"]), read_weights(vae), vae, device),
        text_encoder=timed,
        timing=timed.time,
        unconditional_beside=timed.without_prompt,
        **_declared(config),
    )


def blueprint(source: str | Path = "tangoflux") -> LatentAudioModel:
    """TangoFlux on the meta device: every shape and no memory, for what is computed beforehand.

    Parameters
    ----------
    source : str or Path
        A name of :data:`REPOSITORIES`, none of whose files are needed; or a folder, of which only
        ``config.json`` is read.  Any prompt has 32 tokens.
    """
    config = CONFIG if str(source) in REPOSITORIES else CONFIG | read_json(Path(source) / SETTINGS)
    width = config["joint_attention_dim"]
    with torch.device("meta"):
        given = {"duration_hidden_states": torch.zeros(1, 1, width)}
        prompt = Conditioning((torch.zeros(1, 32, width),), (torch.ones(1, 32),), given=given)
        return LatentAudioModel(
            str(source),
            TangoFluxDenoiser(config),
            AutoencoderOobleck(**config["vae"]),
            text_encoder=lambda prompts: prompt.repeat(len(prompts)),
            timing=lambda conditioning, seconds: conditioning,
            **_declared(config),
        )


def is_at_hand(source: str | Path) -> bool:
    """Whether the large files of a name are in the hub's cache; of a folder they are."""
    repository = REPOSITORIES.get(str(source))
    return repository is None or not missing_files(repository, [MAIN, VAE], revision(repository))


def revision(repository: str) -> str:
    """Revision of a hub repository that is used."""
    return REVISIONS.get(repository, "main")


def holds(folder: Path) -> bool:
    """Whether a folder holds the published files."""
    return (folder / MAIN).is_file()


def _text_encoder(
    repository: str, weights: dict[str, Tensor], path: Path
) -> tuple[PreTrainedTokenizerBase, T5EncoderModel]:
    """Tokenizer and encoder of FLAN-T5, whose embedding is published under one of its two names."""
    sizes = {"tokenizer.json": 2_500_000, "tokenizer_config.json": 3000, "config.json": 1000}
    folder = fetch(repository, sizes, revision(repository))
    config = T5Config.from_dict(read_json(folder / "config.json"))
    if "shared.weight" in weights:
        weights["encoder.embed_tokens.weight"] = weights["shared.weight"]
    model = assemble(lambda: T5EncoderModel(config), weights, path)
    model.tie_weights()
    return load_tokenizer(folder), model


def _duration(config: Mapping[str, Any]) -> StableAudioNumberConditioner:
    return StableAudioNumberConditioner(config["joint_attention_dim"], 0, config["max_duration"])


def _declared(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the model takes, gives and predicts."""
    with torch.device("meta"):
        vae: Any = AutoencoderOobleck(**config["vae"])
    frames = config["audio_seq_len"]
    return {
        "vocoder": None,
        "noise_schedule": FlowSchedule(),
        "latent_shape": (config["in_channels"], frames),
        "guidance_scale": GUIDANCE_SCALE,
        "sample_rate": vae.config.sampling_rate,
        "channels": vae.config.audio_channels,
        "clip_samples": frames * vae.hop_length,
    }


FAMILY = Family(
    REPOSITORIES,
    load_tangoflux,
    holds,
    blueprint,
    is_at_hand,
    revision,
    terms=TERMS,
    hashes=SHA256,
)
