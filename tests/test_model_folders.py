"""A model's folder that somebody names, spoilt file by file: refused in a sentence, or the same."""

import builtins
import os
import shutil
import zipfile

import pytest
import torch
from published_audioldm import write_tiny_audioldm, write_tiny_audioldm2
from published_layouts import write_tiny_hub, write_tiny_tango
from published_stable_audio import write_tiny_stable_audio

from helpers import load_model
from helpers.models import ModelFileError, tango
from helpers.storage import StorageError, content_hash

WRITERS = {
    "tango": write_tiny_tango,
    "tango converted": lambda folder: tango.convert("tango", folder),
    "audioldm": write_tiny_audioldm,
    "audioldm2": write_tiny_audioldm2,
    "stable audio": write_tiny_stable_audio,
}


class Program:
    """Runs a command when it is unpickled."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def in_its_place(path):
    content = path.read_bytes()
    path.unlink()
    path.mkdir()
    (path / path.name).write_bytes(content)


def change_a_byte(path):
    """Change one in the middle; of an archive in the middle of its largest part."""
    content = bytearray(path.read_bytes())
    start, length = 0, len(content)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            part = archive.read(max(archive.infolist(), key=lambda info: info.file_size))
        start, length = content.index(part), len(part)
    content[start + length // 2] ^= 1
    path.write_bytes(content)


SPOILT = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "a page": lambda path: path.write_text("<!DOCTYPE html><html><body>404</body></html>"),
    "a pointer": lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"),
    "a list": lambda path: path.write_text("[1]"),
    "no settings": lambda path: path.write_text("{}"),
    "no text": lambda path: path.write_bytes(b"\xff\xfe\x00{}"),
    "a folder": in_its_place,
    "a program": lambda path: torch.save({"a": Program(f"touch {path.parent / 'ran'}")}, path),
}


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """The hub's cache, which holds TANGO and its text encoder."""
    folder = tmp_path_factory.mktemp("hub")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        write_tiny_hub(folder, tmp_path_factory.mktemp("scratch"))
        yield folder


@pytest.fixture(scope="module", params=WRITERS)
def whole(request, hub, tmp_path_factory):
    """A folder as it was published."""
    return WRITERS[request.param](tmp_path_factory.mktemp("whole") / "model")


def described(model):
    """Weights and noise, shape, and what a long prompt becomes: what equal models share."""
    prompt = model.embed_text("a dog barking in the rain " * 200)
    return model.fingerprint, model.latent_shape, content_hash(list(prompt.embeddings))


def test_whatever_is_wrong_with_a_file_is_said_or_changes_nothing(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(builtins, "input", lambda *_: pytest.fail("the user was asked"))
    right = described(load_model(whole, device="cpu"))
    names = sorted(p.relative_to(whole) for p in whole.rglob("*") if p.is_file())
    wrong = []
    for name in names:
        for fault, spoil in SPOILT.items():
            folder = shutil.copytree(whole, tmp_path / "model")
            spoil(folder / name)
            try:
                model = load_model(folder, device="cpu")
                if described(model) != right:
                    wrong.append(f"{name}, {fault}: another model")
            except (ModelFileError, StorageError) as error:
                message = str(error)
                if "\n" in message or not message.endswith(".") or str(folder) not in message:
                    wrong.append(f"{name}, {fault}: {message}")
            except Exception as error:
                wrong.append(f"{name}, {fault}: {error!r}")
            assert not list(folder.rglob("ran")), f"{name} was run"
            shutil.rmtree(folder)
    assert not wrong, "\n".join(wrong)


def test_a_changed_byte_is_noticed_where_a_file_has_checksums(whole, tmp_path):
    pickles = sorted(path.relative_to(whole) for path in whole.rglob("*.bin"))
    pickles = [path for path in pickles if path.name != "pytorch_model_stft.bin"]  # is not read
    listed = sorted(path.parent.relative_to(whole) for path in whole.rglob("SHA256SUMS"))
    listed = [folder / path.name for folder in listed for path in (whole / folder).iterdir()]
    for name in pickles + [path for path in listed if path.name != "SHA256SUMS"]:
        folder = shutil.copytree(whole, tmp_path / "model")
        change_a_byte(folder / name)
        with pytest.raises((ModelFileError, StorageError)) as caught:
            load_model(folder, device="cpu")
        assert str(folder / name) in str(caught.value)
        assert "damaged" in str(caught.value)
        shutil.rmtree(folder)
