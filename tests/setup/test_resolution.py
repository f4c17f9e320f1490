"""The pins resolve on every machine that the README names, and the workflows are well-formed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXTRAS = ("notebooks", "dev", "maintain", "site")
PLATFORMS = {
    "Linux": "x86_64-manylinux_2_28",
    "Linux on ARM": "aarch64-manylinux_2_28",
    "macOS 14 on Apple silicon": "aarch64-apple-darwin",
    "Windows": "x86_64-pc-windows-msvc",
}


@pytest.mark.parametrize("platform", PLATFORMS.values(), ids=PLATFORMS)
@pytest.mark.parametrize("python", ["3.11.0", "3.12.0", "3.13.0", "3.14.0"])
def test_pins_resolve_to_wheels(python, platform):
    command = [sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml", "--quiet"]
    command += [word for extra in EXTRAS for word in ("--extra", extra)]
    command += ["--constraint", "constraints.txt", "--only-binary", ":all:"]
    command += ["--python-version", python, "--python-platform", platform]
    environment = os.environ | {"MACOSX_DEPLOYMENT_TARGET": "14.0"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "\ntorch==" in done.stdout


def test_constraints_are_what_make_pins_writes(tmp_path):
    """Nothing that pyproject.toml asks for lacks a pin."""
    constraints = tmp_path / "constraints.txt"
    constraints.write_bytes((ROOT / "constraints.txt").read_bytes())
    dry = subprocess.run(
        ["make", "--dry-run", "pins"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    [command] = [
        line for line in dry.stdout.replace("\\\n", "").splitlines() if "uv pip compile" in line
    ]
    command = command.replace(".venv/bin/python", f"'{sys.executable}'")
    command = command.replace("--output-file constraints.txt", f"--output-file '{constraints}'")
    subprocess.run(command, shell=True, cwd=ROOT, check=True)
    assert constraints.read_text() == (ROOT / "constraints.txt").read_text()


def test_workflows_and_issue_forms_are_well_formed():
    check = [sys.executable, "-m", "check_jsonschema"]
    workflows = [*(ROOT / ".github/workflows").glob("*.yml")]
    assert workflows
    subprocess.run([*check, "--builtin-schema", "vendor.github-workflows", *workflows], check=True)
    forms = [p for p in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml") if p.stem != "config"]
    assert forms
    schema = "vendor.github-issue-forms"
    subprocess.run([*check, "--builtin-schema", schema, *forms], check=True)
