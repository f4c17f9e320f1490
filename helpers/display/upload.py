"""A button with which a reader brings a recording into a notebook."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ipywidgets import FileUpload

from helpers.audio import SUFFIXES


def upload_button() -> FileUpload:
    """Return a button that offers the recordings that :func:`helpers.audio.load_clip` reads."""
    return FileUpload(accept=",".join(SUFFIXES), description="Recording")


def uploaded_file(button: FileUpload) -> Path:
    """Write what was chosen last to a temporary file, and return its path.

    Parameters
    ----------
    button : FileUpload
        Of ipywidgets 8, whose value is a tuple, or of ipywidgets 7 (Colab), where it is a dict.

    Raises
    ------
    ValueError
        If nothing is chosen yet.
    """
    if not button.value:
        raise ValueError("No recording is chosen: choose one with the button.")
    if isinstance(button.value, dict):
        name, chosen = list(button.value.items())[-1]
    else:
        chosen = button.value[-1]
        name = chosen["name"]
    path = Path(tempfile.mkdtemp(), Path(name).name[-50:])
    path.write_bytes(chosen["content"])
    return path
