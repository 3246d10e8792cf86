"""The native SegFormer encoder without changes of layout: its maps stay channels-last, as its tokens are.

The native modules turn tokens (B, H*W, C) into maps (B, C, H, W) for every convolution and back, most of the time by a
copy. Seen as channels-last maps, tokens need none, and depth-wise convolutions are several times as fast on a CPU.
"""

import inspect
import warnings

import torch
import transformers
from torch import nn

try:
    from transformers.models.segformer.modeling_segformer import (
        SegformerDepthWiseConv,
        SegformerOverlapPatchEmbeddings,
        SegformerSequenceReduction,
        SegformerStage,
    )
except ImportError:  # in a newer library: no encoder is changed then
    SegformerDepthWiseConv = SegformerOverlapPatchEmbeddings = SegformerSequenceReduction = SegformerStage = nn.Module


def keep_channels_last(encoder: nn.Module) -> None:
    """Changes how an encoder computes, but not what: its weights and their names stay.

    Where the library's encoder is made of other parts than this code knows, nothing is changed at all: half of the
    changes would cost more copies than none.

    Args:
        encoder (`transformers.SegformerModel`): changed in place. Its stages' maps come out channels-last.

    Warns:
        UserWarning: that it stays as it is.
    """
    unknown = sorted(name for name, changed in CHANNELS_LAST.items() if not _is_known(name, changed, encoder))
    if unknown:
        warnings.warn(
            f"transformers {transformers.__version__} makes SegFormer's encoder without {', '.join(unknown)} as this "
            "model's code knows them, so the encoder stays the library's own: it answers the same, but takes more "
            "time and memory on a CPU. Install a newer version of this code, or transformers 5.20 to 5.24."
        )
        return
    for module in encoder.modules():
        if type(module) in NATIVE:
            module.__class__ = NATIVE[type(module)]


def _is_known(name, changed, encoder):
    """Whether an encoder has a native part, and the part the arguments and layers that the changed one relies on."""
    native = changed.__base__
    if native is nn.Module:
        return False
    parts = [module for module in encoder.modules() if type(module) is native]
    is_needed = name != "SegformerSequenceReduction" or max(encoder.config.sr_ratios) > 1
    return (
        inspect.signature(native.forward).parameters.keys() == inspect.signature(changed.forward).parameters.keys()
        and all(hasattr(part, layer) for part in parts for layer in changed.layers)
        and bool(parts or not is_needed)
    )


def to_map(tokens: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(B, H*W, C) → (B, C, H, W), channels-last, without a copy."""
    return tokens.unflatten(1, (height, width)).permute(0, 3, 1, 2)


def to_tokens(hidden_states: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) → (B, H*W, C), without a copy of a channels-last map."""
    return hidden_states.permute(0, 2, 3, 1).flatten(1, 2)


class ChannelsLastPatchEmbeddings(SegformerOverlapPatchEmbeddings):
    """Map → convolution → tokens → LayerNorm."""

    layers = ("proj", "layer_norm")

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, int, int]:
        embeddings = self.proj(pixel_values.contiguous(memory_format=torch.channels_last))
        height, width = embeddings.shape[2:]
        return self.layer_norm(to_tokens(embeddings)), height, width


class ChannelsLastSequenceReduction(SegformerSequenceReduction):
    """Tokens → convolution → fewer tokens → LayerNorm."""

    layers = ("sequence_reduction", "layer_norm")

    def forward(self, hidden_states: torch.Tensor, height: int, width: int) -> torch.Tensor:
        return self.layer_norm(to_tokens(self.sequence_reduction(to_map(hidden_states, height, width))))


class ChannelsLastDepthWiseConv(SegformerDepthWiseConv):
    """Tokens → depth-wise convolution → tokens."""

    layers = ("dwconv",)

    def forward(self, hidden_states: torch.Tensor, height: int, width: int) -> torch.Tensor:
        return to_tokens(self.dwconv(to_map(hidden_states, height, width)))


class ChannelsLastStage(SegformerStage):
    """Map → patch embeddings → layers → LayerNorm → map."""

    layers = ("patch_embeddings", "blocks", "layer_norm", "reshape")

    def forward(self, hidden_states: torch.Tensor, **kwargs) -> torch.Tensor:
        hidden_states, height, width = self.patch_embeddings(hidden_states)
        for block in self.blocks:
            hidden_states = block(hidden_states, height, width, **kwargs)
        hidden_states = self.layer_norm(hidden_states)
        return to_map(hidden_states, height, width) if self.reshape else hidden_states


CHANNELS_LAST = {
    "SegformerOverlapPatchEmbeddings": ChannelsLastPatchEmbeddings,
    "SegformerSequenceReduction": ChannelsLastSequenceReduction,
    "SegformerDepthWiseConv": ChannelsLastDepthWiseConv,
    "SegformerStage": ChannelsLastStage,
}
NATIVE = {changed.__base__: changed for changed in CHANNELS_LAST.values()}
