"""One class for every text-to-audio latent diffusion model, and what its denoiser listens to.

A base model is a builder that returns a :class:`LatentAudioModel`; the three steps of the method,
inpainting and every baseline are written once against it.  TANGO, AudioLDM and AudioLDM 2 differ
only in their :class:`Conditioning`: one stream of tokens, one pooled vector, two streams of tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from diffusers import DDIMScheduler, SchedulerMixin
from torch import Tensor, nn
from torch.nn import functional

from helpers.audio import CLIP_SAMPLES, SAMPLE_RATE, AudioError, Clip, Sound
from helpers.models import kinds
from helpers.models.kinds import NoiseSchedule
from helpers.models.prompts import PromptError as PromptError
from helpers.models.prompts import check_prompts, held
from helpers.storage import Provenance, content_hash

TERMINAL_SNR = ("as trained", "zero")
NO_MEMORY = "DefaultCPUAllocator: can't allocate memory"  # what torch's RuntimeError says
STREAM_SUFFIXES = ("", "_1")  # how diffusers tells AudioLDM 2's two token streams apart


class OutOfMemory(RuntimeError):
    """The memory of GPU or computer is exhausted; the message says what needs less."""


@dataclass(frozen=True, eq=False)
class Conditioning:
    """What the denoiser listens to: it can be optimised, interpolated and batched.

    Parameters
    ----------
    tokens : tuple of torch.Tensor
        One per token stream, each (batch, length, width).
    masks : tuple of torch.Tensor
        One per token stream, each (batch, length), 1 = attended; kept as bool.
    pooled : torch.Tensor, optional
        One vector per item, (batch, width).  It is L2-normalised here, so that an optimised vector
        stays on the unit sphere on which the model was trained, and a linear interpolation of two
        of them becomes a normalised one (nlerp).
    given : dict of str to torch.Tensor
        Further inputs of the denoiser by name, (batch, …), such as how long the clip is: neither
        optimised nor interpolated.

    Raises
    ------
    ValueError
        If the masks do not fit the tokens.

    Lesson: 01.
    """

    tokens: tuple[Tensor, ...] = ()
    masks: tuple[Tensor, ...] = ()
    pooled: Tensor | None = None
    given: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the shapes and normalise."""
        if [t.shape[:2] for t in self.tokens] != [m.shape for m in self.masks]:
            raise ValueError(
                "Every token stream (batch, length, width) needs a mask (batch, length): "
                f"tokens {[tuple(t.shape) for t in self.tokens]}, "
                f"masks {[tuple(m.shape) for m in self.masks]}."
            )
        object.__setattr__(self, "tokens", tuple(self.tokens))
        object.__setattr__(self, "masks", tuple(mask.bool() for mask in self.masks))
        if self.pooled is not None:
            object.__setattr__(self, "pooled", functional.normalize(self.pooled, dim=-1))

    @property
    def embeddings(self) -> list[Tensor]:
        """The tensors Step 1 optimises: every token stream, then the pooled vector."""
        return [*self.tokens] if self.pooled is None else [*self.tokens, self.pooled]

    @property
    def embedding_masks(self) -> list[Tensor]:
        """For each of :attr:`embeddings` a bool tensor that broadcasts to it, 1 = attended."""
        masks = [mask[..., None] for mask in self.masks]
        return masks if self.pooled is None else [*masks, torch.ones_like(self.pooled).bool()]

    @property
    def batch_size(self) -> int:
        """Number of items."""
        return len(self.embeddings[0])

    def replace_embeddings(self, embeddings: list[Tensor]) -> Conditioning:
        """Return all else with other :attr:`embeddings`, in the same order."""
        streams = len(self.tokens)
        pooled = None if self.pooled is None else embeddings[streams]
        return replace(self, tokens=tuple(embeddings[:streams]), pooled=pooled)

    def detach(self) -> Conditioning:
        """Return a copy that shares neither memory nor gradients."""
        return self.replace_embeddings([e.detach().clone() for e in self.embeddings])

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Conditioning:
        """Return it on another device; what is no mask in another dtype."""
        moved = self.replace_embeddings([e.to(device, dtype) for e in self.embeddings])
        return replace(
            moved,
            masks=tuple(mask.to(device) for mask in self.masks),
            given={name: value.to(device, dtype) for name, value in self.given.items()},
        )

    def repeat(self, batch_size: int) -> Conditioning:
        """Return one item ``batch_size`` times; a batch of that size is returned as it is."""
        if self.batch_size == batch_size:
            return self
        return Conditioning.cat([self] * batch_size)

    def pad_to(self, lengths: list[int]) -> Conditioning:
        """Pad each token stream with unattended zeros to a length (classifier-free guidance)."""
        missing = [n - mask.shape[1] for n, mask in zip(lengths, self.masks, strict=True)]
        tokens, masks = (zip(part, missing, strict=True) for part in (self.tokens, self.masks))
        return replace(
            self,
            tokens=tuple(functional.pad(t, (0, 0, 0, n)) for t, n in tokens),
            masks=tuple(functional.pad(m, (0, n)) for m, n in masks),
        )

    @staticmethod
    def cat(items: list[Conditioning]) -> Conditioning:
        """Join items into one batch; shorter token streams are padded, unattended."""
        masks = zip(*(item.masks for item in items), strict=True)
        lengths = [max(mask.shape[1] for mask in stream) for stream in masks]
        items = [item.pad_to(lengths) for item in items]
        pooled = [item.pooled for item in items if item.pooled is not None]
        return Conditioning(
            tuple(map(torch.cat, zip(*(item.tokens for item in items), strict=True))),
            tuple(map(torch.cat, zip(*(item.masks for item in items), strict=True))),
            torch.cat(pooled) if pooled else None,
            {name: torch.cat([item.given[name] for item in items]) for name in items[0].given},
        )

    def denoiser_inputs(self) -> dict[str, Tensor | None]:
        """Keyword arguments of a diffusers UNet, or of what a builder puts in its place.

        TANGO's tokens are ``encoder_hidden_states``, AudioLDM 2's second stream
        ``encoder_hidden_states_1``, each with its ``encoder_attention_mask``; AudioLDM's pooled
        vector goes in as ``class_labels``.
        """
        inputs: dict[str, Tensor | None] = {"encoder_hidden_states": None}
        for suffix, tokens, mask in zip(STREAM_SUFFIXES, self.tokens, self.masks, strict=False):
            inputs[f"encoder_hidden_states{suffix}"] = tokens
            inputs[f"encoder_attention_mask{suffix}"] = mask
        if self.pooled is not None:
            inputs["class_labels"] = self.pooled
        return inputs | self.given


@dataclass(eq=False)
class LatentAudioModel:
    """A text-to-audio latent diffusion model: autoencoder, denoiser, vocoder and text encoder.

    It is always in evaluation mode with frozen weights; fine-tuning gives a second model
    (:mod:`helpers.editing.finetuning`).

    Parameters
    ----------
    name : str
        What messages, tables and caches call it.
    denoiser : torch.nn.Module
        A diffusers UNet or the like, called as
        ``denoiser(latent, timestep, **Conditioning.denoiser_inputs()).sample``.
        What of it stays as published when it is tuned is a buffer, not a parameter.
    vae : torch.nn.Module
        Over log-mel spectrograms (batch, 1, 1024, 64), or over waveforms (batch, channels,
        samples) if there is no vocoder; with ``scaling_factor`` in its config, or 1.
    vocoder : torch.nn.Module or None
        A SpeechT5HifiGan or the like; turns log-mels (batch, 1024, 64) into waveforms at 16 kHz.
    noise_schedule : NoiseSchedule
        The schedule that Eq. 1 is trained on and samplers inherit; it says which of the
        :mod:`helpers.models.kinds` the model is.
    text_encoder : callable
        From a list of prompts to a :class:`Conditioning`.
    latent_shape : tuple of int
        (channels, time, mel) of one latent, e.g. (8, 256, 16); without a mel axis over waveforms.
    guidance_scale : float
        The model's usual classifier-free guidance scale.
    sample_rate : int
        Of the sound it takes and makes, in Hz.
    channels : int
        Of that sound.
    clip_samples : int
        Of its longest clip, which the latent's time axis stands for.
    timing : callable, optional
        For models that are told how long a clip is: adds a length in seconds to a conditioning.
        What lies behind it is silence, in neither the loss nor the result.
    unconditional_beside : callable, optional
        From a conditioning to the other branch of classifier-free guidance beside it; by default
        that is the empty prompt.
    """

    name: str
    denoiser: nn.Module
    vae: nn.Module
    vocoder: nn.Module | None
    noise_schedule: NoiseSchedule
    text_encoder: Callable[[list[str]], Conditioning]
    latent_shape: tuple[int, ...]
    guidance_scale: float = 3.0
    sample_rate: int = SAMPLE_RATE
    channels: int = 1
    clip_samples: int = CLIP_SAMPLES
    timing: Callable[[Conditioning, float], Conditioning] | None = None
    unconditional_beside: Callable[[Conditioning], Conditioning] | None = None
    _empty_prompt: Conditioning | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        """Freeze the weights and switch dropout off."""
        for module in self.parts.values():
            module.eval().requires_grad_(False)

    @property
    def device(self) -> torch.device:
        """Where the denoiser is."""
        return next(self.denoiser.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the denoiser's weights."""
        return next(self.denoiser.parameters()).dtype

    @property
    def parts(self) -> dict[str, nn.Module]:
        """What is on :attr:`device`, by the names that stored results know."""
        parts = {"UNet": self.denoiser, "autoencoder": self.vae, "vocoder": self.vocoder}
        return {name: part for name, part in parts.items() if part is not None}

    @property
    def weights(self) -> dict[str, str]:
        """SHA-256 of the contents of each part, for :class:`helpers.storage.Provenance`."""
        text = dict.fromkeys(held(self.text_encoder, nn.Module))  # each once, in order
        hashes = {name: content_hash(part) for name, part in self.parts.items()}
        return hashes | {"text encoder": content_hash(list(text))}

    @property
    def frame_seconds(self) -> float:
        """How long one latent frame lasts."""
        return self.clip_samples / self.sample_rate / self.latent_shape[1]

    @property
    def _scale(self) -> float:
        return self._autoencoder.config.get("scaling_factor", 1.0)

    @property
    def _autoencoder(self) -> Any:
        """The autoencoder, of which nn.Module declares nothing."""
        return self.vae

    @property
    def schedule(self) -> dict[str, object]:
        """The noise schedule's settings; see :func:`helpers.models.kinds.settings`."""
        return kinds.settings(self.noise_schedule)

    @property
    def fingerprint(self) -> str:
        """Changes with the schedule and with any bit of any part's weights."""
        return Provenance(self.weights, self.schedule).digest

    @torch.no_grad()
    def encode(self, clip: Clip, generator: torch.Generator | None = None) -> Tensor:
        """Latent z of a clip.

        Parameters
        ----------
        clip : Clip
        generator : torch.Generator, optional
            Draws z from the posterior; without one z is its mode.

        Returns
        -------
        torch.Tensor
            float32, shape (1, channels, time, mel), times the autoencoder's scaling factor.

        Raises
        ------
        AudioError
            If the clip is longer than the model's longest.
        """
        with explain_memory_errors("encoding"):
            posterior = self._autoencoder.encode(self.heard(clip)).latent_dist
        latent = posterior.mode() if generator is None else posterior.sample(generator)
        return latent.float() * self._scale

    def heard(self, clip: Clip) -> Tensor:
        """Sound of a clip as the autoencoder takes it: its log-mel, or its waveform."""
        sound = clip.log_mel() if self.vocoder is not None else self._waveform(clip)
        return sound.to(self.device, next(self.vae.parameters()).dtype)

    def _waveform(self, clip: Clip) -> Tensor:
        """Sound of a clip as a waveform's autoencoder takes it, (1, channels, samples), padded."""
        if clip.samples_at(self.sample_rate) > self.clip_samples:
            raise AudioError(
                f"{clip.name} lasts {clip.seconds:.2f} s and {self.name} takes "
                f"{self.clip_samples / self.sample_rate:.2f} s: take a part of it."
            )
        samples = torch.from_numpy(clip.take(self.sample_rate, self.channels)).T
        return functional.pad(samples, (0, self.clip_samples - samples.shape[1]))[None]

    @torch.no_grad()
    def decode_log_mel(self, latent: Tensor) -> Tensor:
        """Log-mel spectrograms, float32, shape (batch, 1, 1024, 64), of scaled latents.

        Of a model without a vocoder they are waveforms (batch, channels, samples).
        """
        latent = latent.to(self.device, next(self.vae.parameters()).dtype)
        return self._autoencoder.decode(latent / self._scale).sample.float()

    @torch.no_grad()
    def vocode(self, log_mel: Tensor) -> Tensor:
        """Waveforms, float32, shape (batch, 163840), of log-mels (batch, 1, 1024, 64)."""
        assert self.vocoder is not None, "This model makes waveforms and no log-mels."
        log_mel = log_mel.to(self.device, next(self.vocoder.parameters(), log_mel).dtype)
        return self.vocoder(log_mel[:, 0])[:, :CLIP_SAMPLES].float()

    def decode(self, latent: Tensor, like: Clip | None = None, name: str = "decoded") -> Clip:
        """Sound of one latent (1, channels, time, mel), as long as ``like``, else as can be."""
        [clip] = self.decode_batch(latent, like, [name])
        return clip

    def decode_batch(
        self, latents: Tensor, like: Clip | None = None, names: list[str] | None = None
    ) -> list[Clip]:
        """Sound of latents (batch, channels, time, mel), one clip each; see :meth:`decode`.

        A waveform that exceeds full scale is turned down to it.

        Raises
        ------
        FloatingPointError
            If the log-mel or the waveform is not finite.
        OutOfMemory
            If the GPU's memory is too small.
        """
        samples = self.clip_samples if like is None else like.samples_at(self.sample_rate)
        with explain_memory_errors("decoding"):
            waveforms = self.decode_log_mel(latents)
            if self.vocoder is not None:
                self._check_finite(waveforms, "log-mel")
                waveforms = self.vocode(waveforms)[:, None]
            waveforms = waveforms[..., :samples].cpu()
        self._check_finite(waveforms, "waveform")
        waveforms = waveforms / waveforms.abs().amax((1, 2), keepdim=True).clamp(min=1)
        names = names or ["decoded"] * len(waveforms)
        return [
            Clip.made(Sound(waveform.T.numpy(), self.sample_rate), name, like)
            for waveform, name in zip(waveforms, names, strict=True)
        ]

    def _check_finite(self, values: Tensor, kind: str) -> None:
        if not values.isfinite().all():
            raise FloatingPointError(
                f"{self.name} produced a {kind} that is not finite: use bfloat16 or float32."
            )

    def embed_text(self, prompts: str | list[str], seconds: float | None = None) -> Conditioning:
        """Conditioning of one prompt or of a batch of them, on the model's device, float32.

        Parameters
        ----------
        prompts : str or list of str
        seconds : float, optional
            How long the clip is, for models that are told; by default as long as it can be.

        Raises
        ------
        PromptError
            If a prompt is empty, or the text encoder can read nothing of it.
        """
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        check_prompts(prompts, self.text_encoder)
        return self._encode_text(prompts, seconds)

    def unconditional(
        self, batch_size: int = 1, beside: Conditioning | None = None
    ) -> Conditioning:
        """Conditioning of no prompt, the other branch of classifier-free guidance.

        Parameters
        ----------
        batch_size : int
        beside : Conditioning, optional
            The prompt's, which tells models that are told it how long the clip is.
        """
        if self._empty_prompt is None:
            self._empty_prompt = self._encode_text([""])
        if self.unconditional_beside is None:
            return self._empty_prompt.repeat(batch_size)
        return self.unconditional_beside((beside or self._empty_prompt).repeat(batch_size))

    def predict(
        self,
        latent: Tensor,
        timestep: Tensor | int,
        conditioning: Conditioning,
        guidance_scale: float = 1.0,
    ) -> Tensor:
        """Return the denoiser's output f_θ(z_t, t, e), of the kind that it was trained for.

        Parameters
        ----------
        latent : torch.Tensor
            z_t, shape (batch, channels, time, mel).
        timestep : torch.Tensor or int
            One for all, or shape (batch,).
        conditioning : Conditioning
            Of ``batch`` items, or of one for all.
        guidance_scale : float
            Other than 1, it extrapolates from the unconditional prediction u to the
            conditional one c: u + scale · (c − u), both from one batched call.

        Returns
        -------
        torch.Tensor
            As ``latent``; gradients flow to the conditioning.
        """
        conditioning = conditioning.repeat(len(latent))
        timesteps = torch.as_tensor(timestep, device=self.device).expand(len(latent))
        if guidance_scale == 1:
            return self._call_denoiser(latent, timesteps, conditioning)
        both = Conditioning.cat([self.unconditional(len(latent), conditioning), conditioning])
        empty, conditional = self._call_denoiser(
            torch.cat([latent, latent]), torch.cat([timesteps, timesteps]), both
        ).chunk(2)
        return empty + guidance_scale * (conditional - empty)

    def with_terminal_snr(self, terminal_snr: str) -> LatentAudioModel:
        """Return the same model on a schedule whose noisiest step holds nothing of the latent.

        The usual schedules stop short of pure noise: TANGO's keeps √ᾱ = 0.068 of the latent at its
        last timestep.  The model then always sees how loud the recording is where, and does not
        learn to make that from noise, which is where sampling starts.  The remedy of Lin et al.
        (*Common Diffusion Noise Schedules and Sample Steps are Flawed*, WACV 2024) shifts and
        scales √ᾱ so that it is 0 at the last timestep, and lets samplers start there ("trailing").

        Loss and samplers both follow :attr:`noise_schedule`, so this is the one place to choose.

        Parameters
        ----------
        terminal_snr : {"as trained", "zero"}
            "as trained" returns the model itself; "zero" too, if it was trained to pure noise.

        Returns
        -------
        LatentAudioModel
            It shares all weights with this one.

        Raises
        ------
        ValueError
            For another word, or "zero" with a model that predicts the noise: at zero SNR the noise
            says nothing about the latent.
        """
        if terminal_snr not in TERMINAL_SNR:
            raise ValueError(
                f"terminal_snr is {terminal_snr!r}: choose from {', '.join(TERMINAL_SNR)}."
            )
        if terminal_snr == "as trained" or self._is_continuous:
            return self
        if self.noise_schedule.config["prediction_type"] == "epsilon":
            raise ValueError(
                f"{self.name} predicts the noise, which says nothing about the latent where the "
                'SNR is zero: use terminal_snr="as trained".'
            )
        schedule = self.noise_schedule.from_config(
            self.noise_schedule.config, rescale_betas_zero_snr=True, timestep_spacing="trailing"
        )
        return replace(self, noise_schedule=schedule)

    def sampler(
        self, scheduler: type[SchedulerMixin] = DDIMScheduler, **overrides: object
    ) -> NoiseSchedule:
        """Any diffusers scheduler on this model's betas and prediction type.

        Raises
        ------
        ValueError
            If the model was trained at continuous noise levels, where DDIM's step alone is known.
        """
        if self._is_continuous:
            if scheduler is not DDIMScheduler:
                raise ValueError(
                    f"{self.name} was trained at continuous noise levels, which diffusers' "
                    f"{scheduler.__name__} does not know: use DDIMScheduler."
                )
            return self.noise_schedule.from_config(self.noise_schedule.config, **overrides)
        kind = cast(type[NoiseSchedule], scheduler)
        return kind.from_config(self.noise_schedule.config, **overrides)

    @property
    def _is_continuous(self) -> bool:
        return isinstance(self.noise_schedule, kinds.ContinuousSchedule)

    def _call_denoiser(
        self, latent: Tensor, timesteps: Tensor, conditioning: Conditioning
    ) -> Tensor:
        inputs = conditioning.to(self.device, self.dtype).denoiser_inputs()
        return self.denoiser(latent.to(self.dtype), timesteps, **inputs).sample.to(latent.dtype)

    @torch.no_grad()
    def _encode_text(self, prompts: list[str], seconds: float | None = None) -> Conditioning:
        conditioning = self.text_encoder(prompts)
        if self.timing is not None:
            longest = self.clip_samples / self.sample_rate
            conditioning = self.timing(conditioning, longest if seconds is None else seconds)
        return conditioning.to(self.device, torch.float32)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was too small: the GPU's, or the computer's, for which torch has no class."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and NO_MEMORY in str(error)
    )


@contextmanager
def explain_memory_errors(doing: str) -> Iterator[None]:
    """Turn an out-of-memory error into one sentence that says what needs less.

    Raises
    ------
    OutOfMemory
        Instead of ``torch.OutOfMemoryError``, of a ``MemoryError``, and of the ``RuntimeError``
        that torch raises on a CPU.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        place = "GPU" if isinstance(error, torch.OutOfMemoryError) else "computer"
        raise OutOfMemory(
            f"The {place}'s memory is too small for {doing}: fine-tune with LoRA (lora_rank=8), "
            "use a smaller batch_size, fewer η at once, a smaller preset or a half-precision model."
        ) from error
