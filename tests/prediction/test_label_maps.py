import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import tiny_mask2former
from transformers import EomtConfig, EomtForUniversalSegmentation, SegformerConfig, SegformerForSemanticSegmentation
from transformers.models.eomt.image_processing_pil_eomt import EomtImageProcessorPil
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

from offseg_hf import OffSegConfig, OffSegForSemanticSegmentation
from offseg_hf.model_types import predicted_labels
from offseg_hf.models.image_processing_offseg import OffSegImageProcessor
from offseg_hf.prediction import windows as windows_module
from offseg_hf.prediction.label_maps import predict_label_map
from offseg_hf.prediction.photos import find_images
from offseg_hf.prediction.windows import label_maps_in_bands, sliding_window_logits

TINY = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 2, 2]}
OFFSEG = {**TINY, "decoder_hidden_size": 16}


def tiny_offseg(num_labels):
    torch.manual_seed(0)
    return OffSegForSemanticSegmentation(OffSegConfig(num_labels=num_labels, **OFFSEG))


@pytest.fixture
def photo():
    noise = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((90, 61), Image.Resampling.BICUBIC)


def expected_label_map(model, image_processor, photo):
    """Upsample all logits to the photo's size, then take the largest."""
    with torch.no_grad():
        logits = model.eval()(**image_processor(images=photo, return_tensors="pt")).logits
    size = (photo.height, photo.width)
    return torch.nn.functional.interpolate(logits, size, mode="bilinear", align_corners=False).argmax(dim=1)[0].numpy()


@pytest.mark.parametrize("size", [{"height": 64, "width": 96}, {"shortest_edge": 48, "longest_edge": 64}])
def test_label_map_is_the_largest_upsampled_logit_at_the_photos_size(photo, size):
    model, image_processor = tiny_offseg(5), OffSegImageProcessor(size=size)
    label_map = predict_label_map(model, image_processor, photo)
    assert label_map.dtype == np.uint8
    assert len(np.unique(label_map)) > 1
    np.testing.assert_array_equal(label_map, expected_label_map(model, image_processor, photo))


def test_label_map_of_a_native_segformer(photo):
    torch.manual_seed(0)
    model = SegformerForSemanticSegmentation(SegformerConfig(num_labels=5, decoder_hidden_size=16, **TINY))
    image_processor = SegformerImageProcessorPil(size={"height": 64, "width": 96})
    label_map = predict_label_map(model, image_processor, photo)
    np.testing.assert_array_equal(label_map, expected_label_map(model, image_processor, photo))


def test_label_map_of_a_model_that_classifies_masks_is_the_one_that_is_measured(photo):
    model, image_processor = tiny_mask2former(num_labels=3), OffSegImageProcessor(size={"height": 64, "width": 96})
    pixel_values = image_processor(images=photo, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        scores = torch.nn.functional.interpolate(scores_of(model.eval(), pixel_values), (61, 90), mode="bilinear")
    assert_largest(torch.from_numpy(predict_label_map(model, image_processor, photo).astype(int))[None], scores)


def test_label_map_of_a_photo_that_the_image_processor_cuts_into_patches(photo):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_blocks": 1, "num_queries": 4}
    config = EomtConfig(**sizes, image_size=32, patch_size=8, num_upscale_blocks=1, num_labels=3)
    model, size = EomtForUniversalSegmentation(config).eval(), {"shortest_edge": 32, "longest_edge": None}
    image_processor = EomtImageProcessorPil(size=size, do_split_image=True, do_pad=False)
    inputs = image_processor(images=photo, return_tensors="pt")
    assert len(inputs["pixel_values"]) > 1
    with torch.no_grad():
        outputs = model(**inputs)
    expected = image_processor.post_process_semantic_segmentation(outputs, target_sizes=[(61, 90)])[0]
    np.testing.assert_array_equal(predict_label_map(model, image_processor, photo), expected)


@pytest.mark.parametrize(("num_labels", "dtype"), [(256, np.uint8), (257, np.uint16)])
def test_label_map_has_as_many_bits_as_the_classes_need(photo, num_labels, dtype):
    torch.manual_seed(0)
    model = SegformerForSemanticSegmentation(SegformerConfig(num_labels=num_labels, decoder_hidden_size=16, **TINY))
    with torch.no_grad():
        model.decode_head.classifier.bias[num_labels - 1] = 1e3
    label_map = predict_label_map(model, SegformerImageProcessorPil(size={"height": 32, "width": 32}), photo)
    assert label_map.dtype == dtype
    assert np.unique(label_map).tolist() == [num_labels - 1]


def test_label_map_of_a_single_class_holds_0_and_1(photo):
    model = tiny_offseg(1)
    image_processor = OffSegImageProcessor(size={"height": 64, "width": 96})
    with torch.no_grad():
        logits = model.eval()(**image_processor(images=photo, return_tensors="pt")).logits
        model.decode_head.offset_learning.mask_norm.bias -= logits.median()
    assert np.unique(predict_label_map(model, image_processor, photo)).tolist() == [0, 1]


def test_label_map_of_a_bfloat16_model(photo):
    label_map = predict_label_map(tiny_offseg(3).bfloat16(), OffSegImageProcessor(size=32), photo)
    assert label_map.shape == (61, 90)


def test_label_map_is_that_of_evaluation_mode_while_training(photo):
    model, image_processor = tiny_offseg(5).train(), OffSegImageProcessor(size=64)
    label_map = predict_label_map(model, image_processor, photo)
    np.testing.assert_array_equal(label_map, expected_label_map(model, image_processor, photo))


def test_every_part_stays_in_its_mode(photo):
    model = tiny_offseg(3).train()
    model.segformer.eval()
    before = [module.training for module in model.modules()]
    predict_label_map(model, OffSegImageProcessor(size=32), photo)
    assert [module.training for module in model.modules()] == before


def test_every_part_stays_in_its_mode_when_the_model_fails(photo):
    model = OffSegForSemanticSegmentation(OffSegConfig(num_channels=1, **OFFSEG)).train()
    with pytest.raises(RuntimeError, match="channels"):
        predict_label_map(model, OffSegImageProcessor(size=32), photo)
    assert all(module.training for module in model.modules())


def test_photo_comes_out_upright_when_its_file_lies_on_the_side(photo, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.save(tmp_path / "photo.png", exif=exif)
    label_map = predict_label_map(tiny_offseg(3), OffSegImageProcessor(size=32), tmp_path / "photo.png")
    assert label_map.shape == (90, 61)


def test_missing_photo_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.jpg"):
        predict_label_map(tiny_offseg(3), OffSegImageProcessor(size=32), tmp_path / "none.jpg")


def test_predicted_labels_are_the_models():
    assert predicted_labels(OffSegConfig(id2label={0: "road", 1: "sky"}, **OFFSEG)) == {0: "road", 1: "sky"}


def test_predicted_labels_of_a_single_class_name_the_background():
    assert predicted_labels(OffSegConfig(id2label={0: "crack"}, **OFFSEG)) == {0: "background", 1: "crack"}


def test_find_images_sorts_a_folder_and_leaves_out_what_is_no_image(tmp_path):
    for name in ("b.PNG", "a.jpg", "notes.txt", ".hidden.png"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in find_images(tmp_path)[0]] == ["a.jpg", "b.PNG"]


def test_find_images_takes_a_file_of_any_suffix(tmp_path):
    (tmp_path / "photo.dat").touch()
    assert find_images(str(tmp_path / "photo.dat")) == ([tmp_path / "photo.dat"], [])


def test_find_images_raises_when_nothing_is_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="`input` must be an image file or a folder of them, and there is no"):
        find_images(tmp_path / "nothing")


def test_find_images_raises_when_a_folder_has_no_image(tmp_path):
    with pytest.raises(
        FileNotFoundError,
        match=r"`input` must be a folder with images that Pillow opens, .* has none: name .*sub-folders",
    ):
        find_images(tmp_path)


# Sliding windows


def scores_of(model, pixel_values):
    """Logits; of models that classify masks, the sum of the queries' masks, weighted by their classes."""
    outputs = model(pixel_values)
    if hasattr(outputs, "logits"):
        return outputs.logits
    classes = outputs.class_queries_logits.softmax(dim=-1)[..., :-1].transpose(1, 2)  # (B, K, Q)
    masks = outputs.masks_queries_logits.sigmoid()  # (B, Q, h, w)
    return (classes @ masks.flatten(2)).unflatten(2, masks.shape[2:])


@torch.no_grad()
def expected_logits(model, pixel_values, window_size=None, stride=None):
    """Every pixel by itself: the mean of what the windows over it say."""
    (height, width), upsampled = pixel_values.shape[2:], {}
    window_size, stride = window_size or (height, width), stride or (height, width)
    for top in {min(index * stride[0], max(height - window_size[0], 0)) for index in range(height)}:
        for left in {min(index * stride[1], max(width - window_size[1], 0)) for index in range(width)}:
            window = pixel_values[:, :, top : top + window_size[0], left : left + window_size[1]]
            logits = scores_of(model.eval(), window)
            upsampled[top, left] = torch.nn.functional.interpolate(logits, window.shape[2:], mode="bilinear")
    pixels = []
    for row in range(height):
        for column in range(width):
            over = [
                logits[:, :, row - top, column - left]
                for (top, left), logits in upsampled.items()
                if 0 <= row - top < window_size[0] and 0 <= column - left < window_size[1]
            ]
            pixels.append(torch.stack(over).mean(dim=0))
    return torch.stack(pixels, dim=2).unflatten(2, (height, width))


def assert_largest(label_maps, scores):
    """Each id has the largest score, up to rounding."""
    found = scores.gather(1, label_maps[:, None])[:, 0]
    assert (scores.amax(dim=1) - found).max() < 1e-5
    assert (label_maps == scores.argmax(dim=1)).float().mean() > 0.99


def photos(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("size", "window_size", "stride"),
    [
        ((96, 128), (64, 64), (32, 64)),  # windows fit
        ((75, 110), (64, 48), (30, 48)),  # the last ones are shifted back
        ((64, 101), (64, 64), (7, 64)),  # one row
        ((40, 50), (64, 64), (32, 32)),  # the photo is smaller
        ((40, 90), (64, 64), (64, 32)),  # in one direction
    ],
)
def test_sliding_windows_give_the_mean_over_the_windows(size, window_size, stride):
    model, pixel_values = tiny_offseg(5), photos(2, 3, *size)
    logits = sliding_window_logits(model, pixel_values, window_size, stride)
    torch.testing.assert_close(logits, expected_logits(model, pixel_values, window_size, stride), rtol=0, atol=1e-5)


def test_sliding_windows_over_a_model_that_classifies_masks():
    model, pixel_values = tiny_mask2former(num_labels=3), photos(1, 3, 64, 90)
    scores = sliding_window_logits(model, pixel_values, (64, 64), (32, 32))
    torch.testing.assert_close(scores, expected_logits(model, pixel_values, (64, 64), (32, 32)), rtol=0, atol=1e-5)
    assert_largest(label_maps_in_bands(model, [pixel_values], (64, 90), 64, 32), scores)


def test_sliding_windows_are_square_when_a_number_is_given():
    model, pixel_values = tiny_offseg(3), photos(1, 3, 80, 80)
    logits = sliding_window_logits(model, pixel_values, 64, 32)
    assert torch.equal(logits, sliding_window_logits(model, pixel_values, (64, 64), (32, 32)))


def test_sliding_windows_over_a_model_in_training_and_bfloat16():
    model, pixel_values = tiny_offseg(3).train().bfloat16(), photos(1, 3, 64, 80)
    logits = sliding_window_logits(model, pixel_values, 64, 32)
    assert logits.dtype == torch.float32 and logits.shape == (1, 3, 64, 80) and model.training
    expected = expected_logits(model, pixel_values.bfloat16(), (64, 64), (32, 32)).float()
    torch.testing.assert_close(logits, expected, rtol=0, atol=0.1)


@pytest.mark.parametrize("stride", [0, (65, 32), (32, 65), None])
def test_stride_that_leaves_gaps_raises(stride):
    with pytest.raises(ValueError, match="`stride` must be from 1 to the `window_size` down and across, got"):
        sliding_window_logits(tiny_offseg(3), photos(1, 3, 128, 128), 64, stride)


def test_stride_without_windows_raises(photo):
    with pytest.raises(ValueError, match="`window_size` must be given where `stride` is, got 32 alone"):
        predict_label_map(tiny_offseg(3), OffSegImageProcessor(size=64), photo, stride=32)


# Label maps in bands


@pytest.fixture(params=[1, 4000], ids=["row by row", "band by band"])
def bands(request, monkeypatch):
    monkeypatch.setattr(windows_module, "MAX_BAND_VALUES", request.param)


@pytest.mark.parametrize("size", [(75, 110), (150, 97), (31, 40)])
@pytest.mark.parametrize("windows", [(None, None), ((64, 48), (30, 48))], ids=["whole", "windows"])
def test_label_maps_in_bands_are_the_largest_logits_resized(bands, size, windows):
    model, pixel_values = tiny_offseg(5), photos(2, 3, 75, 110)
    logits = expected_logits(model, pixel_values, *windows)
    scores = torch.nn.functional.interpolate(logits, size, mode="bilinear")
    label_maps = label_maps_in_bands(model, [pixel_values], size, *windows)
    assert label_maps.shape == (2, *size)
    assert_largest(label_maps, scores)


def test_label_maps_of_several_views_are_those_of_the_mean_probability(bands):
    model, size = tiny_offseg(5), (70, 90)
    views = [photos(1, 3, 64, 80), photos(1, 3, 96, 120)]
    probabilities = []
    for pixel_values in views:
        for mirrored in (False, True):
            given = pixel_values.flip(-1) if mirrored else pixel_values
            logits = torch.nn.functional.interpolate(
                expected_logits(model, given, (64, 64), (40, 40)), size, mode="bilinear"
            )
            probabilities.append((logits.flip(-1) if mirrored else logits).softmax(dim=1))
    label_maps = label_maps_in_bands(model, views, size, (64, 64), (40, 40), flip=True)
    assert_largest(label_maps, torch.stack(probabilities).sum(dim=0))


def test_label_maps_of_several_views_of_masks_are_those_of_the_mean_score():
    model, pixel_values = tiny_mask2former(num_labels=3), photos(1, 3, 64, 96)
    scores = expected_logits(model, pixel_values) + expected_logits(model, pixel_values.flip(-1)).flip(-1)
    assert_largest(label_maps_in_bands(model, [pixel_values], (64, 96), flip=True), scores)


@pytest.mark.parametrize("flip", [False, True])
def test_label_maps_of_a_single_class_hold_1_where_it_is_likely(flip):
    model, pixel_values = tiny_offseg(1), photos(1, 3, 64, 96)
    with torch.no_grad():
        model.decode_head.offset_learning.mask_norm.bias -= expected_logits(model, pixel_values).median()
    probabilities = expected_logits(model, pixel_values).sigmoid()
    if flip:
        probabilities = (probabilities + expected_logits(model, pixel_values.flip(-1)).sigmoid().flip(-1)) / 2
    label_maps = label_maps_in_bands(model, [pixel_values], (64, 96), flip=flip)
    assert label_maps.unique().tolist() == [0, 1]
    assert ((label_maps == (probabilities[:, 0] > 0.5)) | ((probabilities[:, 0] - 0.5).abs() < 1e-6)).all()


def test_label_maps_in_bands_keep_far_less_than_all_logits(monkeypatch):
    monkeypatch.setattr(windows_module, "MAX_BAND_VALUES", 2**16)
    held = []

    class LargestTensor(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
            result = function(*arguments, **(keywords or {}))
            held.append(
                max((t.numel() for t in torch.utils._pytree.tree_leaves(result) if torch.is_tensor(t)), default=0)
            )
            return result

    model, pixel_values = tiny_offseg(100), torch.zeros(1, 3, 768, 128)
    with LargestTensor():
        label_maps = label_maps_in_bands(model, [pixel_values], (768, 128), 64, 64)
    assert label_maps.shape == (1, 768, 128)
    assert max(held) <= pixel_values.numel() < 100 * 768 * 128 / 30  # nothing is larger than the photo itself


def test_label_map_of_a_photo_in_windows(photo):
    model, image_processor = tiny_offseg(5), OffSegImageProcessor(size={"shortest_edge": 72, "longest_edge": 200})
    label_map = predict_label_map(model, image_processor, photo, window_size=(64, 64), stride=(32, 32))
    pixel_values = image_processor(images=photo, return_tensors="pt")["pixel_values"]
    logits = expected_logits(model, pixel_values, (64, 64), (32, 32))
    assert label_map.dtype == np.uint8 and label_map.shape == (61, 90)
    scores = torch.nn.functional.interpolate(logits, (61, 90), mode="bilinear")
    assert_largest(torch.from_numpy(label_map.astype(int))[None], scores)
