"""What other libraries call the entries of this package's models, and the shapes in which they keep them."""

from collections.abc import Callable
from typing import NamedTuple

import torch


def extend_bias_table(table: torch.Tensor) -> torch.Tensor:
    """Attention biases learned on a small grid, for a larger one.

    A bias belongs to a distance in pixels of the same feature map, so each is kept as it is; distances that the small
    grid does not have get the bias of the nearest one that it has.

    Args:
        table (`torch.Tensor` of shape `(num_heads, 49)` or `(num_heads, 196)`): timm's biases, for images of 224×224:
            of the distances (|Δy|, |Δx|) on a grid of 7×7 or 14×14, row by row.

    Returns:
        `torch.Tensor` of shape `(num_heads, 256)` or `(num_heads, 1024)`: for images of 512×512, 16×16 or 32×32.
    """
    side = round(table.shape[1] ** 0.5)
    nearest = torch.arange(side * 16 // 7).clamp(max=side - 1)
    return table.unflatten(1, (side, side))[:, nearest][:, :, nearest].flatten(1)


def unchanged(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


class Layout(NamedTuple):
    """Entries that a library keeps in another shape: their names, their shape from ours, and what is done with them
    before they are reshaped."""

    pattern: str
    shape: Callable
    convert: Callable = unchanged


class CheckpointFormat(NamedTuple):
    """What a library calls the entries of our models of one type.

    Args:
        model_type (`str`): which of our models.
        encoder_only (`bool`): whether only the encoder is there, with or without the prefix `backbone.`.
        names (`tuple[tuple[str, str], ...]`): parts of our names and theirs, replaced in this order. Several of ours
            with one name of theirs lie stacked there.
        dead (`str`): pattern of what is there too, but not used by the model, or follows from the rest.
        layouts (`tuple[Layout, ...]`): entries in another shape than ours.
        variant (`str`, *optional*): of which variant alone; by default of all that have the model type.
    """

    model_type: str
    encoder_only: bool
    names: tuple[tuple[str, str], ...]
    dead: str
    layouts: tuple[Layout, ...] = ()
    variant: str | None = None


SEGFORMER = CheckpointFormat(
    model_type="offseg",
    encoder_only=False,
    names=(
        ("segformer.stages.", "backbone.layers."),
        (".patch_embeddings.proj.", ".0.projection."),
        (".patch_embeddings.layer_norm.", ".0.norm."),
        (".blocks.", ".1."),
        (".layernorm_before.", ".norm1."),
        (".attention.q_proj.", ".attn.attn.in_proj_"),
        (".attention.k_proj.", ".attn.attn.in_proj_"),
        (".attention.v_proj.", ".attn.attn.in_proj_"),
        (".attention.o_proj.", ".attn.attn.out_proj."),
        (".attention.sequence_reduction.sequence_reduction.", ".attn.sr."),
        (".attention.sequence_reduction.layer_norm.", ".attn.norm."),
        (".layernorm_after.", ".norm2."),
        (".mlp.fc1.", ".ffn.layers.0."),
        (".mlp.dwconv.dwconv.", ".ffn.layers.1."),
        (".mlp.fc2.", ".ffn.layers.4."),
        (".layer_norm.", ".2."),  # the one that closes a stage
    ),
    dead=r"decode_head\.conv_seg\.",
    layouts=(Layout(r"\.ffn\.layers\.[04]\.weight$", lambda shape: (*shape, 1, 1)),),  # linear here, 1×1 there
)
SEGNEXT = CheckpointFormat(
    model_type="offseg_segnext",
    encoder_only=False,
    names=(
        ("stages.0.patch_embed.", "patch_embed1.proj."),
        *((f"stages.{i}.patch_embed.0.", f"patch_embed{i + 1}.proj.") for i in (1, 2, 3)),
        *((f"stages.{i}.patch_embed.1.", f"patch_embed{i + 1}.norm.") for i in (1, 2, 3)),
        *((f"stages.{i}.blocks.", f"block{i + 1}.") for i in (0, 1, 2, 3)),
        *((f"stages.{i}.norm.", f"norm{i + 1}.") for i in (0, 1, 2, 3)),
    ),
    dead=r"decode_head\.conv_seg\.",
)
EFFICIENTFORMER = CheckpointFormat(
    model_type="offseg_efficientformer",
    encoder_only=False,
    names=(
        ("backbone.stem.", "backbone.patch_embed."),
        *((f"stages.{i}.blocks.", f"network.{2 * i}.") for i in (0, 1, 2, 3)),
        *((f"stages.{i}.downsample.", f"network.{2 * i - 1}.") for i in (1, 2, 3)),
        (".attention_biases", ".attention_biases_seg"),
    ),
    # The biases of the ImageNet training, and what follows from sizes alone.
    dead=r"decode_head\.conv_seg\.|.*\.(attention_biases|attention_bias_idxs|attention_bias_idxs_seg"
    r"|hamming_lowpass|hamming_highpass|init_pos)$",
)
MSCAN = SEGNEXT._replace(encoder_only=True, dead=r"head\.")
TIMM_EFFICIENTFORMER_V2 = CheckpointFormat(
    model_type="offseg_efficientformer",
    encoder_only=True,
    names=(
        ("stem.0.", "stem.conv1.conv."),
        ("stem.1.", "stem.conv1.bn."),
        ("stem.3.", "stem.conv2.conv."),
        ("stem.4.", "stem.conv2.bn."),
        (".downsample.conv.", ".downsample.conv.conv."),
        (".downsample.bn.", ".downsample.conv.bn."),
        (".downsample.proj.", ".downsample.conv.conv."),
        (".downsample.norm.", ".downsample.conv.bn."),
        *((f".mlp.{name}.", f".mlp.{name}.conv.") for name in ("fc1", "mid", "fc2")),
        (".mlp.norm1.", ".mlp.fc1.bn."),
        (".mlp.mid_norm.", ".mlp.mid.bn."),
        (".mlp.norm2.", ".mlp.fc2.bn."),
        (".q.local.0.", ".q.local."),
        (".q.proj.0.", ".q.proj.conv."),
        (".q.proj.1.", ".q.proj.bn."),
        (".proj.1.", ".proj.conv."),
        (".proj.2.", ".proj.bn."),
        *((f".{name}.0.", f".{name}.conv.") for name in ("stride_conv", "q", "k", "v", "v_local")),
        *((f".{name}.1.", f".{name}.bn.") for name in ("stride_conv", "q", "k", "v", "v_local")),
        (".layer_scale_1", ".ls1.gamma"),
        (".layer_scale_2", ".ls2.gamma"),
    ),
    dead=r"(norm|head|head_dist)\.",
    layouts=(
        Layout(r"\.gamma$", lambda shape: shape[:1]),
        Layout(r"\.attention_biases$", lambda shape: (shape[0], shape[1] * 49 // 256), extend_bias_table),
    ),
)
FORMATS = (SEGFORMER, SEGNEXT, EFFICIENTFORMER, MSCAN, TIMM_EFFICIENTFORMER_V2)
