import shutil
from importlib.metadata import version

import pytest
import torch
from published_audioldm import write_tiny_audioldm, write_tiny_audioldm2
from published_layouts import add_to_hub_cache, write_tiny_hub
from published_stable_audio import write_tiny_stable_audio
from published_tangoflux import write_tiny_tangoflux

from helpers.audio import load_clip
from tools import verify as verification
from tools.verify import Report, main, verify

CLAIMS = [
    "autoencoder: nearer to the clip than its mean spectrum",
    "vocoder: nearer to the clip than its mean spectrum",
    "autoencoder and vocoder: nearer to the clip than its mean spectrum",
    "the generated clip is finite and not silent",
    "the prompt changes the prediction",
    "Step 1: mean loss below that of predicting nothing",
    "Step 2: mean loss below that of predicting nothing",
    "Step 2 left the model as it was",
]
HASHES = "every file has the hash the hub gave for it"
KNOWN = "the files whose hash we know are those files"
WITHOUT_A_VOCODER = [claim for claim in CLAIMS if "vocoder" not in claim]


@pytest.fixture(autouse=True)
def two_steps(monkeypatch):
    monkeypatch.setattr(verification, "STEPS", 2)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub cache with the miniature TANGO; nothing can be downloaded."""
    cache = tmp_path / "cache"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    write_tiny_hub(cache, tmp_path)
    return cache


@pytest.fixture
def tiny_clip_fits(monkeypatch):
    """The miniatures' longest clip is 4.46 s."""
    synthesise = verification.synthesise
    monkeypatch.setattr(
        verification, "synthesise", lambda name, generator, _: synthesise(name, generator, 3.0)
    )


def test_trained_model_passes(tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["pocket", "--out", str(out), "--sampling-steps", "2", "--device", "cpu"]) == 0
    text = (out / "report.md").read_text()
    assert text in capsys.readouterr().out
    assert [line for line in text.splitlines() if line.startswith("- ")] == [
        f"- passed: {claim}" for claim in CLAIMS
    ]
    for heading in ("Machine", "Files", "Log-mel errors", "Losses", "Time and memory"):
        assert f"## {heading}\n" in text
    assert f"| torch | {version('torch')} |" in text
    source = load_clip(out / "source.wav")
    assert source.seconds == 5
    assert load_clip(out / "reconstruction.wav").seconds == 5
    assert (out / "generated.wav").is_file()


def test_tango_by_name_of_random_weights_does_not_pass(hub, tmp_path):
    report = verify("tango", tmp_path / "out", device="cpu", sampling_steps=1)
    assert list(report.checks) == [HASHES, *CLAIMS]
    assert report.checks[HASHES]
    assert report.checks["the prompt changes the prediction"]
    assert report.checks["Step 2 left the model as it was"]
    assert not report.checks["autoencoder: nearer to the clip than its mean spectrum"]
    assert not report.checks["Step 1: mean loss below that of predicting nothing"]
    assert not report.passed
    [commit] = (hub / "models--declare-lab--tango" / "snapshots").iterdir()
    assert ("weights from", f"declare-lab/tango, commit {commit.name}") in report.tables["Machine"]
    _, *files = report.tables["Files"]
    assert [(name, verdict) for name, *_, verdict in files] == [
        ("pytorch_model_main.bin", "the same"),
        ("pytorch_model_stft.bin", "the same"),
        ("pytorch_model_vae.bin", "the same"),
    ]
    weights = torch.load(commit / "pytorch_model_main.bin", weights_only=True)
    assert files[0][3] == str(len(weights))
    assert "**FAILED**: autoencoder" in (tmp_path / "out" / "report.md").read_text()


def test_audioldm2_in_a_folder(tmp_path):
    folder = write_tiny_audioldm2(tmp_path / "model")
    report = verify(str(folder), tmp_path / "out", "paper", "cpu", sampling_steps=1)
    assert list(report.checks) == CLAIMS
    assert report.checks["the prompt changes the prediction"]
    assert report.checks["Step 2 left the model as it was"]
    assert ("preset", "paper, the whole UNet") in report.tables["Machine"]
    assert {row[-1] for row in report.tables["Files"][1:]} == {"not known"}


@pytest.mark.parametrize(
    ("name", "repository", "write", "known"),
    [
        ("tangoflux", "declare-lab/TangoFlux", write_tiny_tangoflux, [KNOWN]),
        ("stable-audio", "stabilityai/stable-audio-open-1.0", write_tiny_stable_audio, []),
    ],
)
def test_a_model_without_a_vocoder_by_name(
    hub, tmp_path, tiny_clip_fits, name, repository, write, known
):
    add_to_hub_cache(hub, repository, write(tmp_path / "model"))
    report = verify(name, tmp_path / "out", device="cpu", sampling_steps=1)
    assert list(report.checks) == [HASHES, *known, *WITHOUT_A_VOCODER]
    assert report.checks[HASHES]
    assert not any(report.checks[claim] for claim in known)  # these are other weights
    assert report.checks["the prompt changes the prediction"]
    assert report.checks["Step 2 left the model as it was"]


def test_file_that_changed_in_the_cache(hub):
    [path] = (hub / "models--declare-lab--tango" / "snapshots").glob("*/pytorch_model_stft.bin")
    shutil.copyfile(hub.parent / "tango" / "pytorch_model_vae.bin", path.resolve())
    report = Report("Verification", {"Machine": [("what", "value")]})
    verification._check_files(report, "tango")
    assert report.checks == {HASHES: False}


class TestErrors:
    def test_unknown_model(self, tmp_path, capsys):
        assert main(["tnago", "--out", str(tmp_path)]) == 2
        assert "did you mean 'tango'?" in capsys.readouterr().err

    def test_missing_file(self, tmp_path, capsys):
        folder = write_tiny_audioldm(tmp_path / "model")
        (folder / "vae" / "diffusion_pytorch_model.bin").unlink()
        assert main([str(folder), "--out", str(tmp_path / "out"), "--device", "cpu"]) == 2
        assert "vae/diffusion_pytorch_model.safetensors is missing" in capsys.readouterr().err

    def test_folder_that_cannot_be_made(self, tmp_path, capsys):
        (tmp_path / "file").touch()
        assert main(["pocket", "--out", str(tmp_path / "file")]) == 2
        assert "a file lies where a folder is needed, so name another" in capsys.readouterr().err

    def test_no_sampling_steps(self, tmp_path, capsys):
        assert main(["pocket", "--out", str(tmp_path), "--sampling-steps", "0"]) == 2
        assert "steps is 0: give a whole number, 1 or more" in capsys.readouterr().err
