"""Stable Audio Open (Evans et al., 2024): a transformer over the latents of a stereo waveform.

There is no spectrogram and no vocoder: the autoencoder takes 44.1 kHz and gives it back, one latent
frame for 2,048 samples.  Nor is there a UNet; noise is added in the angle (:mod:`.kinds`).  Beside
the sentence the model is told how long the sound is, so that of a shorter clip the rest is silence,
which enters neither the loss nor the result.

The denoiser hears T5's states of 128 tokens, the padding zeroed but attended to, and two tokens for
where the sound begins and ends in seconds; the latter two, side by side, go ahead of the latent as
well.  Its unconditional branch is nothing but these two ahead: all tokens are zero.

The text encoder and what makes tokens of seconds stay on the CPU in float32: they run once per
prompt.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import wraps
from typing import Any, cast

import torch
from diffusers import AutoencoderOobleck, StableAudioDiTModel
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.pipelines.stable_audio import StableAudioProjectionModel
from torch import Tensor
from transformers import T5EncoderModel

from helpers.models import ModelFileError
from helpers.models.diffusers_folder import DiffusersFolder, Part
from helpers.models.kinds import AngleSchedule
from helpers.models.latent_audio_model import Conditioning, LatentAudioModel
from helpers.models.parts import SCHEDULER, Parts, blank, of_waveforms
from helpers.models.prompts import TextEncoder
from helpers.models.published import read_json

REPOSITORIES = {"stable-audio": "stabilityai/stable-audio-open-1.0"}  # no commit is known to us
TERMS = (
    "Stable Audio Open is given to those who accept its licence at "
    "https://huggingface.co/stabilityai/stable-audio-open-1.0 and log in with `hf auth login`."
)
NOISE = {"prediction_type": "v_prediction", "sigma_data": 1.0}  # what the angle stands for


class StableAudioDenoiser(StableAudioDiTModel):
    """StableAudioDiTModel that joins its inputs itself.

    The frequencies of its time embedding are not trained, so they are a buffer here.
    """

    @wraps(StableAudioDiTModel.__init__)
    def __init__(self, *arguments, **options) -> None:
        super().__init__(*arguments, **options)
        frequencies = self.time_proj.weight.detach()
        del self.time_proj.weight
        self.time_proj.register_buffer("weight", frequencies)

    # It takes what it joins itself.
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor,
        seconds_hidden_states: Tensor,
        global_hidden_states: Tensor,
    ) -> Transformer2DModelOutput:
        """As the parent's, on a latent (batch, 64, time), text (batch, 128, 768) and its mask."""
        text = encoder_hidden_states * encoder_attention_mask[..., None]
        rotary = get_1d_rotary_pos_embed(
            self.config["attention_head_dim"] // 2,
            cast(Any, torch.arange(sample.shape[2] + 1, device=sample.device)),
            use_real=True,
            repeat_interleave_real=False,
        )
        parent: Any = super().forward  # which declares other kinds of tensors than it takes
        return parent(
            sample,
            timestep,
            encoder_hidden_states=torch.cat([text, seconds_hidden_states], dim=1),
            global_hidden_states=global_hidden_states,
            rotary_embedding=rotary,
        )


@dataclass(eq=False)
class TimedText(TextEncoder):
    """T5 and the projections: a prompt becomes tokens, and a length in seconds others.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
    model : T5EncoderModel
    projection : StableAudioProjectionModel
    """

    projection: StableAudioProjectionModel

    @torch.no_grad()
    def __call__(self, prompts: list[str]) -> Conditioning:
        """Embed prompts; tokens float32 (batch, 128, 768), zero where there is padding."""
        output, mask = self.read(prompts, padding="max_length")
        states = self.projection(text_hidden_states=output.last_hidden_state).text_hidden_states
        return Conditioning((states * mask[..., None],), (mask,))

    @torch.no_grad()
    def time(self, conditioning: Conditioning, seconds: float) -> Conditioning:
        """Add that the sound begins at 0 and ends at ``seconds``."""
        ends = torch.full((conditioning.batch_size,), float(seconds))
        states = self.projection(start_seconds=torch.zeros_like(ends), end_seconds=ends)
        parts = [states.seconds_start_hidden_states, states.seconds_end_hidden_states]
        return _timed(conditioning, torch.cat(parts, dim=1), torch.cat(parts, dim=2))


def without_prompt(conditioning: Conditioning) -> Conditioning:
    """Return the unconditional branch beside a prompt: of what it is told, the length alone."""
    nothing = conditioning.replace_embeddings(
        [torch.zeros_like(e) for e in conditioning.embeddings]
    )
    seconds = conditioning.given["seconds_hidden_states"]
    ahead = conditioning.given["global_hidden_states"]
    return _timed(nothing, torch.zeros_like(seconds), ahead)


def _timed(conditioning: Conditioning, seconds: Tensor, ahead: Tensor) -> Conditioning:
    given = {"seconds_hidden_states": seconds, "global_hidden_states": ahead}
    return replace(conditioning, given=given)


def build(parts: Parts) -> LatentAudioModel:
    """Make Stable Audio of its parts."""
    path = parts.folder / SCHEDULER
    scheduler = read_json(path)
    if any(scheduler.get(key, value) != value for key, value in NOISE.items()):
        raise ModelFileError(
            f"{path} is that of another model: it should say {NOISE}; download it again."
        )

    def encoder() -> TimedText:
        return TimedText(*map(parts.get, ("tokenizer", "text_encoder", "projection_model")))

    def prompt() -> Conditioning:
        width = parts.config("projection_model")["conditioning_dim"]
        return _timed(blank((128, width)), torch.zeros(1, 2, width), torch.zeros(1, 1, 2 * width))

    text, denoiser, vae = parts.text(encoder, prompt), parts.get("transformer"), parts.get("vae")
    config = denoiser.config
    return LatentAudioModel(
        parts.name,
        denoiser,
        vae,
        text_encoder=text,
        guidance_scale=7.0,
        timing=text.time,
        unconditional_beside=without_prompt,
        **of_waveforms(AngleSchedule(), vae, config.in_channels, config.sample_size),
    )


FILES = DiffusersFolder(
    "StableAudioPipeline",
    REPOSITORIES,
    {
        "text_encoder": Part(T5EncoderModel),
        "projection_model": Part(StableAudioProjectionModel),
        "transformer": Part(StableAudioDenoiser, StableAudioDiTModel),
        "vae": Part(AutoencoderOobleck),
    },
    build,
)
FAMILY = FILES.family(TERMS)
