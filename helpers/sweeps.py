"""Curves over many edits: read those that are stored, and measure any point of one again.

A lesson that shows how a result depends on a setting needs dozens of edits, which takes too long
to wait for.  Each sweep here is a list of points and a function that measures one of them; its rows
are kept in ``data/sweeps/<name>.csv``, and a lesson measures one of them again to show that they
are what they say.  ``make sweeps`` computes them.

All edits are the pocket model's, at the preset ``pocket-noised`` but for what a point sets.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from itertools import product
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from helpers.audio import Clip
from helpers.comparison import scores
from helpers.data import DATA
from helpers.editing.embedding import EmbeddingResult, optimise_embedding, reconstruction_loss
from helpers.editing.finetuning import FineTuning, finetune
from helpers.editing.interpolation import interpolate, sample
from helpers.editing.nonrigid import NonRigidEdit
from helpers.editing.presets import preset
from helpers.evaluation.clap import Clap, load_clap
from helpers.evaluation.classifier import sound_probabilities
from helpers.models.latent_audio_model import Conditioning, LatentAudioModel
from helpers.pairs import load_pairs
from helpers.sounds.foley import foley_clip
from helpers.sounds.vocabulary import LABELS, VOCABULARY
from helpers.storage import StorageError, read_table

FOLDER = DATA / "sweeps"
PAIRS = (("phone_ringing", "door_knock"), ("duck", "trumpet"))  # source and target
PAIR_SET = "pocket27-offline"
SOURCE_SEED = 2
LOSS_SEED, LOSS_DRAWS, LOSS_BATCH = 1_000, 64, 16  # Steps 1 and 2 train with seed 0
PRESET = "pocket-noised"
ETAS = (0.0, 0.25, 0.5, 0.75, 1.0)

Row = dict[str, float | int | str]


# ---------------------------------------------------------------- reading and measuring


def load_sweep(name: str, folder: Path = FOLDER) -> pd.DataFrame:
    """Read a stored sweep, a row per point: its settings, then its figures.

    Raises
    ------
    ValueError
        If there is no such sweep, or it has not been computed.

    Lesson: 02.
    """
    check_name(name)
    path = table_path(name, folder)
    if not path.exists():
        raise ValueError(f"{path} is missing: compute it with `make sweeps`.")
    return read_rows(path)


def measure(name: str, model: LatentAudioModel, point: Row | pd.Series) -> Row:
    """Measure one point of a sweep live.

    Parameters
    ----------
    name : str
    model : LatentAudioModel
    point : dict or pandas.Series
        The point's settings, or a whole row of the stored sweep.

    Returns
    -------
    dict
        The row: settings, then figures.

    Raises
    ------
    ValueError
        If there is no such sweep.

    Lesson: 02.
    """
    check_name(name)
    points, measure_point = SWEEPS[name]
    point = {setting: point[setting] for setting in points()[0]}
    return {**point, **measure_point(model, **point)}


def check_name(name: str) -> None:
    """Raise a ValueError that names the sweeps there are, unless this is one of them."""
    if name not in SWEEPS:
        raise ValueError(f"There is no sweep {name!r}: choose from {', '.join(SWEEPS)}.")


def table_path(name: str, folder: Path = FOLDER) -> Path:
    """Where the rows of a sweep are kept."""
    return folder / f"{name}.csv"


def read_rows(path: Path) -> pd.DataFrame:
    """Read a stored sweep's rows.

    Raises
    ------
    StorageError
        If the table is damaged.
    """
    try:
        rows = pd.read_csv(io.StringIO(read_table(path)), dtype=str).apply(_numbers)
        if rows.isna().any(axis=None):
            raise ValueError("a row is cut")
    except ValueError as error:  # pandas' own are ValueErrors, too
        raise StorageError(f"{path} is damaged: delete it and run `make sweeps`.") from error
    return rows


def _numbers(column: pd.Series) -> pd.Series:
    for kind in (int, float):
        with suppress(ValueError):
            return column.astype(kind)
    return column


# ---------------------------------------------------------------- what the sweeps share


@cache
def _clap() -> Clap:
    return load_clap("pocket")


@dataclass(frozen=True, eq=False)
class _Task:
    """A recording, what it should become, and what the model makes of both."""

    model: LatentAudioModel
    clip: Clip
    prompt: str
    latent: Tensor
    target: Conditioning

    def loss(self, conditioning: Conditioning, tuned: FineTuning | None = None) -> float:
        """Eq. 1, averaged over draws that are always the same and were not trained on."""
        generator = torch.Generator().manual_seed(LOSS_SEED)
        model = self.model if tuned is None else tuned.model
        with torch.no_grad():
            draws = [
                reconstruction_loss(model, self.latent, conditioning, generator, LOSS_BATCH)
                for _ in range(LOSS_DRAWS // LOSS_BATCH)
            ]
        return float(torch.stack(draws).mean())

    def edits(
        self,
        optimised: Conditioning,
        etas: Sequence[float],
        tuned: FineTuning | None = None,
        **sampling: object,
    ) -> list[Clip]:
        """Step 3 at several η; ``sampling`` replaces some of the preset's settings."""
        settings = replace(preset(PRESET).sampling, **sampling)
        mixtures = Conditioning.cat([interpolate(optimised, self.target, eta) for eta in etas])
        model = self.model if tuned is None else tuned.model
        latents = sample(model, mixtures, settings, self.latent, progress=False)
        return self.model.decode_batch(latents, self.clip)

    def error(self, clip: Clip) -> float:
        """Mean absolute log-mel difference (natural log) to the recording, over its frames."""
        difference = (clip.log_mel() - self.clip.log_mel()).abs()
        return float(difference[:, :, : self.clip.frames].mean())

    def clap_scores(self, clips: Sequence[Clip]) -> list[tuple[float, float]]:
        """Text CLAP and Audio CLAP of edits."""
        return scores.clap_scores(_clap(), clips, self.prompt, self.clip)


@lru_cache(maxsize=4)
def _task(model: LatentAudioModel, source: str, target: str) -> _Task:
    clip = foley_clip(source, seed=SOURCE_SEED)
    prompt = f"Sound of {VOCABULARY[target].plain}"
    return _Task(model, clip, prompt, model.encode(clip), model.embed_text(prompt))


@lru_cache(maxsize=4)
def _embedding(task: _Task) -> EmbeddingResult:
    """Step 1 of the preset, once for all Steps 2 that start from it."""
    return optimise_embedding(
        task.model, task.latent, task.target, preset(PRESET).embedding, progress=False
    )


def _tuned(task: _Task, **settings: object) -> tuple[Conditioning, FineTuning]:
    """Return the preset's e_opt and a Step 2 that differs from the preset's in some settings."""
    optimised = _embedding(task).conditioning
    finetuning = replace(preset(PRESET).finetuning, **settings)
    return optimised, finetune(task.model, task.latent, optimised, finetuning, progress=False)


# ---------------------------------------------------------------- the sweeps


def _on_both_pairs(names: Sequence[str], grid: Iterable[tuple]) -> list[Row]:
    settings = ("source", "target", *names)
    return [dict(zip(settings, (*p, *v), strict=True)) for p, v in product(PAIRS, grid)]


def step1_points() -> list[Row]:
    """Learning rates and steps of Step 1, on two pairs."""
    return _on_both_pairs(("learning_rate", "steps"), product((1e-3, 5e-3, 2e-2), (25, 100)))


def measure_step1(
    model: LatentAudioModel, source: str, target: str, learning_rate: float, steps: int
) -> Row:
    """Measure Step 1 alone: the model stays as it is.

    Returns
    -------
    dict
        ``loss``: Eq. 1; ``distance``: ‖e_opt − e_target‖ / ‖e_target‖ over attended positions;
        ``error``: log-mel error at η = 0; ``text_half``, ``audio_half``: CLAP at η = 0.5.
    """
    task = _task(model, source, target)
    settings = replace(preset(PRESET).embedding, learning_rate=learning_rate, steps=steps)
    result = optimise_embedding(model, task.latent, task.target, settings, progress=False)
    optimised = result.conditioning
    reconstruction, half = task.edits(optimised, [0.0, 0.5])
    [(text, audio)] = task.clap_scores([half])
    return {
        "loss": task.loss(optimised),
        "distance": _distance(optimised, task.target),
        "error": task.error(reconstruction),
        "text_half": text,
        "audio_half": audio,
    }


def _distance(optimised: Conditioning, target: Conditioning) -> float:
    moved, length = 0.0, 0.0
    streams = zip(optimised.embeddings, target.embeddings, target.embedding_masks, strict=True)
    for o, t, mask in streams:
        moved += float(((o - t) * mask).square().sum())
        length += float((t * mask).square().sum())
    return (moved / length) ** 0.5


def step2_points() -> list[Row]:
    """Lengths of Step 2, for the whole UNet and for LoRA, on two pairs."""
    return _on_both_pairs(("method", "steps"), product(("full", "lora"), (0, 30, 100)))


def measure_step2(
    model: LatentAudioModel, source: str, target: str, method: str, steps: int
) -> Row:
    """Measure Step 2 after the preset's Step 1: what it gains, and what the model forgets.

    Returns
    -------
    dict
        ``loss``: Eq. 1; ``error``: log-mel error at η = 0; ``text_one``: Text CLAP at η = 1,
        sampled from pure noise; ``target_probability``: of the target label there, by the
        independent classifier.
    """
    task = _task(model, source, target)
    whole = {"learning_rate": 1e-4, "lora_rank": None} if method == "full" else {}
    optimised, tuned = _tuned(task, steps=steps, **whole)
    [reconstruction] = task.edits(optimised, [0.0], tuned)
    [invention] = task.edits(optimised, [1.0], tuned, strength=1.0)
    [(text, _)] = task.clap_scores([invention])
    return {
        "loss": task.loss(optimised, tuned),
        "error": task.error(reconstruction),
        "text_one": text,
        "target_probability": float(sound_probabilities([invention])[0, LABELS.index(target)]),
    }


def strengths_points() -> list[Row]:
    """Five η for every pair without a gap that needs no download."""
    pairs = [pair for pair in load_pairs(PAIR_SET) if pair.edit != "inpainting"]
    return [
        {"pair": pair.id, "edit": pair.edit.replace("_", " "), "eta": eta}
        for pair, eta in product(pairs, ETAS)
    ]


def measure_strengths(model: LatentAudioModel, pair: str, edit: str, eta: float) -> Row:
    """Measure an edit of the pair set at one η.

    Returns
    -------
    dict
        ``text``, ``audio``, ``sum``: CLAP; ``onset_f1``: onsets against the source's.
    """
    figures = _strengths(model, pair).iloc[ETAS.index(eta)]
    return {str(name): float(value) for name, value in figures.items()}


@lru_cache(maxsize=4)
def _strengths(model: LatentAudioModel, identifier: str) -> pd.DataFrame:
    """Measure all η of a pair: one fit and one batch."""
    [pair] = [pair for pair in load_pairs(PAIR_SET) if pair.id == identifier]
    with NonRigidEdit(model, pair.source.clip, pair.prompt, PRESET, progress=False) as edit:
        measured = scores.measure(_clap(), pair, edit.sweep(list(ETAS)))
    shown = measured.rename(columns={"text_clap": "text", "audio_clap": "audio"})
    return shown[["text", "audio", "sum", "onset_f1"]]


def lora_points() -> list[Row]:
    """Ranks and learning rates of Step 2, on two pairs; rank 0 is the whole UNet."""
    grid = [*product((2, 8, 32), (2e-4, 5e-4, 2e-3)), (0, 1e-4)]
    return _on_both_pairs(("rank", "learning_rate"), grid)


def measure_lora(
    model: LatentAudioModel, source: str, target: str, rank: int, learning_rate: float
) -> Row:
    """Measure Step 2 with adapters of a rank, after the preset's Step 1.

    Returns
    -------
    dict
        ``parameters``: how many are trained; ``seconds_per_step``; ``loss``: Eq. 1; ``error``:
        log-mel error at η = 0; ``eta``: that of the largest sum above 0; ``text``, ``audio``,
        ``sum``: CLAP there.
    """
    task = _task(model, source, target)
    _embedding(task)  # not part of the time below
    started = time.perf_counter()
    optimised, tuned = _tuned(task, learning_rate=learning_rate, lora_rank=rank or None)
    seconds = time.perf_counter() - started
    reconstruction, *edits = task.edits(optimised, ETAS, tuned)
    strengths = zip(ETAS[1:], task.clap_scores(edits), strict=True)
    eta, (text, audio) = max(strengths, key=lambda strength: sum(strength[1]))
    return {
        "parameters": sum(weight.numel() for weight in tuned.weights.values()),
        "seconds_per_step": seconds / len(tuned.losses),
        "loss": task.loss(optimised, tuned),
        "error": task.error(reconstruction),
        "eta": eta,
        "text": text,
        "audio": audio,
        "sum": text + audio,
    }


SWEEPS: dict[str, tuple[Callable[[], list[Row]], Callable[..., Row]]] = {
    "step1": (step1_points, measure_step1),
    "step2": (step2_points, measure_step2),
    "strengths": (strengths_points, measure_strengths),
    "lora": (lora_points, measure_lora),
}
