"""Microsoft's CLAP by its own package, msclap: what the paper cites.

The package takes a random part of every recording longer than its window (5 or 7 s, so of nearly
all that we edit) and reads files only; here its model is given fixed windows.  It also accepts a
checkpoint that lacks weights and leaves them random, which is refused here.

Making the model needs the weights of its text encoder, ``gpt2`` or ``bert-base-uncased``: the hub's
cache must hold them, or the hub be in reach.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from helpers.evaluation.clap import ClapError, import_package, needing, sentences
from helpers.evaluation.clap.checkpoints import read_checkpoint
from helpers.evaluation.clap.windows import WindowedClap
from helpers.models import ModelFileError, find_device
from helpers.models.published import fetch


class Version(NamedTuple):
    """A published checkpoint: its file, about how many bytes it has, and its text encoder."""

    file: str
    size: int
    text_encoder: str


REPOSITORY = "microsoft/msclap"
REVISION = "5e1d53af259bb39d380680e69ca580960b2c66b1"
VERSIONS = {
    "2022": Version("CLAP_weights_2022.pth", 2_333_972_488, "bert-base-uncased"),
    "2023": Version("CLAP_weights_2023.pth", 689_950_036, "gpt2"),
}
DEFAULT_VERSION = "2023"


class MsClap(WindowedClap):
    """A checkpoint of the package msclap, on the GPU if there is one.

    The version of 2023 hears 7 s at 44.1 kHz, that of 2022 5 s; shorter windows are repeated and
    cut, as the package does it.

    Parameters
    ----------
    version : str, optional
        ``"2022"`` or ``"2023"``, the default.

    Raises
    ------
    ClapError
        If the package is not installed or cannot be imported, or there is no such version.
    ModelFileError
        If the checkpoint or its text encoder is missing, damaged or out of reach.
    """

    def __init__(self, version: str = "") -> None:
        version = version or DEFAULT_VERSION
        if version not in VERSIONS:
            raise ClapError(f"There is no msclap {version!r}: choose {' or '.join(VERSIONS)}.")
        self.name = f"msclap:{version}"
        # Not declared beside the other packages: it names older ones than it needs.
        package = import_package("msclap", "msclap")
        file, size, text_encoder = VERSIONS[version]
        path = fetch(f"{REPOSITORY}@{REVISION}", {file: size}) / file
        weights = read_checkpoint(path, "model")
        self.device = find_device()
        with needing(text_encoder):
            self.wrapper = package.CLAP(path, version, use_cuda=self.device.type == "cuda")
        self.model: Any = self.wrapper.clap.eval().requires_grad_(False)
        if missing := sorted(self.model.state_dict().keys() - weights.keys()):
            raise ModelFileError(f"{path} lacks {missing[0]}: delete it and download it again.")
        self.sample_rate = self.wrapper.args.sampling_rate
        self.window = self.wrapper.args.duration * self.sample_rate

    def embed_windows(self, windows: Sequence[np.ndarray]) -> Tensor:
        """Projections; see :meth:`WindowedClap.embed_windows`."""
        filled = np.stack([np.resize(window, self.window) for window in windows])
        return self.model.audio_encoder(torch.from_numpy(filled).to(self.device))[0]

    @torch.no_grad()
    def embed_text(self, prompts: Sequence[str]) -> Tensor:
        """Projections of sentences, of which 77 (2023) or 100 tokens are read."""
        settings = self.wrapper.args
        ending = " <|endoftext|>" if settings.text_model == "gpt2" else ""
        tokens = self.wrapper.tokenizer(
            [prompt + ending for prompt in sentences(prompts)],
            max_length=settings.text_len,
            padding="max_length",
            truncation=True,
            return_tensors="pt",
        )
        inputs = {key: tokens[key].to(self.device) for key in self.wrapper.token_keys}
        return functional.normalize(self.model.caption_encoder(inputs).float().cpu(), dim=-1)


load = MsClap
