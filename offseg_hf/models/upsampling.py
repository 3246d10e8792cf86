"""Bilinear upsampling that can be trained when compiled."""

import torch
from torch.nn import functional as F


def upsample(hidden_states: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(B, C, h, w) → (B, C, *size), bilinear."""
    if torch.compiler.is_dynamo_compiling() and torch.is_grad_enabled():
        # Inductor (torch 2.13, CPU) loses the gradients of interpolations that are added up; of products it does not.
        rows, columns = (
            F.interpolate(torch.eye(old, device=hidden_states.device)[None], size=new, mode="linear")[0]  # (old, new)
            for old, new in zip(hidden_states.shape[2:], size)
        )
        return rows.T.to(hidden_states.dtype) @ hidden_states @ columns.to(hidden_states.dtype)
    return F.interpolate(hidden_states, size=size, mode="bilinear")
