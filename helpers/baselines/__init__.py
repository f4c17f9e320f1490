"""What the paper's method is compared with, each a short file on the same base model.

One of them in three lines::

    from helpers.baselines import methods_for
    sdedit = methods_for("pocket")["sdedit"]
    edits = sdedit.sweep(model, clip, "a rooster crowing", strengths=[0.5, 0.75])
"""

from dataclasses import replace

from helpers.baselines.audioldm_inpainting import AudioLDMInpainting
from helpers.baselines.ddpm_inversion import DDPMInversion
from helpers.baselines.floors import Generation, Source
from helpers.baselines.method import Method
from helpers.baselines.ours import Ours, OursWithoutStep1, without_step_2
from helpers.baselines.sdedit import SDEDIT, SDEdit
from helpers.editing.finetuning import FinetuningSettings
from helpers.editing.presets import PRESETS

__all__ = ["METHODS", "Method", "methods_for"]

_PAPER = PRESETS["paper"]  # full fine-tuning
_PAPER_LORA = replace(  # rank and learning rate are our choice: the paper names none
    _PAPER, finetuning=FinetuningSettings(learning_rate=1e-4, lora_rank=8)
)
_POCKET_LORA = PRESETS["pocket-noised"]
_POCKET = replace(
    _POCKET_LORA, finetuning=FinetuningSettings(steps=100, learning_rate=3e-5, batch_size=4)
)
_POCKET_STEPS = _POCKET_LORA.sampling.steps

# By preset, then by the key that commands and lessons use.  "paper" holds the published settings
# of each baseline; "pocket" the same methods at the small model's number of steps, with guidance
# that was chosen on pocket-dev, and sweeps that reach as far as each method needs: nearer to pure
# noise, and beyond the prompt for the whole UNet, which learns the recording most firmly.
METHODS: dict[str, dict[str, Method]] = {
    "paper": {
        "ours": Ours(_PAPER),
        "ours-lora": Ours(_PAPER_LORA, "Ours (LoRA)"),
        "ours-without-step1": OursWithoutStep1(_PAPER),
        "ours-without-step2": without_step_2(_PAPER),
        "sdedit": SDEDIT,
        "audioldm-inpainting": AudioLDMInpainting(),
        "ddpm-inversion": DDPMInversion(),
        "generation": Generation(_PAPER.sampling),
        "source": Source(),
    },
    "pocket": {
        "ours": Ours(_POCKET, strengths=(0.2, 0.6, 0.8, 1.0, 1.25)),
        "ours-lora": Ours(_POCKET_LORA, "Ours (LoRA)"),
        "ours-without-step1": OursWithoutStep1(
            _POCKET_LORA,
            strengths=(0.5, 0.7, 0.8, _POCKET_LORA.sampling.strength, 1.0),
            fixed_strength=_POCKET_LORA.sampling.strength,
        ),
        "ours-without-step2": without_step_2(_POCKET_LORA),
        "sdedit": SDEdit(
            replace(SDEDIT.sampling, steps=_POCKET_STEPS, guidance_scale=2.0),
            strengths=(0.25, 0.5, 0.75, 0.85, 0.95),
        ),
        "audioldm-inpainting": AudioLDMInpainting(
            steps=_POCKET_STEPS, strengths=(1.0, 1.5, 2.0, 3.0, 4.0), fixed_strength=2.0
        ),
        "ddpm-inversion": DDPMInversion(
            steps=_POCKET_STEPS,
            source_guidance_scale=2.0,
            target_guidance_scale=2.5,
            strengths=(0.35, 0.5, 0.65, 0.8, 0.95),
        ),
        "generation": Generation(
            _POCKET_LORA.sampling,
            strengths=(1.0, 1.5, 2.0, 3.0, 4.0),
            fixed_strength=2.0,
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
