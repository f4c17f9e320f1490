"""Model folders and registries that want more than to be read."""

import builtins
import hashlib
import json

import pytest
from published_audioldm import write_tiny_audioldm, write_tiny_audioldm2
from published_layouts import (
    FLAN_T5_REVISION,
    add_to_hub_cache,
    write_tiny_tango,
    write_tiny_text_encoder,
)

from helpers.data import DataError, Recording, Registry
from helpers.editing.loading import load_model
from helpers.evaluation.clap import ClapError
from helpers.evaluation.clap.transformers import TransformersClap
from helpers.models import tango
from helpers.models.published import ModelFileError, load_tokenizer


@pytest.fixture
def nothing_is_asked(monkeypatch):
    def asked(*arguments):
        raise AssertionError("the user was asked")

    monkeypatch.setattr(builtins, "input", asked)


def message_of(load, folder):
    """What is said of a folder that is refused; nothing if it loads."""
    try:
        load(folder)
    except ModelFileError as error:
        return str(error)
    return ""


def plant(folder, mark, known_class=False):
    """Make a tokenizer's folder ask for code of its own, which would write ``mark``."""
    (folder / "evil.py").write_text(
        f"open({str(mark)!r}, 'w').close()\nfrom transformers import T5Tokenizer as Evil\n"
    )
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config["auto_map"] = {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    if not known_class:
        config["tokenizer_class"] = "Evil"
    path.write_text(json.dumps(config))
    config = {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil"}}
    if not (folder / "config.json").exists():
        (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("known_class", [True, False])
def test_a_tokenizer_s_code_is_neither_asked_about_nor_run(tmp_path, nothing_is_asked, known_class):
    folder, mark = write_tiny_text_encoder(tmp_path / "t5"), tmp_path / "mark"
    plant(folder, mark, known_class)
    if not known_class:
        (folder / "config.json").write_text(
            json.dumps({"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil"}})
        )
    message = message_of(load_tokenizer, folder)
    assert known_class or "wants code of its own to be run, which is not done" in message
    assert "trust_remote_code" not in message
    assert not mark.exists()


MODELS = {
    "audioldm": (write_tiny_audioldm, ["tokenizer"]),
    "audioldm2": (write_tiny_audioldm2, ["tokenizer", "tokenizer_2"]),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_folder_s_code_is_neither_asked_about_nor_run(tmp_path, nothing_is_asked, name):
    write, tokenizers = MODELS[name]
    folder, mark = write(tmp_path / "model"), tmp_path / "mark"
    for tokenizer in tokenizers:
        plant(folder / tokenizer, mark)
    assert len(message_of(load_model, folder).splitlines()) <= 1
    assert not mark.exists()


def test_tango_s_text_encoder_s_code_is_neither_asked_about_nor_run(
    tmp_path, monkeypatch, nothing_is_asked
):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    text, mark = write_tiny_text_encoder(tmp_path / "t5"), tmp_path / "mark"
    plant(text, mark)
    add_to_hub_cache(tmp_path / "hub", "google/flan-t5-large", text, FLAN_T5_REVISION)
    folder = write_tiny_tango(tmp_path / "tango")
    assert len(message_of(load_model, folder).splitlines()) <= 1
    assert not mark.exists()


def test_a_clap_s_code_is_neither_asked_about_nor_run(tmp_path, nothing_is_asked):
    mark = tmp_path / "mark"
    (tmp_path / "tokenizer_config.json").write_text("{}")
    plant(tmp_path, mark)
    with pytest.raises(ClapError, match="code that comes with a model is not run"):
        TransformersClap(str(tmp_path))
    assert not mark.exists()


@pytest.mark.parametrize("kind", ["../", "absolute"])
def test_the_unet_s_configuration_lies_in_its_folder(tmp_path, kind):
    folder = write_tiny_tango(tmp_path / "tango")
    outside = tmp_path / "outside.json"
    (folder / "configs" / "diffusion_model_config.json").rename(outside)
    main = json.loads((folder / "main_config.json").read_text())
    main["unet_model_config_path"] = "../outside.json" if kind == "../" else str(outside)
    with pytest.raises(ModelFileError, match="lies outside its folder and is not read"):
        tango._unet_config(folder, main)


ESCAPES = [
    "../x",
    "a/../../x",
    "/x",
    "..",
    "",
    "a//b",
    "./a",
    "..\\x",
    "C:\\x",
    "C:x",
    "a\0b",
    "a\nb",
]


@pytest.mark.parametrize("path", ESCAPES)
def test_no_path_of_a_registry_leaves_the_cache(path):
    digest = hashlib.sha256(b"").hexdigest()
    with pytest.raises(DataError, match="does not lie in its folder"):
        Recording(path, digest, "https://example.org/x", "CC0")
    with pytest.raises(DataError, match="does not lie in its folder"):
        Registry(path, ())


@pytest.mark.parametrize(
    "url", ["http://example.org/x", "ftp://example.org/x", "file:///etc/passwd", "x", ""]
)
def test_only_https_is_asked(url):
    with pytest.raises(DataError, match="is no https address: correct the registry"):
        Recording("x", hashlib.sha256(b"").hexdigest(), url, "CC0")
