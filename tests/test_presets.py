"""The named settings: rows of one file, and what they need of memory on the published models."""

import json
import tomllib

import pytest
import torch
from published_stable_audio import INDEX, PROJECTION, SCHEDULER, T5, TRANSFORMER, VAE

from helpers.data import data_path
from helpers.editing import PRESETS, EditSettings
from helpers.editing.loading import memory_needed
from helpers.editing.presets import preset, presets_for
from helpers.models import find_family, model_names

ROWS = tomllib.loads(data_path("presets.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def blueprints(tmp_path_factory):
    """Models of the published widths on the meta device."""
    folder = tmp_path_factory.mktemp("stable_audio")
    files = {"model_index": INDEX, "scheduler/scheduler_config": SCHEDULER}
    parts = {"transformer": TRANSFORMER, "vae": VAE, "projection_model": PROJECTION}
    parts["text_encoder"] = T5
    files |= {f"{part}/config": config for part, config in parts.items()}
    for name, content in files.items():
        path = folder / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
    sources = {"stable-audio": folder, "tangoflux": "tangoflux"}
    return {name: lambda n=name: find_family(n).blueprint(sources[n]) for name in sources}


def test_rows_are_of_models_that_there_are():
    assert set(ROWS) == {"any", "pocket", "stable-audio", "tangoflux"}
    assert set(ROWS) - {"any"} <= set(model_names())
    names = [name for rows in ROWS.values() for name in rows]
    assert len(names) == len(set(names)) == len(PRESETS)


def test_what_a_row_leaves_out_is_the_paper_s():
    assert preset("paper") == EditSettings()
    assert preset("t4").embedding == EditSettings().embedding
    assert preset("t4").dtype == torch.float16


def test_a_model_s_own_presets_come_first():
    assert presets_for("tango") == ["paper", "t4", "fast"]
    assert presets_for("tangoflux")[:2] == ["tangoflux-80gb", "tangoflux-16gb"]


@pytest.mark.parametrize(
    ("model", "size", "gigabytes"),
    [
        ("stable-audio", "80gb", 50.8),
        ("stable-audio", "16gb", 9.2),
        ("tangoflux", "80gb", 19.0),
        ("tangoflux", "16gb", 7.5),
    ],
)
def test_a_preset_fits_the_gpu_it_is_named_for(blueprints, model, size, gigabytes):
    settings = preset(f"{model}-{size}")
    needed = memory_needed(blueprints[model](), settings, settings.dtype).total
    assert needed / 1e9 == pytest.approx(gigabytes, abs=0.1)
    assert needed < {"80gb": 79e9, "16gb": 15e9}[size]  # less than the name says is free
