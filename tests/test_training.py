"""The pocket model's corpus, dataset and training loop, without any recording."""

import random
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torture.attempts import damage

from helpers.audio import CLIP_SAMPLES, PEAK
from helpers.data import DATA, load_registry
from helpers.evaluation import judges
from helpers.evaluation.audio_tower import load_judge, save_judge
from helpers.models.minilm import load_minilm
from helpers.models.pocket import (
    LOG_MEL_MEAN,
    LOG_MEL_SCALE,
    PocketUNet,
    load_part,
)
from tools.pocket import __main__ as command
from tools.pocket import dataset, loop, training
from tools.pocket.captions import compose
from tools.pocket.corpus import at_level, make_scene
from tools.pocket.networks import new_autoencoder, save_part


def draw(rng, split):
    return make_scene(rng, ("door_knock",))


@pytest.fixture
def rendered(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "SHARD_SCENES", 20)
    monkeypatch.setattr(dataset, "make_scene", draw)
    dataset._render_shard(tmp_path, None, 0)
    return dataset.Dataset(tmp_path)


def test_a_scene_is_normalised_and_knows_its_sounds_and_onsets():
    scene = make_scene(np.random.default_rng(1), ("siren", "gunshot"), "sequence")
    assert scene.waveform.shape == (CLIP_SAMPLES,)
    assert np.abs(scene.waveform).max() == pytest.approx(PEAK, abs=1e-4)
    assert (scene.labels, scene.relation) == (("siren", "gunshot"), "sequence")
    assert (np.diff(scene.onsets) >= 0).all()
    assert scene.onsets.min() < 5 < scene.onsets.max()


def test_a_scene_is_captioned_in_many_wordings():
    scene = make_scene(np.random.default_rng(1), ("siren", "gunshot"), "sequence")
    rng = np.random.default_rng(0)
    assert len({scene.caption(rng) for _ in range(50)}) > 30
    assert scene.caption(np.random.default_rng(5)) == compose(
        scene.labels, scene.relation, np.random.default_rng(5)
    )


def test_a_sound_is_set_to_its_level_where_it_is_active():
    tone = np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000).astype(np.float32)
    half = np.concatenate([0.01 * tone, np.zeros_like(tone)])  # a second of sound, one of silence
    scaled = at_level(half, -6.0)
    active = np.sqrt(np.square(scaled[:16_000]).mean())
    assert 20 * np.log10(active) == pytest.approx(-6.0, abs=0.01)
    click = np.zeros(16_000, np.float32)
    click[100] = 1.0
    assert np.abs(at_level(click, 0.0)).max() == pytest.approx(12.0)


@pytest.mark.parametrize(("front", "behind"), [("piano", "wind"), ("wind", "piano")])
def test_a_background_is_audible_and_quieter_than_what_is_in_front(front, behind, monkeypatch):
    levels = []

    def listen(waveform, decibels):
        levels.append(decibels)
        return at_level(waveform, decibels)

    monkeypatch.setattr("tools.pocket.corpus.at_level", listen)
    for seed in range(20):
        make_scene(np.random.default_rng(seed), (front, behind), "background")
    fronts, backgrounds = levels[::2], levels[1::2]
    assert -3 <= min(fronts) <= max(fronts) <= 0
    assert -10 <= min(backgrounds) <= max(backgrounds) <= -3


def test_no_freesound_recording_lies_in_two_parts_of_the_split():
    registry = load_registry("esc10")
    parts = {}
    for recording in registry.recordings:
        parts.setdefault(recording.info["source"], set()).add(recording.info["split"])
    assert all(len(split) == 1 for split in parts.values())
    assert {r.info["fold"] for r in registry.select(split="dev")} == {"4"}
    assert {r.info["split"] for r in registry.select(fold=5)} == {"test"}
    labels = {r.info["label"] for r in registry.recordings}
    assert {r.info["label"] for r in registry.select(split="dev")} == labels


def test_recordings_tuned_on_are_not_trained_on():
    dev = {r.path for r in load_registry("esc10").select(split="dev")}
    table = (DATA / "pairs" / "pocket-dev.csv").read_text()
    used = re.findall(r"esc10:([^,]+)", table)
    assert used
    assert set(used) <= dev


def test_the_dataset_returns_what_was_drawn(rendered):
    [(log_mel, facts)] = dataset.draw_scenes(range(7, 8), "train")
    torch.testing.assert_close(rendered.log_mel(7), log_mel, atol=5e-3, rtol=0)
    assert rendered.facts[7] == facts
    torch.testing.assert_close(rendered.log_mel(7, 10, 5), rendered.log_mel(7)[10:15])
    words = rendered.caption(7, np.random.default_rng(3))
    assert words == compose(facts["labels"], facts["relation"], np.random.default_rng(3))


def test_a_dataset_of_latents_holds_what_the_autoencoder_makes(rendered, tmp_path):
    torch.manual_seed(0)
    vae = new_autoencoder().eval()
    vae.register_to_config(scaling_factor=0.5)
    folder = tmp_path / "latents"
    folder.mkdir()
    dataset._render_shard(folder, vae, 0)
    [(log_mel, _)] = dataset.draw_scenes(range(3, 4), "train")
    expected = vae.encode(log_mel[None, None]).latent_dist.mode()[0] * 0.5
    torch.testing.assert_close(
        dataset.Dataset(folder).latents()[3].float(), expected.detach(), atol=2e-3, rtol=2e-3
    )


def test_an_empty_dataset_says_what_to_run(tmp_path):
    with pytest.raises(ValueError, match="run the corpus stage first"):
        dataset.Dataset(tmp_path)


def test_augmented_mels_keep_their_shape_and_range_and_told_orders_are_not_rolled(rendered):
    ramp = torch.linspace(-8, -2, 1024)[None, None, :, None].expand(16, 1, 1024, 64)
    augmented = training._augmented(ramp, [False] * 8 + [True] * 8, np.random.default_rng(0))
    assert augmented.shape == ramp.shape
    assert augmented.min() > -11.6
    loudest = augmented[..., 32].argmax(2).squeeze() > 900  # a ramp that is not rolled ends loud
    assert not loudest[:8].all()
    assert loudest[8:].all()


def test_a_crop_is_short_and_holds_some_of_the_sound():
    log_mel = torch.full((1, 1024, 64), training.LOG_FLOOR)
    log_mel[:, 600:640] = -2.0
    for seed in range(20):
        crop = training.cropped(log_mel, np.random.default_rng(seed))
        assert crop.shape == log_mel.shape
        if not torch.equal(crop, log_mel):
            assert (crop[:, 500:] == training.LOG_FLOOR).all()
            assert crop.max() == -2.0
    long = training.cropped(torch.full((1, 1024, 64), -3.0), np.random.default_rng(0))
    frames = (long[0, :, 0] > training.LOG_FLOOR).sum()
    assert 200 <= frames < 500


FACTS = [
    {"labels": ["siren", "duck"], "relation": "background"},
    {"labels": ["duck", "siren"], "relation": "background"},
    {"labels": ["siren", "duck"], "relation": "mixture"},
    {"labels": ["duck", "siren"], "relation": "mixture"},
    {"labels": ["siren", "duck"], "relation": "sequence"},
    {"labels": ["siren"], "relation": "mixture"},
    {"labels": ["duck"], "relation": "background"},
    {"labels": ["rain"], "relation": "sequence"},
]


def test_compositions_are_what_captions_say():
    kinds = [training.composition(fact) for fact in FACTS]
    assert kinds[2] == kinds[3]
    assert len(set(kinds)) == len(kinds) - 1
    assert kinds[5] == training.composition({"labels": ["siren"], "relation": "sequence"})


def test_a_batch_holds_neighbours():
    chosen = training.Neighbours(FACTS).draw(10, np.random.default_rng(0))
    assert len(chosen) == 10
    assert set(chosen[:5]) >= {5, 6}
    assert 7 not in chosen


def test_the_contrastive_loss_wants_each_composition_and_leaves_one_question_open():
    kinds = [training.composition(fact) for fact in FACTS]
    same = torch.tensor([[a == b for b in kinds] for a in kinds]).float()
    right = 20 * same
    perfect = training.contrastive_loss(right, kinds).item()
    assert perfect == pytest.approx(4 * np.log(2) / 8, abs=1e-3)  # two scenes are alike
    confused = right.clone()
    confused[0, 1] = confused[1, 0] = 20  # which sound is in the background
    assert training.contrastive_loss(confused, kinds).item() > perfect + 0.2
    undecided = right.clone()
    undecided[0, 2] = undecided[2, 0] = 20  # background or mixture
    assert training.contrastive_loss(undecided, kinds).item() == pytest.approx(perfect, abs=1e-3)


def test_judges_hear_order_and_come_back_from_their_files(tmp_path):
    torch.manual_seed(0)
    clap = judges.ClapNetwork().eval()
    clip = torch.full((1, 1, 1024, 64), -9.0)
    clip[:, :, :500, 10:20] = -1.0
    clip[:, :, 500:, 40:50] = -1.0
    forth, back = clap.embed_audio(torch.cat([clip, clip.flip(2)]))
    assert (forth - back).abs().max() > 1e-3
    words = load_minilm()(["a duck with rain in the background", "rain"])
    together = clap.embed_text(words)
    alone = clap.embed_text(load_minilm()(["rain"]))
    torch.testing.assert_close(together[1:], alone, atol=1e-5, rtol=1e-4)  # padding is not heard
    save_judge(clap, tmp_path, text="MiniLM")
    again = judges.ClapNetwork()
    config = {"sample_rate": 16_000, "log_mel": [1024, 64], "text": "MiniLM"}
    assert load_judge(again, tmp_path) == config
    torch.testing.assert_close(again.embed_audio(clip)[0], forth, atol=1e-2, rtol=1e-2)


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


def test_blurred_captions_keep_their_mean_and_some_lose_their_words():
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(400, 6, 384, generator=generator)
    mask = torch.arange(6)[None].expand(400, 6) < 4
    blurred, same = training.blurred(states, mask, np.random.default_rng(0), generator)
    assert torch.equal(same, mask)
    alone = torch.isclose(blurred[:, 0], blurred[:, 1]).all(1)
    assert 0.1 < alone.float().mean() < 0.2
    distance = (blurred - states)[~alone].std((1, 2))
    assert 0 < distance.min() < distance.max() < 0.32
    means, before = ((s * mask[..., None]).sum(1) / 4 for s in (blurred, states))
    assert torch.nn.functional.cosine_similarity(means, before).min() > 0.9


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


def test_a_damaged_checkpoint_of_a_stage_is_refused_or_gives_the_same_weights(tmp_path):
    schedule, checkpoint = loop.Schedule(20, 1e-2, 8), tmp_path / "stage.pt"
    whole = loop.train(fresh(), loss_of, schedule, checkpoint)
    content, generator, refused = checkpoint.read_bytes(), random.Random(0), 0
    message = f"{checkpoint} is damaged: delete it, and the stage begins anew."
    for _ in range(40):
        checkpoint.write_bytes(damage(content, generator))
        try:
            again = loop.train(fresh(), loss_of, schedule, checkpoint)
        except ValueError as error:
            refused += str(error) == message
            continue
        assert all(map(torch.equal, whole.parameters(), again.parameters()))
    assert refused >= 10
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stage.csv", "stage.pt"]


def test_a_training_folder_that_cannot_be_made_is_one_sentence(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert command.main(["vae", "--folder", str(tmp_path / "file")]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "cannot be used (Not a directory): check the path, its permissions" in told


@pytest.mark.parametrize("other", [{"learning_rate": 2e-2}, {"batch_size": 4}, {"ema_decay": 0.9}])
def test_a_checkpoint_of_another_recipe_is_refused(tmp_path, other):
    schedule = loop.Schedule(2, 1e-2, 8)
    loop.train(fresh(), loss_of, schedule, tmp_path / "stage.pt")
    with pytest.raises(ValueError, match="of another recipe"):
        loop.train(fresh(), loss_of, replace(schedule, **other), tmp_path / "stage.pt")


def test_a_run_may_be_given_more_steps_until_its_rate_decays(tmp_path):
    short, long = loop.Schedule(20, 1e-2, 8), loop.Schedule(40, 1e-2, 8)
    assert long.agrees(short, 16)
    assert not long.agrees(short, 17)
    assert not short.agrees(long, 17)
    assert long.agrees(long, 39)


def test_the_rate_warms_up_stays_and_decays(monkeypatch):
    schedule = loop.Schedule(10_000, 1.0, 8)
    assert schedule.rate(0) == pytest.approx(1 / loop.WARMUP_STEPS)
    assert {schedule.rate(step) for step in (200, 4_000, 8_000)} == {1.0}
    assert schedule.rate(9_000) == pytest.approx(0.5)
    assert 0 < schedule.rate(9_999) < 0.001


def test_a_stage_stops_when_its_minutes_are_over_and_goes_on_to_the_same_weights(tmp_path):
    schedule = loop.Schedule(20, 1e-2, 8)
    whole = loop.train(fresh(), loss_of, schedule, tmp_path / "whole.pt")
    clock = iter(range(1000))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.time, "monotonic", lambda: 10.0 * next(clock))
        assert loop.train(fresh(), loss_of, schedule, tmp_path / "part.pt", minutes=1) is None
    done = torch.load(tmp_path / "part.pt", weights_only=True)["step"]
    assert 0 < done < 20
    resumed = loop.train(fresh(), loss_of, schedule, tmp_path / "part.pt")
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_log_tells_steps_hours_and_both_losses_of_the_averaged_weights(tmp_path):
    seen = []

    def validate(model):
        seen.append(model.weight.detach().clone())
        return 0.25

    schedule = loop.Schedule(10, 1e-2, 8, validate_every=5)
    model = loop.train(fresh(), loss_of, schedule, tmp_path / "stage.pt", validate)
    rows = [line.split(",") for line in (tmp_path / "stage.csv").read_text().splitlines()]
    assert [row[0] for row in rows] == ["5", "10"]
    losses = torch.load(tmp_path / "stage.pt", weights_only=True)["losses"]
    assert float(rows[1][2]) == pytest.approx(np.mean(losses[5:]), abs=1e-4)
    assert rows[0][3] == "0.2500"
    assert torch.equal(seen[1], model.weight)


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


def test_the_command_runs_the_named_stages_in_order_and_tells_their_time(
    tmp_path, monkeypatch, capsys
):
    done = []
    for name in ("corpus", "latents", "vae"):
        monkeypatch.setattr(training.Trainer, name, lambda self, name=name: done.append(name))
    arguments = ["pocket", "latents", "corpus", "--folder", str(tmp_path)]
    monkeypatch.setattr("sys.argv", arguments)
    command.main()
    assert done == ["latents", "corpus"]
    assert capsys.readouterr().out == "latents: 0.0 minutes\ncorpus: 0.0 minutes\n"


def test_the_command_refuses_an_unknown_stage(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["pocket", "autoencoder", "--folder", str(tmp_path)])
    with pytest.raises(SystemExit):
        command.main()
    assert "unknown stage ['autoencoder']: choose from" in capsys.readouterr().err


def test_the_unet_stage_trains_at_reduced_size_and_goes_on_from_averaged_weights(
    rendered, tmp_path, monkeypatch
):
    monkeypatch.setattr(training, "VALIDATION_SCENES", 4)
    monkeypatch.setattr(training, "AVERAGED_CAPTIONS", 8)
    monkeypatch.setattr(
        training, "draw_scenes", lambda seeds, split: dataset.draw_scenes(seeds, "train")
    )
    vae = new_autoencoder().eval()
    vae.register_to_config(scaling_factor=0.5)
    folder = tmp_path / "folder"
    save_part(vae, folder / "weights" / "vae")
    (folder / "latents").mkdir()
    dataset._render_shard(folder / "latents", vae.float(), 0)
    schedule = loop.Schedule(3, 1e-3, 4, validate_every=2)
    recipe = replace(training.RECIPES["gpu"], unet=schedule)
    trainer = training.Trainer(folder, recipe)
    trainer.unet()
    rows = [line.split(",") for line in (folder / "checkpoints/unet.csv").read_text().split()]
    assert [row[0] for row in rows] == ["2", "3"]
    assert all(0 < float(row[3]) < 10 for row in rows)
    weights = trainer.weights("unet")
    trained = load_part(PocketUNet, weights).state_dict()

    weights.rename(folder / "start")
    (folder / "checkpoints/unet.pt").unlink()
    training.Trainer(folder, recipe, minutes=0).unet()  # no step: what it began with
    again = load_part(PocketUNet, weights).state_dict()
    for name, value in again.items():
        assert torch.equal(value, trained[name]), name
