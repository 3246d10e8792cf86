"""Stochastic depth."""

import torch
from torch import nn


class DropPath(nn.Module):
    """In training, zeroes the residual branch of whole images at random and scales up the others ("Deep Networks with
    Stochastic Depth", arXiv 1603.09382)."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if not self.training or self.rate == 0:
            return hidden_states
        kept = torch.empty(len(hidden_states), 1, 1, 1, device=hidden_states.device).bernoulli_(1 - self.rate)
        return hidden_states * (kept / (1 - self.rate)).to(hidden_states.dtype)

    def extra_repr(self) -> str:
        return f"rate={self.rate}"
