"""Draw the pairs that the model is tuned and measured on: ``python -m tools.pocket pairs``.

They are drawn once for an autoencoder and a classifier, and committed before anything is tuned.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from itertools import chain, islice
from pathlib import Path

from helpers.data import data_path
from helpers.models.latent_audio_model import LatentAudioModel
from helpers.pairs import Pair
from helpers.sounds.vocabulary import LABELS
from helpers.storage import write_table, write_text
from tools.pocket.cases import draw_foley, draw_recorded, make_case
from tools.pocket.dataset import HELD_OUT_SEED
from tools.pocket.workers import Bench, for_each, load_bench

ORACLES = 12  # a class, by which it is decided whether it may be a target
LEAST_HEARD = 0.8
TUNE_FOLEY, TUNE_RECORDED = 24, 12
REPORTED = {"style_transfer": 60, "addition": 60, "inpainting": 32}
RECORDED_GAPS = 2  # a class
SEEDS = {"targets": 100_000, "tune": 200_000, "gate": 300_000, "report": 400_000}
COLUMNS = ("id", "audio", "edit", "prompt", "start", "end", "target")


def heard_targets(weights: Path) -> dict[str, float]:
    """How often the classifier hears each sound in edits made by hand, after the round trip."""
    shares = dict(for_each(_heard_share, LABELS, weights, "targets"))
    return {label: shares[label] for label in LABELS}


def _heard_share(bench: Bench, label: str) -> float:
    first_seed = HELD_OUT_SEED + SEEDS["targets"] + 1_000 * LABELS.index(label)
    drawn = draw_foley(bench.model, "style_transfer", ORACLES, first_seed, [label], "dev")
    clips = [make_case(bench.model, pair, "dev").heard_oracle for pair, _ in drawn]
    heard = bench.listener.heard(clips)[:, bench.listener.labels.index(label)]
    return float((heard > 0.5).float().mean())


def draw(model: LatentAudioModel, targets: Sequence[str]) -> tuple[dict[str, list[Pair]], dict]:
    """Draw all sets; return them by name, and how many seeds each draw of foley took."""
    seeds = {name: HELD_OUT_SEED + seed for name, seed in SEEDS.items()}
    tried: dict[str, int] = {}

    def foley(edit: str, count: int, name: str, split: str) -> list[Pair]:
        drawn = list(draw_foley(model, edit, count, seeds[name], targets, split))
        tried[f"{name}, {edit}"] = drawn[-1][1]
        return [pair for pair, _ in drawn]

    gate = list(draw_recorded(model, "style_transfer", targets, "dev", seeds["gate"]))
    made = foley("style_transfer", TUNE_FOLEY, "tune", "dev")
    one_each = list({pair.audio: pair for pair in reversed(gate)}.values())[::-1]
    recorded = list(islice(chain(one_each, (p for p in gate if p not in one_each)), TUNE_RECORDED))
    # The search's first stages take the first pairs: a recording after every two of foley.
    tune = [p for i, rec in enumerate(recorded) for p in (*made[2 * i : 2 * i + 2], rec)]
    report = list(draw_recorded(model, "style_transfer", targets, "test", seeds["report"]))
    gaps = list(draw_recorded(model, "inpainting", targets, "test", seeds["report"]))
    for label in targets:
        report += [pair for pair in gaps if pair.target == label][:RECORDED_GAPS]
    for edit, count in REPORTED.items():
        report += foley(edit, count, "report", "test")
    return {"pocket-tune": tune, "pocket-gate": gate, "pocket-report": report}, tried


def as_table(pairs: Iterable[Pair]) -> str:
    """Return pairs as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for pair in pairs:
        gap = pair.given_gap
        ends = (gap.start, round(gap.end, 3)) if gap else ("", "")
        writer.writerow((pair.id, pair.audio, pair.edit, pair.prompt, *ends, pair.target))
    return text.getvalue()


def main(weights: Path) -> None:
    """Decide which sounds may be targets, draw the sets, and write both."""
    shares = heard_targets(weights)
    lines = [f"{label},{share:.3f}" for label, share in shares.items()]
    write_table(data_path("pocket") / "targets.csv", "\n".join(["label,heard", *lines]) + "\n")
    targets = [label for label, share in shares.items() if share >= LEAST_HEARD]
    print("Left out as targets:", ", ".join(sorted(set(LABELS) - set(targets))) or "none")
    sets, tried = draw(load_bench(weights).model, targets)
    for name, pairs in sets.items():
        write_text(data_path("pairs") / f"{name}.csv", as_table(pairs))
        print(f"{name}: {len(pairs)} pairs")
    for name, count in tried.items():
        print(f"{name}: {count} seeds drawn")
