"""AudioLDM 2 (Liu et al., 2023): the sentence reaches the UNet as two streams of tokens.

The first stream, ``encoder_hidden_states``, are eight states that GPT-2 continues from the
sentence: CLAP's vector and T5's states, each projected to GPT-2's width and set between two learnt
markers, are its beginning.  The second, ``encoder_hidden_states_1``, are T5's states themselves,
with their mask.

**What Step 1 optimises** are both streams as the UNet sees them, behind GPT-2.  Eq. 1 is written
for the embedding the diffusion model is conditioned on; nothing in it asks that some sentence could
have produced it.  Going through GPT-2 would move the first stream only along what GPT-2 can say,
cost eight of its passes a step and leave the second stream to be optimised anyway.  Optimising one
stream alone would leave the other describing the prompt while the first describes the recording.

GPT-2 continues hidden states, not words, so transformers' ``generate`` does not serve; diffusers'
own loop calls a method that the published class, GPT2Model, has lost.  The loop is eight lines,
below.  Each prompt is continued by itself: GPT-2 counts positions, so that padding to a longer
neighbour would change a prompt's states.  (diffusers pads the empty prompt to the length of the
other before GPT-2 sees it; here it is continued as it is, as any prompt.)

The text encoders stay on the CPU in float32: they run once per prompt.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import AudioLDM2ProjectionModel, AudioLDM2UNet2DConditionModel, AutoencoderKL
from torch import Tensor
from transformers import (
    ClapModel,
    ClapTextModelWithProjection,
    GPT2LMHeadModel,
    GPT2Model,
    SpeechT5HifiGan,
    T5EncoderModel,
)

from helpers.models.audioldm import ClapText
from helpers.models.diffusers_folder import DiffusersFolder, Part
from helpers.models.latent_audio_model import Conditioning, LatentAudioModel
from helpers.models.parts import Parts, blank, mel_model
from helpers.models.tango import T5Text

GENERATED_STATES = 8
REPOSITORIES = {
    "audioldm2": "cvssp/audioldm2@c8e7e189d324425c05c4c2f81214041ef4107983",
    "audioldm2-large": "cvssp/audioldm2-large@4b0b875a9e0c5305dfc917da808584e50e1c7ed4",
    "audioldm2-music": "cvssp/audioldm2-music",
}


@dataclass(eq=False)
class TwoStreamText:
    """CLAP, T5, the projection and GPT-2: a prompt becomes two streams of tokens.

    Parameters
    ----------
    clap : ClapText
    t5 : T5Text
    projection : AudioLDM2ProjectionModel
    language_model : GPT2Model
    """

    clap: ClapText
    t5: T5Text
    projection: AudioLDM2ProjectionModel
    language_model: GPT2Model

    def __call__(self, prompts: list[str]) -> Conditioning:
        """Embed prompts; float32 (batch, 8, GPT-2's width) and (batch, length, T5's width)."""
        return Conditioning.cat([self._embed(prompt) for prompt in prompts])

    @torch.no_grad()
    def _embed(self, prompt: str) -> Conditioning:
        [pooled] = self.clap([prompt]).embeddings
        vector = pooled[:, None]
        sentence = self.t5([prompt])
        [tokens], [mask] = sentence.tokens, sentence.masks
        beginning = self.projection(hidden_states=vector, hidden_states_1=tokens).hidden_states
        states = self._continue(beginning)
        return Conditioning((states, tokens), (torch.ones(states.shape[:2]), mask))

    def _continue(self, states: Tensor) -> Tensor:
        """Eight states that follow (1, length, width), each fed back as the next input."""
        cache, generated = None, []
        for _ in range(GENERATED_STATES):
            output = self.language_model(
                inputs_embeds=states, past_key_values=cache, use_cache=True
            )
            cache, states = output.past_key_values, output.last_hidden_state[:, -1:]
            generated.append(states)
        return torch.cat(generated, dim=1)


def build(parts: Parts) -> LatentAudioModel:
    """Make AudioLDM 2 of its parts; any prompt of a plan has 32 T5 tokens."""

    def text() -> TwoStreamText:
        return TwoStreamText(
            ClapText(parts.get("tokenizer"), parts.get("text_encoder")),
            T5Text(parts.get("tokenizer_2"), parts.get("text_encoder_2")),
            parts.get("projection_model"),
            parts.get("language_model"),
        )

    def prompt() -> Conditioning:
        widths = parts.config("projection_model")
        gpt2, t5 = widths["langauge_model_dim"], widths["text_encoder_1_dim"]
        return blank((GENERATED_STATES, gpt2), (32, t5))

    return mel_model(parts, parts.text(text, prompt), guidance_scale=3.5)


FILES = DiffusersFolder(
    "AudioLDM2Pipeline",
    REPOSITORIES,
    {
        "text_encoder": Part(ClapTextModelWithProjection, ClapModel, ("audio_", "logit_scale")),
        "text_encoder_2": Part(T5EncoderModel),
        "projection_model": Part(AudioLDM2ProjectionModel),
        "language_model": Part(GPT2Model, GPT2LMHeadModel),
        "unet": Part(AudioLDM2UNet2DConditionModel),
        "vae": Part(AutoencoderKL),
        "vocoder": Part(SpeechT5HifiGan),
    },
    build,
    ("tokenizer", "tokenizer_2"),
)
FAMILY = FILES.family()
