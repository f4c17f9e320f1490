"""LAION's CLAP checkpoints in the form of transformers' ``ClapModel``.

Three habits of its processor are kept out: it crops long recordings at random (windows never are
too long here), it marks a random item of a batch as ``is_longer`` for the fusion models (none is
marked here), and its default mel filters are the fusion models' (they follow the model here).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, ClapFeatureExtractor, ClapModel

from helpers.evaluation.clap import ClapError, sentences
from helpers.evaluation.clap.windows import WindowedClap
from helpers.models import ModelFileError, find_device
from helpers.models.published import check_sha256, load_tokenizer

DEFAULT_CHECKPOINT = "laion/clap-htsat-unfused"
REVISIONS = {
    "laion/clap-htsat-unfused": "8fa0f1c6d0433df6e97c127f64b2a1d6c0dcda8a",
    "laion/larger_clap_general": "ada0c23a36c4e8582805bb38fec3905903f18b41",
}
WEIGHTS = ("model.safetensors", "pytorch_model.bin")


class TransformersClap(WindowedClap):
    """A CLAP checkpoint of the hub, or of a folder, on the GPU if there is one.

    Short windows are repeated whole and then padded with zeros (``repeatpad``), as the published
    processors are set; the window is theirs too, 10.0 s at 48 kHz.

    Parameters
    ----------
    checkpoint : str
        Such as ``"laion/clap-htsat-unfused"``; those of :data:`REVISIONS` are pinned.

    Raises
    ------
    ClapError
        If it is another kind of model, or lacks weights.
    ModelFileError
        If it is not in the hub's cache and cannot be fetched, or is damaged.
    """

    def __init__(self, checkpoint: str = DEFAULT_CHECKPOINT) -> None:
        self.name = f"transformers:{checkpoint}"
        self.device = find_device()
        self.model: Any = _load_model(checkpoint)  # nn.Module declares nothing of it
        self.model.to(self.device)
        revision = _revision(checkpoint)
        try:
            self.tokenizer = load_tokenizer(checkpoint, revision=revision)
            self.processor = ClapFeatureExtractor.from_pretrained(checkpoint, revision=revision)
        except OSError as error:
            raise _unreadable(checkpoint) from error
        self.sample_rate = self.processor.sampling_rate
        self.window = self.processor.nb_max_samples

    def embed_windows(self, windows: Sequence[np.ndarray]) -> Tensor:
        """Projections; see :meth:`WindowedClap.embed_windows`."""
        fusion = self.model.config.audio_config.enable_fusion
        features = self.processor(
            list(windows),
            truncation="fusion" if fusion else "rand_trunc",
            sampling_rate=self.sample_rate,
            return_tensors="pt",
        )["input_features"]
        return self.model.get_audio_features(
            input_features=features.to(self.device, self.model.dtype),
            is_longer=torch.zeros(len(features), 1, dtype=torch.bool, device=self.device),
        ).pooler_output

    @torch.no_grad()
    def embed_text(self, prompts: Sequence[str]) -> Tensor:
        """Projections of sentences; those that are too long for the model are cut."""
        tokens = self.tokenizer(
            sentences(prompts), padding=True, truncation=True, return_tensors="pt"
        )
        features = self.model.get_text_features(
            input_ids=tokens["input_ids"].to(self.device),
            attention_mask=tokens["attention_mask"].to(self.device),
        )
        return features.pooler_output.float().cpu()


def load(checkpoint: str = "") -> TransformersClap:
    """Load a checkpoint of the hub or a folder, :data:`DEFAULT_CHECKPOINT` unless one is named."""
    return TransformersClap(checkpoint or DEFAULT_CHECKPOINT)


def _unreadable(checkpoint: str) -> ModelFileError:
    return ModelFileError(
        f"The CLAP checkpoint {checkpoint} cannot be read from the hub's cache, nor fetched: "
        "check its name, connect to the network (without HF_HUB_OFFLINE) and load it again, or "
        "use the pocket CLAP, which needs no download."
    )


def _revision(checkpoint: str) -> str:
    return REVISIONS.get(checkpoint, "main")


def _load_model(checkpoint: str) -> ClapModel:
    revision = _revision(checkpoint)
    try:
        try:
            config = AutoConfig.from_pretrained(
                checkpoint, revision=revision, trust_remote_code=False
            )
        except ValueError as error:  # of a kind that transformers does not have
            raise ClapError(
                f"{checkpoint} is no CLAP of transformers, and code that comes with a model is not "
                f"run: choose one such as {DEFAULT_CHECKPOINT}."
            ) from error
        kind = config.model_type
        if kind != "clap":
            raise ClapError(
                f"{checkpoint} is a {kind} model and no CLAP: choose one such as "
                f"{DEFAULT_CHECKPOINT}."
            )
        loaded: Any = ClapModel.from_pretrained(
            checkpoint, revision=revision, output_loading_info=True
        )
        model, report = loaded
    except (OSError, SafetensorError) as error:
        raise _unreadable(checkpoint) from error
    if missing := sorted(report["missing_keys"]):
        raise ClapError(f"{checkpoint} lacks {missing[0]}: it is no whole CLAP checkpoint.")
    _check_weights(checkpoint, revision)
    return model.eval().requires_grad_(False)


def _check_weights(checkpoint: str, revision: str) -> None:
    """Compare the weights in the hub's cache with the hash that the hub gave for them."""
    if Path(checkpoint).is_dir():
        return
    for name in WEIGHTS:
        path = try_to_load_from_cache(checkpoint, name, revision=revision)
        if isinstance(path, str):
            check_sha256(Path(path))
