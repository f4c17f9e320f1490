"""Eq. 1: how badly a model predicts the noise in a noised latent.

The paper writes it for a model that predicts the noise and leaves the norm out; TANGO predicts the
velocity, so the target follows the schedule's ``prediction_type`` and the norm is the mean square.
"""

from __future__ import annotations

import torch
from diffusers import SchedulerMixin
from torch import Tensor

from helpers.models.latent_audio_model import Conditioning, LatentAudioModel


def training_target(
    noise_schedule: SchedulerMixin, latent: Tensor, noise: Tensor, timesteps: Tensor
) -> Tensor:
    """Return what the UNet was trained to output for the noised latent.

    Parameters
    ----------
    noise_schedule : SchedulerMixin
        Its ``prediction_type`` decides: ``epsilon`` is the noise ε, ``sample`` the latent z,
        ``v_prediction`` the velocity √ᾱ·ε − √(1−ᾱ)·z.
    latent, noise : torch.Tensor
        z and ε, shape (batch, channels, time, mel).
    timesteps : torch.Tensor
        int64, shape (batch,).

    Raises
    ------
    ValueError
        For another prediction type.

    Lesson: 02.
    """
    match noise_schedule.config.prediction_type:
        case "epsilon":
            return noise
        case "sample":
            return latent
        case "v_prediction":
            return noise_schedule.get_velocity(latent, noise, timesteps)
        case other:
            raise ValueError(
                f"The schedule's prediction_type is {other!r}: use epsilon, v_prediction or sample."
            )


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
        On the CPU, so that a seed draws the same timesteps (uniform over all training steps) and
        noise on every device.
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
    timesteps = torch.randint(
        schedule.config.num_train_timesteps, (batch_size,), generator=generator
    ).to(latent.device)
    noise = torch.randn((batch_size, *latent.shape[1:]), generator=generator).to(latent)
    mask = torch.ones_like(latent) if mask is None else mask.to(latent).expand_as(latent)
    latents = (latent * mask).expand_as(noise)

    noisy = schedule.add_noise(latents, noise, timesteps)
    target = training_target(schedule, latents, noise, timesteps)
    error = (model.predict(noisy, timesteps, conditioning) - target) ** 2
    return (error * mask).sum() / (mask.sum() * batch_size)
