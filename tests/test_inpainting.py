import numpy as np
import pytest
import torch
from tiny import tiny_clip

from helpers.audio import SAMPLE_RATE, Clip, Sound
from helpers.editing.inpainting import Gap, MaskError, blank, latent_mask, paste, sample_mask

GAP = Gap(1.0, 2.0)


@pytest.fixture
def generated(clip):
    return Clip(tiny_clip(3.0, 700.0).waveform, "generated")


@pytest.mark.parametrize(
    ("start", "end"), [(-0.1, 1), (1, 1), (2, 1), (2.5, 3.1), (4, 5), (float("nan"), 1)]
)
def test_a_gap_outside_the_clip_is_refused(clip, start, end):
    with pytest.raises(MaskError, match="does not lie in pulses, which lasts 3.00 s"):
        sample_mask(clip, Gap(start, end))


def test_a_gap_over_the_whole_clip_is_refused(clip):
    with pytest.raises(MaskError, match="covers all"):
        sample_mask(clip, Gap(0, 3))


def test_a_gap_shorter_than_a_sample_is_refused(clip):
    with pytest.raises(MaskError, match="shorter than one sample"):
        sample_mask(clip, Gap(1, 1 + 1e-6))


def test_a_gap_that_leaves_no_latent_frame_of_the_recording_is_refused(clip):
    with pytest.raises(MaskError, match="leaves too little"):
        latent_mask(clip, Gap(0.1, 2.95), 64)


def test_the_sample_mask_is_one_where_the_recording_is_kept(clip):
    mask = sample_mask(clip, GAP)
    assert mask[:SAMPLE_RATE].all()
    assert not mask[SAMPLE_RATE : 2 * SAMPLE_RATE].any()
    assert mask[2 * SAMPLE_RATE :].all()
    assert len(mask) == len(clip.waveform)


def test_the_latent_mask_leaves_a_margin_of_one_frame(clip):
    mask = latent_mask(clip, GAP, 64)  # a frame lasts 0.16 s: the gap touches frames 6 to 12
    assert mask.shape == (1, 1, 64, 1)
    assert torch.nonzero(mask[0, 0, :, 0] == 0).flatten().tolist() == list(range(5, 14))


def test_a_latent_outside_the_mask_does_not_know_what_the_gap_holds(model, clip):
    """The front end's share of it: no log-mel frame the mask keeps changes with the gap."""
    mask = latent_mask(clip, GAP, 256).repeat_interleave(4, 2)
    difference = (clip.log_mel() - blank(clip, GAP).log_mel()).abs()
    assert difference.max() > 1
    assert (difference * mask).max() == 0


def test_blank_silences_the_gap_alone(clip):
    waveform, mask = blank(clip, GAP).waveform, sample_mask(clip, GAP)
    assert waveform.dtype == np.float32
    assert np.array_equal(waveform[mask], clip.waveform[mask])
    assert not waveform[~mask].any()


@pytest.mark.parametrize("gap", [GAP, Gap(0, 1), Gap(2, 3), Gap(1, 1.001), Gap(0.001, 2.999)])
def test_paste_keeps_every_observed_sample(clip, generated, gap):
    pasted = paste(clip, generated, gap)
    mask = sample_mask(clip, gap)
    assert np.array_equal(pasted.waveform[mask], clip.waveform[mask])
    assert not np.array_equal(pasted.waveform[~mask], clip.waveform[~mask])
    assert pasted.waveform.dtype == np.float32


def test_paste_is_the_generated_sound_between_the_crossfades(clip, generated):
    pasted = paste(clip, generated, GAP, crossfade_seconds=0.02)
    inner = slice(SAMPLE_RATE + 320, 2 * SAMPLE_RATE - 320)
    assert np.array_equal(pasted.waveform[inner], generated.waveform[inner])
    edge = slice(SAMPLE_RATE, SAMPLE_RATE + 320)
    assert not np.array_equal(pasted.waveform[edge], generated.waveform[edge])


def test_paste_does_not_use_what_the_source_holds_in_the_gap(clip, generated):
    results = [paste(source, generated, GAP).waveform for source in (clip, blank(clip, GAP))]
    assert np.array_equal(*results)


def test_paste_has_no_click(generated):
    source = Clip(np.full(3 * SAMPLE_RATE, 0.5, np.float32), "dc")
    silence = Clip(np.zeros_like(source.waveform), "silence")
    pasted = paste(source, silence, GAP).waveform
    assert np.abs(np.diff(pasted)).max() < 0.01
    assert pasted[SAMPLE_RATE + 160] == pytest.approx(0.25, abs=0.01)


def test_a_gap_at_the_beginning_fades_at_its_end_only(clip, generated):
    pasted = paste(clip, generated, Gap(0, 1))
    assert np.array_equal(pasted.waveform[:15_000], generated.waveform[:15_000])


def test_a_recording_is_blanked_and_pasted_at_its_own_rate():
    noise = np.random.default_rng(0).uniform(-1, 1, (3 * 44_100, 2)).astype(np.float32)
    source = Clip.from_waveform(noise, 44_100)
    part = slice(44_100, 2 * 44_100)
    silent = blank(source, GAP).sound.samples
    assert not silent[part].any()
    assert np.array_equal(silent[part.stop :], source.sound.samples[part.stop :])
    made = Clip.made(Sound(np.full_like(noise, 0.25), 44_100), "made")
    pasted = paste(source, made, GAP).sound
    assert pasted.sample_rate == 44_100
    assert np.array_equal(pasted.samples[: part.start], source.sound.samples[: part.start])
    assert np.array_equal(pasted.samples[part.stop :], source.sound.samples[part.stop :])
    assert (pasted.samples[part][2_000:-2_000] == 0.25).all()
