"""The independent classifier: trained on recordings and foley only, it has never seen an edit.

It shares neither weights nor training objective with the pocket CLAP, so it can check what CLAP
says.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from helpers.audio import Clip
from helpers.data import data_path
from helpers.evaluation.audio_tower import AudioTower, load_judge
from helpers.sounds.vocabulary import LABELS
from helpers.storage import content_hash


@cache
def load_classifier(folder: Path | None = None) -> AudioTower:
    """Load the classifier of ``data/pocket/classifier``, or of another folder.

    Raises
    ------
    StorageError, ValueError
        As :func:`load_judge`, and if its outputs are other sounds than the vocabulary's.
    """
    folder = folder or data_path("pocket", "classifier")
    tower = AudioTower(len(LABELS))
    if load_judge(tower, folder)["labels"] != list(LABELS):
        raise ValueError(f"{folder} names other sounds than the vocabulary: train it anew.")
    return tower


@torch.no_grad()
def sound_probabilities(clips: Sequence[Clip]) -> Tensor:
    """Probability of each of the 26 sounds, float32, shape (clips, 26), 0…1 each.

    Lesson: 03.
    """
    log_mels = torch.cat([clip.log_mel() for clip in clips])
    return load_classifier()(log_mels).sigmoid()


def classifier_weights() -> str:
    """SHA-256 of the contents of the classifier's weights."""
    return content_hash(load_classifier())


def name_sounds(clips: Sequence[Clip]) -> list[str]:
    """Name the most probable sound of each clip.

    Lesson: 00.
    """
    return [LABELS[index] for index in sound_probabilities(clips).argmax(1)]
