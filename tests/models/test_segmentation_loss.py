"""The losses, against values counted by hand and a slow reference, and the memory that they take."""

import math

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from offseg_hf import OffSegConfig
from offseg_hf.models import segmentation_loss as module
from offseg_hf.models.offset_learning import OffsetLearning
from offseg_hf.models.segmentation_loss import offset_learning_loss, segmentation_loss

SETTINGS = {
    "plain": {},
    "smoothed": {"label_smoothing": 0.2},
    "weighted": {"class_weights": True},
    "hard pixels": {"ohem_threshold": 0.3, "ohem_min_kept": 10},
    "hardest pixels": {"ohem_threshold": 1e-6, "ohem_min_kept": 25},
    "dice": {"cross_entropy_loss_weight": 0.0, "dice_loss_weight": 1.0},
    "all": {
        "label_smoothing": 0.1,
        "class_weights": True,
        "ohem_threshold": 0.5,
        "cross_entropy_loss_weight": 0.7,
        "dice_loss_weight": 3.0,
        "ohem_min_kept": 5,
    },
}


def settings_for(num_labels, name):
    """The settings of that name, with weights for so many classes, one of them 0."""
    settings = dict(SETTINGS[name])
    if "class_weights" in settings:
        settings["class_weights"] = [0.5 * label_id for label_id in range(max(num_labels, 2))]
    return settings


def random_examples(num_labels, size=(3, 5), label_size=(14, 23), dtype=torch.float64):
    """Logits, and labels of which a quarter is ignored."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(2, num_labels, *size, generator=generator, dtype=dtype)
    labels = torch.randint(0, max(num_labels, 2), (2, *label_size), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.25] = 255
    return logits.requires_grad_(), labels


def reference(
    logits,
    labels,
    label_smoothing=0.0,
    class_weights=None,
    ohem_threshold=None,
    ohem_min_kept=100_000,
    cross_entropy_loss_weight=1.0,
    dice_loss_weight=0.0,
):
    """All at once, in float64, as the definitions read."""
    num_labels = logits.shape[1]
    upsampled = F.interpolate(logits.double(), labels.shape[1:], mode="bilinear", align_corners=False)
    if num_labels == 1:
        upsampled = torch.cat([torch.zeros_like(upsampled), upsampled], dim=1)
    weights = torch.tensor(class_weights or [1.0] * upsampled.shape[1]).double()
    labels = labels.flatten()
    scores = upsampled.permute(0, 2, 3, 1).reshape(len(labels), -1).exp()[labels != 255]  # (N, K)
    labels = labels[labels != 255]
    probabilities = scores / scores.sum(dim=1, keepdim=True)
    of_true_class = probabilities[range(len(labels)), labels]

    kept = torch.ones(len(labels), dtype=torch.bool)
    if ohem_threshold is not None:
        hardest = sorted(of_true_class.tolist())[:ohem_min_kept]
        kept = (of_true_class < ohem_threshold) | (of_true_class < hardest[-1] + 1e-12)  # the edge repeats pixels
    smooth = -(weights * probabilities.log()).sum(dim=1) / len(weights)
    losses = (1 - label_smoothing) * -weights[labels] * of_true_class.log() + label_smoothing * smooth
    loss = cross_entropy_loss_weight * losses[kept].sum() / weights[labels][kept].sum()

    dice = []
    for label_id in range(1 if num_labels == 1 else 0, len(weights)):
        true = labels == label_id
        if true.any():
            of_class = probabilities[:, label_id]
            dice.append(1 - 2 * of_class[true].sum() / (of_class.sum() + true.sum()))
    return loss + dice_loss_weight * sum(dice) / len(dice)


def with_gradient(loss, logits):
    return loss.detach(), torch.autograd.grad(loss, logits)[0]


@pytest.fixture(params=[64, 2**19], ids=["a row at a time", "an image at a time"])
def strip_size(request, monkeypatch):
    monkeypatch.setattr(module, "CPU_STRIP_SIZE", request.param)


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


@pytest.mark.parametrize("unknown", [9, -3])
def test_loss_is_no_number_where_compiled_code_is_given_a_label_that_is_no_class(unknown):
    logits, labels = torch.randn(1, 4, 3, 3, requires_grad=True), torch.zeros(1, 6, 6, dtype=torch.int64)
    compiled = torch.compile(segmentation_loss, backend="eager")
    assert compiled(logits, labels).isfinite()
    labels[0, 0, 0] = unknown
    assert compiled(logits, labels).isnan()


@pytest.mark.gpu
def test_loss_is_no_number_where_a_gpu_is_given_a_label_that_is_no_class():
    logits, labels = torch.randn(1, 3, 2, 2, device="cuda"), torch.tensor([[[0, 1], [7, -3]]])
    assert segmentation_loss(logits, labels.cuda()).isnan()


@pytest.mark.parametrize(
    "labels",
    [torch.zeros(1, 1, 2, 2, dtype=torch.long), torch.zeros(2, 2, 2, dtype=torch.long), torch.zeros(1, 2, 2)],
    ids=["four axes", "other batch size", "floats"],
)
def test_error_when_labels_are_misshapen(labels):
    with pytest.raises(ValueError, match=r"`labels` must be integer class ids of shape .* for 1 images, got torch"):
        segmentation_loss(torch.zeros(1, 3, 2, 2), labels)


# The reference


@pytest.mark.parametrize("num_labels", [1, 2, 5, 20])
@pytest.mark.parametrize("name", SETTINGS)
def test_loss_and_gradient_equal_the_reference(num_labels, name, strip_size):
    logits, labels = random_examples(num_labels)
    settings = settings_for(num_labels, name)
    expected = with_gradient(reference(logits, labels, **settings), logits)
    actual = with_gradient(segmentation_loss(logits, labels, **settings), logits)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("label_size", [(3, 5), (9, 5), (2, 3), (1, 1), (7, 40), (64, 64)])
@pytest.mark.parametrize("num_labels", [3, 17])
def test_labels_may_be_of_any_size(label_size, num_labels, strip_size):
    logits, labels = random_examples(num_labels, label_size=label_size)
    labels[0, 0, 0] = 1
    expected = with_gradient(reference(logits, labels, dice_loss_weight=1.0), logits)
    actual = with_gradient(segmentation_loss(logits, labels, dice_loss_weight=1.0), logits)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("num_labels", [4, 32])
@pytest.mark.parametrize("name", SETTINGS)
def test_float32_is_as_exact_as_the_plain_formulation(num_labels, name):
    logits, labels = random_examples(num_labels, (16, 12), (128, 96), torch.float32)
    settings = settings_for(num_labels, name)
    double = logits.detach().double().requires_grad_()
    loss, gradient = with_gradient(segmentation_loss(logits, labels, **settings), logits)
    expected, expected_gradient = with_gradient(segmentation_loss(double, labels, **settings), double)
    assert (loss.dtype, gradient.dtype) == (torch.float32, torch.float32)
    assert abs(loss.double() - expected) < 1e-6 * max(1, expected)
    assert (gradient.double() - expected_gradient).abs().max() < 1e-5 * expected_gradient.abs().max()


@pytest.mark.parametrize("num_labels", [1, 3, 17])
@pytest.mark.parametrize("name", SETTINGS)
def test_gradient_is_that_of_small_differences(num_labels, name, monkeypatch):
    monkeypatch.setattr(module, "CPU_STRIP_SIZE", 64)
    logits, labels = random_examples(num_labels, (2, 3), (5, 7))
    settings = settings_for(num_labels, name)
    assert torch.autograd.gradcheck(
        lambda logits: segmentation_loss(logits, labels, **settings), logits, fast_mode=num_labels > 3
    )


@pytest.mark.parametrize(
    ("num_labels", "name"),
    [(1, "all"), *((17, name) for name in SETTINGS)]
    + [pytest.param(1, name, marks=pytest.mark.slow) for name in SETTINGS if name != "all"],
)
def test_compiled_loss_and_gradient_are_the_same(num_labels, name):
    logits, labels = random_examples(num_labels)
    settings = settings_for(num_labels, name)
    torch.compiler.reset()
    compiled = torch.compile(segmentation_loss, backend="aot_eager", fullgraph=True)
    actual = with_gradient(compiled(logits, labels, **settings), logits)
    expected = with_gradient(segmentation_loss(logits, labels, **settings), logits)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-13)


@pytest.mark.slow
def test_loss_and_gradient_are_the_same_when_compiled_by_inductor():
    logits, labels = random_examples(17, dtype=torch.float32)
    settings = settings_for(17, "all")
    torch.compiler.reset()
    actual = with_gradient(torch.compile(segmentation_loss, fullgraph=True)(logits, labels, **settings), logits)
    expected = with_gradient(segmentation_loss(logits, labels, **settings), logits)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6)


# Values counted by hand: one pixel of probabilities 1/4, 3/4 and one of 1/2, 1/2


@pytest.fixture
def two_pixels():
    return torch.tensor([[math.log(1 / 4), math.log(1 / 2)], [math.log(3 / 4), math.log(1 / 2)]]).reshape(1, 2, 1, 2)


def test_label_smoothing_asks_for_a_share_of_every_class(two_pixels):
    loss = segmentation_loss(two_pixels, torch.tensor([[[1, 255]]]), label_smoothing=0.5)  # targets 1/4 and 3/4
    assert loss.item() == pytest.approx(-math.log(1 / 4) / 4 - math.log(3 / 4) * 3 / 4, rel=1e-6)


def test_class_weights_make_a_weighted_mean(two_pixels):
    loss = segmentation_loss(two_pixels, torch.tensor([[[1, 0]]]), class_weights=[3, 1])
    assert loss.item() == pytest.approx((math.log(4 / 3) + 3 * math.log(2)) / 4, rel=1e-6)


@pytest.mark.parametrize(
    ("threshold", "min_kept", "expected"),
    [
        (0.7, 0, math.log(2)),  # of 3/4 and 1/2
        (0.8, 0, (math.log(2) + math.log(4 / 3)) / 2),
        (0.1, 1, math.log(2)),
        (0.1, 2, (math.log(2) + math.log(4 / 3)) / 2),
        (0.1, 100, (math.log(2) + math.log(4 / 3)) / 2),
        (0.1, 0, 0),
    ],
)
def test_only_hard_pixels_count_or_the_hardest_ones(two_pixels, threshold, min_kept, expected):
    settings = {"ohem_threshold": threshold, "ohem_min_kept": min_kept}
    assert segmentation_loss(two_pixels, torch.tensor([[[1, 0]]]), **settings).item() == pytest.approx(expected)


def test_dice_loss_is_the_mean_over_the_classes_that_occur(two_pixels):
    settings = {"cross_entropy_loss_weight": 0.0, "dice_loss_weight": 1.0}
    both = segmentation_loss(two_pixels, torch.tensor([[[1, 0]]]), **settings)
    losses = [1 - 2 * 0.5 / (0.75 + 1), 1 - 2 * 0.75 / (1.25 + 1)]
    assert both.item() == pytest.approx(sum(losses) / 2)
    one = segmentation_loss(two_pixels, torch.tensor([[[1, 255]]]), **settings)
    assert one.item() == pytest.approx(1 - 2 * 0.75 / (0.75 + 1))


def test_dice_loss_of_a_single_class_leaves_out_the_background():
    logits = torch.tensor([math.log(3), 0.0]).reshape(1, 1, 1, 2)  # probabilities 3/4 and 1/2
    settings = {"cross_entropy_loss_weight": 0.0, "dice_loss_weight": 1.0}
    loss = segmentation_loss(logits, torch.tensor([[[1, 0]]]), **settings)
    assert loss.item() == pytest.approx(1 - 2 * 0.75 / (1.25 + 1))


# What is ignored


@pytest.mark.parametrize("num_labels", [1, 2, 20])
@pytest.mark.parametrize("name", SETTINGS)
def test_every_loss_and_gradient_is_zero_when_all_labels_are_ignored(num_labels, name, strip_size):
    logits, labels = random_examples(num_labels)
    loss = segmentation_loss(logits, labels.fill_(255), **settings_for(num_labels, name))
    loss, gradient = with_gradient(loss, logits)
    assert loss == 0 and not gradient.any()


@pytest.mark.parametrize("num_labels", [1, 3, 20])
@pytest.mark.parametrize("name", SETTINGS)
def test_logits_of_ignored_pixels_change_nothing(num_labels, name):
    logits, labels = random_examples(num_labels, (4, 6), (4, 6))
    settings = settings_for(num_labels, name)
    ignored = (labels == 255)[:, None]
    loss, gradient = with_gradient(segmentation_loss(logits, labels, **settings), logits)
    other = torch.where(ignored, 7.0, logits)
    assert segmentation_loss(other, labels, **settings) == loss
    assert not gradient.masked_select(ignored).any() and gradient.any()


def test_loss_is_zero_when_the_classes_that_occur_weigh_nothing():
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    settings = {"class_weights": [0, 1, 1], "label_smoothing": 0.1}
    loss, gradient = with_gradient(segmentation_loss(logits, torch.zeros(1, 2, 2).long(), **settings), logits)
    assert loss == 0 and not gradient.any()


# Memory, and the ways torch runs it


class LargestOutput(TorchDispatchMode):
    """Notes the largest number of elements that any operation returned."""

    num_elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        outputs = function(*args, **(kwargs or {}))
        for output in outputs if isinstance(outputs, (tuple, list)) else [outputs]:
            if isinstance(output, torch.Tensor):
                self.num_elements = max(self.num_elements, output.numel())
        return outputs


@pytest.mark.parametrize(("num_labels", "size"), [(3, 300), (40, 160)])
@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("trains", [True, False])
def test_no_tensor_is_larger_than_labels_logits_or_a_strip(num_labels, size, name, trains, monkeypatch):
    monkeypatch.setattr(module, "CPU_STRIP_SIZE", 2**15)
    logits, labels = random_examples(num_labels, (size // 4, size // 4), (size, size), torch.float32)
    settings = settings_for(num_labels, name)
    with LargestOutput() as largest, torch.set_grad_enabled(trains):
        loss = segmentation_loss(logits, labels, **settings)
        if trains:
            loss.backward()
    assert largest.num_elements <= max(labels.numel(), logits.numel(), 2**15)
    assert max(labels.numel(), logits.numel(), 2**15) < num_labels * labels.numel() / 2


@pytest.mark.parametrize("name", SETTINGS)
def test_loss_is_the_same_without_a_gradient(name):
    logits, labels = random_examples(3)
    loss = segmentation_loss(logits, labels, **settings_for(3, name))
    with torch.no_grad():
        assert segmentation_loss(logits, labels, **settings_for(3, name)) == loss
    assert segmentation_loss(logits.detach(), labels, **settings_for(3, name)) == loss


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_loss_is_computed_in_float32_under_autocast(name, dtype):
    logits, labels = random_examples(3, dtype=torch.float32)
    low = logits.detach().to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        loss, gradient = with_gradient(segmentation_loss(low, labels, **settings_for(3, name)), low)
    expected = with_gradient(segmentation_loss(low.float(), labels, **settings_for(3, name)), low)
    assert (loss.dtype, gradient.dtype) == (torch.float32, dtype)
    assert torch.equal(loss, expected[0]) and torch.equal(gradient, expected[1])


def test_gradient_is_scaled_by_what_follows():
    logits, labels = random_examples(3)
    _, gradient = with_gradient(segmentation_loss(logits, labels), logits)
    _, scaled = with_gradient(-3 * segmentation_loss(logits, labels), logits)
    torch.testing.assert_close(scaled, -3 * gradient)


def test_logits_may_be_a_transposed_view():
    logits, labels = random_examples(20)
    view = logits.detach().permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2).requires_grad_()
    actual = with_gradient(segmentation_loss(view, labels), view)
    torch.testing.assert_close(actual, with_gradient(segmentation_loss(logits, labels), logits))


def test_error_when_it_is_to_be_differentiated_twice():
    logits, labels = random_examples(3)
    with pytest.raises(RuntimeError, match=r"`create_graph` must be False, .* got True; leave it out"):
        torch.autograd.grad(segmentation_loss(logits, labels), logits, create_graph=True)


@pytest.mark.gpu
@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("num_labels", [1, 3, 150])
def test_loss_on_a_gpu_is_the_same_and_waits_for_nothing(num_labels, name):
    logits, labels = random_examples(num_labels, (16, 16), (128, 128), torch.float32)
    settings = settings_for(num_labels, name)
    expected = with_gradient(segmentation_loss(logits, labels, **settings), logits)
    logits, labels = logits.detach().cuda().requires_grad_(), labels.cuda()
    segmentation_loss(logits, labels, **settings).backward()  # the first call of a kernel may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        actual = with_gradient(segmentation_loss(logits, labels, **settings), logits)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close([tensor.cpu() for tensor in actual], list(expected), rtol=1e-4, atol=1e-6)


# The model's loss


def test_both_losses_of_the_model_are_those_of_its_configuration():
    settings = {**settings_for(4, "all"), "attention_loss_weight": 0.5}
    config = OffSegConfig(num_labels=4, semantic_loss_ignore_index=-1, **settings)
    torch.manual_seed(0)
    layer, features = OffsetLearning(4, 8), torch.randn(2, 8, 3, 5)
    logits, labels = random_examples(4)
    own = {name: value for name, value in settings.items() if name != "attention_loss_weight"}
    expected = reference(logits, labels, **own) + 0.5 * reference(layer.coupled_attention(features), labels, **own)
    loss = offset_learning_loss(layer, features, logits, labels.where(labels != 255, -1), config)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)
