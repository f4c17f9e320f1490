"""A recording that is chosen in a notebook."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ipywidgets import FileUpload


def uploaded_file(upload: FileUpload) -> Path | None:
    """Write the file that was chosen with an upload button to a temporary folder.

    Parameters
    ----------
    upload : FileUpload
        Of ipywidgets 8, or of 7, which Google Colab has.

    Returns
    -------
    Path or None
        A file of the chosen file's name and content; None if none was chosen.
    """
    if not upload.value:
        return None
    if isinstance(upload.value, Mapping):  # ipywidgets 7: files by their name
        [name, chosen], *_ = upload.value.items()
    else:
        [chosen, *_] = upload.value
        name = chosen["name"]
    path = Path(tempfile.mkdtemp(), PureWindowsPath(name).name)
    path.write_bytes(chosen["content"])
    return path
