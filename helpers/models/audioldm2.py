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

from pathlib import Path
from typing import Any, cast

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

from helpers.models import Family
from helpers.models.audioldm import ClapText
from helpers.models.diffusers_folder import DiffusersFolder, Part
from helpers.models.latent_audio_model import Conditioning, LatentAudioModel
from helpers.models.tango import T5Text

CLASS_NAME = "AudioLDM2Pipeline"
GUIDANCE_SCALE = 3.5
GENERATED_STATES = 8
REPOSITORIES = {
    "audioldm2": "cvssp/audioldm2",
    "audioldm2-large": "cvssp/audioldm2-large",
    "audioldm2-music": "cvssp/audioldm2-music",
}
REVISIONS = {
    "cvssp/audioldm2": "c8e7e189d324425c05c4c2f81214041ef4107983",
    "cvssp/audioldm2-large": "4b0b875a9e0c5305dfc917da808584e50e1c7ed4",
}
FILES = DiffusersFolder(
    CLASS_NAME,
    REPOSITORIES,
    REVISIONS,
    parts={
        "text_encoder": Part(
            ClapTextModelWithProjection, ClapModel, left_out=("audio_", "logit_scale")
        ),
        "text_encoder_2": Part(T5EncoderModel, T5EncoderModel),
        "projection_model": Part(AudioLDM2ProjectionModel, AudioLDM2ProjectionModel),
        "language_model": Part(GPT2Model, GPT2LMHeadModel),
        "unet": Part(AudioLDM2UNet2DConditionModel, AudioLDM2UNet2DConditionModel),
        "vae": Part(AutoencoderKL, AutoencoderKL),
        "vocoder": Part(SpeechT5HifiGan, SpeechT5HifiGan),
    },
    tokenizers=("tokenizer", "tokenizer_2"),
)


class TwoStreamText:
    """CLAP, T5, the projection and GPT-2: a prompt becomes two streams of tokens.

    Parameters
    ----------
    clap : ClapText
    t5 : T5Text
    projection : AudioLDM2ProjectionModel
    language_model : GPT2Model
    """

    def __init__(
        self,
        clap: ClapText,
        t5: T5Text,
        projection: AudioLDM2ProjectionModel,
        language_model: GPT2Model,
    ) -> None:
        self.clap = clap
        self.t5 = t5
        self.projection = projection
        self.language_model = language_model

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


def load_audioldm2(
    source: str | Path = "audioldm2",
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> LatentAudioModel:
    """Load AudioLDM 2.

    Parameters
    ----------
    source : str or Path
        A name of :data:`REPOSITORIES`, whose files are taken from the hub's cache or fetched; or a
        folder with the published files.
    device : torch.device or str
        Of everything but the text encoders, which stay on the CPU.
    dtype : torch.dtype
        Of the UNet.

    Raises
    ------
    ModelFileError
        If a file is missing, cut short, holds code or belongs to another model, such as one of the
        text-to-speech checkpoints.
    """
    folder = FILES.files(source)
    text = TwoStreamText(
        ClapText(
            FILES.tokenizer(folder, "tokenizer"),
            cast(ClapTextModelWithProjection, FILES.load(folder, "text_encoder")),
        ),
        T5Text(
            FILES.tokenizer(folder, "tokenizer_2"),
            cast(T5EncoderModel, FILES.load(folder, "text_encoder_2")),
        ),
        cast(AudioLDM2ProjectionModel, FILES.load(folder, "projection_model")),
        cast(GPT2Model, FILES.load(folder, "language_model")),
    )
    return FILES.model(source, folder, text, GUIDANCE_SCALE, device, dtype)


def blueprint(source: str | Path = "audioldm2") -> LatentAudioModel:
    """AudioLDM 2 on the meta device: every shape and no memory, for what is computed beforehand.

    Parameters
    ----------
    source : str or Path
        As for :func:`load_audioldm2`; only the configurations are read, or fetched.  Any prompt
        then has 32 T5 tokens.
    """
    folder = FILES.configurations(source)
    widths: Any = FILES.build(folder, "projection_model").config
    lengths = {GENERATED_STATES: widths.langauge_model_dim, 32: widths.text_encoder_1_dim}
    with torch.device("meta"):
        prompt = Conditioning(
            tuple(torch.zeros(1, length, width) for length, width in lengths.items()),
            tuple(torch.ones(1, length) for length in lengths),
        )
    return FILES.blueprint(source, folder, prompt, GUIDANCE_SCALE)


FAMILY = Family(
    REPOSITORIES, load_audioldm2, FILES.holds, blueprint, FILES.is_at_hand, FILES.revision
)
