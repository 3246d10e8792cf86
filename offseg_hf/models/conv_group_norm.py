"""1×1 convolution with GroupNorm, of which the light decode heads are made."""

import torch
from torch import nn
from torch.nn import functional as F


class ConvGroupNorm(nn.Module):
    """1×1 convolution without bias → GroupNorm (→ ReLU)."""

    def __init__(self, in_channels: int, out_channels: int, num_groups: int, relu: bool = True):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False)
        self.gn = nn.GroupNorm(num_groups, out_channels)
        self.relu = relu

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden_states = self.gn(self.conv(hidden_states))
        return F.relu(hidden_states) if self.relu else hidden_states
