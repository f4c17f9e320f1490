"""AudioLDM (Liu et al., 2023): the sentence reaches the UNet as one vector.

CLAP's text tower turns a prompt into a vector on the unit sphere; the UNet gets it as
``class_labels``, joined to the time embedding, and has no tokens to attend to.  Step 1 optimises
that vector.  :class:`Conditioning` puts it back onto the sphere after every optimiser step and
after every interpolation, because the model has never seen a vector of another length.

The text encoder stays on the CPU in float32: it runs once per prompt.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import ClapTextModelWithProjection, SpeechT5HifiGan

from helpers.models.diffusers_folder import DiffusersFolder, Part
from helpers.models.latent_audio_model import Conditioning, LatentAudioModel
from helpers.models.parts import Parts, mel_model
from helpers.models.prompts import TextEncoder

REPOSITORIES = {  # no commit of them is known to us
    "audioldm": "cvssp/audioldm-s-full-v2",
    "audioldm-s-full-v2": "cvssp/audioldm-s-full-v2",
    "audioldm-m-full": "cvssp/audioldm-m-full",
    "audioldm-l-full": "cvssp/audioldm-l-full",
}


class ClapText(TextEncoder):
    """CLAP's text tower: a prompt becomes one vector."""

    def __call__(self, prompts: list[str]) -> Conditioning:
        """Embed prompts; pooled float32 (batch, width), of length 1."""
        output, _ = self.read(prompts)
        return Conditioning(pooled=output.text_embeds)


def build(parts: Parts) -> LatentAudioModel:
    """Make AudioLDM of its parts."""

    def prompt() -> Conditioning:
        width = parts.config("unet")["projection_class_embeddings_input_dim"]
        return Conditioning(pooled=torch.ones(1, width))

    text = parts.text(lambda: ClapText(parts.get("tokenizer"), parts.get("text_encoder")), prompt)
    return mel_model(parts, text, guidance_scale=2.5)


FILES = DiffusersFolder(
    "AudioLDMPipeline",
    REPOSITORIES,
    {
        "text_encoder": Part(ClapTextModelWithProjection),
        "unet": Part(UNet2DConditionModel),
        "vae": Part(AutoencoderKL),
        "vocoder": Part(SpeechT5HifiGan),
    },
    build,
)
FAMILY = FILES.family()
