"""Published CLAP checkpoints, read without running what is in them."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from helpers.models import ModelFileError
from helpers.models.latent_audio_model import is_out_of_memory
from helpers.models.published import DAMAGED, check_archive


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
    if not path.is_file():
        raise ModelFileError(f"There is no checkpoint {path}: download it and give its path.")
    # Scores and the optimiser's state lie there too, some of them as NumPy numbers.
    scalar = np.float64(0).__reduce__()[0]  # called numpy._core… by NumPy 2, numpy.core… before
    numbers = [scalar, (scalar, "numpy.core.multiarray.scalar"), np.dtype]
    numbers += [type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8")]
    try:
        check_archive(path)
        with torch.serialization.safe_globals(numbers):
            weights = torch.load(path, map_location="cpu", weights_only=True)[part]
    except pickle.UnpicklingError as error:
        raise ModelFileError(
            f"{path} holds Python code, which is not run, or is no checkpoint: get it from its "
            "publisher again."
        ) from error
    except DAMAGED as error:
        if is_out_of_memory(error):
            raise
        raise ModelFileError(f"{path} is cut short or damaged: download it again.") from error
    except (KeyError, TypeError, IndexError) as error:
        raise ModelFileError(
            f"{path} has no {part!r}: it belongs to another kind of model, choose another file."
        ) from error
    if not isinstance(weights, dict) or not all(isinstance(w, Tensor) for w in weights.values()):
        raise ModelFileError(
            f"{path} holds something other than weights in {part!r}: choose another file."
        )
    return dict(weights)
