"""OffSegMask2FormerConfig: its fields on disk, what it reads of a plain Mask2Former's, its errors."""

import json

import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, Mask2FormerConfig, SwinConfig

from offseg_hf.models.configuration_offseg_mask2former import OffSegMask2FormerConfig

AutoConfig.register(OffSegMask2FormerConfig.model_type, OffSegMask2FormerConfig, exist_ok=True)

SWIN = {"model_type": "swin", "embed_dim": 8, "depths": [1, 2, 3, 4], "out_features": ["stage2", "stage4"]}
NAMES = {0: "sky", 1: "road", 2: "car"}


def test_defaults_are_those_of_mask2former():
    ours, native = OffSegMask2FormerConfig().to_dict(), Mask2FormerConfig().to_dict()
    assert ours.pop("model_type") == "offseg_mask2former" and native.pop("model_type") == "mask2former"
    assert ours == native


def test_every_field_survives_saving_and_loading(tmp_path):
    config = OffSegMask2FormerConfig(
        backbone_config=SWIN, num_queries=7, mask_feature_size=64, ignore_value=-1, id2label=NAMES
    )
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is OffSegMask2FormerConfig and type(loaded.backbone_config) is SwinConfig
    assert (loaded.backbone_config.depths, loaded.backbone_config.out_features) == ([1, 2, 3, 4], ["stage2", "stage4"])
    assert loaded.to_diff_dict() == config.to_diff_dict()


def test_plain_mask2former_file_is_read_whole_but_for_its_type(tmp_path):
    names = {"id2label": NAMES, "label2id": {"sky": 0, "road": 1, "car": 2}}
    native = Mask2FormerConfig(backbone_config=SWIN, num_queries=7, dice_weight=3.0, **names)
    native.save_pretrained(tmp_path)
    fields = OffSegMask2FormerConfig.from_pretrained(tmp_path).to_dict()
    assert fields.pop("model_type") == "offseg_mask2former"
    assert fields == {
        name: value
        for name, value in Mask2FormerConfig.from_pretrained(tmp_path).to_dict().items()
        if name != "model_type"
    }
    assert (fields["num_queries"], fields["dice_weight"], fields["id2label"]) == (7, 3.0, NAMES)


def test_ignore_index_has_one_value_and_two_names(tmp_path):
    config = OffSegMask2FormerConfig()
    assert config.semantic_loss_ignore_index == config.ignore_value == 255
    config = OffSegMask2FormerConfig(semantic_loss_ignore_index=-1)
    assert config.ignore_value == -1
    config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["ignore_value"] == -1 and "semantic_loss_ignore_index" not in saved
    assert OffSegMask2FormerConfig.from_pretrained(tmp_path, semantic_loss_ignore_index=-2).ignore_value == -2


def test_label2id_follows_id2label():
    assert OffSegMask2FormerConfig(id2label=NAMES).label2id == {"sky": 0, "road": 1, "car": 2}


@pytest.mark.parametrize("config_class", [OffSegMask2FormerConfig, Mask2FormerConfig])
def test_names_follow_the_number_of_classes_that_a_file_is_loaded_with(config_class, tmp_path):
    config_class(id2label=NAMES).save_pretrained(tmp_path)
    assert OffSegMask2FormerConfig.from_pretrained(tmp_path, num_labels=3).id2label == NAMES
    renewed = OffSegMask2FormerConfig.from_pretrained(tmp_path, num_labels=2)
    assert renewed.id2label == {0: "LABEL_0", 1: "LABEL_1"}
    given = OffSegMask2FormerConfig.from_pretrained(tmp_path, id2label={0: "wall", 1: "door"})
    assert (given.id2label, given.label2id) == ({0: "wall", 1: "door"}, {"wall": 0, "door": 1})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_labels": 0}, "`num_labels` must be at least 1, got 0"),
        (
            {"num_labels": 3, "id2label": {0: "sky", 1: "road"}},
            "`num_labels` must equal the number of entries of `id2label`, got 3 and 2; leave out `num_labels`",
        ),
        (
            {"id2label": {0: "sky", 2: "road"}},
            r"`id2label` must name the ids 0 to 1 without a gap, got the ids \[0, 2\]",
        ),
        (
            {"num_labels": 300},
            "`semantic_loss_ignore_index` must not be one of the 300 class ids, got 255; pass -1",
        ),
    ],
)
def test_error_when_fields_contradict_each_other(fields, message):
    with pytest.raises((ValueError, StrictDataclassError), match=message):
        OffSegMask2FormerConfig(**fields)


def test_error_when_a_field_has_the_wrong_type():
    with pytest.raises(StrictDataclassError, match="num_queries"):
        OffSegMask2FormerConfig(num_queries="100")
