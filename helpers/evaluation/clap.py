"""Text CLAP and Audio CLAP (Sec. 3.2 of the paper) by any of four back ends.

CLAP puts recordings and sentences into one space; scores are cosines in it.  Scores of different
checkpoints are not comparable, so a score never travels without :attr:`Clap.name`.  The back ends
are

- ``pocket``: embedded, trained on the pocket model's sounds alone;
- ``transformers``: LAION's checkpoints in their hub form, ``laion/clap-htsat-unfused`` by default;
- ``laion-clap``: LAION's package, ``630k-audioset-best.pt`` by default;
- ``msclap``: Microsoft's package, which the paper cites without naming the checkpoint.

The two packages cannot share the default environment; their code is imported when they are asked
for, not before.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from helpers.audio import Clip
from helpers.data import data_path
from helpers.evaluation.audio_tower import PocketClapModel
from helpers.models.minilm import load_minilm


class ClapError(ValueError):
    """A CLAP back end or checkpoint that cannot be used; the message says why and what to do."""


class Clap(ABC):
    """Recordings and sentences in one space.

    Attributes
    ----------
    name : str
        Back end and checkpoint, as :func:`load_clap` takes them; goes with every score.
    """

    name: str

    @abstractmethod
    def embed_audio(self, clips: Sequence[Clip]) -> Tensor:
        """Projections h_a of recordings, float32, shape (clips, width), L2-normalised.

        The same clip always gives the same projection, alone or in a batch (up to rounding).
        """

    @abstractmethod
    def embed_text(self, prompts: Sequence[str]) -> Tensor:
        """Projections h_t of sentences, float32, shape (prompts, width), L2-normalised."""

    def text_score(self, edit: Clip, prompt: str) -> float:
        """Text CLAP, −1…1: whether the edit is what the sentence describes (Eq. 3).

        The cosine of the projections ĥ_a of the edit and ĥ_t of the sentence,
        ĥ_aᵀ ĥ_t / (‖ĥ_a‖ · ‖ĥ_t‖); the norms are 1 here.
        """
        return float(self.embed_audio([edit])[0] @ self.embed_text([prompt])[0])

    def audio_score(self, edit: Clip, source: Clip) -> float:
        """Audio CLAP, −1…1: whether the edit still is like its source (Eq. 4).

        The cosine of the projections ĥ_a of the edit and h_a of the recording it was made from,
        ĥ_aᵀ h_a / (‖ĥ_a‖ · ‖h_a‖); the norms are 1 here.
        """
        edited, original = self.embed_audio([edit, source])
        return float(edited @ original)


class PocketClap(Clap):
    """The embedded CLAP: the whole padded 10.24 s window, deterministic.

    Parameters
    ----------
    folder : Path, optional
        Where ``model.safetensors`` is; ``data/pocket/clap`` by default.
    """

    name = "pocket"

    def __init__(self, folder: Path | None = None) -> None:
        self.model = PocketClapModel().load(folder or data_path("pocket", "clap"))

    @torch.no_grad()
    def embed_audio(self, clips: Sequence[Clip]) -> Tensor:
        """Projections of recordings, shape (clips, 256); see :meth:`Clap.embed_audio`."""
        return self.model.embed_audio(torch.cat([clip.log_mel() for clip in clips]))

    @torch.no_grad()
    def embed_text(self, prompts: Sequence[str]) -> Tensor:
        """Projections of sentences, shape (prompts, 256); see :meth:`Clap.embed_text`."""
        return self.model.embed_text(load_minilm().sentence(list(prompts)))


def load_clap(name: str = "pocket") -> Clap:
    """Load a CLAP back end, with its usual checkpoint or another.

    Parameters
    ----------
    name : str
        - ``"pocket"``;
        - ``"transformers"`` or ``"transformers:laion/larger_clap_general"``: any CLAP checkpoint
          of the hub, or a folder that holds one;
        - ``"laion-clap"`` or ``"laion-clap:path/to/630k-best.pt"``;
        - ``"msclap"``, ``"msclap:2022"`` or ``"msclap:2023"`` (the default).

    Raises
    ------
    ValueError
        If there is no such back end.
    ClapError
        If the back end's package is not installed, or the checkpoint is not one of its kind.
    ModelFileError
        If a file of the checkpoint is missing, damaged or out of reach.
    """
    back_end, _, checkpoint = name.partition(":")
    if back_end not in BACK_ENDS:
        raise ValueError(f"There is no CLAP {name!r}: choose from {', '.join(BACK_ENDS)}.")
    return BACK_ENDS[back_end](checkpoint)


def require(package: str, environment: str) -> None:
    """Raise a ClapError that says how to get a back end's package unless it is installed."""
    if find_spec(package) is None:
        raise ClapError(
            f"The package {package} is not installed, and cannot share this environment: `make "
            f"setup-{environment}` makes .venv-{environment}, whose Python runs the same commands."
        )


def _load_pocket(checkpoint: str) -> Clap:
    if checkpoint:
        raise ClapError("The pocket CLAP has one checkpoint: load it as 'pocket'.")
    return PocketClap()


def _load_transformers(checkpoint: str) -> Clap:
    from helpers.evaluation.clap_transformers import DEFAULT_CHECKPOINT, TransformersClap

    return TransformersClap(checkpoint or DEFAULT_CHECKPOINT)


def _load_laion(checkpoint: str) -> Clap:
    from helpers.evaluation.clap_laion import LaionClap

    return LaionClap(Path(checkpoint) if checkpoint else None)


def _load_msclap(checkpoint: str) -> Clap:
    from helpers.evaluation.clap_msclap import DEFAULT_VERSION, MsClap

    return MsClap(checkpoint or DEFAULT_VERSION)


BACK_ENDS = {
    "pocket": _load_pocket,
    "transformers": _load_transformers,
    "laion-clap": _load_laion,
    "msclap": _load_msclap,
}
