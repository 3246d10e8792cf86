"""OffSegEfficientFormerConfig: its defaults, its files and its errors."""

import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig

from offseg_hf import OffSegEfficientFormerConfig


def test_defaults_are_those_of_offseg_t():
    config = OffSegEfficientFormerConfig()
    assert (config.hidden_sizes, config.depths) == ((32, 48, 120, 224), (3, 3, 9, 6))
    assert config.mlp_ratios == ((4, 4, 4), (4, 4, 4), (4, 4, 3, 3, 3, 3, 4, 4, 4), (4, 4, 3, 3, 4, 4))
    assert (config.num_attention_blocks, config.num_attention_heads) == (2, 8)
    assert (config.key_dim, config.value_dim) == (32, 128)
    assert (config.downsample_key_dim, config.downsample_value_dim) == (16, 64)
    assert (config.drop_path_rate, config.layer_scale_init_value, config.attention_grid_size) == (0.0, 1e-5, 16)
    assert (config.neck_hidden_sizes, config.decoder_hidden_size) == ((32, 32, 64, 128), 256)
    assert config.freeze_batch_norm


def test_configuration_is_unchanged_when_saved_and_loaded(tmp_path):
    config = OffSegEfficientFormerConfig(
        num_labels=19,
        depths=[1, 1, 2, 2],
        mlp_ratios=[[4], [4], [4, 3], [3, 4]],
        out_features=["stem", "stage3"],
        freeze_batch_norm=False,
    )
    config.save_pretrained(tmp_path)
    assert OffSegEfficientFormerConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()
    assert type(AutoConfig.from_pretrained(tmp_path)) is OffSegEfficientFormerConfig


def test_last_stage_is_put_out_unless_others_are_named():
    assert OffSegEfficientFormerConfig().out_features == ["stage4"]
    assert OffSegEfficientFormerConfig(out_features=["stem", "stage2"]).out_indices == [0, 2]
    assert OffSegEfficientFormerConfig(out_indices=[1, 3]).out_features == ["stage1", "stage3"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_sizes": [8] * 5}, "`hidden_sizes` must have a positive entry for each of the four stages"),
        ({"depths": [3, 3, 9, 0]}, r"`depths` must have a positive entry for each of the four stages, got \[3, 3, 9,"),
        ({"neck_hidden_sizes": [32, 32]}, "`neck_hidden_sizes` must have a positive entry for each of the four"),
        (
            {"depths": [3, 3, 8, 6]},
            r"`mlp_ratios` must have one entry for each block of each stage \(`depths`, \[3, 3, 8, 6\]\), got \(\(4,",
        ),
        (
            {"num_attention_blocks": 7},
            r"`num_attention_blocks` must be between 0 and .* stages 3 and 4 have \(`depths`, \[9, 6\]\), got 7",
        ),
        ({"num_attention_blocks": -1}, "`num_attention_blocks` must be between 0 and .*, got -1"),
        ({"num_attention_heads": 0}, "`num_attention_heads` must be at least 1, got 0"),
        ({"attention_grid_size": 0}, "`attention_grid_size` must be at least 1, got 0"),
        ({"num_groups": 0}, "`num_groups` must be at least 1, got 0"),
        ({"hidden_sizes": [9, 16, 24, 32]}, "`hidden_sizes` must start with an even width, .*, got 9"),
        ({"drop_path_rate": 1.0}, "`drop_path_rate` must be at least 0 and below 1, got 1.0"),
        (
            {"decoder_hidden_size": 48},
            "`decoder_hidden_size` must be divisible by `num_groups`, got 48 in 32 groups",
        ),
        (
            {"neck_hidden_sizes": [32, 48, 64, 128]},
            r"`neck_hidden_sizes` must be divisible by `num_groups`, got \[32, 48, 64, 128\] in 32 groups",
        ),
        (
            {"neck_hidden_sizes": [32, 32, 16, 32], "num_groups": 8},
            r"`neck_hidden_sizes` must be divisible by 4, and their sums .* by 32, got \[32, 32, 16, 32\] with the "
            r"sums \[48, 80, 112\]; multiples of 32 always fit",
        ),
        (
            {"neck_hidden_sizes": [32, 32, 30, 34], "num_groups": 2},
            r"`neck_hidden_sizes` must be divisible by 4, .* with the sums \[64, 96, 128\]",
        ),
        ({"logit_normalization": "batch_norm"}, "`logit_normalization` must be one of"),
        ({"out_features": ["stage5"]}, "out_features must be a subset of stage_names"),
    ],
)
def test_error_when_fields_contradict_each_other(fields, message):
    with pytest.raises((ValueError, StrictDataclassError), match=message):
        OffSegEfficientFormerConfig(**fields)


@pytest.mark.parametrize(
    "fields", [{"key_dim": "32"}, {"mlp_ratios": [4, 4, 4, 4]}, {"freeze_batch_norm": "yes"}, {"num_groups": 2.0}]
)
def test_error_when_a_field_has_the_wrong_type(fields):
    with pytest.raises(StrictDataclassError, match=next(iter(fields))):
        OffSegEfficientFormerConfig(**fields)
