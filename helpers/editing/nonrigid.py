"""The method: Steps 1 to 3 chained for one recording and one prompt."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from helpers.audio import Clip
from helpers.editing.embedding import EmbeddingResult, optimise_embedding
from helpers.editing.finetuning import FineTuning, finetune
from helpers.editing.inpainting import Gap, blank, known_mask, paste
from helpers.editing.interpolation import check_eta, check_sampling, interpolate, sample
from helpers.editing.presets import EditSettings, preset
from helpers.models.latent_audio_model import Conditioning, LatentAudioModel
from helpers.storage import content_hash


class NonRigidEdit:
    """Edit one recording with one prompt.

    Use it in a ``with`` block, or call :meth:`close` when done: the fine-tuned weights are
    dropped.  The model is the base model between calls.

    Parameters
    ----------
    model : LatentAudioModel
    clip : Clip
        The recording.
    prompt : str
        What the edit should sound like, described whole.
    settings : EditSettings or str
        Or the name of one of :data:`helpers.editing.PRESETS`.
    gap : Gap, optional
        Only this part is to be filled (inpainting); what the recording holds there is not used.
    folder : Path, optional
        Where Steps 1 and 2 are kept: a stopped run resumes, a finished one is not run again.  Each
        recording, prompt, model and Step 1 gets its own subfolder, which its Steps 2 share.
    progress : bool

    Raises
    ------
    PromptError, MaskError, ValueError
        For an empty prompt, a gap that does not fit, an unknown preset, a sampler that cannot run;
        before any work.

    Lesson: 00.
    """

    def __init__(
        self,
        model: LatentAudioModel,
        clip: Clip,
        prompt: str,
        settings: EditSettings | str = "paper",
        gap: Gap | None = None,
        folder: str | Path | None = None,
        progress: bool = True,
    ) -> None:
        self.settings = preset(settings) if isinstance(settings, str) else settings
        model = model.with_terminal_snr(self.settings.terminal_snr)
        check_sampling(model, self.settings.sampling)
        self.mask = known_mask(model, clip, gap)
        self.target: Conditioning = model.embed_text(prompt, clip.seconds)
        self.model = model
        self.clip = clip if gap is None else blank(clip, gap)
        self.prompt = prompt
        self.gap = gap
        self.progress = progress
        self._folder = None if folder is None else Path(folder) / self._identity[:16]
        self.embedding: EmbeddingResult | None = None
        self.finetuning: FineTuning | None = None

    @cached_property
    def latent(self) -> torch.Tensor:
        """Latent z of the recording (the posterior's mode), zero in the gap."""
        latent = self.model.encode(self.clip)
        return latent if self.mask is None else latent * self.mask.to(latent)

    def fit(self) -> NonRigidEdit:
        """Run Steps 1 and 2, unless they have been run."""
        if self.finetuning is None:
            shared = {"mask": self.mask, "progress": self.progress}
            first, second = self.settings.embedding, self.settings.finetuning
            self.embedding = optimise_embedding(
                self.model,
                self.latent,
                self.target,
                first,
                checkpoint=self._checkpoint("embedding.pt"),
                **shared,
            )
            self.finetuning = finetune(
                self.model,
                self.latent,
                self.embedding.conditioning,
                second,
                checkpoint=self._checkpoint(f"finetuning-{content_hash(str(second))[:8]}.pt"),
                **shared,
            )
        return self

    @property
    def steps(self) -> tuple[EmbeddingResult, FineTuning]:
        """Results of Steps 1 and 2, which are run unless they have been."""
        self.fit()
        assert self.embedding is not None
        assert self.finetuning is not None
        return self.embedding, self.finetuning

    def edit(self, eta: float, pasted: bool = True) -> Clip:
        """Step 3 at one η; see :meth:`sweep`."""
        [clip] = self.sweep([eta], pasted)
        return clip

    def sweep(self, etas: list[float], pasted: bool = True) -> list[Clip]:
        """Step 3 at several η in one batch, all from the same noise.

        Runs :meth:`fit` first if that has not been done.

        Parameters
        ----------
        etas : list of float
            0 is the reconstruction, 1 the prompt; −0.5…1.5 is allowed.
        pasted : bool
            With a gap, whether the observed part is put back; otherwise all is the model's.

        Raises
        ------
        ValueError
            If there is no η or one is out of range.
        """
        if np.ndim(etas) != 1 or len(etas) == 0:
            raise ValueError("There is no list of η to edit with: give at least one, e.g. [0.5].")
        for eta in etas:
            check_eta(eta)
        embedding, finetuning = self.steps
        conditionings = [interpolate(embedding.conditioning, self.target, e) for e in etas]
        latents = sample(
            finetuning.model,
            Conditioning.cat(conditionings),
            self.settings.sampling,
            self.latent,
            self.progress,
        )
        names = [f"{self.clip.name}, η = {eta:g}" for eta in etas]
        clips = self.model.decode_batch(latents, self.clip, names)
        if self.gap is None or not pasted:
            return clips
        return [paste(self.clip, clip, self.gap) for clip in clips]

    @cached_property
    def reconstruction(self) -> Clip:
        """The recording as the model gives it back (η = 0)."""
        return self.edit(0.0)

    def close(self) -> None:
        """Drop the fine-tuned weights; :meth:`fit` would make or read them again."""
        self.finetuning = None

    def __enter__(self) -> NonRigidEdit:
        """Return the edit itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close."""
        self.close()

    @property
    def _identity(self) -> str:
        """Hash of what Step 1 depends on."""
        heard = self.clip.take(self.model.sample_rate, self.model.channels)
        made_from = [str(each) for each in (self.model.dtype, self.settings.embedding, self.gap)]
        return content_hash([self.model.fingerprint, heard, self.prompt, *made_from])

    def _checkpoint(self, name: str) -> Path | None:
        return None if self._folder is None else self._folder / name
