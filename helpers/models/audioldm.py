"""AudioLDM (Liu et al., 2023): the sentence reaches the UNet as one vector.

CLAP's text tower turns a prompt into a vector on the unit sphere; the UNet gets it as
``class_labels``, joined to the time embedding, and has no tokens to attend to.  Step 1 optimises
that vector.  :class:`Conditioning` puts it back onto the sphere after every optimiser step and
after every interpolation, because the model has never seen a vector of another length.

The text encoder stays on the CPU in float32: it runs once per prompt.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import ClapTextModelWithProjection, PreTrainedTokenizerBase, SpeechT5HifiGan

from helpers.models import Family
from helpers.models.diffusers_folder import DiffusersFolder, Part
from helpers.models.latent_audio_model import Conditioning, LatentAudioModel

CLASS_NAME = "AudioLDMPipeline"
GUIDANCE_SCALE = 2.5
REPOSITORIES = {
    "audioldm": "cvssp/audioldm-s-full-v2",
    "audioldm-s-full-v2": "cvssp/audioldm-s-full-v2",
    "audioldm-m-full": "cvssp/audioldm-m-full",
    "audioldm-l-full": "cvssp/audioldm-l-full",
}
FILES = DiffusersFolder(
    CLASS_NAME,
    REPOSITORIES,
    {},  # no commit of these repositories is known to us
    parts={
        "text_encoder": Part(ClapTextModelWithProjection, ClapTextModelWithProjection),
        "unet": Part(UNet2DConditionModel, UNet2DConditionModel),
        "vae": Part(AutoencoderKL, AutoencoderKL),
        "vocoder": Part(SpeechT5HifiGan, SpeechT5HifiGan),
    },
    tokenizers=("tokenizer",),
)


class ClapText:
    """CLAP's text tower: a prompt becomes one vector.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
    model : ClapTextModelWithProjection
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, model: ClapTextModelWithProjection
    ) -> None:
        self.tokenizer = tokenizer
        self.model = model

    @torch.no_grad()
    def __call__(self, prompts: list[str]) -> Conditioning:
        """Embed prompts; pooled float32 (batch, width), of length 1."""
        batch = self.tokenizer(
            prompts,
            padding=True,
            truncation=True,
            max_length=self.tokenizer.model_max_length,
            return_tensors="pt",
        )
        output = self.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        return Conditioning(pooled=output.text_embeds)


def load_audioldm(
    source: str | Path = "audioldm",
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> LatentAudioModel:
    """Load AudioLDM.

    Parameters
    ----------
    source : str or Path
        A name of :data:`REPOSITORIES`, whose files are taken from the hub's cache or fetched; or a
        folder with the published files.
    device : torch.device or str
        Of everything but the text encoder, which stays on the CPU.
    dtype : torch.dtype
        Of the UNet.

    Raises
    ------
    ModelFileError
        If a file is missing, cut short, holds code or belongs to another model.
    """
    folder = FILES.files(source)
    text = ClapText(
        FILES.tokenizer(folder, "tokenizer"),
        cast(ClapTextModelWithProjection, FILES.load(folder, "text_encoder")),
    )
    return FILES.model(source, folder, text, GUIDANCE_SCALE, device, dtype)


def blueprint(source: str | Path = "audioldm") -> LatentAudioModel:
    """AudioLDM on the meta device: every shape and no memory, for what is computed beforehand.

    Parameters
    ----------
    source : str or Path
        As for :func:`load_audioldm`; only the configurations are read, or fetched.
    """
    folder = FILES.configurations(source)
    config: Any = FILES.build(folder, "unet").config
    width = config.projection_class_embeddings_input_dim
    prompt = Conditioning(pooled=torch.ones(1, width, device="meta"))
    return FILES.blueprint(source, folder, prompt, GUIDANCE_SCALE)


FAMILY = Family(
    REPOSITORIES, load_audioldm, FILES.holds, blueprint, FILES.is_at_hand, FILES.revision
)
