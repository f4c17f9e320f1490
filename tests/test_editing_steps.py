"""Eq. 1, Step 1 and Step 2."""

import dataclasses
import errno
import os
import random
import re
import signal
import threading
import time
from contextlib import contextmanager, suppress
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import TINY_SHAPE, tiny_model

from helpers.editing import optimisation
from helpers.editing.embedding import EmbeddingSettings, optimise_embedding, reconstruction_loss
from helpers.editing.finetuning import (
    LORA_WIDE_TARGETS,
    FineTuning,
    FinetuningSettings,
    finetune,
    tunable,
)
from helpers.editing.optimisation import CheckpointError, DivergenceError
from helpers.models.kinds import training_target
from helpers.storage import lock, write_whole

STEPS = 8
EMBEDDING = EmbeddingSettings(steps=STEPS, learning_rate=1e-2, batch_size=2)
FULL = FinetuningSettings(steps=STEPS, learning_rate=1e-3)
LORA = FinetuningSettings(steps=STEPS, learning_rate=1e-2, lora_rank=2)
RANKS = pytest.mark.parametrize("settings", [FULL, LORA], ids=["full", "lora"])


@pytest.fixture
def latent():
    return torch.randn((1, *TINY_SHAPE), generator=torch.Generator().manual_seed(3))


@pytest.fixture
def target(model):
    return model.embed_text("a dog barking")


@contextmanager
def raised_at_call(model, call, error):
    """Raise from the UNet at its ``call``-th use."""
    calls = iter(range(1, call))

    def hook(module, inputs):
        if next(calls, None) is None:
            raise error

    handle = model.denoiser.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def kept(kind):
    """Keep the message of an error, if there is one."""
    messages = []
    try:
        yield messages
    except kind as error:
        messages.append(str(error))


def snapshot(unet):
    modules = [(name, type(module)) for name, module in unet.named_modules()]
    weights = {name: weight.clone() for name, weight in unet.state_dict().items()}
    gradients = [(p.requires_grad, p.grad is None) for p in unet.parameters()]
    return modules, weights, gradients, unet.training, sorted(vars(unet))


def assert_unchanged(unet, before):
    now = snapshot(unet)
    assert list(now[1]) == list(before[1])
    assert all(torch.equal(weight, before[1][name]) for name, weight in now[1].items())
    assert (now[0], *now[2:]) == (before[0], *before[2:])


def test_targets_of_the_three_prediction_types_by_hand(latent):
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(4))
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alpha_bar = torch.cumprod(1 - betas, 0)[400].item()
    expected = {
        "epsilon": noise,
        "sample": latent,
        "v_prediction": alpha_bar**0.5 * noise - (1 - alpha_bar) ** 0.5 * latent,
    }
    for prediction_type, by_hand in expected.items():
        schedule = tiny_model(prediction_type).noise_schedule
        target = training_target(schedule, latent, noise, torch.tensor([400]))
        assert torch.allclose(target, by_hand, atol=1e-5)


def test_another_prediction_type_is_refused(latent, model):
    model.noise_schedule.register_to_config(prediction_type="flow")
    with pytest.raises(ValueError, match="'flow'"):
        training_target(model.noise_schedule, latent, latent, torch.tensor([1]))


def test_the_loss_is_the_mean_square_error_at_drawn_timesteps(model, latent, target):
    loss = reconstruction_loss(model, latent, target, torch.Generator().manual_seed(5), 3)
    generator = torch.Generator().manual_seed(5)
    timesteps = torch.randint(1000, (3,), generator=generator)
    noise = torch.randn((3, *TINY_SHAPE), generator=generator)
    a = model.noise_schedule.alphas_cumprod[timesteps].sqrt()[:, None, None, None]
    s = (1 - a**2).sqrt()
    prediction = model.predict(a * latent + s * noise, timesteps, target)
    expected = ((prediction - (a * noise - s * latent)) ** 2).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_gap_of_a_latent_does_not_reach_the_loss(model, latent, target):
    mask = torch.ones(1, 1, TINY_SHAPE[1], 1)
    mask[:, :, 20:30] = 0
    other = latent.clone()
    other[:, :, 20:30] = 7.0

    def loss(z, mask):
        generator = torch.Generator().manual_seed(0)
        return reconstruction_loss(model, z, target, generator, 2, mask).item()

    assert loss(latent, mask) == loss(other, mask)
    assert loss(latent, None) != loss(other, None)
    assert loss(latent, torch.ones_like(mask)) == loss(latent, None)


def test_the_mean_is_over_counted_frames_only(model, latent, target, monkeypatch):
    """An error of 1 everywhere has the mean 1, however large the gap."""
    monkeypatch.setattr(
        "helpers.editing.embedding.training_target", lambda *a: torch.zeros_like(a[2])
    )
    monkeypatch.setattr(model, "predict", lambda z, *a: torch.ones_like(z))
    mask = torch.ones(1, 1, TINY_SHAPE[1], 1)
    mask[:, :, 5:] = 0
    loss = reconstruction_loss(model, latent, target, torch.Generator(), 3, mask)
    assert loss.item() == pytest.approx(1.0)


def test_the_gradient_reaches_attended_tokens_only(model, latent, target):
    padded = target.pad_to([target.masks[0].shape[1] + 3])
    tokens = padded.tokens[0].clone().requires_grad_()
    conditioning = padded.replace_embeddings([tokens])
    reconstruction_loss(model, latent, conditioning, torch.Generator().manual_seed(0)).backward()
    magnitude = tokens.grad.abs().sum(-1)[0]
    assert (magnitude[:-3] > 0).all()
    assert (magnitude[-3:] == 0).all()


def test_step_1_lowers_the_loss_and_keeps_mask_and_padding(model, latent, target):
    padded = target.pad_to([target.masks[0].shape[1] + 3])
    settings = EmbeddingSettings(steps=60, learning_rate=5e-2, batch_size=8)
    result = optimise_embedding(model, latent, padded, settings, progress=False)
    assert len(result.losses) == 60
    losses = [
        reconstruction_loss(model, latent, e, torch.Generator().manual_seed(9), 64).item()
        for e in (padded, result.conditioning)
    ]
    assert losses[1] < losses[0]
    tokens, mask = result.conditioning.tokens[0], result.conditioning.masks[0]
    assert torch.equal(mask, padded.masks[0])
    assert torch.equal(tokens[~mask], padded.tokens[0][~mask])
    assert (tokens[mask] != padded.tokens[0][mask]).all()
    assert not tokens.requires_grad
    assert torch.equal(padded.tokens[0][:, :-3], target.tokens[0])


def test_step_1_freezes_padding_even_if_the_unet_were_to_attend_it(
    model, latent, target, monkeypatch
):
    padded = target.pad_to([target.masks[0].shape[1] + 3])
    monkeypatch.setattr(model, "predict", lambda z, t, e: z * e.tokens[0].mean())
    tokens = optimise_embedding(
        model, latent, padded, EMBEDDING, progress=False
    ).conditioning.tokens[0]
    assert (tokens[:, :-3] != padded.tokens[0][:, :-3]).all()
    assert torch.equal(tokens[:, -3:], padded.tokens[0][:, -3:])


def test_step_1_moves_a_pooled_vector_on_the_sphere(pooled_model, latent):
    target = pooled_model.embed_text("rain")
    result = optimise_embedding(pooled_model, latent, target, EMBEDDING, progress=False)
    assert result.conditioning.pooled.norm().item() == pytest.approx(1.0)
    assert not torch.allclose(result.conditioning.pooled, target.pooled, atol=1e-3)


def test_step_1_leaves_the_model_alone(model, latent, target):
    before = snapshot(model.denoiser)
    optimise_embedding(model, latent, target, EMBEDDING, progress=False)
    assert_unchanged(model.denoiser, before)


@RANKS
def test_step_2_gives_a_second_model_and_leaves_the_base_model_alone(
    model, latent, target, settings
):
    before = snapshot(model.denoiser)
    base = model.predict(latent, 500, target)
    first, second = (
        finetune(model, latent, target, dataclasses.replace(settings, seed=seed), progress=False)
        for seed in (0, 1)
    )
    assert_unchanged(model.denoiser, before)
    assert torch.equal(model.predict(latent, 500, target), base)
    predictions = [tuned.model.predict(latent, 500, target) for tuned in (first, second)]
    assert not torch.allclose(predictions[0], base, atol=1e-4)
    assert not torch.allclose(*predictions, atol=1e-4)
    assert torch.equal(first.model.predict(latent, 500, target), predictions[0])
    for name in ("vae", "vocoder", "text_encoder", "noise_schedule"):
        assert getattr(first.model, name) is getattr(model, name)
    assert not any(p.requires_grad for p in first.model.denoiser.parameters())


@RANKS
def test_a_run_that_is_kept_on_the_way_holds_the_shorter_ones(model, latent, target, settings):
    long = finetune(model, latent, target, settings, progress=False, keep=(2, 5))
    assert set(long.kept) == {2, 5}
    for steps in (2, 5):
        shorter = dataclasses.replace(settings, steps=steps)
        alone = finetune(model, latent, target, shorter, progress=False)
        read = long.after(steps)
        assert (read.settings, read.losses) == (alone.settings, alone.losses)
        assert all(torch.equal(w, read.weights[name]) for name, w in alone.weights.items())
        expected = alone.model.predict(latent, 500, target)
        assert torch.equal(read.model.predict(latent, 500, target), expected)
    assert not torch.equal(long.model.predict(latent, 500, target), expected)
    with pytest.raises(ValueError, match="not kept after 3 steps"):
        long.after(3)


def test_a_tuned_model_shares_all_weights_that_stay(model, latent, target):
    places = {p.data_ptr() for p in model.denoiser.parameters()}
    lora = finetune(model, latent, target, LORA, progress=False)
    own = {p.data_ptr() for p in lora.model.denoiser.parameters()} - places
    assert own == {weight.data_ptr() for weight in lora.weights.values()}
    whole, parameters = tunable(model)
    assert {p.data_ptr() for p in whole.denoiser.parameters()} == places
    assert parameters.keys() == dict(model.denoiser.named_parameters()).keys()
    assert not {id(p) for p in parameters.values()} & {id(p) for p in model.denoiser.parameters()}


@RANKS
@pytest.mark.parametrize("error", [KeyboardInterrupt, torch.OutOfMemoryError, ZeroDivisionError])
def test_a_failing_step_2_leaves_the_base_model_alone(model, latent, target, settings, error):
    before, base = snapshot(model.denoiser), model.predict(latent, 500, target)
    with pytest.raises(BaseException) as caught, raised_at_call(model, 4, error()):  # noqa: PT011
        finetune(model, latent, target, settings, progress=False)
    assert error in (type(caught.value), type(caught.value.__cause__))
    assert_unchanged(model.denoiser, before)
    assert torch.equal(model.predict(latent, 500, target), base)


@RANKS
def test_signals_at_random_moments_leave_the_model_as_loaded(model, latent, target, settings):
    if not hasattr(signal, "setitimer"):
        pytest.skip("no timers here")
    settings = dataclasses.replace(settings, steps=2)
    before, base = snapshot(model.denoiser), model.predict(latent, 500, target)

    def edit_once():
        tuned = finetune(model, latent, target, settings, progress=False)
        tuned.model.predict(latent, 500, target)

    started = time.perf_counter()
    edit_once()
    duration, moments = time.perf_counter() - started, random.Random(1)

    def interrupt(number, frame):
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGALRM, interrupt)
    try:
        for _ in range(10):
            try:
                signal.setitimer(signal.ITIMER_REAL, moments.uniform(0.001, duration))
                edit_once()
            except KeyboardInterrupt:
                pass
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            assert torch.equal(model.predict(latent, 500, target), base)
            assert_unchanged(model.denoiser, before)
    finally:
        signal.signal(signal.SIGALRM, previous)


def test_lora_starts_as_the_base_model(model, latent, target):
    base = model.predict(latent, 500, target)
    settings = dataclasses.replace(LORA, steps=0)
    tuned = finetune(model, latent, target, settings, progress=False)
    assert torch.equal(tuned.model.predict(latent, 500, target), base)


def test_lora_trains_attention_projections_of_its_rank_only(model, latent, target):
    tuned = finetune(model, latent, target, LORA, progress=False)
    projections = [n for n in model.denoiser.state_dict() if ".to_" in n and n.endswith("weight")]
    assert len(tuned.weights) == 2 * len(projections) > 0
    assert {min(weight.shape) for weight in tuned.weights.values()} == {2}


def test_lora_adapts_the_layers_that_are_named(model, latent, target):
    before = snapshot(model.denoiser)
    wide = dataclasses.replace(LORA, lora_targets=LORA_WIDE_TARGETS)
    tuned = finetune(model, latent, target, wide, progress=False)
    adapted = {name.split(".lora_")[0] for name in tuned.weights}
    assert any(name.endswith("conv1") for name in adapted)
    assert any(name.endswith("proj_in") for name in adapted)
    assert len(adapted) > len(finetune(model, latent, target, LORA, progress=False).weights) / 2
    base = model.predict(latent, 500, target)
    assert not torch.allclose(tuned.model.predict(latent, 500, target), base, atol=1e-4)
    assert_unchanged(model.denoiser, before)


def test_full_fine_tuning_lowers_the_loss(model, latent, target):
    settings = FinetuningSettings(steps=60, learning_rate=3e-3, batch_size=4)
    tuned = finetune(model, latent, target, settings, progress=False)

    before, after = (
        reconstruction_loss(each, latent, target, torch.Generator().manual_seed(9), 64).item()
        for each in (model, tuned.model)
    )
    assert after < 0.9 * before
    assert len(tuned.weights) == len(list(model.denoiser.parameters()))


@RANKS
def test_step_2_works_on_a_pooled_model(pooled_model, latent, settings):
    before = snapshot(pooled_model.denoiser)
    target = pooled_model.embed_text("rain")
    assert finetune(pooled_model, latent, target, settings, progress=False).losses
    assert_unchanged(pooled_model.denoiser, before)


def tensors_of(result):
    if isinstance(result, FineTuning):
        return list(result.weights.values())
    return result.conditioning.embeddings


STEP = {
    "embedding": lambda model, z, e, **k: optimise_embedding(model, z, e, EMBEDDING, **k),
    "full": lambda model, z, e, **k: finetune(model, z, e, FULL, **k),
    "lora": lambda model, z, e, **k: finetune(model, z, e, LORA, **k),
}


@pytest.mark.parametrize("every", [0, 100], ids=["every step", "only when interrupted"])
@pytest.mark.parametrize("step", STEP)
def test_a_resumed_run_ends_as_one_never_stopped(
    model, latent, target, tmp_path, monkeypatch, step, every
):
    monkeypatch.setattr("helpers.editing.optimisation.FIRST_SAVE", every)
    run, checkpoint = STEP[step], tmp_path / "run.pt"
    whole = run(model, latent, target, progress=False)
    for call in (3, 4):  # interrupted twice
        with pytest.raises(KeyboardInterrupt), raised_at_call(model, call, KeyboardInterrupt()):
            run(model, latent, target, checkpoint=checkpoint, progress=False)
    resumed = run(tiny_model(), latent, target, checkpoint=checkpoint, progress=False)
    assert resumed.losses == whole.losses
    assert all(map(torch.equal, tensors_of(resumed), tensors_of(whole)))
    assert list(tmp_path.iterdir()) == [checkpoint]


def test_a_crash_loses_only_what_follows_the_last_checkpoint(
    model, latent, target, tmp_path, monkeypatch
):
    monkeypatch.setattr(optimisation, "FIRST_SAVE", 0)
    monkeypatch.setattr(optimisation, "SAVING_SHARE", 1e9)
    run, checkpoint = STEP["embedding"], tmp_path / "run.pt"
    whole = run(model, latent, target, progress=False)
    with pytest.raises(ZeroDivisionError), raised_at_call(model, 6, ZeroDivisionError()):
        run(model, latent, target, checkpoint=checkpoint, progress=False)
    assert len(torch.load(checkpoint, weights_only=True)["losses"]) == 5
    resumed = run(model, latent, target, checkpoint=checkpoint, progress=False)
    assert torch.equal(tensors_of(resumed)[0], tensors_of(whole)[0])


@pytest.mark.parametrize("step", STEP)
def test_a_finished_checkpoint_returns_at_once(model, latent, target, tmp_path, step):
    run, checkpoint = STEP[step], tmp_path / "run.pt"
    first = run(model, latent, target, checkpoint=checkpoint, progress=False)
    with raised_at_call(model, 1, AssertionError("the UNet was used")):
        again = run(model, latent, target, checkpoint=checkpoint, progress=False)
    assert again.losses == first.losses
    assert all(map(torch.equal, tensors_of(again), tensors_of(first)))


def test_a_checkpoint_of_anything_else_is_refused_with_what_differs(
    model, latent, target, tmp_path
):
    checkpoint = tmp_path / "run.pt"
    optimise_embedding(model, latent, target, EMBEDDING, checkpoint=checkpoint, progress=False)
    mask = torch.ones(1, 1, TINY_SHAPE[1], 1)
    retrained = tiny_model()
    with torch.no_grad():
        retrained.denoiser.conv_out.bias[0] += 1e-6
    other_judge = tiny_model()
    with torch.no_grad():
        next(other_judge.vocoder.parameters()).neg_()
    replaced = lambda **changes: dataclasses.replace(EMBEDDING, **changes)  # noqa: E731
    others = {
        "another recording": (model, latent + 1, target, EMBEDDING),
        "another prompt": (model, latent, model.embed_text("a dog barked"), EMBEDDING),
        "another gap": (model, latent, target, EMBEDDING, mask),
        "seed 0 instead of 1": (model, latent, target, replaced(seed=1)),
        "steps 8 instead of 9": (model, latent, target, replaced(steps=9)),
        "learning_rate 0.01 instead of 0.02": (model, latent, target, replaced(learning_rate=0.02)),
        "another UNet": (retrained, latent, target, EMBEDDING),
        "another vocoder": (other_judge, latent, target, EMBEDDING),
        "schedule.prediction_type v_prediction instead of epsilon": (
            tiny_model("epsilon"),
            latent,
            target,
            EMBEDDING,
        ),
    }
    for difference, arguments in others.items():
        with pytest.raises(CheckpointError) as caught:
            optimise_embedding(*arguments, checkpoint=checkpoint, progress=False)
        assert str(caught.value) == (
            f"{checkpoint} belongs to another run, it was made with {difference}: delete it or "
            "name another file."
        )


def test_a_checkpoint_is_the_same_run_s_on_a_computer_that_rounds_otherwise(
    model, latent, target, tmp_path
):
    path = tmp_path / "step.pt"
    first = optimise_embedding(model, latent, target, EMBEDDING, None, path, progress=False)
    rounded = target.replace_embeddings([target.tokens[0] * (1 + 1e-5)])
    again = optimise_embedding(
        model, latent * (1 - 1e-5), rounded, EMBEDDING, None, path, progress=False
    )
    assert torch.equal(again.conditioning.tokens[0], first.conditioning.tokens[0])


def test_a_checkpoint_in_another_precision_is_refused(model, latent, target, tmp_path):
    path = tmp_path / "step.pt"
    optimise_embedding(model, latent, target, EMBEDDING, None, path, progress=False)
    model.denoiser.to(torch.bfloat16)
    with pytest.raises(CheckpointError, match="belongs to another"):
        optimise_embedding(model, latent, target, EMBEDDING, None, path, progress=False)


def test_a_full_disk_is_one_sentence_and_keeps_what_was_saved(
    model, latent, target, tmp_path, monkeypatch
):
    resource = pytest.importorskip("resource")
    path, settings = tmp_path / "step.pt", dataclasses.replace(EMBEDDING, steps=9)
    with pytest.raises(KeyboardInterrupt), raised_at_call(model, 4, KeyboardInterrupt()):
        optimise_embedding(model, latent, target, settings, None, path, progress=False)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(CheckpointError, match="is the disk full.* is kept"):
            optimise_embedding(model, latent, target, settings, None, path, progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_that_is_too_small_is_told_before_any_work(
    model, latent, target, tmp_path, monkeypatch
):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=100))
    with (
        raised_at_call(model, 1, AssertionError("the UNet was used")),
        pytest.raises(CheckpointError, match="its disk has 0 MB free: make room"),
    ):
        optimise_embedding(
            model, latent, target, EMBEDDING, None, tmp_path / "step.pt", progress=False
        )


@pytest.mark.parametrize("kind", ["read-only", "a file in the way"])
@pytest.mark.parametrize("step", STEP)
def test_a_folder_that_cannot_be_written_is_told_before_any_work(
    model, latent, target, tmp_path, monkeypatch, step, kind
):
    folder = tmp_path / "cache"
    if kind == "read-only":
        opened = os.open

        def refused(path, flags, *arguments, **options):
            if flags & os.O_CREAT and str(path).startswith(str(folder.resolve())):
                raise PermissionError(errno.EACCES, "Permission denied")
            return opened(path, flags, *arguments, **options)

        monkeypatch.setattr(os, "open", refused)  # root may write what is read-only
    else:
        folder.write_text("a file")
    with (
        raised_at_call(model, 1, AssertionError("the UNet was used")),
        pytest.raises(CheckpointError, match="cannot be written"),
    ):
        STEP[step](model, latent, target, checkpoint=folder / "run.pt", progress=False)


def damage(checkpoint, kind, generator):
    """Change a checkpoint in one of the ways that disks, transfers and people do."""
    content = bytearray(checkpoint.read_bytes())
    if kind == "cut":
        del content[generator.randrange(len(content)) :]
    elif kind == "bit":
        content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
    elif kind == "block":
        start = generator.randrange(len(content))
        content[start : start + 512] = bytes(len(content[start : start + 512]))
    elif kind == "longer":
        content += b"0"
    elif kind == "text":
        content = bytearray(generator.choice(["", "not a checkpoint", "ä" * 300]).encode("utf-16"))
    checkpoint.write_bytes(content)


@pytest.mark.parametrize("kind", ["cut", "bit", "block", "longer", "text"])
@pytest.mark.parametrize("finished", [True, False])
def test_a_damaged_checkpoint_is_never_used(model, latent, target, tmp_path, kind, finished):
    checkpoint, generator = tmp_path / "run.pt", random.Random(0)
    call = 99 if finished else 4
    with suppress(KeyboardInterrupt), raised_at_call(model, call, KeyboardInterrupt()):
        optimise_embedding(model, latent, target, EMBEDDING, checkpoint=checkpoint, progress=False)
    whole = checkpoint.read_bytes()
    for _ in range(10):
        checkpoint.write_bytes(whole)
        damage(checkpoint, kind, generator)
        if checkpoint.read_bytes() == whole:
            continue
        with pytest.raises(CheckpointError, match="damaged or cannot be read.*: delete it"):
            optimise_embedding(
                model, latent, target, EMBEDDING, checkpoint=checkpoint, progress=False
            )


def other_contents(state):
    """What a whole file can hold in place of a run's state: by name, the state to write."""
    tensors, losses = state["parameters"], state["losses"]
    averages = state["optimiser"]
    return {
        "a list": [state],
        "a number": 3,
        "nothing": {},
        "other shapes": {**state, "parameters": [t[..., :-1] for t in tensors]},
        "fewer parameters": {**state, "parameters": tensors[:-1]},
        "words for parameters": {**state, "parameters": ["a"]},
        "a cut generator": {**state, "generator": state["generator"][:-1]},
        "a generator of floats": {**state, "generator": state["generator"].float()},
        "no generator": {**state, "generator": None},
        "words for losses": {**state, "losses": ["a"] * len(losses)},
        "too many losses": {**state, "losses": losses * 9},
        "losses of None": {**state, "losses": None},
        "no averages": {**state, "optimiser": None},
        "averages of other shapes": {
            **state,
            "optimiser": {
                i: {**kept, "exp_avg": kept["exp_avg"][..., :-1]} for i, kept in averages.items()
            },
        },
        "averages of a stranger": {**state, "optimiser": {7: averages[0]}},
        "averages of none": {**state, "optimiser": {}},
        "a scaler of words": {**state, "scaler": "abc"},
        "no subject": {**state, "subject": None},
        "words for provenance": {**state, "made from": "abc"},
        "provenance of another kind": {**state, "made from": "[]"},
    }


def test_a_whole_file_with_other_contents_is_refused(model, latent, target, tmp_path):
    checkpoint = tmp_path / "run.pt"
    run = STEP["embedding"]
    with pytest.raises(KeyboardInterrupt), raised_at_call(model, 4, KeyboardInterrupt()):
        run(model, latent, target, checkpoint=checkpoint, progress=False)
    state = torch.load(checkpoint, weights_only=True)
    for name, content in other_contents(state).items():
        write_whole(checkpoint, lambda file, c=content: torch.save(c, file), checked=True)
        with kept(CheckpointError) as message:
            run(model, latent, target, checkpoint=checkpoint, progress=False)
        assert message, f"{name} was used"
        assert "delete it" in message[0]


def test_checkpoints_are_written_soon_and_then_more_rarely(
    model, latent, target, tmp_path, monkeypatch
):
    """Of a run whose steps take a second each, and whose checkpoints nothing."""
    clock, saved = [0.0], []
    monkeypatch.setattr(optimisation.time, "monotonic", lambda: clock[0])
    written = optimisation._Checkpoint.save
    monkeypatch.setattr(
        optimisation._Checkpoint, "save", lambda *a: (saved.append(clock[0]), written(*a))
    )

    def tick(module, inputs):
        clock[0] += 1.0

    model.denoiser.register_forward_pre_hook(tick)
    settings = dataclasses.replace(EMBEDDING, steps=120, batch_size=1)
    optimise_embedding(model, latent, target, settings, None, tmp_path / "a.pt", progress=False)
    assert saved[0] == 3
    intervals = np.diff(saved)
    assert (np.diff(intervals[:-1]) >= 0).all()
    assert intervals.max() == 30
    assert saved[-1] == 120


def test_two_runs_at_once_share_a_checkpoint(model, latent, target, tmp_path, monkeypatch):
    """The second waits, and finds what the first has done; or is told to wait."""
    run, checkpoint = STEP["embedding"], tmp_path / "run.pt"
    whole = run(model, latent, target, progress=False)
    with lock(checkpoint):
        monkeypatch.setattr(optimisation, "lock", lambda path: lock(path, wait=0.2))
        with pytest.raises(CheckpointError, match="in use by another run: wait until"):
            run(model, latent, target, checkpoint=checkpoint, progress=False)
    monkeypatch.undo()
    results, models = [None, None], [model, tiny_model()]

    def work(i):
        results[i] = run(models[i], latent, target, checkpoint=checkpoint, progress=False)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert [r.losses for r in results] == [whole.losses] * 2


@pytest.mark.parametrize(
    ("settings", "changes", "message"),
    [
        *(
            (settings, {"steps": value}, f"steps is {value!r}: give a whole number, 0 or more")
            for settings in (EMBEDDING, FULL)
            for value in (-1, 1.5, float("nan"), float("inf"), "8", None, True)
        ),
        *(
            (settings, {"batch_size": value}, f"batch_size is {value!r}: give a whole number, 1")
            for settings in (EMBEDDING, FULL)
            for value in (0, -1, 2.0, float("nan"), None)
        ),
        *(
            (settings, {"learning_rate": value}, f"learning_rate is {value!r}: give a number above")
            for settings in (EMBEDDING, FULL)
            for value in (0, -1e-3, float("nan"), float("inf"), "1e-3", None)
        ),
        *(
            (LORA, {"lora_rank": value}, f"lora_rank is {value!r}: give a whole number, 1 or more")
            for value in (0, -1, 1.5, "2")
        ),
        (LORA, {"lora_targets": ()}, "lora_targets is"),
        (LORA, {"lora_targets": "to_q"}, "lora_targets is 'to_q': give a tuple"),
        (EMBEDDING, {"seed": 0.5}, "seed is 0.5: give a whole number"),
    ],
)
def test_settings_that_cannot_be_are_refused_when_they_are_made(settings, changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        dataclasses.replace(settings, **changes)


def test_a_loss_that_is_not_a_number_stops_the_run(model, latent, target):
    with pytest.raises(DivergenceError, match="step 1 is nan; lower the learning rate"):
        optimise_embedding(model, latent * torch.nan, target, EMBEDDING, progress=False)


def test_the_same_seed_gives_the_same_losses_whatever_the_global_seed(model, latent, target):
    runs = []
    for global_seed in (0, 1):
        torch.manual_seed(global_seed)
        runs.append(finetune(model, latent, target, LORA, progress=False).losses)
    assert runs[0] == runs[1]
    other_seed = dataclasses.replace(LORA, seed=1)
    assert finetune(model, latent, target, other_seed, progress=False).losses != runs[0]


def test_the_paper_is_the_default():
    assert EmbeddingSettings() == EmbeddingSettings(steps=500, learning_rate=2e-3)
    assert FinetuningSettings() == FinetuningSettings(1500, 1e-6, lora_rank=None)
