"""Conversion of the authors' OffSeg-T, -B, -L."""

import json
import re
import runpy
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from offseg_hf import OffSegEfficientFormerForSemanticSegmentation
from offseg_hf.conversion import convert_checkpoint, convert_entries

GOLDEN = Path(__file__).parent / "golden"
rule = types.SimpleNamespace(**runpy.run_path(str(GOLDEN / "rule.py")))

# name → widths, expansions of each stage's blocks, attention blocks, widths of the neck
ARCHITECTURES = {
    "offseg-t": ((32, 48, 120, 224), ("444", "444", "443333444", "443344"), 2, (32, 32, 64, 128)),
    "offseg-b": ((32, 64, 144, 288), ("4444", "4444", "443333334444", "44333344"), 4, (32, 64, 128, 256)),
    "offseg-l": ((40, 80, 192, 384), ("44444", "44444", "444433333334444", "4443333444"), 6, (32, 64, 128, 256)),
}


class Shapes(dict):
    """Entries of a checkpoint: name → shape."""

    def add(self, name, *weight, bias=True):
        self[f"{name}.weight"] = weight
        if bias:
            self[f"{name}.bias"] = weight[:1]

    def add_norm(self, name, c):
        self.add(name, c)
        self.update({f"{name}.running_mean": (c,), f"{name}.running_var": (c,), f"{name}.num_batches_tracked": ()})


def attention_layers(c, halved):
    """Convolutions of a block's attention, all followed by a BatchNorm: name → shape of the weight."""
    layers = {"stride_conv": (c, 1, 3, 3)} if halved else {}
    return layers | {"q": (256, c, 1, 1), "k": (256, c, 1, 1), "v": (1024, c, 1, 1), "v_local": (1024, 1, 3, 3),
                     "proj": (c, 1024, 1, 1)}  # fmt: skip


def official_shapes(variant, num_classes):
    """Every entry of an official checkpoint."""
    widths, expansions, num_attention, necks = ARCHITECTURES[variant]
    shapes = Shapes()

    def add_tables(name, num_queries, num_keys):
        n, m = num_keys * 256 // 49, num_queries * 256 // 49
        shapes.update({f"{name}.attention_biases_seg": (8, n), f"{name}.attention_biases": (8, num_keys)})
        shapes.update({f"{name}.attention_bias_idxs": (num_queries, num_keys)})
        shapes.update({f"{name}.attention_bias_idxs_seg": (m, n)})

    c = widths[0]
    for i, (c_in, c_out) in {0: (3, c // 2), 3: (c // 2, c)}.items():
        shapes.add(f"backbone.patch_embed.{i}", c_out, c_in, 3, 3)
        shapes.add_norm(f"backbone.patch_embed.{i + 1}", c_out)
    for i, (c, ratios) in enumerate(zip(widths, expansions)):
        if i in (1, 2):
            shapes.add(f"backbone.network.{2 * i - 1}.proj", c, widths[i - 1], 3, 3)
            shapes.add_norm(f"backbone.network.{2 * i - 1}.norm", c)
        if i == 3:
            down = "backbone.network.5"
            add_tables(f"{down}.attn", 49, 196)
            shapes.add(f"{down}.attn.q.local.0", widths[2], 1, 3, 3)
            layers = {"q.proj": (128, widths[2], 1, 1), "k": (128, widths[2], 1, 1), "v": (512, widths[2], 1, 1),
                      "v_local": (512, 1, 3, 3), "proj": (c, 512, 1, 1)}  # fmt: skip
            for name, shape in layers.items():
                first = int(name == "proj")  # there, an activation precedes
                shapes.add(f"{down}.attn.{name}.{first}", *shape)
                shapes.add_norm(f"{down}.attn.{name}.{first + 1}", shape[0])
            shapes.add(f"{down}.conv", c, widths[2], 3, 3)
            shapes.add_norm(f"{down}.bn", c)
        for j, ratio in enumerate(map(int, ratios)):
            block = f"backbone.network.{2 * i}.{j}"
            if i > 1 and j >= len(ratios) - num_attention:
                shapes[f"{block}.layer_scale_1"] = (c, 1, 1)
                add_tables(f"{block}.token_mixer", 49, 49)
                for name, shape in attention_layers(c, halved=i == 2).items():
                    first = int(name == "proj")
                    shapes.add(f"{block}.token_mixer.{name}.{first}", *shape)
                    shapes.add_norm(f"{block}.token_mixer.{name}.{first + 1}", shape[0])
                shapes.add(f"{block}.token_mixer.talking_head1", 8, 8, 1, 1)
                shapes.add(f"{block}.token_mixer.talking_head2", 8, 8, 1, 1)
            shapes[f"{block}.layer_scale_2"] = (c, 1, 1)
            mlp = {"fc1": (ratio * c, c, 1, 1), "mid": (ratio * c, 1, 3, 3), "fc2": (c, ratio * c, 1, 1)}
            for (name, shape), norm in zip(mlp.items(), ("norm1", "mid_norm", "norm2")):
                shapes.add(f"{block}.mlp.{name}", *shape)
                shapes.add_norm(f"{block}.mlp.{norm}", shape[0])

    head = "decode_head"
    shapes.add(f"{head}.conv_seg", num_classes, 256, 1, 1)
    for i, (c, neck) in enumerate(zip(widths, necks)):
        shapes.add(f"{head}.pre.{i}.conv", neck, c, 1, 1, bias=False)
        shapes.add(f"{head}.pre.{i}.gn", neck)
    for i in range(3):
        high, low = necks[2 - i], sum(necks[3 - i :])
        c, fusion = (high + low) // 4, f"{head}.freqfusions.{i}"
        shapes.add(f"{fusion}.hr_channel_compressor", c, high, 1, 1)
        shapes.add(f"{fusion}.lr_channel_compressor", c, low, 1, 1)
        shapes.add(f"{fusion}.content_encoder", 25, c, 3, 3)
        shapes.add(f"{fusion}.content_encoder2", 9, c, 3, 3)
        shapes.add(f"{fusion}.dysampler.offset", 32, 8, 3, 3)
        shapes.add(f"{fusion}.dysampler.direct_scale", 32, c, 3, 3)
        shapes.add(f"{fusion}.dysampler.hr_offset", 8, 8, 3, 3)
        shapes.add(f"{fusion}.dysampler.hr_direct_scale", 8, c, 3, 3)
        shapes.add(f"{fusion}.dysampler.norm_hr", c)
        shapes.add(f"{fusion}.dysampler.norm_lr", c)
        shapes |= {f"{fusion}.hamming_lowpass": (1,), f"{fusion}.hamming_highpass": (1,)}
        shapes[f"{fusion}.dysampler.init_pos"] = (1, 32, 1, 1)
    shapes.add(f"{head}.align.conv", 256, sum(necks), 1, 1, bias=False)
    shapes.add(f"{head}.align.gn", 256)
    shapes[f"{head}.offset_learning.cls_repr"] = (1, num_classes, 256)
    shapes.add(f"{head}.offset_learning.mask_norm", num_classes)
    shapes.add(f"{head}.offset_learning.cls_offset_proj", 256, 256, bias=False)
    shapes.add(f"{head}.offset_learning.feat_offset_proj", 256, 256, bias=False)
    return shapes


def ruled_entries(shapes):
    """Values by rule; what is never used is not a number, and must not matter."""
    integers = {name: torch.full(shape, 7) for name, shape in shapes.items() if "_idxs" in name or "batches" in name}
    entries = rule.state_dict({name: shape for name, shape in shapes.items() if name not in integers}) | integers
    for name in entries.keys() - integers.keys():
        if re.search("conv_seg|attention_biases$|hamming|init_pos", name):
            entries[name].fill_(torch.nan)
    return entries


def official_logits(entries, x):
    """The authors' network written out from its description, straight on the checkpoint's entries."""

    def conv(name, x, stride=1):
        weight = entries[f"{name}.weight"]
        groups = x.shape[1] // weight.shape[1]
        return F.conv2d(x, weight, entries.get(f"{name}.bias"), stride, weight.shape[2] // 2, groups=groups)

    def norm(name, x):
        leaves = (entries[f"{name}.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *leaves)

    def group_norm(name, x, groups):
        return F.group_norm(x, groups, entries[f"{name}.weight"], entries[f"{name}.bias"])

    def conv_norm(name, x, stride=1, first=0):
        return norm(f"{name}.{first + 1}", conv(f"{name}.{first}", x, stride))

    def bias(table, step, num_queries, num_keys):
        side = round(table.shape[1] ** 0.5)
        keys = torch.cartesian_prod(torch.arange(side), torch.arange(side))
        queries = torch.cartesian_prod(torch.arange(0, side, step), torch.arange(0, side, step))
        distance = (queries[:, None] - keys[None]).abs()
        full = table[:, distance[..., 0] * side + distance[..., 1]]
        if full.shape[1:] == (num_queries, num_keys):
            return full
        return F.interpolate(full[None], size=(num_queries, num_keys), mode="bicubic", align_corners=False)[0]

    def attend(name, q, k, v, key_dim, step):
        size, local = q.shape[2:], conv_norm(f"{name}.v_local", v, step)
        q, k, v = (z.reshape(1, 8, -1, z.shape[2] * z.shape[3]) for z in (q, k, v))
        table = entries[f"{name}.attention_biases_seg"]
        a = q.mT @ k / key_dim**0.5 + bias(table, step, q.shape[3], k.shape[3])
        if f"{name}.talking_head1.weight" in entries:
            a = conv(f"{name}.talking_head2", conv(f"{name}.talking_head1", a).softmax(3))
        else:
            a = a.softmax(3)
        return (a @ v.mT).mT.reshape(1, -1, *size) + local

    # The encoder.
    height, width = x.shape[2:]
    x = F.pad(x, (0, -width % 32, 0, -height % 32))
    x = F.gelu(norm("backbone.patch_embed.1", conv("backbone.patch_embed.0", x, 2)))
    x = F.gelu(norm("backbone.patch_embed.4", conv("backbone.patch_embed.3", x, 2)))
    stages = []
    for i in range(4):
        if i in (1, 2):
            down = f"backbone.network.{2 * i - 1}"
            x = norm(f"{down}.norm", conv(f"{down}.proj", x, 2))
        if i == 3:
            down = "backbone.network.5"
            q = conv_norm(f"{down}.attn.q.proj", conv(f"{down}.attn.q.local.0", x, 2) + x[:, :, ::2, ::2])
            k, v = (conv_norm(f"{down}.attn.{name}", x) for name in "kv")
            attended = conv_norm(f"{down}.attn.proj", F.gelu(attend(f"{down}.attn", q, k, v, 16, 2)), first=1)
            x = attended + norm(f"{down}.bn", conv(f"{down}.conv", x, 2))
        for j in range(sum(name.startswith(f"backbone.network.{2 * i}.") and "scale_2" in name for name in entries)):
            block = f"backbone.network.{2 * i}.{j}"
            if f"{block}.layer_scale_1" in entries:
                mixer = f"{block}.token_mixer"
                z = conv_norm(f"{mixer}.stride_conv", x, 2) if i == 2 else x
                q, k, v = (conv_norm(f"{mixer}.{name}", z) for name in "qkv")
                z = attend(mixer, q, k, v, 32, 1)
                if i == 2:
                    z = F.interpolate(z, scale_factor=2, mode="bilinear", align_corners=False)
                x = x + entries[f"{block}.layer_scale_1"] * conv_norm(f"{mixer}.proj", F.gelu(z), first=1)
            z = F.gelu(norm(f"{block}.mlp.norm1", conv(f"{block}.mlp.fc1", x)))
            z = F.gelu(norm(f"{block}.mlp.mid_norm", conv(f"{block}.mlp.mid", z)))
            x = x + entries[f"{block}.layer_scale_2"] * norm(f"{block}.mlp.norm2", conv(f"{block}.mlp.fc2", z))
        stages.append(x)

    # The neck.
    def reassemble(x, weights):
        scale, kernel = weights.shape[2] // x.shape[2], round(weights.shape[1] ** 0.5)
        patches = F.unfold(x, kernel, padding=kernel // 2).unflatten(1, (x.shape[1], -1)).unflatten(3, x.shape[2:])
        patches = patches.repeat_interleave(scale, 3).repeat_interleave(scale, 4)  # (1, C, k*k, sH, sW)
        return (patches * weights[:, None]).sum(2)

    def similarity(x):
        x = F.normalize(x, dim=1)
        patches = F.unfold(x, 3, dilation=2, padding=2).unflatten(1, (x.shape[1], 9)).unflatten(3, x.shape[2:])
        return (patches * x[:, :, None]).sum(1)[:, [0, 1, 2, 3, 5, 6, 7, 8]]

    def resample(name, up, fine, coarse):
        groups = fine.shape[1] // 8
        fine, coarse = group_norm(f"{name}.norm_hr", fine, groups), group_norm(f"{name}.norm_lr", coarse, groups)
        offset = conv(f"{name}.offset", similarity(coarse))
        offset = offset + F.pixel_unshuffle(conv(f"{name}.hr_offset", similarity(fine)), 2)
        scale = conv(f"{name}.direct_scale", coarse) + F.pixel_unshuffle(conv(f"{name}.hr_direct_scale", fine), 2)
        offset = F.pixel_shuffle(offset * scale.sigmoid(), 2)[0]  # (2 groups, 2H, 2W): x of each group, y of each
        height, width = coarse.shape[2:]
        y, x = torch.meshgrid(torch.arange(2 * height), torch.arange(2 * width), indexing="ij")
        sampled = []
        for group, channels in enumerate(up.chunk(4, dim=1)):
            # Sub-pixel s of low pixel p lies at p + 1/2 ± 1/4 = (2 p + s) / 2 + 1/4.
            at_x = (x / 2 + 0.25 + offset[group]) * 2 / width - 1
            at_y = (y / 2 + 0.25 + offset[4 + group]) * 2 / height - 1
            grid = torch.stack([at_x, at_y], dim=2)[None]
            sampled.append(F.grid_sample(channels, grid, "bilinear", "border", align_corners=False))
        return torch.cat(sampled, dim=1)

    maps = [
        group_norm(f"decode_head.pre.{i}.gn", conv(f"decode_head.pre.{i}.conv", stage), 32).relu()
        for i, stage in enumerate(stages)
    ]
    low = maps[3]
    for i in range(3):
        fusion, high = f"decode_head.freqfusions.{i}", maps[2 - i]
        fine, coarse = conv(f"{fusion}.hr_channel_compressor", high), conv(f"{fusion}.lr_channel_compressor", low)
        g0 = conv(f"{fusion}.content_encoder2", fine)
        fine = 2 * fine - reassemble(fine, g0.softmax(1))
        a = conv(f"{fusion}.content_encoder", fine)
        a = a + reassemble(conv(f"{fusion}.content_encoder", coarse), a.softmax(1))
        g = g0 + reassemble(conv(f"{fusion}.content_encoder2", coarse), a.softmax(1))
        up = reassemble(low, a.softmax(1))
        high = 2 * high - reassemble(high, g.softmax(1))
        low = resample(f"{fusion}.dysampler", up, fine, coarse)
        low = torch.cat([part for pair in zip(high.chunk(4, 1), low.chunk(4, 1)) for part in pair], dim=1)
    x = group_norm("decode_head.align.gn", conv("decode_head.align.conv", low), 32).relu()

    size, x = x.shape[2:], x.flatten(2).mT  # (1, N, C)
    head = {name.removeprefix("decode_head.offset_learning."): entry for name, entry in entries.items()}
    w = head["cls_repr"]
    a = x @ w.mT  # (1, N, K)
    w_moved = w + a.softmax(1).mT @ x @ head["cls_offset_proj.weight"].T
    x_moved = x + a.softmax(2) @ w @ head["feat_offset_proj.weight"].T
    logits = F.layer_norm(x_moved @ w_moved.mT, w.shape[1:2], head["mask_norm.weight"], head["mask_norm.bias"])
    return logits.mT.unflatten(2, size)[:, :, : -(-height // 4), : -(-width // 4)]


@pytest.fixture(scope="module")
def golden():
    return load_file(GOLDEN / "offseg-t-k150.safetensors")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """An official checkpoint converted and loaded."""
    folder = tmp_path_factory.mktemp("offseg-t")
    save_file(ruled_entries(official_shapes("offseg-t", 150)), folder / "iter_160000.safetensors")
    convert_checkpoint(folder / "iter_160000.safetensors", folder / "model")
    return OffSegEfficientFormerForSemanticSegmentation.from_pretrained(folder / "model")


def test_entries_of_these_tests_are_those_of_the_authors():
    entries = json.loads((GOLDEN / "offseg-t-k150.json").read_text())["entries"]
    assert official_shapes("offseg-t", 150) == {name: tuple(shape) for name, (_, shape) in entries.items()}


@pytest.mark.parametrize(("seed", "height", "width"), [(100, 128, 160), (101, 96, 96)])
def test_logits_are_the_authors(model, golden, seed, height, width):
    with torch.no_grad():
        logits = model(rule.image(seed, height, width)).logits
    torch.testing.assert_close(logits, golden[f"logits_{height}x{width}"], rtol=0, atol=1e-4)


def test_stages_are_the_authors(model, golden):
    with torch.no_grad():
        stages = model(rule.image(100, 128, 160), output_hidden_states=True).hidden_states
    for i, stage in enumerate(stages[-4:]):
        torch.testing.assert_close(stage.mean((2, 3)), golden[f"stage{i}_mean"], rtol=0, atol=1e-5)


def test_reference_of_these_tests_is_the_authors_network(golden):
    with torch.no_grad():
        logits = official_logits(ruled_entries(official_shapes("offseg-t", 150)), rule.image(101, 96, 96))
    torch.testing.assert_close(logits, golden["logits_96x96"], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("variant", "num_classes", "height", "width"),
    [
        ("offseg-t", 7, 65, 97),
        pytest.param("offseg-b", 19, 70, 130, marks=pytest.mark.slow),
        pytest.param("offseg-l", 171, 65, 97, marks=pytest.mark.slow),
        pytest.param("offseg-t", 19, 512, 512, marks=pytest.mark.slow),
    ],
)
def test_logits_are_right_for_other_variants_numbers_of_classes_and_sizes(variant, num_classes, height, width):
    entries = ruled_entries(official_shapes(variant, num_classes))
    image = rule.image(3, height, width)
    with torch.no_grad():
        logits = convert_entries(entries)(image).logits
        expected = official_logits(entries, image)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("variant", ARCHITECTURES)
def test_variant_is_inferred(variant):
    entries = {name: torch.zeros(()).expand(shape) for name, shape in official_shapes(variant, 19).items()}
    another = "offseg-b1" if variant == "offseg-b0" else "offseg-b0"
    with pytest.raises(ValueError, match=rf"must be that of the checkpoint, which is {variant}, got '{another}'"):
        convert_entries(entries, another)
