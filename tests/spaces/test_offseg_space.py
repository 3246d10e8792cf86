"""The Space, without a browser: photos within limits, models of every family, both offsets, the endpoint."""

import contextlib
import io
import os
import struct
import subprocess
import sys
import threading
import zlib

import inside
import numpy as np
import offsets
import pictures
import pytest
import segmenter
import torch
import yaml
from hub_double import HubDouble
from PIL import Image
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
from offseg_hf.data.scenes import draw_scene
from offseg_hf.hub import write_repository
from offseg_hf.visualization import default_palette

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


@pytest.fixture(scope="module")
def photo():
    return draw_scene(5, (100, 150))[0]


def written(path, picture, **options):
    picture.save(path, **options)
    return path


# Photos


def test_photo_is_upright_rgb_when_it_has_an_orientation(tmp_path):
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:20, :20] = 255  # the upper left corner
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    photo = pictures.read_photo(written(tmp_path / "photo.png", Image.fromarray(pixels), exif=exif))
    assert (photo.mode, photo.size) == ("RGB", (40, 60))
    assert photo.getpixel((39, 0)) == (255, 255, 255) and photo.getpixel((0, 0)) == (0, 0, 0)


def test_photo_is_scaled_to_8_bits_when_it_has_16(tmp_path):
    grey = Image.fromarray(np.full((40, 40), 257 * 100, np.uint16))
    assert pictures.read_photo(written(tmp_path / "photo.png", grey)).getpixel((0, 0)) == (100, 100, 100)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_photo_is_rgb_when_its_file_has_another_mode(mode, tmp_path):
    path = written(tmp_path / "photo.tif", Image.new("L", (40, 40), 255).convert(mode))
    photo = pictures.read_photo(path)
    assert (photo.mode, photo.getpixel((5, 5))) == ("RGB", (255, 255, 255))


def test_text_is_refused(tmp_path):
    path = tmp_path / "photo.png"
    path.write_text("no picture")
    with pytest.raises(pictures.PhotoError, match="no picture that can be read here: send a JPEG"):
        pictures.read_photo(path)


def test_damaged_photo_is_refused(tmp_path, photo):
    path = written(tmp_path / "photo.jpg", photo)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(pictures.PhotoError, match="damaged and cannot be read to its end"):
        pictures.read_photo(path)


def bomb(path, width, height):
    """A PNG file of a few bytes that claims to have these sides."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    content = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes(1000))), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(content))
    return path


@pytest.mark.parametrize(
    "width, height, message",
    [
        (10_000, 6_000, "up to 50 megapixels, this one has 60: scale it down"),
        (60_000, 60_000, "up to 50 megapixels: scale this one down"),
        (1_000, 20, "at least 32 pixels high and wide.*this one is 1000 × 20"),
        (9_000, 1_000, "at most 8 times as long as wide, this one is 9000 × 1000"),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_photo_is_refused_before_it_is_decoded_when_its_sides_are_beyond_the_limits(width, height, message, tmp_path):
    with pytest.raises(pictures.PhotoError, match=message):
        pictures.read_photo(bomb(tmp_path / "photo.png", width, height))


def test_photo_is_refused_when_its_file_is_too_large(tmp_path):
    path = tmp_path / "photo.png"
    with path.open("wb") as file:
        file.truncate(21 * 1024**2)
    with pytest.raises(pictures.PhotoError, match="up to 20 MB, this file has 21 MB: save it smaller"):
        pictures.read_photo(path)


# Pictures


@pytest.mark.parametrize("num_colours", [1, 8, 300])
def test_palette_is_the_packages_own(num_colours):
    assert np.array_equal(pictures.palette(num_colours), default_palette(num_colours))


@pytest.mark.parametrize("dtype, num_classes", [(np.uint8, 256), (np.uint16, 300)])
def test_label_picture_keeps_every_id(dtype, num_classes, tmp_path):
    labels = np.arange(num_classes, dtype=dtype).reshape(-1, 4)
    path = written(tmp_path / "labels.png", pictures.label_picture(labels, pictures.palette(num_classes)))
    with Image.open(path) as file:
        assert np.array_equal(np.asarray(file), labels)


def test_label_picture_looks_like_its_classes():
    colours = pictures.palette(3)
    picture = pictures.label_picture(np.array([[2, 0]], np.uint8), colours)
    assert np.array_equal(np.asarray(picture.convert("RGB")), [[colours[2], colours[0]]])


def test_overlay_mixes_photo_and_colours():
    photo = Image.new("RGB", (1, 1), (100, 200, 0))
    mixed = pictures.overlay(photo, np.array([[1]]), np.array([(0, 0, 0), (200, 100, 40)], np.uint8), 0.25)
    assert mixed.getpixel((0, 0)) == (125, 175, 10)


def test_heat_map_is_bright_where_values_are_high():
    heat = np.asarray(pictures.heat_map(np.array([[0.1, 0.3]]), Image.new("RGB", (20, 10))))
    assert heat[:, -1].sum() > 2 * heat[:, 0].sum()
    assert heat.shape == (10, 20, 3)


@pytest.mark.parametrize("size, expected", [((3000, 1500), (1200, 600)), ((10, 2400), (5, 1200)), ((7, 9), (7, 9))])
def test_fitted_size_keeps_the_ratio(size, expected):
    assert pictures.fitted_size(size, 1200) == expected


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
        torch.testing.assert_close(tiny.model(pixel_values).logits, own(pixel_values).logits)


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
    written(tmp_path / "photo.png", photo)
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


# The page and its endpoint


def test_readme_and_requirements_agree():
    head = yaml.safe_load((SPACE / "README.md").read_text().split("---")[1])
    pins = dict(line.split("==") for line in (SPACE / "requirements.txt").read_text().split())
    assert (head["sdk"], head["sdk_version"]) == ("gradio", pins["gradio"])
    assert (SPACE / head["app_file"]).is_file()


@pytest.fixture(scope="module")
def app():
    """The module app.py, or a skipped test where gradio is not installed."""
    pytest.importorskip("gradio")
    import app

    return app


@pytest.fixture(scope="module")
def client(app):
    from gradio_client import Client

    demo = app.build_demo()
    _, url, _ = demo.launch(**app.LAUNCH, prevent_thread_lock=True, quiet=True)
    with contextlib.redirect_stdout(io.StringIO()):
        client = Client(url, verbose=False)
    yield client
    client.close()
    demo.close()


def test_endpoint_answers_label_map_overlay_and_report(client, photo, tmp_path):
    from gradio_client import handle_file

    path = written(tmp_path / "photo.png", photo)
    label_file, overlay_file, report = client.predict(handle_file(path), opacity=0.25, api_name="/segment")
    expected = segmenter.Segmenter(TINY).segment(photo)
    with Image.open(label_file) as labels, Image.open(overlay_file) as overlay:
        assert np.array_equal(np.asarray(labels), expected)
        assert np.array_equal(
            np.asarray(overlay), np.asarray(pictures.overlay(photo, expected, pictures.palette(8), 0.25))
        )
    assert (report["model"], report["height"], report["width"]) == ("tiny-street-scenes", 100, 150)
    shares = [found["share"] for found in report["classes"]]
    assert sum(shares) == pytest.approx(1) and shares == sorted(shares, reverse=True)
    assert report["classes"][0]["share"] == pytest.approx((expected == report["classes"][0]["id"]).mean())


def test_endpoint_says_what_is_wrong_when_the_file_is_no_picture(client, tmp_path):
    from gradio_client import handle_file
    from gradio_client.exceptions import AppError

    path = tmp_path / "photo.png"
    path.write_text("no picture")
    with pytest.raises(AppError, match="no picture that can be read here"):
        client.predict(handle_file(path), api_name="/segment")


def test_endpoint_takes_no_model_that_the_operator_did_not_name(client, photo, tmp_path):
    from gradio_client import handle_file
    from gradio_client.exceptions import AppError

    with pytest.raises(AppError, match="not in the list of choices"):
        client.predict(handle_file(written(tmp_path / "photo.png", photo)), model="org/else", api_name="/segment")


def test_uploads_beyond_the_limit_are_refused(client):
    import httpx

    content = bytes(pictures.MAX_BYTES + 1)
    answer = httpx.post(f"{client.src}gradio_api/upload", files={"files": ("photo.png", content)}, timeout=60)
    assert answer.status_code == 413


def test_only_segmenting_is_open_to_programs(client):
    assert list(client.view_api(return_format="dict")["named_endpoints"]) == ["/segment"]


def test_requests_are_refused_readably_when_too_many_are_waiting(app, client, photo, tmp_path, monkeypatch):
    import httpx

    may_go_on, segment = threading.Event(), segmenter.Segmenter.segment

    def wait_and_segment(self, photo):
        may_go_on.wait(60)
        return segment(self, photo)

    monkeypatch.setattr(segmenter.Segmenter, "segment", wait_and_segment)
    api = f"{client.src}gradio_api"
    with written(tmp_path / "photo.png", photo).open("rb") as file:
        (path,) = httpx.post(f"{api}/upload", files={"files": file}, timeout=60).json()
    request = {"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}, "tiny-street-scenes", 0.5]}
    answers = [httpx.post(f"{api}/call/segment", json=request, timeout=60) for _ in range(app.MAX_QUEUE + 3)]
    may_go_on.set()
    accepted = [answer.json()["event_id"] for answer in answers if answer.status_code == 200]
    refused = [answer for answer in answers if answer.status_code == 503]
    assert len(accepted) >= app.MAX_QUEUE and len(refused) >= 2 and len(accepted) + len(refused) == len(answers)
    assert all("Queue is full. Max size is 32" in answer.text for answer in refused)
    assert "event: complete" in httpx.get(f"{api}/call/segment/{accepted[-1]}", timeout=60).text


def test_endpoint_says_so_when_the_work_takes_too_long(client, photo, tmp_path, monkeypatch):
    from gradio_client import handle_file
    from gradio_client.exceptions import AppError

    monkeypatch.setattr(segmenter, "TIME_LIMIT", -1)
    with pytest.raises(AppError, match="took more than -1 seconds for this photo: send a smaller one"):
        client.predict(handle_file(written(tmp_path / "photo.png", photo)), api_name="/segment")


# What the platform's package does as far as it matters: another process works, errors but Gradio's lose their message.
LENT_GPU = """
import pickle, sys

assert "torch" not in sys.modules
calls = []


def GPU(function):
    def on_lent_gpu(*arguments):
        import gradio

        calls.append(function.__name__)
        try:
            return pickle.loads(pickle.dumps(function(*pickle.loads(pickle.dumps(arguments)))))
        except gradio.Error:
            raise
        except Exception as error:
            raise gradio.Error(type(error).__name__) from None

    return on_lent_gpu
"""
ON_LENT_GPU = """
import sys, app, segmenter, spaces

demo = app.build_demo()
functions = {each.name: each.fn for each in demo.fns.values()}
segment, look_inside = functions["segment"], functions["look_inside"]
model = "tiny-street-scenes"
print(segment(sys.argv[1], model, 0.5)[3]["width"], look_inside(sys.argv[1], model, None)[2].count("<img"))
segmenter.TIME_LIMIT = -1
for function, arguments in ((segment, (sys.argv[1], model, 0.5)), (look_inside, (sys.argv[1], model, None))):
    try:
        function(*arguments)
    except app.gr.Error as error:
        print(error.message)
print(spaces.calls)
"""


def test_gpu_is_borrowed_for_the_models_work_alone_where_the_platform_lends_one(app, photo, tmp_path):
    (tmp_path / "platform").mkdir()
    (tmp_path / "platform" / "spaces.py").write_text(LENT_GPU)
    environment = {**os.environ, "PYTHONPATH": f"{SPACE}{os.pathsep}{tmp_path / 'platform'}", "OFFSEG_MODELS": ""}
    command = [sys.executable, "-c", ON_LENT_GPU, str(written(tmp_path / "photo.png", photo))]
    output = subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True).stdout
    first, *refusals, calls = output.strip().splitlines()
    assert first == "150 2" and calls == str(["label_map", "offsets"] * 2)
    assert len(refusals) == 2 and all("took more than -1 seconds" in refusal for refusal in refusals)
