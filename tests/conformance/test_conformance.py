"""transformers' common tests on our classes; the native SegFormer runs beside: what it passes, ours must pass."""

import unittest
from unittest import skip

import pytest
import torch
from transformers import (
    MODEL_MAPPING,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerModel,
)
from transformers_common_tests.test_backbone_common import BackboneTesterMixin
from transformers_common_tests.test_configuration_common import ConfigTester
from transformers_common_tests.test_image_processing_common import (
    ImageProcessingTester,
    ImageProcessingTestMixin,
    PostProcessSemanticSegmentationTestMixin,
)
from transformers_common_tests.test_modeling_common import ModelTesterMixin

from offseg_hf import (
    EfficientFormerV2Backbone,
    EfficientNetBackbone,
    EfficientNetBackboneConfig,
    MobileNetV2Backbone,
    MobileNetV2BackboneConfig,
    MscanBackbone,
    OffSegBackboneForSemanticSegmentation,
    OffSegConfig,
    OffSegEfficientFormerConfig,
    OffSegEfficientFormerForSemanticSegmentation,
    OffSegForSemanticSegmentation,
    OffSegMask2FormerConfig,
    OffSegMask2FormerForUniversalSegmentation,
    OffSegSegNextConfig,
    OffSegSegNextForSemanticSegmentation,
)
from offseg_hf.models.image_processing_offseg import OffSegImageProcessor

pytestmark = pytest.mark.conformance

ARCHITECTURE = {
    "depths": [1, 1, 1, 1],
    "hidden_sizes": [8, 8, 16, 16],
    "num_attention_heads": [1, 1, 2, 2],
    "decoder_hidden_size": 16,
}


class ModelTester:
    """What the common tests ask about a model: its configuration, a batch of inputs, the shapes of stage 1."""

    is_training = True
    batch_size = 13
    num_hidden_layers = 4
    num_attention_heads, seq_length, key_length = 1, 16 * 16, 2 * 2

    def __init__(self, config_class, architecture=ARCHITECTURE):
        self.config_class = config_class
        self.architecture = architecture

    def get_config(self):
        return self.config_class(**self.architecture, num_labels=4)

    def prepare_config_and_inputs_for_common(self):
        return self.get_config(), {"pixel_values": torch.rand(self.batch_size, 3, 64, 64)}


class SegformerTest(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (SegformerForSemanticSegmentation,)
    config_class = SegformerConfig
    test_resize_embeddings = False
    test_can_init_all_missing_weights_before_2023 = True

    def setUp(self):
        self.model_tester = ModelTester(self.config_class)

    def test_config(self):
        tester = ConfigTester(self, self.config_class, has_text_modality=False, common_properties=[], **ARCHITECTURE)
        tester.run_common_tests()

    def test_hidden_states_output(self):
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        model = self.all_model_classes[0](config).eval()
        shapes = [tuple(state.shape) for state in model(**inputs, output_hidden_states=True).hidden_states]
        self.assertEqual(shapes, [(13, 8, 16, 16), (13, 8, 8, 8), (13, 16, 4, 4), (13, 16, 2, 2)])

    @skip("images have no table of embeddings")
    def test_model_get_set_embeddings(self):
        pass

    @skip("the encoder has four stages, each a layer")
    def test_num_layers_is_small(self):
        pass


class OffSegTest(SegformerTest):
    all_model_classes = (OffSegForSemanticSegmentation,)
    config_class = OffSegConfig

    @classmethod
    def setUpClass(cls):
        MODEL_MAPPING.register(OffSegConfig, SegformerModel, exist_ok=True)  # without it, a test is left out


SEGNEXT = {
    "depths": [1, 1, 1, 1],
    "hidden_sizes": [8, 8, 16, 16],
    "mlp_ratios": [2, 2, 2, 2],
    "decoder_hidden_size": 16,
    "num_groups": 4,
    "nmf_rank": 4,
}


class OffSegSegNextTest(ModelTesterMixin, unittest.TestCase):
    """A model without attention; a native class to compare it with does not exist."""

    all_model_classes = (OffSegSegNextForSemanticSegmentation,)
    architecture = SEGNEXT
    has_attentions = False
    test_resize_embeddings = False
    hidden_state_shapes = [(13, 8, 16, 16), (13, 8, 8, 8), (13, 16, 4, 4), (13, 16, 2, 2)]

    @property
    def config_class(self):
        return self.all_model_classes[0].config_class

    def setUp(self):
        self.model_tester = ModelTester(self.config_class, self.architecture)

    def test_config(self):
        tester = ConfigTester(
            self, self.config_class, has_text_modality=False, common_properties=[], **self.architecture
        )
        tester.run_common_tests()

    def test_hidden_states_output(self):
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        model = self.all_model_classes[0](config).eval()
        shapes = [tuple(state.shape) for state in model(**inputs, output_hidden_states=True).hidden_states]
        self.assertEqual(shapes, self.hidden_state_shapes)

    @skip("images have no table of embeddings")
    def test_model_get_set_embeddings(self):
        pass

    @skip("the encoder has four stages, each a layer")
    def test_num_layers_is_small(self):
        pass


EFFICIENTFORMER = {
    "depths": [1, 1, 1, 1],
    "hidden_sizes": [8, 8, 16, 16],
    "num_attention_blocks": 1,
    "mlp_ratios": [[2], [2], [2], [2]],
    "num_attention_heads": 2,
    "key_dim": 4,
    "value_dim": 8,
    "downsample_key_dim": 4,
    "downsample_value_dim": 8,
    "attention_grid_size": 2,
    "neck_hidden_sizes": [32, 32, 16, 16],
    "decoder_hidden_size": 16,
    "num_groups": 4,
}


class OffSegEfficientFormerTest(OffSegSegNextTest):
    all_model_classes = (OffSegEfficientFormerForSemanticSegmentation,)
    architecture = EFFICIENTFORMER


BACKBONE = {
    "backbone_config": {
        "model_type": "pvt_v2",
        "hidden_sizes": [8, 8, 16, 16],
        "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 1, 2, 2],
        "out_features": ["stage1", "stage2", "stage3", "stage4"],
    },
    "decoder_hidden_size": 16,
}


class OffSegBackboneTest(OffSegSegNextTest):
    all_model_classes = (OffSegBackboneForSemanticSegmentation,)
    architecture = BACKBONE

    @skip("the backbone's fields, given as a dictionary, become a configuration")
    def test_config(self):
        pass

    @skip("so small a backbone checkpoints a single layer; gradients are compared in tests/models")
    def test_training_gradient_checkpointing_use_reentrant_true(self):
        pass


class EfficientFormerV2BackboneTest(BackboneTesterMixin, unittest.TestCase):
    all_model_classes = (EfficientFormerV2Backbone,)
    config_class = OffSegEfficientFormerConfig

    def setUp(self):
        self.model_tester = ModelTester(self.config_class, EFFICIENTFORMER)


class MscanBackboneTest(BackboneTesterMixin, unittest.TestCase):
    all_model_classes = (MscanBackbone,)
    config_class = OffSegSegNextConfig
    has_attentions = False

    def setUp(self):
        self.model_tester = ModelTester(self.config_class, SEGNEXT)


class MobileNetV2BackboneTest(BackboneTesterMixin, unittest.TestCase):
    all_model_classes = (MobileNetV2Backbone,)
    config_class = MobileNetV2BackboneConfig
    has_attentions = False

    def setUp(self):
        self.model_tester = ModelTester(self.config_class, {"depth_multiplier": 0.1})

    @skip("all four stages are returned by default, not the last alone")
    def test_config(self):
        pass


class EfficientNetBackboneTest(BackboneTesterMixin, unittest.TestCase):
    all_model_classes = (EfficientNetBackbone,)
    config_class = EfficientNetBackboneConfig
    has_attentions = False

    def setUp(self):
        self.model_tester = ModelTester(self.config_class, {"width_coefficient": 0.2, "depth_coefficient": 1.0})

    @skip("all four stages are returned by default, not the last alone")
    def test_config(self):
        pass


SWIN = {"model_type": "swin", "embed_dim": 8, "depths": [1] * 4, "num_heads": [1, 1, 2, 2], "window_size": 4}
MASK2FORMER = {
    "backbone_config": {**SWIN, "out_features": ["stage1", "stage2", "stage3", "stage4"]},
    "feature_size": 32,
    "mask_feature_size": 32,
    "hidden_dim": 32,
    "encoder_feedforward_dim": 16,
    "dim_feedforward": 16,
    "num_attention_heads": 2,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "num_queries": 5,
}


class Mask2FormerTest(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (Mask2FormerForUniversalSegmentation,)
    config_class = Mask2FormerConfig
    test_missing_keys = False
    test_resize_embeddings = False

    def setUp(self):
        self.model_tester = ModelTester(self.config_class, MASK2FORMER)
        self.model_tester.batch_size = 2

    def _prepare_for_class(self, inputs, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs, model_class)
        if return_labels:
            inputs["mask_labels"] = list(torch.rand(2, 3, 64, 64).round())  # three segments in each image
            inputs["class_labels"] = list(torch.tensor([[0, 1, 2], [3, 1, 0]]))
        return inputs

    @skip("images have no table of embeddings")
    def test_model_get_set_embeddings(self):
        pass

    @skip("the loss compares masks at points that are drawn at random")
    def test_model_outputs_equivalence(self):
        pass

    @skip("nine layers by default, here two; the encoder has four stages")
    def test_num_layers_is_small(self):
        pass

    @skip("hidden states and attentions are those of three modules, each under a name of its own")
    def test_hidden_states_output(self):
        pass

    @skip("hidden states and attentions are those of three modules, each under a name of its own")
    def test_attention_outputs(self):
        pass

    @skip("hidden states and attentions are those of three modules, each under a name of its own")
    def test_retain_grad_hidden_states_attentions(self):
        pass


class OffSegMask2FormerTest(Mask2FormerTest):
    all_model_classes = (OffSegMask2FormerForUniversalSegmentation,)
    config_class = OffSegMask2FormerConfig

    def check_training_gradient_checkpointing(self, *args, **kwargs):
        self.skipTest("the native backbone has a LayerNorm without gradient; gradients are compared in tests/models")


class OffSegImageProcessorTester(ImageProcessingTester):
    def __init__(self, parent):
        super().__init__(parent, size={"height": 20, "width": 30}, do_reduce_labels=True, num_labels=4)

    def _get_image_processing_classes(self):
        return {"pil": OffSegImageProcessor}


class OffSegImageProcessorTest(ImageProcessingTestMixin, PostProcessSemanticSegmentationTestMixin, unittest.TestCase):
    image_processor_tester_class = OffSegImageProcessorTester

    @skip("every picture becomes RGB, one of four channels too")
    def test_call_numpy_4_channels(self):
        pass

    @skip("a rule for models inside transformers")
    def test_new_models_require_torchvision_backend(self):
        pass

    @skip("looks for the processor inside transformers")
    def test_pil_can_load_without_torchvision(self):
        pass
