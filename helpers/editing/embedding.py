"""Step 1: the text embedding that describes the recording best (Sec. 2.1)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from helpers.editing.objective import reconstruction_loss
from helpers.editing.optimisation import TrainingSettings, optimise
from helpers.models.latent_audio_model import Conditioning, LatentAudioModel


@dataclass(frozen=True)
class EmbeddingSettings(TrainingSettings):
    """Step 1's hyper-parameters; the defaults are the paper's."""

    steps: int = 500
    learning_rate: float = 2e-3


@dataclass(frozen=True, eq=False)
class EmbeddingResult:
    """Step 1's result.

    Parameters
    ----------
    conditioning : Conditioning
        e_opt, with e_target's masks.
    losses : list of float
        Eq. 1 at each step.
    """

    conditioning: Conditioning
    losses: list[float]


def optimise_embedding(
    model: LatentAudioModel,
    latent: Tensor,
    target: Conditioning,
    settings: EmbeddingSettings = EmbeddingSettings(),
    mask: Tensor | None = None,
    checkpoint: Path | None = None,
    progress: bool = True,
) -> EmbeddingResult:
    """Optimise the embedding, from e_target on, to minimise Eq. 1 for one latent.

    Every stream the UNet listens to is optimised, in float32; unattended (padding) positions stay
    as they are.

    Parameters
    ----------
    model : LatentAudioModel
    latent : torch.Tensor
        z, shape (1, channels, time, mel).
    target : Conditioning
        e_target, of one item.
    settings : EmbeddingSettings
    mask : torch.Tensor, optional
        Shape (1, 1, time, 1), 0 where the loss leaves a gap out.
    checkpoint : Path, optional
        Where the run can be stopped and resumed.
    progress : bool

    Raises
    ------
    CheckpointError, DivergenceError, OutOfMemory
        See :func:`helpers.editing.optimisation.optimise`.

    Lesson: 02.
    """
    parameters = [e.requires_grad_() for e in target.detach().embeddings]
    for parameter, attended in zip(parameters, target.embedding_masks, strict=True):
        parameter.register_hook(lambda gradient, attended=attended: gradient * attended)

    def loss(generator):
        conditioning = target.replace_embeddings(parameters)
        return reconstruction_loss(
            model, latent, conditioning, generator, settings.batch_size, mask
        )

    losses = optimise(
        parameters,
        loss,
        description="Step 1, embedding",
        subject={
            "recording": [latent],
            "gap": [mask],
            "prompt": [*target.embeddings, *target.masks],
        },
        checkpoint=checkpoint,
        progress=progress,
        **settings.on(model),
    )
    return EmbeddingResult(target.replace_embeddings(parameters).detach(), losses)
