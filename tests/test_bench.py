"""The timing of the three loops, on tiny UNets and with few steps."""

import json
import math

import pytest
import torch

from tools import bench, bench_gpu
from tools.bench_gpu import Case, Timing, edits, markdown, random_subject, steps_of, time_all

CONFIG = {
    "sample_size": [8, 4],
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
    "cross_attention_dim": 16,
}
WHAT = ("embedding", "whole UNet", "LoRA", "sampling")


@pytest.fixture
def subject():
    return random_subject(CONFIG, (4, 16, 8), torch.device("cpu"))


def test_a_reduced_run_times_every_case(subject, tmp_path, capsys):
    chosen = [Case(loop, what, 2, "float32") for loop in ("plain", "fast") for what in WHAT]
    timings = time_all(subject, [*chosen, chosen[0]], steps=2)
    assert [timing.case for timing in timings] == chosen
    assert all(timing.seconds > 0 for timing in timings), [t.trouble for t in timings]
    bench_gpu.write(tmp_path, "bench", "here", timings, {"paper, ours": None})
    assert len(json.loads((tmp_path / "bench.json").read_text())["timings"]) == len(chosen)
    assert "| paper, ours | not measured |" in (tmp_path / "bench.md").read_text()
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(chosen)


@pytest.mark.parametrize("what", WHAT[:3])
def test_plain_and_fast_loop_agree(subject, what):
    plain, fast = (steps_of(subject, Case(loop, what, 2, "float32")) for loop in ("plain", "fast"))
    for _ in range(5):
        assert plain() == pytest.approx(fast(), rel=1e-4)


def test_the_subject_stays_as_it_is(subject):
    before = {name: value.clone() for name, value in subject.denoiser.state_dict().items()}
    steps_of(subject, Case("fast", "whole UNet", 1, "float32"))()
    after = subject.denoiser.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
@pytest.mark.parametrize("what", WHAT)
def test_half_precision_gives_finite_losses(subject, what, precision):
    step = steps_of(subject, Case("fast", what, 1, precision))
    assert all(math.isfinite(step()) for _ in range(2))


def test_no_case_begins_when_the_time_is_up(subject):
    [timing] = time_all(subject, [Case("fast", "sampling", 1, "float32")], 1, minutes=0)
    assert timing.seconds is None
    assert "not measured: no time was left" in markdown("here", [timing], {})


def test_a_case_that_cannot_run_is_told_and_the_next_one_runs(subject):
    chosen = [Case("fast", what, 1, "float33") for what in WHAT[:1]]
    broken, fine = time_all(subject, [*chosen, Case("fast", "sampling", 1, "float32")], 1)
    assert "float33" in broken.trouble
    assert fine.seconds > 0


def test_a_whole_edit_is_the_sum_of_its_steps():
    def timed(loop, what, seconds, precision="float16"):
        return Timing(Case(loop, what, 1, precision), seconds, 1.0, None)

    timings = [
        timed("fast", "embedding", 0.01),
        timed("compiled", "embedding", 0.005),
        timed("fast", "LoRA", 0.02),
        timed("fast", "sampling", 0.03),
    ]
    presets = {"t4": {"finetuning": {"lora_rank": 8}, "dtype": "float16"}, "paper": {}}
    whole = edits(timings, presets)
    assert whole["t4, ours"] == pytest.approx(500 * 0.005 + 1500 * 0.02 + 200 * 0.03)
    assert whole["paper, ours"] is whole["paper, plain"] is None


def test_every_preset_can_be_computed_from_the_cases():
    timings = [Timing(case, 1.0, 1.0, None) for case in bench_gpu.cases()]
    assert None not in edits(timings, bench_gpu.any_presets()).values()


def test_bench_says_whether_the_loops_agree(subject, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(bench, "embedded", lambda: subject)
    assert bench.main(["--out", str(tmp_path), "--steps", "1", "--compared", "11"]) == 0
    assert "agree within 1 %" in capsys.readouterr().out
    monkeypatch.setattr(bench, "AGREEMENT", -1.0)
    assert bench.main(["--out", str(tmp_path), "--steps", "1", "--compared", "11"]) == 1
