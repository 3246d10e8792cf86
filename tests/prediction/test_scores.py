import pytest
import torch
from torch.nn import functional as F
from transformers.modeling_outputs import SemanticSegmenterOutput
from transformers.models.mask2former.modeling_mask2former import Mask2FormerForUniversalSegmentationOutput

from offseg_hf.models.modeling_offseg_mask2former import semantic_scores
from offseg_hf.prediction.scores import class_scores, label_maps, most_likely


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_scores_of_a_model_that_classifies_pixels_are_its_logits():
    logits = noise(2, 3, 8, 8)
    for outputs in (logits, (logits, torch.zeros(1)), SemanticSegmenterOutput(logits=logits)):
        assert class_scores(outputs) is logits


def test_scores_of_a_model_that_classifies_masks_are_the_masks_weighted_by_their_classes():
    classes, masks = noise(2, 5, 4), noise(2, 5, 8, 8)
    outputs = Mask2FormerForUniversalSegmentationOutput(class_queries_logits=classes, masks_queries_logits=masks)
    for given in (outputs, (classes, masks, torch.zeros(1))):
        torch.testing.assert_close(class_scores(given), semantic_scores(classes, masks), rtol=0, atol=0)


def test_a_single_class_of_a_model_that_classifies_masks_is_where_its_score_is_above_one_half():
    classes = torch.tensor([[[-1.0, 0.0], [3.0, -3.0]]])  # two queries, of which the first is rather of nothing
    masks = torch.tensor([[[[-9.0, 9.0, -9.0]], [[-9.0, -9.0, 9.0]]]])
    assert most_likely(class_scores((classes, masks))).tolist() == [[[0, 0, 1]]]


def test_a_single_class_is_told_from_the_background():
    logits = torch.tensor([[[[-1.0, 0.0, 2.0]]]])
    assert most_likely(logits).tolist() == [[[0, 0, 1]]]


def test_of_several_classes_the_largest_score_counts():
    assert most_likely(torch.tensor([[[[-1.0, 3.0]], [[0.5, 2.0]]]])).tolist() == [[[1, 0]]]


@pytest.mark.parametrize("num_labels", [1, 3, 12])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_label_maps_are_the_most_likely_of_upsampled_scores(num_labels, dtype):
    scores = noise(2, num_labels, 6, 9).to(dtype)
    expected = most_likely(F.interpolate(scores.float(), (33, 40), mode="bilinear"))
    found = label_maps(SemanticSegmenterOutput(logits=scores), (33, 40))
    assert found.shape == (2, 33, 40) and (found == expected).float().mean() > 0.999  # ties
