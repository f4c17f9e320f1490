"""Step 1: the text embedding that describes the recording best (Sec. 2.1).

Best is what Eq. 1 says: how badly a model predicts the noise in a noised latent.  The paper writes
it for a model that predicts the noise and leaves the norm out; TANGO predicts the velocity, so the
target follows the schedule's ``prediction_type`` and the norm is the mean square.  What may be
predicted, and from what, is :mod:`helpers.models.kinds`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from helpers.editing.optimisation import TrainingSettings, optimise
from helpers.models.kinds import draw_timesteps, training_target
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


def reconstruction_loss(
    model: LatentAudioModel,
    latent: Tensor,
    conditioning: Conditioning,
    generator: torch.Generator,
    batch_size: int = 1,
    mask: Tensor | None = None,
) -> Tensor:
    """One draw of Eq. 1: mean square error at random timesteps, without guidance.

    Parameters
    ----------
    model : LatentAudioModel
    latent : torch.Tensor
        z, float32, shape (1, channels, time, mel).
    conditioning : Conditioning
        Of one item.
    generator : torch.Generator
        On the CPU, so that a seed draws the same timesteps (as the model was trained) and noise on
        every device.
    batch_size : int
        Timesteps per draw.
    mask : torch.Tensor, optional
        Shape (1, 1, time, 1), 1 = counted.  The rest enters neither the error nor the model,
        which sees noise alone there.

    Returns
    -------
    torch.Tensor
        Scalar.

    Lesson: 02.
    """
    schedule = model.noise_schedule
    timesteps = draw_timesteps(schedule, batch_size, generator).to(latent.device)
    noise = torch.randn((batch_size, *latent.shape[1:]), generator=generator).to(latent)
    mask = torch.ones_like(latent) if mask is None else mask.to(latent).expand_as(latent)
    latents = (latent * mask).expand_as(noise)

    noisy = schedule.add_noise(latents, noise, timesteps)
    target = training_target(schedule, latents, noise, timesteps)
    error = (model.predict(noisy, timesteps, conditioning) - target) ** 2
    return (error * mask).sum() / (mask.sum() * batch_size)


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
        checkpoint=checkpoint,
        progress=progress,
        **settings.on(model, latent, mask, prompt=target),
    )
    return EmbeddingResult(target.replace_embeddings(parameters).detach(), losses)
