"""The table of variants."""

import pytest
import torch
from transformers import AutoModelForSemanticSegmentation, SegformerConfig

from offseg_hf import VARIANTS, OffSegConfig, variant_config


@pytest.mark.parametrize("name", VARIANTS)
def test_variant_has_exactly_the_published_number_of_parameters(name):
    with torch.device("meta"):
        model = AutoModelForSemanticSegmentation.from_config(variant_config(name, num_labels=150))
    assert model.num_parameters() == VARIANTS[name].parameters


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("offseg-b0", 3_884_940),
        ("offseg-b1", 13_848_044),
        ("offseg-b2", 24_892_908),
        ("offseg-b3", 44_768_748),
        ("offseg-b4", 61_539_308),
        ("offseg-b5", 82_139_628),
    ],
)
def test_table_states_the_published_number_of_parameters(name, parameters):
    assert VARIANTS[name].parameters == parameters


def test_variant_config_is_of_the_variants_class():
    config = variant_config("offseg-b3")
    assert type(config) is OffSegConfig
    assert (config.hidden_sizes, config.depths) == ((64, 128, 320, 512), (3, 4, 18, 3))
    assert type(variant_config("segformer-b3")) is SegformerConfig


def test_overrides_take_precedence():
    config = variant_config("offseg-b0", depths=(1, 1, 1, 1), id2label={0: "sky", 1: "road", 2: "car"})
    assert (config.depths, config.num_labels, config.id2label[2]) == ((1, 1, 1, 1), 3, "car")


def test_error_lists_the_variants_when_the_name_is_unknown():
    with pytest.raises(ValueError, match=r"`name` must be one of offseg-b0, offseg-b1, .*, got 'offseg-b6'"):
        variant_config("offseg-b6")
