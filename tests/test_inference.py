import numpy as np
import pytest
import torch
from PIL import Image
from transformers import SegformerConfig, SegformerForSemanticSegmentation
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

from offseg_hf import OffSegConfig, OffSegForSemanticSegmentation
from offseg_hf.inference import find_images, predict_label_map, predicted_labels
from offseg_hf.models.image_processing_offseg import OffSegImageProcessor

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
    assert [path.name for path in find_images(tmp_path)] == ["a.jpg", "b.PNG"]


def test_find_images_takes_a_file_of_any_suffix(tmp_path):
    (tmp_path / "photo.dat").touch()
    assert find_images(str(tmp_path / "photo.dat")) == [tmp_path / "photo.dat"]


def test_find_images_raises_when_nothing_is_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="`source` must be an image file or a folder of them"):
        find_images(tmp_path / "nothing")


def test_find_images_raises_when_a_folder_has_no_image(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"`source` must hold image files \(.bmp, .*sub-folders"):
        find_images(tmp_path)
