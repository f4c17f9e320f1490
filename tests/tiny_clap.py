"""Miniature CLAP checkpoints in their published layouts, and what every back end must do.

Written as plain files where packages of other versions have to read them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from helpers.audio import SAMPLE_RATE, Clip
from helpers.evaluation.clap.windows import WindowedClap

PROCESSOR = {  # preprocessor_config.json of laion/clap-htsat-unfused
    "chunk_length_s": 10,
    "feature_extractor_type": "ClapFeatureExtractor",
    "feature_size": 64,
    "fft_window_size": 1024,
    "frequency_max": 14000,
    "frequency_min": 50,
    "hop_length": 480,
    "max_length_s": 10,
    "n_fft": 1024,
    "nb_frequency_bins": 513,
    "nb_max_frames": 1000,
    "nb_max_samples": 480000,
    "padding": "repeatpad",
    "padding_value": 0.0,
    "processor_class": "ClapProcessor",
    "return_attention_mask": False,
    "sampling_rate": 48000,
    "top_db": None,
    "truncation": "rand_trunc",
}
ROBERTA_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")


def noise(seconds: float, seed: int = 0) -> Clip:
    """Noise whose level changes all the time, so that no two windows of it are alike."""
    samples = round(seconds * SAMPLE_RATE)
    rng = np.random.default_rng(seed)
    waveform = rng.standard_normal(samples) * np.linspace(0.05, 1, samples)
    return Clip.from_waveform(waveform, SAMPLE_RATE, name=f"noise {seed}")


def write_byte_tokenizer(
    folder: Path, first: Sequence[str] = (), last: Sequence[str] = (), **config: object
) -> None:
    """Write a byte-level BPE tokenizer: the 256 bytes between special tokens, no merges."""
    folder.mkdir(parents=True, exist_ok=True)
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    characters = [chr(b) for b in printable] + [chr(256 + n) for n in range(len(others))]
    vocabulary = {token: index for index, token in enumerate([*first, *characters, *last])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def check_projections(clap: WindowedClap) -> None:
    """Normalised float32 projections, the same on every call, alone and in a batch."""
    clips = [noise(10.0, seed=1), noise(4.3, seed=2), noise(10.24, seed=3)]
    together = clap.embed_audio(clips)
    assert together.dtype == torch.float32
    assert together.device.type == "cpu"
    assert torch.allclose(together.norm(dim=1), torch.ones(3), atol=1e-5)
    assert torch.equal(together, clap.embed_audio(clips))
    alone = torch.cat([clap.embed_audio([clip]) for clip in clips])
    assert torch.allclose(together, alone, atol=1e-5)
    assert not torch.allclose(together[0], together[1], atol=1e-4)  # it does listen
    prompts = ["a dog", "rain on a tin roof, and thunder"]
    words = clap.embed_text(prompts)
    assert words.shape == together[:2].shape
    assert torch.allclose(words.norm(dim=1), torch.ones(2), atol=1e-5)
    assert torch.allclose(words, torch.cat([clap.embed_text([p]) for p in prompts]), atol=1e-5)
    assert not torch.allclose(words[0], words[1], atol=1e-4)
    assert torch.equal(clap.embed_text(["a dog " * 300]), clap.embed_text(["a dog " * 300]))


def check_scores(clap: WindowedClap) -> None:
    """Scores are the cosines of Eqs. 3 and 4."""
    edit, source = noise(10.0, seed=4), noise(10.24, seed=5)
    h_edit, h_source = clap.embed_audio([edit, source]).double().numpy()
    [h_text] = clap.embed_text(["rain"]).double().numpy()
    text = h_edit @ h_text / np.sqrt((h_edit**2).sum() * (h_text**2).sum())
    audio = h_edit @ h_source / np.sqrt((h_edit**2).sum() * (h_source**2).sum())
    assert abs(clap.text_score(edit, "rain") - text) < 1e-5
    assert abs(clap.audio_score(edit, source) - audio) < 1e-5
    assert abs(clap.audio_score(edit, edit) - 1) < 1e-5


def check_long_clip(clap: WindowedClap, starts: list[int]) -> None:
    """A 10.24 s clip is heard through windows that begin at these samples, and averaged."""
    import librosa

    clip = noise(10.24, seed=6)
    waveform = librosa.resample(clip.waveform, orig_sr=16_000, target_sr=clap.sample_rate)
    windows = [waveform[start : start + clap.window] for start in starts]
    assert all(len(window) == clap.window for window in windows)
    assert starts[-1] + clap.window == len(waveform)
    with torch.no_grad():
        parts = clap.embed_windows(windows).double().cpu()
    parts = parts / parts.norm(dim=1, keepdim=True)
    mean = parts.mean(0) / parts.mean(0).norm()
    assert torch.allclose(clap.embed_audio([clip])[0].double(), mean, atol=1e-5)
