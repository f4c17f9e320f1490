"""Choose the pocket model's presets on dev: ``python -m tools.pocket tune``, or ``make tune``.

A *fit* is Steps 1 and 2 with one choice of settings; a *reading* is one η, guidance and start of
Step 3, at one length of Step 2.  All fits are tried on 4 pairs, the best 4 on 12, the best 2 on 36.
Every row is stored as soon as it is known, so that a stopped search goes on; the table says how
many settings were tried.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from helpers.editing.embedding import EmbeddingSettings, optimise_embedding
from helpers.editing.finetuning import LORA_TARGETS, LORA_WIDE_TARGETS, FinetuningSettings, finetune
from helpers.editing.interpolation import SamplingSettings, interpolate, sample
from helpers.evaluation.judges import Listener
from helpers.evaluation.layout import layout
from helpers.evaluation.success import style_succeeded
from helpers.models.latent_audio_model import Conditioning, LatentAudioModel
from tools.pocket.cases import StyleCase

STAGES = ((4, 12), (12, 4), (36, 2))  # pairs, and how many of the best fits are tried on them


@dataclass(frozen=True)
class Fit:
    """One choice of settings for Steps 1 and 2."""

    embedding_rate: float
    finetuning_rate: float
    lora_rank: int = 0  # 0 is the whole UNet
    wide: bool = False  # LoRA on convolutions and projections, too

    @property
    def embedding(self) -> EmbeddingSettings:
        """Of Step 1."""
        return EmbeddingSettings(100, self.embedding_rate, 4)

    @property
    def finetuning(self) -> FinetuningSettings:
        """Of Step 2, at its longest."""
        targets = LORA_WIDE_TARGETS if self.wide else tuple(LORA_TARGETS)
        rank = self.lora_rank or None
        return FinetuningSettings(max(LENGTHS), self.finetuning_rate, 4, rank, targets)


LENGTHS = (150, 300)  # steps of Step 2 that are read along one run
READINGS = (  # η, guidance, start: 9 of them at each length
    (0.0, 1.0, 1.0),
    *product((0.75, 1.0, 1.25), (2.5, 4.0), (1.0,)),
    *product((1.0, 1.25), (4.0,), (0.9,)),
)
WHOLE = tuple(Fit(*rates) for rates in product((1e-2, 2e-2, 4e-2), (5e-5, 1e-4, 2e-4, 4e-4)))
LORA = tuple(
    Fit(2e-2, rate, rank, wide)
    for rate, rank, wide in product((5e-4, 1e-3, 2e-3), (8, 16), (False, True))
)


def search(
    model: LatentAudioModel,
    listener: Listener,
    cases: Sequence[StyleCase],
    fits: Sequence[Fit],
    table: Path,
) -> pd.DataFrame:
    """Try fits stage by stage; return all rows.

    Parameters
    ----------
    model : LatentAudioModel
    listener : Listener
        Who says what is heard.
    cases : sequence of StyleCase
        As many as the last stage asks for; the first ones serve the earlier stages.
    fits : sequence of Fit
    table : Path
        CSV of the rows; what is in it is not computed again.
    """
    rows = pd.read_csv(table) if table.exists() else pd.DataFrame()
    left = list(fits)
    for pairs, best in STAGES:
        left = left[:best]
        for case, fit in tqdm(list(product(cases[:pairs], left)), desc=f"{pairs} pairs"):
            if len(rows) and len(_of(rows, case, fit)):
                continue
            rows = pd.concat([rows, pd.DataFrame(measure(model, listener, case, fit))])
            part = table.with_suffix(".part")
            rows.to_csv(part, index=False)
            part.replace(table)
        left.sort(key=lambda fit: -best_reading(rows, [fit], cases[:pairs])["success"])
    return rows


def best_reading(rows: pd.DataFrame, fits: Sequence[Fit], cases: Sequence[StyleCase]) -> pd.Series:
    """Return the setting of the largest mean success; the joint measure decides among equals."""
    pairs = {case.pair.id for case in cases}
    chosen = rows[rows.pair.isin(pairs)]
    keys = [*asdict(fits[0]), "steps", "eta", "guidance", "start"]
    wanted = pd.DataFrame([asdict(fit) for fit in fits])
    chosen = chosen.merge(wanted, on=list(wanted.columns))
    means = chosen[chosen.eta > 0].groupby(keys)[["success", "joint", "target", "source", "layout"]]
    return means.mean().reset_index().sort_values(["success", "joint"]).iloc[-1]


def measure(
    model: LatentAudioModel, listener: Listener, case: StyleCase, fit: Fit
) -> Iterator[dict[str, object]]:
    """Fit one case, and judge it at every length and reading."""
    latent = model.encode(case.clip)
    target = model.embed_text(case.pair.prompt)
    optimised = optimise_embedding(model, latent, target, fit.embedding, progress=False)
    tuned = finetune(
        model, latent, optimised.conditioning, fit.finetuning, keep=LENGTHS, progress=False
    )
    for steps in LENGTHS:
        for (guidance, start), etas in _batches():
            mixtures = [interpolate(optimised.conditioning, target, eta) for eta in etas]
            settings = SamplingSettings(50, guidance, start)
            with tuned.after(steps).enabled():
                latents = sample(model, Conditioning.cat(mixtures), settings, latent, False)
            for eta, clip in zip(etas, model.decode_batch(latents, case.clip), strict=True):
                reading = {"steps": steps, "eta": eta, "guidance": guidance, "start": start}
                judged = judge(listener, case, clip)
                yield {"pair": case.pair.id, **asdict(fit), **reading, **judged}


def judge(listener: Listener, case: StyleCase, clip) -> dict[str, float]:
    """Judge a style transfer: what is heard, the layout, the joint measure, and success."""
    target = listener.probability(clip, case.pair.target)
    source = listener.probability(clip, case.label)
    kept = layout(clip, case.oracle, case.events)
    return {
        "target": target,
        "source": source,
        "layout": kept,
        "joint": target * (1 - source) * kept,
        "success": float(style_succeeded(target, source, kept)),
    }


def _batches() -> dict[tuple[float, float], list[float]]:
    """Group readings by guidance and start, which are sampled in one batch."""
    batches: dict[tuple[float, float], list[float]] = {}
    for eta, guidance, start in READINGS:
        batches.setdefault((guidance, start), []).append(eta)
    return batches


def _of(rows: pd.DataFrame, case: StyleCase, fit: Fit) -> pd.DataFrame:
    wanted = {"pair": case.pair.id, **asdict(fit)}
    return rows[(rows[list(wanted)] == pd.Series(wanted)).all(axis=1)]
