"""How every command ends: what can be expected to go wrong is one sentence, not a traceback."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence
from functools import wraps

from helpers.models.latent_audio_model import OutOfMemory, is_out_of_memory

EXPECTED = (ValueError, ArithmeticError, OSError, MemoryError, OutOfMemory)
UNUSABLE = 2  # something given cannot be used
INTERRUPTED = 130

Main = Callable[[Sequence[str] | None], int | None]


def command(main: Main) -> Callable[..., int]:
    """Make a function of a command line's arguments end as commands do.

    Parameters
    ----------
    main : callable
        From the arguments, None for the command line's, to the exit status, None for 0.

    Returns
    -------
    callable
        It returns the status: 2 after an error that can be expected and 130 after Ctrl-C, each told
        on stderr in one sentence.
    """

    @wraps(main)
    def run(arguments: Sequence[str] | None = None) -> int:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # a terminal may know no η
                stream.reconfigure(errors="replace")
        try:
            return main(arguments) or 0
        except KeyboardInterrupt:
            print("\nStopped: run the same command again; what was done is kept.", file=sys.stderr)
            return INTERRUPTED
        except EXPECTED as error:
            print(told(error), file=sys.stderr)
            return UNUSABLE
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            print(told(MemoryError()), file=sys.stderr)
            return UNUSABLE

    return run


def told(error: BaseException) -> str:
    """Return an error as one line."""
    if isinstance(error, OSError) and error.strerror:  # the system's own, not one of our sentences
        return (
            f"{error.filename or 'A file'} cannot be used ({error.strerror}): check the path, its "
            "permissions and the room on its disk."
        )
    if isinstance(error, MemoryError):
        return "The computer's memory is too small for this: close other programs, or ask for less."
    return " ".join(str(error).split()) or type(error).__name__
