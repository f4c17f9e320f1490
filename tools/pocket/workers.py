"""Many fits on all cores: a process for each core, each with one thread and its own model.

On processors without a GPU two processes of one thread finish more edits an hour than one process
of two threads.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import torch
from tqdm.auto import tqdm

from helpers.evaluation.judges import Listener
from helpers.models.latent_audio_model import LatentAudioModel
from helpers.models.pocket import load_pocket
from helpers.storage import content_hash

Item, Result = TypeVar("Item"), TypeVar("Result")
_bench: Bench  # of this process


@dataclass(frozen=True, eq=False)
class Bench:
    """The weights that are measured, and the classifier that judges them."""

    model: LatentAudioModel
    listener: Listener

    @property
    def weights(self) -> dict[str, str]:
        """SHA-256 of the contents of all parts and of the classifier, by their names."""
        classifier = content_hash([self.listener.network, self.listener.offsets])
        return self.model.weights | {"classifier": classifier}


def load_bench(weights: Path) -> Bench:
    """Load the model of a folder, at a zero terminal SNR, and the classifier that lies there."""
    model = load_pocket(weights).with_terminal_snr("zero")
    return Bench(model, Listener(weights / "classifier"))


def for_each(
    measure: Callable[[Bench, Item], Result],
    items: Iterable[Item],
    weights: Path,
    description: str,
) -> Iterator[tuple[Item, Result]]:
    """Measure every item in one of as many processes as there are cores.

    Parameters
    ----------
    measure : callable
        Of a module's top level, from the bench and an item to what is wanted.
    items : iterable
        What can be sent to another process.
    weights : Path
        Folder of the model's weights and of the classifier.
    description : str
        Of the progress bar.

    Yields
    ------
    item, result
        As they are ready, not in their order.
    """
    # Spawned, not forked: a forked child can hang in the parent's OpenMP threads.
    pool = ProcessPoolExecutor(os.cpu_count(), get_context("spawn"), _start, (weights,))
    try:
        futures = {pool.submit(_measure, measure, item): item for item in items}
        for future in tqdm(as_completed(futures), total=len(futures), desc=description):
            yield futures[future], future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _start(weights: Path) -> None:
    global _bench
    torch.set_num_threads(1)
    _bench = load_bench(weights)


def _measure(measure: Callable[[Bench, Item], Result], item: Item) -> Result:
    return measure(_bench, item)
