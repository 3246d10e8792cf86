"""The card tells what was recorded, and leaves out what was not."""

import re

import pytest
from huggingface_hub import ModelCard
from transformers import ResNetConfig, SegformerConfig

from offseg_hf import (
    OffSegBackboneConfig,
    OffSegConfig,
    OffSegMask2FormerConfig,
    OffSegSegNextConfig,
    OffsetLearningConfig,
)
from offseg_hf.publishing.card import model_card

CONFIG = OffSegConfig(id2label={0: "sky", 1: "road", 2: "left|right"})
TRAINING = {
    "origin": "random",
    "variant": "offseg-b0",
    "dataset": ["data/camvid"],
    "dataset_id": None,
    "train_split": "train",
    "steps": 1500,
    "images_per_step": 8,
    "learning_rate": 6e-5,
    "head_learning_rate_factor": 10.0,
    "warmup_steps": 75,
    "lr_decay_power": 0.9,
    "max_grad_norm": 0.01,
    "lora_rank": None,
    "crop_size": [360, 480],
    "photometric_distortion": True,
}
EVALUATION = {
    "dataset": ["data/camvid"],
    "dataset_id": None,
    "split": "test",
    "mean_iou": 0.41236,
    "mean_accuracy": 0.5,
    "overall_accuracy": 0.9,
    "iou_sky": 0.8,
    "iou_left|right": 0.02,
}


def card(config=CONFIG, training=None, evaluations=(), **options):
    return ModelCard(model_card("org/model", config, 1234567, training or {}, list(evaluations), **options))


def rows_of(card):
    """The rows of the card's tables, without the spaces that make columns line up and the lines below headers."""
    rows = [re.sub(" +", " ", line) for line in card.text.splitlines() if line.startswith("|")]
    return [row for row in rows if "---" not in row]


def test_card_holds_only_what_is_always_known_when_nothing_was_recorded():
    bare = card()
    assert bare.data.to_dict() == {
        "library_name": "transformers",
        "pipeline_tag": "image-segmentation",
        "tags": ["semantic-segmentation", "offset-learning"],
    }
    headings = [line for line in bare.text.splitlines() if line.startswith("#")]
    assert headings == ["# model", "## Use", "## Licences", "## Limits", "## Citation"]
    assert "None" not in bare.content and "No measurement was recorded" in bare.text
    assert "1,234,567 parameters" in bare.text and "Classes: sky, road, left|right." in bare.text


def test_recipe_has_a_row_for_each_recorded_number():
    assert rows_of(card(training=TRAINING)) == [
        "| | |",
        "| Steps | 1,500, of 8 images each |",
        "| Learning rate | 6e-05 for the encoder, 10 times that for the head |",
        "| Schedule | linear warm-up over 75 steps, then decay to 0 with power 0.9 |",
        "| Gradients | clipped at a norm of 0.01 |",
        "| Crop (height × width) | 360 × 480 pixels |",
        "| Photometric distortion | yes |",
    ]
    assert "Trained from random weights on camvid, split `train`." in card(training=TRAINING).text


def test_rows_of_what_was_not_used_are_left_out():
    unused = dict.fromkeys(("other_schedule", "other_optimizer", "layer_decay", "learning_rate_of_head_alone"))
    assert rows_of(card(training={**TRAINING, **unused})) == rows_of(card(training=TRAINING))
    other = {"learning_rate": None, "learning_rate_of_head_alone": 2e-3, "layer_decay": 0.75}
    assert rows_of(card(training={**TRAINING, **other}))[2:4] == [
        "| Learning rate | 0.002 for the head; the encoder stays as it was |",
        "| Layer-wise decay | the encoder's rate falls by the factor 0.75 with each block, from the head down |",
    ]


ENCODER = {"name": "org/encoder", "is_hub_id": True, "license": "mit", "source": "a paper's page"}


def test_encoder_is_named_with_its_source_and_licence():
    named = card(training=TRAINING | {"origin": "org/encoder", "encoder": ENCODER}, license="cc-by-4.0")
    link = "[org/encoder](https://huggingface.co/org/encoder) (a paper's page)"
    assert f"Trained from the encoder {link}, with a head whose weights were random, on camvid" in named.text
    assert f"- The weights of the encoder {link}, from which these derive: `mit`." in named.text
    assert "- The weights: `cc-by-4.0`." in named.text and named.data.base_model == "org/encoder"


def test_licence_of_an_encoder_that_is_not_known_is_said_to_be_unknown():
    encoder = {"name": "mine", "is_hub_id": False, "license": None, "source": None}
    named = card(training=TRAINING | {"origin": None, "encoder": encoder})
    assert "the encoder `mine`, from which these derive: it is not known under which licence they are" in named.text
    assert "None" not in named.content


@pytest.mark.parametrize(
    ("encoders", "given", "license", "name"),
    [
        ("mit", None, "mit", None),
        ("mit", "cc-by-4.0", "cc-by-4.0", None),
        ("cc-by-nc-4.0", None, "cc-by-nc-4.0", None),
        ("cc-by-nc-4.0", "cc-by-nc-4.0", "cc-by-nc-4.0", None),
        ("cc-by-nc-4.0", "other", "other", None),
        ("dinov3-license", None, "other", "dinov3-license"),
        ("dinov3-license", "other", "other", "dinov3-license"),
        ("other", None, "other", None),
        (None, None, None, None),
        (None, "mit", "mit", None),
    ],
)
def test_licence_is_the_encoders_unless_another_is_given(encoders, given, license, name):
    metadata = card(training=TRAINING | {"encoder": ENCODER | {"license": encoders}}, license=given).data
    assert (metadata.license, metadata.license_name) == (license, name)


@pytest.mark.parametrize("encoders", ["cc-by-nc-4.0", "dinov3-license", "other"])
def test_weights_of_an_encoder_whose_licence_is_not_permissive_take_no_other_licence(encoders):
    match = (
        f"^`license` must be '{encoders}', 'other' or left out, since the weights derive from the encoder .*'mit'.$"
    )
    with pytest.raises(ValueError, match=match):
        card(training=TRAINING | {"encoder": ENCODER | {"license": encoders}}, license="mit")


def test_encoder_of_which_only_the_licence_is_known_is_not_called_the_start():
    encoder = {"name": None, "is_hub_id": False, "license": "mit", "source": "a paper's page"}
    text = card(training=TRAINING | {"origin": "org/model", "encoder": encoder}).text
    assert "Trained from [org/model](https://huggingface.co/org/model) on camvid" in text
    assert "- The weights of the encoder (a paper's page), from which these derive: `mit`." in text


def test_results_are_in_the_metadata_and_in_tables():
    measured = card(training=TRAINING, evaluations=[EVALUATION])
    (result, *_) = [each for each in measured.data.eval_results if each.metric_type == "mean_iou"]
    assert (result.metric_value, result.dataset_name, result.dataset_split) == (0.4124, "camvid", "test")
    assert len(measured.data.eval_results) == 3 and measured.data.metrics == ["mean_iou"]
    assert rows_of(measured)[-8:] == [
        "| | camvid, test |",
        "| Mean IoU | 0.4124 |",
        "| Mean accuracy | 0.5000 |",
        "| Pixel accuracy | 0.9000 |",
        "| IoU by class | camvid, test |",
        "| sky | 0.8000 |",
        "| road | |",
        r"| left\|right | 0.0200 |",
    ]


@pytest.mark.parametrize(
    ("record", "given", "name"),
    [
        ({"dataset": ["data/camvid"]}, None, "camvid"),
        ({"dataset": ["data/camvid"]}, "CamVid", "CamVid"),
        ({"dataset": ["/home/me/camvid/val-*.parquet"]}, None, "camvid"),
        ({"dataset": ["org/camvid"], "dataset_id": "org/camvid"}, None, "org/camvid"),
        ({"dataset": ["http://host/{split}-*.parquet"]}, None, None),
        ({"dataset": ["*.parquet"]}, None, None),
        ({"dataset": ["data/other"]}, "CamVid", "other"),  # the name given is that of the training data
    ],
)
def test_data_set_is_called_by_what_is_known_of_it(record, given, name):
    training = TRAINING if record["dataset"] == ["data/other"] else {}
    named = card(training=training, evaluations=[EVALUATION | record], dataset_name=given)
    assert (named.data.eval_results[0].dataset_name if named.data.eval_results else None) == name
    assert named.data.datasets == (["org/camvid"] if record.get("dataset_id") else None)
    assert "/home/me" not in named.content and "host" not in named.content


def test_weights_of_nvidia_are_named_with_their_licence():
    derived = card(training=TRAINING | {"origin": "nvidia/mit-b0"})
    assert (derived.data.license, derived.data.license_name, derived.data.base_model) == (
        "other", "nvidia-segformer", "nvidia/mit-b0",
    )  # fmt: skip
    assert derived.data.license_link.startswith("https://github.com/NVlabs/SegFormer/")
    assert "non-commercial use only" in derived.text
    assert "Trained from [nvidia/mit-b0](https://huggingface.co/nvidia/mit-b0) on camvid" in derived.text


def test_weights_of_the_authors_are_named_with_their_licence():
    derived = card(training={"origin": "authors"})
    assert (derived.data.license, derived.data.license_name, derived.data.base_model) == ("other", None, None)
    assert "The weights derive from a checkpoint of the method's authors" in derived.text
    assert "Converted from a checkpoint of the method's authors." in derived.text


@pytest.mark.parametrize("origin", ["nvidia/mit-b0", "authors"])
def test_non_commercial_weights_take_no_other_licence(origin):
    with pytest.raises(ValueError, match="`license` must be 'other' or left out, since the weights derive from"):
        card(training={"origin": origin}, license="mit")
    assert card(training={"origin": origin}, license="other").data.license == "other"


def test_licence_of_weights_from_scratch_is_the_users_choice():
    assert card(training=TRAINING, license="cc-by-4.0").data.license == "cc-by-4.0"
    assert card(training=TRAINING).data.license is None
    assert "- The weights: `cc-by-4.0`." in card(training=TRAINING, license="cc-by-4.0").text


def test_base_model_can_be_given_where_it_was_not_recorded():
    assert card(base_model="org/base").data.base_model == "org/base"
    assert card(base_model="nvidia/mit-b0").data.license == "other"
    with pytest.raises(ValueError, match=r"`base_model` must be left out where .* began, which is 'random'"):
        card(training=TRAINING, base_model="nvidia/mit-b0")


def test_lines_of_use_fit_the_model():
    assert 'segment("photo.jpg"):' in card().text
    masks = OffSegMask2FormerConfig(id2label={0: "sky", 1: "road"})
    assert 'segment("photo.jpg", subtask="semantic"):' in card(masks).text
    single = card(OffSegConfig(id2label={0: "road"})).text
    assert "pipeline" not in single and "AutoModelForSemanticSegmentation.from_pretrained" in single
    assert "Classes: background, road." in single


def test_architecture_is_named():
    assert "[SegFormer](https://arxiv.org/abs/2105.15203) with [offset learning]" in card(training=TRAINING).text
    assert "(`offseg-b0`)" in card(training=TRAINING).text
    on_backbones = [OffSegBackboneConfig(backbone_config=each) for each in (ResNetConfig(), OffSegSegNextConfig())]
    on_resnet, on_mscan = (card(config).text for config in on_backbones)
    assert "is transformers' `resnet` with [offset learning]" in on_resnet
    assert "is [SegNeXt](https://arxiv.org/abs/2209.08575) with [offset learning]" in on_mscan
    native = SegformerConfig(id2label={0: "sky", 1: "road"}, label2id={"sky": 0, "road": 1})
    wrapped = card(OffsetLearningConfig(base_config=native)).text
    assert "transformers' `segformer` with [offset learning]" in wrapped
    plain = card(native)
    assert "transformers' `segformer`," in plain.text
    assert "offset" not in plain.content and "Citation" not in plain.text
