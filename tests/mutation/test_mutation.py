"""Would a lesson notice? Each helper is broken on purpose, and the lesson on it has to fail.

The lesson runs as `make test` runs it, on a copy of the helpers that holds one fault.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


class Fault(NamedTuple):
    """What is wrong in words, and the text of a helper that is replaced."""

    what: str
    file: str
    old: str
    new: str


FAULTS = {
    "00": Fault(
        "η is swapped: 0 is the prompt and 1 the recording",
        "editing/interpolation.py",
        "[eta * t + (1 - eta) * o for t, o in pairs]",
        "[eta * o + (1 - eta) * t for t, o in pairs]",
    ),
    "01": Fault(
        "the spectrogram's logarithm is decimal",
        "audio.py",
        "mel.clamp(min=1e-5).log()",
        "mel.clamp(min=1e-5).log10()",
    ),
    "02": Fault(
        "a model that predicts the velocity is trained to predict the noise",
        "models/kinds.py",
        "return noise_schedule.get_velocity(latent, noise, timesteps)",
        "return noise",
    ),
    "03": Fault(
        "the tuned weights stay in the model",
        "editing/finetuning.py",
        "parameter.data = parameter.data.to(torch.float32, copy=True)",
        "pass",
    ),
    "04": Fault(
        "the recording's share grows with η",
        "editing/interpolation.py",
        "(1 - eta) * o",
        "(1 + eta) * o",
    ),
    "05": Fault(
        "the loss counts the gap",
        "editing/embedding.py",
        "(error * mask).sum() / (mask.sum() * batch_size)",
        "error.mean()",
    ),
    "06": Fault(
        "CLAP's projections of recordings are not normalised",
        "evaluation/audio_tower.py",
        "return functional.normalize(self.audio(log_mel), dim=-1)",
        "return self.audio(log_mel)",
    ),
    "07": Fault(
        "LoRA does not begin at the base model",
        "editing/finetuning.py",
        "parameter.data.zero_()",
        "parameter.data.fill_(0.01)",
    ),
    "08": Fault(
        "all noisy versions of DDPM inversion share one noise",
        "methods/ddpm_inversion.py",
        "noise = randn_tensor((steps, *source.shape[1:]), generator, device=model.device)[-count:]",
        "noise = randn_tensor(source.shape, generator, device=model.device).repeat(count, 1, 1, 1)",
    ),
}


@pytest.mark.parametrize("number", FAULTS)
def test_lesson_notices_a_broken_helper(number, tmp_path):
    [lesson] = (ROOT / "notebooks").glob(f"{number}_*.ipynb")
    imported = break_helpers(FAULTS[number], tmp_path)
    (tmp_path / "notebooks").mkdir()
    for path in (lesson, ROOT / "notebooks/conftest.py", ROOT / "notebooks/sanitize.cfg"):
        shutil.copy(path, tmp_path / "notebooks")
    done = run_lesson(tmp_path, lesson.name)
    told = done.stdout + done.stderr
    assert imported.exists(), f"the broken helper was never imported:\n{told}"
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, f"nothing was noticed:\n{told}"
    assert failure(told) in {"comparison", "assertion"}, told


def break_helpers(fault: Fault, folder: Path) -> Path:
    """Copy the helpers with a fault; return a file that appears once the broken one is imported."""
    shutil.copytree(ROOT / "helpers", folder / "helpers", ignore=shutil.ignore_patterns("*.pyc"))
    (folder / "data").symlink_to(ROOT / "data")
    file = folder / "helpers" / fault.file
    source = file.read_text()
    assert source.count(fault.old) == 1, f"{fault.file} no longer holds {fault.old!r} once"
    imported = folder / "imported"
    sign = f"\n__import__('pathlib').Path({str(imported)!r}).touch()\n"
    file.write_text(source.replace(fault.old, fault.new) + sign)
    return imported


def run_lesson(folder: Path, name: str) -> subprocess.CompletedProcess:
    """Compare the lesson's outputs up to the first cell that fails, with an empty cache."""
    left_out = {"MPLBACKEND"}  # the kernel's own shows figures
    environment = {key: value for key, value in os.environ.items() if key not in left_out}
    environment |= {"PYTHONPATH": str(folder), "AUDIO_EDITING_CACHE": str(folder / "cache")}
    nbval = ["--nbval", "--nbval-current-env", "--nbval-cell-timeout=600", "-x"]
    nbval += ["--nbval-sanitize-with", "sanitize.cfg"]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *nbval, name]
    return subprocess.run(
        command, cwd=folder / "notebooks", env=environment, capture_output=True, text=True
    )


def failure(told: str) -> str | None:
    """How the cell failed: by comparison, by assertion, or by another error (its name)."""
    told = re.sub(r"\x1b\[[0-9;]*m", "", told)
    if "Cell outputs differ" in told:
        return "comparison"
    errors = re.findall(r"^(\w+(?:Error|Exception|Interrupt))\b", told, re.M)
    return "assertion" if errors and errors[-1] == "AssertionError" else (errors or [None])[-1]


def test_faults_still_fit_the_helpers(tmp_path):
    for number, fault in FAULTS.items():
        break_helpers(fault, tmp_path / number)
