"""What every method of a comparison offers; all that they share stands here once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import cached_property
from numbers import Real
from pathlib import Path
from typing import ClassVar, Literal, Self

import numpy as np
from torch import Tensor

from helpers.audio import Clip
from helpers.editing.inpainting import Gap, blank, known_mask, paste
from helpers.editing.interpolation import SamplingSettings
from helpers.models.latent_audio_model import Conditioning, LatentAudioModel
from helpers.pairs import EDITS

Role = Literal["subject", "ablation", "baseline", "reference"]

LARGEST_GUIDANCE = 30.0


@dataclass(frozen=True, eq=False)
class Task:
    """What a method works on.

    Attributes
    ----------
    model : LatentAudioModel
    clip : Clip
        The recording, silent in the gap.
    prompt : str
        What the edit should sound like, described whole.
    gap : Gap, optional
    source_prompt : str
        What the recording sounds like; empty where that is not known.
    folder : Path, optional
        Where methods that train something keep it.
    progress : bool
    """

    model: LatentAudioModel
    clip: Clip
    prompt: str
    gap: Gap | None = None
    source_prompt: str = ""
    folder: Path | None = None
    progress: bool = True

    @cached_property
    def target(self) -> Conditioning:
        """Embedding of the prompt."""
        return self.model.embed_text(self.prompt, self.clip.seconds)

    @cached_property
    def mask(self) -> Tensor | None:
        """Of the latent, 1 where it is the recording's; see :func:`known_mask`."""
        mask = known_mask(self.model, self.clip, self.gap)
        return None if mask is None else mask.to(self.model.device)

    @cached_property
    def latent(self) -> Tensor:
        """Latent z of the recording (the posterior's mode), zero in the gap."""
        latent = self.model.encode(self.clip)
        return latent if self.mask is None else latent * self.mask


@dataclass(frozen=True)
class Method(ABC):
    """One way of editing a recording with a prompt, with one knob for how strongly.

    A method of your own is a frozen dataclass that says what its knob is and returns latents in
    :meth:`latents`; checks, encoding, decoding and pasting are done here.

    Parameters
    ----------
    name : str
        As tables print it.
    role : {"subject", "ablation", "baseline", "reference"}
        What the paper proposes, that without one of its parts, what it is compared with, and the
        two ends between which every edit lies.
    settings : tuple of float
        Values of the knob that the method is offered, weakest edit first.
    fixed_setting : float
        The one value to report where nothing is chosen by a score.
    sampling : SamplingSettings
        Of the reverse process.

    Attributes
    ----------
    knob : str
        What the setting is.
    highest : float
        The knob's upper end; the lower, which is excluded, is 0.
    edits : frozenset of str
        Which of :data:`helpers.pairs.EDITS` the method is for.
    """

    _: KW_ONLY
    name: str
    role: Role = "baseline"
    settings: tuple[float, ...]
    fixed_setting: float
    sampling: SamplingSettings = SamplingSettings()
    knob: ClassVar[str]
    highest: ClassVar[float] = 1.0
    edits: ClassVar[frozenset[str]] = frozenset(EDITS)

    def sweep(
        self,
        model: LatentAudioModel,
        clip: Clip,
        prompt: str,
        settings: Sequence[float],
        gap: Gap | None = None,
        source_prompt: str = "",
        folder: Path | None = None,
        progress: bool = True,
    ) -> list[Clip]:
        """Edit once per setting, all from the same noise.

        Parameters
        ----------
        model : LatentAudioModel
        clip : Clip
            The recording.
        prompt : str
            What the edit should sound like, described whole.
        settings : sequence of float
            Values of the knob, in any order.
        gap : Gap, optional
            Only this part is to be filled: what the recording holds there is not used, and
            outside it every sample of the result is the recording's.
        source_prompt : str
            What the recording sounds like, for methods that can use it.
        folder : Path, optional
            Where methods that train something keep it, so that a stopped run resumes.
        progress : bool

        Returns
        -------
        list of Clip
            One per setting, as long as the recording.

        Raises
        ------
        PromptError, MaskError, ValueError
            For an empty prompt, a gap that does not fit, is missing or cannot be filled, a setting
            out of range, a model that the method is not defined for; before any work.
        """
        self._check(settings, gap)
        self.check_model(model)
        known = clip if gap is None else blank(clip, gap)
        task = Task(model, known, prompt, gap, source_prompt, folder, progress)
        _ = task.target, task.mask  # raise before any work
        names = [f"{clip.name}, {self.name}, {self.knob} = {value:g}" for value in settings]
        edits = model.decode_batch(self.latents(task, settings), clip, names)
        return [edit if gap is None else paste(clip, edit, gap) for edit in edits]

    @abstractmethod
    def latents(self, task: Task, settings: Sequence[float]) -> Tensor:
        """One latent per setting, float32, shape (settings, channels, time, mel)."""

    def check_setting(self, value: float) -> None:
        """Raise a ValueError for a setting out of range."""
        if not (isinstance(value, Real) and 0 < value <= self.highest):
            raise ValueError(
                f"{self.name}'s {self.knob} is {value!r}: choose above 0, up to {self.highest:g}."
            )

    def check_model(self, model: LatentAudioModel) -> None:  # noqa: B027
        """Raise a ValueError for a model that the method is not defined for; here for none."""

    def with_sampling(self, **changes: object) -> Self:
        """Return the same method with some :class:`SamplingSettings` changed."""
        return replace(self, sampling=replace(self.sampling, **changes))

    def _check(self, settings: Sequence[float], gap: Gap | None) -> None:
        """Raise a ValueError for settings out of range and for a gap too many or too few."""
        if np.ndim(settings) != 1 or len(settings) == 0:
            raise ValueError(
                f"{self.name} got no {self.knob} to edit with: give at least one, e.g. "
                f"[{self.fixed_setting:g}]."
            )
        for value in settings:
            self.check_setting(value)
        if gap is None and self.edits == {"inpainting"}:
            raise ValueError(
                f"{self.name} fills a gap and got none: give gap=Gap(start, end) in seconds."
            )
        if gap is not None and "inpainting" not in self.edits:
            raise ValueError(
                f"{self.name} cannot fill a gap: use it for addition or style transfer, or fill "
                "the gap with AudioLDM inpainting."
            )
