import runpy
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from offseg_hf import OffsetLearning
from offseg_hf.models.offset_learning import MaskOffsetLearning, fitted_gain

GOLDEN = Path(__file__).parents[1] / "golden"
rule = types.SimpleNamespace(**runpy.run_path(str(GOLDEN / "rule.py")))

# Fewer classes than channels, as many, and more: each association of the product is the cheaper one somewhere.
SIZES = [(7, 16), (16, 16), (19, 16), (150, 16)]


def ruled_layer(num_classes, channels, normalization="layer_norm"):
    """A layer with weights by rule."""
    layer = OffsetLearning(num_classes, channels, normalization)
    prefix = f"offset_learning.{num_classes}."
    shapes = {prefix + name: tensor.shape for name, tensor in layer.state_dict().items()}
    layer.load_state_dict({name.removeprefix(prefix): tensor for name, tensor in rule.state_dict(shapes).items()})
    return layer


def ruled_features(*shape):
    """Features by rule; (2, 64, 9, 13) are those of the golden numbers."""
    return torch.from_numpy(rule.draw("x.19", shape))


def literal_pair(layer, w, e):
    """W + ΔW (K, C) and E + ΔE (N, C) of one image, as the paper writes them."""
    a = e @ w.T  # (N, K)
    w_offset = a.softmax(0).T @ e @ layer.cls_offset_proj.weight.T
    e_offset = a.softmax(1) @ w @ layer.feat_offset_proj.weight.T
    return w + w_offset, e + e_offset


def literal_products(layer, features):
    """(E + ΔE)(W + ΔW)ᵀ as the paper writes it, image by image: (B, C, H, W) -> (B, H*W, K)."""
    products = []
    for e in features.flatten(2).mT:  # (H*W, C)
        w, e = literal_pair(layer, layer.cls_repr[0], e)
        products.append(e @ w.T)
    return torch.stack(products)


def literal_logits(layer, features):
    """The published layer: LayerNorm over the classes of the literal products."""
    norm = layer.mask_norm
    logits = F.layer_norm(literal_products(layer, features), norm.weight.shape, norm.weight, norm.bias, eps=1e-5)
    return logits.mT.unflatten(2, features.shape[2:])


@pytest.fixture(scope="module")
def golden():
    return load_file(GOLDEN / "offset_learning.safetensors")


def test_offset_learning_computes_the_authors_logits(golden):
    logits = ruled_layer(19, 64)(ruled_features(2, 64, 9, 13))
    torch.testing.assert_close(logits, golden["ol.19.out"], rtol=0, atol=1e-5)


def test_offset_learning_has_the_authors_gradients(golden):
    layer, features = ruled_layer(19, 64), ruled_features(2, 64, 9, 13).requires_grad_()
    logits = layer(features)
    (logits * torch.from_numpy(rule.draw("g.19", logits.shape))).sum().backward()
    gradients = {f"grad.{name}": parameter.grad for name, parameter in layer.named_parameters()}
    gradients["grad_x"] = features.grad
    expected = {name.removeprefix("ol.19."): tensor for name, tensor in golden.items() if "19.grad" in name}
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        largest = expected[name].abs().max().item()
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=1e-5 * largest, msg=name)


@pytest.mark.parametrize(("num_classes", "channels"), SIZES)
def test_offset_learning_equals_the_literal_formula(num_classes, channels):
    layer, features = ruled_layer(num_classes, channels), ruled_features(2, channels, 5, 7)
    logits = layer(features)
    expected = literal_logits(layer.double(), features.double()).float()
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("num_classes", "channels"), SIZES)
def test_offset_learning_takes_the_cheaper_association(num_classes, channels):
    layer = OffsetLearning(num_classes, channels)

    def num_flops(num_pixels):
        with FlopCounterMode(display=False) as counter:
            layer(torch.zeros(1, channels, 1, num_pixels))
        return counter.get_total_flops()

    k, c = num_classes, channels
    multiply_adds_per_pixel = (num_flops(20) - num_flops(10)) / 10 / 2
    assert multiply_adds_per_pixel == min(3 * k * c + k * k, 4 * k * c)


def test_offset_learning_moves_the_classes_image_by_image():
    layer, features = ruled_layer(19, 16), ruled_features(3, 16, 4, 5)
    alone = torch.cat([layer(image[None]) for image in features])
    torch.testing.assert_close(layer(features), alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("num_classes", [1, 2, 7, 19])
def test_class_bias_adds_a_learned_bias_to_the_products(num_classes):
    layer, features = ruled_layer(num_classes, 16, "class_bias"), ruled_features(2, 16, 5, 7)
    logits = layer(features)
    expected = literal_products(layer.double(), features.double()) + layer.mask_norm.bias  # (B, H*W, K)
    torch.testing.assert_close(logits, expected.mT.unflatten(2, (5, 7)).float(), rtol=0, atol=1e-4)


def test_fitted_layer_norm_differs_only_in_the_start_of_its_gain():
    published, fitted = OffsetLearning(11, 16, "layer_norm"), OffsetLearning(11, 16, "fitted_layer_norm")
    torch.testing.assert_close(fitted.mask_norm.weight, torch.full((11,), 2.6475), rtol=0, atol=1e-4)
    assert torch.equal(published.mask_norm.weight, torch.ones(11))
    fitted.load_state_dict(published.state_dict())
    features = ruled_features(2, 16, 5, 7)
    assert torch.equal(fitted(features), published(features))


@pytest.mark.parametrize(("num_classes", "gain"), [(150, 0.97), (19, 2.2), (11, 2.65)])
def test_fitted_gain_is_that_of_the_table(num_classes, gain):
    assert fitted_gain(num_classes) == pytest.approx(gain, abs=0.005 if num_classes != 19 else 0.05)


@pytest.mark.parametrize("num_classes", [3, 11, 150])
def test_fitted_gain_lets_a_class_reach_999_in_1000(num_classes):
    one_hot = torch.zeros(num_classes, dtype=torch.float64)
    one_hot[0] = 1.0
    logits = fitted_gain(num_classes) * F.layer_norm(one_hot, one_hot.shape, eps=0)
    assert logits.softmax(0)[0].item() == pytest.approx(0.999)


def test_offset_learning_starts_as_published():
    torch.manual_seed(0)
    layer = OffsetLearning(150, 64)
    for weight in (layer.cls_repr, layer.cls_offset_proj.weight, layer.feat_offset_proj.weight):
        assert weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert abs(weight.mean().item()) < 0.002
    assert torch.equal(layer.mask_norm.weight, torch.ones(150))
    assert torch.equal(layer.mask_norm.bias, torch.zeros(150))


@pytest.mark.parametrize("num_classes", [1, 2])
def test_class_bias_can_be_learned_with_one_or_two_classes(num_classes):
    layer, features = ruled_layer(num_classes, 16, "class_bias"), ruled_features(2, 16, 5, 7).requires_grad_()
    logits = layer(features)
    assert logits.shape == (2, num_classes, 5, 7)
    logits[:, 0].sigmoid().sum().backward()
    assert features.grad.abs().max() > 1e-3
    assert all(parameter.grad.abs().max() > 1e-3 for parameter in layer.parameters())


@pytest.mark.parametrize("normalization", ["layer_norm", "class_bias"])
@pytest.mark.parametrize("num_classes", [19, 300])
def test_offset_learning_is_finite_and_exact_when_float16_features_reach_1000(num_classes, normalization):
    layer = ruled_layer(num_classes, 256, normalization)
    features = ruled_features(1, 256, 8, 8)
    features = (features * 1000 / features.abs().max()).half()
    with torch.autocast("cpu", dtype=torch.float16):
        logits = layer(features.requires_grad_())
        logits.mean().backward()
    assert logits.isfinite().all()
    assert features.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())
    assert torch.equal(logits, layer(features.detach().float()))


class DtypeRecorder(TorchDispatchMode):
    """Records the dtypes that softmax and the statistics of a normalisation are computed in."""

    def __init__(self):
        super().__init__()
        self.dtypes = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in ("_softmax", "mean", "rsqrt"):
            self.dtypes.setdefault(name, set()).add(args[0].dtype)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_softmax_and_normalization_are_in_float32_under_autocast(dtype):
    layer, features = ruled_layer(19, 64), ruled_features(2, 64, 9, 13).to(dtype)
    with torch.autocast("cpu", dtype=dtype), DtypeRecorder() as recorder:
        logits = layer(features)
    assert recorder.dtypes == {name: {torch.float32} for name in ("_softmax", "mean", "rsqrt")}
    assert logits.dtype == torch.float32


def test_bfloat16_autocast_stays_near_float32(golden):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = ruled_layer(19, 64)(ruled_features(2, 64, 9, 13))
    difference = (logits - golden["ol.19.out"]).abs()
    assert 1e-4 < difference.mean() < 0.02


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_logits_have_the_dtype_of_the_parameters(dtype):
    layer, features = ruled_layer(19, 64), ruled_features(2, 64, 9, 13)
    logits = layer.to(dtype)(features.to(dtype))
    assert logits.dtype == dtype
    assert logits.isfinite().all()


def ruled_mask_layer(channels):
    """The layer of the mask form, with weights by rule."""
    layer = MaskOffsetLearning(channels)
    prefix = "offset_learning_mask.7."
    shapes = {prefix + name: tensor.shape for name, tensor in layer.state_dict().items()}
    layer.load_state_dict({name.removeprefix(prefix): tensor for name, tensor in rule.state_dict(shapes).items()})
    return layer


def ruled_pair(num_queries=7, channels=32):
    """Mask embeddings and features by rule; those of the golden numbers by default."""
    embeddings = 0.2 * torch.from_numpy(rule.draw("q.7", (2, num_queries, channels)))
    return embeddings, torch.from_numpy(rule.draw("f.7", (2, channels, 5, 6)))


def test_mask_offset_learning_aligns_as_the_authors_do(golden):
    embeddings, features = ruled_mask_layer(32)(*ruled_pair())
    torch.testing.assert_close(embeddings, golden["olm.7.embed"], rtol=0, atol=1e-5)
    torch.testing.assert_close(features, golden["olm.7.features"], rtol=0, atol=1e-5)


def test_masks_are_the_authors_products(golden):
    masks = ruled_mask_layer(32).masks(*ruled_pair())
    torch.testing.assert_close(masks, golden["olm.7.masks"], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("num_queries", "channels"), SIZES)
def test_masks_are_the_product_of_the_literal_pair(num_queries, channels):
    layer, (embeddings, features) = ruled_mask_layer(channels).double(), ruled_pair(num_queries, channels)
    embeddings, features = embeddings.double(), features.double()
    aligned_embeddings, aligned_features = layer(embeddings, features)
    masks = layer.masks(embeddings, features)
    for image in range(2):
        q, e = literal_pair(layer, embeddings[image], features[image].flatten(1).T)
        torch.testing.assert_close(aligned_embeddings[image], q)
        torch.testing.assert_close(aligned_features[image].flatten(1).T, e)
        torch.testing.assert_close(masks[image].flatten(1), q @ e.T)


@pytest.mark.parametrize(("num_queries", "channels"), SIZES)
def test_masks_take_the_cheaper_association(num_queries, channels):
    layer = MaskOffsetLearning(channels)

    def num_flops(num_pixels):
        with FlopCounterMode(display=False) as counter:
            layer.masks(torch.zeros(1, num_queries, channels), torch.zeros(1, channels, 1, num_pixels))
        return counter.get_total_flops()

    q, c = num_queries, channels
    multiply_adds_per_pixel = (num_flops(20) - num_flops(10)) / 10 / 2
    assert multiply_adds_per_pixel == min(3 * q * c + q * q, 4 * q * c)


def test_mask_offset_learning_starts_as_published():
    torch.manual_seed(0)
    for weight in MaskOffsetLearning(64).parameters():
        assert weight.shape == (64, 64)
        assert weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_mask_offset_learning_changes_nothing_when_its_maps_are_zero():
    layer, (embeddings, features) = MaskOffsetLearning(32), ruled_pair()
    for weight in layer.parameters():
        torch.nn.init.zeros_(weight)
    aligned_embeddings, aligned_features = layer(embeddings, features)
    assert torch.equal(aligned_embeddings, embeddings) and torch.equal(aligned_features, features)
    assert torch.equal(layer.masks(embeddings, features), torch.einsum("bqc,bchw->bqhw", embeddings, features))


def test_masks_are_finite_and_exact_when_float16_features_reach_1000():
    layer, (embeddings, features) = ruled_mask_layer(256), ruled_pair(100, 256)
    features = (features * 1000 / features.abs().max()).half()
    with torch.autocast("cpu", dtype=torch.float16):
        masks = layer.masks(embeddings.half().requires_grad_(), features.requires_grad_())
        masks.mean().backward()
    assert masks.isfinite().all() and masks.abs().max() > 65504
    assert features.grad.isfinite().all()
    assert all(weight.grad.isfinite().all() for weight in layer.parameters())
    assert torch.equal(masks, layer.masks(embeddings.half().float(), features.detach().float()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_aligned_pair_and_masks_have_the_dtype_of_the_parameters(dtype):
    layer, (embeddings, features) = ruled_mask_layer(32), ruled_pair()
    for parameters_dtype in (torch.float32, dtype):
        layer = layer.to(parameters_dtype)
        outputs = (
            *layer(embeddings.to(dtype), features.to(dtype)),
            layer.masks(embeddings.to(dtype), features.to(dtype)),
        )
        assert [output.dtype for output in outputs] == [parameters_dtype] * 3
        assert all(output.isfinite().all() for output in outputs)


@pytest.mark.parametrize("num_classes", [1, 2, 3, 11, 150, 171])
@pytest.mark.parametrize("normalization", ["layer_norm", "class_bias"])
def test_start_of_the_class_representations_is_published_or_a_convolutions(num_classes, normalization):
    torch.manual_seed(0)
    layer = OffsetLearning(num_classes, 256, normalization)
    convolution = torch.nn.Conv2d(256, 171, 1)
    expected = 0.02 if normalization == "layer_norm" else convolution.weight.std().item()
    assert layer.cls_repr.std().item() == pytest.approx(expected, rel=0.15)
    assert layer.cls_offset_proj.weight.std().item() == pytest.approx(0.02, rel=0.05)
