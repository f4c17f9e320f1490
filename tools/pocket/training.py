"""How the pocket model is made, stage by stage.

corpus → autoencoder → latents → CLAP and classifier, UNet.  Every stage reads the finished ones
from the training folder, goes on from its own checkpoint, and leaves float16 safetensors under
``weights/``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr
from sklearn.decomposition import PCA
from torch import Tensor, nn
from torch.nn import functional
from tqdm.auto import tqdm

from helpers.audio import LOG_FLOOR
from helpers.evaluation.audio_tower import load_judge, save_judge
from helpers.evaluation.judges import AudioTower, ClapNetwork
from helpers.models.minilm import HUB_NAME, load_minilm
from helpers.models.pocket import (
    LOG_MEL_MEAN,
    LOG_MEL_SCALE,
    PATCH,
    PocketAutoencoder,
    load_part,
)
from helpers.sounds.vocabulary import LABELS
from tools.pocket.captions import compose
from tools.pocket.dataset import HELD_OUT_SEED, Dataset, decode, draw_scenes, render
from tools.pocket.loop import Schedule, averaged, train
from tools.pocket.networks import NOISE_SCHEDULE, new_autoencoder, new_unet, save_part

VAE_FRAMES = 256
PROMINENCE_BINS, PROMINENCE_LIMIT = 9, 3.0
CROP_SHARE = 1 / 3
FALSE_ALARMS = 0.05  # of clips without a sound, by which its threshold is set
SNR_GAMMA = 5.0
CAPTION_DROP = 0.1
WORDS_DROP = 0.15  # of the captions: only their mean is shown
JITTER = 0.3  # largest noise on token states, as a share of their distance from the average
VALIDATION_SCENES = 128
CALIBRATION_SEED = HELD_OUT_SEED + 10_000
VALIDATION_TIMESTEPS = (50, 980)
AVERAGED_CAPTIONS = 4_000


@dataclass(frozen=True)
class Recipe:
    """Corpus size and schedule of each stage."""

    scenes: int
    latents: int
    calibration: int
    vae: Schedule
    clap: Schedule
    classifier: Schedule
    unet: Schedule


CPU = Recipe(
    scenes=10_000,
    latents=40_000,
    calibration=1_500,
    vae=Schedule(2_500, 1e-3, 8),
    clap=Schedule(2_400, 1e-3, 40),
    classifier=Schedule(1_600, 1e-3, 32),
    unet=Schedule(31_000, 5e-4, 16, ema_decay=0.9995),
)
RECIPES = {
    "cpu": CPU,
    "gpu": replace(CPU, unet=Schedule(16_000, 1e-3, 256, ema_decay=0.999)),
    "smoke": Recipe(500, 500, 100, *[Schedule(2, 1e-4, 2)] * 4),
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
            "latents": self.latents,
            "round_trips": self.round_trips,
            "clap": self.clap,
            "classifier": self.classifier,
            "calibrate": self.calibrate,
            "unet": self.unet,
        }

    @cached_property
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
        save_part(model, self.weights("vae"))

    def round_trips(self) -> None:
        """Pass the corpus's latents through the decoder: judges hear what has passed it, too."""
        vae = load_part(PocketAutoencoder, self.weights("vae")).float().eval()
        decode(self.folder / "latents", self.folder / "round_trips", self.recipe.scenes, vae)

    def clap(self) -> None:
        """Train the pocket CLAP on scenes and sentences that differ in one respect at a time.

        A batch holds a scene of X and Y, X alone, Y alone, and the same two in another relation or
        order.  A sentence is right for the scenes of its own composition; whether "X while Y" fits
        "X with Y in the background" is left open.
        """
        data, batch_size = self.training, self.recipe.clap.batch_size
        neighbours = Neighbours(data.facts)
        torch.manual_seed(2)

        def loss_of(model: nn.Module, rng: np.random.Generator) -> Tensor:
            chosen = neighbours.draw(batch_size, rng)
            facts = [data.facts[i] for i in chosen]
            mels = self._heard(chosen, rng)
            text = load_minilm()([data.caption(i, rng) for i in chosen])
            logits = model(mels.to(self.device), text.to(self.device, torch.float32)).float()
            return contrastive_loss(logits, [composition(fact) for fact in facts])

        model = self._train("clap", ClapNetwork(), loss_of)
        save_judge(model, self.weights("clap"), text=HUB_NAME)

    def classifier(self) -> None:
        """Train the independent classifier that names sounds: one sigmoid a label.

        A third of the scenes of one sound are cut to 2 … 5 s, since gaps are judged by themselves.
        """
        data, batch_size = self.training, self.recipe.classifier.batch_size
        torch.manual_seed(3)

        def loss_of(model: nn.Module, rng: np.random.Generator) -> Tensor:
            chosen = rng.integers(len(data), size=batch_size)
            mels = self._heard(chosen, rng)
            targets = torch.zeros(batch_size, len(LABELS))
            for row, i in enumerate(chosen):
                labels = data.facts[i]["labels"]
                targets[row, [LABELS.index(label) for label in labels]] = 1
                if len(labels) == 1 and rng.random() < CROP_SHARE:
                    mels[row] = cropped(mels[row], rng)
            logits = model(mels.to(self.device)).float()
            return functional.binary_cross_entropy_with_logits(logits, targets.to(logits))

        model = self._train("classifier", AudioTower(len(LABELS)), loss_of)
        save_judge(model, self.weights("classifier"), labels=list(LABELS))

    @torch.no_grad()
    def calibrate(self) -> None:
        """Find, for each sound, the logit that 5 % of the dev scenes without it exceed.

        The scenes have passed the autoencoder, as what is judged has.
        """
        vae = load_part(PocketAutoencoder, self.weights("vae")).float().eval()
        network = AudioTower(len(LABELS))
        load_judge(network, self.weights("classifier"))
        seeds = range(CALIBRATION_SEED, CALIBRATION_SEED + self.recipe.calibration)
        logits, absent = [], []
        for log_mel, facts in tqdm(draw_scenes(seeds, "dev"), total=len(seeds), desc="calibrate"):
            posterior = vae.encode(log_mel[None, None]).latent_dist
            logits.append(network(vae.decode(posterior.mode()).sample)[0])
            absent.append([label not in facts["labels"] for label in LABELS])
        values, absent = torch.stack(logits).numpy(), np.array(absent)
        offsets = [
            round(float(np.quantile(values[absent[:, i], i], 1 - FALSE_ALARMS)), 3)
            for i in range(len(LABELS))
        ]
        save_judge(network, self.weights("classifier"), labels=list(LABELS), offsets=offsets)

    @cached_property
    def _decoded(self) -> Dataset:
        return Dataset(self.folder / "round_trips")

    def _heard(self, chosen: Sequence[int], rng: np.random.Generator) -> Tensor:
        """Log-mels of scenes, augmented; half of them have passed the autoencoder."""
        mels = [
            (self._decoded if rng.random() < 0.5 else self.training).log_mel(i)[None]
            for i in chosen
        ]
        fixed = [self.training.facts[i]["relation"] == "sequence" for i in chosen]
        return _augmented(torch.stack(mels), fixed, rng)

    def latents(self) -> None:
        """Encode the corpus for the UNet's stage: its log-mels, and more scenes that keep none."""
        vae = load_part(PocketAutoencoder, self.weights("vae")).float().eval()
        render(self.folder / "latents", self.recipe.latents, vae)

    def unet(self) -> None:
        """Train the UNet: v-prediction, a tenth of the captions empty.

        The averaged weights are written to ``weights/unet`` whenever training stops; those in
        ``start``, if there is such a folder, are where it begins.

        The loss of nearly clean latents is turned down, min(SNR + 1, 5) / (SNR + 1); that of noisy
        ones, where the caption decides what is heard, is not (min-SNR weighting would).
        """
        data = Dataset(self.folder / "latents")
        latents = data.latents().to(self.device)
        batch_size = self.recipe.unet.batch_size
        minilm = load_minilm()
        minilm.model.to(self.device)
        torch.manual_seed(4)
        model = new_unet()
        model.average_sentence.copy_(average_sentence(data))
        if (start := self.folder / "start").exists():
            model = load_part(type(model), start).float()
        schedule = DDPMScheduler(**NOISE_SCHEDULE)

        def error(model, latent, states, mask, timesteps, generator) -> Tensor:
            """Mean square error of the velocity, one value an item."""
            noise = torch.randn(latent.shape, generator=generator, device=self.device)
            noisy = schedule.add_noise(latent, noise, timesteps)
            velocity = schedule.get_velocity(latent, noise, timesteps)
            predicted = model(noisy, timesteps, states, encoder_attention_mask=mask).sample.float()
            return (predicted - velocity).pow(2).mean((1, 2, 3))

        def loss_of(model: nn.Module, rng: np.random.Generator) -> Tensor:
            generator = torch.Generator(self.device).manual_seed(_seed(rng))
            chosen = rng.integers(len(data), size=batch_size)
            captions = ["" if rng.random() < CAPTION_DROP else data.caption(i, rng) for i in chosen]
            encoded = minilm(captions)
            states, mask = blurred(encoded.tokens[0], encoded.masks[0], rng, generator)
            # One timestep in each part of the schedule: fewer accidents in a batch's loss.
            within = torch.rand(batch_size, generator=generator, device=self.device)
            places = torch.arange(batch_size, device=self.device) + within
            timesteps = (places * 1000 / batch_size).long().clamp(max=999)
            latent = latents[torch.from_numpy(chosen).to(self.device)].float()
            errors = error(model, latent, states, mask, timesteps, generator)
            precision = compute_snr(schedule, timesteps) + 1
            weight = precision.clamp(max=SNR_GAMMA) / precision
            return (weight * errors).mean()

        seeds = range(HELD_OUT_SEED, HELD_OUT_SEED + VALIDATION_SCENES)
        vae = load_part(PocketAutoencoder, self.weights("vae")).float().eval()
        scenes = list(draw_scenes(seeds, "dev"))
        held_out = _latents(vae, torch.stack([mel[None] for mel, _ in scenes]))
        held_out = held_out.to(self.device) * vae.config.scaling_factor
        rng = np.random.default_rng(HELD_OUT_SEED)
        held_out_text = minilm([compose(f["labels"], f["relation"], rng) for _, f in scenes])

        @torch.no_grad()
        def validate(model: nn.Module) -> float:
            generator = torch.Generator(self.device).manual_seed(HELD_OUT_SEED)
            timesteps = torch.linspace(*VALIDATION_TIMESTEPS, VALIDATION_SCENES).long()
            order = np.random.default_rng(HELD_OUT_SEED).permutation(VALIDATION_SCENES)
            items = zip(
                held_out.split(16),
                held_out_text.tokens[0].split(16),
                held_out_text.masks[0].split(16),
                timesteps[order].to(self.device).split(16),
                strict=True,
            )
            return torch.cat([error(model, *item, generator) for item in items]).mean().item()

        if self._train("unet", model, loss_of, validate) is None:
            checkpoint = self.folder / "checkpoints" / "unet.pt"
            averaged(model, self.recipe.unet, checkpoint)
        save_part(model, self.weights("unet"))
        save_part(schedule, self.weights("scheduler"))


@torch.no_grad()
def average_sentence(data: Dataset) -> Tensor:
    """Mean over captions of their mean token states, float32, shape (384,)."""
    rng = np.random.default_rng(0)
    captions = sorted((data.caption(i % len(data), rng) for i in range(AVERAGED_CAPTIONS)), key=len)
    total = torch.zeros(384)
    for first in range(0, len(captions), 64):
        encoded = load_minilm()(captions[first : first + 64])
        mask = encoded.masks[0][..., None]
        total += ((encoded.tokens[0] * mask).sum(1) / mask.sum(1)).sum(0).cpu()
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
    amount = torch.from_numpy(rng.uniform(0, JITTER, (len(states), 1, 1))).to(states)
    noise = torch.randn(states.shape, generator=generator, device=states.device)
    states = states + amount * states.std(-1, keepdim=True) * noise
    mean = (states * attended).sum(1, keepdim=True) / attended.sum(1, keepdim=True)
    alone = torch.from_numpy(rng.random((len(states), 1, 1)) < WORDS_DROP).to(states.device)
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


class Neighbours:
    """Draws batches of scenes in which compositions of the same sounds stand side by side.

    Parameters
    ----------
    facts : list of dict
        Labels and relation of every scene.
    """

    def __init__(self, facts: list[dict]) -> None:
        self.facts = facts
        self.by_sounds: dict[frozenset[str], list[int]] = {}
        for index, fact in enumerate(facts):
            self.by_sounds.setdefault(frozenset(fact["labels"]), []).append(index)
        self.several = [i for i, fact in enumerate(facts) if len(fact["labels"]) == 2]

    def draw(self, count: int, rng: np.random.Generator) -> list[int]:
        """Draw groups: a scene of two sounds, two more of the same two, and each sound alone."""
        chosen: list[int] = []
        while len(chosen) < count:
            first = int(self.several[rng.integers(len(self.several))])
            both = self.facts[first]["labels"]
            chosen.append(first)
            for sounds in (both, both, both[:1], both[1:]):
                found = self.by_sounds.get(frozenset(sounds))
                if found:
                    chosen.append(int(found[rng.integers(len(found))]))
        return chosen[:count]


def composition(fact: dict) -> tuple[str, tuple[str, ...]]:
    """Return what a caption says of a scene: relation and sounds, sorted where order is silent."""
    labels, relation = tuple(fact["labels"]), fact["relation"]
    if len(labels) == 1:
        return "alone", labels
    return relation, tuple(sorted(labels)) if relation == "mixture" else labels


def contrastive_loss(logits: Tensor, compositions: list[tuple[str, tuple[str, ...]]]) -> Tensor:
    """Cross-entropy both ways, all scenes of one composition being right for its sentences.

    Parameters
    ----------
    logits : torch.Tensor
        Shape (scenes, sentences), item i of both being of ``compositions[i]``.
    compositions : list
        Of :func:`composition`.  A mixture and a background of the same sounds are neither right
        nor wrong for each other.
    """

    def open_to(a: tuple[str, tuple[str, ...]], b: tuple[str, tuple[str, ...]]) -> bool:
        return {a[0], b[0]} == {"mixture", "background"} and set(a[1]) == set(b[1])

    right = torch.tensor([[a == b for b in compositions] for a in compositions])
    ignored = torch.tensor([[open_to(a, b) for b in compositions] for a in compositions])
    right, ignored = right.to(logits), ignored.to(logits.device)
    targets = right / right.sum(1, keepdim=True)
    logits = logits.masked_fill(ignored, -1e4)
    return functional.cross_entropy(logits, targets) + functional.cross_entropy(logits.T, targets)


def cropped(log_mel: Tensor, rng: np.random.Generator) -> Tensor:
    """Keep a stretch of 2 … 5 s that holds a tenth of the energy or more, at the clip's start.

    Parameters
    ----------
    log_mel : torch.Tensor
        Shape (1, 1024, 64); what follows the stretch is silence.
    """
    energy = log_mel[0].exp().square().sum(1)
    for _ in range(20):
        frames = int(rng.integers(200, 500))
        first = int(rng.integers(0, 1024 - frames))
        if energy[first : first + frames].sum() >= 0.1 * energy.sum():
            result = torch.full_like(log_mel, LOG_FLOOR)
            result[:, :frames] = log_mel[:, first : first + frames]
            return result
    return log_mel


def _augmented(mels: Tensor, fixed: Sequence[bool], rng: np.random.Generator) -> Tensor:
    """Shift in time, change level and tone colour, hide a band and a stretch of time.

    A scene whose order is told (``fixed``) is not shifted, for a roll turns it round.
    """
    augmented = []
    for mel, stays in zip(mels, fixed, strict=True):
        mel = mel if stays else mel.roll(int(rng.integers(1024)), dims=1)
        tilt = torch.linspace(-1, 1, mel.shape[-1]) * rng.uniform(-1, 1)
        mel = (mel + rng.uniform(-2, 0.7) + tilt).clamp(min=LOG_FLOOR)
        mel = mel.roll(int(rng.integers(-2, 3)), dims=2)
        band, start = int(rng.integers(0, 10)), int(rng.integers(0, 800))
        low = int(rng.integers(0, 64 - band))
        mel[:, :, low : low + band] = -9.0
        mel[:, start : start + int(rng.integers(0, 100))] = -11.0
        augmented.append(mel)
    return torch.stack(augmented)


@torch.no_grad()
def _latents(vae: PocketAutoencoder, log_mels: Tensor) -> Tensor:
    """Posterior modes, unscaled, float32, shape (scenes, 32, 64, 4), of (scenes, 1, 1024, 64)."""
    return torch.cat([vae.encode(part).latent_dist.mode() for part in log_mels.split(16)])


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**62))
