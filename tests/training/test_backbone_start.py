"""A training that starts from an encoder: the model, how photos are normalised, and what is refused."""

import json

import numpy as np
import pytest
import torch
from transformers import (
    AutoImageProcessor,
    ConvNextImageProcessorPil,
    ConvNextV2Config,
    ConvNextV2ForImageClassification,
    EfficientNetImageProcessorPil,
    LevitConfig,
    LevitModel,
)

from offseg_hf import OffSegBackboneForSemanticSegmentation, OffSegMask2FormerConfig
from offseg_hf.data.scenes.scenes import SCENE_LABELS, write_scenes
from offseg_hf.models.image_processing_offseg import OffSegImageProcessor
from offseg_hf.training.arguments import SegmentationTrainingArguments
from offseg_hf.training.from_arguments import trainer_from_arguments
from offseg_hf.training.model import backbone_normalization, create_model, native_image_processor
from offseg_hf.training.options import DataArguments, ModelArguments
from offseg_hf.training.recipes import read_recipe

ID2LABEL = dict(enumerate(SCENE_LABELS))


def save_encoder(folder, **normalization):
    """A classifier, as encoders are published, and how photos for it are normalised."""
    torch.manual_seed(0)
    model = ConvNextV2ForImageClassification(ConvNextV2Config(depths=[1] * 4, hidden_sizes=[8, 8, 16, 16]))
    model.save_pretrained(folder)
    if normalization:
        ConvNextImageProcessorPil(**normalization).save_pretrained(folder)
    return model.convnextv2.state_dict()


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("data") / "scenes", num_train=4, num_validation=2, size=(64, 96))


def trainer_on(backbone, scenes, folder, **values):
    data_args = DataArguments(dataset=[str(scenes)], crop_size=[64, 64], resize=[96, 64])
    args = SegmentationTrainingArguments(
        output_dir=str(folder), use_cpu=True, disable_tqdm=True, max_steps=2, warmup_steps=1,
        per_device_train_batch_size=2, save_strategy="no",
    )  # fmt: skip
    model_args = ModelArguments(backbone=str(backbone), labels=",".join(SCENE_LABELS), **values)
    return trainer_from_arguments(model_args, data_args, args)


def test_model_has_the_encoders_weights_and_a_head_for_the_classes(tmp_path):
    encoder = save_encoder(tmp_path)
    model = create_model(None, None, ID2LABEL, backbone=str(tmp_path), decoder_hidden_size=16, label_smoothing=0.1)
    assert isinstance(model, OffSegBackboneForSemanticSegmentation)
    found = model.backbone.state_dict()
    shared = encoder.keys() & found.keys()
    assert len(shared) > 40 and all(torch.equal(found[name], encoder[name]) for name in shared)
    assert (model.config.id2label, model.config.label2id["road"]) == (ID2LABEL, SCENE_LABELS.index("road"))
    assert (model.config.decoder_hidden_size, model.config.label_smoothing) == (16, 0.1)


@pytest.mark.parametrize(
    ("others", "named"),
    [
        ({"variant": "offseg-b0"}, "`variant`"),
        ({"model_name_or_path": "nvidia/mit-b0"}, "`model_name_or_path`"),
        ({"add_offset_learning": True}, "`add_offset_learning`"),
        ({"trust_remote_code": True}, "`trust_remote_code`"),
        ({"variant": "offseg-b0", "add_offset_learning": True}, "`variant`, `add_offset_learning`"),
    ],
)
def test_error_when_a_backbone_is_given_besides_something_else(others, named):
    arguments = {"variant": None, "model_name_or_path": None, **others}
    with pytest.raises(
        ValueError, match=f"^`backbone` must come without {named}, since .*got encoder; leave out"
    ) as e:
        create_model(id2label=ID2LABEL, backbone="encoder", **arguments)
    assert str(e.value).count(". ") == 0


def test_error_when_the_type_has_no_backbone(tmp_path):
    LevitModel(LevitConfig(hidden_sizes=[16, 16, 16], depths=[1, 1, 1])).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"`backbone` must be of a type that AutoBackbone .*'levit'"):
        create_model(None, None, ID2LABEL, backbone=str(tmp_path))


def test_error_when_a_field_is_not_of_a_model_on_a_backbone(tmp_path):
    with pytest.raises(ValueError, match="`freeze_batch_norm` must be left out, since models of type offseg_backbone"):
        create_model(None, None, ID2LABEL, backbone=str(tmp_path), freeze_batch_norm=True)


def test_photos_are_normalised_as_the_encoder_has_learned_and_the_rest_is_ours(scenes, tmp_path, capsys):
    normalization = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7], "rescale_factor": 1 / 127}
    save_encoder(tmp_path / "encoder", **normalization, size={"shortest_edge": 32})
    trainer = trainer_on(tmp_path / "encoder", scenes, tmp_path / "model")
    trainer.save_model()
    assert "normalised" not in capsys.readouterr().out
    saved = AutoImageProcessor.from_pretrained(tmp_path / "model")
    for processor in (trainer.processing_class, saved):
        assert [*processor.image_mean] == normalization["image_mean"]
        assert [*processor.image_std] == normalization["image_std"] and processor.rescale_factor == 1 / 127
        assert dict(processor.size) == {"longest_edge": 96, "shortest_edge": 64}
    grey = np.full((64, 96, 3), 127, dtype=np.uint8)
    pixels = saved(images=grey, return_tensors="pt")["pixel_values"][0, :, 0, 0]
    torch.testing.assert_close(pixels, torch.tensor([(1 - 0.1) / 0.5, (1 - 0.2) / 0.6, (1 - 0.3) / 0.7]))
    for dataset in (trainer.train_dataset, trainer.eval_dataset):  # black becomes −mean/std, with ImageNet's about −2
        pixels = dataset[0]["pixel_values"]
        lowest = torch.tensor([-0.1 / 0.5, -0.2 / 0.6, -0.3 / 0.7])
        assert (pixels.amin((1, 2)) >= lowest - 1e-5).all()


def test_photos_are_not_normalised_where_the_encoders_were_not_and_are_drawn_as_they_are(scenes, tmp_path, capsys):
    save_encoder(tmp_path / "encoder")
    settings = json.dumps({"do_rescale": False, "do_normalize": False})  # and no mean
    (tmp_path / "encoder" / "preprocessor_config.json").write_text(settings)
    trainer = trainer_on(tmp_path / "encoder", scenes, tmp_path / "model")
    assert "normalised" not in capsys.readouterr().out
    example = trainer.eval_dataset[0]
    assert example["pixel_values"].max() > 2  # grey levels of 255
    from offseg_hf.training.callbacks import PredictionSheets

    (sheets,) = [c for c in trainer.callback_handler.callbacks if isinstance(c, PredictionSheets)]
    drawn = np.asarray(sheets._photo(example)).transpose(2, 0, 1)
    np.testing.assert_allclose(drawn, example["pixel_values"].numpy().round())


def test_photos_are_normalised_as_imagenets_with_a_line_when_the_encoder_does_not_say(scenes, tmp_path, capsys):
    save_encoder(tmp_path / "encoder")
    trainer = trainer_on(tmp_path / "encoder", scenes, tmp_path / "model")
    assert list(trainer.processing_class.image_mean) == [0.485, 0.456, 0.406]
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "normalised" in line]
    assert line.endswith("encoder does not say how photos are normalised: by ImageNet's mean and deviation")


def test_normalization_is_read_from_the_hub(hub, tmp_path):
    for name, settings in (
        ("org/with", {"image_mean": [0.5] * 3, "size": 7, "do_normalize": True}),
        ("org/none", None),
    ):
        files = {"config.json": b"{}"}
        if settings is not None:
            files["preprocessor_config.json"] = json.dumps(settings).encode()
        hub.create(name, files=files)
    assert backbone_normalization("org/with") == {"image_mean": [0.5] * 3, "do_normalize": True}
    assert backbone_normalization("org/none") == {}


def test_normalization_of_timms_weights_is_in_their_configuration(tmp_path):
    pretrained_cfg = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "crop_pct": 0.95}
    config = {"architecture": "resnet18", "pretrained_cfg": pretrained_cfg}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert backbone_normalization(str(tmp_path)) == {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}


@pytest.mark.parametrize("do_normalize", [True, False])
@pytest.mark.parametrize("include_top", [True, False])
def test_pixels_are_those_of_efficientnets_processor(tmp_path, include_top, do_normalize):
    theirs = EfficientNetImageProcessorPil(
        do_resize=False, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4],
        include_top=include_top, do_normalize=do_normalize,
    )  # fmt: skip
    theirs.save_pretrained(tmp_path)
    ours = OffSegImageProcessor(do_resize=False, **backbone_normalization(str(tmp_path)))
    photo = np.random.default_rng(0).integers(0, 256, (32, 64, 3), dtype=np.uint8)
    found, expected = (each(images=photo, return_tensors="pt")["pixel_values"] for each in (ours, theirs))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_defaults_of_efficientnets_processor_hold_where_its_file_leaves_them_out(tmp_path):
    (tmp_path / "preprocessor_config.json").write_text('{"feature_extractor_type": "EfficientNetFeatureExtractor"}')
    assert backbone_normalization(str(tmp_path)) == {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}


@pytest.mark.parametrize("name", ["rescale_offset", "do_flip_channel_order"])
def test_error_when_the_encoders_pixels_cannot_be_made(tmp_path, name):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({name: True}))
    with pytest.raises(ValueError, match=f"`{name}` must be false in preprocessor_config.json of .*; choose another"):
        backbone_normalization(str(tmp_path))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({name: False}))
    assert backbone_normalization(str(tmp_path)) == {}


@pytest.mark.parametrize("name", ["lora_rank", "freeze_backbone"])
def test_error_when_there_are_no_weights_to_start_from(scenes, tmp_path, name):
    model_args = ModelArguments(variant="offseg-b0", num_labels=4, lora_rank=8 if name == "lora_rank" else None)
    args = SegmentationTrainingArguments(str(tmp_path), use_cpu=True, freeze_backbone=name == "freeze_backbone")
    match = f"`{name}` must come with `model_name_or_path` or `backbone`, .*; give weights to start from"
    with pytest.raises(ValueError, match=match):
        trainer_from_arguments(model_args, DataArguments(dataset=[str(scenes)]), args)


def test_recipe_of_a_model_on_a_backbone_is_that_of_offsegs_head():
    assert read_recipe("ade20k", "offseg_backbone") == read_recipe("ade20k-segformer")


def test_native_processor_of_models_that_classify_masks_rescales_and_normalises_as_the_training_did():
    ours = OffSegImageProcessor(do_rescale=False, do_normalize=False)
    native = native_image_processor(OffSegMask2FormerConfig(id2label=ID2LABEL), ours)
    assert (native.do_rescale, native.do_normalize) == (False, False)
