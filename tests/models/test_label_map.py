import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from offseg_hf.models.label_map import MAX_CHUNK_VALUES, label_map_and_confidence, upsampled_label_map

CELLS = [((12, 15), (97, 131)), ((12, 15), (48, 60)), ((16, 16), (112, 80)), ((9, 31), (90, 1000)), ((1, 9), (40, 77))]
FEW_CELLS = [
    ((12, 15), (24, 30)),
    ((12, 15), (12, 15)),
    ((12, 15), (7, 140)),
    ((30, 40), (20, 11)),
    ((1, 1), (80, 80)),
]


def random_logits(kind, num_labels, size=(12, 15), batch_size=2):
    """Noise; or `smooth`: such that most neighbours have the same best class."""
    generator = torch.Generator().manual_seed(0)
    if kind != "smooth":
        return torch.randn(batch_size, num_labels, *size, generator=generator)
    coarse = 5 * torch.randn(batch_size, num_labels, 2, 3, generator=generator)
    logits = F.interpolate(coarse, size, mode="bilinear", align_corners=False)
    return logits + 0.1 * torch.randn(logits.shape, generator=generator)


def upsampled_logits(logits, size):
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.interpolate(logits, size, mode="bilinear", align_corners=False)


def check_label_map(logits, size):
    """The label map is that of all upsampled logits, but where the best and the one chosen differ by rounding only."""
    label_map, upsampled = upsampled_label_map(logits, size), upsampled_logits(logits, size)
    assert label_map.dtype == torch.int64 and label_map.shape == (len(logits), *size)
    chosen = upsampled.gather(1, label_map[:, None])[:, 0]
    assert (upsampled.amax(1) - chosen).max() <= 1e-6 * logits.abs().max().clamp(min=1)
    return label_map, upsampled.argmax(1)


class Operations(TorchDispatchMode):
    """The names of all operations, and the number of elements of the largest result."""

    def __init__(self):
        super().__init__()
        self.names, self.largest = set(), 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.names.add(func.overloadpacket.__name__)
        results = result if isinstance(result, (tuple, list)) else [result]
        self.largest = max([self.largest, *(item.numel() for item in results if isinstance(item, torch.Tensor))])
        return result


@pytest.mark.parametrize("kind", ["smooth", "noise"])
@pytest.mark.parametrize("num_labels", [2, 3, 8, 19, 150, 1000])
@pytest.mark.parametrize(("old", "new"), CELLS + FEW_CELLS)
def test_label_map_is_that_of_all_logits_upsampled(old, new, num_labels, kind):
    label_map, expected = check_label_map(random_logits(kind, num_labels, old), new)
    assert torch.equal(label_map, expected)  # no two logits here are as close as rounding


@pytest.mark.parametrize("kind", ["smooth", "noise"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("num_labels", [3, 19])
def test_label_map_takes_logits_of(num_labels, memory_format, dtype, kind):
    logits = random_logits(kind, num_labels).to(dtype).contiguous(memory_format=memory_format)
    for size in ((97, 131), (24, 30)):
        label_map, expected = check_label_map(logits, size)
        assert (label_map != expected).float().mean() < 1e-3  # 16-bit logits have ties


def test_label_map_takes_huge_logits():
    check_label_map(random_logits("smooth", 19) * 1e6, (97, 131))


def test_label_map_takes_ties():
    logits = torch.randint(0, 3, (2, 19, 12, 15), generator=torch.Generator().manual_seed(0)) * 1.37
    for size in ((20 * 12, 20 * 15), (24, 30)):
        check_label_map(logits, size)


@pytest.mark.parametrize("size", [(97, 131), (24, 30)])
def test_label_map_takes_the_first_of_equal_classes(size):
    logits = random_logits("smooth", 19)
    assert torch.equal(
        upsampled_label_map(torch.cat([logits, logits], dim=1), size), upsampled_label_map(logits, size)
    )
    assert (upsampled_label_map(torch.zeros(1, 9, 4, 4), size) == 0).all()


@pytest.mark.parametrize("size", [(97, 131), (24, 30)])
@pytest.mark.parametrize("num_classes", [5, 19])
@pytest.mark.parametrize("place", [0, 2, -1])
def test_label_map_is_that_of_the_other_classes_when_one_is_excluded(size, num_classes, place):
    logits = random_logits("smooth", num_classes)
    others = [index for index in range(num_classes) if index != place % num_classes]
    logits[:, place] = -torch.inf
    expected, expected_confidence = label_map_and_confidence(logits[0, others], size)
    assert torch.equal(upsampled_label_map(logits, size)[0], torch.tensor(others)[expected])
    label_map, confidence = label_map_and_confidence(logits[0], size)
    assert torch.equal(label_map, torch.tensor(others)[expected])
    torch.testing.assert_close(confidence, expected_confidence)


def test_label_map_has_a_class_that_is_the_best_at_no_point_of_the_logits():
    logits = torch.zeros(1, 8, 2, 2)
    logits[0, 0, 0, 0] = logits[0, 1, 0, 1] = logits[0, 2, 1, 0] = logits[0, 3, 1, 1] = 3  # 0.75 at the centre
    logits[0, 4] = 1
    with Operations() as operations:
        label_map = upsampled_label_map(logits, (96, 96))[0]
    assert "upsample_bilinear2d" not in operations.names
    assert label_map[[0, 0, 95, 95], [0, 95, 0, 95]].tolist() == [0, 1, 2, 3]
    assert label_map[48, 48] == 4
    assert torch.equal(label_map, upsampled_logits(logits, (96, 96))[0].argmax(0))


@pytest.mark.parametrize("kind", ["smooth", "noise"])
def test_label_map_never_holds_all_upsampled_logits(kind):
    logits = random_logits(kind, 150, (32, 32), batch_size=1)
    with Operations() as operations:
        upsampled_label_map(logits, (384, 512))
    assert operations.largest <= MAX_CHUNK_VALUES  # of 150 * 384 * 512
    assert "upsample_bilinear2d" not in operations.names  # only the classes that can win in a cell


def test_label_map_is_one_where_the_logit_is_positive_when_there_is_one_class():
    logits = random_logits("noise", 1)
    expected = (upsampled_logits(logits, (97, 131))[:, 0] > 0).long()
    assert torch.equal(upsampled_label_map(logits, (97, 131)), expected)
    assert 0 < expected.float().mean() < 1


def test_label_map_names_the_size_when_it_is_none():
    with pytest.raises(
        ValueError, match=r"`size` must be \(height, width\) in pixels, .* but is \(8, 0\); correct it"
    ):
        upsampled_label_map(torch.zeros(1, 2, 4, 4), (8, 0))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("num_labels", [11, 150])
def test_confidence_takes_one_plane_at_a_time(num_labels, memory_format):
    logits = random_logits("noise", num_labels, (3, 4), batch_size=1).contiguous(memory_format=memory_format)
    with Operations() as operations:
        label_map_and_confidence(logits[0], (96, 128))
    assert operations.largest == 96 * 128


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("num_labels", [1, 3, 11])
def test_label_map_is_an_error_when_a_logit_is_not_finite(num_labels, value):
    logits = random_logits("smooth", num_labels)
    logits[1, -1, 3, 4] = value
    message = r"`logits` must be finite numbers to choose a class by, but at 1 of 360 positions .*; check the weights"
    with pytest.raises(ValueError, match=message):
        upsampled_label_map(logits, (96, 120))
    with pytest.raises(ValueError, match="`logits` must be finite numbers"):
        label_map_and_confidence(logits[1], (96, 120))
