"""Text CLAP and Audio CLAP (Sec. 3.2 of the paper) by any of four back ends.

CLAP puts recordings and sentences into one space; scores are cosines in it.  Scores of different
checkpoints are not comparable, so a score never travels without :attr:`Clap.name`.

A back end is one file, whose ``load(checkpoint)`` gives a :class:`Clap`, and one line of
:data:`BACK_ENDS`.  Two of them need packages that cannot share the default environment; a back
end's code is imported when it is asked for, not before.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from torch import Tensor, nn

from helpers.audio import Clip
from helpers.models import ModelFileError
from helpers.storage import content_hash

BACK_ENDS = {  # name: file
    "pocket": "pocket",  # embedded, trained on the pocket model's sounds alone
    "transformers": "transformers",  # LAION's checkpoints in their hub form
    "laion-clap": "laion",  # LAION's package
    "msclap": "msclap",  # Microsoft's package, which the paper cites
}


class ClapError(ValueError):
    """A CLAP back end or checkpoint that cannot be used; the message says why and what to do."""


class Clap(ABC):
    """Recordings and sentences in one space.

    Attributes
    ----------
    name : str
        Back end and checkpoint, as :func:`load_clap` takes them; goes with every score.
    model : torch.nn.Module
    """

    name: str
    model: nn.Module

    @property
    def weights(self) -> str:
        """SHA-256 of the contents of all weights that take part in a score."""
        return content_hash(self.model)

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

    Lesson: 06.
    """
    back_end, _, checkpoint = name.partition(":")
    if back_end not in BACK_ENDS:
        raise ValueError(f"There is no CLAP {name!r}: choose from {', '.join(BACK_ENDS)}.")
    return import_module(f"{__name__}.{BACK_ENDS[back_end]}").load(checkpoint)


def sentences(prompts: Sequence[str]) -> list[str]:
    """Return prompts as a list; raise a ClapError for one alone, whose letters would be scored."""
    if isinstance(prompts, str):
        raise ClapError(f"One sentence is no list: write [{prompts!r}].")
    return list(prompts)


def import_package(package: str, environment: str, advice: str = "") -> ModuleType:
    """Import a back end's package, which lives in an environment of its own.

    Raises
    ------
    ClapError
        If it is not installed or cannot be imported; it says how to get it, and ``advice``.
    """
    if find_spec(package) is None:
        raise ClapError(
            f"The package {package} is not installed, and cannot share this environment: `make "
            f"setup-{environment}` makes .venv-{environment}, whose Python runs the same commands."
        )
    try:
        return import_module(package)
    except (ImportError, OSError, RuntimeError) as error:
        raise ClapError(
            f"{package} cannot be imported ({str(error).splitlines()[0]}): use the packages of "
            f"`make setup-{environment}`{advice}."
        ) from error


@contextmanager
def needing(weights: str) -> Iterator[None]:
    """Say that a package needs a text encoder's weights, if making its model lacks files.

    Raises
    ------
    ModelFileError
        In place of the ``OSError`` that the package raises.
    """
    try:
        yield
    except OSError as error:
        raise ModelFileError(
            f"This CLAP needs the weights of {weights} in the hub's cache: connect to the network "
            "once, without HF_HUB_OFFLINE."
        ) from error
