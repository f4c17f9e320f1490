"""TANGO's original formulas in plain PyTorch, against what load_model makes of its files.

Everything here reads the weights under their published names and knows nothing of diffusers' or
transformers' modules.
"""

import dataclasses
import json
import math

import pytest
import torch
from published_layouts import (
    FLAN_T5_LARGE,
    FLAN_T5_REVISION,
    STFT,
    TINY_T5,
    TINY_UNET,
    TINY_VAE,
    UNET,
    VAE,
    VOCODER_CHANNELS,
    WORDS,
    add_to_hub_cache,
    autoencoder_shapes,
    stft_weights,
    t5_shapes,
    tiny_main_weights,
    tiny_vae_weights,
    unet_shapes,
    vocoder_shapes,
    write_tiny_hub,
    write_tiny_text_encoder,
)
from tiny import tiny_clip
from torch.nn import functional

from helpers import load_model
from helpers.audio import SAMPLE_RATE, Clip
from helpers.editing.interpolation import SamplingSettings, sample
from helpers.models import tango

TOLERANCE = 1e-4
PROMPT = "a rooster crowing on the roof"
SHAPE = (1, 8, 32, 16)  # an eighth of a clip, for the tests that sample


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The miniature TANGO, from a hub cache, by its public name."""
    folder = tmp_path_factory.mktemp("hub")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder / "cache"))
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        write_tiny_hub(folder / "cache", folder)
        model = load_model("tango", device="cpu")
    assert model.latent_shape == (8, 256, 16)
    return dataclasses.replace(model, latent_shape=SHAPE[1:])


@pytest.fixture(scope="module")
def main():
    return tiny_main_weights()


@pytest.fixture(scope="module")
def vae():
    return tiny_vae_weights()


def noise(seed=0, shape=SHAPE):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def assert_agree(ours, reference):
    assert ours.shape == reference.shape
    assert reference.std() > 0.01  # there is something to compare
    assert (ours - reference).abs().max() <= TOLERANCE


# layers by their published names


def conv(w, name, x, **options):
    return functional.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], **options)


def conv1d(w, name, x, dilation=1):
    weight = w[f"{name}.weight"]
    padding = (weight.shape[-1] - 1) // 2 * dilation
    return functional.conv1d(x, weight, w[f"{name}.bias"], padding=padding, dilation=dilation)


def linear(w, name, x):
    return functional.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))


def group_norm(w, name, x, groups, eps):
    return functional.group_norm(x, groups, w[f"{name}.weight"], w[f"{name}.bias"], eps)


def swish(x):
    return x * torch.sigmoid(x)


# CompVis' autoencoder


def vae_norm(w, name, x):
    return group_norm(w, name, x, groups=32, eps=1e-6)


def vae_resnet(w, name, x):
    h = conv(w, f"{name}.conv1", swish(vae_norm(w, f"{name}.norm1", x)), padding=1)
    h = conv(w, f"{name}.conv2", swish(vae_norm(w, f"{name}.norm2", h)), padding=1)
    return h + (conv(w, f"{name}.nin_shortcut", x) if f"{name}.nin_shortcut.weight" in w else x)


def vae_middle(w, name, x):
    x = vae_resnet(w, f"{name}.block_1", x)
    h = vae_norm(w, f"{name}.attn_1.norm", x)
    q, k, v = (conv(w, f"{name}.attn_1.{part}", h).flatten(2) for part in "qkv")
    attention = torch.softmax(q.mT @ k / math.sqrt(q.shape[1]), dim=-1)
    h = (v @ attention.mT).reshape(x.shape)
    x = x + conv(w, f"{name}.attn_1.proj_out", h)
    return vae_resnet(w, f"{name}.block_2", x)


def vae_encode(w, log_mel):
    """Mean and log-variance of the posterior."""
    levels, blocks = len(TINY_VAE["ddconfig"]["ch_mult"]), TINY_VAE["ddconfig"]["num_res_blocks"]
    h = conv(w, "encoder.conv_in", log_mel, padding=1)
    for level in range(levels):
        for block in range(blocks):
            h = vae_resnet(w, f"encoder.down.{level}.block.{block}", h)
        if level < levels - 1:
            h = functional.pad(h, (0, 1, 0, 1))
            h = conv(w, f"encoder.down.{level}.downsample.conv", h, stride=2)
    h = vae_middle(w, "encoder.mid", h)
    h = conv(w, "encoder.conv_out", swish(vae_norm(w, "encoder.norm_out", h)), padding=1)
    mean, log_variance = conv(w, "quant_conv", h).chunk(2, dim=1)
    return mean, log_variance.clamp(-30, 20)


def vae_decode(w, z):
    levels, blocks = len(TINY_VAE["ddconfig"]["ch_mult"]), TINY_VAE["ddconfig"]["num_res_blocks"]
    h = conv(w, "decoder.conv_in", conv(w, "post_quant_conv", z), padding=1)
    h = vae_middle(w, "decoder.mid", h)
    for level in reversed(range(levels)):
        for block in range(blocks + 1):
            h = vae_resnet(w, f"decoder.up.{level}.block.{block}", h)
        if level > 0:
            h = h.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
            h = conv(w, f"decoder.up.{level}.upsample.conv", h, padding=1)
    return conv(w, "decoder.conv_out", swish(vae_norm(w, "decoder.norm_out", h)), padding=1)


def test_encoder(model, vae):
    clip = tiny_clip(3.0)
    mean, log_variance = vae_encode(vae, clip.log_mel())
    scale = 0.9227914214134216
    assert_agree(model.encode(clip), scale * mean)
    draw = mean + (0.5 * log_variance).exp() * noise(5, mean.shape)
    assert_agree(model.encode(clip, torch.Generator().manual_seed(5)), scale * draw)


def test_decoder(model, vae):
    latent = noise(1, (1, 8, 64, 16))
    assert_agree(model.decode_log_mel(latent), vae_decode(vae, latent / 0.9227914214134216))


# HiFi-GAN


def vocode(w, log_mel):
    """Waveform (batch, samples) of a log-mel (batch, frames, 64)."""
    h = conv1d(w, "vocoder.conv_pre", log_mel.mT)
    for level, (rate, kernel) in enumerate(zip([5, 4, 2, 2, 2], [16, 16, 8, 4, 4], strict=True)):
        name = f"vocoder.ups.{level}"
        h = functional.conv_transpose1d(
            functional.leaky_relu(h, 0.1),
            w[f"{name}.weight"],
            w[f"{name}.bias"],
            stride=rate,
            padding=(kernel - rate) // 2,
        )
        h = sum(vocoder_resblock(w, f"vocoder.resblocks.{3 * level + k}", h) for k in range(3)) / 3
    return torch.tanh(conv1d(w, "vocoder.conv_post", functional.leaky_relu(h, 0.01)))[:, 0]


def vocoder_resblock(w, name, x):
    for index, dilation in enumerate([1, 3, 5]):
        h = conv1d(w, f"{name}.convs1.{index}", functional.leaky_relu(x, 0.1), dilation)
        x = x + conv1d(w, f"{name}.convs2.{index}", functional.leaky_relu(h, 0.1))
    return x


def test_vocoder(model, vae):
    log_mel = 2 * noise(2, (1, 1, 1024, 64)) - 5
    reference = vocode(vae, log_mel[:, 0])
    assert reference.shape == (1, 163_872)
    assert_agree(model.vocode(log_mel), reference[:, :163_840])


# the log-mel front end


def test_mel_front_end():
    """TacotronSTFT: the Fourier transform as a convolution with published bases."""
    w = stft_weights()
    clip = Clip.from_waveform(noise(4, (10 * SAMPLE_RATE,)).numpy(), SAMPLE_RATE)
    waveform = functional.pad(torch.from_numpy(clip.padded)[None, None], (512, 512), "reflect")
    parts = functional.conv1d(waveform, w["stft_fn.forward_basis"], stride=STFT["hop_length"])
    real, imaginary = parts.chunk(2, dim=1)
    mel = w["mel_basis"] @ torch.sqrt(real**2 + imaginary**2)
    reference = mel.clamp(min=1e-5).log().mT[:, None]
    assert reference.shape == (1, 1, 1025, 64)
    assert_agree(clip.log_mel(), reference[:, :, :1024])


# FLAN-T5's encoder


def token_ids(prompt):
    """The miniature vocabulary's numbers, and 1 for the end."""
    return [4 + WORDS.index(word) for word in prompt.split()] + [1]


def position_buckets(length):
    """T5's 32 buckets of (key − query): exact up to 7 either way, then logarithmic to 128."""
    distance = torch.arange(length)[None] - torch.arange(length)[:, None]
    sign = (distance > 0).long() * 16
    size = distance.abs()
    far = 8 + (torch.log(size.clamp(min=1) / 8) / math.log(128 / 8) * 8).long()
    return sign + torch.where(size < 8, size, far.clamp(max=15))


def t5_norm(w, name, x):
    return w[f"{name}.weight"] * x / torch.sqrt((x**2).mean(-1, keepdim=True) + 1e-6)


def gelu(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def encode_text(weights, tokens, mask):
    w = {n.removeprefix("text_encoder."): v for n, v in weights.items()}
    heads = TINY_T5["num_heads"]
    x = w["shared.weight"][tokens]
    attention = "encoder.block.0.layer.0.SelfAttention"
    bias = w[f"{attention}.relative_attention_bias.weight"][position_buckets(tokens.shape[1])]
    bias = bias.permute(2, 0, 1)[None].masked_fill(~mask[:, None, None].bool(), -torch.inf)
    for block in range(TINY_T5["num_layers"]):
        name = f"encoder.block.{block}.layer"
        h = t5_norm(w, f"{name}.0.layer_norm", x)
        q, k, v = (
            linear(w, f"{name}.0.SelfAttention.{part}", h).unflatten(-1, (heads, -1)).mT
            for part in "qkv"
        )  # each (batch, length, width per head, heads)
        scores = torch.einsum("bqch,bkch->bhqk", q, k) + bias  # T5 does not divide by √width
        h = torch.einsum("bhqk,bkch->bqhc", torch.softmax(scores, dim=-1), v).flatten(2)
        x = x + linear(w, f"{name}.0.SelfAttention.o", h)
        h = t5_norm(w, f"{name}.1.layer_norm", x)
        gate = gelu(linear(w, f"{name}.1.DenseReluDense.wi_0", h))
        h = gate * linear(w, f"{name}.1.DenseReluDense.wi_1", h)
        x = x + linear(w, f"{name}.1.DenseReluDense.wo", h)
    return t5_norm(w, "encoder.final_layer_norm", x)


def test_text_path_with_masks(model, main):
    prompts = [PROMPT, "rain", "the dog barking on the roof a rooster crowing on the roof"]
    ids = [token_ids(prompt) for prompt in prompts]
    length = max(map(len, ids))
    tokens = torch.tensor([i + [0] * (length - len(i)) for i in ids])
    mask = torch.tensor([[1] * len(i) + [0] * (length - len(i)) for i in ids])

    ours = model.embed_text(prompts)
    assert torch.equal(ours.masks[0], mask.bool())
    reference = encode_text(main, tokens, mask)
    assert_agree(ours.tokens[0][mask.bool()], reference[mask.bool()])
    alone = model.embed_text("rain")
    assert_agree(alone.tokens[0], reference[1:2, :2])  # padding changes nothing


def test_the_empty_prompt_is_the_end_token(model, main):
    empty = model.unconditional()
    assert empty.masks[0].tolist() == [[True]]
    end, active = torch.tensor([[1, 0, 0]]), torch.tensor([[1, 0, 0]])
    assert_agree(empty.tokens[0], encode_text(main, end, active)[:, :1])


# the UNet of diffusers 0.10


def unet_norm(w, name, x, eps=1e-5):
    return group_norm(w, name, x, TINY_UNET["norm_num_groups"], eps)


def unet_resnet(w, name, x, time):
    h = conv(w, f"{name}.conv1", swish(unet_norm(w, f"{name}.norm1", x)), padding=1)
    h = h + linear(w, f"{name}.time_emb_proj", swish(time))[:, :, None, None]
    h = conv(w, f"{name}.conv2", swish(unet_norm(w, f"{name}.norm2", h)), padding=1)
    return h + (conv(w, f"{name}.conv_shortcut", x) if f"{name}.conv_shortcut.weight" in w else x)


def attend(w, name, x, context, heads, bias):
    q = linear(w, f"{name}.to_q", x).unflatten(-1, (heads, -1))
    k = linear(w, f"{name}.to_k", context).unflatten(-1, (heads, -1))
    v = linear(w, f"{name}.to_v", context).unflatten(-1, (heads, -1))
    scores = torch.einsum("bqhc,bkhc->bhqk", q, k) / math.sqrt(q.shape[-1]) + bias
    h = torch.einsum("bhqk,bkhc->bqhc", torch.softmax(scores, dim=-1), v).flatten(2)
    return linear(w, f"{name}.to_out.0", h)


def transformer(w, name, x, text, bias, heads):
    def norm(index, h):
        weight, shift = (w[f"{block}.norm{index}.{part}"] for part in ("weight", "bias"))
        return functional.layer_norm(h, h.shape[-1:], weight, shift, 1e-5)

    block = f"{name}.transformer_blocks.0"
    h = unet_norm(w, f"{name}.norm", x, eps=1e-6).flatten(2).mT
    h = linear(w, f"{name}.proj_in", h)
    normed = norm(1, h)
    h = h + attend(w, f"{block}.attn1", normed, normed, heads, 0)
    h = h + attend(w, f"{block}.attn2", norm(2, h), text, heads, bias)
    value, gate = linear(w, f"{block}.ff.net.0.proj", norm(3, h)).chunk(2, dim=-1)
    exact_gelu = 0.5 * gate * (1 + torch.erf(gate / math.sqrt(2)))
    h = h + linear(w, f"{block}.ff.net.2", value * exact_gelu)
    return x + linear(w, f"{name}.proj_out", h).mT.reshape(x.shape)


def unet(weights, x, timestep, text, mask):
    """UNet2DConditionModel; what is unattended gets a bias of −10000, as TANGO's code gives it."""
    w = {n.removeprefix("unet."): v for n, v in weights.items()}
    widths, layers = TINY_UNET["block_out_channels"], TINY_UNET["layers_per_block"]
    heads = TINY_UNET["attention_head_dim"]  # which are head counts
    bias = (1 - mask.float())[:, None, None] * -10_000

    half = widths[0] // 2
    angles = timestep * torch.exp(-math.log(10_000) * torch.arange(half) / half)
    time = torch.cat([angles.cos(), angles.sin()])[None]
    time = linear(w, "time_embedding.linear_1", time)
    time = linear(w, "time_embedding.linear_2", swish(time))

    x = conv(w, "conv_in", x, padding=1)
    skips = [x]
    for level, kind in enumerate(TINY_UNET["down_block_types"]):
        for layer in range(layers):
            x = unet_resnet(w, f"down_blocks.{level}.resnets.{layer}", x, time)
            if kind.startswith("Cross"):
                name = f"down_blocks.{level}.attentions.{layer}"
                x = transformer(w, name, x, text, bias, heads[level])
            skips.append(x)
        if level < len(widths) - 1:
            x = conv(w, f"down_blocks.{level}.downsamplers.0.conv", x, stride=2, padding=1)
            skips.append(x)
    x = unet_resnet(w, "mid_block.resnets.0", x, time)
    x = transformer(w, "mid_block.attentions.0", x, text, bias, heads[-1])
    x = unet_resnet(w, "mid_block.resnets.1", x, time)
    for level, kind in enumerate(TINY_UNET["up_block_types"]):
        for layer in range(layers + 1):
            x = torch.cat([x, skips.pop()], dim=1)
            x = unet_resnet(w, f"up_blocks.{level}.resnets.{layer}", x, time)
            if kind.startswith("Cross"):
                name = f"up_blocks.{level}.attentions.{layer}"
                x = transformer(w, name, x, text, bias, heads[::-1][level])
        if level < len(widths) - 1:
            x = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
            x = conv(w, f"up_blocks.{level}.upsamplers.0.conv", x, padding=1)
    return conv(w, "conv_out", swish(unet_norm(w, "conv_norm_out", x)), padding=1)


def guided_velocity(main, x, timestep, guidance=3.0):
    """Classifier-free guidance as TANGO's code runs it: "" padded to the prompt's length."""
    prompt = token_ids(PROMPT)
    tokens = torch.tensor([[1] + [0] * (len(prompt) - 1), prompt])
    mask = torch.tensor([[1] + [0] * (len(prompt) - 1), [1] * len(prompt)])
    text = encode_text(main, tokens, mask)
    both = torch.cat([unet(main, x, timestep, text[i : i + 1], mask[i : i + 1]) for i in (0, 1)])
    empty, conditional = both.chunk(2)
    return empty + guidance * (conditional - empty)


@pytest.mark.parametrize("timestep", [1, 996])
def test_one_guided_step_of_the_unet(model, main, timestep):
    x = noise(3)
    ours = model.predict(x, timestep, model.embed_text(PROMPT), guidance_scale=3.0)
    assert_agree(ours, guided_velocity(main, x, timestep))


# sampling

STEPS = 3
ALPHAS = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, dim=0)


def timesteps():
    """Evenly spaced, shifted by one: 667, 334, 1 for three steps."""
    return [1 + 1000 // STEPS * step for step in reversed(range(STEPS))]


def from_velocity(x, v, alpha):
    """The latent and the noise that a velocity speaks of."""
    return alpha.sqrt() * x - (1 - alpha).sqrt() * v, alpha.sqrt() * v + (1 - alpha).sqrt() * x


def ddim(main, x):
    """DDIM with η = 0; beyond the last step lies ᾱ of timestep 0 (set_alpha_to_one false)."""
    for t in timesteps():
        before = t - 1000 // STEPS
        alpha, previous = ALPHAS[t], ALPHAS[before] if before >= 0 else ALPHAS[0]
        latent, epsilon = from_velocity(x, guided_velocity(main, x, t), alpha)
        x = previous.sqrt() * latent + (1 - previous).sqrt() * epsilon
    return x


def ddpm(main, x, generator):
    """Ancestral sampling with the smaller variance (fixed_small)."""
    for t in timesteps():
        before = t - 1000 // STEPS
        alpha, previous = ALPHAS[t], ALPHAS[before] if before >= 0 else torch.tensor(1.0)
        beta = 1 - alpha / previous
        latent, _ = from_velocity(x, guided_velocity(main, x, t), alpha)
        x = (previous.sqrt() * beta * latent + (1 - beta).sqrt() * (1 - previous) * x) / (1 - alpha)
        variance = (beta * (1 - previous) / (1 - alpha)).clamp(min=1e-20)
        x = x + variance.sqrt() * torch.randn(SHAPE, generator=generator)
    return x


def test_ddim_sampling(model, main):
    settings = SamplingSettings(steps=STEPS, seed=7)
    ours = sample(model, model.embed_text(PROMPT), settings, progress=False)
    assert_agree(ours, ddim(main, noise(7)))


def test_ddpm_sampling(model, main):
    settings = SamplingSettings(steps=STEPS, seed=7, scheduler="DDPMScheduler")
    ours = sample(model, model.embed_text(PROMPT), settings, progress=False)
    generator = torch.Generator().manual_seed(7)
    assert_agree(ours, ddpm(main, torch.randn(SHAPE, generator=generator), generator))


def test_200_steps_are_the_paper_s(model):
    for name in ("sampler", "noise_schedule"):
        scheduler = model.sampler() if name == "sampler" else model.noise_schedule
        scheduler.set_timesteps(200)
        assert scheduler.timesteps[[0, 1, -1]].tolist() == [996, 991, 1]


# the published widths


def test_every_published_name_and_shape_maps_at_full_size(tmp_path, monkeypatch):
    """The whole checkpoint on the meta device: nothing missing, left over or of another shape."""
    published = {
        "pytorch_model_main.bin": {
            **{f"unet.{n}": s for n, s in unet_shapes(UNET).items()},
            **{f"text_encoder.{n}": s for n, s in t5_shapes(FLAN_T5_LARGE).items()},
        },
        "pytorch_model_vae.bin": {
            **autoencoder_shapes(VAE),
            **{f"vocoder.{n}": s for n, s in vocoder_shapes(VOCODER_CHANNELS).items()},
        },
    }
    monkeypatch.setattr(
        tango,
        "read_weights",
        lambda path: {n: torch.zeros(()).expand(s) for n, s in published[path.name].items()},
    )
    write_full_size_configs(tmp_path, monkeypatch)
    model = tango.load_tango(tmp_path / "tango", device="meta")
    counts = {
        name: sum(p.numel() for p in part.parameters())
        for name, part in (("unet", model.denoiser), ("vae", model.vae), ("vocoder", model.vocoder))
    }
    assert counts["unet"] == 865_933_768
    assert len(autoencoder_shapes(VAE)) == len(model.vae.state_dict()) == 204
    assert len(model.text_encoder.model.encoder.block) == 24
    assert model.latent_shape == (8, 256, 16)
    counts["text"] = sum(p.numel() for p in model.text_encoder.model.parameters())
    assert tango.SIZES["pytorch_model_main.bin"] == 4 * (counts["unet"] + counts["text"])
    assert tango.SIZES["pytorch_model_vae.bin"] == 4 * (counts["vae"] + counts["vocoder"])


def write_full_size_configs(folder, monkeypatch):
    """Configurations of the published widths; the UNet's is left out, as on the hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder / "cache"))
    text = write_tiny_text_encoder(folder / "text")
    (text / "config.json").write_text(json.dumps(FLAN_T5_LARGE))
    add_to_hub_cache(folder / "cache", "google/flan-t5-large", text, FLAN_T5_REVISION)
    (folder / "tango").mkdir()
    main = {
        "text_encoder_name": "google/flan-t5-large",
        "unet_model_config_path": "configs/diffusion_model_config.json",
    }
    for name, config in (("main", main), ("vae", VAE), ("stft", STFT)):
        (folder / "tango" / f"{name}_config.json").write_text(json.dumps(config))
