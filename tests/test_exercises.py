"""Checks of exercises: every right form is accepted, and what is nearly right is refused in words.

Answers are the bodies of the functions that the exercises ask for.
"""

import re
import textwrap

import pytest
from test_classroom import NOTEBOOKS, REGION, exercises, set_up  # noqa: F401  # a fixture

# By the exercise's identifier: what must be refused.
WRONG = {
    "00-mix": {
        "η limited to 0…1": (
            "eta = min(max(eta, 0), 1)\nreturn eta * target + (1 - eta) * optimised"
        ),
        "a curve through 0, ¼ and 1": (
            "w = eta + eta * (eta - 0.25) * (eta - 1)\nreturn w * target + (1 - w) * optimised"
        ),
    },
    "00-choose-eta": {
        "the text counts 0.7": (
            "sums = np.add(np.multiply(0.7, text_scores), audio_scores)\n"
            "return etas[int(sums.argmax())]"
        ),
        "the first local maximum": (
            "sums = np.add(text_scores, audio_scores)\n"
            "for i in range(len(sums) - 1):\n"
            "    if sums[i] > sums[i + 1]:\n"
            "        return etas[i]\n"
            "return etas[-1]"
        ),
    },
    "01-frame-seconds": {
        "the clip always lasts 10.24 s": "return 10.24 * frames / 1024 / latent_shape[1]",
        "hop_length is not used": "return frames * 160 / sample_rate / latent_shape[1]",
    },
    "01-snr": {
        "the nearest to 1": (
            "return alphas_cumprod / (1 - alphas_cumprod)",
            "return int((signal_to_noise(alphas_cumprod) - 1).abs().argmin())",
        ),
        "less than 1 only": (
            "return alphas_cumprod / (1 - alphas_cumprod)",
            "return int((signal_to_noise(alphas_cumprod) < 1).nonzero()[0])",
        ),
    },
    "01-guidance": {
        "no negative scale": "return empty + abs(scale) * (conditional - empty)",
        "scale squared between 0 and 1": (
            "s = scale if scale >= 1 or scale <= 0 else scale**2\n"
            "return empty + s * (conditional - empty)"
        ),
    },
    "02-velocity": {
        "ᾱ is always 0.36": "return 0.6 * noise - 0.8 * latent",
        "the roots are missing": "return alpha_bar * noise - (1 - alpha_bar) * latent",
    },
    "02-clean": {
        "the noise stays": (
            "return alpha_bar**0.5 * noised - (1 - alpha_bar) ** 0.5 * velocity * 0.99"
        ),
        "divided": "return (noised - (1 - alpha_bar) ** 0.5 * velocity) / alpha_bar**0.5",
    },
    "02-freeze": {
        "the mask itself": "return mask[..., None].expand_as(gradient).float()",
        "without its sign": "return gradient.abs() * mask[..., None]",
    },
    "02-distance": {
        "the mean of the streams' ratios": (
            "ratios = []\n"
            "masks = target.embedding_masks\n"
            "for o, t, m in zip(optimised.embeddings, target.embeddings, masks, strict=True):\n"
            "    ratios.append(float(((o - t) * m).norm() / (t * m).norm()))\n"
            "return float(np.mean(ratios))"
        ),
        "the first stream alone": (
            "o, t, m = optimised.embeddings[0], target.embeddings[0], target.embedding_masks[0]\n"
            "return float(((o - t) * m).norm() / (t * m).norm())"
        ),
    },
    "03-count-trainable": {
        "the first layers alone": (
            "return sum(p.numel() for layer in module.children() "
            "for p in layer.parameters(recurse=False) if p.requires_grad)"
        ),
        "weights that are matrices": (
            "return sum(p.numel() for p in module.parameters() if p.requires_grad and p.dim() > 1)"
        ),
    },
    "03-relative-change": {
        "sums of absolute values": (
            "c = sum(float((after[n] - before[n]).abs().sum()) for n in before)\n"
            "return c / sum(float(before[n].abs().sum()) for n in before)"
        ),
        "the largest": (
            "c = max(float((after[n] - before[n]).norm()) for n in before)\n"
            "return c / sum(float(before[n].square().sum()) for n in before) ** 0.5"
        ),
        "sums of norms": (
            "c = sum(float((after[n] - before[n]).norm()) for n in before)\n"
            "return c / sum(float(before[n].square().sum()) for n in before) ** 0.5"
        ),
    },
    "03-when-to-stop": {
        "a share of the largest": (
            "kept = [i for i, t in enumerate(text_scores) if t >= keep * max(text_scores)]\n"
            "return steps[min(kept, key=lambda i: errors[i])]"
        ),
        "the last that keeps": (
            "kept = [i for i, t in enumerate(text_scores) if t >= keep * text_scores[0]]\n"
            "return steps[kept[-1]]"
        ),
    },
    "04-mixtures": {
        "three η of its own": (
            "eta = torch.tensor([0.0, 0.25, 1.0]).reshape(-1, 1, 1)\n"
            "return eta * target + (1 - eta) * optimised"
        ),
        "η limited": (
            "eta = torch.tensor(etas).clamp(0, 1).reshape(-1, 1, 1)\n"
            "return eta * target + (1 - eta) * optimised"
        ),
    },
    "04-nlerp": {
        "η is always ¼": (
            "eta = 0.25 if eta else 0.0\n"
            "m = eta * target + (1 - eta) * optimised\n"
            "return m / m.norm(dim=-1, keepdim=True)"
        ),
        "slerp": (
            "angle = torch.arccos((optimised * target).sum(-1, keepdim=True).clamp(-1, 1))\n"
            "return (torch.sin((1 - eta) * angle) * optimised + torch.sin(eta * angle) * target) "
            "/ torch.sin(angle)"
        ),
    },
    "04-kept": {
        "always 50": (
            "timesteps = scheduler.timesteps.tolist()\n"
            "kept = timesteps[-max(1, round(50 * strength)):]\n"
            "return kept, scheduler.alphas_cumprod[kept[0]].sqrt().item()"
        ),
        "rounded down": (
            "timesteps = scheduler.timesteps.tolist()\n"
            "kept = timesteps[-max(1, int(len(timesteps) * strength + 1e-9)):]\n"
            "return kept, scheduler.alphas_cumprod[kept[0]].sqrt().item()"
        ),
    },
    "04-eta": {
        "the median of ratios": (
            "return float(((mixture - optimised) / (target - optimised)).nanmedian())"
        ),
        "the mean of ratios": (
            "way = target - optimised\n"
            "return float(((mixture - optimised)[way != 0] / way[way != 0]).mean())"
        ),
    },
    "05-frames": {
        "always 100": "return first // 100, -(-last // 100)",
        "a slice": "return slice(first // samples_per_frame, -(-last // samples_per_frame))",
        "a frame too many": "return first // samples_per_frame, last // samples_per_frame + 1",
    },
    "05-masked-mean": {
        "24 values a frame": "return (error * mask).sum() / (mask.sum() * 24)",
        "the first item alone": (
            "counted = mask.expand_as(error)[:1]\n"
            "return (error[:1] * counted).sum() / counted.sum()"
        ),
    },
    "05-crossfade": {
        "always 320": (
            "position = (np.arange(320) + 0.5) / 320\n"
            "return np.sin(np.pi / 2 * position), np.cos(np.pi / 2 * position)"
        ),
        "half a sample beside": (
            "position = (np.arange(length) + 0.5) / length if length > 99 "
            "else np.arange(length) / length\n"
            "return np.sin(np.pi / 2 * position), np.cos(np.pi / 2 * position)"
        ),
    },
    "05-find-gap": {
        "negative samples, too": (
            "silent = np.concatenate([[False], waveform <= 0, [False]]).astype(int)\n"
            "starts = np.flatnonzero(np.diff(silent) == 1)\n"
            "ends = np.flatnonzero(np.diff(silent) == -1)\n"
            "longest = np.argmax(ends - starts)\n"
            "return int(starts[longest]), int(ends[longest])"
        ),
        "a slice": "return slice(0, 1)",
        "the last run": (
            "silent = np.concatenate([[False], waveform == 0, [False]]).astype(int)\n"
            "starts = np.flatnonzero(np.diff(silent) == 1)\n"
            "ends = np.flatnonzero(np.diff(silent) == -1)\n"
            "return int(starts[-1]), int(ends[-1])"
        ),
    },
    "06-cosine": {
        "two windows at most": (
            "windows = windows[:2]\n"
            "m = (windows / np.linalg.norm(windows, axis=1, keepdims=True)).mean(axis=0)\n"
            "return m @ reference / (np.linalg.norm(m) * np.linalg.norm(reference))"
        ),
        "the absolute cosine": (
            "m = (windows / np.linalg.norm(windows, axis=1, keepdims=True)).mean(axis=0)\n"
            "return abs(m @ reference) / (np.linalg.norm(m) * np.linalg.norm(reference))"
        ),
    },
    "06-eta": {
        "the first of equals": (
            "sums = np.add(text, audio)\n"
            "order = np.argsort(np.array(etas) if len(etas) == 3 else np.arange(len(etas)))\n"
            "return etas[max(order, key=lambda i: sums[i])]"
        ),
        "the text alone decides equals": (
            "return max(zip(np.add(text, audio), text, [-e for e in etas], etas))[3]"
        ),
    },
    "06-onset-f1": {
        "always 50 ms": (
            "if len(reference) == 0 or len(estimated) == 0:\n"
            "    return float(len(reference) == len(estimated))\n"
            "return onset_f1(np.array(reference), np.array(estimated))"
        ),
        "no matching": (
            "if len(reference) == 0 or len(estimated) == 0:\n"
            "    return float(len(reference) == len(estimated))\n"
            "hits = sum(any(abs(a - b) <= tolerance for b in estimated) for a in reference)\n"
            "return 2 * hits / (len(reference) + len(estimated))"
        ),
    },
    "06-bootstrap": {
        "a formula": (
            "m, s = np.mean(values), 1.96 * np.std(values) / np.sqrt(len(values))\n"
            "return m - s, m + s"
        ),
        "55 draws for 60 values": (
            "means = rng.choice(values, (draws, len(values) - 5)).mean(axis=1)\n"
            "return tuple(np.percentile(means, [2.5, 97.5]))"
        ),
        "another number of draws": (
            "means = rng.choice(values, (4000, len(values))).mean(axis=1)\n"
            "return tuple(np.percentile(means, [2.5, 97.5]))"
        ),
        "another generator": (
            "means = np.random.default_rng(0).choice(values, (draws, len(values))).mean(axis=1)\n"
            "return tuple(np.percentile(means, [2.5, 97.5]))"
        ),
    },
    "07-lora-parameters": {
        "one width for all": (
            "w = max(blocks)\nreturn sum(blocks.values()) * rank * (12 * w + 2 * (text_width + w))"
        ),
        "the text is as wide as in the first case": (
            "return sum(c * rank * (14 * w + 200) for w, c in blocks.items())"
        ),
    },
    "07-training-gigabytes": {
        "the larger of the two": "return max(16 * trained, 4 * frozen) / 1e9",
        "the frozen are free beside trained": "return (16 * trained or 4 * frozen) / 1e9",
    },
    "07-merge": {
        "rank 2": "return W + alpha / 2 * B @ A",
        "a whole factor": "return W + alpha // A.shape[0] * B @ A",
    },
    "07-smallest-good": {
        "two recordings": (
            "keys = ['rank', 'learning_rate']\n"
            "means = rows.groupby(keys).agg({'parameters': 'max', 'sum': 'sum'})\n"
            "means['sum'] /= 2\n"
            "good = means[means['sum'] >= means['sum'].max() - tolerance]\n"
            "return good.sort_values(['parameters', 'sum'], ascending=[True, False]).index[0]"
        ),
        "the lowest rank": (
            "means = rows.groupby(['rank', 'learning_rate'])[['parameters', 'sum']].mean()\n"
            "good = means[means['sum'] >= means['sum'].max() - tolerance]\n"
            "return good.sort_index().index[0]"
        ),
    },
}
# What must be accepted beside the lesson's own solution.
RIGHT = {
    "00-mix": ["return optimised + eta * (target - optimised)"],
    "00-choose-eta": [
        "return max(zip(etas, text_scores, audio_scores), key=lambda r: r[1] + r[2])[0]"
    ],
    "01-snr": [
        (
            "return 1 / (1 / alphas_cumprod - 1)",
            "return int(torch.argmax((signal_to_noise(alphas_cumprod) <= 1).int()))",
        )
    ],
    "02-velocity": [
        "return alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * latent",
        "return torch.sqrt(alpha_bar) * noise - torch.sqrt(1 - alpha_bar) * latent",
        "return float(alpha_bar) ** 0.5 * noise - (1 - float(alpha_bar)) ** 0.5 * latent",
    ],
    "02-clean": [
        "return alpha_bar.sqrt() * noised - (1 - alpha_bar).sqrt() * velocity",
        "return torch.sqrt(alpha_bar) * noised - torch.sqrt(1 - alpha_bar) * velocity",
    ],
    "02-freeze": [
        "frozen = gradient.clone()\nfrozen[~mask] = 0\nreturn frozen",
        "return torch.where(mask[..., None], gradient, 0.0)",
    ],
    "03-relative-change": [
        "a, b = (torch.cat([w[n].flatten() for n in before]) for w in (after, before))\n"
        "return float(torch.linalg.norm(a - b) / torch.linalg.norm(b))"
    ],
    "03-weights-restored": [
        "kept = {n: w.clone() for n, w in module.state_dict().items()}\n"
        "try:\n    yield module\nfinally:\n    module.load_state_dict(kept)"
    ],
    "04-mixtures": [
        "return torch.stack([e * target + (1 - e) * optimised for e in etas])",
        "return torch.lerp(optimised[None], target[None], torch.tensor(etas).view(-1, 1, 1))",
    ],
    "04-nlerp": [
        "return torch.nn.functional.normalize(torch.lerp(optimised, target, eta), dim=-1)"
    ],
    "05-frames": [
        "return int(np.floor(first / samples_per_frame)), int(np.ceil(last / samples_per_frame))"
    ],
    "05-masked-mean": ["return error[mask.expand_as(error).bool()].mean()"],
    "05-crossfade": [
        "up = [math.sin(math.pi * (k + 0.5) / (2 * length)) for k in range(length)]\n"
        "return up, up[::-1]"
    ],
    "06-bootstrap": [
        "n = len(values)\n"
        "means = [np.mean(np.asarray(values)[rng.integers(n, size=n)]) for _ in range(draws)]\n"
        "return np.quantile(means, 0.025), np.quantile(means, 0.975)"
    ],
    "07-merge": ["return torch.add(W, (B @ A) * (alpha / len(A)))"],
}
WRONG_CASES = [(name, what) for name, answers in WRONG.items() for what in answers]
RIGHT_CASES = [(name, number) for name, answers in RIGHT.items() for number in range(len(answers))]


def attempt(names: dict, name: str, answer: str | tuple[str, ...]) -> None:
    """Put an answer in the solution's place, and run the exercise's check."""
    bodies = iter([answer] if isinstance(answer, str) else answer)
    [notebook] = [NOTEBOOKS[lesson] for lesson in NOTEBOOKS if lesson.startswith(name[:2])]
    solution, check = exercises(notebook)[name]
    source = REGION.sub(lambda _: textwrap.indent(next(bodies), " " * 4), solution.source)
    for code, what in ((source, "answer"), (check.source, "check")):
        exec(compile(code, f"{name}, {what}", "exec"), names)


def names_of(set_up, name: str) -> dict:  # noqa: F811
    [lesson] = [lesson for lesson in NOTEBOOKS if lesson.startswith(name[:2])]
    return {"math": __import__("math"), **set_up(lesson)}


@pytest.mark.parametrize(("name", "what"), WRONG_CASES, ids=map(" – ".join, WRONG_CASES))
def test_what_is_nearly_right_is_refused_in_words(name, what, set_up):  # noqa: F811
    with pytest.raises(AssertionError) as refused:
        attempt(names_of(set_up, name), name, WRONG[name][what])
    assert len(str(refused.value).split()) > 5, "It says why."


@pytest.mark.parametrize(("name", "number"), RIGHT_CASES)
def test_other_right_forms_are_accepted(name, number, set_up, capsys):  # noqa: F811
    attempt(names_of(set_up, name), name, RIGHT[name][number])
    assert re.search("^Right: ", capsys.readouterr().out, re.M)


def test_every_exercise_of_these_lessons_has_two_wrong_answers():
    for lesson, notebook in NOTEBOOKS.items():
        for name in exercises(notebook):
            if name not in {"01-every-model", "03-weights-restored"} and lesson[:2] != "08":
                assert len(WRONG.get(name, ())) >= 2, name
