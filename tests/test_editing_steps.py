"""Eq. 1, Step 1 and Step 2."""

import dataclasses
from contextlib import contextmanager

import pytest
import torch
from tiny import TINY_SHAPE, tiny_model

from helpers.editing.embedding import EmbeddingSettings, optimise_embedding
from helpers.editing.finetuning import (
    LORA_WIDE_TARGETS,
    FineTuning,
    FinetuningSettings,
    finetune,
)
from helpers.editing.objective import reconstruction_loss, training_target
from helpers.editing.optimisation import CheckpointError, DivergenceError, fingerprint

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

    handle = model.unet.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


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
        "helpers.editing.objective.training_target", lambda *a: torch.zeros_like(a[2])
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
    before = snapshot(model.unet)
    optimise_embedding(model, latent, target, EMBEDDING, progress=False)
    assert_unchanged(model.unet, before)


@RANKS
def test_step_2_returns_the_base_model_and_can_be_switched_on(model, latent, target, settings):
    before = snapshot(model.unet)
    base = model.predict(latent, 500, target)
    tuned = finetune(model, latent, target, settings, progress=False)
    assert_unchanged(model.unet, before)
    for _ in range(2):
        with tuned.enabled():
            assert not torch.allclose(model.predict(latent, 500, target), base, atol=1e-4)
        assert_unchanged(model.unet, before)
    assert torch.equal(model.predict(latent, 500, target), base)


@RANKS
@pytest.mark.parametrize("error", [KeyboardInterrupt, torch.OutOfMemoryError, ZeroDivisionError])
def test_step_2_restores_the_model_when_it_fails(model, latent, target, settings, error):
    before = snapshot(model.unet)
    with pytest.raises(BaseException) as caught, raised_at_call(model, 4, error()):  # noqa: PT011
        finetune(model, latent, target, settings, progress=False)
    assert error in (type(caught.value), type(caught.value.__cause__))
    assert_unchanged(model.unet, before)


@RANKS
def test_an_error_while_switched_on_restores_the_model(model, latent, target, settings):
    before = snapshot(model.unet)
    tuned = finetune(model, latent, target, settings, progress=False)
    with pytest.raises(ZeroDivisionError), tuned.enabled():
        raise ZeroDivisionError
    assert_unchanged(model.unet, before)


def test_lora_starts_as_the_base_model(model, latent, target):
    base = model.predict(latent, 500, target)
    settings = dataclasses.replace(LORA, steps=0)
    with finetune(model, latent, target, settings, progress=False).enabled():
        assert torch.equal(model.predict(latent, 500, target), base)


def test_lora_trains_attention_projections_of_its_rank_only(model, latent, target):
    tuned = finetune(model, latent, target, LORA, progress=False)
    projections = [n for n in model.unet.state_dict() if ".to_" in n and n.endswith("weight")]
    assert len(tuned.weights) == 2 * len(projections) > 0
    assert {min(weight.shape) for weight in tuned.weights.values()} == {2}


def test_lora_adapts_the_layers_that_are_named_and_puts_them_back(model, latent, target):
    before = snapshot(model.unet)
    wide = dataclasses.replace(LORA, lora_targets=LORA_WIDE_TARGETS)
    tuned = finetune(model, latent, target, wide, progress=False)
    adapted = {name.split(".lora_")[0] for name in tuned.weights}
    assert any(name.endswith("conv1") for name in adapted)
    assert any(name.endswith("proj_in") for name in adapted)
    assert len(adapted) > len(finetune(model, latent, target, LORA, progress=False).weights) / 2
    base = model.predict(latent, 500, target)
    with tuned.enabled():
        assert not torch.allclose(model.predict(latent, 500, target), base, atol=1e-4)
    assert_unchanged(model.unet, before)


def test_full_fine_tuning_lowers_the_loss(model, latent, target):
    settings = FinetuningSettings(steps=60, learning_rate=3e-3, batch_size=4)
    tuned = finetune(model, latent, target, settings, progress=False)

    def loss():
        return reconstruction_loss(model, latent, target, torch.Generator().manual_seed(9), 64)

    before = loss().item()
    with tuned.enabled():
        assert loss().item() < 0.9 * before
    assert len(tuned.weights) == len(list(model.unet.parameters()))


def test_two_adapters_at_once_are_refused(model, latent, target):
    tuned = finetune(model, latent, target, LORA, progress=False)
    with tuned.enabled(), pytest.raises(RuntimeError, match="switched on"):
        finetune(model, latent, target, LORA, progress=False)


@RANKS
def test_step_2_works_on_a_pooled_model(pooled_model, latent, settings):
    before = snapshot(pooled_model.unet)
    target = pooled_model.embed_text("rain")
    assert finetune(pooled_model, latent, target, settings, progress=False).losses
    assert_unchanged(pooled_model.unet, before)


def tensors_of(result):
    if isinstance(result, FineTuning):
        return list(result.weights.values())
    return result.conditioning.embeddings


STEP = {
    "embedding": lambda model, z, e, **k: optimise_embedding(model, z, e, EMBEDDING, **k),
    "full": lambda model, z, e, **k: finetune(model, z, e, FULL, **k),
    "lora": lambda model, z, e, **k: finetune(model, z, e, LORA, **k),
}


@pytest.mark.parametrize("every", [3, 100], ids=["periodic", "only when interrupted"])
@pytest.mark.parametrize("step", STEP)
def test_a_resumed_run_ends_as_one_never_stopped(
    model, latent, target, tmp_path, monkeypatch, step, every
):
    monkeypatch.setattr("helpers.editing.optimisation.CHECKPOINT_EVERY", every)
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
    monkeypatch.setattr("helpers.editing.optimisation.CHECKPOINT_EVERY", 3)
    run, checkpoint = STEP["embedding"], tmp_path / "run.pt"
    whole = run(model, latent, target, progress=False)
    with pytest.raises(ZeroDivisionError), raised_at_call(model, 6, ZeroDivisionError()):
        run(model, latent, target, checkpoint=checkpoint, progress=False)
    assert len(torch.load(checkpoint, weights_only=True)["losses"]) == 3
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


def test_a_checkpoint_of_anything_else_is_refused(model, latent, target, tmp_path):
    checkpoint = tmp_path / "run.pt"
    optimise_embedding(model, latent, target, EMBEDDING, checkpoint=checkpoint, progress=False)
    mask = torch.ones(1, 1, TINY_SHAPE[1], 1)
    others = {
        "recording": (model, latent + 1, target, EMBEDDING, None),
        "prompt": (model, latent, model.embed_text("a dog barked"), EMBEDDING, None),
        "settings": (model, latent, target, dataclasses.replace(EMBEDDING, seed=1), None),
        "model": (tiny_model("epsilon"), latent, target, EMBEDDING, None),
        "gap": (model, latent, target, EMBEDDING, mask),
    }
    for arguments in others.values():
        with pytest.raises(CheckpointError, match="belongs to another"):
            optimise_embedding(*arguments, checkpoint=checkpoint, progress=False)


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
    model.unet.to(torch.bfloat16)
    with pytest.raises(CheckpointError, match="belongs to another"):
        optimise_embedding(model, latent, target, EMBEDDING, None, path, progress=False)


def test_a_full_disk_is_one_sentence(model, latent, target, tmp_path, monkeypatch):
    def full(state, path):
        raise RuntimeError("iostream error")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(CheckpointError, match="is the disk full"):
        optimise_embedding(
            model, latent, target, EMBEDDING, None, tmp_path / "step.pt", progress=False
        )


@pytest.mark.parametrize("content", [b"", b"not a checkpoint"])
def test_a_damaged_checkpoint_is_refused(model, latent, target, tmp_path, content):
    checkpoint = tmp_path / "run.pt"
    checkpoint.write_bytes(content)
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        optimise_embedding(model, latent, target, EMBEDDING, checkpoint=checkpoint, progress=False)


def test_a_truncated_checkpoint_is_refused(model, latent, target, tmp_path):
    checkpoint = tmp_path / "run.pt"
    optimise_embedding(model, latent, target, EMBEDDING, checkpoint=checkpoint, progress=False)
    checkpoint.write_bytes(checkpoint.read_bytes()[:-200])
    with pytest.raises(CheckpointError, match="delete it"):
        optimise_embedding(model, latent, target, EMBEDDING, checkpoint=checkpoint, progress=False)


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


def test_fingerprints_tell_shapes_and_types_apart():
    zeros = torch.zeros(4)
    values = [(zeros,), (zeros.double(),), (zeros.view(2, 2),), (zeros, None), (EMBEDDING,)]
    assert len({fingerprint(*each) for each in values}) == len(values)
    assert fingerprint(zeros, 1) == fingerprint(torch.zeros(4), 1)
