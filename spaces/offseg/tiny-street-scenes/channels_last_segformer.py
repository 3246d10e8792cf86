"""The native SegFormer encoder without changes of layout: its maps stay channels-last, as its tokens are.

The native modules turn tokens (B, H*W, C) into maps (B, C, H, W) for every convolution and back, most of the time by a
copy. Seen as channels-last maps, tokens need none, and depth-wise convolutions are several times as fast on a CPU.
"""

import torch
from transformers.models.segformer.modeling_segformer import (
    SegformerDepthWiseConv,
    SegformerOverlapPatchEmbeddings,
    SegformerSequenceReduction,
    SegformerStage,
)


def keep_channels_last(encoder):
    """Changes how an encoder computes, but not what: its weights and their names stay.

    Args:
        encoder (`transformers.SegformerModel`): changed in place. Its stages' maps come out channels-last.
    """
    for module in encoder.modules():
        module.__class__ = CHANNELS_LAST.get(type(module), type(module))


def to_map(tokens, height, width):
    """(B, H*W, C) → (B, C, H, W), channels-last, without a copy."""
    return tokens.unflatten(1, (height, width)).permute(0, 3, 1, 2)


def to_tokens(hidden_states):
    """(B, C, H, W) → (B, H*W, C), without a copy of a channels-last map."""
    return hidden_states.permute(0, 2, 3, 1).flatten(1, 2)


class ChannelsLastPatchEmbeddings(SegformerOverlapPatchEmbeddings):
    """Map → convolution → tokens → LayerNorm."""

    def forward(self, pixel_values):
        embeddings = self.proj(pixel_values.contiguous(memory_format=torch.channels_last))
        height, width = embeddings.shape[2:]
        return self.layer_norm(to_tokens(embeddings)), height, width


class ChannelsLastSequenceReduction(SegformerSequenceReduction):
    """Tokens → convolution → fewer tokens → LayerNorm."""

    def forward(self, hidden_states, height, width):
        return self.layer_norm(to_tokens(self.sequence_reduction(to_map(hidden_states, height, width))))


class ChannelsLastDepthWiseConv(SegformerDepthWiseConv):
    """Tokens → depth-wise convolution → tokens."""

    def forward(self, hidden_states, height, width):
        return to_tokens(self.dwconv(to_map(hidden_states, height, width)))


class ChannelsLastStage(SegformerStage):
    """Map → patch embeddings → layers → LayerNorm → map."""

    def forward(self, hidden_states, **kwargs):
        hidden_states, height, width = self.patch_embeddings(hidden_states)
        for block in self.blocks:
            hidden_states = block(hidden_states, height, width, **kwargs)
        hidden_states = self.layer_norm(hidden_states)
        return to_map(hidden_states, height, width) if self.reshape else hidden_states


CHANNELS_LAST = {
    SegformerOverlapPatchEmbeddings: ChannelsLastPatchEmbeddings,
    SegformerSequenceReduction: ChannelsLastSequenceReduction,
    SegformerDepthWiseConv: ChannelsLastDepthWiseConv,
    SegformerStage: ChannelsLastStage,
}
