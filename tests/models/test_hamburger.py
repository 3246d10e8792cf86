"""Hamburger: the matrix factorisation as it is written down, and where its bases start."""

import copy
from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from offseg_hf.models.hamburger import Hamburger, NonNegativeMatrixFactorization

CHANNELS, RANK = 6, 3


def factorization(**arguments):
    defaults = {"train_steps": 2, "eval_steps": 3, "resample_in_evaluation": False}
    return NonNegativeMatrixFactorization(CHANNELS, RANK, **{**defaults, **arguments}).eval()


@pytest.fixture
def features():
    """Two images of 20 pixels, without negative numbers."""
    return torch.rand(2, CHANNELS, 20, generator=torch.Generator().manual_seed(1))


def literal_factorization(features, bases, steps):
    """The multiplicative updates, number by number, of one image's (C, N) from bases (C, R)."""
    num_channels, num_pixels = features.shape
    rank = bases.shape[1]
    d = [[bases[c][r] / bases[:, r].square().sum().sqrt() for r in range(rank)] for c in range(num_channels)]

    def dot(pairs):
        return sum(a * b for a, b in pairs)

    def similarity(n, r):
        return dot((features[c][n], d[c][r]) for c in range(num_channels))

    def update_coefficients():
        return [
            [
                coef[n][r]
                * similarity(n, r)
                / (dot((coef[n][s], dot((d[c][s], d[c][r]) for c in range(num_channels))) for s in range(rank)) + 1e-6)
                for r in range(rank)
            ]
            for n in range(num_pixels)
        ]

    def update_bases():
        return [
            [
                d[c][r]
                * dot((features[c][n], coef[n][r]) for n in range(num_pixels))
                / (
                    dot((d[c][s], dot((coef[n][s], coef[n][r]) for n in range(num_pixels))) for s in range(rank))
                    + 1e-6
                )
                for r in range(rank)
            ]
            for c in range(num_channels)
        ]

    coef = [torch.stack([similarity(n, r) for r in range(rank)]).softmax(0) for n in range(num_pixels)]
    for _ in range(steps):
        coef = update_coefficients()
        d = update_bases()
    coef = update_coefficients()
    return torch.stack(
        [torch.stack([dot(zip(d[c], coef[n])) for n in range(num_pixels)]) for c in range(num_channels)]
    )


def test_evaluation_makes_the_literal_updates_from_the_seeds_bases(features):
    features = features[:, :, :5].double()
    torch.manual_seed(0)
    bases = torch.rand((1, CHANNELS, RANK))[0].double()
    expected = torch.stack([literal_factorization(image, bases, steps=3) for image in features])
    torch.testing.assert_close(factorization()(features), expected, rtol=1e-9, atol=1e-12)


def test_training_makes_the_literal_updates_from_new_bases_for_every_image(features):
    features = features[:, :, :5].double()
    torch.manual_seed(7)
    bases = torch.rand((2, CHANNELS, RANK)).double()
    expected = torch.stack([literal_factorization(*pair, steps=2) for pair in zip(features, bases)])
    torch.manual_seed(7)
    torch.testing.assert_close(factorization().train()(features), expected, rtol=1e-9, atol=1e-12)


def test_approximation_of_a_matrix_of_that_rank_gets_closer_with_every_step():
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(1, CHANNELS, RANK, generator=generator) @ torch.rand(1, RANK, 20, generator=generator)
    errors = [(factorization(eval_steps=steps)(features) - features).norm() for steps in range(0, 50, 10)]
    assert all(later < earlier for earlier, later in pairwise(errors))


def test_evaluation_neither_reads_nor_moves_the_global_seed(features):
    torch.manual_seed(1)
    first = factorization()(features)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert torch.equal(factorization()(features), first)
    assert torch.equal(torch.get_rng_state(), state)


def test_result_of_an_image_does_not_depend_on_its_batch_in_evaluation(features):
    together = factorization()(features)
    for image, expected in zip(features, together):
        torch.testing.assert_close(factorization()(image[None])[0], expected)


def test_bases_are_drawn_anew_at_every_call_when_evaluation_resamples(features):
    module = factorization(resample_in_evaluation=True)
    torch.manual_seed(0)
    first = module(features[:1])
    torch.testing.assert_close(first, factorization()(features[:1]))
    assert not torch.allclose(module(features[:1]), first)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_bases_are_not_rounded_when_the_dtype_changes(dtype, features):
    assert torch.equal(factorization().to(dtype).float()(features), factorization()(features))


def test_bases_are_no_entry_of_a_checkpoint():
    assert not factorization().state_dict()


@pytest.mark.parametrize("training", [True, False])
def test_autocast_changes_nothing(training, features):
    module = factorization().train(training)
    torch.manual_seed(0)
    expected = module(features)
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(module(features), expected)


def test_float16_is_computed_in_float32(features):
    features = (20_000 * features).half()
    result = factorization()(features)
    assert result.dtype == torch.float16
    assert torch.equal(result, factorization()(features.float()).half())


def test_gradients_flow_through_all_updates(features):
    features = features[:1, :, :5].double().requires_grad_()
    assert torch.autograd.gradcheck(factorization(), (features,))


@pytest.mark.parametrize("training", [True, False])
def test_result_and_gradients_are_finite_when_all_features_are_zero(training):
    features = torch.zeros(1, CHANNELS, 20, requires_grad=True)
    result = factorization().train(training)(features)
    result.sum().backward()
    assert not result.any() and features.grad.isfinite().all()


def test_hamburger_adds_what_its_convolutions_make_of_the_factorization():
    torch.manual_seed(0)
    hamburger = Hamburger(CHANNELS, num_groups=2, factorization=factorization())
    for parameter in hamburger.parameters():
        parameter.data.normal_()
    features = torch.randn(2, CHANNELS, 3, 5)
    conv, out = hamburger.ham_in.conv, hamburger.ham_out
    inside = torch.einsum("oi,bihw->bohw", conv.weight[:, :, 0, 0], features) + conv.bias[:, None, None]
    ham = factorization()(inside.relu().reshape(2, CHANNELS, 15)).reshape(features.shape)
    outside = torch.einsum("oi,bihw->bohw", out.conv.weight[:, :, 0, 0], ham)
    expected = (features + F.group_norm(outside, 2, out.gn.weight, out.gn.bias, eps=1e-5)).relu()
    torch.testing.assert_close(hamburger(features), expected, rtol=1e-5, atol=1e-5)


def test_copy_and_meta_device_keep_the_seeds_bases(features):
    with torch.device("meta"):
        module = factorization()
    assert module.seeded_bases.is_meta and module(features.to("meta")).shape == features.shape
    module.to_empty(device="cpu").reset_bases()
    assert torch.equal(copy.deepcopy(module)(features), factorization()(features))
