"""Rows of a head follow the names of classes, wherever a model starts from another or goes on."""

import pytest
import torch
from tiny_models import (
    tiny_backbone_model,
    tiny_efficientformer,
    tiny_mask2former,
    tiny_offseg,
    tiny_segnext,
)
from transformers import (
    SegformerConfig,
    SegformerForSemanticSegmentation,
    UperNetConfig,
    UperNetForSemanticSegmentation,
)

from offseg_hf.training.arguments import SegmentationTrainingArguments
from offseg_hf.training.class_rows import logger
from offseg_hf.training.model import create_model
from offseg_hf.training.trainer import SegmentationTrainer

OLD = {0: "sky", 1: "road", 2: "car", 3: "tree"}
TURNED = {0: "car", 1: "sky", 2: "tree", 3: "road"}
ORDER = [2, 0, 3, 1]  # of the old rows in the new head
SEGFORMER = {
    "hidden_sizes": (8, 8, 16, 16), "depths": (1, 1, 1, 1), "num_attention_heads": (1, 1, 2, 2),
    "decoder_hidden_size": 16,
}  # fmt: skip


def tiny_segformer(**fields):
    torch.manual_seed(0)
    return SegformerForSemanticSegmentation(SegformerConfig(**SEGFORMER, **fields))


def tiny_upernet(**fields):
    """With an auxiliary head."""
    torch.manual_seed(0)
    backbone = {
        "model_type": "convnext", "depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 16, 16],
        "out_features": ["stage1", "stage2", "stage3", "stage4"],
    }  # fmt: skip
    config = UperNetConfig(backbone_config=backbone, hidden_size=16, auxiliary_in_channels=16, **fields)
    return UperNetForSemanticSegmentation(config)


@pytest.fixture
def said(monkeypatch):
    """The lines that are logged."""
    lines: list[str] = []
    monkeypatch.setattr(logger, "warning", lines.append)
    return lines


def predicted(model):
    """Scores by class, (K, …); of models that classify masks, those of their queries."""
    torch.manual_seed(1)
    with torch.no_grad():
        output = model.eval()(pixel_values=torch.randn(1, 3, 64, 64))
    scores = output["logits"] if "logits" in output else output["class_queries_logits"].movedim(-1, 1)
    return scores[0]


@pytest.mark.parametrize(
    "make",
    [
        tiny_offseg,
        lambda **fields: tiny_offseg(logit_normalization="fitted_layer_norm", **fields),
        tiny_segnext,
        tiny_efficientformer,
        tiny_backbone_model,
        tiny_mask2former,
        tiny_segformer,
        tiny_upernet,
    ],
)
def test_each_class_is_predicted_as_before_when_the_order_is_another(make, tmp_path):
    model = make(id2label=dict(OLD))
    for parameter in model.parameters():  # biases that start at 0 would hide that they stay
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, 1, 0.1)
    model.save_pretrained(tmp_path)
    started = create_model(None, str(tmp_path), dict(TURNED))
    torch.testing.assert_close(predicted(started)[:4], predicted(model)[ORDER], atol=1e-4, rtol=1e-4)
    assert dict(started.config.id2label) == TURNED


def test_rows_of_new_names_start_anew_and_the_line_says_so(tmp_path, said):
    model = tiny_segformer(id2label=dict(OLD))
    model.save_pretrained(tmp_path)
    started = create_model(None, str(tmp_path), {0: "car", 1: "pole", 2: "sky", 3: "bus"})
    old, new = (each.decode_head.classifier.weight for each in (model, started))
    assert torch.equal(new[0], old[2]) and torch.equal(new[2], old[0])
    assert not any(torch.equal(new[1], row) for row in old) and not torch.equal(new[3], old[3])
    (line,) = said
    assert line.startswith(f"the classes of {tmp_path} have other names or another order and are matched by name: ")
    assert line.endswith("kept car, sky; initialised anew pole, bus")


def test_numbers_for_names_are_taken_in_their_order_and_the_line_says_so(tmp_path, said):
    tiny_segformer(num_labels=4).save_pretrained(tmp_path)
    started = create_model(None, str(tmp_path), dict(OLD))
    assert torch.equal(
        started.decode_head.classifier.weight, tiny_segformer(num_labels=4).decode_head.classifier.weight
    )
    assert said == [f"the classes of {tmp_path} have no names here or there, and are taken in their order"]


def test_nothing_is_said_where_the_names_are_the_same_or_the_head_is_new(tmp_path, said):
    tiny_segformer(id2label=dict(OLD)).save_pretrained(tmp_path)
    create_model(None, str(tmp_path), dict(OLD))
    create_model(None, str(tmp_path), {0: "car", 1: "sky"})
    assert not said


def test_classifiers_that_offset_learning_replaces_are_matched_too(tmp_path):
    model = tiny_segformer(id2label=dict(OLD))
    model.save_pretrained(tmp_path)
    started = create_model(None, str(tmp_path), dict(TURNED), add_offset_learning=True)
    torch.testing.assert_close(predicted(started), predicted(model)[ORDER])


def test_weights_of_classes_follow_their_names(tmp_path):
    tiny_offseg(id2label=dict(OLD), class_weights=[1.0, 2.0, 3.0, 4.0]).save_pretrained(tmp_path)
    assert create_model(None, str(tmp_path), dict(TURNED)).config.class_weights == [3.0, 1.0, 4.0, 2.0]
    given = create_model(None, str(tmp_path), dict(TURNED), class_weights=[1.0, 2.0, 3.0, 4.0])
    assert list(given.config.class_weights) == [1.0, 2.0, 3.0, 4.0]


# Resuming


def trainer_of(folder, id2label, labels, **values):
    defaults = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "warmup_steps": 0, "learning_rate": 1e-3}
    quiet = {"disable_tqdm": True, "use_cpu": True, "dataloader_pin_memory": False, "batch_norm": "frozen"}
    args = SegmentationTrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=2, train_sampling_strategy="sequential",
        **{**defaults, **quiet, **values},
    )  # fmt: skip
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    data = [{"pixel_values": photo, "labels": mask} for photo, mask in zip(pixels, labels)]
    model = tiny_offseg(num_labels=len(id2label), id2label=dict(id2label), drop_path_rate=0.0)
    return SegmentationTrainer(model, args, train_dataset=data)


@pytest.mark.parametrize("optim", ["adamw_torch", "sgd", "adafactor"])
def test_a_training_resumes_with_classes_in_another_order_as_it_would_in_the_first(tmp_path, optim):
    """The optimizer's memory included; the masks' ids are in the new order too."""
    labels = torch.randint(0, 4, (2, 64, 64), generator=torch.Generator().manual_seed(0))
    turned = torch.tensor([ORDER.index(label) for label in range(4)])[labels]
    whole = trainer_of(tmp_path, OLD, labels, optim=optim)
    whole.train()
    part = trainer_of(tmp_path / "part", TURNED, turned, optim=optim)
    part.train(resume_from_checkpoint=tmp_path / "checkpoint-2")
    tolerance = 1e-2 if optim == "adafactor" else 1e-4  # whose memory of these rows, in factors, begins anew
    torch.testing.assert_close(predicted(part.model), predicted(whole.model)[ORDER], atol=tolerance, rtol=tolerance)


def test_a_training_does_not_resume_with_more_classes(tmp_path):
    labels = torch.zeros(2, 64, 64, dtype=torch.int64)
    trainer_of(tmp_path, OLD, labels).train()
    with pytest.raises(ValueError, match=r"`labels` must be as many as the 4 classes of .*sky, road, car, tree, got"):
        trainer_of(tmp_path / "part", {**OLD, 4: "bus"}, labels).train(
            resume_from_checkpoint=tmp_path / "checkpoint-2"
        )
    create_model(None, str(tmp_path / "checkpoint-2"), {**OLD, 4: "bus"})  # as the message says
