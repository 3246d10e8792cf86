"""OffSegForSemanticSegmentation: what it computes, and the ways transformers and torch run it."""

import copy
import math

import pytest
import torch
from PIL import Image
from segmentation_model_tests import SegmentationModelTests, randomised
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import SegformerConfig, SegformerModel

from offseg_hf import OffSegConfig, OffSegForSemanticSegmentation, OffSegImageProcessor, variant_config
from offseg_hf.complexity import count_multiply_adds

TINY = {
    "depths": (1, 1, 1, 1),
    "hidden_sizes": (8, 8, 16, 16),
    "num_attention_heads": (1, 1, 2, 2),
    "decoder_hidden_size": 16,
}


class TestOffSeg(SegmentationModelTests):
    config_class = OffSegConfig
    model_class = OffSegForSemanticSegmentation
    tiny = TINY
    stage_shapes = ((2, 8, 16, 16), (2, 8, 8, 8), (2, 16, 4, 4), (2, 16, 2, 2))
    files = {
        "channels_last_segformer.py",
        "checkpoint_entries.py",
        "configuration_fields.py",
        "configuration_offseg.py",
        "library_internals.py",
        "decode_head.py",
        "modeling_offseg.py",
        "offset_learning.py",
        "segmentation_loss.py",
        "small_images.py",
        "upsampling.py",
    }

    @pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
    def test_trains_with_the_same_gradients_when_compiled_in_one_graph(self, backend, pixel_values, labels):
        super().test_trains_with_the_same_gradients_when_compiled_in_one_graph(backend, pixel_values, labels)

    def has_no_gradient(self, name):
        return name.endswith("k_proj.bias")  # adds the same to all of a query's scores, and so changes nothing

    def logits_size(self, height, width):
        return -(-height // 4) // 2, -(-width // 4) // 2


def tiny_model(**fields):
    """A model in evaluation mode whose weights and statistics are all far from their start."""
    torch.manual_seed(0)
    config = OffSegConfig(**{**TINY, "num_labels": 4, **fields})
    return randomised(OffSegForSemanticSegmentation(config)).eval()


@pytest.fixture
def model():
    return tiny_model()


@pytest.fixture
def pixel_values():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("size", [(31, 64), (64, 31), (1, 1)])
def test_error_when_the_image_is_too_small_to_train_on(model, size):
    with pytest.raises(
        ValueError, match=rf"`pixel_values` must be at least 32 .*, got \({size[0]}, {size[1]}\); resize"
    ):
        model(torch.randn(1, 3, *size), labels=torch.zeros(1, *size, dtype=torch.long))


@pytest.mark.parametrize(
    ("size", "expected"), [((31, 64), (4, 8)), ((64, 12), (8, 2)), ((1, 1), (1, 1)), ((3, 400), (1, 50))]
)
@torch.no_grad()
def test_small_images_are_padded_by_their_last_pixels_and_logits_cropped(model, size, expected):
    model.eval()
    images = torch.randn(2, 3, *size)
    logits = model(images).logits
    assert logits.shape[2:] == expected
    padding = (0, max(0, 32 - size[1]), 0, max(0, 32 - size[0]))
    padded = torch.nn.functional.pad(images, padding, mode="replicate")
    torch.testing.assert_close(logits, model(padded).logits[:, :, : expected[0], : expected[1]])


def conv_module(module, inputs):
    outputs = torch.einsum("oi,bihw->bohw", module.conv.weight[:, :, 0, 0], inputs)
    bn = module.bn
    statistics = (None, None) if bn.training else (bn.running_mean, bn.running_var)
    return F.batch_norm(outputs, *statistics, bn.weight, bn.bias, training=bn.training).relu()


def literal_head(head, stages, normalization):
    """The decode head as the paper has it: everything concatenated, both offsets made and added."""
    size = stages[0].shape[2:]
    maps = [
        F.interpolate(conv_module(module, stage), size, mode="bilinear", align_corners=False)
        for module, stage in zip(head.convs, stages)
    ]
    features = F.max_pool2d(conv_module(head.fusion_conv, torch.cat(maps, dim=1)), 2)
    images = []
    for image in features:  # (C, H, W)
        layer = head.offset_learning
        embeddings, classes = image.flatten(1).T, layer.cls_repr[0]  # (N, C), (K, C)
        attention = embeddings @ classes.T  # (N, K)
        class_offset = attention.softmax(dim=0).T @ embeddings @ layer.cls_offset_proj.weight.T  # (K, C)
        feature_offset = attention.softmax(dim=1) @ classes @ layer.feat_offset_proj.weight.T  # (N, C)
        logits = (embeddings + feature_offset) @ (classes + class_offset).T  # (N, K)
        if normalization == "class_bias":
            logits = logits + layer.mask_norm.bias
        else:
            logits = F.layer_norm(logits, logits.shape[1:], layer.mask_norm.weight, layer.mask_norm.bias, eps=1e-5)
        images.append(logits.T.unflatten(1, image.shape[1:]))  # (K, H, W)
    return torch.stack(images)


@pytest.mark.parametrize("num_labels", [4, 19], ids=["K < C", "K > C"])
@pytest.mark.parametrize("normalization", ["layer_norm", "fitted_layer_norm", "class_bias"])
@pytest.mark.parametrize("training", [False, True])
def test_logits_equal_those_of_the_literal_head(num_labels, normalization, training):
    model = tiny_model(num_labels=num_labels, logit_normalization=normalization).train(training).double()
    outputs = model(torch.randn(2, 3, 65, 83, dtype=torch.float64), output_hidden_states=True)
    expected = literal_head(model.decode_head, outputs.hidden_states, normalization)
    torch.testing.assert_close(outputs.logits, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", [(65, 83), (37, 128), (128, 33), (32, 32)])
@pytest.mark.parametrize("num_rows", [1, 3, 100])
@pytest.mark.parametrize(("num_labels", "normalization"), [(4, "layer_norm"), (19, "layer_norm"), (2, "class_bias")])
def test_logits_equal_those_of_the_literal_head_when_made_by_strips(
    size, num_rows, num_labels, normalization, monkeypatch
):
    model = tiny_model(num_labels=num_labels, logit_normalization=normalization).double()
    pixel_values = torch.randn(2, 3, *size, dtype=torch.float64)
    width = -(-size[1] // 4)
    monkeypatch.setattr("offseg_hf.models.decode_head.STRIP_SIZE", num_rows * 2 * 2 * width * 16)
    monkeypatch.setattr("offseg_hf.models.offset_learning.BLOCK_SIZE", num_rows * 5 * max(16, num_labels))
    with torch.inference_mode():
        outputs = model(pixel_values, output_hidden_states=True)
        expected = literal_head(model.decode_head, outputs.hidden_states, normalization)
    torch.testing.assert_close(outputs.logits, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(outputs.logits, model(pixel_values).logits, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("num_images", [1, 2, 3])
def test_outputs_are_those_of_the_whole_batch_when_it_is_segmented_in_parts(model, num_images, monkeypatch):
    model.set_attn_implementation("eager")
    pixel_values = torch.randn(3, 3, 64, 96)
    expected = model(pixel_values, output_hidden_states=True, output_attentions=True)
    monkeypatch.setattr("offseg_hf.models.decode_head.PART_SIZE", num_images * 64 * 96)
    with torch.inference_mode():
        outputs = model(pixel_values, output_hidden_states=True, output_attentions=True)
        torch.testing.assert_close(model(pixel_values, return_dict=False)[0], expected.logits)
    assert outputs.keys() == expected.keys()
    for tensors, expected_tensors in zip(outputs.values(), expected.values()):
        torch.testing.assert_close(tensors, expected_tensors)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_inference_by_strips_is_as_near_to_float32_as_the_plain_form_in_low_precision(dtype, autocast, monkeypatch):
    monkeypatch.setattr("offseg_hf.models.decode_head.STRIP_SIZE", 2**12)
    monkeypatch.setattr("offseg_hf.models.offset_learning.BLOCK_SIZE", 2**10)
    model = tiny_model(num_labels=19)
    pixel_values = torch.randn(2, 3, 96, 128)
    expected = model(pixel_values).logits
    if not autocast:
        model, pixel_values = model.to(dtype), pixel_values.to(dtype)
    with torch.autocast("cpu", dtype=dtype, enabled=autocast):
        plain = model(pixel_values).logits
        with torch.inference_mode():
            logits = model(pixel_values).logits
    assert logits.dtype == plain.dtype
    error, plain_error = ((these.float() - expected).abs().mean() for these in (logits, plain))
    assert 0 < error < 1.6 * plain_error


def test_hooks_run_when_a_layer_of_the_head_has_one(model, pixel_values):
    seen = []
    model.decode_head.convs[1].bn.register_forward_hook(lambda module, inputs, outputs: seen.append(outputs.shape))
    with torch.inference_mode():
        model(pixel_values)
    assert seen == [(2, 16, 8, 8)]


def test_a_replaced_convolution_counts_when_logits_are_made_by_strips(model, pixel_values):
    before = model(pixel_values).logits
    conv = model.decode_head.convs[0].conv
    model.decode_head.convs[0].conv = torch.nn.Sequential(conv, torch.nn.Hardtanh(0, 0.1))  # as adapters wrap layers
    with torch.inference_mode():
        logits = model(pixel_values).logits
    assert (logits - before).abs().max() > 0.01
    torch.testing.assert_close(logits, model(pixel_values).logits)


class LargestTensors(TorchDispatchMode):
    """Records the shapes of all tensors that are made."""

    def __init__(self):
        super().__init__()
        self.shapes = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        results = func(*args, **(kwargs or {}))
        self.shapes |= {tuple(result.shape) for result in tree_leaves(results) if isinstance(result, torch.Tensor)}
        return results


def test_no_large_tensor_is_made_when_a_photo_is_segmented():
    height, width, num_labels = 256, 384, 150
    torch.manual_seed(0)
    model = OffSegForSemanticSegmentation(variant_config("offseg-b0", num_labels=num_labels)).eval()
    processor = OffSegImageProcessor(size={"height": height, "width": width})
    image = Image.fromarray(torch.randint(256, (height, width, 3), dtype=torch.uint8).numpy())
    with torch.inference_mode(), LargestTensors() as made:
        outputs = model(**processor(image, return_tensors="pt"))
        processor.post_process_semantic_segmentation(outputs, [(height, width)])
    concatenated = 4 * 256 * (height // 4) * (width // 4)
    assert (1, num_labels, height // 8, width // 8) in made.shapes  # so it records
    assert max(math.prod(shape) for shape in made.shapes) <= num_labels * height * width / 8
    assert max(math.prod(shape) for shape in made.shapes) < concatenated / 3


def test_multiply_adds_stay_below_two_thirds_of_the_published_ones():
    assert count_multiply_adds(variant_config("offseg-b0", num_labels=150), 512, 512) <= 0.66 * 8.8e9


def test_encoder_is_the_native_one(pixel_values):
    model = tiny_model(layer_norm_eps=1e-5)  # torch's default, which the native modules have
    encoder = SegformerModel(SegformerConfig(**TINY)).eval()
    encoder.load_state_dict(model.segformer.state_dict())
    expected = encoder(pixel_values, output_hidden_states=True).hidden_states
    for state, expected_state in zip(
        model(pixel_values, output_hidden_states=True).hidden_states, expected, strict=True
    ):
        torch.testing.assert_close(state, expected_state, rtol=0, atol=1e-5)


@pytest.mark.parametrize("eps", [1e-6, 0.5])
def test_encoder_honours_layer_norm_eps(eps, pixel_values):
    model = tiny_model(layer_norm_eps=eps)
    embeddings = model.segformer.stages[0].patch_embeddings
    states = embeddings.proj(pixel_values).flatten(2).transpose(1, 2)  # (B, H*W, C)
    expected = F.layer_norm(states, (8,), embeddings.layer_norm.weight, embeddings.layer_norm.bias, eps)
    torch.testing.assert_close(embeddings(pixel_values)[0], expected, rtol=0, atol=1e-6)
    norms = [module for module in model.segformer.modules() if isinstance(module, torch.nn.LayerNorm)]
    assert len(norms) == 19 and {norm.eps for norm in norms} == {eps}
    assert tiny_model(logit_normalization="layer_norm").decode_head.offset_learning.mask_norm.eps == 1e-5


def test_attentions_are_those_of_every_layer_when_eager(model, pixel_values):
    model.set_attn_implementation("eager")
    attentions = model(pixel_values, output_attentions=True).attentions
    shapes = [(2, 1, 256, 4), (2, 1, 64, 4), (2, 2, 16, 4), (2, 2, 4, 4)]  # (B, heads, queries, keys)
    assert [tuple(attention.shape) for attention in attentions] == shapes
    torch.testing.assert_close(attentions[0].sum(-1), torch.ones(2, 1, 256))


def test_sdpa_equals_eager(model, pixel_values):
    assert model.config._attn_implementation == "sdpa"
    eager = copy.deepcopy(model)
    eager.set_attn_implementation("eager")
    torch.testing.assert_close(model(pixel_values).logits, eager(pixel_values).logits, rtol=1e-5, atol=1e-5)


def test_new_model_starts_as_described():
    model = OffSegForSemanticSegmentation(OffSegConfig(num_labels=19, logit_normalization="fitted_layer_norm"))
    layer = model.decode_head.offset_learning
    for weight in (layer.cls_repr, layer.cls_offset_proj.weight, layer.feat_offset_proj.weight):
        assert weight.std().item() == pytest.approx(0.02, rel=0.1)
        assert weight.abs().max() <= 2
    gain = math.log(999 * 18) * math.sqrt(18) / 19
    torch.testing.assert_close(layer.mask_norm.weight, torch.full((19,), gain))
    assert not layer.mask_norm.bias.any()
