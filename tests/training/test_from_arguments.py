import math
import shutil

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.torch import save_file
from tiny_models import tiny_mask2former
from transformers import (
    AutoImageProcessor,
    Mask2FormerImageProcessorPil,
    SegformerConfig,
    SegformerForSemanticSegmentation,
)

from offseg_hf import (
    OffSegConfig,
    OffSegForSemanticSegmentation,
    OffSegImageProcessor,
    OffsetLearningForSemanticSegmentation,
)
from offseg_hf.data import TrainTransform, evaluation_dataset, training_dataset
from offseg_hf.data.scenes.scenes import SCENE_LABELS, write_scenes
from offseg_hf.evaluation.metric import SemanticSegmentationMetric
from offseg_hf.models.label_map import upsampled_label_map
from offseg_hf.training.arguments import SegmentationTrainingArguments
from offseg_hf.training.checkpoints import check_output_dir
from offseg_hf.training.from_arguments import (
    image_processor_from_arguments,
    resolved_data_arguments,
    trainer_from_arguments,
)
from offseg_hf.training.model import create_model
from offseg_hf.training.optimization import num_training_steps
from offseg_hf.training.options import DataArguments, ModelArguments
from offseg_hf.training.trainer import SegmentationTrainer

TINY = {"hidden_sizes": (8, 8, 16, 16), "depths": (1, 1, 1, 1), "num_attention_heads": (1, 1, 2, 2)}
ID2LABEL = dict(enumerate(SCENE_LABELS))


def tiny_model(seed=0, **fields):
    torch.manual_seed(seed)
    config = OffSegConfig(**{**TINY, "decoder_hidden_size": 16, "id2label": ID2LABEL, **fields})
    return OffSegForSemanticSegmentation(config)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("data") / "scenes", num_train=12, num_validation=3, size=(64, 96))


@pytest.fixture
def image_processor():
    return OffSegImageProcessor(size={"shortest_edge": 64, "longest_edge": 96})


def train_data(scenes, image_processor, **arguments):
    transform = TrainTransform(crop_size=(64, 64), resize=(96, 64))
    return training_dataset(
        str(scenes),
        "train",
        image_processor=image_processor,
        transform=transform,
        num_labels=len(ID2LABEL),
        shuffle_buffer_size=4,
        **arguments,
    )


def arguments(folder, **values):
    defaults = {"max_steps": 4, "warmup_steps": 1, "per_device_train_batch_size": 2, "learning_rate": 1e-3}
    quiet = {"save_strategy": "no", "disable_tqdm": True, "use_cpu": True, "dataloader_pin_memory": False}
    return SegmentationTrainingArguments(output_dir=str(folder), **{**defaults, **quiet, **values})


# Models that classify masks


def test_mask2former_is_trained_and_measured_and_saved_with_its_native_processor(scenes, image_processor, tmp_path):
    model = tiny_mask2former(id2label=ID2LABEL)
    start = {name: parameter.clone() for name, parameter in model.named_parameters()}
    eval_data = evaluation_dataset(
        str(scenes), "validation", image_processor=image_processor, num_labels=len(ID2LABEL)
    )
    data = train_data(scenes, image_processor)
    run = SegmentationTrainer(
        model,
        arguments(tmp_path, max_steps=2),
        train_dataset=data,
        eval_dataset=eval_data,
        image_processor=image_processor,
    )
    run.train()
    metrics = run.evaluate()
    run.save_model()
    assert any(not torch.equal(parameter, start[name]) for name, parameter in model.named_parameters())
    assert 0 <= metrics["eval_mean_iou"] <= 1 and math.isfinite(metrics["eval_loss"])
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    assert isinstance(processor, Mask2FormerImageProcessorPil)
    pixels = np.random.default_rng(0).integers(0, 256, (90, 160, 3), dtype=np.uint8)
    native, ours = (p(images=pixels, return_tensors="pt")["pixel_values"] for p in (processor, image_processor))
    torch.testing.assert_close(native, ours, rtol=0, atol=1e-5)


def test_offset_learning_is_added_to_any_model(tmp_path):
    torch.manual_seed(0)
    base = SegformerForSemanticSegmentation(SegformerConfig(**TINY, decoder_hidden_size=16, id2label=ID2LABEL)).eval()
    base.save_pretrained(tmp_path)
    model = create_model(None, str(tmp_path), ID2LABEL, add_offset_learning=True).eval()
    assert isinstance(model, OffsetLearningForSemanticSegmentation) and model.config.id2label == ID2LABEL
    pixel_values = torch.randn(1, 3, 64, 64)
    assert torch.equal(model(pixel_values).logits, base(pixel_values).logits)
    with pytest.raises(ValueError, match="`add_offset_learning` must be left out for a `variant`"):
        create_model("segformer-b0", str(tmp_path), ID2LABEL, add_offset_learning=True)


@pytest.mark.parametrize(
    ("variant", "field"),
    [("segformer-b0", "logit_normalization"), ("offseg-b0", "freeze_batch_norm"), ("offseg-mask2former-t", "depth")],
)
def test_error_when_a_field_is_not_the_variants(variant, field):
    with pytest.raises(ValueError, match=f"`{field}` must be left out, since models of type"):
        create_model(variant, None, ID2LABEL, **{field: True})


def test_error_when_a_field_is_not_of_added_offset_learning(tmp_path):
    with pytest.raises(ValueError, match="`attention_loss_weight` must be left out, since models of type"):
        create_model(None, str(tmp_path), ID2LABEL, add_offset_learning=True, attention_loss_weight=0.4)


def test_batch_norm_is_not_frozen_when_weights_are_random():
    assert create_model("offseg-t", None, ID2LABEL).config.freeze_batch_norm is False
    assert create_model("offseg-t", None, ID2LABEL, freeze_batch_norm=True).config.freeze_batch_norm is True


# The schedule


@pytest.mark.parametrize(
    ("values", "steps"),
    [
        ({"max_steps": 7}, 7),
        ({"max_steps": -1, "num_train_epochs": 3}, 18),
        ({"max_steps": -1, "num_train_epochs": 1.5}, 9),
        ({"max_steps": -1, "num_train_epochs": 2, "gradient_accumulation_steps": 4}, 4),
        ({"max_steps": -1, "per_device_train_batch_size": 5, "dataloader_drop_last": True}, 6),
    ],
)
def test_schedule_ends_with_the_training(tmp_path, scenes, image_processor, values, steps):
    args = arguments(tmp_path, **values)
    data = train_data(scenes, image_processor)
    assert num_training_steps(args, data) == steps
    trainer = SegmentationTrainer(tiny_model(), args, train_dataset=data, image_processor=image_processor)
    if steps > 7:
        return
    trainer.train()
    assert trainer.state.global_step == steps
    assert trainer.lr_scheduler.get_last_lr() == pytest.approx([0] * 4)


def test_error_is_raised_when_a_stream_has_no_number_of_steps(tmp_path, scenes, image_processor):
    data = train_data(scenes, image_processor, streaming=True)
    with pytest.raises(ValueError, match=r"`max_steps` must be given for a stream.*`--max_steps 20000`"):
        num_training_steps(arguments(tmp_path, max_steps=-1), data)


def test_error_is_raised_when_predictions_would_be_kept(tmp_path):
    with pytest.raises(ValueError, match="`batch_eval_metrics` True"):
        arguments(tmp_path, batch_eval_metrics=False)


# The model


def test_model_has_random_weights_when_a_variant_is_given():
    model = create_model("offseg-b0", None, {0: "road", 1: "sky", 2: "car"})
    assert isinstance(model, OffSegForSemanticSegmentation)
    assert model.config.hidden_sizes == (32, 64, 160, 256)
    assert model.config.label2id == {"road": 0, "sky": 1, "car": 2}


def test_weights_are_loaded_but_the_head_when_classes_differ(tmp_path):
    base = tiny_model(logit_normalization="layer_norm")
    base.save_pretrained(tmp_path)
    model = create_model(None, str(tmp_path), {0: "road", 1: "sky", 2: "car"})
    assert torch.equal(model.decode_head.convs[0].conv.weight, base.decode_head.convs[0].conv.weight)
    assert model.decode_head.offset_learning.cls_repr.shape[1] == 3
    assert model.config.logit_normalization == "class_bias"
    assert not model.decode_head.offset_learning.mask_norm.bias.any()


def test_published_weights_keep_their_normalization_when_classes_agree(tmp_path):
    tiny_model(logit_normalization="layer_norm").save_pretrained(tmp_path)
    model = create_model(None, str(tmp_path), {i: f"class {i}" for i in ID2LABEL})
    assert model.config.logit_normalization == "layer_norm"
    assert model.config.id2label[0] == "class 0"


def test_error_when_lora_has_no_weights_to_start_from(tmp_path):
    model_args = ModelArguments(variant="offseg-b0", num_labels=4, lora_rank=8)
    with pytest.raises(ValueError, match="`lora_rank` must come with `model_name_or_path` or `backbone`"):
        trainer_from_arguments(model_args, DataArguments(dataset=["nowhere"]), arguments(tmp_path))


def test_error_is_raised_when_neither_variant_nor_weights_are_given():
    with pytest.raises(ValueError, match="`variant`, `model_name_or_path` or `backbone` must be given"):
        create_model(None, None, ID2LABEL)


# The output folder


def test_error_is_raised_when_the_output_folder_is_not_empty(tmp_path):
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(FileExistsError, match="which has no checkpoint to go on from; name another, or pass `--over"):
        check_output_dir(str(tmp_path), None, overwrite=False)
    (tmp_path / "checkpoint-7").mkdir()
    save_file({}, tmp_path / "checkpoint-7" / "model.safetensors")
    (tmp_path / "checkpoint-7" / "trainer_state.json").write_text("{}")
    message = "holds a training up to step 7: pass `--resume_from_checkpoint last` to go on there, or `--overwrite`"
    with pytest.raises(FileExistsError, match=message):
        check_output_dir(str(tmp_path), None, overwrite=False)
    assert check_output_dir(str(tmp_path), None, overwrite=True) is None


def test_newest_checkpoint_is_found_when_asked_for_the_last(tmp_path):
    for step in (10, 9):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        save_file({}, folder / "model.safetensors")
        (folder / "trainer_state.json").write_text("{}")
    assert check_output_dir(str(tmp_path), "last", overwrite=False) == str(tmp_path / "checkpoint-10")


@pytest.mark.parametrize("name", ["last", "nowhere"])
def test_error_is_raised_when_there_is_no_checkpoint(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=f"there is none for '{name}'"):
        check_output_dir(str(tmp_path), name, overwrite=False)


# Training


@pytest.mark.parametrize("streaming", [False, True])
def test_training_goes_on_as_if_uninterrupted_when_resumed(tmp_path, scenes, image_processor, streaming):
    def train(folder, **values):
        model = tiny_model(drop_path_rate=0.3)
        torch.manual_seed(1)
        args = arguments(tmp_path / folder, max_steps=8, **{"save_strategy": "steps", "save_steps": 5, **values})
        trainer = SegmentationTrainer(
            model, args, train_dataset=train_data(scenes, image_processor, streaming=streaming, seed=3)
        )
        return model, trainer

    whole, trainer = train("whole")
    trainer.train()
    shutil.copytree(tmp_path / "whole" / "checkpoint-5", tmp_path / "part" / "checkpoint-5")
    resumed, trainer = train("part")
    trainer.train(resume_from_checkpoint=str(tmp_path / "part" / "checkpoint-5"))

    assert trainer.state.global_step == 8  # in the second pass
    for (name, expected), found in zip(whole.state_dict().items(), resumed.state_dict().values()):
        assert torch.equal(expected, found), name


def test_every_parameter_moves_when_trained(tmp_path, scenes, image_processor):
    model = tiny_model()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    SegmentationTrainer(model, arguments(tmp_path), train_dataset=train_data(scenes, image_processor)).train()
    assert [name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])] == []


def test_loss_falls_when_trained_on_a_stream(tmp_path, scenes, image_processor):
    args = arguments(tmp_path, max_steps=12, learning_rate=3e-3, logging_steps=3)
    trainer = SegmentationTrainer(
        tiny_model(), args, train_dataset=train_data(scenes, image_processor, streaming=True)
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert float(losses[-1]) < 0.8 * float(losses[0])


def test_best_model_is_loaded_whole_at_the_end(tmp_path, scenes, image_processor):
    data = evaluation_dataset(str(scenes), "validation", image_processor=image_processor, num_labels=len(ID2LABEL))
    args = arguments(
        tmp_path, max_steps=4, eval_strategy="steps", eval_steps=2, save_strategy="steps", save_steps=2,
        load_best_model_at_end=True, learning_rate=0.1,
    )  # fmt: skip
    model = tiny_model()
    trainer = SegmentationTrainer(
        model,
        args,
        train_dataset=train_data(scenes, image_processor),
        eval_dataset=data,
        image_processor=image_processor,
    )
    trainer.train()
    best = OffSegForSemanticSegmentation.from_pretrained(trainer.state.best_model_checkpoint)
    for (name, expected), found in zip(best.state_dict().items(), model.state_dict().values()):
        assert torch.equal(expected, found), name


def test_error_names_the_fix_when_labels_do_not_fit(scenes, image_processor):
    with pytest.raises(ValueError, match=r"`masks` must hold ids up to 3 for 4 classes.*`num_labels`"):
        training_dataset(
            str(scenes), "train", image_processor=image_processor, transform=TrainTransform(), num_labels=4
        )


# One and two classes


def chequered_images(num_images, generator):
    cells = torch.randint(0, 2, (num_images, 1, 4, 4), generator=generator)
    labels = cells.repeat_interleave(16, 2).repeat_interleave(16, 3)  # (B, 1, 64, 64)
    tint = torch.tensor([1.0, -1.0, 0.5]).view(1, 3, 1, 1)
    noise = torch.randn(num_images, 3, 64, 64, generator=generator)
    return tint * (labels - 0.5) + 0.5 * noise, labels[:, 0]


@pytest.mark.parametrize("num_labels", [1, 2])
def test_one_and_two_classes_are_learned(num_labels):
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    config = OffSegConfig(**{**TINY, "hidden_sizes": (16, 16, 32, 32)}, decoder_hidden_size=32, num_labels=num_labels)
    model = OffSegForSemanticSegmentation(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(40):
        pixel_values, labels = chequered_images(4, generator)
        model(pixel_values=pixel_values, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    pixel_values, labels = chequered_images(32, generator)
    with torch.no_grad():
        logits = model.eval()(pixel_values=pixel_values).logits
    metric = SemanticSegmentationMetric(num_labels=num_labels)
    results = metric.compute(predictions=upsampled_label_map(logits, (64, 64)), references=labels)
    assert results["mean_iou"] > 0.95


def test_white_of_photos_is_saved_with_the_model():
    data_args = DataArguments(dataset=["photos"], resize=[96, 64], do_reduce_labels=False, max_value=4095)
    assert image_processor_from_arguments(data_args).max_value == 4095


def test_limit_of_pixels_is_set_before_data_is_read(monkeypatch):
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 10)
    resolved_data_arguments(DataArguments(dataset=["photos"], max_pixels=4000))
    assert PIL.Image.MAX_IMAGE_PIXELS == 2000
    with pytest.raises(
        ValueError, match="`max_pixels` must be at least 1, got 0; pass the pixels of the largest photo"
    ):
        resolved_data_arguments(DataArguments(dataset=["photos"], max_pixels=0))
