"""TangoFlux: its files, what conditions it, and the method on it.

Stage by stage it is compared with its authors' package by `make test-tangoflux`.
"""

import json
import shutil

import numpy as np
import pytest
import torch
from published_layouts import FLAN_T5_REVISION, add_to_hub_cache, write_tiny_text_encoder
from published_tangoflux import published_module, published_weights, write_tiny_tangoflux
from safetensors.torch import load_file, save_file

from helpers import load_model
from helpers.editing import EditSettings, Gap, NonRigidEdit
from helpers.editing.embedding import EmbeddingSettings, reconstruction_loss
from helpers.editing.finetuning import FinetuningSettings, tunable
from helpers.editing.inpainting import known_mask
from helpers.editing.interpolation import SamplingSettings, interpolate
from helpers.methods import methods_for
from helpers.models import ModelFileError
from helpers.models.latent_audio_model import Conditioning
from helpers.models.tangoflux import SIZES, blueprint, holds

PROMPT, OTHER = "a dog barking", "rain"
SECONDS = 3.0
RATE = 44_100
LENGTH = "duration_hidden_states"


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A hub cache with FLAN-T5's tokenizer and TangoFlux."""
    root = tmp_path_factory.mktemp("hub")
    text = write_tiny_text_encoder(root / "flan-t5")
    add_to_hub_cache(root / "cache", "google/flan-t5-large", text, FLAN_T5_REVISION)
    folder = write_tiny_tangoflux(root / "model")
    add_to_hub_cache(root / "cache", "declare-lab/TangoFlux", folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(root / "cache"))
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        yield root


@pytest.fixture(scope="module")
def folder(hub):
    return hub / "model"


@pytest.fixture(scope="module")
def model(hub):
    return load_model("tangoflux", device="cpu")


@pytest.fixture
def led(model):
    """The vectors that lead the transformer, call by call."""
    vectors = []

    def record(module, arguments, options):
        vectors.append(options["pooled_projections"])

    handle = model.denoiser.transformer.register_forward_pre_hook(record, with_kwargs=True)
    yield vectors
    handle.remove()


def settings(rank: int | None, **sampling: object) -> EditSettings:
    return EditSettings(
        EmbeddingSettings(steps=1, learning_rate=0.05),
        FinetuningSettings(steps=1, learning_rate=1e-3, lora_rank=rank),
        SamplingSettings(steps=2, **sampling),
    )


def predict(model, conditioning, scale=1.0):
    noisy = torch.randn((1, *model.latent_shape), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model.predict(noisy, 0.5, conditioning, scale)


class TestFiles:
    def test_published_widths_give_the_published_file_to_the_byte(self):
        """Every name and shape stands in a safetensors file's header, so its size knows them."""
        with torch.device("meta"):
            weights = published_weights(published_module())
        header, end = {}, 0
        for name, weight in sorted(weights.items()):
            place = [end, end := end + 4 * weight.numel()]
            header[name] = {"dtype": "F32", "shape": list(weight.shape), "data_offsets": place}
        text = len(json.dumps(header, separators=(",", ":")))
        assert 8 + 8 * -(-text // 8) + end == SIZES["tangoflux.safetensors"] == 3_437_051_960

    def test_blueprint_of_the_name_has_the_published_size(self):
        planned = blueprint()
        assert planned.latent_shape == (64, 645)
        assert planned.clip_samples / planned.sample_rate == pytest.approx(29.95, abs=0.01)
        counts = {
            name: sum(p.numel() for p in part.parameters()) for name, part in planned.parts.items()
        }
        assert counts["UNet"] == 516_695_616 + 1024 * 1025
        assert 4 * counts["autoencoder"] == pytest.approx(SIZES["vae.safetensors"], rel=1e-3)
        noisy = torch.zeros(1, 64, 645, device="meta")
        assert planned.predict(noisy, 1, planned.embed_text(PROMPT)).shape == noisy.shape

    def test_every_published_weight_has_its_place(self, folder, model):
        text = model.text_encoder
        modules = {"text_encoder.": text.model, "duration_emebdder.": text.duration}
        weights = load_file(folder / "tangoflux.safetensors")
        for name, weight in weights.items():
            prefix = next((p for p in modules if name.startswith(p)), "")
            state = modules.get(prefix, model.denoiser).state_dict()
            assert torch.equal(state[name.removeprefix(prefix)], weight), name
        for name, weight in load_file(folder / "vae.safetensors").items():
            assert torch.equal(model.vae.state_dict()[name], weight), name

    def test_a_folder_is_the_same_model(self, folder, model):
        assert holds(folder)
        assert load_model(folder, device="cpu").fingerprint == model.fingerprint

    def test_blueprint_reads_the_configuration_alone(self, folder, tmp_path):
        shutil.copy(folder / "config.json", tmp_path)
        planned = blueprint(tmp_path)
        noisy = torch.zeros(1, *planned.latent_shape, device="meta")
        assert planned.predict(noisy, 1, planned.embed_text(PROMPT)).shape == noisy.shape

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda weights: weights.pop("fc.0.bias"), "lacks fc.0.bias: it belongs to another"),
            (lambda weights: weights.update(more=torch.zeros(1)), "holds more, which this model"),
        ],
    )
    def test_another_model_s_weights_are_refused(self, folder, tmp_path, change, message):
        copied = shutil.copytree(folder, tmp_path / "copy")
        weights = load_file(copied / "tangoflux.safetensors")
        change(weights)
        save_file(weights, copied / "tangoflux.safetensors")
        with pytest.raises(ModelFileError, match=message):
            load_model(copied, device="cpu")

    @pytest.mark.parametrize(
        ("name", "terms"),
        [
            ("tangoflux", "are for research only: read https"),
            ("stable-audio", "accept its licence"),
        ],
    )
    def test_who_may_have_it_is_said_before_it_is_downloaded(
        self, tmp_path, monkeypatch, capsys, name, terms
    ):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(ModelFileError, match="hub is out of reach"):
            load_model(name, device="cpu")
        assert terms in capsys.readouterr().out

    def test_nothing_is_said_of_what_is_there(self, hub, capsys):
        load_model("tangoflux", device="cpu")
        assert not capsys.readouterr().out

    def test_a_missing_file_is_named(self, folder, tmp_path):
        copied = shutil.copytree(folder, tmp_path / "copy")
        (copied / "vae.safetensors").unlink()
        with pytest.raises(ModelFileError, match="vae.safetensors is missing"):
            load_model(copied, device="cpu")


class TestConditioning:
    def test_the_leading_vector_is_made_of_what_is_given_to_the_call(self, model, led):
        """Of the text's own tokens, optimised and interpolated ones too; not of the length's."""
        target = model.embed_text(PROMPT, SECONDS)
        optimised = target.replace_embeddings([e + 0.1 * e.roll(1, -1) for e in target.embeddings])
        for conditioning in (target, optimised, interpolate(optimised, target, 0.5)):
            predict(model, conditioning)
            expected = model.denoiser.fc(conditioning.tokens[0].mean(1))
            torch.testing.assert_close(led.pop(), expected)
        predict(model, model.embed_text(PROMPT, 1.0))
        torch.testing.assert_close(led.pop(), model.denoiser.fc(target.tokens[0].mean(1)))

    def test_step_1_s_gradient_passes_through_the_leading_vector(self, model, monkeypatch):
        """It differs from the one that comes through the tokens alone."""
        target = model.embed_text(PROMPT, SECONDS)
        layer = model.denoiser.fc

        def gradient(cut):
            if cut:
                monkeypatch.setattr(
                    layer, "forward", lambda mean: type(layer).forward(layer, mean).detach()
                )
            [tokens] = [e.clone().requires_grad_() for e in target.embeddings]
            latent = torch.ones(1, *model.latent_shape)
            generator = torch.Generator().manual_seed(0)
            conditioning = target.replace_embeddings([tokens])
            reconstruction_loss(model, latent, conditioning, generator).backward()
            return tokens.grad

        whole, part = gradient(cut=False), gradient(cut=True)
        assert (whole - part).norm() > 1e-3 * whole.norm()

    def test_what_pads_the_empty_prompt_is_attended_to_and_heard_once(self, model, led):
        prompt = model.embed_text(PROMPT, SECONDS)
        empty = model.unconditional(beside=prompt)
        assert empty.tokens[0].shape == prompt.tokens[0].shape
        assert empty.masks[0].sum() == 1
        assert torch.equal(
            empty.given["duration_hidden_states"], prompt.given["duration_hidden_states"]
        )
        whole, short = predict(model, empty), predict(model, model.unconditional())
        assert (whole - short).abs().max() > 1e-4
        torch.testing.assert_close(led[0], led[1])

    def test_guidance_of_a_batch_pads_to_each_prompt_s_own_length(self, model):
        batch = model.embed_text([PROMPT, OTHER], SECONDS)
        noisy = torch.randn((1, *model.latent_shape), generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            both = model.predict(noisy.expand(2, -1, -1), 0.5, batch, 4.5)
        for one, prompt in zip(both.split(1), (PROMPT, OTHER), strict=True):
            alone = predict(model, model.embed_text(prompt, SECONDS), 4.5)
            torch.testing.assert_close(one, alone, atol=1e-4, rtol=0)

    def test_what_is_not_attended_to_changes_nothing(self, model):
        prompt = model.embed_text(PROMPT, SECONDS)
        padded = prompt.pad_to([prompt.tokens[0].shape[1] + 3])
        torch.testing.assert_close(predict(model, padded), predict(model, prompt))
        joined = Conditioning.cat([prompt, model.embed_text(OTHER, SECONDS)])
        assert joined.masks[0].sum(1).tolist() == [4, 2]

    def test_the_length_is_heard(self, model):
        short, long = (predict(model, model.embed_text(PROMPT, s)) for s in (1.0, 4.0))
        assert (short - long).abs().max() > 1e-4


class TestEditing:
    @pytest.mark.parametrize("rank", [2, None], ids=["lora", "whole"])
    @pytest.mark.parametrize("strength", [1.0, 0.5])
    def test_three_steps(self, model, stereo, rank, strength):
        before = {name: w.clone() for name, w in model.denoiser.state_dict().items()}
        chosen = settings(rank, strength=strength)
        with NonRigidEdit(model, stereo, PROMPT, chosen, progress=False) as edit:
            first, last = edit.sweep([0.0, 1.0])
            [optimised], [target] = edit.embedding.conditioning.tokens, edit.target.tokens
            assert ((optimised - target).abs().amax(-1) > 0.01).all()
            given = [
                c.given["duration_hidden_states"]
                for c in (edit.embedding.conditioning, edit.target)
            ]
            assert torch.equal(*given)
            assert edit.finetuning.weights
        assert all(torch.equal(w, before[name]) for name, w in model.denoiser.state_dict().items())
        assert first.sound.samples.shape == stereo.sound.samples.shape
        assert np.abs(first.sound.samples - last.sound.samples).max() > 1e-4

    def test_the_leading_vector_s_layer_is_tuned_with_the_transformer(self, model):
        assert {"fc.0.weight", "fc.0.bias"} < set(tunable(model)[1])
        _, adapters = tunable(model, 2, ["to_q", "fc.0"])
        assert any(name.startswith("fc.0.lora_A") for name in adapters)

    @pytest.mark.parametrize("key", ["sdedit", "audioldm-inpainting", "generation"])
    def test_methods_run_on_it(self, model, stereo, key):
        method = methods_for("pocket")[key].with_sampling(steps=2)
        gap = Gap(1.0, 1.5) if key == "audioldm-inpainting" else None
        [edit] = method.sweep(model, stereo, PROMPT, [method.fixed_setting], gap, progress=False)
        assert edit.sound.samples.shape == stereo.sound.samples.shape
        assert np.abs(edit.sound.samples - stereo.sound.samples).max() > 1e-3

    def test_ddpm_inversion_is_refused_before_any_work(self, model, stereo, monkeypatch):
        def work(*arguments):
            raise AssertionError("the model was run")

        monkeypatch.setattr(model.vae, "encode", work)
        monkeypatch.setattr(model.denoiser, "forward", work)
        method = methods_for("pocket")["ddpm-inversion"]
        with pytest.raises(ValueError, match="DDPM inversion is not defined for tangoflux, which"):
            method.sweep(model, stereo, PROMPT, [0.5], progress=False)

    def test_inpainting_keeps_every_sample_of_the_recording(self, model, stereo):
        gap = Gap(1.0, 1.5)
        with NonRigidEdit(model, stereo, PROMPT, settings(2), gap, progress=False) as edit:
            filled = edit.edit(1.0).sound.samples
        inside, kept = slice(RATE, round(1.5 * RATE)), stereo.sound.samples
        assert np.array_equal(filled[: inside.start], kept[: inside.start])
        assert np.array_equal(filled[inside.stop :], kept[inside.stop :])
        assert np.abs(filled[inside] - kept[inside]).max() > 1e-4

    def test_what_lies_behind_the_clip_s_end_is_not_learnt(self, model, stereo):
        mask = known_mask(model, stereo, None)
        assert mask.shape == (1, 1, 96)
        assert mask.sum() == np.ceil(SECONDS * RATE / 2048)
