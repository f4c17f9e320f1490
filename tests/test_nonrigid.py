import dataclasses
import threading

import numpy as np
import pytest
import torch
from tiny import tiny_model

from helpers.editing import PRESETS, EditSettings, Gap, NonRigidEdit
from helpers.editing.embedding import EmbeddingSettings
from helpers.editing.finetuning import FinetuningSettings
from helpers.editing.inpainting import MaskError, sample_mask
from helpers.editing.interpolation import SamplingSettings, sample
from helpers.models.latent_audio_model import PromptError

SETTINGS = EditSettings(
    EmbeddingSettings(steps=5, learning_rate=5e-2),
    FinetuningSettings(steps=5, learning_rate=1e-2, lora_rank=2),
    SamplingSettings(steps=5, strength=0.8),
)
PROMPT = "a dog barking"


def new_edit(model, clip, **changes):
    return NonRigidEdit(
        model, clip, **{"prompt": PROMPT, "settings": SETTINGS, "progress": False, **changes}
    )


def sampled(**changes):
    return dataclasses.replace(SETTINGS, sampling=SamplingSettings(**changes))


def same(one, other):
    return np.allclose(one.waveform, other.waveform, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"prompt": " "}, PromptError, "prompt is empty"),
        ({"settings": "fastest"}, ValueError, "no preset 'fastest': choose from paper, t4, fast"),
        ({"gap": Gap(2, 9)}, MaskError, "does not lie in"),
        ({"settings": sampled(steps=1001)}, ValueError, "steps is 1001: the model has 1000"),
        ({"settings": sampled(scheduler="KarrasVeScheduler")}, ValueError, "cannot sample"),
    ],
)
def test_bad_input_is_refused_before_any_work(model, clip, changes, error, message):
    with pytest.raises(error, match=message):
        new_edit(model, clip, **changes)


@pytest.mark.parametrize("etas", [[], [0.5, float("nan")], 0.5, "0.5", [[0.5]], [None], ["0.5"]])
def test_a_bad_eta_is_refused_before_fitting(model, clip, etas):
    edit = new_edit(model, clip)
    with pytest.raises(ValueError, match="η"):
        edit.sweep(etas)
    assert edit.embedding is None


def test_a_sweep_is_what_each_eta_gives_alone(model, clip):
    with new_edit(model, clip) as edit:
        swept = edit.sweep([0, 0.5, 1])
        for eta, result in zip([0, 0.5, 1], swept, strict=True):
            assert same(edit.edit(eta), result)
            assert len(result.waveform) == len(clip.waveform)
            assert result.name == f"pulses, η = {eta:g}"
        assert same(edit.reconstruction, swept[0])
        assert not same(swept[0], swept[2])


def test_eta_1_is_the_prompt_and_eta_0_the_optimised_embedding(model, clip):
    with new_edit(model, clip) as edit:
        ends = edit.sweep([0, 1])
        tuned = edit.finetuning.model
        for conditioning, result in zip(
            [edit.embedding.conditioning, model.embed_text(PROMPT)], ends, strict=True
        ):
            latent = sample(tuned, conditioning, SETTINGS.sampling, edit.latent, False)
            assert same(model.decode(latent, clip), result)


@pytest.mark.parametrize("rank", [None, 2])
def test_the_model_is_bit_identical_after_an_edit(model, clip, rank):
    before = {name: weight.clone() for name, weight in model.denoiser.state_dict().items()}
    settings = dataclasses.replace(
        SETTINGS, finetuning=dataclasses.replace(SETTINGS.finetuning, lora_rank=rank)
    )
    with new_edit(model, clip, settings=settings) as edit:
        edit.sweep([0, 1])
    after = model.denoiser.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    assert edit.finetuning is None


def test_edits_of_a_pooled_model(pooled_model, clip):
    with new_edit(pooled_model, clip) as edit:
        ends = edit.sweep([0, 1])
    assert not same(*ends)


def test_a_folder_keeps_steps_1_and_2(model, clip, tmp_path):
    with new_edit(model, clip, folder=tmp_path) as edit:
        first = edit.edit(0.5)
    files = sorted(path.name.partition("-")[0] for path in tmp_path.rglob("*.pt"))
    assert files == ["embedding.pt", "finetuning"]

    again = new_edit(model, clip, folder=tmp_path)
    model.denoiser.register_forward_pre_hook(refuse_to_train)
    assert same(again.edit(0.5), first)


def refuse_to_train(module, inputs):
    assert not torch.is_grad_enabled(), "the model was trained again"


def test_two_edits_at_once_share_a_folder(model, clip, tmp_path):
    """The second waits for the first's Steps 1 and 2, and takes them."""
    with new_edit(model, clip) as alone:
        whole = alone.fit().embedding.losses + alone.finetuning.losses
    steps, losses = [0], [None, None]
    models = [tiny_model(), tiny_model()]

    def fit(i):
        models[i].denoiser.register_forward_pre_hook(lambda *_: steps.__setitem__(0, steps[0] + 1))
        with new_edit(models[i], clip, folder=tmp_path) as edit:
            edit.fit()
            losses[i] = edit.embedding.losses + edit.finetuning.losses

    threads = [threading.Thread(target=fit, args=(i,)) for i in range(2)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert losses == [whole, whole]
    assert steps[0] == len(whole)
    assert not [*tmp_path.rglob("*.lock"), *tmp_path.rglob("*.part")]


def test_a_folder_serves_many_edits(model, clip, tmp_path):
    for prompt in (PROMPT, "rain"):
        new_edit(model, clip, prompt=prompt, folder=tmp_path).fit()
    new_edit(model, clip, folder=tmp_path, gap=Gap(1, 2)).fit()
    assert len(list(tmp_path.iterdir())) == 3


def test_other_sampling_settings_share_steps_1_and_2(model, clip, tmp_path):
    for seed in (0, 1):
        sampling = dataclasses.replace(SETTINGS.sampling, seed=seed)
        settings = dataclasses.replace(SETTINGS, sampling=sampling)
        new_edit(model, clip, settings=settings, folder=tmp_path).fit()
    assert len(list(tmp_path.iterdir())) == 1


def test_full_and_lora_fine_tuning_share_step_1(model, clip, tmp_path):
    for rank in (None, 2):
        finetuning = dataclasses.replace(SETTINGS.finetuning, lora_rank=rank)
        settings = dataclasses.replace(SETTINGS, finetuning=finetuning)
        new_edit(model, clip, settings=settings, folder=tmp_path).fit()
    names = [path.name.partition("-")[0] for path in tmp_path.rglob("*.pt")]
    assert sorted(names) == ["embedding.pt", "finetuning", "finetuning"]


def test_inpainting_keeps_the_observed_part(model, clip):
    gap = Gap(1, 2)
    observed = sample_mask(clip, gap)
    with new_edit(model, clip, gap=gap) as edit:
        pasted, raw = edit.edit(1), edit.edit(1, pasted=False)
    assert np.array_equal(pasted.waveform[observed], clip.waveform[observed])
    assert not np.allclose(raw.waveform[observed], clip.waveform[observed], atol=1e-3)
    inner = slice(17_000, 31_000)
    assert np.allclose(pasted.waveform[inner], raw.waveform[inner], atol=1e-6)


def test_inpainting_knows_nothing_of_what_the_gap_held(model, clip):
    gap = Gap(1, 2)
    waveform = clip.waveform.copy()
    waveform[~sample_mask(clip, gap)] *= -0.3
    other = dataclasses.replace(clip, waveform=waveform)
    results = []
    for source in (clip, other):
        with new_edit(model, source, gap=gap) as edit:
            results.append(edit.edit(0.5).waveform)
            assert edit.latent[:, :, 7:11].abs().max() == 0
    assert np.array_equal(*results)


def test_presets_hold_the_paper_s_values():
    paper = PRESETS["paper"]
    assert (paper.embedding.steps, paper.embedding.learning_rate) == (500, 2e-3)
    assert (paper.finetuning.steps, paper.finetuning.learning_rate) == (1500, 1e-6)
    assert paper.finetuning.lora_rank is None
    assert (paper.sampling.steps, paper.sampling.strength) == (200, 1.0)
