"""What every method of a comparison offers, and the beginning and end that they share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from torch import Tensor

from helpers.audio import Clip
from helpers.editing.inpainting import Gap, blank, latent_mask, paste
from helpers.models.latent_audio_model import LatentAudioModel

EDITS = frozenset({"addition", "inpainting", "style_transfer"})
LARGEST_GUIDANCE = 30.0


class Method(Protocol):
    """One way of editing a recording with a prompt, with one knob for how strongly.

    Parameters
    ----------
    name : str
        As tables print it.
    knob : str
        What the sweep varies.
    strengths : tuple of float
        The values of the knob that the method is offered, weakest edit first.
    fixed_strength : float
        The one value to report where nothing is chosen by a score.
    edits : frozenset of str
        Which of :data:`EDITS` the method is for.
    """

    name: str
    knob: str
    strengths: tuple[float, ...]
    fixed_strength: float
    edits: frozenset[str]

    def sweep(
        self,
        model: LatentAudioModel,
        clip: Clip,
        prompt: str,
        strengths: Sequence[float],
        gap: Gap | None = None,
        folder: Path | None = None,
        progress: bool = True,
    ) -> list[Clip]:
        """Edit once per strength, all from the same noise.

        Parameters
        ----------
        model : LatentAudioModel
        clip : Clip
            The recording.
        prompt : str
            What the edit should sound like, described whole.
        strengths : sequence of float
            Values of the knob, in any order.
        gap : Gap, optional
            Only this part is to be filled: what the recording holds there is not used, and
            outside it every sample of the result is the recording's.
        folder : Path, optional
            Where methods that train something keep it, so that a stopped run resumes.
        progress : bool

        Returns
        -------
        list of Clip
            One per strength, as long as the recording.

        Raises
        ------
        PromptError, MaskError, ValueError
            For an empty prompt, a gap that does not fit or is missing, a strength out of range;
            before any work.
        """
        ...


def check_strengths(method: Method, strengths: Sequence[float], highest: float = 1.0) -> None:
    """Raise a ValueError unless there are strengths, all above 0 and up to ``highest``."""
    if len(strengths) == 0:
        raise ValueError(
            f"{method.name} got no {method.knob} to edit with: give at least one, e.g. "
            f"[{method.fixed_strength:g}]."
        )
    for strength in strengths:
        if not 0 < strength <= highest:
            raise ValueError(
                f"{method.name}'s {method.knob} is {strength:g}: choose above 0, up to {highest:g}."
            )


def encode_source(model: LatentAudioModel, clip: Clip, gap: Gap | None) -> Tensor:
    """Latent z of the recording (the posterior's mode), zero in the gap.

    Raises
    ------
    MaskError
        If the gap does not fit the recording.
    """
    if gap is None:
        return model.encode(clip)
    mask = latent_mask(clip, gap, model.latent_shape[1])
    latent = model.encode(blank(clip, gap))
    return latent * mask.to(latent)


def decode_edits(
    method: Method,
    model: LatentAudioModel,
    latents: Tensor,
    clip: Clip,
    strengths: Sequence[float],
    gap: Gap | None,
) -> list[Clip]:
    """Sound of the latents, one per strength; with a gap, pasted into the recording."""
    names = [f"{clip.name}, {method.name}, {method.knob} = {s:g}" for s in strengths]
    edits = model.decode_batch(latents, clip, names)
    return edits if gap is None else [paste(clip, edit, gap) for edit in edits]
