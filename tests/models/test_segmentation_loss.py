"""The loss, against values counted by hand."""

import math

import pytest
import torch

from offseg_hf.models.segmentation_loss import segmentation_loss


def test_loss_is_the_mean_over_the_pixels_that_are_not_ignored():
    logits = torch.tensor([0.0, math.log(3)]).reshape(1, 2, 1, 1)  # probabilities 1/4 and 3/4 everywhere
    labels = torch.tensor([[[0, 1], [1, 255]]])
    expected = (math.log(4) + 2 * math.log(4 / 3)) / 3
    assert segmentation_loss(logits, labels).item() == pytest.approx(expected, rel=1e-6)


def test_loss_upsamples_the_logits_when_labels_are_larger():
    logits = torch.zeros(1, 2, 1, 2)
    logits[0, 1, 0] = torch.tensor([-1.0, 1.0])  # bilinear, twice as wide: -1, -0.5, 0.5, 1
    labels = torch.tensor([[[0, 0, 1, 0]]])
    margins = [-1, -0.5, -0.5, 1]  # of the wrong class
    expected = sum(math.log1p(math.exp(margin)) for margin in margins) / 4
    assert segmentation_loss(logits, labels).item() == pytest.approx(expected, rel=1e-6)


def test_loss_is_binary_cross_entropy_when_there_is_one_class():
    logits = torch.tensor([math.log(3)]).reshape(1, 1, 1, 1)  # probability 3/4
    labels = torch.tensor([[[1, 0, 255, 1]]])
    expected = (2 * math.log(4 / 3) + math.log(4)) / 3
    assert segmentation_loss(logits, labels).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("num_labels", [1, 2, 5])
def test_loss_and_gradient_are_zero_when_all_labels_are_ignored(num_labels):
    logits = torch.randn(2, num_labels, 4, 4, requires_grad=True)
    loss = segmentation_loss(logits, torch.full((2, 8, 8), 255))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("num_labels", [1, 3])
def test_ignored_pixels_get_no_gradient(num_labels):
    logits = torch.randn(1, num_labels, 2, 2, requires_grad=True)
    segmentation_loss(logits, torch.tensor([[[0, 255], [1, 255]]])).backward()
    assert (logits.grad[..., 0] != 0).all()
    assert (logits.grad[..., 1] == 0).all()


def test_loss_honours_another_ignore_index():
    logits = torch.tensor([0.0, math.log(3)]).reshape(1, 2, 1, 1)
    assert segmentation_loss(logits, torch.tensor([[[1, -1]]]), ignore_index=-1).item() == pytest.approx(
        math.log(4 / 3)
    )


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_loss_takes_labels_of_any_integer_type(dtype):
    logits, labels = torch.randn(1, 3, 2, 2), torch.tensor([[[0, 1], [2, 255]]])
    assert torch.equal(segmentation_loss(logits, labels.to(dtype)), segmentation_loss(logits, labels))


def test_loss_is_float32_when_logits_are_bfloat16():
    logits, labels = torch.randn(1, 3, 2, 2).bfloat16(), torch.tensor([[[0, 1], [2, 255]]])
    loss = segmentation_loss(logits, labels)
    assert torch.equal(loss, segmentation_loss(logits.float(), labels)) and loss.dtype == torch.float32


@pytest.mark.parametrize(("num_labels", "unknown"), [(1, 2), (2, 2), (3, 3), (3, -1), (3, 254)])
def test_error_names_labels_that_are_no_class(num_labels, unknown):
    labels = torch.tensor([[[0, 255], [0, unknown]]])
    with pytest.raises(ValueError, match=rf"`labels` must be class ids .* got \[{unknown}\]; check `num_labels`"):
        segmentation_loss(torch.zeros(1, num_labels, 2, 2), labels)


def test_labels_that_are_no_class_are_ignored_when_compiled_as_on_a_gpu():
    logits, labels = torch.randn(1, 3, 2, 2), torch.tensor([[[0, 1], [7, -3]]])
    compiled = torch.compile(segmentation_loss, backend="eager", fullgraph=True)
    expected = segmentation_loss(logits, torch.tensor([[[0, 1], [255, 255]]]))
    assert torch.equal(compiled(logits, labels), expected)


@pytest.mark.gpu
def test_labels_that_are_no_class_do_not_crash_a_gpu():
    logits, labels = torch.randn(1, 3, 2, 2, device="cuda"), torch.tensor([[[0, 1], [7, -3]]])
    expected = segmentation_loss(logits.cpu(), torch.tensor([[[0, 1], [255, 255]]]))
    torch.testing.assert_close(segmentation_loss(logits, labels.cuda()).cpu(), expected)


@pytest.mark.parametrize(
    "labels",
    [torch.zeros(1, 1, 2, 2, dtype=torch.long), torch.zeros(2, 2, 2, dtype=torch.long), torch.zeros(1, 2, 2)],
    ids=["four axes", "other batch size", "floats"],
)
def test_error_when_labels_are_misshapen(labels):
    with pytest.raises(ValueError, match=r"`labels` must be integer class ids of shape .* for 1 images, got torch"):
        segmentation_loss(torch.zeros(1, 3, 2, 2), labels)
