"""The Space's models of every family, and what it shows of their offsets."""

import os
import subprocess
import sys

import inside
import numpy as np
import offsets
import pytest
import segmenter
import torch
from hub_double import HubDouble
from running_space import SPACE
from torch.nn import functional as F
from transformers import (
    AutoImageProcessor,
    AutoModelForSemanticSegmentation,
    Mask2FormerImageProcessorPil,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessorPil,
)

from offseg_hf import (
    OffSegConfig,
    OffSegEfficientFormerConfig,
    OffSegEfficientFormerForSemanticSegmentation,
    OffSegForSemanticSegmentation,
    OffSegImageProcessor,
    OffSegMask2FormerConfig,
    OffSegMask2FormerForUniversalSegmentation,
    OffSegSegNextConfig,
    OffSegSegNextForSemanticSegmentation,
    OffsetLearning,
    OffsetLearningForSemanticSegmentation,
)
from offseg_hf.data.scenes.scenes import draw_scene
from offseg_hf.publishing.repository import write_repository

TINY = SPACE / "tiny-street-scenes"
MIT = {
    "depths": (1, 1, 1, 1),
    "hidden_sizes": (8, 8, 16, 16),
    "num_attention_heads": (1, 1, 2, 2),
    "decoder_hidden_size": 16,
}


def offseg(num_labels):
    return OffSegForSemanticSegmentation(OffSegConfig(**MIT, num_labels=num_labels))


def segformer(num_labels):
    return SegformerForSemanticSegmentation(SegformerConfig(**MIT, num_labels=num_labels))


def segnext(num_labels):
    sizes = {"hidden_sizes": (8, 8, 16, 16), "depths": (1, 1, 1, 1), "decoder_hidden_size": 16, "num_groups": 4}
    return OffSegSegNextForSemanticSegmentation(OffSegSegNextConfig(**sizes, nmf_rank=4, num_labels=num_labels))


def efficientformer(num_labels):
    config = OffSegEfficientFormerConfig(
        hidden_sizes=(8, 8, 16, 16), depths=(1, 1, 1, 1), mlp_ratios=((2,),) * 4, num_attention_blocks=1,
        num_attention_heads=2, key_dim=4, value_dim=8, downsample_key_dim=4, downsample_value_dim=8,
        attention_grid_size=4, neck_hidden_sizes=(32,) * 4, decoder_hidden_size=16, num_groups=4,
        num_labels=num_labels,
    )  # fmt: skip
    return OffSegEfficientFormerForSemanticSegmentation(config)


def wrapper(num_labels):
    return OffsetLearningForSemanticSegmentation.from_base(segformer(num_labels))


def mask2former(num_labels):
    swin = {"model_type": "swin", "embed_dim": 8, "depths": [1] * 4, "num_heads": [1, 1, 2, 2], "window_size": 4}
    config = OffSegMask2FormerConfig(
        backbone_config=swin | {"out_features": [f"stage{stage}" for stage in range(1, 5)]},
        feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=16, dim_feedforward=16,
        encoder_layers=1, decoder_layers=2, num_attention_heads=2, num_queries=5, num_labels=num_labels,
    )  # fmt: skip
    return OffSegMask2FormerForUniversalSegmentation(config)


PER_PIXEL = (offseg, segnext, efficientformer, wrapper)


def saved(make_model, folder, num_labels=4):
    """A folder with a model whose answers vary from pixel to pixel."""
    torch.manual_seed(0)
    model = make_model(num_labels)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(std=0.5 if "offset_proj" in name else 0.2)
    model.save_pretrained(folder)
    processor_class = Mask2FormerImageProcessorPil if make_model is mask2former else OffSegImageProcessor
    processor_class(size={"shortest_edge": 64, "longest_edge": 96}).save_pretrained(folder)
    return folder


# Models


def test_label_map_of_the_shipped_model_is_its_processors_own():
    model = AutoModelForSemanticSegmentation.from_pretrained(TINY, trust_remote_code=True)
    processor = AutoImageProcessor.from_pretrained(TINY, trust_remote_code=True)
    tiny = segmenter.Segmenter(TINY)
    for seed, size in enumerate([(64, 64), (100, 151), (512, 400)]):
        photo, mask = draw_scene(seed, size)
        with torch.inference_mode():
            outputs = model(**processor(images=photo, return_tensors="pt"))
        expected = processor.post_process_semantic_segmentation(outputs, target_sizes=[size])[0]
        labels = tiny.segment(photo)
        assert labels.dtype == np.uint8 and np.array_equal(labels, expected)
    assert (labels == mask).mean() > 0.6  # it has learnt something


def test_shipped_code_computes_what_the_package_computes_from_the_same_weights():
    tiny, own = segmenter.Segmenter(TINY), OffSegForSemanticSegmentation.from_pretrained(TINY).eval()
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


def test_label_map_is_exact_and_has_16_bits_when_there_are_more_than_256_classes(photo, tmp_path):
    model = segmenter.Segmenter(saved(segformer, tmp_path, num_labels=300))
    with torch.inference_mode():
        logits = model.model(**model.image_processor(images=photo, return_tensors="pt")).logits
    labels = model.segment(photo)
    assert np.array_equal(labels, F.interpolate(logits, (100, 150), mode="bilinear").argmax(1)[0])
    assert labels.dtype == np.uint16 and labels.max() > 255


def test_work_is_stopped_when_it_takes_too_long(photo, monkeypatch):
    tiny = segmenter.Segmenter(TINY)
    monkeypatch.setattr(segmenter, "TIME_LIMIT", -1)
    with pytest.raises(TimeoutError, match="took more than -1 seconds for this photo: send a smaller one"):
        tiny.segment(photo)


def test_models_are_those_that_were_named_and_the_tiny_one(tmp_path, caplog):
    folder = saved(segformer, tmp_path / "mine")
    models, left_out = segmenter.load_segmenters(f" {folder} ,{tmp_path / 'nothing'},")
    assert list(models) == ["mine", "tiny-street-scenes"]
    assert left_out == ["nothing"]
    assert f"OFFSEG_MODELS: {tmp_path / 'nothing'} was left out" in caplog.text


LOADED = """
import sys
import segmenter
models, left_out = segmenter.load_segmenters(sys.argv[1])
print({name: len(model.classes) for name, model in models.items()}, left_out)
"""


def test_model_is_loaded_at_its_revision_when_one_is_named(tmp_path):
    def files(num_labels):
        folder = saved(segformer, tmp_path / str(num_labels), num_labels)
        SegformerImageProcessorPil().save_pretrained(folder)  # of which the other process knows
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    with HubDouble() as hub:
        repository = hub.create("org/model", files=files(3))
        revision = repository.commits[-1].oid
        repository.commit("more classes", {**repository.commits[-1].files, **files(5)})
        loaded = subprocess.run(
            [sys.executable, "-c", LOADED, f"org/model,org/model@{revision}"],
            env={**os.environ, **hub.environment(tmp_path / "home"), "PYTHONPATH": str(SPACE)},
            capture_output=True,
            text=True,
            check=True,
        )
    expected = {"org/model": 5, f"org/model@{revision}": 3, "tiny-street-scenes": 8}
    assert loaded.stdout.strip() == f"{expected} []"


EVERY_FAMILY = """
import os, sys
sys.modules["offseg_hf"] = None  # importing it raises an ImportError
import numpy, segmenter
from PIL import Image
models, left_out = segmenter.load_segmenters(os.environ["OFFSEG_MODELS"])
assert not left_out, left_out
numpy.savez("labels.npz", **{name: model.segment(Image.open("photo.png")) for name, model in models.items()})
"""


def test_models_of_every_family_are_offered_from_folders_and_from_the_hub_without_the_package(photo, tmp_path):
    photo.save(tmp_path / "photo.png")
    expected, names = {}, []
    with HubDouble() as hub:
        for make_model in (*PER_PIXEL, mask2former):
            name = make_model.__name__
            folder = saved(make_model, tmp_path / f"{name}-saved")
            expected[name] = segmenter.Segmenter(folder).segment(photo)
            published = tmp_path / name
            published.mkdir()
            files = write_repository(folder, published, f"org/{name}")
            hub.create(f"org/{name}", files={file.name: file.read_bytes() for file in files})
            names += [str(published), f"org/{name}"]
        environment = hub.environment(tmp_path / "home") | {"PYTHONPATH": str(SPACE), "OFFSEG_MODELS": ",".join(names)}
        command = [sys.executable, "-c", EVERY_FAMILY]
        subprocess.run(command, cwd=tmp_path, env={**os.environ, **environment}, check=True)
    found = np.load(tmp_path / "labels.npz")
    assert set(found) == {"tiny-street-scenes", *expected, *(f"org/{name}" for name in expected)}
    for name, labels in expected.items():
        for source in (name, f"org/{name}"):
            assert (found[source] == labels).mean() > 0.999  # other threads may decide a tie


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
def test_look_inside_gives_the_models_answer_when_both_offsets_are_there(make_model, photo, tmp_path):
    model = segmenter.Segmenter(saved(make_model, tmp_path))
    numbers, label_maps = model.look_inside(photo, (100, 150))
    assert (label_maps["both"] == model.segment(photo)).mean() > 0.999  # sums in another order may decide a tie
    assert (label_maps["none"] != label_maps["both"]).any()
    assert numbers.class_shift.shape == (4,) and numbers.over_pixels.shape == numbers.over_classes.shape
    torch.testing.assert_close(numbers.over_pixels.sum((1, 2)), torch.ones(4))
    torch.testing.assert_close(numbers.over_classes.sum(0), torch.ones_like(numbers.feature_shift))


@pytest.mark.parametrize("make_model", [segformer, mask2former])
def test_look_inside_gives_nothing_when_no_pixels_are_classified_by_offset_learning(make_model, photo, tmp_path):
    assert segmenter.Segmenter(saved(make_model, tmp_path)).look_inside(photo, (100, 150)) is None


def test_pages_name_the_classes_as_text(photo):
    numbers, label_maps = segmenter.Segmenter(TINY).look_inside(photo, (photo.height, photo.width))
    classes = ["<b>sky", *"bcdefgh"]
    page = inside.comparison_page(photo, numbers, label_maps, classes)
    assert page.count("<img") == 5 and "&lt;b&gt;sky" in page and "<b>sky" not in page
    page = inside.attention_page(photo, numbers, classes, "<b>sky")
    assert page.count("<img") == 2 and "&lt;b&gt;sky" in page and "<b>sky" not in page
