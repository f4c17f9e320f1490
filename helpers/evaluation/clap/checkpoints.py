"""Published CLAP checkpoints, read without running what is in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from helpers.models import ModelFileError
from helpers.models.published import named_tensors, read_content


def read_checkpoint(path: Path, part: str) -> dict[str, Tensor]:
    """Weights of a training checkpoint, which holds other things beside them.

    Parameters
    ----------
    path : Path
    part : str
        What the checkpoint calls its weights.

    Raises
    ------
    ModelFileError
        If the file is missing, holds code, is cut short, or has no such part.
    """
    # Scores and the optimiser's state lie there too, some of them as NumPy numbers.
    scalar = np.float64(0).__reduce__()[0]  # called numpy._core… by NumPy 2, numpy.core… before
    numbers = [scalar, (scalar, "numpy.core.multiarray.scalar"), np.dtype]
    numbers += [type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8")]
    with torch.serialization.safe_globals(numbers):
        content = read_content(path)
    if not isinstance(content, dict) or part not in content:
        raise ModelFileError(
            f"{path} has no {part!r}: it belongs to another kind of model, choose another file."
        )
    return named_tensors(content[part], path, f"weights in {part!r}")
