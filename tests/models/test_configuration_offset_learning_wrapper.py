"""OffsetLearningConfig: one truth about classes, shared with the base's configuration."""

import json

import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, SegformerConfig, SwinConfig, UperNetConfig

from offseg_hf import OffsetLearningConfig


def test_defaults_are_a_segformer_b0_and_a_bias_per_class():
    config = OffsetLearningConfig()
    assert type(config.base_config) is SegformerConfig and list(config.base_config.hidden_sizes) == [32, 64, 160, 256]
    assert (config.classifier, config.logit_normalization) == (None, "class_bias")


def test_configuration_is_unchanged_when_saved_and_loaded(tmp_path):
    config = OffsetLearningConfig(
        base_config=UperNetConfig(num_labels=5, loss_ignore_index=7),
        classifier="decode_head.classifier",
        logit_normalization="layer_norm",
    )
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is OffsetLearningConfig and type(loaded.base_config) is UperNetConfig
    assert loaded.to_dict() | {"_name_or_path": ""} == config.to_dict()
    assert loaded.semantic_loss_ignore_index == 7


def test_names_of_the_classes_stand_at_the_top_of_the_file(tmp_path):
    OffsetLearningConfig(base_config=SegformerConfig(id2label={0: "sky", 1: "road"})).save_pretrained(tmp_path)
    file = json.loads((tmp_path / "config.json").read_text())
    assert file["id2label"] == {"0": "sky", "1": "road"} and file["label2id"] == {"sky": 0, "road": 1}


def classes(config):
    return config.num_labels, config.id2label, config.label2id


def test_classes_are_the_bases_whichever_is_changed():
    config = OffsetLearningConfig(base_config=SegformerConfig(num_labels=5))
    assert config.num_labels == 5
    config.id2label = {0: "sky", 1: "road", 2: "car"}
    assert classes(config) == classes(config.base_config)
    assert config.label2id == {"sky": 0, "road": 1, "car": 2}
    config.base_config.num_labels = 4
    assert classes(config) == classes(config.base_config) and config.num_labels == 4


@pytest.mark.parametrize(
    ("given", "id2label"),
    [
        ({}, {0: "a", 1: "b", 2: "c"}),
        ({"num_labels": 3}, {0: "a", 1: "b", 2: "c"}),
        ({"num_labels": 2}, {0: "LABEL_0", 1: "LABEL_1"}),
        ({"id2label": {0: "x", 1: "y"}}, {0: "x", 1: "y"}),
        ({"id2label": {"0": "x", "1": "y"}, "num_labels": 2}, {0: "x", 1: "y"}),
        ({"id2label": {0: "x", 1: "y", 2: "z"}}, {0: "x", 1: "y", 2: "z"}),
    ],
)
def test_classes_of_the_caller_replace_those_of_a_file(given, id2label, tmp_path):
    OffsetLearningConfig(base_config=SegformerConfig(id2label={0: "a", 1: "b", 2: "c"})).save_pretrained(tmp_path)
    config = OffsetLearningConfig.from_pretrained(tmp_path, **given)
    assert (
        classes(config)
        == classes(config.base_config)
        == (len(id2label), id2label, {v: k for k, v in id2label.items()})
    )


def test_label2id_of_the_caller_is_kept(tmp_path):
    names = {"sky": 0, "heaven": 0, "road": 1}
    config = OffsetLearningConfig(base_config=SegformerConfig(id2label={0: "sky", 1: "road"}), label2id=names)
    config.save_pretrained(tmp_path)
    assert OffsetLearningConfig.from_pretrained(tmp_path).base_config.label2id == names


@pytest.mark.parametrize(
    ("base_config", "name"),
    [(SegformerConfig(), "semantic_loss_ignore_index"), (UperNetConfig(), "loss_ignore_index")],
)
def test_ignore_index_is_the_bases_whatever_its_name(base_config, name, tmp_path):
    OffsetLearningConfig(base_config=base_config).save_pretrained(tmp_path)
    config = OffsetLearningConfig.from_pretrained(tmp_path, semantic_loss_ignore_index=-1)
    assert config.semantic_loss_ignore_index == getattr(config.base_config, name) == -1


def test_configuration_given_stays_as_it_is():
    base_config = SegformerConfig(num_labels=5)
    assert OffsetLearningConfig(base_config=base_config, num_labels=3).num_labels == 3
    assert base_config.num_labels == 5


def test_fields_of_the_base_are_changed_by_their_names(tmp_path):
    OffsetLearningConfig(base_config=SegformerConfig(num_labels=5)).save_pretrained(tmp_path)
    config = OffsetLearningConfig.from_pretrained(tmp_path, base_config={"drop_path_rate": 0.3})
    assert (config.base_config.drop_path_rate, config.num_labels) == (0.3, 5)


def test_attention_implementations_of_the_base_are_left_alone_unless_one_is_given():
    base_config = UperNetConfig(backbone_config=SwinConfig())
    base_config._attn_implementation = {"": "eager", "backbone_config": "sdpa"}
    kept = OffsetLearningConfig(base_config=base_config)
    assert kept._attn_implementation == kept.base_config._attn_implementation == "eager"
    assert kept.base_config.backbone_config._attn_implementation == "sdpa"
    given = OffsetLearningConfig(base_config=base_config, attn_implementation="eager")
    assert given.base_config.backbone_config._attn_implementation == "eager"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"logit_normalization": "batch_norm"},
            "`logit_normalization` must be one of layer_norm, .* got 'batch_norm'",
        ),
        (
            {"logit_normalization": "layer_norm", "num_labels": 2},
            "`logit_normalization` must be 'class_bias' for fewer",
        ),
        ({"classifier": 4}, "Field 'classifier' expected str, got int"),
        ({"base_config": "segformer"}, "Field 'base_config' expected dict, got str"),
    ],
)
def test_error_names_the_field(fields, message):
    with pytest.raises(StrictDataclassError, match=message):
        OffsetLearningConfig(**{"base_config": SegformerConfig(num_labels=4), **fields})


def test_error_when_num_labels_and_id2label_disagree():
    with pytest.raises(ValueError, match="`num_labels` must equal the number of entries of `id2label`, got 3 and 1"):
        OffsetLearningConfig(num_labels=3, id2label={0: "sky"})


def test_error_when_the_type_of_the_base_is_unknown():
    with pytest.raises(ValueError, match="`base_config` must be of a `model_type` that is registered, got 'nonesuch'"):
        OffsetLearningConfig(base_config={"model_type": "nonesuch"})
