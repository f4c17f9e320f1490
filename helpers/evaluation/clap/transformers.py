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
from transformers import ClapFeatureExtractor, ClapModel, PretrainedConfig

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
    checkpoint : str, optional
        By default :data:`DEFAULT_CHECKPOINT`; those of :data:`REVISIONS` are pinned.

    Raises
    ------
    ClapError
        If it is another kind of model, or lacks weights.
    ModelFileError
        If it is not in the hub's cache and cannot be fetched, or is damaged.
    """

    def __init__(self, checkpoint: str = "") -> None:
        checkpoint = checkpoint or DEFAULT_CHECKPOINT
        revision = REVISIONS.get(checkpoint, "main")
        self.name = f"transformers:{checkpoint}"
        self.device = find_device()
        try:
            model = _load_model(checkpoint, revision)
            self.tokenizer = load_tokenizer(checkpoint, revision=revision)
            self.processor = ClapFeatureExtractor.from_pretrained(checkpoint, revision=revision)
        except (OSError, SafetensorError) as error:
            raise ModelFileError(
                f"The CLAP checkpoint {checkpoint} cannot be read from the hub's cache, nor "
                "fetched: check its name, connect to the network (without HF_HUB_OFFLINE) and load "
                "it again, or use the pocket CLAP, which needs no download."
            ) from error
        _check_weights(checkpoint, revision)
        self.model: Any = model.eval().requires_grad_(False).to(self.device)
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


def _load_model(checkpoint: str, revision: str) -> Any:
    config, _ = PretrainedConfig.get_config_dict(checkpoint, revision=revision)
    if (kind := config.get("model_type")) != "clap":
        raise ClapError(
            f"{checkpoint} is a {kind} model and no CLAP of transformers, and code that comes with "
            f"a model is not run: choose one such as {DEFAULT_CHECKPOINT}."
        )
    loaded: Any = ClapModel.from_pretrained(checkpoint, revision=revision, output_loading_info=True)
    model, report = loaded
    if missing := sorted(report["missing_keys"]):
        raise ClapError(f"{checkpoint} lacks {missing[0]}: it is no whole CLAP checkpoint.")
    return model


def _check_weights(checkpoint: str, revision: str) -> None:
    """Compare the weights in the hub's cache with the hash that the hub gave for them."""
    if Path(checkpoint).is_dir():
        return
    for name in WEIGHTS:
        path = try_to_load_from_cache(checkpoint, name, revision=revision)
        if isinstance(path, str):
            check_sha256(Path(path))


load = TransformersClap
