"""Text CLAP and Audio CLAP (Sec. 3.2 of the paper) by any of four back ends.

CLAP puts recordings and sentences into one space; scores are cosines in it.  Scores of different
checkpoints are not comparable, so a score never travels without :attr:`Clap.name`.

A back end is one file, whose ``load(checkpoint)`` gives a :class:`Clap`, and one line of
:data:`BACK_ENDS`.  Two of them need packages that cannot share the default environment; a back
end's code is imported when it is asked for, not before.
"""

from __future__ import annotations

from importlib import import_module

from helpers.evaluation.clap.base import Clap, ClapError

BACK_ENDS = {  # name: file
    "pocket": "pocket",  # embedded, trained on the pocket model's sounds alone
    "transformers": "transformers",  # LAION's checkpoints in their hub form
    "laion-clap": "laion",  # LAION's package
    "msclap": "msclap",  # Microsoft's package, which the paper cites
}


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
    return import_module(f"{__name__}.{BACK_ENDS[back_end]}").load(checkpoint)


__all__ = ["BACK_ENDS", "Clap", "ClapError", "load_clap"]
