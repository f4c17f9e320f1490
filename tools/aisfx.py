"""Bring aiSFX's weights into ``data/aisfx``: ``python -m tools.aisfx``, or ``make aisfx``.

The package is fetched by pip, and must have the hash below.  Its weights are a pickle; nothing but
tensors and the numbers that it holds is let through.  What the network embeds is kept, in half
precision; the heads that sort sounds into its libraries' categories are left out.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy._core.multiarray import scalar
from safetensors.torch import save
from torch import Tensor

from helpers.data import data_path
from helpers.evaluation.foreign_ear import BINS, BLOCK, HOP, RATE, WINDOW, EffectsNetwork
from helpers.storage import write_text, write_whole
from tools.command import command

VERSION = "0.1.2"
WHEEL_HASH = "bfe219950715af179e9a1653e7117cc1852baef267cd6596c42cad74afe1d194"
INSIDE = "aisfx/models/checkpoint.pth"
CONFIG = {
    "name": "aiSFX",
    "source": f"https://pypi.org/project/aisfx/{VERSION}/",
    "authors": "Alison B. Ma and Alexander Lerch",
    "license": "CC-BY-4.0",
    "changes": "half precision; the classification heads are left out",
    "paper": "Representation Learning for the Automatic Indexing of Sound Effects Libraries, "
    "ISMIR 2022",
    "sample_rate": RATE,
    "window": WINDOW,
    "hop": HOP,
    "mel_bins": BINS,
    "block_frames": BLOCK,
}


def fetch() -> bytes:
    """Return the package's checkpoint; raise an OSError if pip cannot bring the right package."""
    with tempfile.TemporaryDirectory() as folder:
        wanted = Path(folder, "wanted.txt")
        wanted.write_text(f"aisfx=={VERSION} --hash=sha256:{WHEEL_HASH}\n", encoding="utf-8")
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder]
        done = subprocess.run([*pip, "--require-hashes", "-r", str(wanted)], check=False)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            raise OSError(f"pip could not bring aisfx {VERSION}: check the network and try again.")
        with zipfile.ZipFile(wheels[0]) as wheel:
            return wheel.read(INSIDE)


def convert(checkpoint: bytes) -> dict[str, Tensor]:
    """Turn the package's weights into the network's by our names, convolutions in float16."""
    numbers = (scalar, "numpy.core.multiarray.scalar")
    kinds = [np.dtype, type(np.dtype(np.int64)), type(np.dtype(np.int32)), numbers]
    with torch.serialization.safe_globals(kinds):
        state, _ = torch.load(io.BytesIO(checkpoint), map_location="cpu", weights_only=True)
    theirs = [
        f"embedding_net.conv_block{block}.{part}{number}.{name}"
        for block in range(1, 5)
        for number in (1, 2)
        for part, names in (
            ("conv", ("weight",)),
            ("bn", ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")),
        )
        for name in names
    ]
    ours = EffectsNetwork().state_dict()
    return {
        name: state[key].half() if state[key].dim() == 4 else state[key]
        for name, key in zip(ours, theirs, strict=True)
    }


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """Fetch, convert, write weights and config."""
    weights = convert(fetch())
    folder = data_path() / "aisfx"
    write_whole(folder / "model.safetensors", lambda file: file.write(save(weights)))
    write_text(folder / "config.json", json.dumps(CONFIG, indent=1, ensure_ascii=False) + "\n")
    print(f"{len(weights)} tensors in {folder}")


if __name__ == "__main__":
    sys.exit(main())
