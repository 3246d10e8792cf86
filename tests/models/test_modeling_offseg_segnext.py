"""OffSegSegNextForSemanticSegmentation by the shared tests, and what its head does alone."""

import pytest
import torch
import torch._inductor.config
from segmentation_model_tests import SegmentationModelTests

from offseg_hf import OffSegSegNextConfig, OffSegSegNextForSemanticSegmentation


class TestOffSegSegNext(SegmentationModelTests):
    config_class = OffSegSegNextConfig
    model_class = OffSegSegNextForSemanticSegmentation
    tiny = {
        "hidden_sizes": (8, 8, 16, 16),
        "depths": (1, 1, 1, 1),
        "mlp_ratios": (2, 2, 2, 2),
        "decoder_hidden_size": 16,
        "num_groups": 4,
        "nmf_rank": 4,
        "nmf_train_steps": 2,
        "nmf_eval_steps": 3,
    }
    stage_shapes = ((2, 8, 16, 16), (2, 8, 8, 8), (2, 16, 4, 4), (2, 16, 2, 2))
    files = {
        "backbone_mscan.py",
        "configuration_fields.py",
        "configuration_offseg_segnext.py",
        "conv_group_norm.py",
        "drop_path.py",
        "hamburger.py",
        "library_internals.py",
        "modeling_offseg_segnext.py",
        "offset_learning.py",
        "segmentation_loss.py",
        "upsampling.py",
    }

    @pytest.fixture(autouse=True)
    def eager_random_numbers(self):
        """Else inductor draws other numbers from the same seed, and compiled training starts from other bases."""
        with torch._inductor.config.patch(fallback_random=True):
            yield

    @pytest.mark.parametrize(("size", "logits_size"), [((1, 1), (1, 1)), ((9, 16), (2, 2)), ((17, 1), (3, 1))])
    def test_the_smallest_images_are_segmented(self, model, size, logits_size):
        logits = model(torch.randn(2, 3, *size)).logits
        assert logits.shape == (2, 4, *logits_size) and logits.isfinite().all()

    def test_head_reads_its_stages_whatever_the_backbone_puts_out(self, model, pixel_values):
        other = self.tiny_model(out_features=["stem"])
        assert torch.equal(other(pixel_values).logits, model(pixel_values).logits)

    def test_logits_vary_from_call_to_call_when_evaluation_resamples(self, model, pixel_values):
        other = self.tiny_model(resample_bases_in_evaluation=True)
        first, second = (other(pixel_values[:1]).logits for _ in range(2))
        assert not torch.equal(first, second)
        torch.manual_seed(0)
        torch.testing.assert_close(other(pixel_values[:1]).logits, model(pixel_values[:1]).logits)

    @pytest.mark.parametrize("training", [False, True])
    def test_squeeze_equals_the_convolution_of_the_concatenation(self, model, training):
        squeeze = model.decode_head.squeeze.train(training).double()
        maps = [
            torch.randn(2, 8, 9, 13).double(),
            torch.randn(2, 16, 5, 7).double(),
            torch.randn(2, 16, 3, 4).double(),
        ]
        upsampled = [torch.nn.functional.interpolate(one, (9, 13), mode="bilinear") for one in maps]
        expected = squeeze.gn(squeeze.conv(torch.cat(upsampled, dim=1))).relu()
        torch.testing.assert_close(squeeze(maps), expected)
