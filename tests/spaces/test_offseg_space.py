"""The Space's models of every family, and what it shows of their offsets."""

import time

import numpy as np
import offset_pages
import offsets
import pytest
import segmenter
import torch
from running_space import SPACE
from space_models import PER_PIXEL, mask2former, offseg, saved, segformer
from torch.nn import functional as F
from transformers import (
    AutoImageProcessor,
    AutoModelForSemanticSegmentation,
)

from offseg_hf import (
    OffSegBackboneForSemanticSegmentation,
    OffSegImageProcessor,
    OffsetLearning,
)
from offseg_hf.data.scenes.scenes import draw_scene

TINY = SPACE / "tiny-street-scenes"

# Models


def test_label_map_of_the_shipped_model_is_its_processors_own(tiny):
    model = AutoModelForSemanticSegmentation.from_pretrained(TINY, trust_remote_code=True)
    processor = AutoImageProcessor.from_pretrained(TINY, trust_remote_code=True)
    for seed, size in enumerate([(64, 64), (100, 151), (512, 400)]):
        photo, mask = draw_scene(seed, size)
        with torch.inference_mode():
            outputs = model(**processor(images=photo, return_tensors="pt"))
        expected = processor.post_process_semantic_segmentation(outputs, target_sizes=[size])[0]
        labels = tiny.segment(photo)
        assert labels.dtype == np.uint8 and np.array_equal(labels, expected)
    assert (labels == mask).mean() > 0.6  # it has learnt something


def test_shipped_code_computes_what_the_package_computes_from_the_same_weights(tiny):
    own = OffSegBackboneForSemanticSegmentation.from_pretrained(TINY).eval()
    pixel_values = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = own(pixel_values).logits
        # Matrix products round by where a tensor lies in memory, and LayerNorm makes more of it.
        torch.testing.assert_close(tiny.model(pixel_values).logits, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("make_model", [*PER_PIXEL, segformer])
def test_label_map_is_the_arg_max_of_the_upsampled_logits(make_model, photo, tmp_path):
    model = segmenter.Segmenter(saved(make_model, tmp_path))
    with torch.inference_mode():
        logits = model.model(**model.image_processor(images=photo, return_tensors="pt")).logits
    expected = F.interpolate(logits, (100, 150), mode="bilinear").argmax(1)[0]
    assert expected.unique().numel() > 1
    assert np.array_equal(model.segment(photo), expected)


def test_label_map_weighs_masks_by_their_classes_when_masks_are_classified(photo, tmp_path):
    model = segmenter.Segmenter(saved(mask2former, tmp_path))
    with torch.inference_mode():
        outputs = model.model(**model.image_processor(images=photo, return_tensors="pt"))
    classes = outputs.class_queries_logits[0].softmax(1)  # (Q, K + 1)
    masks = outputs.masks_queries_logits[0].sigmoid()  # (Q, h, w)
    scores = torch.stack([sum(classes[query, k] * masks[query] for query in range(5)) for k in range(4)])
    expected = F.interpolate(scores[None], (100, 150), mode="bilinear").argmax(1)[0]
    assert (model.segment(photo) == expected.numpy()).mean() > 0.999  # sums in another order may decide a tie


def test_label_map_is_1_for_the_class_when_there_is_a_single_one(photo, tmp_path):
    model = segmenter.Segmenter(saved(offseg, tmp_path, num_labels=1))
    with torch.inference_mode():
        logits = model.model(**model.image_processor(images=photo, return_tensors="pt")).logits
    expected = F.interpolate(logits, (100, 150), mode="bilinear")[0, 0] > 0
    assert np.array_equal(model.segment(photo), expected)
    assert model.labels == {0: "background", 1: "LABEL_0"}


def test_label_map_is_1_where_the_masks_of_a_single_class_score_above_one_half(photo, tmp_path):
    model = segmenter.Segmenter(saved(mask2former, tmp_path, num_labels=1))
    with torch.inference_mode():
        outputs = model.model(**model.image_processor(images=photo, return_tensors="pt"))
    classes = outputs.class_queries_logits[0].softmax(1)  # (Q, 2)
    masks = outputs.masks_queries_logits[0].sigmoid()  # (Q, h, w)
    scores = sum(classes[query, 0] * masks[query] for query in range(5))
    expected = F.interpolate(scores[None, None], (100, 150), mode="bilinear")[0, 0] > 0.5
    assert (model.segment(photo) == expected.numpy()).mean() > 0.999


def test_label_map_is_exact_and_has_16_bits_when_there_are_more_than_256_classes(photo, tmp_path):
    model = segmenter.Segmenter(saved(segformer, tmp_path, num_labels=300))
    with torch.inference_mode():
        logits = model.model(**model.image_processor(images=photo, return_tensors="pt")).logits
    labels = model.segment(photo)
    assert np.array_equal(labels, F.interpolate(logits, (100, 150), mode="bilinear").argmax(1)[0])
    assert labels.dtype == np.uint16 and labels.max() > 255


def test_work_is_stopped_when_it_takes_too_long(tiny, photo, monkeypatch):
    monkeypatch.setattr(segmenter, "TIME_LIMIT", -1)
    with pytest.raises(TimeoutError, match="took more than -1 seconds for this photo: send a smaller one"):
        tiny.segment(photo)


@pytest.mark.parametrize("slow_part", ["model", "label map"])
def test_work_is_stopped_soon_after_the_limit(slow_part, tmp_path, monkeypatch):
    if slow_part == "model":
        folder, photo = saved(offseg, tmp_path), draw_scene(0, (64, 64))[0]
        OffSegImageProcessor(size=1024).save_pretrained(folder)
    else:
        folder, photo = saved(segformer, tmp_path, num_labels=150), draw_scene(0, (100, 100))[0].resize((1500, 1500))
    model = segmenter.Segmenter(folder)
    start = time.perf_counter()
    expected = model.segment(photo)
    unlimited = time.perf_counter() - start

    with monkeypatch.context() as limited:
        limited.setattr(segmenter, "TIME_LIMIT", unlimited / 5)
        start = time.perf_counter()
        with pytest.raises(TimeoutError, match="send a smaller one"):
            model.segment(photo)
        assert unlimited / 5 <= time.perf_counter() - start < 0.7 * unlimited
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    assert (model.segment(photo) == expected).all()


@pytest.mark.skipif(torch.cuda.is_available(), reason="the way for CPUs is not taken on a GPU")
def test_models_are_computed_in_the_packages_fast_way_for_cpus(tiny, photo):
    head, taken = tiny.model.decode_head, []

    def record(encoder, inputs):
        taken.append(head.is_for_inference_on(inputs[0]))

    hook = tiny.model.backbone.register_forward_pre_hook(record)  # the encoder's hooks do not matter
    hook_in_the_head = None
    try:
        tiny.segment(photo)
        tiny.analyze_offsets(photo, (100, 150))
        hook_in_the_head = head.convs[0].conv.register_forward_pre_hook(lambda *_: None)
        tiny.segment(photo)
    finally:
        hook.remove()
        if hook_in_the_head is not None:
            hook_in_the_head.remove()
    assert taken == [True, True, False]


def test_models_have_no_hooks_but_their_own(tiny):
    def num_hooks(model):
        return sum(len(each._forward_pre_hooks) + len(each._forward_hooks) for each in model.modules())

    assert num_hooks(tiny.model) == num_hooks(OffSegBackboneForSemanticSegmentation.from_pretrained(TINY))


def test_models_are_those_that_were_named_and_the_tiny_one(tmp_path, caplog):
    folder = saved(segformer, tmp_path / "mine")
    models, left_out = segmenter.load_segmenters(f" {folder} ,{tmp_path / 'nothing'},")
    assert list(models) == ["mine", "tiny-street-scenes"]
    assert left_out == ["nothing"]
    assert f"OFFSEG_MODELS: {tmp_path / 'nothing'} was left out" in caplog.text


# Offset learning


@pytest.mark.parametrize("normalization", ["layer_norm", "fitted_layer_norm", "class_bias"])
def test_both_offsets_give_the_layers_own_logits(normalization):
    torch.manual_seed(0)
    layer = OffsetLearning(5, 8, normalization)
    for parameter in layer.parameters():
        parameter.data.normal_()
    features = torch.randn(8, 6, 7)
    logits = offsets.compute_offsets(layer, features).logits
    torch.testing.assert_close(logits["both"], layer(features[None])[0].detach())


def test_offsets_follow_the_formulas():
    torch.manual_seed(0)
    layer = OffsetLearning(3, 4, "class_bias")
    for parameter in layer.parameters():
        parameter.data.normal_()
    features = torch.randn(4, 2, 3)
    found = offsets.compute_offsets(layer, features)

    pixels = features.reshape(4, 6).T.numpy().astype(float)  # (N, C)
    classes = layer.cls_repr[0].detach().numpy().astype(float)  # (K, C)
    p_cls, p_feat, bias = (
        weight.detach().numpy().astype(float)
        for weight in (layer.cls_offset_proj.weight, layer.feat_offset_proj.weight, layer.mask_norm.bias)
    )
    exponentials = np.exp([[pixel @ w for w in classes] for pixel in pixels])  # (N, K)
    over_pixels = exponentials / exponentials.sum(0)
    over_classes = exponentials / exponentials.sum(1)[:, None]
    shifted_classes = [w + sum(over_pixels[n, k] * p_cls @ pixels[n] for n in range(6)) for k, w in enumerate(classes)]
    shifted_pixels = [
        e + sum(over_classes[n, k] * p_feat @ classes[k] for k in range(3)) for n, e in enumerate(pixels)
    ]
    norm = np.linalg.norm

    def logits(pixels, classes):
        return np.reshape([[w @ e + b for e in pixels] for w, b in zip(classes, bias)], (3, 2, 3))

    expected = {
        "over_pixels": over_pixels.T.reshape(3, 2, 3),
        "over_classes": over_classes.T.reshape(3, 2, 3),
        "feature_shift": np.reshape([norm(a - b) / norm(b) for a, b in zip(shifted_pixels, pixels)], (2, 3)),
        "class_shift": [norm(a - b) / norm(b) for a, b in zip(shifted_classes, classes)],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(getattr(found, name), values, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.logits["class"], logits(pixels, shifted_classes), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.logits["feature"], logits(shifted_pixels, classes), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.logits["none"], logits(pixels, classes), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("make_model", PER_PIXEL)
def test_analyze_offsets_gives_the_models_answer_when_both_offsets_are_there(make_model, photo, tmp_path):
    model = segmenter.Segmenter(saved(make_model, tmp_path))
    numbers, label_maps = model.analyze_offsets(photo, (100, 150))
    assert (label_maps["both"] == model.segment(photo)).mean() > 0.999  # sums in another order may decide a tie
    assert (label_maps["none"] != label_maps["both"]).any()
    assert numbers.class_shift.shape == (4,) and numbers.over_pixels.shape == numbers.over_classes.shape
    torch.testing.assert_close(numbers.over_pixels.sum((1, 2)), torch.ones(4))
    torch.testing.assert_close(numbers.over_classes.sum(0), torch.ones_like(numbers.feature_shift))


@pytest.mark.parametrize("make_model", [segformer, mask2former])
def test_analyze_offsets_gives_nothing_when_no_pixels_are_classified_by_offset_learning(make_model, photo, tmp_path):
    assert segmenter.Segmenter(saved(make_model, tmp_path)).analyze_offsets(photo, (100, 150)) is None


def test_pages_name_the_classes_as_text(tiny, photo):
    numbers, label_maps = tiny.analyze_offsets(photo, (photo.height, photo.width))
    classes = ["<b>sky", *"bcdefgh"]
    page = offset_pages.comparison_page(photo, numbers, label_maps, classes)
    assert page.count("<img") == 5 and "&lt;b&gt;sky" in page and "<b>sky" not in page
    page = offset_pages.attention_page(photo, numbers, classes, "<b>sky")
    assert page.count("<img") == 2 and "&lt;b&gt;sky" in page and "<b>sky" not in page
