import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import tiny_offseg
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from offseg_hf import OffSegConfig, OffSegForSemanticSegmentation
from offseg_hf.commands.predict import ANNOTATION_FORMATS, main
from offseg_hf.data import open_labelled_dataset
from offseg_hf.models.image_processing_offseg import OffSegImageProcessor
from offseg_hf.prediction.annotations.writing import FORMATS
from offseg_hf.prediction.label_maps import predict_label_map

TINY = {
    "hidden_sizes": [8, 8, 16, 16],
    "depths": [1, 1, 1, 1],
    "num_attention_heads": [1, 1, 2, 2],
    "decoder_hidden_size": 16,
}


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    OffSegForSemanticSegmentation(OffSegConfig(id2label=dict(enumerate("abc")), **TINY)).save_pretrained(folder)
    OffSegImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, size in (("one.jpg", (40, 56)), ("two.png", (33, 70))):
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / name)
    return folder


@pytest.fixture
def output(tmp_path):
    return tmp_path / "segmented"


def run(model, photos, output, *options):
    return main(["--model", str(model), "--input", str(photos), "--output", str(output), *options])


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_folder_gives_a_label_map_and_an_overlay_for_each_photo(model_folder, photos, output):
    assert run(model_folder, photos, output) == 0
    assert names(output) == ["one_labels.png", "one_overlay.jpg", "two_labels.png", "two_overlay.jpg"]


def test_label_map_holds_the_predicted_ids_in_8_bits(model_folder, photos, output):
    assert run(model_folder, photos / "two.png", output) == 0
    model = OffSegForSemanticSegmentation.from_pretrained(model_folder)
    expected = predict_label_map(model, OffSegImageProcessor.from_pretrained(model_folder), photos / "two.png")
    label_map = Image.open(output / "two_labels.png")
    assert label_map.mode == "L"
    np.testing.assert_array_equal(np.asarray(label_map), expected)


def test_label_map_is_that_of_sliding_windows_when_asked_for(model_folder, photos, output, tmp_path):
    model, image_processor = OffSegForSemanticSegmentation.from_pretrained(model_folder), OffSegImageProcessor(size=64)
    model.save_pretrained(tmp_path / "model")
    image_processor.save_pretrained(tmp_path / "model")
    assert run(tmp_path / "model", photos / "two.png", output, "--window_size", "32", "48", "--stride", "16", "8") == 0
    expected = predict_label_map(model, image_processor, photos / "two.png", (32, 48), (16, 8))
    np.testing.assert_array_equal(np.asarray(Image.open(output / "two_labels.png")), expected)
    assert (expected != predict_label_map(model, image_processor, photos / "two.png")).any()


def test_windows_that_leave_gaps_are_refused(model_folder, photos, output, capsys):
    assert run(model_folder, photos, output, "--window_size", "32", "32", "--stride", "32", "33") == 2
    assert "`--stride` must be from 1 to the `--window_size`" in capsys.readouterr().err
    assert not output.exists()


def test_overlay_is_the_photo_above_a_legend(model_folder, photos, output):
    assert run(model_folder, photos / "two.png", output) == 0
    picture = Image.open(output / "two_overlay.jpg")
    assert picture.width >= 70
    assert picture.height > 33


def test_label_map_has_16_bits_when_there_are_more_than_256_classes(photos, output, tmp_path):
    model = SegformerForSemanticSegmentation(SegformerConfig(num_labels=300, **TINY))
    with torch.no_grad():
        model.decode_head.classifier.bias[299] = 1e3
    model.save_pretrained(tmp_path / "native")
    OffSegImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "native")
    assert run(tmp_path / "native", photos / "one.jpg", output) == 0
    label_map = Image.open(output / "one_labels.png")
    assert label_map.mode == "I;16"
    assert np.unique(np.asarray(label_map)).tolist() == [299]


def test_results_stay_when_they_exist(model_folder, photos, output, capsys):
    output.mkdir()
    (output / "two_overlay.jpg").write_text("mine")
    assert run(model_folder, photos, output) == 2
    assert "`--output` must not hold results already" in capsys.readouterr().err
    assert names(output) == ["two_overlay.jpg"]
    assert (output / "two_overlay.jpg").read_text() == "mine"


def test_existing_results_are_found_before_the_model_is_loaded(photos, output, capsys):
    output.mkdir()
    (output / "two_overlay.jpg").touch()
    assert run("no-such-model", photos, output) == 2
    assert "`--output`" in capsys.readouterr().err


def test_results_are_replaced_with_overwrite(model_folder, photos, output):
    output.mkdir()
    (output / "two_overlay.jpg").write_text("old")
    assert run(model_folder, photos, output, "--overwrite") == 0
    assert Image.open(output / "two_overlay.jpg").format == "JPEG"


def test_photos_stay_when_a_result_would_take_their_place(model_folder, photos, capsys):
    (photos / "one.jpg").rename(photos / "two_labels.png")
    before = (photos / "two_labels.png").read_bytes()
    assert run(model_folder, photos, photos, "--overwrite") == 2
    assert "`--output` must be another folder than the photos'" in capsys.readouterr().err
    assert (photos / "two_labels.png").read_bytes() == before


def test_corrupt_photo_is_named_and_the_others_are_done(model_folder, photos, output, capsys):
    (photos / "bad.jpg").write_bytes((photos / "one.jpg").read_bytes()[:300])
    assert run(model_folder, photos, output) == 1
    captured = capsys.readouterr()
    assert "bad.jpg" in captured.err
    assert "2 of 3 photos" in captured.out
    assert names(output) == ["one_labels.png", "one_overlay.jpg", "two_labels.png", "two_overlay.jpg"]


def test_photos_that_differ_only_in_suffix_are_refused(model_folder, photos, output, capsys):
    (photos / "two.png").rename(photos / "one.png")
    assert run(model_folder, photos, output) == 2
    assert "one.jpg and one.png would be written to the same files" in capsys.readouterr().err
    assert not output.exists()


def test_output_that_is_a_file_is_refused(model_folder, photos, output, capsys):
    output.write_text("mine")
    assert run(model_folder, photos, output) == 2
    assert "`--output` must be a folder" in capsys.readouterr().err


def test_missing_input_is_named(model_folder, output, capsys, tmp_path):
    assert run(model_folder, tmp_path / "nothing", output) == 2
    assert "there is no" in capsys.readouterr().err


def test_folder_without_a_model_is_named(photos, output, capsys, tmp_path):
    (tmp_path / "empty").mkdir()
    assert run(tmp_path / "empty", photos, output) == 2
    assert "`--model` must be a model's folder, and there is no config.json in" in capsys.readouterr().err
    assert not output.exists()


def test_device_that_is_not_there_is_named(model_folder, photos, output, capsys):
    assert run(model_folder, photos, output, "--device", "cuda:99") == 2
    assert run(model_folder, photos, output, "--device", "abacus") == 2
    assert capsys.readouterr().err.count("error: `--device` must be one that torch can use here, cpu, got") == 2
    assert not output.exists()


def test_broken_weights_are_one_sentence(model_folder, photos, output, tmp_path, capsys):
    shutil.copytree(model_folder, tmp_path / "broken")
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"no weights")
    assert run(tmp_path / "broken", photos, output) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("offseg predict: error: `--model` must be a folder")
    assert not output.exists()


def test_photo_that_cannot_be_segmented_is_named_and_the_others_are_done(
    model_folder, photos, output, monkeypatch, capsys
):
    from offseg_hf.models.modeling_offseg import OffSegForSemanticSegmentation

    forward = OffSegForSemanticSegmentation.forward

    def fail_on_white(self, pixel_values, **inputs):
        if pixel_values.min() > 2:
            raise KeyError("white")  # of a kind that nobody thought of
        return forward(self, pixel_values, **inputs)

    monkeypatch.setattr(OffSegForSemanticSegmentation, "forward", fail_on_white)
    Image.new("RGB", (40, 40), "white").save(photos / "white.png")
    assert run(model_folder, photos, output) == 1
    printed = capsys.readouterr()
    assert "white.png: 'white'" in printed.err
    assert "2 of 3 photos" in printed.out
    assert names(output) == ["one_labels.png", "one_overlay.jpg", "two_labels.png", "two_overlay.jpg"]


@pytest.mark.parametrize("name", ANNOTATION_FORMATS)
def test_annotations_for_a_tool_are_read_again_as_the_same_label_maps(model_folder, photos, output, name):
    assert run(model_folder, photos, output, "--format", name) == 0
    annotations = shutil.copytree(photos, output / "annotations", dirs_exist_ok=True)
    if name == "label-studio":  # what is predicted counts when a person has accepted it there
        tasks = json.loads((annotations / "tasks.json").read_text())
        tasks = [{"data": task["data"], "annotations": task["predictions"]} for task in tasks]
        (annotations / "tasks.json").write_text(json.dumps(tasks))
    labelled = open_labelled_dataset(annotations, names=list("abc"))
    assert labelled.format == name
    for mask in labelled.masks("train"):
        with Image.open(output / f"{mask.labelled.photo.stem}_labels.png") as label_map:
            assert np.array_equal(mask.draw(), np.array(label_map))


def test_annotations_that_exist_are_kept(model_folder, photos, output, capsys):
    annotations = output / "annotations" / "one.json"
    annotations.parent.mkdir(parents=True)
    annotations.write_text("mine")
    assert run(model_folder, photos, output, "--format", "labelme") == 2
    assert "annotations/one.json` must not be there already" in capsys.readouterr().err
    assert annotations.read_text() == "mine" and not (output / "one_labels.png").exists()
    assert run(model_folder, photos, output, "--format", "labelme", "--overwrite") == 0


def test_formats_of_annotations_are_those_that_can_be_written():
    assert set(ANNOTATION_FORMATS) == set(FORMATS)


def test_photos_of_every_format_that_pillow_opens_are_taken_and_the_rest_is_named(
    model_folder, photos, output, capsys
):
    for name, image_format in (("c.avif", "AVIF"), ("d.jfif", "JPEG"), ("e.jp2", "JPEG2000"), ("f.tga", "TGA")):
        Image.open(photos / "two.png").save(photos / name, image_format)
    (photos / "g.heic").write_bytes(b"unknown")
    (photos / "notes.txt").touch()
    assert run(model_folder, photos, output) == 0
    printed = capsys.readouterr()
    assert "6 of 6 photos segmented" in printed.out
    assert "left out, since Pillow opens no pictures of their kinds: 2 files (g.heic, notes.txt)" in printed.err
    assert {f"{stem}_labels.png" for stem in "cdef"} < set(names(output))


@pytest.mark.parametrize("size", [(4000, 3), (3, 4000), (1, 900), (900, 1), (1, 1)])
@pytest.mark.parametrize("kind", ["offseg", "segformer"])
def test_narrow_photos_get_label_maps_of_their_size(kind, size, photos, output, tmp_path):
    config = SegformerConfig(num_labels=3, **TINY)
    model = SegformerForSemanticSegmentation(config) if kind == "segformer" else tiny_offseg(num_labels=3)
    model.save_pretrained(tmp_path / "model")
    OffSegImageProcessor(size={"longest_edge": 256, "shortest_edge": 64}).save_pretrained(tmp_path / "model")
    Image.new("RGB", size).save(photos / "line.png")
    assert run(tmp_path / "model", photos / "line.png", output) == 0
    assert Image.open(output / "line_labels.png").size == size


def test_weights_that_give_no_numbers_are_an_error_of_each_photo(model_folder, photos, output, capsys, tmp_path):
    model = OffSegForSemanticSegmentation.from_pretrained(model_folder)
    with torch.no_grad():  # finite weights whose products are not
        for parameter in model.decode_head.parameters():
            parameter.fill_(1e30)
    shutil.copytree(model_folder, tmp_path / "model")
    model.save_pretrained(tmp_path / "model")
    assert run(tmp_path / "model", photos, output) == 1
    printed = capsys.readouterr()
    assert "0 of 2 photos" in printed.out
    assert "one.jpg: `logits` must be finite numbers" in printed.err
    assert "two.png: `logits` must be finite numbers" in printed.err
    assert names(output) == []


def test_photos_of_12_bits_need_their_white(model_folder, photos, output, capsys):
    grey = np.asarray(Image.open(photos / "two.png").convert("L")).astype(np.uint16)
    for photo in photos.iterdir():
        photo.unlink()
    Image.fromarray(grey * 16 + 15).save(photos / "raw.tif")  # 255 becomes 4095
    assert run(model_folder, photos, output) == 1
    assert "which value is white, 255, 1023, 4095 or another, with `--max_value`" in capsys.readouterr().err
    assert run(model_folder, photos, output, "--max_value", "4095") == 0
    Image.fromarray(grey).save(photos / "plain.png")
    assert run(model_folder, photos, output, "--max_value", "4095", "--overwrite") == 0  # 8 bits stay 8 bits


def test_limit_of_pixels_is_stated_and_lifted(model_folder, photos, output, capsys, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 600)
    assert run(model_folder, photos / "one.jpg", output) == 1
    assert "must have at most 1,200 pixels" in (message := capsys.readouterr().err)
    assert "`--max_pixels`" in message
    assert run(model_folder, photos / "one.jpg", output, "--max_pixels", "5000") == 0
