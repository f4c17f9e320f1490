"""Check a base model on this machine: ``make verify MODEL=tango``.

Downloads the model if need be, compares its files with the hub's hashes, sends a foley clip of our
own through autoencoder and vocoder, generates one prompt and takes ten steps each of Steps 1 and 2.
It leaves three recordings to listen to and a short report in Markdown, to be pasted into an issue.

A check fails where a model is no better than a guess that costs nothing, so a model of random
weights runs through and does not pass.
"""

from __future__ import annotations

import argparse
import dataclasses
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from huggingface_hub import snapshot_download
from torch import Tensor

from helpers.audio import SAMPLE_RATE, Clip, save_clip
from helpers.data import data_path
from helpers.editing.embedding import optimise_embedding
from helpers.editing.finetuning import finetune
from helpers.editing.inpainting import known_mask
from helpers.editing.interpolation import SamplingSettings, sample
from helpers.editing.loading import load_model
from helpers.editing.presets import PRESETS, EditSettings, preset
from helpers.models import find_family, model_names
from helpers.models.kinds import training_target
from helpers.models.latent_audio_model import LatentAudioModel
from helpers.models.published import SHA256, pinned, read_weights
from helpers.sounds.foley import synthesise
from helpers.storage import content_hash, output_folder, write_text
from tools.command import command

ROOM = 2e6  # bytes that report and recordings take
STEPS = 10  # of Step 1 and of Step 2
PROMPT = "Someone knocks on a wooden door."
PACKAGES = ["torch", "diffusers", "transformers", "peft", "huggingface-hub"]


@dataclass
class Report:
    """What was found: tables of names and values, and checks that passed or did not.

    Parameters
    ----------
    title : str
    tables : dict of str to list of tuple
        By heading; the first row of each is its header.
    checks : dict of str to bool
        By what is claimed.
    """

    title: str
    tables: dict[str, list[tuple[str, ...]]] = field(default_factory=dict)
    checks: dict[str, bool] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether every check did."""
        return all(self.checks.values())

    def markdown(self) -> str:
        """Return the text to paste."""
        lines = [f"# {self.title}", ""]
        for heading, (header, *rows) in self.tables.items():
            lines += [f"## {heading}", "", *map(_row, [header, ["---"] * len(header), *rows]), ""]
        lines += ["## Checks", ""]
        for claim, passed in self.checks.items():
            lines.append(f"- {'passed' if passed else '**FAILED**'}: {claim}")
        return "\n".join(lines) + "\n"


class Stopwatch:
    """Seconds by what was done, the device's queue included."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def measure(self, what: str) -> Iterator[None]:
        """Time the block."""
        start = time.perf_counter()
        yield
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds[what] = time.perf_counter() - start


@command
def main(arguments: list[str] | None = None) -> int:
    """Run the verification.

    Parameters
    ----------
    arguments : list of str, optional
        The command line's by default.

    Returns
    -------
    int
        0, or 1 if a check failed, or 2 if the model cannot be loaded or run; the reason is on
        stderr.
    """
    options = _parser().parse_args(arguments)
    with output_folder(options.out, ROOM) as folder:
        report = verify(
            options.model, folder, options.preset, options.device, options.sampling_steps
        )
    print(report.markdown())
    print(f"This report and the recordings are in {folder}.")
    return 0 if report.passed else 1


def verify(
    source: str,
    folder: Path,
    preset_name: str = "t4",
    device: str | None = None,
    sampling_steps: int = 50,
) -> Report:
    """Check a model and write ``report.md``, the source, its reconstruction and a generated clip.

    Parameters
    ----------
    source : str
        Name or folder, as for :func:`helpers.load_model`.
    folder : Path
        Where the report goes.
    preset_name : str
        Whose Step 2 (the whole UNet or LoRA) and precision are tried.
    device : str, optional
        By default the GPU if there is one.
    sampling_steps : int
        Of the generated clip.

    Raises
    ------
    ValueError
        If there is no such model or preset, a file is missing or damaged, or the device too small.
    DivergenceError
        If a loss is not a number.
    OutOfMemory
        If the GPU's memory is too small.
    """
    settings = preset(preset_name)
    sampling = SamplingSettings(steps=sampling_steps)
    clock = Stopwatch()
    with clock.measure("loading"):
        model = load_model(source, preset_name, device)
    door = synthesise("door_knock", np.random.default_rng(0), 5.0)
    clip = Clip.from_waveform(door.waveform, SAMPLE_RATE, name="knocking")
    save_clip(clip, folder / "source.wav")

    report = Report(f"Verification of {model.name}")
    report.tables["Machine"] = _machine(model, preset_name)
    _check_files(report, source)
    _check_reconstruction(report, clock, model, clip, folder)
    _check_generation(report, clock, model, sampling, folder)
    _check_steps(report, clock, model, clip, settings)
    report.tables["Time and memory"] = [
        ("what", "value"),
        *((what, f"{seconds:.3f} s") for what, seconds in clock.seconds.items()),
        ("peak memory of the GPU", _peak_memory(model)),
    ]
    write_text(folder / "report.md", report.markdown())
    return report


def _machine(model: LatentAudioModel, preset_name: str) -> list[tuple[str, str]]:
    device = model.device.type
    if device == "cuda":
        device = torch.cuda.get_device_name(model.device)
    rank = PRESETS[preset_name].finetuning.lora_rank
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.parts.items()}
    return [
        ("what", "value"),
        ("system", f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"),
        *((package, version(package)) for package in PACKAGES),
        ("device", device),
        ("precision of the UNet", str(model.dtype).removeprefix("torch.")),
        ("preset", f"{preset_name}, {'the whole UNet' if rank is None else f'LoRA rank {rank}'}"),
        *((f"parameters, {part}", f"{count:,}") for part, count in counts.items()),
    ]


def _check_files(report: Report, source: str) -> None:
    """One row per file of weights; of a model from the hub also the commit."""
    family = find_family(source)
    repository = family.names.get(source)
    if repository is None:
        folder = data_path(source) if source in family.names else Path(source)
        origin = "a local folder"
    else:
        name, revision = pinned(repository)
        folder = Path(snapshot_download(name, revision=revision, local_files_only=True))
        origin = f"{name}, commit {folder.name}"
    report.tables["Machine"].append(("weights from", origin))
    paths = [p for p in sorted(folder.rglob("*")) if p.suffix in (".bin", ".safetensors")]
    rows = [_file(folder, path) for path in paths]
    report.tables["Files"] = [("file", "bytes", "SHA-256", "tensors", "the hub's hash"), *rows]
    if repository is not None:
        report.checks["every file has the hash the hub gave for it"] = all(
            row[-1] == "the same" for row in rows
        )
    if repository is not None and family.hashes:
        found = {name: digest for name, _, digest, *_ in rows}
        report.checks["the files whose hash we know are those files"] = all(
            found.get(name) == digest for name, digest in family.hashes.items()
        )


def _file(folder: Path, path: Path) -> tuple[str, ...]:
    """Name, size, hash, number of tensors, and whether the hub's cache calls it by that hash."""
    digest = content_hash(path)
    given = path.resolve().name  # a large file of the hub's cache is called by its SHA-256
    if SHA256.fullmatch(given):
        verdict = "the same" if given == digest else "another"
    else:
        verdict = "not known"
    name = path.relative_to(folder).as_posix()
    return name, f"{path.stat().st_size:,}", digest, str(len(read_weights(path))), verdict


def _check_reconstruction(
    report: Report, clock: Stopwatch, model: LatentAudioModel, clip: Clip, folder: Path
) -> None:
    """Log-mel errors of autoencoder, vocoder and both, beside that of the clip's mean spectrum.

    Of a model without a vocoder that of the autoencoder alone.
    """
    log_mel = clip.log_mel()
    with clock.measure("encoding"):
        latent = model.encode(clip)
    estimates = {}
    if model.vocoder is not None:
        with clock.measure("decoding"):
            estimates["autoencoder"] = model.decode_log_mel(latent).cpu()
        with clock.measure("vocoder"):
            vocoded = Clip(model.vocode(log_mel)[0].cpu().numpy())
        estimates["vocoder"] = vocoded.log_mel()
    with clock.measure("decoding to sound"):
        both = model.decode(latent, clip, "reconstruction")
    save_clip(both, folder / "reconstruction.wav")
    estimates[" and ".join(estimates) or "autoencoder"] = both.log_mel()

    own = slice(clip.frames)  # the padding is not counted
    mean = log_mel[:, :, own].mean(2, keepdim=True)
    estimates["the clip's mean spectrum"] = mean.expand_as(log_mel)
    errors = {
        name: (estimate - log_mel)[:, :, own].abs().mean().item()
        for name, estimate in estimates.items()
    }
    report.tables["Log-mel errors"] = [
        ("what", "mean absolute error"),
        *((name, f"{error:.3f}") for name, error in errors.items()),
    ]
    *parts, guess = errors
    for part in parts:
        report.checks[f"{part}: nearer to the clip than its mean spectrum"] = (
            errors[part] < errors[guess]
        )


def _check_generation(
    report: Report,
    clock: Stopwatch,
    model: LatentAudioModel,
    settings: SamplingSettings,
    folder: Path,
) -> None:
    """Generate one prompt, and ask whether the UNet hears prompts at all."""
    prompt = model.embed_text(PROMPT)
    with clock.measure(f"generation, {settings.steps} steps"):
        latent = sample(model, prompt, settings)
    generated = model.decode(latent, name="generated")
    save_clip(generated, folder / "generated.wav")
    report.checks["the generated clip is finite and not silent"] = bool(
        np.isfinite(generated.waveform).all() and np.abs(generated.waveform).max() > 1e-3
    )
    _, middle = _timesteps(model, 2)
    with torch.no_grad():
        heard, unheard = (model.predict(latent, middle, c) for c in (prompt, model.unconditional()))
    report.checks["the prompt changes the prediction"] = bool(
        (heard - unheard).abs().mean() > 1e-4 * unheard.abs().mean()
    )


def _check_steps(
    report: Report,
    clock: Stopwatch,
    model: LatentAudioModel,
    clip: Clip,
    settings: EditSettings,
) -> None:
    """Ten steps each of Steps 1 and 2 on the clip and a prompt that describes it."""
    latent, before, mask = model.encode(clip), model.fingerprint, known_mask(model, clip, None)
    target = model.embed_text(PROMPT, clip.seconds)
    first = dataclasses.replace(settings.embedding, steps=STEPS)
    second = dataclasses.replace(settings.finetuning, steps=STEPS)
    with clock.measure(f"Step 1, {STEPS} steps"):
        embedding = optimise_embedding(model, latent, target, first, mask)
    with clock.measure(f"Step 2, {STEPS} steps"):
        tuned = finetune(model, latent, embedding.conditioning, second, mask)

    nothing = _loss_of_nothing(model, latent, mask)
    losses = {"Step 1": embedding.losses, "Step 2": tuned.losses}
    report.tables["Losses"] = [
        ("what", "first", "last", "mean"),
        *((s, f"{v[0]:.4f}", f"{v[-1]:.4f}", f"{np.mean(v):.4f}") for s, v in losses.items()),
        ("predicting nothing", "", "", f"{nothing:.4f}"),
    ]
    for step, values in losses.items():
        report.checks[f"{step}: mean loss below that of predicting nothing"] = bool(
            np.mean(values) < nothing
        )
    report.checks["Step 2 left the model as it was"] = model.fingerprint == before


def _loss_of_nothing(model: LatentAudioModel, latent: Tensor, mask: Tensor | None) -> float:
    """Eq. 1 of a model that always answers zero, over a hundred timesteps."""
    timesteps = _timesteps(model, 100).cpu()
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn((len(timesteps), *latent.shape[1:]), generator=generator)
    target = training_target(model.noise_schedule, latent.cpu().expand_as(noise), noise, timesteps)
    counted = torch.ones_like(noise) if mask is None else mask.expand_as(noise)
    return (target.pow(2) * counted).sum().item() / counted.sum().item()


def _timesteps(model: LatentAudioModel, count: int) -> Tensor:
    """So many timesteps, evenly spread, the noisiest first."""
    scheduler = model.sampler()
    scheduler.set_timesteps(count, device=model.device)
    return scheduler.timesteps


def _peak_memory(model: LatentAudioModel) -> str:
    if model.device.type != "cuda":
        return "no GPU was used"
    return f"{torch.cuda.max_memory_allocated(model.device) / 1e9:.2f} GB"


def _row(cells: tuple[str, ...] | list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.verify", description=__doc__.splitlines()[0]
    )
    parser.add_argument("model", help=f"a folder, or one of {', '.join(model_names())}")
    parser.add_argument(
        "--preset", choices=PRESETS, default="t4", help="whose Step 2 and precision to try"
    )
    parser.add_argument("--device", help="the GPU by default, if there is one")
    parser.add_argument("--sampling-steps", type=int, default=50, help="of the generated clip")
    parser.add_argument(
        "--out", type=Path, default=Path("outputs/verification"), help="where the report goes"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
