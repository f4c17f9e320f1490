"""Base models: one class, and one builder per family of published or embedded checkpoints."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from helpers.models import audioldm, audioldm2, tango
from helpers.models.latent_audio_model import Conditioning, LatentAudioModel
from helpers.models.pocket import load_pocket
from helpers.models.published import ModelFileError, read_json


class Family(NamedTuple):
    """How the models of one architecture are made.

    Parameters
    ----------
    load : callable
        From a name or folder, a device and the UNet's dtype to a model.
    blueprint : callable, optional
        From a name or folder to a model on the meta device, from which its needs are computed.
    is_at_hand : callable
        Whether nothing large of that name or folder has to be downloaded.
    """

    load: Callable[[str | Path, torch.device, torch.dtype], LatentAudioModel]
    blueprint: Callable[[str | Path], LatentAudioModel] | None = None
    is_at_hand: Callable[[str | Path], bool] = lambda source: True


def _load_pocket(source: str, device: torch.device, dtype: torch.dtype) -> LatentAudioModel:
    model = load_pocket()
    for module in (model.unet, model.vae, model.vocoder):
        module.to(device)
    nn.Module.to(model.unet, dtype)  # diffusers' own `to` warns of nothing
    return model


POCKET = Family(_load_pocket)
TANGO = Family(tango.load_tango, tango.blueprint, tango.is_at_hand)
AUDIOLDM = Family(audioldm.load_audioldm, audioldm.blueprint, audioldm.is_at_hand)
AUDIOLDM2 = Family(audioldm2.load_audioldm2, audioldm2.blueprint, audioldm2.is_at_hand)

BUILDERS: dict[str, Family] = {
    "pocket": POCKET,
    **dict.fromkeys(tango.REPOSITORIES, TANGO),
    **dict.fromkeys(audioldm.REPOSITORIES, AUDIOLDM),
    **dict.fromkeys(audioldm2.REPOSITORIES, AUDIOLDM2),
}
FOLDERS = {  # by the _class_name in model_index.json
    tango.CLASS_NAME: TANGO,
    audioldm.CLASS_NAME: AUDIOLDM,
    audioldm2.CLASS_NAME: AUDIOLDM2,
}


def load_model(
    name: str | Path = "pocket",
    preset: str | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> LatentAudioModel:
    """Load a base model.

    What a published model needs is computed and printed before anything is downloaded, and
    whenever a preset is named; a device that cannot hold it is refused.

    Parameters
    ----------
    name : str or Path
        One of :data:`BUILDERS`, or a folder that holds a model's published files, or what
        :func:`helpers.models.tango.convert` saved.
    preset : str, optional
        Name of the settings it is for (:data:`helpers.editing.PRESETS`).
    device : torch.device or str, optional
        By default the GPU if there is one.
    dtype : torch.dtype, optional
        Of the UNet; by default the preset's on a GPU, else float32.

    Raises
    ------
    ValueError
        If there is no such model or preset.
    ModelFileError
        If a file of the model is missing, damaged or belongs to another model.
    DeviceTooSmall
        If the device's memory is too small for the preset, or for every preset.
    """
    # The presets lie above the models, which are complete without them.
    from helpers.editing.nonrigid import preset as settings_of

    family = _family(name)
    device = _device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    settings = None if preset is None else settings_of(preset)
    if dtype is None and device.type == "cpu":
        dtype = torch.float32
    if family.blueprint and (preset or not family.is_at_hand(name)):
        from helpers.models.requirements import FULL_SIZE, check_device

        check_device(family.blueprint(name), [preset] if preset else FULL_SIZE, device, dtype)
    return family.load(name, device, dtype or (settings.dtype if settings else torch.float32))


def _device(name: torch.device | str) -> torch.device:
    """Return a device that is there, or say which ones are."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        there = "cuda or cpu" if torch.cuda.is_available() else "cpu (there is no GPU)"
        raise ValueError(f"The device {str(name)!r} cannot be used here: take {there}.") from error
    return device


def _family(name: str | Path) -> Family:
    """Find the family a name or folder belongs to, or say what was meant."""
    if str(name) in BUILDERS:
        return BUILDERS[str(name)]
    folder = Path(name)
    if folder.is_dir():
        if (folder / "main_config.json").is_file():
            return TANGO
        if (folder / "model_index.json").is_file():
            kind = read_json(folder / "model_index.json").get("_class_name")
            if kind in FOLDERS:
                return FOLDERS[kind]
        raise ModelFileError(
            f"{folder} holds no model that can be loaded: give a folder with the published files "
            "of TANGO (main_config.json and the rest), AudioLDM or AudioLDM 2, or one that "
            "convert() made."
        )
    close = difflib.get_close_matches(str(name).rsplit("/")[-1].lower(), BUILDERS, n=1, cutoff=0.6)
    meant = f", did you mean {close[0]!r}?" if close else ":"
    raise ValueError(
        f"There is no model and no folder {str(name)!r}{meant} choose from {', '.join(BUILDERS)}."
    )


__all__ = ["BUILDERS", "Conditioning", "LatentAudioModel", "ModelFileError", "load_model"]
