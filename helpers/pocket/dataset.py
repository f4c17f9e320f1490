"""Scenes on disk: rendered once, read by every training stage as memory maps.

A dataset is a folder of shards.  Each shard holds waveforms (int16), log-mels (float16) and a JSON
list of labels, captions and onsets; a shard's JSON is written last, so a half-written shard is
rendered again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cached_property, partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from helpers.audio import log_mel
from helpers.pocket.corpus import Scene, make_scene

SHARD_SCENES = 500
HELD_OUT_FOLDS = (5,)
HELD_OUT_SEED = 9_000_000


def render(folder: Path, scenes: int, *, held_out: bool = False) -> Dataset:
    """Render a dataset of random scenes, or what is missing of it.

    Parameters
    ----------
    folder : Path
    scenes : int
        How many; rounded up to whole shards of 500.
    held_out : bool
        Draw recordings from ESC-10's fold 5 and foley from seeds that training never uses.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shards = range(-(-scenes // SHARD_SCENES))
    missing = [index for index in shards if not (folder / f"scenes_{index:03}.json").exists()]
    work = partial(_render_shard, folder, held_out)
    # Spawned, not forked: a forked child can hang in the parent's OpenMP threads.
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        list(tqdm(pool.map(work, missing), total=len(missing), desc=f"scenes in {folder.name}"))
    return Dataset(folder)


def _render_shard(folder: Path, held_out: bool, index: int) -> None:
    torch.set_num_threads(1)
    seeds = index * SHARD_SCENES + np.arange(SHARD_SCENES) + held_out * HELD_OUT_SEED
    draw: Callable[[np.random.Generator], Scene] = (
        partial(make_scene, folds=HELD_OUT_FOLDS) if held_out else make_scene
    )
    scenes = [draw(np.random.default_rng(int(seed))) for seed in seeds]
    waveforms = np.stack([scene.waveform for scene in scenes])
    mels = [log_mel(torch.from_numpy(part))[:, 0] for part in np.array_split(waveforms, 20)]
    np.save(folder / f"waveforms_{index:03}.npy", np.round(waveforms * 32767).astype(np.int16))
    np.save(folder / f"log_mels_{index:03}.npy", torch.cat(mels).numpy().astype(np.float16))
    facts = [
        {"labels": s.labels, "captions": s.captions, "onsets": s.onsets.tolist()} for s in scenes
    ]
    partial_file = folder / f"scenes_{index:03}.partial"
    partial_file.write_text(json.dumps(facts))
    partial_file.replace(folder / f"scenes_{index:03}.json")


class Dataset:
    """Random access to the rendered scenes of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shards = sorted(folder.glob("scenes_*.json"))
        if not self.shards:
            raise ValueError(f"{folder} holds no rendered scenes: run the corpus stage first.")

    @cached_property
    def facts(self) -> list[dict]:
        """Labels, captions and onsets of every scene."""
        return [fact for shard in self.shards for fact in json.loads(shard.read_text())]

    def _maps(self, kind: str) -> list[np.ndarray]:
        return [
            np.load(self.folder / f"{kind}_{shard.stem[-3:]}.npy", mmap_mode="r")
            for shard in self.shards
        ]

    @cached_property
    def _waveforms(self) -> list[np.ndarray]:
        return self._maps("waveforms")

    @cached_property
    def _log_mels(self) -> list[np.ndarray]:
        return self._maps("log_mels")

    def __len__(self) -> int:
        """Return the number of scenes."""
        return len(self.facts)

    def waveform(self, index: int, first: int = 0, samples: int | None = None) -> torch.Tensor:
        """Waveform (samples,) float32 of a scene, or the part that begins at ``first``."""
        row = self._waveforms[index // SHARD_SCENES][index % SHARD_SCENES]
        return torch.from_numpy(row[first:][:samples].astype(np.float32) / 32767)

    def log_mel(self, index: int, first: int = 0, frames: int | None = None) -> torch.Tensor:
        """Log-mel (frames, 64) float32 of a scene, or the part that begins at ``first``."""
        row = self._log_mels[index // SHARD_SCENES][index % SHARD_SCENES]
        return torch.from_numpy(row[first:][:frames].astype(np.float32))
