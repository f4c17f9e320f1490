"""How the pocket model is made, stage by stage.

corpus → autoencoder, vocoder, CLAP and classifier from the corpus → latents and captions → UNet.
Every stage reads the finished ones from the training folder, goes on from its own checkpoint, and
leaves float16 safetensors under ``weights/``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr
from safetensors.torch import load_model
from scipy.ndimage import gaussian_filter
from sklearn.decomposition import PCA
from torch import Tensor, nn
from torch.nn import functional
from tqdm.auto import tqdm

from helpers.audio import HOP_LENGTH, log_mel
from helpers.evaluation.audio_tower import AudioTower, PocketClapModel
from helpers.models.minilm import MAX_TOKENS, load_minilm
from helpers.models.pocket import (
    LOG_MEL_MEAN,
    LOG_MEL_SCALE,
    NOISE_SCHEDULE,
    PATCH,
    PocketAutoencoder,
    new_autoencoder,
    new_unet,
    new_vocoder,
)
from helpers.pocket.dataset import Dataset, render
from helpers.pocket.loop import Schedule, train
from helpers.pocket.vocabulary import LABELS

VAE_FRAMES = 256
VOCODER_FRAMES = 64
PROMINENCE_BINS, PROMINENCE_LIMIT = 9, 3.0
SMEAR_FRAMES, SMEAR_BINS = 1.5, 0.6  # largest standard deviation
MEL_WEIGHT = 2.0
SNR_GAMMA = 5.0
CAPTION_DROP = 0.1
STFT_SIZES = ((256, 64), (512, 128), (1024, 160), (2048, 320))  # window, hop in samples


@dataclass(frozen=True)
class Recipe:
    """Corpus size and schedule of each stage."""

    scenes: int
    vae: Schedule
    vocoder: Schedule
    clap: Schedule
    classifier: Schedule
    unet: Schedule


RECIPES = {
    "cpu": Recipe(
        scenes=6_000,
        vae=Schedule(2_500, 1e-3, 8),
        vocoder=Schedule(2_000, 1e-3, 16),
        clap=Schedule(1_000, 1e-3, 32),
        classifier=Schedule(1_200, 1e-3, 32),
        unet=Schedule(2_500, 5e-4, 16),
    ),
    "gpu": Recipe(
        scenes=20_000,
        vae=Schedule(10_000, 1e-3, 16),
        vocoder=Schedule(20_000, 8e-4, 32),
        clap=Schedule(6_000, 1e-3, 64),
        classifier=Schedule(6_000, 1e-3, 64),
        unet=Schedule(40_000, 4e-4, 64, ema_decay=0.9995),
    ),
    # An hour or two more on two cores, from the weights of another model (--start).
    "more": Recipe(
        scenes=6_000,
        vae=Schedule(1_000, 5e-4, 8),
        vocoder=Schedule(2_000, 5e-4, 16),
        clap=Schedule(300, 5e-4, 32),
        classifier=Schedule(400, 5e-4, 32),
        unet=Schedule(1_000, 4e-4, 16),
    ),
    "smoke": Recipe(500, *[Schedule(2, 1e-4, 2)] * 5),
}


class Workshop:
    """A training folder: what is rendered, what is trained, what is left to do.

    Parameters
    ----------
    folder : Path
    recipe : Recipe
    start : Path, optional
        A finished model's folder, such as ``data/pocket``: the stages whose weights it holds go
        on from them instead of from random ones.
    """

    def __init__(self, folder: Path, recipe: Recipe, start: Path | None = None) -> None:
        self.folder, self.recipe, self.start = folder, recipe, start
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.stages: dict[str, Callable[[], object]] = {
            "corpus": self.corpus,
            "vae": self.vae,
            "vocoder": self.vocoder,
            "clap": self.clap,
            "classifier": self.classifier,
            "latents": self.latents,
            "captions": self.captions,
            "unet": self.unet,
        }

    @property
    def training(self) -> Dataset:
        """The rendered training scenes."""
        return Dataset(self.folder / "training")

    def weights(self, name: str) -> Path:
        """Folder of a finished stage's weights."""
        return self.folder / "weights" / name

    def _train(self, name: str, model: nn.Module, loss_of: Callable[..., Tensor]) -> nn.Module:
        checkpoint = self.folder / "checkpoints" / f"{name}.pt"
        if self.start is not None:
            for weights in (self.start / name).glob("*.safetensors"):
                load_model(model, weights)
        return train(model, loss_of, getattr(self.recipe, name), checkpoint)

    def corpus(self) -> Dataset:
        """Render the training scenes."""
        return render(self.folder / "training", self.recipe.scenes)

    def vae(self) -> None:
        """Fit the encoder in closed form; train the decoder on draws from its posterior."""
        data, batch_size = self.training, self.recipe.vae.batch_size
        torch.manual_seed(0)
        model = new_autoencoder()
        fit_principal_components(model, (data.log_mel(i) for i in range(0, len(data), 8)))
        model.encoder.requires_grad_(False)

        def loss_of(model: nn.Module, rng: np.random.Generator) -> Tensor:
            mels = _crops(data, rng, batch_size, VAE_FRAMES)[0].to(self.device)
            posterior = model.encode(mels).latent_dist
            latent = posterior.sample(torch.Generator(mels.device).manual_seed(_seed(rng)))
            return reconstruction_error(model.decode(latent).sample.float(), mels)

        model = self._train("vae", model, loss_of)
        model.register_to_config(
            scaling_factor=1 / _latents(model, data, range(0, len(data), 20)).std().item()
        )
        model.half().save_pretrained(self.weights("vae"))

    def vocoder(self) -> None:
        """Train HiFi-GAN's generator on mel and multi-resolution STFT distances."""
        data, batch_size = self.training, self.recipe.vocoder.batch_size
        torch.manual_seed(1)

        def loss_of(model: nn.Module, rng: np.random.Generator) -> Tensor:
            mels, target = (
                part.to(self.device) for part in _crops(data, rng, batch_size, VOCODER_FRAMES)
            )
            return vocoder_loss(model(mels[:, 0]).float(), target)

        model = self._train("vocoder", new_vocoder(), loss_of)
        model.half().save_pretrained(self.weights("vocoder"))

    def clap(self) -> None:
        """Train the pocket CLAP: scenes against sentence vectors, soft positives by shared sounds.

        The target of scene i over captions j is proportional to the Jaccard overlap of their
        sounds, so that "a siren with gunshots" is near both and nearest to itself.
        """
        data, batch_size = self.training, self.recipe.clap.batch_size
        torch.manual_seed(2)
        sentences = self._sentences()

        def loss_of(model: nn.Module, rng: np.random.Generator) -> Tensor:
            chosen = rng.integers(len(data), size=batch_size)
            mels = _augmented(torch.stack([data.log_mel(i)[None] for i in chosen]), rng)
            captions = [data.facts[i]["captions"][rng.integers(4)] for i in chosen]
            text = torch.stack([sentences[caption] for caption in captions])
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
        """Encode every scene once, for the UNet's stage."""
        data = self.training
        vae = PocketAutoencoder.from_pretrained(self.weights("vae")).to(self.device).eval()
        latents = _latents(vae, data, range(len(data))) * vae.config.scaling_factor
        np.save(self.folder / "latents.npy", latents.half().numpy())

    def captions(self) -> None:
        """Embed every caption once, for the UNet's stage."""
        captions = sorted({c for fact in self.training.facts for c in fact["captions"]} | {""})
        states = np.zeros((len(captions), MAX_TOKENS, 384), np.float16)
        lengths = np.zeros(len(captions), np.int64)
        minilm = load_minilm()
        order = sorted(range(len(captions)), key=lambda i: len(captions[i]))
        for batch in tqdm(np.array_split(order, -(-len(order) // 64)), desc="captions"):
            encoded = minilm([captions[i] for i in batch])
            tokens, mask = encoded.tokens[0], encoded.masks[0]
            states[batch, : tokens.shape[1]] = tokens.numpy()
            lengths[batch] = mask.sum(1).numpy()
        np.save(self.folder / "token_states.npy", states)
        np.save(self.folder / "token_lengths.npy", lengths)
        (self.folder / "captions.json").write_text(json.dumps(captions))

    def unet(self) -> None:
        """Train the UNet: v-prediction, a tenth of the captions empty.

        The loss of nearly clean latents is turned down, min(SNR + 1, 5) / (SNR + 1); that of noisy
        ones, where the caption decides what is heard, is not (min-SNR weighting would).
        """
        batch_size, facts = self.recipe.unet.batch_size, self.training.facts
        torch.manual_seed(4)
        latents = torch.from_numpy(np.load(self.folder / "latents.npy"))
        states = torch.from_numpy(np.load(self.folder / "token_states.npy", mmap_mode="r+"))
        lengths = torch.from_numpy(np.load(self.folder / "token_lengths.npy"))
        rows = {c: i for i, c in enumerate(json.loads((self.folder / "captions.json").read_text()))}
        schedule = DDPMScheduler(**NOISE_SCHEDULE)

        def loss_of(model: nn.Module, rng: np.random.Generator) -> Tensor:
            generator = torch.Generator().manual_seed(_seed(rng))
            chosen = rng.integers(len(latents), size=batch_size)
            captions = [
                "" if rng.random() < CAPTION_DROP else facts[i]["captions"][rng.integers(4)]
                for i in chosen
            ]
            index = torch.tensor([rows[caption] for caption in captions])
            longest = int(lengths[index].max())
            mask = torch.arange(longest)[None] < lengths[index][:, None]
            latent = latents[chosen].float()
            noise = torch.randn(latent.shape, generator=generator)
            timesteps = torch.randint(0, 1000, (batch_size,), generator=generator)
            noisy = schedule.add_noise(latent, noise, timesteps)
            velocity = schedule.get_velocity(latent, noise, timesteps).to(self.device)
            predicted = model(
                noisy.to(self.device),
                timesteps.to(self.device),
                states[index][:, :longest].float().to(self.device),
                encoder_attention_mask=mask.to(self.device),
            ).sample.float()
            precision = compute_snr(schedule, timesteps) + 1
            weight = (precision.clamp(max=SNR_GAMMA) / precision).to(self.device)
            return (weight * (predicted - velocity).pow(2).mean((1, 2, 3))).mean()

        model = self._train("unet", new_unet(), loss_of)
        model.half().save_pretrained(self.weights("unet"))

    def _sentences(self) -> dict[str, Tensor]:
        captions = sorted({c for f in self.training.facts for c in f["captions"]}, key=len)
        batches = [captions[i : i + 64] for i in range(0, len(captions), 64)]
        vectors = [load_minilm().sentence(b) for b in tqdm(batches, desc="captions")]
        return dict(zip(captions, torch.cat(vectors), strict=True))


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


def vocoder_loss(generated: Tensor, target: Tensor) -> Tensor:
    """Log-mel L1 plus, at four resolutions, spectral convergence and log-magnitude L1.

    Both waveforms float32, shape (batch, samples).
    """
    loss = MEL_WEIGHT * (log_mel(generated) - log_mel(target)).abs().mean()
    for size, hop in STFT_SIZES:
        a, b = (_magnitude(waveform, size, hop) for waveform in (generated, target))
        # Over the whole batch: a ratio per item would be ruled by near-silent crops.
        convergence = (a - b).norm() / b.norm()
        loss = loss + (convergence + (a.log() - b.log()).abs().mean()) / len(STFT_SIZES)
    return loss


def _magnitude(waveform: Tensor, size: int, hop: int) -> Tensor:
    window = torch.hann_window(size, device=waveform.device)
    spectrum = torch.stft(waveform, size, hop, window=window, return_complex=True)
    return (spectrum.real.square() + spectrum.imag.square()).clamp(min=1e-8).sqrt()


def _crops(
    data: Dataset, rng: np.random.Generator, batch_size: int, frames: int
) -> tuple[Tensor, Tensor]:
    """Random log-mel crops (batch, 1, frames, 64) and their waveforms (batch, frames · 160)."""
    mels, waveforms = [], []
    for index in rng.integers(len(data), size=batch_size):
        first = int(rng.integers(0, 1024 - frames + 1))
        mels.append(data.log_mel(index, first, frames)[None])
        waveforms.append(data.waveform(index, first * HOP_LENGTH, frames * HOP_LENGTH))
    return torch.stack(mels), torch.stack(waveforms)


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
def _latents(vae: PocketAutoencoder, data: Dataset, indices: range) -> Tensor:
    """Posterior modes, unscaled, float32, shape (scenes, 32, 64, 4)."""
    vae = vae.float()
    batches = [indices[i : i + 8] for i in range(0, len(indices), 8)]
    modes = []
    for batch in tqdm(batches, desc="latents"):
        mels = torch.stack([data.log_mel(i)[None] for i in batch]).to(vae.device)
        modes.append(vae.encode(mels).latent_dist.mode().cpu())
    return torch.cat(modes)


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**62))
