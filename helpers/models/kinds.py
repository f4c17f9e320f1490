"""The kinds of diffusion: how noise joins a latent, and what a denoiser answers.

Every kind mixes latent and noise, x_t = a(t)·z + b(t)·ε, and its denoiser answers with one mixture
of the two.  A model's noise schedule says which:

================== ======================= ======================= ==============================
schedule           a(t), b(t)              t                       its denoiser's answer
================== ======================= ======================= ==============================
of diffusers       √ᾱ_t, √(1−ᾱ_t)          0, 1, … 999             ε, z or v = a·ε − b·z
AngleSchedule      cos(πt/2), sin(πt/2)    0 (latent) to 1 (noise) v = a·ε − b·z
FlowSchedule       1 − t, t                0 (latent) to 1 (noise) ε − z
================== ======================= ======================= ==============================

Eq. 1, noised starts and every method use a schedule's ``add_noise``, :func:`draw_timesteps`,
:func:`training_target` and :func:`clean_estimate`, and never a(t) or b(t) of one kind.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Protocol, Self

import torch
from diffusers import SchedulerMixin
from diffusers.configuration_utils import ConfigMixin, FrozenDict, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

DISCRETE = (  # of diffusers' schedules: what decides ᾱ, and what the denoiser's answer means
    "num_train_timesteps",
    "beta_schedule",
    "beta_start",
    "beta_end",
    "trained_betas",
    "rescale_betas_zero_snr",
    "prediction_type",
)


class Step(Protocol):
    """What a schedule's step returns."""

    prev_sample: Tensor


class NoiseSchedule(Protocol):
    """A schedule of diffusers: what they all have, and their base class does not declare."""

    config: FrozenDict
    timesteps: Tensor
    alphas_cumprod: Tensor
    init_noise_sigma: float
    order: int

    @classmethod
    def from_config(cls, config: FrozenDict, **changes: object) -> Self:
        """Make one of the same kind with some settings changed."""
        ...

    def set_timesteps(self, steps: int, /, *, device: torch.device) -> None:
        """Choose the timesteps of sampling."""

    def set_begin_index(self, index: int, /) -> None:
        """Begin to sample at one of them."""

    def scale_model_input(self, sample: Tensor, timestep: Tensor, /) -> Tensor:
        """Return what the denoiser is to hear."""
        ...

    def add_noise(self, latent: Tensor, noise: Tensor, timesteps: Tensor, /) -> Tensor:
        """x_t = a(t)·z + b(t)·ε."""
        ...

    def get_velocity(self, latent: Tensor, noise: Tensor, timesteps: Tensor, /) -> Tensor:
        """V = a(t)·ε − b(t)·z."""
        ...

    def step(self, output: Tensor, timestep: Tensor, sample: Tensor, /, **options: object) -> Step:
        """Go to the next timestep."""
        ...


class ContinuousSchedule(SchedulerMixin, ConfigMixin):
    """A schedule of one noise level t from 0, the latent, to 1, pure noise; also its own sampler.

    It is used as diffusers' schedules are.  A step is DDIM's, which asks for nothing but a(t) and
    b(t): the denoiser's answer becomes estimates of z and ε, and these are mixed anew for the next
    level.  On a flow, and without new noise, that is Euler's step.

    Parameters
    ----------
    prediction_type : str
    drawn : {"uniform", "logit-normal"}
        How the model was trained, and Eq. 1 draws t: evenly, or as the sigmoid of a normal number.
    """

    order = 1
    init_noise_sigma = 1.0
    final_alpha_cumprod = torch.tensor(1.0)  # sampling ends without noise

    def __init__(self, prediction_type: str, drawn: str = "uniform") -> None:
        if drawn not in ("uniform", "logit-normal"):
            raise ValueError(f"drawn is {drawn!r}: choose uniform or logit-normal.")
        self.set_timesteps(1)

    @abstractmethod
    def mixture(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """a(t) and b(t), shaped as ``timesteps``."""

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Levels to train at, float32, shape (count,)."""
        if self.config["drawn"] == "uniform":
            return torch.rand(count, generator=generator)
        return torch.randn(count, generator=generator).sigmoid()

    def set_timesteps(self, steps: int, device: torch.device | str | None = None) -> None:
        """Sample in so many steps of one size, from t = 1 on."""
        self.timesteps = torch.linspace(1, 0, steps + 1, device=device)[:-1]

    def scale_model_input(self, sample: Tensor, timestep: Tensor | None = None) -> Tensor:
        """Return the latent as it is."""
        return sample

    def add_noise(self, latent: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t = a(t)·z + b(t)·ε, with one t an item or one for all."""
        a, b = mixture(self, timesteps, latent)
        return a * latent + b * noise

    def get_velocity(self, latent: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Velocity v = a(t)·ε − b(t)·z."""
        a, b = mixture(self, timesteps, latent)
        return a * noise - b * latent

    def step(
        self,
        model_output: Tensor,
        timestep: Tensor,
        sample: Tensor,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        variance_noise: Tensor | None = None,
    ) -> SchedulerOutput:
        """Go from one level to the next.

        With s the next level, x_s = a_s·z + √(b_s² − σ²)·ε + σ·(new noise) for the estimates z and
        ε, where σ² = η²·(b_s²/b_t²)·(b_t² − (a_t/a_s)²·b_s²) is, at η = 1, the variance of x_s
        given x_t and z.

        Parameters
        ----------
        model_output : torch.Tensor
            The denoiser's answer.
        timestep : torch.Tensor
            One of :attr:`timesteps`.
        sample : torch.Tensor
            x_t.
        eta : float
            0 is deterministic, 1 as noisy as DDPM.
        generator : torch.Generator, optional
            Or one an item; of the new noise.
        variance_noise : torch.Tensor, optional
            The new noise itself.
        """
        levels = torch.cat([self.timesteps, self.timesteps.new_zeros(1)])
        place = (self.timesteps - timestep).abs().argmin()
        (a, b), (a_next, b_next) = (mixture(self, levels[place + i], sample) for i in (0, 1))
        latent = clean_estimate(self, model_output, sample, timestep)
        noise = (sample - a * latent) / b
        variance = (eta * b_next / b) ** 2 * (b**2 - (a / a_next * b_next) ** 2)
        following = a_next * latent + (b_next**2 - variance).clamp(min=0).sqrt() * noise
        if eta > 0:
            if variance_noise is None:
                variance_noise = randn_tensor(
                    sample.shape, generator, device=sample.device, dtype=sample.dtype
                )
            following = following + variance.clamp(min=0).sqrt() * variance_noise
        return SchedulerOutput(prev_sample=following)


class AngleSchedule(ContinuousSchedule):
    """x_t = cos(πt/2)·z + sin(πt/2)·ε; the denoiser answers v = cos(πt/2)·ε − sin(πt/2)·z."""

    @register_to_config
    def __init__(self, prediction_type: str = "v_prediction", drawn: str = "uniform") -> None:
        super().__init__(prediction_type, drawn)

    def mixture(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`ContinuousSchedule.mixture`."""
        angle = timesteps * (math.pi / 2)
        return angle.cos(), angle.sin()


class FlowSchedule(ContinuousSchedule):
    """Rectified flow: x_σ = (1 − σ)·z + σ·ε; the denoiser answers ε − z."""

    @register_to_config
    def __init__(
        self, prediction_type: str = "flow_prediction", drawn: str = "logit-normal"
    ) -> None:
        super().__init__(prediction_type, drawn)

    def mixture(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`ContinuousSchedule.mixture`."""
        return 1 - timesteps, timesteps


AnySchedule = NoiseSchedule | ContinuousSchedule


def mixture(schedule: AnySchedule, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """a(t) and b(t) of x_t = a(t)·z + b(t)·ε, shaped to multiply ``like`` (batch, …).

    Lesson: 01.
    """
    if isinstance(schedule, ContinuousSchedule):
        parts = schedule.mixture(timesteps)
    else:
        alpha_bar = schedule.alphas_cumprod.to(like.device)[timesteps]
        parts = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    a, b = (part.to(like).reshape(-1, *[1] * (like.dim() - 1)) for part in parts)
    return a, b


def every_timestep(schedule: AnySchedule) -> Tensor:
    """All timesteps of a schedule from the latent to noise, or a thousand of a continuous one.

    Lesson: 01.
    """
    if isinstance(schedule, ContinuousSchedule):
        return (torch.arange(1000) + 0.5) / 1000
    return torch.arange(schedule.config["num_train_timesteps"])


def draw_timesteps(schedule: AnySchedule, count: int, generator: torch.Generator) -> Tensor:
    """Timesteps at which the model was trained, drawn on the CPU, shape (count,).

    Lesson: 03.
    """
    if isinstance(schedule, ContinuousSchedule):
        return schedule.draw(count, generator)
    return torch.randint(schedule.config["num_train_timesteps"], (count,), generator=generator)


def training_target(
    noise_schedule: AnySchedule, latent: Tensor, noise: Tensor, timesteps: Tensor
) -> Tensor:
    """Return what the denoiser was trained to output for the noised latent.

    Parameters
    ----------
    noise_schedule : NoiseSchedule or ContinuousSchedule
        Its ``prediction_type`` decides: ``epsilon`` is the noise ε, ``sample`` the latent z,
        ``v_prediction`` the velocity √ᾱ·ε − √(1−ᾱ)·z, ``flow_prediction`` the flow's ε − z.
    latent, noise : torch.Tensor
        z and ε, shape (batch, channels, time, mel).
    timesteps : torch.Tensor
        Shape (batch,).

    Raises
    ------
    ValueError
        For another prediction type.

    Lesson: 02.
    """
    match noise_schedule.config["prediction_type"]:
        case "epsilon":
            return noise
        case "sample":
            return latent
        case "v_prediction":
            return noise_schedule.get_velocity(latent, noise, timesteps)
        case "flow_prediction":
            return noise - latent
        case other:
            raise _unknown(other)


def clean_estimate(
    noise_schedule: AnySchedule, output: Tensor, noisy: Tensor, timesteps: Tensor
) -> Tensor:
    """Return the latent z that the denoiser's output stands for: of its mean, the mean of z.

    Parameters
    ----------
    noise_schedule : NoiseSchedule or ContinuousSchedule
    output, noisy : torch.Tensor
        f_θ(x_t, t, e) and x_t, shape (batch, channels, time, mel).
    timesteps : torch.Tensor
        One for all, or shape (batch,).

    Raises
    ------
    ValueError
        For another prediction type than :func:`training_target` knows.
    """
    a, b = mixture(noise_schedule, timesteps, noisy)
    match noise_schedule.config["prediction_type"]:
        case "epsilon":
            return (noisy - b * output) / a
        case "sample":
            return output
        case "v_prediction":
            return a * noisy - b * output
        case "flow_prediction":
            return noisy - b * output
        case other:
            raise _unknown(other)


def settings(schedule: AnySchedule) -> dict[str, object]:
    """Return what a result depends on; not ᾱ, whose last bits differ among processors."""
    if isinstance(schedule, ContinuousSchedule):
        return {"kind": type(schedule).__name__, "drawn": schedule.config["drawn"]}
    return {key: schedule.config.get(key) for key in DISCRETE}


def _unknown(prediction_type: str) -> ValueError:
    return ValueError(
        f"The schedule's prediction_type is {prediction_type!r}: use epsilon, v_prediction, sample "
        "or flow_prediction."
    )
