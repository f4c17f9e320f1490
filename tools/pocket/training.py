"""How the pocket model is made, stage by stage.

corpus → autoencoder, CLAP and classifier from the corpus → latents → UNet.  Every stage reads the
finished ones from the training folder, goes on from its own checkpoint, and leaves float16
safetensors under ``weights/``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr
from scipy.ndimage import gaussian_filter
from sklearn.decomposition import PCA
from torch import Tensor, nn
from torch.nn import functional

from helpers.evaluation.audio_tower import AudioTower, PocketClapModel
from helpers.models.minilm import load_minilm
from helpers.models.pocket import (
    LOG_MEL_MEAN,
    LOG_MEL_SCALE,
    NOISE_SCHEDULE,
    PATCH,
    PocketAutoencoder,
    new_autoencoder,
    new_unet,
)
from helpers.sounds.vocabulary import LABELS, compose
from tools.pocket.dataset import HELD_OUT_SEED, Dataset, draw_scenes, render
from tools.pocket.loop import Schedule, train

VAE_FRAMES = 256
PROMINENCE_BINS, PROMINENCE_LIMIT = 9, 3.0
SMEAR_FRAMES, SMEAR_BINS = 1.5, 0.6  # largest standard deviation
SNR_GAMMA = 5.0
CAPTION_DROP = 0.1
WORDS_DROP = 0.15  # of the captions: only their mean is shown
JITTER = 0.3  # largest noise on token states, as a share of their distance from the average
VALIDATION_SCENES = 128
VALIDATION_TIMESTEPS = (50, 980)
AVERAGED_CAPTIONS = 4_000


@dataclass(frozen=True)
class Recipe:
    """Corpus size and schedule of each stage."""

    scenes: int
    latents: int
    vae: Schedule
    clap: Schedule
    classifier: Schedule
    unet: Schedule


RECIPES = {
    "cpu": Recipe(
        scenes=10_000,
        latents=40_000,
        vae=Schedule(2_500, 1e-3, 8),
        clap=Schedule(2_000, 1e-3, 32),
        classifier=Schedule(2_000, 1e-3, 32),
        unet=Schedule(40_000, 5e-4, 16, ema_decay=0.9995),
    ),
    "smoke": Recipe(500, 500, *[Schedule(2, 1e-4, 2)] * 4),
}


class Trainer:
    """A training folder: what is rendered, what is trained, what is left to do.

    Parameters
    ----------
    folder : Path
    recipe : Recipe
    minutes : float
        Of the stage that is asked for; it goes on another time.
    """

    def __init__(self, folder: Path, recipe: Recipe, minutes: float = math.inf) -> None:
        self.folder, self.recipe, self.minutes = folder, recipe, minutes
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.stages: dict[str, Callable[[], object]] = {
            "corpus": self.corpus,
            "vae": self.vae,
            "clap": self.clap,
            "classifier": self.classifier,
            "latents": self.latents,
            "unet": self.unet,
        }

    @property
    def training(self) -> Dataset:
        """The rendered training scenes."""
        return Dataset(self.folder / "training")

    def weights(self, name: str) -> Path:
        """Folder of a finished stage's weights."""
        return self.folder / "weights" / name

    def _train(self, name: str, model: nn.Module, loss_of: Callable, validate=None):
        checkpoint = self.folder / "checkpoints" / f"{name}.pt"
        schedule = getattr(self.recipe, name)
        return train(model, loss_of, schedule, checkpoint, validate, self.minutes)

    def corpus(self) -> None:
        """Render the training scenes whose log-mels are kept."""
        render(self.folder / "training", self.recipe.scenes)

    def vae(self) -> None:
        """Fit the encoder in closed form; train the decoder on draws from its posterior."""
        data, batch_size = self.training, self.recipe.vae.batch_size
        torch.manual_seed(0)
        model = new_autoencoder()
        fit_principal_components(model, (data.log_mel(i) for i in range(0, len(data), 8)))
        model.encoder.requires_grad_(False)
        log_mels = torch.stack([data.log_mel(i)[None] for i in range(0, len(data), 20)])
        scale = 1 / _latents(model, log_mels).std().item()

        def loss_of(model: nn.Module, rng: np.random.Generator) -> Tensor:
            mels = _crops(data, rng, batch_size, VAE_FRAMES).to(self.device)
            posterior = model.encode(mels).latent_dist
            latent = posterior.sample(torch.Generator(mels.device).manual_seed(_seed(rng)))
            return reconstruction_error(model.decode(latent).sample.float(), mels)

        model = self._train("vae", model, loss_of)
        model.register_to_config(scaling_factor=scale)
        model.half().save_pretrained(self.weights("vae"))

    def clap(self) -> None:
        """Train the pocket CLAP: scenes against sentence vectors, soft positives by shared sounds.

        The target of scene i over captions j is proportional to the Jaccard overlap of their
        sounds, so that "a siren with gunshots" is near both and nearest to itself.
        """
        data, batch_size = self.training, self.recipe.clap.batch_size
        torch.manual_seed(2)

        def loss_of(model: nn.Module, rng: np.random.Generator) -> Tensor:
            chosen = rng.integers(len(data), size=batch_size)
            mels = _augmented(torch.stack([data.log_mel(i)[None] for i in chosen]), rng)
            text = load_minilm().sentence([data.caption(i, rng) for i in chosen])
            logits = model(mels.to(self.device), text.to(self.device)).float()
            sounds = [set(data.facts[i]["labels"]) for i in chosen]
            overlap = torch.tensor([[len(a & b) / len(a | b) for b in sounds] for a in sounds])
            overlap = overlap.to(logits)
            rows = functional.cross_entropy(logits, overlap / overlap.sum(1, keepdim=True))
            return rows + functional.cross_entropy(logits.T, overlap / overlap.sum(1, keepdim=True))

        model = self._train("clap", PocketClapModel(), loss_of)
        model.save(self.weights("clap"))

    def classifier(self) -> None:
        """Train the independent classifier that names sounds: one sigmoid a label."""
        data, batch_size = self.training, self.recipe.classifier.batch_size
        torch.manual_seed(3)

        def loss_of(model: nn.Module, rng: np.random.Generator) -> Tensor:
            chosen = rng.integers(len(data), size=batch_size)
            mels = _augmented(torch.stack([data.log_mel(i)[None] for i in chosen]), rng)
            targets = torch.zeros(batch_size, len(LABELS))
            for row, i in enumerate(chosen):
                targets[row, [LABELS.index(label) for label in data.facts[i]["labels"]]] = 1
            logits = model(mels.to(self.device)).float()
            weight = torch.tensor(4.0, device=self.device)
            return functional.binary_cross_entropy_with_logits(
                logits, targets.to(logits), pos_weight=weight
            )

        model = self._train("classifier", AudioTower(len(LABELS)), loss_of)
        model.save(self.weights("classifier"))

    def latents(self) -> None:
        """Encode the corpus for the UNet's stage: its log-mels, and more scenes that keep none."""
        vae = PocketAutoencoder.from_pretrained(self.weights("vae")).float().eval()
        render(self.folder / "latents", self.recipe.latents, vae)

    def unet(self) -> None:
        """Train the UNet: v-prediction, a tenth of the captions empty.

        The loss of nearly clean latents is turned down, min(SNR + 1, 5) / (SNR + 1); that of noisy
        ones, where the caption decides what is heard, is not (min-SNR weighting would).
        """
        data = Dataset(self.folder / "latents")
        batch_size = self.recipe.unet.batch_size
        minilm = load_minilm()
        torch.manual_seed(4)
        model = new_unet()
        model.average_sentence.copy_(average_sentence(data))
        schedule = DDPMScheduler(**NOISE_SCHEDULE)

        def error(model, latent, states, mask, timesteps, generator) -> Tensor:
            """Mean square error of the velocity, one value an item."""
            noise = torch.randn(latent.shape, generator=generator)
            noisy = schedule.add_noise(latent, noise, timesteps)
            velocity = schedule.get_velocity(latent, noise, timesteps).to(self.device)
            predicted = model(
                noisy.to(self.device),
                timesteps.to(self.device),
                states.to(self.device),
                encoder_attention_mask=mask.to(self.device),
            ).sample.float()
            return (predicted - velocity).pow(2).mean((1, 2, 3))

        def loss_of(model: nn.Module, rng: np.random.Generator) -> Tensor:
            generator = torch.Generator().manual_seed(_seed(rng))
            chosen = rng.integers(len(data), size=batch_size)
            captions = ["" if rng.random() < CAPTION_DROP else data.caption(i, rng) for i in chosen]
            encoded = minilm(captions)
            states, mask = blurred(encoded.tokens[0], encoded.masks[0], rng, generator)
            # One timestep in each sixteenth of the schedule: fewer accidents in a batch's loss.
            places = torch.arange(batch_size) + torch.rand(batch_size, generator=generator)
            timesteps = (places * 1000 / batch_size).long().clamp(max=999)
            latent = torch.stack([data.latent(i) for i in chosen])
            errors = error(model, latent, states, mask, timesteps, generator)
            precision = compute_snr(schedule, timesteps) + 1
            weight = (precision.clamp(max=SNR_GAMMA) / precision).to(self.device)
            return (weight * errors).mean()

        seeds = range(HELD_OUT_SEED, HELD_OUT_SEED + VALIDATION_SCENES)
        vae = PocketAutoencoder.from_pretrained(self.weights("vae")).float().eval()
        scenes = list(draw_scenes(seeds, "dev"))
        held_out = _latents(vae, torch.stack([mel[None] for mel, _ in scenes]))
        held_out *= vae.config.scaling_factor
        rng = np.random.default_rng(HELD_OUT_SEED)
        held_out_text = minilm([compose(f["labels"], f["relation"], rng) for _, f in scenes])

        @torch.no_grad()
        def validate(model: nn.Module) -> float:
            generator = torch.Generator().manual_seed(HELD_OUT_SEED)
            timesteps = torch.linspace(*VALIDATION_TIMESTEPS, VALIDATION_SCENES).long()
            items = zip(
                held_out.split(16),
                held_out_text.tokens[0].split(16),
                held_out_text.masks[0].split(16),
                timesteps[torch.randperm(VALIDATION_SCENES, generator=generator)].split(16),
                strict=True,
            )
            return torch.cat([error(model, *item, generator) for item in items]).mean().item()

        model = self._train("unet", model, loss_of, validate)
        if model is not None:
            model.half().save_pretrained(self.weights("unet"))
            schedule.save_pretrained(self.weights("scheduler"))


@torch.no_grad()
def average_sentence(data: Dataset) -> Tensor:
    """Mean over captions of their mean token states, float32, shape (384,)."""
    rng = np.random.default_rng(0)
    captions = sorted((data.caption(i % len(data), rng) for i in range(AVERAGED_CAPTIONS)), key=len)
    total = torch.zeros(384)
    for first in range(0, len(captions), 64):
        encoded = load_minilm()(captions[first : first + 64])
        mask = encoded.masks[0][..., None]
        total += ((encoded.tokens[0] * mask).sum(1) / mask.sum(1)).sum(0)
    return total / len(captions)


def blurred(
    states: Tensor, mask: Tensor, rng: np.random.Generator, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Captions as other words might have said them.

    Noise of up to 0.3 of the states' own spread is added to each word, and in some captions every
    word is replaced by the sentence's mean, so that the UNet cannot lean on single words.

    Parameters
    ----------
    states : torch.Tensor
        float32, shape (batch, length, 384).
    mask : torch.Tensor
        bool, shape (batch, length).
    rng, generator
        Of the amounts, and of the noise.
    """
    attended = mask[..., None]
    amount = torch.from_numpy(rng.uniform(0, JITTER, (len(states), 1, 1))).float()
    noise = torch.randn(states.shape, generator=generator)
    states = states + amount * states.std(-1, keepdim=True) * noise
    mean = (states * attended).sum(1, keepdim=True) / attended.sum(1, keepdim=True)
    alone = torch.from_numpy(rng.random((len(states), 1, 1)) < WORDS_DROP)
    return torch.where(alone, mean, states), mask


@torch.no_grad()
def fit_principal_components(model: PocketAutoencoder, log_mels: Iterable[Tensor]) -> None:
    """Set the encoder, and the decoder's linear shortcut, to the principal components of patches.

    A linear VAE's likelihood is largest when it spans the first principal components and takes the
    mean variance of the others, σ², for noise (Tipping and Bishop 1999; Lucas et al. 2019).
    Component i, of standard deviation s, is divided by √s, where theirs is by s: what the UNet
    gets wrong in a component is then heard more evenly.  Its posterior's variance is σ² / s.

    Parameters
    ----------
    model : PocketAutoencoder
    log_mels : iterable of torch.Tensor
        float32, natural log, each of shape (frames, 64), frames a multiple of 16.
    """
    kernel = (PATCH, PATCH)
    patches = torch.cat(
        [
            functional.unfold(
                (mel - LOG_MEL_MEAN)[None, None] / LOG_MEL_SCALE, kernel, stride=PATCH
            )[0].T
            for mel in log_mels
        ]
    )
    channels = model.config.latent_channels
    principal = PCA(channels, svd_solver="covariance_eigh").fit(patches.double().numpy())
    mean, variances, directions = (
        torch.from_numpy(part)
        for part in (principal.mean_, principal.explained_variance_, principal.components_)
    )
    scale = variances**0.25
    analysis, synthesis = directions / scale[:, None], directions * scale[:, None]
    model.encoder.weight.zero_()
    model.encoder.weight[:channels] = analysis.unflatten(1, (1, *kernel))
    model.encoder.bias[:channels] = -analysis @ mean
    model.encoder.bias[channels:] = (principal.noise_variance_ / scale**2).log()
    model.shortcut.weight.copy_(synthesis.unflatten(1, (1, *kernel)))
    # One bias for all places of a patch: the patches' mean hardly varies between them.
    model.shortcut.bias.fill_(mean.mean())


def reconstruction_error(decoded: Tensor, log_mel: Tensor) -> Tensor:
    """Mean absolute error in which bins that stand above their neighbours count up to four times.

    A plain mean lets the thin lines of a phone or a siren go, for they are few among the bins.
    Both log-mels float32, shape (batch, 1, frames, 64).
    """
    surroundings = functional.avg_pool2d(
        log_mel,
        (1, PROMINENCE_BINS),
        stride=1,
        padding=(0, PROMINENCE_BINS // 2),
        count_include_pad=False,
    )
    weight = 1 + (log_mel - surroundings).clamp(0, PROMINENCE_LIMIT)
    return (weight * (decoded - log_mel).abs()).sum() / weight.sum()


def _crops(data: Dataset, rng: np.random.Generator, batch_size: int, frames: int) -> Tensor:
    """Random log-mel crops, float32, shape (batch, 1, frames, 64)."""
    places = rng.integers((len(data), 1024 - frames + 1), size=(batch_size, 2))
    return torch.stack([data.log_mel(int(i), int(first), frames)[None] for i, first in places])


def _augmented(mels: Tensor, rng: np.random.Generator) -> Tensor:
    """Shift, change level and tone colour, smear half of them, hide a band and a stretch of time.

    Smeared, because what is to be judged has passed an autoencoder, which loses fine texture.
    """
    augmented = []
    for mel in mels:
        mel = mel.roll(int(rng.integers(1024)), dims=1)
        tilt = torch.linspace(-1, 1, mel.shape[-1]) * rng.uniform(-1, 1)
        mel = (mel + rng.uniform(-2, 0.7) + tilt).clamp(min=-11.5129)
        mel = mel.roll(int(rng.integers(-2, 3)), dims=2)
        if rng.random() < 0.5:
            widths = (0, rng.uniform(0, SMEAR_FRAMES), rng.uniform(0, SMEAR_BINS))
            mel = torch.from_numpy(gaussian_filter(mel.numpy(), widths))
        band, start = int(rng.integers(0, 10)), int(rng.integers(0, 800))
        low = int(rng.integers(0, 64 - band))
        mel[:, :, low : low + band] = -9.0
        mel[:, start : start + int(rng.integers(0, 150))] = -11.0
        augmented.append(mel)
    return torch.stack(augmented)


@torch.no_grad()
def _latents(vae: PocketAutoencoder, log_mels: Tensor) -> Tensor:
    """Posterior modes, unscaled, float32, shape (scenes, 32, 64, 4), of (scenes, 1, 1024, 64)."""
    return torch.cat([vae.encode(part).latent_dist.mode() for part in log_mels.split(16)])


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**62))
