"""What the paper's method is compared with, each a short file on the same base model.

One of them in three lines::

    from helpers.methods import methods_for
    sdedit = methods_for("pocket")["sdedit"]
    edits = sdedit.sweep(model, clip, "a rooster crowing", settings=[0.5, 0.75])
"""

from dataclasses import replace

from helpers.editing.finetuning import FinetuningSettings
from helpers.editing.presets import PRESETS
from helpers.methods.audioldm_inpainting import AudioLDMInpainting
from helpers.methods.ddpm_inversion import DDPMInversion
from helpers.methods.method import Method
from helpers.methods.ours import Ours, OursWithoutStep1, OursWithoutStep2
from helpers.methods.references import Generation, Source
from helpers.methods.sdedit import SDEdit

__all__ = ["METHODS", "Method", "methods_for"]

_PAPER = PRESETS["paper"]  # full fine-tuning
_PAPER_LORA = replace(  # rank and learning rate are our choice: the paper names none
    _PAPER, finetuning=FinetuningSettings(learning_rate=1e-4, lora_rank=8)
)
_POCKET_LORA = PRESETS["pocket-noised"]
_POCKET = replace(
    _POCKET_LORA, finetuning=FinetuningSettings(steps=100, learning_rate=3e-5, batch_size=4)
)
_STEPS = _POCKET_LORA.sampling.steps
_START = _POCKET_LORA.sampling.strength

# By preset, then by the key that commands and lessons use.  "paper" holds the published settings
# of each baseline; "pocket" the same methods at the small model's number of steps, with guidance
# that was chosen on pocket-dev, and sweeps that reach as far as each method needs: nearer to pure
# noise, and beyond the prompt for the whole UNet, which learns the recording most firmly.
METHODS: dict[str, dict[str, Method]] = {
    "paper": {
        "ours": Ours.of(_PAPER),
        "ours-lora": Ours.of(_PAPER_LORA, name="Ours (LoRA)"),
        "ours-without-step1": OursWithoutStep1.of(_PAPER),
        "ours-without-step2": OursWithoutStep2.of(_PAPER),
        "sdedit": SDEdit(),
        "audioldm-inpainting": AudioLDMInpainting(),
        "ddpm-inversion": DDPMInversion(),
        "generation": Generation(sampling=_PAPER.sampling),
        "source": Source(),
    },
    "pocket": {
        "ours": Ours.of(_POCKET, settings=(0.2, 0.6, 0.8, 1.0, 1.25)),
        "ours-lora": Ours.of(_POCKET_LORA, name="Ours (LoRA)"),
        "ours-without-step1": OursWithoutStep1.of(
            _POCKET_LORA, settings=(0.5, 0.7, 0.8, _START, 1.0), fixed_setting=_START
        ),
        "ours-without-step2": OursWithoutStep2.of(_POCKET_LORA),
        "sdedit": SDEdit(settings=(0.25, 0.5, 0.75, 0.85, 0.95)).with_sampling(
            steps=_STEPS, guidance_scale=2.0
        ),
        "audioldm-inpainting": AudioLDMInpainting(
            settings=(1.0, 1.5, 2.0, 3.0, 4.0), fixed_setting=2.0
        ).with_sampling(steps=_STEPS),
        "ddpm-inversion": DDPMInversion(
            settings=(0.35, 0.5, 0.65, 0.8, 0.95), source_guidance_scale=2.0
        ).with_sampling(steps=_STEPS, guidance_scale=2.5),
        "generation": Generation(
            sampling=_POCKET_LORA.sampling, settings=(1.0, 1.5, 2.0, 3.0, 4.0), fixed_setting=2.0
        ),
        "source": Source(),
    },
}


def methods_for(model_preset: str) -> dict[str, Method]:
    """Return the methods, by key, with settings that fit a base model.

    Parameters
    ----------
    model_preset : str
        A name in :data:`METHODS`: "paper" for TANGO and its like, "pocket" for the embedded model.

    Raises
    ------
    ValueError
        For another name.
    """
    if model_preset not in METHODS:
        raise ValueError(
            f"There are no methods for {model_preset!r}: choose from {', '.join(METHODS)}."
        )
    return METHODS[model_preset]
