"""OffSegConfig: its fields on disk, its defaults, its errors."""

import json

import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, SegformerConfig

from offseg_hf import OffSegConfig
from offseg_hf.models.configuration_fields import LOSS_FIELDS


def saved_json(config, folder):
    config.save_pretrained(folder)
    return json.loads((folder / "config.json").read_text())


def test_defaults_are_those_of_b0():
    config = OffSegConfig()
    assert (config.hidden_sizes, config.depths) == ((32, 64, 160, 256), (2, 2, 2, 2))
    assert (config.decoder_hidden_size, config.layer_norm_eps, config.drop_path_rate) == (256, 1e-6, 0.1)


@pytest.mark.parametrize(
    ("num_labels", "expected"),
    [
        *((number, "class_bias") for number in (1, 2, 3, 11, 19)),
        *((number, "fitted_layer_norm") for number in (20, 150, 171)),
    ],
)
def test_logit_normalization_fits_the_number_of_classes_and_is_saved(num_labels, expected, tmp_path):
    config = OffSegConfig(num_labels=num_labels)
    assert config.logit_normalization == expected
    assert saved_json(config, tmp_path)["logit_normalization"] == expected


@pytest.mark.parametrize("normalization", ["layer_norm", "fitted_layer_norm", "class_bias"])
def test_logit_normalization_is_kept_when_given(normalization, tmp_path):
    config = OffSegConfig(num_labels=11, logit_normalization=normalization)
    assert saved_json(config, tmp_path)["logit_normalization"] == normalization
    assert OffSegConfig.from_pretrained(tmp_path).logit_normalization == normalization


def test_every_field_survives_saving_and_loading(tmp_path):
    config = OffSegConfig(
        depths=[1, 2, 3, 4],
        hidden_sizes=[8, 16, 24, 32],
        num_attention_heads=[1, 2, 3, 4],
        decoder_hidden_size=64,
        layer_norm_eps=1e-3,
        logit_normalization="layer_norm",
        attention_loss_weight=0.4,
        semantic_loss_ignore_index=-1,
        label_smoothing=0.1,
        class_weights=[1.0, 0.5, 2],
        ohem_threshold=0.7,
        ohem_min_kept=1000,
        cross_entropy_loss_weight=0.5,
        dice_loss_weight=3,
        id2label={0: "sky", 1: "road", 2: "car"},
    )
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is OffSegConfig
    assert loaded.to_diff_dict() == config.to_diff_dict()


def test_label2id_follows_id2label():
    assert OffSegConfig(id2label={0: "sky", 1: "road"}).label2id == {"sky": 0, "road": 1}


def test_names_are_renewed_when_a_file_is_loaded_with_another_number_of_classes(tmp_path):
    OffSegConfig(id2label={0: "sky", 1: "road", 2: "car"}).save_pretrained(tmp_path)
    config = OffSegConfig.from_pretrained(tmp_path, num_labels=5)
    assert config.id2label == {class_id: f"LABEL_{class_id}" for class_id in range(5)}


def test_names_are_kept_when_a_file_is_loaded_with_its_own_number_of_classes(tmp_path):
    OffSegConfig(id2label={0: "sky", 1: "road", 2: "car"}).save_pretrained(tmp_path)
    assert OffSegConfig.from_pretrained(tmp_path, num_labels=3).id2label == {0: "sky", 1: "road", 2: "car"}


@pytest.mark.parametrize("also", [{}, {"num_labels": 4}], ids=["alone", "with num_labels"])
def test_names_given_replace_those_of_the_file(tmp_path, also):
    OffSegConfig(id2label={0: "sky", 1: "road", 2: "car"}).save_pretrained(tmp_path)
    names = {0: "wall", 1: "floor", 2: "door", 3: "lamp"}
    config = OffSegConfig.from_pretrained(tmp_path, id2label=names, **also)
    assert (config.id2label, config.num_labels) == (names, 4)
    assert config.label2id == {"wall": 0, "floor": 1, "door": 2, "lamp": 3}


@pytest.mark.parametrize(
    ("in_file", "num_labels", "expected"),
    [
        ("layer_norm", 19, "layer_norm"),
        ("layer_norm", 11, "class_bias"),
        ("layer_norm", 150, "fitted_layer_norm"),
        ("layer_norm", 2, "class_bias"),
        ("fitted_layer_norm", 1, "class_bias"),
        ("class_bias", 11, "class_bias"),
    ],
)
def test_logit_normalization_fits_the_number_of_classes_that_a_file_is_loaded_with(
    in_file, num_labels, expected, tmp_path
):
    OffSegConfig(num_labels=19, logit_normalization=in_file).save_pretrained(tmp_path)
    assert OffSegConfig.from_pretrained(tmp_path, num_labels=num_labels).logit_normalization == expected


def test_logit_normalization_given_replaces_that_of_the_file(tmp_path):
    OffSegConfig(num_labels=19).save_pretrained(tmp_path)
    config = OffSegConfig.from_pretrained(tmp_path, num_labels=11, logit_normalization="layer_norm")
    assert config.logit_normalization == "layer_norm"


def test_loss_is_the_plain_cross_entropy_when_a_file_says_nothing_of_it(tmp_path):
    config = saved_json(OffSegConfig(), tmp_path)
    for name in LOSS_FIELDS:
        del config[name]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert OffSegConfig.from_pretrained(tmp_path).loss_settings == {
        "label_smoothing": 0,
        "class_weights": None,
        "ohem_threshold": None,
        "ohem_min_kept": 100_000,
        "cross_entropy_loss_weight": 1,
        "dice_loss_weight": 0,
    }


def test_class_weights_are_those_of_the_file_unless_its_classes_are_replaced(tmp_path):
    OffSegConfig(num_labels=3, class_weights=[1, 2, 3]).save_pretrained(tmp_path)
    assert OffSegConfig.from_pretrained(tmp_path).class_weights == [1, 2, 3]
    assert OffSegConfig.from_pretrained(tmp_path, num_labels=4).class_weights is None
    assert OffSegConfig.from_pretrained(tmp_path, num_labels=4, class_weights=[1] * 4).class_weights == [1] * 4


def test_head_keeps_256_channels_when_a_segformer_file_says_otherwise(tmp_path):
    SegformerConfig(decoder_hidden_size=768).save_pretrained(tmp_path)  # as those of B2 to B5 do
    assert OffSegConfig.from_pretrained(tmp_path).decoder_hidden_size == 256
    assert OffSegConfig.from_pretrained(tmp_path, decoder_hidden_size=64).decoder_hidden_size == 64


def test_model_type_is_ours_when_a_segformer_file_is_loaded(tmp_path):
    SegformerConfig().save_pretrained(tmp_path)
    assert OffSegConfig.from_pretrained(tmp_path, num_labels=3).model_type == "offseg"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"depths": [2, 2, 2]}, r"`depths` must have one entry for each of the 4 encoder stages .*, got \[2, 2, 2\]"),
        ({"sr_ratios": [8, 4]}, "`sr_ratios` must have one entry"),
        ({"hidden_sizes": [8] * 5}, "`hidden_sizes` must have one entry"),
        ({"patch_sizes": []}, "`patch_sizes` must have one entry"),
        ({"strides": [4]}, "`strides` must have one entry"),
        ({"num_attention_heads": [1, 2]}, "`num_attention_heads` must have one entry"),
        ({"mlp_ratios": [4]}, "`mlp_ratios` must have one entry"),
        ({"num_encoder_blocks": 3}, "one entry for each of the 3 encoder stages"),
        (
            {"hidden_sizes": [32, 64, 160, 257]},
            "`hidden_sizes` must be divisible by `num_attention_heads` .* got a width of 257 for 8 heads",
        ),
        ({"reshape_last_stage": False}, "`reshape_last_stage` must be True"),
        (
            {"logit_normalization": "batch_norm"},
            "`logit_normalization` must be one of layer_norm, fitted_layer_norm, class_bias, got 'batch_norm'",
        ),
        ({"attention_loss_weight": -0.5}, "`attention_loss_weight` must be at least 0 and finite, got -0.5; leave it"),
        ({"attention_loss_weight": float("nan")}, "`attention_loss_weight` must be at least 0 and finite, got nan"),
        ({"drop_path_rate": 1.0}, "`drop_path_rate` must be at least 0 and below 1, got 1.0; leave it out"),
        ({"decoder_hidden_size": 0}, "`decoder_hidden_size` must be at least 1 and finite, got 0"),
        ({"num_labels": 0}, "`num_labels` must be at least 1, got 0"),
        ({"label_smoothing": 1.0}, r"`label_smoothing` must be in \[0, 1\), got 1.0; pass 0.1"),
        ({"ohem_threshold": 0.0}, r"`ohem_threshold` must be a probability in \(0, 1\], got 0.0; pass 0.7"),
        ({"ohem_min_kept": -1}, "`ohem_min_kept` must not be negative, got -1; pass 100000"),
        ({"dice_loss_weight": -1}, "`dice_loss_weight` must be finite, not negative and not both 0, got 1.0 and -1"),
        ({"cross_entropy_loss_weight": 0}, "must be finite, not negative and not both 0, got 0 and 0.0; pass 1 and 0"),
        (
            {"num_labels": 3, "class_weights": [1, 2]},
            r"`class_weights` must be 3 finite numbers, .* one for each of the 3 classes, got \[1, 2\]; pass None",
        ),
        ({"num_labels": 3, "class_weights": [1, 2, -1]}, "`class_weights` must be 3 finite numbers, not negative"),
        ({"num_labels": 3, "class_weights": [0, 0, 0]}, "`class_weights` must be 3 finite numbers, .* not all 0"),
        ({"num_labels": 1, "class_weights": [1]}, "`class_weights` must be 2 .* one for background and the class"),
        (
            {"num_labels": 2, "logit_normalization": "fitted_layer_norm"},
            "`logit_normalization` must be 'class_bias' for fewer than 3 classes",
        ),
        (
            {"id2label": {0: "sky", 2: "road"}},
            r"`id2label` must name the ids 0 to 1 without a gap, got the ids \[0, 2\]",
        ),
        (
            {"num_labels": 20, "semantic_loss_ignore_index": 19},
            "`semantic_loss_ignore_index` must not be one of the 20 class ids, got 19",
        ),
        (
            {"num_labels": 3, "id2label": {0: "sky", 1: "road"}},
            "`num_labels` must equal the number of entries of `id2label`, got 3 and 2; leave out `num_labels`",
        ),
    ],
)
def test_error_when_fields_contradict_each_other(fields, message):
    with pytest.raises((ValueError, StrictDataclassError), match=message):
        OffSegConfig(**fields)


@pytest.mark.parametrize("fields", [{"decoder_hidden_size": "256"}, {"logit_normalization": 3}, {"depths": "2222"}])
def test_error_when_a_field_has_the_wrong_type(fields):
    with pytest.raises(StrictDataclassError, match=f"{next(iter(fields))}"):
        OffSegConfig(**fields)


def test_nothing_is_saved_when_a_change_left_fields_in_contradiction(tmp_path):
    config = OffSegConfig(num_labels=21)
    config.num_labels = 2
    with pytest.raises(StrictDataclassError, match="`logit_normalization` must be 'class_bias'"):
        config.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())
