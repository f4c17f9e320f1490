"""Scenes on disk: rendered once, read by every training stage as memory maps.

A dataset is a folder of shards.  Each shard holds log-mels (131 KB a scene) or latents (16 KB) as
float16, and a JSON list of labels and relations, from which captions are drawn; a shard's JSON is
written last, so a half-written shard is rendered again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cached_property, partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from tqdm.auto import tqdm

from helpers.audio import log_mel
from tools.pocket.captions import compose
from tools.pocket.corpus import make_scene

SHARD_SCENES = 500
HELD_OUT_SEED = 9_000_000  # seeds from here on are never trained on


def render(folder: Path, scenes: int, vae: AutoencoderKL | None = None) -> Dataset:
    """Render a dataset of random training scenes, or what is missing of it.

    Parameters
    ----------
    folder : Path
    scenes : int
        How many; rounded up to whole shards of 500.  Scene i is the same in every dataset.
    vae : AutoencoderKL, optional
        Keep the latents that it makes, scaled, instead of the log-mels.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shards = range(-(-scenes // SHARD_SCENES))
    missing = [index for index in shards if not (folder / f"scenes_{index:03}.json").exists()]
    # Spawned, not forked: a forked child can hang in the parent's OpenMP threads.
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        work = pool.map(partial(_render_shard, folder, vae), missing)
        list(tqdm(work, total=len(missing), desc=f"scenes in {folder.name}"))
    return Dataset(folder)


@torch.no_grad()
def decode(latents: Path, folder: Path, scenes: int, vae: AutoencoderKL) -> None:
    """Write the log-mels that an autoencoder makes of a dataset's first scenes, or what is missing.

    Parameters
    ----------
    latents, folder : Path
        Of the dataset that is read, and of the one that is written.
    scenes : int
        How many; rounded up to whole shards of 500.
    vae : AutoencoderKL
    """
    folder.mkdir(parents=True, exist_ok=True)
    for index in tqdm(range(-(-scenes // SHARD_SCENES)), desc=f"scenes in {folder.name}"):
        name = f"scenes_{index:03}.json"
        if (folder / name).exists():
            continue
        values = torch.from_numpy(np.load(latents / f"latents_{index:03}.npy")).float()
        parts = (vae.decode(z / vae.config.scaling_factor).sample[:, 0] for z in values.split(16))
        log_mels = torch.cat([part.half() for part in parts]).numpy()
        np.save(folder / f"log_mels_{index:03}.npy", log_mels)
        facts = (latents / name).read_text(encoding="utf-8")
        (folder / name).write_text(facts, encoding="utf-8")


def draw_scenes(seeds: range, split: str) -> Iterator[tuple[torch.Tensor, dict]]:
    """Log-mel, float32 (1024, 64), and facts of the scene of each seed."""
    for seed in seeds:
        scene = make_scene(np.random.default_rng(seed), split=split)
        facts = {"labels": list(scene.labels), "relation": scene.relation}
        yield log_mel(torch.from_numpy(scene.waveform)[None])[0, 0], facts


@torch.no_grad()
def _render_shard(folder: Path, vae: AutoencoderKL | None, index: int) -> None:
    torch.set_num_threads(1)
    seeds = range(index * SHARD_SCENES, (index + 1) * SHARD_SCENES)
    mels, facts = zip(*draw_scenes(seeds, "train"), strict=True)
    values, kind = torch.stack(mels), "log_mels"
    if vae is not None:
        parts = (vae.encode(part).latent_dist.mode() for part in values[:, None].split(16))
        values, kind = torch.cat(list(parts)) * vae.config.scaling_factor, "latents"
    np.save(folder / f"{kind}_{index:03}.npy", values.numpy().astype(np.float16))
    partial_file = folder / f"scenes_{index:03}.partial"
    partial_file.write_text(json.dumps(facts), encoding="utf-8")
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
        """Labels and relation of every scene."""
        return [
            fact for shard in self.shards for fact in json.loads(shard.read_text(encoding="utf-8"))
        ]

    def caption(self, index: int, rng: np.random.Generator) -> str:
        """Describe a scene in one of many wordings."""
        return compose(self.facts[index]["labels"], self.facts[index]["relation"], rng)

    @cached_property
    def _values(self) -> list[np.ndarray]:
        [kind] = {path.stem[:-4] for path in self.folder.glob("*.npy")}
        files = (f"{kind}_{index:03}.npy" for index in range(len(self.shards)))
        return [np.load(self.folder / name, mmap_mode="r") for name in files]

    def __len__(self) -> int:
        """Return the number of scenes."""
        return len(self.facts)

    def log_mel(self, index: int, first: int = 0, frames: int = 1024) -> torch.Tensor:
        """Frames of a scene's log-mel spectrogram, float32, shape (frames, 64)."""
        shard, row = divmod(index, SHARD_SCENES)
        part = self._values[shard][row, first : first + frames]
        return torch.from_numpy(part.astype(np.float32))

    def latents(self) -> torch.Tensor:
        """Return all scaled latents, float16, shape (scenes, 32, 64, 4)."""
        return torch.from_numpy(np.concatenate(self._values))
