"""What models use of transformers and torch that is no documented interface: what happens where it is gone."""

import ast
import copy
import importlib
import importlib.util
import inspect
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from segmentation_model_tests import assert_equal_tensors
from test_modeling_offseg import tiny_model
from test_modeling_offseg_efficientformer import TestOffSegEfficientFormer as _EfficientFormer
from transformers import PreTrainedConfig, PreTrainedModel, SegformerConfig, SegformerModel
from transformers.models.segformer import modeling_segformer

from offseg_hf.models import channels_last_segformer, decode_head, library_internals, modeling_offseg
from offseg_hf.models.channels_last_segformer import CHANNELS_LAST, keep_channels_last

MODELS = Path(library_internals.__file__).parent
SEGFORMER = "transformers.models.segformer.modeling_segformer"
# Name: what models do without it.
IN_MODELS = {
    "transformers.utils.generic.can_return_tuple": "the decorator of library_internals.py stands in",
    "transformers.backbone_utils.filter_output_hidden_states": "the decorator of library_internals.py stands in",
    "transformers.utils.output_capturing.capture_outputs": (
        "EfficientFormerV2's outputs are captured by hooks that last for one forward, which can neither be compiled "
        "nor shared by threads"
    ),
    "transformers.utils.output_capturing.maybe_install_capturing_hooks": (
        "models with a native encoder must run once before `torch.compile(fullgraph=True)`"
    ),
    "transformers.conversion_mapping.get_model_conversion_mapping": (
        "`load_state_dict` refuses historical names, so that training on them cannot be resumed"
    ),
    "transformers.core_model_loading.rename_source_key": (
        "`load_state_dict` refuses historical names, so that training on them cannot be resumed"
    ),
    "transformers.modeling_layers.GradientCheckpointingLayer": "our own encoders' activations are not checkpointed",
    "transformers.image_processing_outputs.SemanticSegmentationPostProcessorOutput": (
        "label maps with their scores come as a `BatchFeature`"
    ),
    f"{SEGFORMER}.SegformerOverlapPatchEmbeddings": "SegFormer's encoder runs as the library has it, slower on a CPU",
    f"{SEGFORMER}.SegformerSequenceReduction": "SegFormer's encoder runs as the library has it, slower on a CPU",
    f"{SEGFORMER}.SegformerDepthWiseConv": "SegFormer's encoder runs as the library has it, slower on a CPU",
    f"{SEGFORMER}.SegformerStage": "SegFormer's encoder runs as the library has it, slower on a CPU",
}
REMEDY = "find what took its place, use that beside the old name, and leave the fallback for libraries without either"
# Modules that documentation names, as a text or by the classes that it lists there.
DOCUMENTED = {
    "transformers",
    "transformers.backbone_utils",  # BackboneMixin, BackboneConfigMixin
    "transformers.image_processing_backends",  # PilBackend
    "transformers.image_processing_utils",  # BatchFeature
    "transformers.image_utils",  # load_image and constants
    "transformers.modeling_outputs",
    "transformers.processing_utils",  # ImagesKwargs, Unpack
    "transformers.utils",  # ModelOutput
}
PUBLIC_IN_DOCUMENTED = {"BackboneMixin", "BackboneConfigMixin"}


@pytest.mark.parametrize("name", IN_MODELS)
def test_the_library_still_has_the_name(name):
    module, attribute = name.rsplit(".", 1)
    try:
        found = hasattr(importlib.import_module(module), attribute)
    except ImportError:
        found = False
    assert found, f"transformers {transformers.__version__} has no {name}, so {IN_MODELS[name]}; {REMEDY}."


@pytest.mark.parametrize(
    ("owner", "name", "without"),
    [
        (PreTrainedConfig(), "_attn_implementation", "the wrapper's configuration names no attention"),
        (PreTrainedModel, "is_custom_code", "what a file lacks of Mask2Former's pixel decoder starts by torch's rule"),
        (PreTrainedModel, "init_weights", "the wrapper's base is initialised a second time"),
        (torch.nn.Identity(), "_forward_hooks", "the head of OffSeg runs as in training, slower on a CPU"),
        (torch.nn.Identity(), "_forward_pre_hooks", "the head of OffSeg runs as in training, slower on a CPU"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.count(" ") == 0 else "",
)
def test_the_library_still_has_the_attribute(owner, name, without):
    assert hasattr(owner, name), f"{type(owner).__name__} has no {name}, so {without}; {REMEDY}."


def test_native_mask2former_still_has_its_mask_predictor_where_ours_goes():
    native = transformers.Mask2FormerForUniversalSegmentation
    source = inspect.getsource(inspect.getmodule(native))
    for name in ("self.mask_predictor(", "self.mask_embedder", "def get_loss_dict("):
        assert name in source, (
            f"transformers {transformers.__version__} has no `{name}` in Mask2Former, which no fallback replaces: "
            "modeling_offseg_mask2former.py must put its predictor, or its loss, where the library has them now."
        )


def test_inner_names_stand_in_two_files_alone():
    found = set()
    for path in MODELS.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.ImportFrom)
                and not node.level
                and node.module.split(".")[0] in ("transformers", "torch")
            ):
                names = {alias.name for alias in node.names}
                inner = node.module.startswith("transformers") and node.module not in DOCUMENTED
                inner |= node.module == "transformers.backbone_utils" and not names <= PUBLIC_IN_DOCUMENTED
                inner |= any(part.startswith("_") for part in node.module.split("."))
                found |= {path.name} if inner else set()
    assert found == {"channels_last_segformer.py", "library_internals.py"}


# The fallbacks


@pytest.fixture
def fallbacks(monkeypatch):
    """`library_internals.py` as a library without any of the names makes it."""
    for name in IN_MODELS:
        if not name.startswith(SEGFORMER):
            module, attribute = name.rsplit(".", 1)
            monkeypatch.delattr(importlib.import_module(module), attribute)
    spec = importlib.util.spec_from_file_location("library_internals_of_a_newer_library", library_internals.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.undo()
    return module


@pytest.fixture
def pixel_values():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("asked", [{}, {"return_dict": False}, {"output_hidden_states": True}], ids=str)
def test_decorators_do_what_the_librarys_do(asked, fallbacks, pixel_values, monkeypatch):
    model = tiny_model()
    expected = model(pixel_values, **asked)
    plain = modeling_offseg.OffSegForSemanticSegmentation.forward
    while hasattr(plain, "__wrapped__"):
        plain = plain.__wrapped__
    decorated = fallbacks.can_return_tuple(fallbacks.filter_output_hidden_states(plain))
    monkeypatch.setattr(type(model), "forward", decorated)
    outputs = model(pixel_values, **asked)
    assert type(outputs) is type(expected) and len(outputs) == len(expected)
    if isinstance(outputs, dict):
        assert outputs.keys() == expected.keys()
    torch.testing.assert_close(outputs[0], expected[0])


def test_configured_return_dict_is_honoured(fallbacks, pixel_values):
    model = tiny_model()
    decorated = fallbacks.can_return_tuple(lambda self, inputs: model(inputs))
    model.config.return_dict = False
    assert isinstance(decorated(model, pixel_values), tuple)


def test_outputs_are_captured_as_the_library_does(fallbacks, pixel_values, monkeypatch):
    backbone = _EfficientFormer().tiny_model().backbone
    asked = {"output_hidden_states": True, "output_attentions": True}
    expected = backbone(pixel_values, **asked)
    monkeypatch.setattr(type(backbone), "forward", fallbacks.capture_outputs(type(backbone).forward.__wrapped__))
    outputs = backbone(pixel_values, **asked)
    assert outputs.keys() == expected.keys() and len(outputs.attentions) > 1
    torch.testing.assert_close(outputs.to_tuple(), expected.to_tuple(), rtol=0, atol=0)
    assert backbone(pixel_values).keys() == {"feature_maps"}


def test_nothing_is_installed_where_the_library_captures_otherwise(fallbacks):
    encoder = SegformerModel(SegformerConfig(depths=[1, 1, 1, 1]))
    fallbacks.install_capturing_hooks(encoder)
    assert not any(module._forward_hooks for module in encoder.modules())


def test_configurations_may_lack_the_attention(fallbacks):
    config, base_config = SimpleNamespace(), SimpleNamespace()
    fallbacks.adopt_attention(config, base_config)
    assert not vars(config)
    assert fallbacks.attention_choice(base_config) == {"": None, "base_config": {}}


def test_error_when_historical_names_can_no_longer_be_renamed(fallbacks, monkeypatch, tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path / "historical")
    model.save_pretrained(tmp_path / "current", save_original_format=False)
    load = transformers.modeling_utils.load_state_dict
    historical, current = (load(tmp_path / name / "model.safetensors") for name in ("historical", "current"))
    monkeypatch.setattr("offseg_hf.models.checkpoint_entries.current_names", fallbacks.current_names)
    other = copy.deepcopy(model)
    with pytest.raises(RuntimeError, match=r"`state_dict` must have the current names .* got 'segformer.encoder"):
        other.load_state_dict(historical, strict=False)  # else left out with a warning
    other.load_state_dict({**current, "another.weight": torch.zeros(1)}, strict=False)
    assert_equal_tensors(other.state_dict(), model.state_dict())
    loaded = type(model).from_pretrained(tmp_path / "historical")
    assert_equal_tensors(loaded.state_dict(), model.state_dict())


def test_head_runs_as_in_training_when_torch_does_not_tell_of_hooks():
    module = torch.nn.Identity()
    assert not decode_head.is_hooked(module)
    del module._forward_hooks
    assert decode_head.is_hooked(module)


# The encoder whose maps stay channels-last


def native_encoder(**fields):
    torch.manual_seed(0)
    architecture = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 16, 16], "num_attention_heads": [1, 1, 2, 2]}
    return SegformerModel(SegformerConfig(**architecture, **fields)).eval()


def assert_is_left_alone(encoder, message, pixel_values):
    expected, classes = encoder(pixel_values).last_hidden_state, [type(module) for module in encoder.modules()]
    with pytest.warns(UserWarning, match=message):
        keep_channels_last(encoder)
    assert [type(module) for module in encoder.modules()] == classes
    assert torch.equal(encoder(pixel_values).last_hidden_state, expected)


@pytest.mark.parametrize("name", CHANNELS_LAST)
def test_encoder_is_left_alone_when_it_is_made_of_another_class(name, pixel_values, monkeypatch):
    other = type("Other", (getattr(modeling_segformer, name),), {})
    monkeypatch.setattr(modeling_segformer, name, other)
    assert_is_left_alone(native_encoder(), f"encoder without {name} as this .* stays the library's own", pixel_values)


@pytest.mark.parametrize("name", CHANNELS_LAST)
def test_encoder_is_left_alone_when_a_class_takes_other_arguments(name, pixel_values, monkeypatch):
    native = getattr(modeling_segformer, name)
    forward = native.forward

    def changed(self, *inputs, **kwargs):
        return forward(self, *inputs, **kwargs)

    monkeypatch.setattr(native, "forward", changed)
    assert_is_left_alone(native_encoder(), f"encoder without {name} as this", pixel_values)


def test_encoder_is_left_alone_when_a_layer_has_another_name(pixel_values, monkeypatch):
    monkeypatch.setattr(CHANNELS_LAST["SegformerStage"], "layers", ("patch_embeddings", "renamed"))
    assert_is_left_alone(native_encoder(), "encoder without SegformerStage as this", pixel_values)


def test_every_part_is_changed_even_without_a_reduction(pixel_values, recwarn):
    encoder = native_encoder(sr_ratios=[1, 1, 1, 1])
    expected = encoder(pixel_values).last_hidden_state
    keep_channels_last(encoder)
    changed = {type(module) for module in encoder.modules()} & set(CHANNELS_LAST.values())
    assert changed == set(CHANNELS_LAST.values()) - {channels_last_segformer.ChannelsLastSequenceReduction}
    assert not recwarn.list
    torch.testing.assert_close(encoder(pixel_values).last_hidden_state, expected, rtol=0, atol=1e-5)
