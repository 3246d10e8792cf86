import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from drawn_pictures import encoded, random_ids, random_pixels
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, SegformerConfig, SegformerForSemanticSegmentation, pipeline

from offseg_hf.models.image_processing_offseg import (
    OffSegImageProcessor,
    read_image,
    reduce_labels,
)

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])  # ImageNet's


def normalized(image):
    return ((np.asarray(image) / 255 - MEAN) / STD).transpose(2, 0, 1)  # (3, H, W)


# Reducing labels


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64])
def test_reduce_labels_gives_the_hand_counted_ids(dtype):
    ids = np.array([[0, 1, 2], [254, 255, 150]], dtype)
    reduced = reduce_labels(ids)
    assert reduced.tolist() == [[255, 0, 1], [253, 255, 149]]
    assert ids.tolist() == [[0, 1, 2], [254, 255, 150]]
    assert reduced.dtype == (np.uint8 if dtype == np.uint8 else np.int64)


def test_reduce_labels_names_the_id_when_it_is_above_255():
    with pytest.raises(
        ValueError, match=r"`do_reduce_labels` needs whole ids from 0 to 255 .* has 0 to 300; renumber"
    ):
        reduce_labels(np.array([[0, 300]]))


# Preprocessing


@pytest.mark.parametrize(
    ("size", "source", "expected"),
    [
        ({"shortest_edge": 512, "longest_edge": 2048}, (768, 1024), (512, 683)),  # 682.67
        ({"shortest_edge": 512, "longest_edge": 2048}, (1024, 768), (683, 512)),
        ({"shortest_edge": 512, "longest_edge": 2048}, (100, 1000), (205, 2048)),  # the long side decides: 204.8
        ({"shortest_edge": 520, "longest_edge": 520}, (300, 400), (390, 520)),
        ({"shortest_edge": 3, "longest_edge": 9}, (2, 3), (3, 5)),  # 4.5 is rounded up
        ({"shortest_edge": 8, "longest_edge": 8}, (1, 40), (1, 8)),  # not 0
        ({"height": 20, "width": 30}, (33, 44), (20, 30)),
        ((20, 30), (33, 44), (20, 30)),
        (16, (33, 44), (16, 16)),
    ],
)
def test_size_is_as_counted_when_the_image_is(size, source, expected):
    batch = OffSegImageProcessor(size=size)(Image.new("RGB", source[::-1]), [np.zeros(source, np.uint8)])
    assert batch["pixel_values"][0].shape == (3, *expected)
    assert batch["labels"][0].shape == expected


def test_size_keeps_the_ratio_between_512_and_2048_by_default():
    assert OffSegImageProcessor().size == {"shortest_edge": 512, "longest_edge": 2048}


@pytest.mark.parametrize("size", [(20, 30), (70, 90)])
def test_pixel_values_equal_pillow_bilinear_then_the_formula(size):
    image = Image.fromarray(random_pixels(48, 64))
    batch = OffSegImageProcessor(size=size)(image, return_tensors="pt")
    assert batch["pixel_values"].dtype == torch.float32
    expected = normalized(image.resize(size[::-1], Image.Resampling.BILINEAR))
    np.testing.assert_allclose(batch["pixel_values"][0], expected, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64])
@pytest.mark.parametrize("size", [(20, 30), (70, 90)])
def test_labels_equal_pillow_nearest(size, dtype):
    ids = random_ids(48, 64, num_labels=100 if dtype == np.uint8 else 60000, dtype=dtype)
    batch = OffSegImageProcessor(size=size)(np.zeros((48, 64, 3), np.uint8), ids, return_tensors="pt")
    assert batch["labels"].dtype == torch.int64
    nearest = Image.fromarray(ids.astype(np.int32)).resize(size[::-1], Image.Resampling.NEAREST)
    np.testing.assert_array_equal(batch["labels"][0], nearest)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"do_rescale": False, "do_normalize": False}, lambda pixels: pixels),
        ({"do_normalize": False}, lambda pixels: pixels / 255),
        ({"do_normalize": False, "rescale_factor": 0.5}, lambda pixels: pixels / 2),
        ({"do_rescale": False, "image_mean": 10, "image_std": 4}, lambda pixels: (pixels - 10.0) / 4),
    ],
)
def test_pixel_values_follow_the_options(options, expected):
    pixels = random_pixels(5, 7)
    values = OffSegImageProcessor(do_resize=False, **options)(pixels)["pixel_values"][0]
    np.testing.assert_allclose(values, expected(pixels).transpose(2, 0, 1), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("as_source", [np.asarray, torch.from_numpy])
def test_pixel_values_stay_in_the_unit_range_when_floats_are_not_rescaled(as_source):
    pixels = (random_pixels(5, 7) / 255).astype(np.float32)
    processor = OffSegImageProcessor(do_resize=False, do_normalize=False)
    for do_rescale in (True, False):
        values = processor(as_source(pixels), do_rescale=do_rescale)["pixel_values"][0]
        np.testing.assert_allclose(values, pixels.transpose(2, 0, 1), atol=1e-6)


def test_labels_keep_their_size_when_they_are_not_resized():
    ids = random_ids(48, 64)
    batch = OffSegImageProcessor(size=16)(random_pixels(48, 64), ids, do_resize_labels=False, return_tensors="pt")
    assert batch["pixel_values"].shape == (1, 3, 16, 16)
    np.testing.assert_array_equal(batch["labels"][0], ids)


@pytest.mark.parametrize("as_source", [np.asarray, torch.from_numpy, Image.fromarray])
def test_labels_are_reduced_once_and_the_callers_map_is_left_alone(as_source):
    ids = np.array([[0, 1, 2, 255]], np.uint8).repeat(2, axis=0)
    source = as_source(ids.copy())
    processor = OffSegImageProcessor(do_resize=False, do_reduce_labels=True)
    for _ in range(2):
        labels = processor(random_pixels(2, 4), [source])["labels"][0]
        assert labels.tolist() == [[255, 0, 1, 255]] * 2
    np.testing.assert_array_equal(np.asarray(source), ids)
    assert processor(random_pixels(2, 4), [source], do_reduce_labels=False)["labels"][0].tolist() == ids.tolist()


@pytest.mark.parametrize(
    "as_batch",
    [
        lambda pixels: list(pixels),
        lambda pixels: tuple(Image.fromarray(picture) for picture in pixels),
        lambda pixels: pixels,
        lambda pixels: torch.from_numpy(pixels).permute(0, 3, 1, 2),
        lambda pixels: [torch.from_numpy(picture) for picture in pixels],
    ],
    ids=["arrays", "pictures", "one array", "one tensor", "tensors"],
)
def test_a_batch_equals_its_images_one_by_one_when_given_as(as_batch):
    pixels = np.stack([random_pixels(24, 32, seed=seed) for seed in range(3)])
    ids = np.stack([np.full((24, 32), seed, np.uint8) for seed in range(3)])
    processor = OffSegImageProcessor(size=16)
    batch = processor(as_batch(pixels), ids, return_tensors="pt")
    single = [processor(picture, return_tensors="pt")["pixel_values"] for picture in pixels]
    assert torch.equal(batch["pixel_values"], torch.cat(single))
    assert batch["labels"].shape == (3, 16, 16)
    assert batch["labels"][:, 0, 0].tolist() == [0, 1, 2]


def test_images_of_files_bytes_and_data_urls_are_read(tmp_path):
    content = encoded(Image.fromarray(random_pixels(24, 32)))
    (tmp_path / "photo.png").write_bytes(content)
    url = "data:image/png;base64," + base64.b64encode(content).decode()
    sources = [str(tmp_path / "photo.png"), tmp_path / "photo.png", content, {"bytes": content, "path": None}, url]
    values = OffSegImageProcessor(size=16)(sources, return_tensors="pt")["pixel_values"]
    assert (values == values[0]).all()


def test_input_data_format_decides_when_an_array_is_ambiguous():
    pixels = random_pixels(3, 5)  # 3 rows of 5 pixels, or 3 channels of 5 rows
    processor = OffSegImageProcessor(do_resize=False)
    assert processor(pixels)["pixel_values"][0].shape == (3, 5, 3)
    assert processor(pixels, input_data_format="channels_last")["pixel_values"][0].shape == (3, 3, 5)


def test_photo_and_mask_come_out_upright_together():
    ids = random_ids(16, 24, num_labels=100)
    colours = np.stack([ids] * 3, axis=-1)
    photo = encoded(Image.fromarray(colours), "PNG", orientation=6)
    processor = OffSegImageProcessor(do_resize=False, do_rescale=False, do_normalize=False)
    batch = processor(photo, encoded(Image.fromarray(ids)), return_tensors="np")
    np.testing.assert_array_equal(batch["labels"][0], np.rot90(ids, -1))
    np.testing.assert_array_equal(batch["pixel_values"][0, 1], batch["labels"][0])


def test_lists_are_returned_when_no_tensors_are_asked_for():
    batch = OffSegImageProcessor(do_resize=False)([random_pixels(5, 8), random_pixels(6, 7)])
    assert [values.shape for values in batch["pixel_values"]] == [(3, 5, 8), (3, 6, 7)]


# Errors of preprocessing


@pytest.mark.parametrize("return_tensors", ["pt", "np"])
def test_an_error_names_both_sizes_when_images_come_out_unequal(return_tensors):
    images = [random_pixels(40, 40), random_pixels(40, 40), random_pixels(40, 60)]
    size = {"shortest_edge": 20, "longest_edge": 80}
    message = (
        r"`images` .* images\[0\] is 20 x 20 and images\[2\] 20 x 30 pixels .*; set `size` to a fixed .* or pass one"
    )
    with pytest.raises(ValueError, match=message):
        OffSegImageProcessor(size=size)(images, return_tensors=return_tensors)


def test_an_error_names_both_sizes_when_labels_come_out_unequal():
    images, ids = [random_pixels(40, 40), random_pixels(40, 60)], [random_ids(40, 40), random_ids(40, 60)]
    message = (
        r"`segmentation_maps` .*\[0\] is 40 x 40 and segmentation_maps\[1\] 40 x 60 .*; leave `do_resize_labels` Tr"
    )
    with pytest.raises(ValueError, match=message):
        OffSegImageProcessor(size=16, do_resize_labels=False)(images, ids, return_tensors="pt")


def test_an_error_names_the_index_when_a_photo_and_its_mask_differ_in_size():
    images, ids = [random_pixels(40, 40)] * 2, [random_ids(40, 40), random_ids(40, 41)]
    message = (
        r"`segmentation_maps\[1\]` must have the size of its image, 40 x 40 .* but has 40 x 41; pair each image with"
    )
    with pytest.raises(ValueError, match=message):
        OffSegImageProcessor(size=16)(images, ids)


def test_an_error_names_index_and_file_when_one_of_a_batch_is_broken(tmp_path):
    good, broken = tmp_path / "good.jpg", tmp_path / "broken.jpg"
    content = encoded(Image.fromarray(random_pixels(64, 64)), "JPEG")
    good.write_bytes(content)
    broken.write_bytes(content[:2000])
    with pytest.raises(ValueError, match=r"`images\[3\]: .*broken.jpg` must be a whole image"):
        OffSegImageProcessor(size=16)([good, good, good, broken])
    broken.write_bytes(encoded(Image.fromarray(random_pixels(64, 64)))[:2000])
    with pytest.raises(ValueError, match=r"`segmentation_maps\[1\]: .*broken.jpg` must be a whole image"):
        OffSegImageProcessor(size=16)([good, good], [np.zeros((64, 64), np.uint8), broken])
    with pytest.raises(
        FileNotFoundError, match=r"`images\[1\]: none.jpg` must be an image file, but there is no such"
    ):
        OffSegImageProcessor(size=16)([good, "none.jpg"])


def test_an_error_names_both_numbers_when_label_maps_are_missing():
    with pytest.raises(
        ValueError, match="`segmentation_maps` must hold one label map for each image, but holds 1 for 2"
    ):
        OffSegImageProcessor(size=16)([random_pixels(40, 40)] * 2, [random_ids(40, 40)])


def test_an_error_is_raised_when_there_are_no_images():
    with pytest.raises(ValueError, match="`images` must hold at least one image, but is empty; pass one or more"):
        OffSegImageProcessor()([])


@pytest.mark.parametrize("size", [{"shortest_edge": 512}, {"longest_edge": 9}, {"max_height": 9, "max_width": 9}])
def test_an_error_names_the_two_ways_when_size_has_other_keys(size):
    message = (
        '`size` must be {"height", "width"}, {"shortest_edge", "longest_edge"} or one number .* but is .*; give both'
    )
    with pytest.raises(ValueError, match=message):
        OffSegImageProcessor(size=size)
    with pytest.raises(ValueError, match=message):
        OffSegImageProcessor()(random_pixels(40, 40), size=size)


@pytest.mark.parametrize("size", [0, {"height": 16, "width": -1}, {"height": 16.5, "width": 16}])
def test_an_error_names_size_when_it_is_no_positive_whole_number(size):
    with pytest.raises(ValueError, match=r"`size` must hold whole numbers of at least 1, but is .*; correct it"):
        OffSegImageProcessor(size=size)


@pytest.mark.parametrize("name", ["image_mean", "image_std"])
def test_an_error_names_the_argument_when_there_are_not_three_numbers(name):
    with pytest.raises(ValueError, match=rf"`{name}` must be one number or three .* but is \(0.5, 0.5\); give three"):
        OffSegImageProcessor(**{name: [0.5, 0.5]})


@pytest.mark.parametrize("name", ["do_center_crop", "do_pad"])
def test_an_error_names_the_option_when_it_is_not_offered(name):
    with pytest.raises(ValueError, match=f"`{name}` must be False, but is True; crop or pad images before"):
        OffSegImageProcessor(**{name: True})


# As a part of transformers


class RegisteredConfig(SegformerConfig):
    model_type = "segformer_with_offseg_image_processor"


@pytest.fixture(scope="module")
def registered():
    AutoConfig.register(RegisteredConfig.model_type, RegisteredConfig, exist_ok=True)
    AutoImageProcessor.register(RegisteredConfig, image_processor_classes={"pil": OffSegImageProcessor}, exist_ok=True)


def test_every_field_survives_saving_and_loading(tmp_path, registered):
    fields = {
        "do_resize": False,
        "size": {"height": 33, "width": 44},
        "resample": 3,
        "do_rescale": False,
        "rescale_factor": 0.5,
        "do_normalize": False,
        "image_mean": (0.1, 0.2, 0.3),
        "image_std": (0.4, 0.5, 0.6),
        "do_reduce_labels": True,
        "do_resize_labels": False,
    }
    processor = OffSegImageProcessor(**fields)
    processor.save_pretrained(tmp_path)
    RegisteredConfig().save_pretrained(tmp_path)
    for loaded in (OffSegImageProcessor.from_pretrained(tmp_path), AutoImageProcessor.from_pretrained(tmp_path)):
        assert type(loaded) is OffSegImageProcessor
        assert loaded.to_dict() == processor.to_dict()
        assert {name: getattr(loaded, name) for name in fields} == fields
    assert OffSegImageProcessor.from_pretrained(tmp_path, do_resize=True).do_resize is True


@pytest.mark.parametrize(
    "published",
    [
        {
            "image_processor_type": "SegformerImageProcessor",
            "do_reduce_labels": True,
            "size": {"height": 64, "width": 64},
        },
        {"feature_extractor_type": "SegformerFeatureExtractor", "reduce_labels": True, "size": 64},  # before 2023
    ],
    ids=["today's", "the first"],
)
def test_published_segformer_settings_load(tmp_path, published):
    settings = {
        "do_normalize": True,
        "do_resize": True,
        "image_mean": list(MEAN),
        "image_std": list(STD),
        "resample": 2,
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings | published))
    processor = OffSegImageProcessor.from_pretrained(tmp_path)
    image, ids = Image.fromarray(random_pixels(48, 80)), np.full((48, 80), 7, np.uint8)
    batch = processor(image, ids, return_tensors="pt")
    np.testing.assert_allclose(batch["pixel_values"][0], normalized(image.resize((64, 64), 2)), atol=1e-6)
    assert (batch["labels"] == 6).all()


def test_the_pipeline_segments_a_picture():
    torch.manual_seed(0)
    architecture = {"depths": [1] * 4, "hidden_sizes": [8] * 4, "decoder_hidden_size": 8, "num_labels": 3}
    config = SegformerConfig(**architecture, num_attention_heads=[1] * 4)
    segment = pipeline(
        "image-segmentation",
        model=SegformerForSemanticSegmentation(config),
        image_processor=OffSegImageProcessor(size={"shortest_edge": 32, "longest_edge": 64}),
    )
    results = segment(Image.fromarray(random_pixels(50, 75)))
    masks = np.stack([np.asarray(result["mask"]) for result in results])
    assert masks.shape[1:] == (50, 75)
    assert ((masks == 255).sum(0) == 1).all()  # each pixel belongs to one class
    assert {result["label"] for result in results} <= {"LABEL_0", "LABEL_1", "LABEL_2"}


# A torchvision that transformers believes in and whose every function fails.
BROKEN_TORCHVISION = """
import importlib.abc, importlib.machinery, sys

class Fake(type):
    def __getattr__(cls, name):
        return fake(name)
    def __call__(cls, *args, **kwargs):
        raise RuntimeError("torchvision was used")

def fake(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return Fake(name, (), {})

class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name.startswith("torchvision."):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
    def create_module(self, spec):
        return None
    def exec_module(self, module):
        module.__getattr__ = fake

sys.meta_path.insert(0, Finder())
__getattr__ = fake
"""


# Reads the module without the package, as it lies in a repository of the Hub.
SCRIPT = """
import sys
import numpy as np
from transformers.utils import is_torchvision_available
from models.image_processing_offseg import OffSegImageProcessor

assert is_torchvision_available()
pixels, ids = (np.load(path) for path in sys.argv[1:3])
batch = OffSegImageProcessor(size=(20, 30))(pixels, [ids], return_tensors="pt")
np.savez(sys.argv[3], **{name: tensor.numpy() for name, tensor in batch.items()})
"""


def test_the_result_is_the_same_when_torchvision_is_installed(tmp_path):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(BROKEN_TORCHVISION)
    (tmp_path / "torchvision-9.0.dist-info").mkdir()
    (tmp_path / "torchvision-9.0.dist-info" / "METADATA").write_text("Name: torchvision\nVersion: 9.0\n")
    pixels, ids = random_pixels(48, 64), random_ids(48, 64)
    files = [str(tmp_path / name) for name in ("pixels.npy", "ids.npy", "batch.npz")]
    np.save(files[0], pixels)
    np.save(files[1], ids)
    folders = tmp_path, Path(__file__).parents[2] / "offseg_hf"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, folders))}
    result = subprocess.run([sys.executable, "-c", SCRIPT, *files], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    expected = OffSegImageProcessor(size=(20, 30))(pixels, [ids])
    with np.load(files[2]) as batch:
        assert set(batch) == {"pixel_values", "labels"}
        for name, array in batch.items():
            np.testing.assert_array_equal(array[0], expected[name][0])


# From logits to label maps


def reference_logits(logits, size):
    return F.interpolate(logits.float(), size, mode="bilinear", align_corners=False)


def random_logits(kind, batch_size, num_labels, height=12, width=15):
    generator = torch.Generator().manual_seed(0)
    shape = (batch_size, num_labels, height, width)
    logits = torch.randn(shape, generator=generator)
    if kind == "channels last":
        return logits.to(memory_format=torch.channels_last)
    return logits.to({"float16": torch.float16, "bfloat16": torch.bfloat16}.get(kind, torch.float32))


@pytest.mark.parametrize("sizes", [[(24, 30), (97, 131)], torch.tensor([[24, 30], [97, 131]])], ids=["list", "tensor"])
def test_post_processing_gives_each_image_its_size(sizes):
    logits = random_logits("float32", 2, 19)
    label_maps = OffSegImageProcessor().post_process_semantic_segmentation(SimpleNamespace(logits=logits), sizes)
    assert len(label_maps) == 2
    for index, size in enumerate([(24, 30), (97, 131)]):
        expected = reference_logits(logits[index : index + 1], size)[0].argmax(0)
        assert torch.equal(label_maps[index], expected)


def test_post_processing_keeps_the_logits_size_when_none_is_given():
    logits = random_logits("float32", 2, 19)
    label_maps = OffSegImageProcessor().post_process_semantic_segmentation(SimpleNamespace(logits=logits))
    assert torch.equal(torch.stack(label_maps), logits.argmax(1))


@pytest.mark.parametrize("kind", ["float32", "channels last", "bfloat16"])
@pytest.mark.parametrize("num_labels", [1, 2, 3, 11, 19])
@pytest.mark.parametrize("size", [(24, 30), (97, 131)])
def test_scores_are_the_probabilities_of_the_predicted_classes(num_labels, size, kind):
    logits = random_logits(kind, 2, num_labels) * 30  # exp overflows in float32 without care, and 1e2 * 2**-24 = 6e-6
    outputs = OffSegImageProcessor().post_process_semantic_segmentation(
        SimpleNamespace(logits=logits), [size] * 2, return_confidence=True
    )
    upsampled = reference_logits(logits, size).double()
    if num_labels == 1:
        upsampled = torch.cat([torch.zeros_like(upsampled), upsampled], dim=1)  # softmax([0, x]) = sigmoid(x)
    probabilities, label_map = upsampled.softmax(1).max(1)
    for index, output in enumerate(outputs):
        assert torch.equal(output.segmentation, label_map[index])
        assert output.confidence.dtype == torch.float32
        torch.testing.assert_close(output.confidence.double(), probabilities[index], atol=1e-5, rtol=0)


def test_post_processing_keeps_no_graph_when_the_logits_have_one():
    outputs = SimpleNamespace(logits=random_logits("float32", 1, 3).requires_grad_())
    (output,) = OffSegImageProcessor().post_process_semantic_segmentation(outputs, [(20, 20)], return_confidence=True)
    assert not output.confidence.requires_grad


def test_post_processing_names_both_numbers_when_target_sizes_are_too_few():
    outputs = SimpleNamespace(logits=torch.zeros(2, 3, 4, 4))
    with pytest.raises(
        ValueError, match=r"`target_sizes` must hold one \(height, width\) for each image, but holds 1 f"
    ):
        OffSegImageProcessor().post_process_semantic_segmentation(outputs, [(8, 8)])


@pytest.mark.parametrize("size", [(8,), (8, 8, 3), 8, (0, 8)])
def test_post_processing_names_the_index_when_a_target_size_is_none(size):
    outputs = SimpleNamespace(logits=torch.zeros(2, 3, 4, 4))
    with pytest.raises(
        ValueError, match=r"`target_sizes\[1\]` must be \(height, width\) in pixels, both at least 1, but"
    ):
        OffSegImageProcessor().post_process_semantic_segmentation(outputs, [(8, 8), size])


def test_scores_are_all_upsampled_logits_when_asked_for():
    logits = torch.randn(2, 5, 6, 7)
    outputs = OffSegImageProcessor().post_process_semantic_segmentation(
        SimpleNamespace(logits=logits), [(20, 30), (9, 8)], return_segmentation_scores=True
    )
    for index, size in enumerate([(20, 30), (9, 8)]):
        expected = F.interpolate(logits[index : index + 1], size, mode="bilinear", align_corners=False)[0]
        assert torch.equal(outputs[index].segmentation_scores, expected)
        assert torch.equal(outputs[index].segmentation, expected.argmax(0))


def test_sixteen_bit_pgm_is_scaled_to_eight_bits(tmp_path):
    path = tmp_path / "dark.pgm"
    path.write_bytes(b"P5 2 1 65535\n" + (200).to_bytes(2, "big") + (65535).to_bytes(2, "big"))
    assert np.asarray(read_image(path))[0, :, 0].tolist() == [1, 255]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("do_reduce_labels", "false", "must be True or False, but is 'false'"),
        ("do_resize", 1, "must be True or False, but is 1"),
        ("image_std", 0, "must hold finite numbers above 0, but is 0"),
        ("image_std", [0.2, 0.0, 0.2], "must hold finite numbers above 0"),
        ("image_std", [0.2, -0.2, 0.2], "must hold finite numbers above 0"),
        ("image_mean", [0.5, float("nan"), 0.5], "must hold finite numbers, but is"),
        ("image_mean", "half", "must hold finite numbers, but is half"),
        ("rescale_factor", 0, "must hold finite numbers above 0, but is 0"),
        ("rescale_factor", float("inf"), "must hold finite numbers above 0, but is inf"),
        ("size", (3, 4, 5), r'must be \{"height", "width"\}.* but is \(3, 4, 5\)'),
        ("size", (3,), r'must be \{"height", "width"\}.* but is \(3,\)'),
        ("size", {"height": True, "width": 3}, "must hold whole numbers of at least 1"),
        ("resample", 17, "must be one of 0, 1, 2, 3, 4, 5, but is 17"),
        ("max_value", 0, "must be a whole number from 1 to 65535, but is 0"),
        ("max_value", 4095.5, "must be a whole number from 1 to 65535, but is 4095.5"),
    ],
)
def test_a_field_is_refused_at_construction_and_in_a_file_when_it_is_out_of_range(field, value, message, tmp_path):
    with pytest.raises(ValueError, match=f"^`{field}` {message}"):
        OffSegImageProcessor(**{field: value})
    OffSegImageProcessor().save_pretrained(tmp_path)
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), field: value}))
    with pytest.raises(ValueError, match=f"^`{field}` must"):
        OffSegImageProcessor.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["input_data_format", "data_format"])
def test_an_order_of_channels_that_is_unknown_is_refused(name):
    with pytest.raises(
        ValueError, match=f"^`{name}` must be one of 'channels_first'.* but is 'channels_middle'; choose"
    ):
        OffSegImageProcessor()(random_pixels(6, 9), **{name: "channels_middle"})


def test_photos_of_12_bits_are_read_by_the_white_that_was_saved_with_the_model(tmp_path):
    OffSegImageProcessor(size=8, max_value=4095).save_pretrained(tmp_path)
    processor = OffSegImageProcessor.from_pretrained(tmp_path)
    values = processor(np.full((8, 8, 3), 4095, np.uint16), return_tensors="np")["pixel_values"]
    np.testing.assert_array_equal(
        values, processor(np.full((8, 8, 3), 255, np.uint8), return_tensors="np")["pixel_values"]
    )


def test_a_pipeline_takes_batches_of_photos_of_different_shapes_with_a_fixed_size():
    config = SegformerConfig(
        num_labels=3, hidden_sizes=[8] * 4, depths=[1] * 4, num_attention_heads=[1] * 4, decoder_hidden_size=8
    )
    processor = OffSegImageProcessor(size={"height": 64, "width": 64})
    segment = pipeline(
        "image-segmentation", SegformerForSemanticSegmentation(config), image_processor=processor, batch_size=2
    )
    photos = [Image.fromarray(random_pixels(40, 56)), Image.fromarray(random_pixels(70, 33))]
    sizes = [found[0]["mask"].size for found in segment(photos)]
    assert sizes == [(56, 40), (33, 70)]
