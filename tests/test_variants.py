"""The table of variants."""

import pytest
from transformers import Mask2FormerConfig, SegformerConfig

from offseg_hf import VARIANTS, OffSegConfig, variant_config
from offseg_hf.complexity import count_parameters


@pytest.mark.parametrize("name", VARIANTS)
def test_variant_has_exactly_the_published_number_of_parameters(name):
    assert count_parameters(variant_config(name, num_labels=150)) == VARIANTS[name].parameters


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("offseg-b0", 3_884_940),
        ("offseg-b1", 13_848_044),
        ("offseg-b2", 24_892_908),
        ("offseg-b3", 44_768_748),
        ("offseg-b4", 61_539_308),
        ("offseg-b5", 82_139_628),
        ("offseg-segnext-t", 4_394_636),
        ("offseg-segnext-s", 14_064_108),
        ("offseg-segnext-b", 28_160_748),
        ("offseg-t", 6_183_626),
        ("offseg-b", 12_916_850),
        ("offseg-l", 26_375_458),
        ("offseg-mask2former-t", 47_441_169 + 2 * 256**2),  # the plain model and two maps
    ],
)
def test_table_states_the_published_number_of_parameters(name, parameters):
    assert VARIANTS[name].parameters == parameters


def test_plain_mask2former_has_the_parameters_that_the_table_adds_two_maps_to():
    config = Mask2FormerConfig(**VARIANTS["offseg-mask2former-t"].config, num_labels=150)
    assert count_parameters(config) == 47_441_169


def test_variant_config_is_of_the_variants_class():
    config = variant_config("offseg-b3")
    assert type(config) is OffSegConfig
    assert (config.hidden_sizes, config.depths) == ((64, 128, 320, 512), (3, 4, 18, 3))
    assert type(variant_config("segformer-b3")) is SegformerConfig


def test_variant_config_is_the_same_when_asked_twice():
    for name in VARIANTS:
        assert variant_config(name).to_dict() == variant_config(name).to_dict()


def test_overrides_take_precedence():
    config = variant_config("offseg-b0", depths=(1, 1, 1, 1), id2label={0: "sky", 1: "road", 2: "car"})
    assert (config.depths, config.num_labels, config.id2label[2]) == ((1, 1, 1, 1), 3, "car")


def test_error_lists_the_variants_when_the_name_is_unknown():
    with pytest.raises(ValueError, match=r"`variant` must be one of offseg-b0, offseg-b1, .*, got 'offseg-b6'"):
        variant_config("offseg-b6")
