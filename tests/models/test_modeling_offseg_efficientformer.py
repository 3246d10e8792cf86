"""OffSegEfficientFormerForSemanticSegmentation by the shared tests, and what it does alone."""

import re

import pytest
import torch
from segmentation_model_tests import SegmentationModelTests
from torch import nn
from torch.nn import functional as F

from offseg_hf import OffSegEfficientFormerConfig, OffSegEfficientFormerForSemanticSegmentation


class TestOffSegEfficientFormer(SegmentationModelTests):
    config_class = OffSegEfficientFormerConfig
    model_class = OffSegEfficientFormerForSemanticSegmentation
    tiny = {
        "hidden_sizes": (8, 8, 16, 16),
        "depths": (1, 1, 2, 2),
        "num_attention_blocks": 1,
        "mlp_ratios": ((2,), (2,), (2, 2), (2, 2)),
        "num_attention_heads": 2,
        "key_dim": 4,
        "value_dim": 8,
        "downsample_key_dim": 4,
        "downsample_value_dim": 8,
        "attention_grid_size": 2,
        "drop_path_rate": 0.1,
        "neck_hidden_sizes": (32, 32, 16, 16),
        "decoder_hidden_size": 16,
        "num_groups": 4,
    }
    stride = 4
    stage_shapes = ((2, 8, 16, 16), (2, 8, 8, 8), (2, 16, 4, 4), (2, 16, 2, 2))
    files = {
        "backbone_efficientformer_v2.py",
        "configuration_fields.py",
        "configuration_offseg_efficientformer.py",
        "conv_group_norm.py",
        "drop_path.py",
        "library_internals.py",
        "modeling_offseg_efficientformer.py",
        "neck_freqfusion.py",
        "offset_learning.py",
        "segmentation_loss.py",
    }

    def has_no_gradient(self, name):
        if name == "decode_head.freqfusions.0.dysampler.offset.weight":
            return True  # for images of 64×64, whose stage 4 has no pixels at a distance of 2 to be similar to
        # These add the same to all of a query's scores, and so change nothing.
        return re.search(r"\.k\.[01]\.bias$|\.talking_head1\.bias$", name) is not None

    @pytest.mark.parametrize(("size", "logits_size"), [((1, 1), (1, 1)), ((9, 16), (3, 4)), ((17, 1), (5, 1))])
    def test_the_smallest_images_are_segmented(self, model, size, logits_size):
        logits = model(torch.randn(2, 3, *size)).logits
        assert logits.shape == (2, 4, *logits_size) and logits.isfinite().all()

    def test_other_sizes_are_those_of_the_image_with_zeros_at_the_bottom_and_right(self, model, pixel_values):
        padded = F.pad(pixel_values[:, :, :33, :50], (0, 14, 0, 31))
        expected = model(padded).logits[:, :, :9, :13]
        assert torch.equal(model(pixel_values[:, :, :33, :50]).logits, expected)

    def test_attention_loss_sees_no_padding(self, pixel_values, labels):
        model = self.tiny_model(attention_loss_weight=0.5, **self.still).train()
        layer, features = model.decode_head.offset_learning, []
        layer.register_forward_pre_hook(lambda module, inputs: features.append(inputs[0]))
        outputs = model(pixel_values[:, :, :40, :60], labels=labels[:, :40, :60])
        attention = layer.coupled_attention(features[0][:, :, :10, :15])
        loss, attention_loss = (
            F.cross_entropy(F.interpolate(scores, (40, 60), mode="bilinear"), labels[:, :40, :60])
            for scores in (outputs.logits, attention)
        )
        torch.testing.assert_close(outputs.loss, loss + 0.5 * attention_loss)

    def test_head_reads_its_stages_whatever_the_backbone_puts_out(self, model, pixel_values):
        other = self.tiny_model(out_features=["stem"])
        assert torch.equal(other(pixel_values).logits, model(pixel_values).logits)

    def test_output_is_a_tuple_when_the_configuration_says_so(self, model, pixel_values):
        (logits,) = self.tiny_model(return_dict=False)(pixel_values)
        assert torch.equal(logits, model(pixel_values).logits)

    def test_attentions_are_those_of_every_layer_and_sum_to_one(self, model, pixel_values):
        attentions = model(pixel_values, output_attentions=True).attentions
        assert [tuple(one.shape) for one in attentions] == [(2, 2, 4, 4), (2, 2, 4, 16), (2, 2, 4, 4)]
        for attention in attentions:
            torch.testing.assert_close(attention.sum(-1), torch.ones(attention.shape[:-1]))
        assert model(pixel_values).attentions is None

    @pytest.mark.parametrize("frozen", [True, False])
    def test_statistics_of_the_encoder_move_in_training_unless_they_are_frozen(self, frozen, tmp_path):
        images = torch.randn(4, 3, 64, 64)
        data = [{"pixel_values": image, "labels": torch.zeros(64, 64, dtype=torch.long)} for image in images]
        run = self.trainer(tmp_path, data, max_steps=2, per_device_train_batch_size=2, save_strategy="no")
        run.model.config.freeze_batch_norm = frozen
        start = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
        run.train()
        norms = [name for name, module in run.model.named_modules() if isinstance(module, nn.BatchNorm2d)]
        assert norms and all(name.startswith("backbone.") for name in norms)
        for name in norms:
            for entry in ("running_mean", "running_var", "num_batches_tracked"):
                assert torch.equal(run.model.state_dict()[f"{name}.{entry}"], start[f"{name}.{entry}"]) is frozen
            bias = f"{name}.bias"
            assert self.has_no_gradient(bias) or not torch.equal(run.model.state_dict()[bias], start[bias])
