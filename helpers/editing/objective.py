"""Eq. 1: how badly a model predicts the noise in a noised latent.

The paper writes it for a model that predicts the noise and leaves the norm out; TANGO predicts the
velocity, so the target follows the schedule's ``prediction_type`` and the norm is the mean square.
What may be predicted, and from what, is :mod:`helpers.models.kinds`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from helpers.models.kinds import draw_timesteps, training_target
from helpers.models.latent_audio_model import Conditioning, LatentAudioModel


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
