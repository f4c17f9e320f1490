"""The vocoder without weights."""

import numpy as np
import pytest
import torch
from tiny import tiny_clip

from helpers.audio import CLIP_SAMPLES, Clip, mel_filters
from helpers.models.griffin_lim import GriffinLim, invert_mel


def squared_error(magnitude, mel):
    return np.square(mel_filters().numpy() @ magnitude - mel).sum()


def test_magnitudes_are_not_negative_and_fit_better_than_the_clipped_pseudo_inverse():
    mel = tiny_clip().log_mel()[0, 0].exp().numpy().T
    magnitude = invert_mel(mel)
    clipped = np.maximum(np.linalg.pinv(mel_filters().numpy()) @ mel, 0)
    assert magnitude.shape == (513, mel.shape[1])
    assert magnitude.min() >= 0
    assert squared_error(magnitude, mel) < 0.5 * squared_error(clipped, mel)


def test_magnitudes_of_silence_are_tiny_and_finite():
    magnitude = invert_mel(np.full((64, 3), 1e-5, np.float32))
    assert np.isfinite(magnitude).all()
    assert magnitude.max() < 1e-2


def test_a_waveform_comes_back_with_nearly_its_log_mel():
    log_mel = tiny_clip().log_mel()
    waveform = GriffinLim()(log_mel[:, 0])
    assert waveform.shape == (1, CLIP_SAMPLES)
    assert waveform.dtype == torch.float32
    again = Clip(waveform[0].numpy()).log_mel()
    loud = log_mel > -6
    assert (again - log_mel)[loud].abs().mean() < 0.3


def test_a_batch_gives_what_each_item_gives_alone():
    mels = torch.cat([tiny_clip(2.0).log_mel()[:, 0], tiny_clip(2.0, 900.0).log_mel()[:, 0]])
    together = GriffinLim()(mels)
    for item, mel in zip(together, mels, strict=True):
        assert torch.equal(GriffinLim()(mel[None])[0], item)
    assert together.flatten().square().mean() > 0


@pytest.mark.parametrize("frames", [8, 100])
def test_any_number_of_frames(frames):
    assert GriffinLim()(torch.full((1, frames, 64), -5.0)).shape == (1, 160 * frames)
