"""What every CLAP back end is: recordings and sentences in one space, and cosines in it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from importlib.util import find_spec

from torch import Tensor

from helpers.audio import Clip


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


def require(package: str, environment: str) -> None:
    """Raise a ClapError that says how to get a back end's package unless it is installed."""
    if find_spec(package) is None:
        raise ClapError(
            f"The package {package} is not installed, and cannot share this environment: `make "
            f"setup-{environment}` makes .venv-{environment}, whose Python runs the same commands."
        )
