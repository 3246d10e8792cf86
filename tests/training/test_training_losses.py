"""Losses that train.py is asked for: in the model's configuration, and so in its loss and on disk."""

import pytest
import torch

from offseg_hf import OffSegConfig, OffSegForSemanticSegmentation
from offseg_hf.data import estimate_class_weights, load_segmentation_dataset
from offseg_hf.data.scenes.scenes import SCENE_LABELS, write_scenes
from offseg_hf.training.arguments import SegmentationTrainingArguments
from offseg_hf.training.from_arguments import trainer_from_arguments
from offseg_hf.training.options import DataArguments, ModelArguments

TINY = {"hidden_sizes": (8, 8, 16, 16), "depths": (1, 1, 1, 1), "num_attention_heads": (1, 1, 2, 2)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Scenes to train on, and a tiny model to start from."""
    folder = tmp_path_factory.mktemp("losses")
    write_scenes(folder / "scenes", num_train=6, num_validation=1, size=(64, 96))
    torch.manual_seed(0)
    config = OffSegConfig(**TINY, decoder_hidden_size=16, num_labels=len(SCENE_LABELS))
    OffSegForSemanticSegmentation(config).save_pretrained(folder / "start")
    return folder


def trainer(folder, output_dir, streaming=False, **losses):
    model_args = ModelArguments(model_name_or_path=str(folder / "start"), labels=",".join(SCENE_LABELS), **losses)
    data_args = DataArguments(
        dataset=[str(folder / "scenes")], streaming=streaming, eval_split="none", crop_size=[64, 64], resize=[96, 64]
    )
    quiet = {"use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "warmup_steps": 0}
    args = SegmentationTrainingArguments(
        output_dir=str(output_dir), max_steps=2, per_device_train_batch_size=2, **quiet
    )
    return trainer_from_arguments(model_args, data_args, args)


def test_losses_asked_for_are_trained_with_and_saved(folder, tmp_path):
    losses = {
        "label_smoothing": 0.1,
        "ohem_threshold": 0.7,
        "ohem_min_kept": 1000,
        "cross_entropy_loss_weight": 0.5,
        "dice_loss_weight": 3.0,
    }
    weights = [1.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.5]
    run = trainer(folder, tmp_path, class_weights=[str(weight) for weight in weights], **losses)
    run.train()
    run.save_model()
    assert OffSegConfig.from_pretrained(tmp_path).loss_settings == {**losses, "class_weights": weights}


def test_losses_are_the_defaults_when_none_is_asked_for(folder, tmp_path):
    assert trainer(folder, tmp_path).model.config.loss_settings == OffSegConfig().loss_settings


@pytest.mark.parametrize("streaming", [False, True])
def test_class_weights_are_estimated_from_the_training_split(folder, streaming, tmp_path):
    run = trainer(folder, tmp_path, streaming, class_weights=["auto"], class_weights_examples=4)
    data = load_segmentation_dataset(str(folder / "scenes"), "train", streaming=streaming)
    assert run.model.config.class_weights == estimate_class_weights(data, len(SCENE_LABELS), max_examples=4)


def test_error_when_class_weights_are_neither_numbers_nor_auto(folder, tmp_path):
    with pytest.raises(ValueError, match="`class_weights` must be numbers or 'auto', got sky 2; pass"):
        trainer(folder, tmp_path, class_weights=["sky", "2"])


def test_error_when_label_smoothing_is_asked_of_the_trainer(tmp_path):
    with pytest.raises(ValueError, match=r"`label_smoothing_factor` must be 0, .* got 0.1; set `label_smoothing`"):
        SegmentationTrainingArguments(output_dir=str(tmp_path), label_smoothing_factor=0.1)
