"""OffSegSegNextConfig: its defaults, its files and its errors."""

import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig

from offseg_hf import OffSegSegNextConfig


def test_defaults_are_those_of_segnext_t():
    config = OffSegSegNextConfig()
    assert (config.hidden_sizes, config.depths) == ((32, 64, 160, 256), (3, 3, 5, 2))
    assert (config.mlp_ratios, config.drop_path_rate, config.decoder_hidden_size) == ((8, 8, 4, 4), 0.1, 256)
    assert (config.nmf_rank, config.nmf_train_steps, config.nmf_eval_steps) == (16, 6, 7)
    assert not config.resample_bases_in_evaluation


def test_configuration_is_unchanged_when_saved_and_loaded(tmp_path):
    config = OffSegSegNextConfig(
        num_labels=19, depths=[1, 2, 3, 4], out_features=["stem", "stage3"], resample_bases_in_evaluation=True
    )
    config.save_pretrained(tmp_path)
    assert OffSegSegNextConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()
    assert type(AutoConfig.from_pretrained(tmp_path)) is OffSegSegNextConfig


def test_last_stage_is_put_out_unless_others_are_named():
    assert OffSegSegNextConfig().out_features == ["stage4"]
    assert OffSegSegNextConfig(out_features=["stem", "stage2"]).out_indices == [0, 2]
    assert OffSegSegNextConfig(out_indices=[1, 3]).out_features == ["stage1", "stage3"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"depths": [2, 2, 2]}, r"`depths` must have a positive entry for each of the four stages, got \[2, 2, 2\]"),
        ({"hidden_sizes": [8] * 5}, "`hidden_sizes` must have a positive entry for each of the four stages"),
        ({"mlp_ratios": [4, 4, 4, 0]}, "`mlp_ratios` must have a positive entry for each of the four stages"),
        ({"hidden_sizes": [9, 16, 24, 32]}, "`hidden_sizes` must start with an even width, .*, got 9"),
        ({"drop_path_rate": 1.0}, "`drop_path_rate` must be at least 0 and below 1, got 1.0"),
        ({"drop_path_rate": -0.1}, "`drop_path_rate` must be at least 0 and below 1, got -0.1"),
        (
            {"decoder_hidden_size": 48},
            "`decoder_hidden_size` must be a multiple of `num_groups`, got 48 channels in 32 groups",
        ),
        ({"num_groups": 0}, "`decoder_hidden_size` must be a multiple of `num_groups`, got 256 channels in 0 groups"),
        ({"nmf_rank": 0}, "`nmf_rank` must be at least 1, got 0"),
        ({"nmf_train_steps": -1}, "`nmf_train_steps` must not be negative, got -1"),
        ({"nmf_eval_steps": -2}, "`nmf_eval_steps` must not be negative, got -2"),
        ({"logit_normalization": "batch_norm"}, "`logit_normalization` must be one of"),
        ({"out_features": ["stage5"]}, "out_features must be a subset of stage_names"),
    ],
)
def test_error_when_fields_contradict_each_other(fields, message):
    with pytest.raises((ValueError, StrictDataclassError), match=message):
        OffSegSegNextConfig(**fields)


@pytest.mark.parametrize(
    "fields", [{"nmf_rank": "16"}, {"depths": "3352"}, {"resample_bases_in_evaluation": "yes"}, {"num_groups": 2.0}]
)
def test_error_when_a_field_has_the_wrong_type(fields):
    with pytest.raises(StrictDataclassError, match=next(iter(fields))):
        OffSegSegNextConfig(**fields)
