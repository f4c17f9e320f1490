"""The pocket model's corpus, dataset and training loop, without any recording."""

import numpy as np
import pytest
import torch
from torch import nn

from helpers.audio import CLIP_SAMPLES, PEAK
from helpers.models.pocket import LOG_MEL_MEAN, LOG_MEL_SCALE, new_autoencoder
from helpers.pocket import __main__ as command
from helpers.pocket import dataset, loop, training
from helpers.pocket.corpus import CAPTIONS_PER_SCENE, make_scene


def draw(rng, folds=()):
    return make_scene(rng, ("door_knock",))


@pytest.fixture
def rendered(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "SHARD_SCENES", 20)
    monkeypatch.setattr(dataset, "make_scene", draw)
    dataset._render_shard(tmp_path, False, 0)
    return dataset.Dataset(tmp_path)


def test_a_scene_is_normalised_captioned_and_knows_its_onsets():
    scene = make_scene(np.random.default_rng(1), ("siren", "gunshot"), "sequence")
    assert scene.waveform.shape == (CLIP_SAMPLES,)
    assert np.abs(scene.waveform).max() == pytest.approx(PEAK, abs=1e-4)
    assert scene.labels == ("siren", "gunshot")
    assert len(scene.captions) == CAPTIONS_PER_SCENE
    assert (np.diff(scene.onsets) >= 0).all()
    assert scene.onsets.min() < 5 < scene.onsets.max()


def test_a_background_sound_is_quieter_than_the_foreground():
    background = make_scene(np.random.default_rng(3), ("piano", "wind"), "background")
    alone = make_scene(np.random.default_rng(3), ("piano",))
    assert background.labels[0] == "piano"
    assert not np.array_equal(background.waveform, alone.waveform)


def test_the_dataset_returns_what_was_drawn(rendered):
    scene = draw(np.random.default_rng(7))
    np.testing.assert_allclose(rendered.waveform(7).numpy(), scene.waveform, atol=1 / 32767)
    assert rendered.facts[7]["captions"] == list(scene.captions)
    torch.testing.assert_close(rendered.log_mel(7, 10, 5), rendered.log_mel(7)[10:15])


def test_an_empty_dataset_says_what_to_run(tmp_path):
    with pytest.raises(ValueError, match="run the corpus stage first"):
        dataset.Dataset(tmp_path)


def test_crops_of_mel_and_waveform_belong_together(rendered):
    mels, waveforms = training._crops(rendered, np.random.default_rng(0), 4, 64)
    again = training.log_mel(waveforms)
    inner = slice(6, -6)  # frames whose window lies inside the crop
    assert (again[:, :, inner] - mels[:, :, inner]).abs().mean() < 0.05


def test_the_vocoder_loss_is_zero_for_the_same_waveform_and_grows_with_noise(rendered):
    _, target = training._crops(rendered, np.random.default_rng(0), 2, 64)
    noise = torch.randn(target.shape, generator=torch.Generator().manual_seed(0))
    slightly, heavily = (
        training.vocoder_loss(target + amount * noise, target) for amount in (1e-3, 0.1)
    )
    assert training.vocoder_loss(target, target) == 0
    assert 0 < slightly < heavily


def test_augmented_mels_keep_their_shape_and_range_and_half_are_smeared(rendered, monkeypatch):
    mels = torch.stack([rendered.log_mel(i)[None] for i in range(16)])
    augmented = training._augmented(mels, np.random.default_rng(0))
    assert augmented.shape == mels.shape
    assert augmented.dtype == torch.float32
    assert augmented.min() > -11.6

    def roughness(batch):
        return (batch[:, :, 1:] - batch[:, :, :-1]).abs().mean((1, 2, 3))

    for width in ("SMEAR_FRAMES", "SMEAR_BINS"):
        monkeypatch.setattr(training, width, 0.0)
    sharp = training._augmented(mels, np.random.default_rng(0))
    smeared = [not torch.equal(a, b) for a, b in zip(augmented, sharp, strict=True)]
    assert 3 <= sum(smeared) <= 13
    assert (roughness(augmented)[smeared] < roughness(sharp)[smeared]).all()


def test_a_lost_thin_line_costs_four_times_a_lost_plain_bin():
    plain = torch.full((1, 1, 4, 64), -8.0)
    line = plain.clone()
    line[..., 20] = -2.0  # stands more than 3 above its surroundings
    on_line, beside = line.clone(), line.clone()
    on_line[..., 20] -= 1
    beside[..., 40] -= 1
    lost_line = training.reconstruction_error(on_line, line)
    lost_bin = training.reconstruction_error(beside, line)
    assert training.reconstruction_error(line, line) == 0
    assert lost_line / lost_bin == pytest.approx(4)


def test_the_autoencoder_keeps_the_principal_components_and_loses_the_rest():
    generator = torch.Generator().manual_seed(0)
    deviations = torch.linspace(4, 0.1, 256)
    rotation = torch.linalg.qr(torch.randn(256, 256, generator=generator))[0]
    patches = (torch.randn(4096, 256, generator=generator) * deviations) @ rotation
    # 64 clips of 16 × 4 patches; what the fit divides by is put back in here.
    clips = patches.reshape(64, 16, 4, 16, 16).transpose(2, 3).reshape(64, 256, 64)
    log_mels = clips * LOG_MEL_SCALE + LOG_MEL_MEAN
    model = new_autoencoder().eval()
    training.fit_principal_components(model, log_mels)

    posterior = model.encode(log_mels[:, None]).latent_dist
    decoded = model.decode(posterior.mode()).sample
    values, vectors = np.linalg.eigh(np.cov(patches.numpy().T))
    kept = vectors[:, ::-1][:, :32]
    centred = patches.numpy() - patches.numpy().mean(0)
    lost = np.square(centred - centred @ kept @ kept.T).mean()
    error = (decoded - log_mels[:, None]) / LOG_MEL_SCALE
    assert error.square().mean().item() == pytest.approx(lost, rel=1e-3)
    # A component of standard deviation s is divided by √s; the others' mean variance is the noise.
    expected = values[::-1][:32] ** 0.25
    spread = posterior.mode().std((0, 2, 3))
    assert spread.detach().numpy() == pytest.approx(expected, rel=1e-3)
    noise = values[::-1][32:].mean() / expected**2
    assert posterior.var[0, :, 0, 0].detach().numpy() == pytest.approx(noise, rel=1e-3)


def test_a_stage_goes_on_from_another_models_weights(tmp_path, rendered):
    schedule = loop.Schedule(1, 1e-6, 2)
    recipe = training.Recipe(20, *[schedule] * 5)
    first = training.Workshop(tmp_path, recipe)
    first.folder.joinpath("training").symlink_to(rendered.folder)
    first.classifier()
    second = training.Workshop(tmp_path / "second", recipe, start=first.folder / "weights")
    second.folder.joinpath("training").symlink_to(rendered.folder)
    second.classifier()
    before, after = (
        training.AudioTower(len(training.LABELS)).load(w.weights("classifier"))
        for w in (first, second)
    )
    for a, b in zip(before.parameters(), after.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-2)


def loss_of(model, rng):
    inputs = torch.from_numpy(rng.standard_normal((8, 4)).astype(np.float32))
    return (model(inputs) - inputs.sum(1, keepdim=True)).float().square().mean()


def fresh():
    torch.manual_seed(0)
    return nn.Linear(4, 1)


def test_a_stopped_stage_resumes_to_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 5)
    schedule = loop.Schedule(20, 1e-2, 8)
    whole = loop.train(fresh(), loss_of, schedule, tmp_path / "whole.pt")
    calls = []

    def stopping(model, rng):
        calls.append(1)
        if len(calls) == 13:
            raise KeyboardInterrupt
        return loss_of(model, rng)

    with pytest.raises(KeyboardInterrupt):
        loop.train(fresh(), stopping, schedule, tmp_path / "stopped.pt")
    resumed = loop.train(fresh(), loss_of, schedule, tmp_path / "stopped.pt")
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path):
    loop.train(fresh(), loss_of, loop.Schedule(2, 1e-2, 8), tmp_path / "stage.pt")
    with pytest.raises(ValueError, match="of another recipe"):
        loop.train(fresh(), loss_of, loop.Schedule(3, 1e-2, 8), tmp_path / "stage.pt")


def test_a_stage_whose_weights_the_start_lacks_begins_afresh(tmp_path, rendered):
    recipe = training.Recipe(20, *[loop.Schedule(1, 1e-6, 2)] * 5)
    workshop = training.Workshop(tmp_path, recipe, start=tmp_path / "a model without weights")
    workshop.folder.joinpath("training").symlink_to(rendered.folder)
    workshop.classifier()
    assert list(workshop.weights("classifier").glob("*.safetensors"))


def test_training_lowers_the_loss(tmp_path):
    loop.train(fresh(), loss_of, loop.Schedule(300, 1e-2, 8), tmp_path / "linear.pt")
    losses = torch.load(tmp_path / "linear.pt", weights_only=True)["losses"]
    assert np.mean(losses[-20:]) < 0.5 * np.mean(losses[:20])


def test_a_diverging_stage_stops_with_a_sentence(tmp_path):
    with pytest.raises(FloatingPointError, match="lower its learning rate"):
        loop.train(
            fresh(),
            lambda model, rng: loss_of(model, rng) * float("nan"),
            loop.Schedule(3, 1e-2, 8),
            tmp_path / "bad.pt",
        )


@pytest.mark.skipif(not loop._has_fast_bfloat16(), reason="training is in float32 here")
def test_training_in_bfloat16_sees_the_values_of_float32():
    """Without the exceptions the second strided convolution of the UNet is wrong on AMX."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = training.new_unet().eval()
        latent, tokens = torch.randn(4, 32, 64, 4), torch.randn(4, 6, 384)
    inputs = (latent, torch.tensor([10, 300, 600, 990]), tokens)
    mask = {"encoder_attention_mask": torch.ones(4, 6, dtype=torch.bool)}
    with torch.no_grad():
        exact = unet(*inputs, **mask).sample
        with loop.float32_where_needed(), torch.autocast("cpu", torch.bfloat16):
            close = unet(*inputs, **mask).sample.float()
    assert (close - exact).norm() < 0.02 * exact.norm()
    assert torch.nn.functional.conv2d.__name__ == "conv2d", "the exceptions end with the block"


def test_the_command_runs_the_named_stages_in_order_and_tells_their_time(
    tmp_path, monkeypatch, capsys
):
    done = []
    for name in ("corpus", "captions", "vae"):
        monkeypatch.setattr(training.Workshop, name, lambda self, name=name: done.append(name))
    arguments = ["pocket", "captions", "corpus", "--folder", str(tmp_path)]
    monkeypatch.setattr("sys.argv", arguments)
    command.main()
    assert done == ["captions", "corpus"]
    assert capsys.readouterr().out == "captions: 0.0 minutes\ncorpus: 0.0 minutes\n"


def test_the_command_refuses_an_unknown_stage(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["pocket", "autoencoder", "--folder", str(tmp_path)])
    with pytest.raises(SystemExit):
        command.main()
    assert "unknown stage ['autoencoder']: choose from" in capsys.readouterr().err
