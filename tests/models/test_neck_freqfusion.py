"""FreqFusion and its parts, against what they mean written out pixel by pixel."""

import itertools
import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from offseg_hf.models.neck_freqfusion import FreqFusion, SimilarityResampler, neighbour_similarity, reassemble


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def randomised(module):
    """`module` in double precision, with weights far from their start."""
    for i, parameter in enumerate(module.double().parameters()):
        parameter.data = 0.3 * draw(*parameter.shape, seed=i)
    return module


def literal_reassemble(features, kernels, scale):
    batch_size, channels, height, width = features.shape
    size = math.isqrt(kernels.shape[1])
    outputs = torch.zeros(batch_size, channels, scale * height, scale * width, dtype=features.dtype)
    for i, j in itertools.product(range(scale * height), range(scale * width)):
        for k, (di, dj) in enumerate(itertools.product(range(size), repeat=2)):
            y, x = i // scale + di - size // 2, j // scale + dj - size // 2
            if 0 <= y < height and 0 <= x < width:
                outputs[:, :, i, j] += kernels[:, k, None, i, j] * features[:, :, y, x]
    return outputs


def literal_similarity(features):
    batch_size, _, height, width = features.shape
    similarity = torch.zeros(batch_size, 8, height, width, dtype=features.dtype)
    steps = [(-2, -2), (-2, 0), (-2, 2), (0, -2), (0, 2), (2, -2), (2, 0), (2, 2)]
    for k, (di, dj) in enumerate(steps):
        for i, j in itertools.product(range(height), range(width)):
            if 0 <= i + di < height and 0 <= j + dj < width:
                here, there = features[:, :, i, j], features[:, :, i + di, j + dj]
                similarity[:, k, i, j] = (here * there).sum(1) / (here.norm(dim=1) * there.norm(dim=1))
    return similarity


def literal_sample(image, y, x):
    """Bilinear sample of a (C, H, W) at a position in pixels, that of the first pixel's centre being 0."""
    height, width = image.shape[1:]
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = min(int(y), height - 2), min(int(x), width - 2)
    b, r = y - top, x - left
    upper = (1 - r) * image[:, top, left] + r * image[:, top, left + 1]
    lower = (1 - r) * image[:, top + 1, left] + r * image[:, top + 1, left + 1]
    return (1 - b) * upper + b * lower


def literal_resample(module, upsampled, high, low):
    high, low = module.norm_hr(high), module.norm_lr(low)
    coarse_offset, coarse_scale = module.offset(literal_similarity(low)), module.direct_scale(low)
    fine_offset, fine_scale = module.hr_offset(literal_similarity(high)), module.hr_direct_scale(high)
    outputs = torch.zeros_like(upsampled)
    group_size = upsampled.shape[1] // 4
    for b, i, j, group in itertools.product(*map(range, (len(low), *high.shape[2:], 4))):
        y, x = i // 2, j // 2
        position = []
        for axis, pixel, sub_pixel in ((1, y, i % 2), (0, x, j % 2)):  # x comes first in the channels
            fine = 4 * axis + group
            coarse = 4 * fine + 2 * (i % 2) + j % 2
            offset = coarse_offset[b, coarse, y, x] + fine_offset[b, fine, i, j]
            offset = offset * (coarse_scale[b, coarse, y, x] + fine_scale[b, fine, i, j]).sigmoid()
            centre = pixel + 0.5 + (0.25 if sub_pixel else -0.25) + offset  # from the map's edge, in coarse pixels
            position.append(2 * centre.item() - 0.5)  # from the first fine pixel's centre, in fine pixels
        channels = slice(group * group_size, (group + 1) * group_size)
        outputs[b, channels, i, j] = literal_sample(upsampled[b, channels], *position)
    return outputs


@pytest.mark.parametrize(("size", "scale"), [(3, 1), (5, 1), (3, 2), (5, 2)])
def test_reassemble_weighs_every_neighbour(size, scale):
    features, kernels = draw(2, 3, 4, 6), draw(2, size * size, scale * 4, scale * 6, seed=1)
    torch.testing.assert_close(reassemble(features, kernels, scale), literal_reassemble(features, kernels, scale))


def test_reassemble_counts_the_neighbours_inside_when_all_is_one():
    counts = reassemble(torch.ones(1, 1, 3, 4), torch.ones(1, 9, 3, 4))
    assert counts[0, 0].tolist() == [[4, 6, 6, 4], [6, 9, 9, 6], [4, 6, 6, 4]]


@pytest.mark.parametrize("scale", [1, 2])
def test_reassemble_has_the_right_gradients(scale):
    features, kernels = draw(1, 2, 2, 3).requires_grad_(), draw(1, 9, scale * 2, scale * 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(reassemble, (features, kernels, scale))


def test_reassemble_never_copies_the_neighbourhoods():
    class LargestTensor(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            output = function(*args, **(kwargs or {}))
            for tensor in output if isinstance(output, list) else [output]:
                self.numel = max(self.numel, tensor.untyped_storage().nbytes() // tensor.element_size())
            return output

    features, kernels = torch.ones(1, 64, 32, 32), torch.ones(1, 25, 64, 64)
    with LargestTensor() as largest:
        outputs = reassemble(features, kernels, scale=2)
    assert largest.numel < 1.3 * outputs.numel()  # the upsampled source has a margin of 4


def test_similarity_is_the_cosine_with_neighbours_at_distance_two():
    features = draw(2, 5, 4, 6)
    torch.testing.assert_close(neighbour_similarity(features), literal_similarity(features))


def test_similarity_is_one_between_equal_pixels_and_zero_outside():
    similarity = neighbour_similarity(torch.full((1, 3, 3, 5), 7.0))
    assert similarity[0, :, 0, 0].tolist() == pytest.approx([0, 0, 0, 0, 1, 0, 1, 1])
    assert similarity[0, :, 2, 4].tolist() == pytest.approx([1, 1, 0, 1, 0, 0, 0, 0])


def test_similarity_of_nothing_is_zero_with_finite_gradients():
    features = torch.zeros(1, 3, 4, 4, requires_grad=True)
    similarity = neighbour_similarity(features)
    similarity.sum().backward()
    assert not similarity.any() and features.grad.isfinite().all()


@pytest.mark.parametrize("magnitude", [1e-3, 1e3])
def test_similarity_in_float16_keeps_to_its_range(magnitude):
    features = magnitude * draw(1, 64, 6, 6)
    similarity = neighbour_similarity(features.half())
    assert similarity.dtype == torch.float16
    torch.testing.assert_close(similarity.double(), neighbour_similarity(features), rtol=0, atol=2e-3)


def test_resampler_samples_where_the_similarities_say():
    resampler = randomised(SimilarityResampler(16))
    upsampled, high, low = draw(2, 8, 6, 8), draw(2, 16, 6, 8, seed=1), draw(2, 16, 3, 4, seed=2)
    resampled = resampler(upsampled, high, low)
    torch.testing.assert_close(resampled, literal_resample(resampler, upsampled, high, low))
    assert (resampled - upsampled).abs().mean() > 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_resampler_changes_nothing_without_offsets_in_any_precision(dtype):
    resampler = SimilarityResampler(8).to(dtype)
    for convolution in (resampler.offset, resampler.hr_offset):
        torch.nn.init.zeros_(convolution.weight)
    upsampled = draw(1, 4, 4, 1024).to(dtype)
    resampled = resampler(upsampled, torch.ones(1, 8, 4, 1024, dtype=dtype), torch.ones(1, 8, 2, 512, dtype=dtype))
    torch.testing.assert_close(resampled, upsampled, rtol=0, atol=1e-3 if dtype == torch.float32 else 2e-2)


def test_freqfusion_computes_its_equations():
    module = randomised(FreqFusion(low_channels=20, high_channels=12))
    high, low = draw(2, 12, 6, 8), draw(2, 20, 3, 4, seed=1)
    sharpened, resampled = module(high, low)

    encode_low_pass, encode_high_pass = module.content_encoder, module.content_encoder2
    h, l = module.hr_channel_compressor(high), module.lr_channel_compressor(low)  # noqa: E741
    first = encode_high_pass(h)
    h = 2 * h - literal_reassemble(h, first.softmax(1), 1)
    a = encode_low_pass(h)
    a = a + literal_reassemble(encode_low_pass(l), a.softmax(1), 2)
    g = first + literal_reassemble(encode_high_pass(l), a.softmax(1), 2)
    up = literal_reassemble(low, a.softmax(1), 2)
    torch.testing.assert_close(sharpened, 2 * high - literal_reassemble(high, g.softmax(1), 1))
    torch.testing.assert_close(resampled, literal_resample(module.dysampler, up, h, l))


def test_new_module_starts_as_described():
    module = FreqFusion(low_channels=160, high_channels=96)
    resampler = module.dysampler
    for convolution in (module.content_encoder, module.content_encoder2, resampler.offset, resampler.hr_offset):
        assert convolution.weight.std().item() == pytest.approx(0.001, rel=0.1)
    for convolution in (resampler.direct_scale, resampler.hr_direct_scale):
        assert not convolution.weight.any()
    for convolution, in_channels in ((module.hr_channel_compressor, 96), (module.lr_channel_compressor, 160)):
        bound = math.sqrt(6 / (in_channels + 64))
        assert 0.99 * bound < convolution.weight.abs().max() <= bound
    assert not any(parameter.any() for name, parameter in module.named_parameters() if name.endswith("bias"))
