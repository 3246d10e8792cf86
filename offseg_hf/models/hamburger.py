"""Hamburger: global context as a low-rank approximation of the feature map.

"Is Attention Better Than Matrix Decomposition?" (ICLR 2021, arXiv 2109.04553). A non-negative matrix factorisation
between two 1×1 convolutions: what R bases can tell of all the pixels is what the pixels have in common.

Only torch is needed here.
"""

from collections import OrderedDict
from contextlib import nullcontext

import torch
from torch import nn
from torch.nn import functional as F

from .conv_group_norm import ConvGroupNorm


class NonNegativeMatrixFactorization(nn.Module):
    """(B, C, N), none negative → its approximation by `rank` bases per image, found by multiplicative updates.

    The bases start from uniform random numbers, of unit length: in training from new ones for every image, by torch's
    global generator; in evaluation, unless `resample_in_evaluation`, always from those that follow a seed of 0, for
    all images the same. They are drawn on the CPU in float32, so that a result is the same everywhere.

    Args:
        channels (`int`): channels C of the features.
        rank (`int`): number of bases R.
        train_steps (`int`): updates of coefficients and bases in training; gradients flow through all of them.
        eval_steps (`int`): the same in evaluation.
        resample_in_evaluation (`bool`): whether evaluation draws new bases at every call, as training does.
    """

    def __init__(self, channels: int, rank: int, train_steps: int, eval_steps: int, resample_in_evaluation: bool):
        super().__init__()
        self.channels = channels
        self.rank = rank
        self.train_steps = train_steps
        self.eval_steps = eval_steps
        self.resample_in_evaluation = resample_in_evaluation
        # `torch.rand` makes multiples of 2⁻²⁴: kept as integers, no change of the model's dtype rounds them.
        self.register_buffer("seeded_bases", torch.empty((1, channels, rank), dtype=torch.int32), persistent=False)
        self.reset_bases()

    def reset_bases(self) -> None:
        bases = torch.rand(
            self.seeded_bases.shape, generator=torch.Generator("cpu").manual_seed(0), dtype=torch.float32, device="cpu"
        )
        self.seeded_bases.copy_(bases * 2**24)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Approximates each image's features.

        Args:
            features (`torch.Tensor` of shape `(batch_size, channels, num_pixels)`): none of them negative.

        Returns:
            `torch.Tensor` of shape `(batch_size, channels, num_pixels)`: of rank R, in the dtype of `features`.
        """
        device_type = features.device.type
        can_autocast = torch.amp.is_autocast_available(device_type)
        # Products of products leave float16's range and bfloat16's precision.
        with torch.autocast(device_type, enabled=False) if can_autocast else nullcontext():
            wide = features.to(torch.promote_types(features.dtype, torch.float32))
            return self._factorize(wide).to(features.dtype)

    def _factorize(self, features):
        bases = F.normalize(self._initial_bases(features), dim=1)  # (B or 1, C, R)
        similarity = bases.mT @ features  # (B, R, N)
        coefficients = similarity.softmax(dim=1)
        for _ in range(self.train_steps if self.training else self.eval_steps):
            coefficients = coefficients * similarity / (bases.mT @ bases @ coefficients + 1e-6)
            bases = bases * (features @ coefficients.mT) / (bases @ (coefficients @ coefficients.mT) + 1e-6)
            similarity = bases.mT @ features
        coefficients = coefficients * similarity / (bases.mT @ bases @ coefficients + 1e-6)
        return bases @ coefficients  # (B, C, N)

    def _initial_bases(self, features):
        if self.training or self.resample_in_evaluation:
            shape = (len(features), self.channels, self.rank)
            return torch.rand(shape, dtype=torch.float32, device="cpu").to(features)
        return self.seeded_bases.to(features.dtype) / 2**24

    def extra_repr(self) -> str:
        return f"channels={self.channels}, rank={self.rank}, steps={self.train_steps}, {self.eval_steps}"


class Hamburger(nn.Module):
    """Features → 1×1 convolution → ReLU → matrix factorisation → 1×1 convolution, GroupNorm → plus input → ReLU.

    Args:
        channels (`int`): channels C of the features.
        num_groups (`int`): groups of the GroupNorm.
        factorization ([`NonNegativeMatrixFactorization`]): the ham.
    """

    def __init__(self, channels: int, num_groups: int, factorization: NonNegativeMatrixFactorization):
        super().__init__()
        self.ham_in = nn.Sequential(OrderedDict(conv=nn.Conv2d(channels, channels, kernel_size=1), relu=nn.ReLU()))
        self.ham = factorization
        self.ham_out = ConvGroupNorm(channels, channels, num_groups, relu=False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Adds global context.

        Args:
            features (`torch.Tensor` of shape `(batch_size, channels, height, width)`): any.

        Returns:
            `torch.Tensor` of shape `(batch_size, channels, height, width)`: none negative.
        """
        ham = self.ham(self.ham_in(features).flatten(2))  # (B, C, H*W)
        return F.relu(features + self.ham_out(ham.unflatten(2, features.shape[2:])))
