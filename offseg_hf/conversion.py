"""Checkpoints of other libraries → models: reads what they saved and writes what `from_pretrained` loads.

Two kinds are read: whole models of the authors of offset learning (mmsegmentation), and encoders alone that were
trained on ImageNet, MSCAN as mmsegmentation publishes it and EfficientFormerV2 as timm does. A checkpoint is used up
entry by entry: each one must fill its place in the model, or be one that the model never uses. Anything else is
refused, so a model that comes out here computes what the checkpoint's did.
"""

import os
import re
import tempfile
from collections import defaultdict
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from transformers import AutoModelForSemanticSegmentation, PreTrainedModel

from offseg_hf.files import UNFINISHED, whole_file, whole_folder, write_json
from offseg_hf.models.image_processing_offseg import OffSegImageProcessor
from offseg_hf.variants import VARIANTS, variant_config


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


def _unchanged(tensor):
    return tensor


class Layout(NamedTuple):
    """Entries that a library keeps in another shape: their names, their shape from ours, and what is done with them
    before they are reshaped."""

    pattern: str
    shape: Callable
    convert: Callable = _unchanged


class CheckpointFormat(NamedTuple):
    """What a library calls the entries of our models of one type.

    Args:
        model_type (`str`): which of our models.
        encoder_only (`bool`): whether only the encoder is there, with or without the prefix `backbone.`.
        names (`tuple[tuple[str, str], ...]`): parts of our names and theirs, replaced in this order. Several of ours
            with one name of theirs lie stacked there.
        dead (`str`): pattern of what is there too, but not used by the model, or follows from the rest.
        layouts (`tuple[Layout, ...]`): entries in another shape than ours.
    """

    model_type: str
    encoder_only: bool
    names: tuple[tuple[str, str], ...]
    dead: str
    layouts: tuple[Layout, ...] = ()


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

# What mmengine stores beside the weights and `weights_only=True` does not know: histories of the training losses.
TRAINING_RECORDS = (
    "mmengine.logging.history_buffer.HistoryBuffer",
    "builtins.getattr",  # how a pickle refers to a method of that class
    "numpy.dtype",
    "numpy.ndarray",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
)


class UnreadRecord:
    """Stands in for every training record of a checkpoint: nothing of theirs is imported, called or kept."""

    def __init__(self, *args: object):
        pass

    def __setstate__(self, state: object) -> None:
        pass


def read_checkpoint(checkpoint: str | os.PathLike) -> dict[str, torch.Tensor]:
    """Reads the entries of an official checkpoint, without running code that the file may hold.

    Args:
        checkpoint (`str` or `os.PathLike`): a `.safetensors` file, or a file of `torch.save` that holds the entries
            themselves or, as mmsegmentation writes it, under `state_dict`.

    Returns:
        `dict[str, torch.Tensor]`: the entries, on the CPU, under the names and in the shapes of the file.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: where the file cannot be read so, or is not a dictionary of tensors.
    """
    checkpoint = Path(checkpoint)
    if not checkpoint.is_file():
        raise FileNotFoundError(f"`checkpoint` must be a file, but there is none at {checkpoint}; check the path.")
    try:
        if checkpoint.suffix == ".safetensors":
            return load_file(checkpoint)
        with torch.serialization.safe_globals([(UnreadRecord, name) for name in TRAINING_RECORDS]):
            content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise many kinds
        foreign = re.search(r"GLOBAL (\S+)", str(error))
        reason = foreign[1] if foreign else type(error).__name__
        raise ValueError(
            "`checkpoint` must be a whole file of tensors that can be read without running code from it, got "
            f"{checkpoint}, where reading stopped at {reason}; download it again, or save its `state_dict` alone."
        ) from error
    entries = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(entries, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in entries.values()):
        raise ValueError(
            "`checkpoint` must be a dictionary of tensors, or hold one under 'state_dict', got other content in "
            f"{checkpoint}; save the model's `state_dict()`."
        )
    return entries


def convert_entries(
    entries: dict[str, torch.Tensor], variant: str | None = None, id2label: dict[int, str] | None = None
) -> PreTrainedModel:
    """Creates the model that a checkpoint was saved from, or an encoder from a checkpoint of an encoder alone.

    Args:
        entries (`dict[str, torch.Tensor]`): all entries of the checkpoint, see [`read_checkpoint`]: of the authors'
            models on SegFormer, SegNeXt or EfficientFormerV2, of MSCAN from mmsegmentation, or of EfficientFormerV2
            from timm, for images of 224×224 (see [`extend_bias_table`]).
        variant (`str`, *optional*): the variant that the checkpoint must be of, such as `"offseg-b0"`. By default the
            one whose entries it has.
        id2label (`dict[int, str]`, *optional*): names of the checkpoint's classes; `LABEL_0`, `LABEL_1`, … by default.
            An encoder has none.

    Returns:
        [`transformers.PreTrainedModel`]: the model with the checkpoint's weights, in float32 and evaluation mode, on
        the CPU. Its number of classes is the checkpoint's, its `logit_normalization` the published `"layer_norm"`. For
        an encoder alone, [`MscanBackbone`] or [`EfficientFormerV2Backbone`].

    Raises:
        ValueError: where entries are missing, unknown or misshapen, all of which the message lists, or where `variant`
            or `id2label` contradicts the entries.
    """
    num_labels = _num_labels(entries)
    found, form, prefix = _nearest_variant(entries, num_labels)
    if variant not in (None, found):
        raise ValueError(f"`variant` must be that of the checkpoint, which is {found}, got {variant!r}; leave it out.")
    if id2label is not None and num_labels is None:
        raise ValueError(f"`id2label` must be left out for an encoder alone, which has no classes, got {id2label}.")
    if id2label is not None and len(id2label) != num_labels:
        raise ValueError(
            f"`id2label` must name the {num_labels} classes of the checkpoint, got {len(id2label)} names."
        )
    config = _published_config(found, num_labels, id2label)
    state_dict: dict[str, torch.Tensor] = {}
    for name, stored in _stored_entries(form, found, num_labels).items():
        tensor = stored.convert(entries[prefix + name]).to(stored.dtype)
        parts = tensor.reshape(len(stored.names), *stored.shape)
        state_dict.update((our_name, part.clone()) for our_name, part in zip(stored.names, parts))
    model_class = type(_empty_model(config, form.encoder_only))
    return model_class.from_pretrained(None, config=config, state_dict=state_dict, dtype=torch.float32)


def convert_checkpoint(
    checkpoint: str | os.PathLike,
    output: str | os.PathLike,
    variant: str | None = None,
    id2label: dict[int, str] | None = None,
    overwrite: bool = False,
) -> PreTrainedModel:
    """Converts a checkpoint into a folder that `AutoModelForSemanticSegmentation.from_pretrained` loads.

    The folder holds the configuration, the weights as safetensors, the image processor with its default size (short
    edge at most 512, long edge at most 2048) and, of whole models, a note on where they come from. That of an encoder
    alone is loaded by the encoder's own class, and by its model's as weights to start from, whose head begins at
    random.

    A new or empty folder appears whole or not at all. In one that is overwritten each file does, and `config.json`,
    without which nothing loads, is taken away before all others and written after them.

    Args:
        checkpoint (`str` or `os.PathLike`): the file to convert, see [`read_checkpoint`].
        output (`str` or `os.PathLike`): the folder to write.
        variant (`str`, *optional*): see [`convert_entries`].
        id2label (`dict[int, str]`, *optional*): see [`convert_entries`].
        overwrite (`bool`, *optional*, defaults to `False`): whether to write into a folder that is not empty. Files of
            the same names are replaced, others are left.

    Returns:
        [`transformers.PreTrainedModel`]: the model that was written.

    Raises:
        FileExistsError: where `output` is a file, or is not empty and `overwrite` is not set.
        FileNotFoundError: where there is no such checkpoint.
        ValueError: where the checkpoint cannot be read or converted.
    """
    output = Path(output).resolve()
    if output.is_file() or (not overwrite and output.is_dir() and any(output.iterdir())):
        raise FileExistsError(
            f"`output` must be a new or empty folder, got {output}; name another, or ask to overwrite the folder."
        )
    model = convert_entries(read_checkpoint(checkpoint), variant, id2label)
    if not output.is_dir() or not any(output.iterdir()):
        with whole_folder(output) as folder:
            _save(model, folder)
        return model
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f"{UNFINISHED}{output.name}-") as folder:
        _save(model, Path(folder))
        (output / "config.json").unlink(missing_ok=True)  # nothing loads while its files are of two models
        for file in sorted(Path(folder).iterdir(), key=lambda file: file.name == "config.json"):
            with whole_file(output / file.name) as unfinished:
                file.rename(unfinished)
    return model


def _save(model, folder):
    """Writes a converted model, its image processor, and where its weights come from, for the model card."""
    model.save_pretrained(folder)
    OffSegImageProcessor().save_pretrained(folder)
    if hasattr(model, "decode_head"):
        write_json(folder / "training.json", {"origin": "authors"})


class StoredEntry(NamedTuple):
    """An entry of a checkpoint: the entries of ours that it holds, what they are, and what it is."""

    names: list[str]
    shape: tuple[int, ...]
    dtype: torch.dtype
    stored_shape: tuple[int, ...]
    convert: Callable


def _published_config(variant, num_labels, id2label=None):
    # With an encoder alone any number of classes would do, since who loads it names another; but the default one, 2,
    # asks for a normalisation of its own, which would stay.
    id2label = id2label or {i: f"LABEL_{i}" for i in range(num_labels or 150)}
    label2id = {label: i for i, label in id2label.items()}
    return variant_config(variant, id2label=id2label, label2id=label2id, logit_normalization="layer_norm")


def _empty_model(config, encoder_only):
    with torch.device("meta"):  # shapes only
        model = AutoModelForSemanticSegmentation.from_config(config)
    return model.base_model if encoder_only else model


@cache
def _stored_entries(form, variant, num_labels):
    """All that a checkpoint of a variant must hold: name → entry."""
    places = _empty_model(_published_config(variant, num_labels), form.encoder_only).state_dict()
    names = defaultdict(list)
    # Query, key, value: as they lie stacked.
    for name in sorted(places, key=lambda name: (".k_proj." in name) + 2 * (".v_proj." in name)):
        names[_stored_name(form, name)].append(name)
    entries = {}
    for stored_name, ours in names.items():
        shape = tuple(places[ours[0]].shape)
        stored_shape = (len(ours) * shape[0], *shape[1:]) if len(ours) > 1 else shape
        convert = _unchanged
        for layout in form.layouts:
            if re.search(layout.pattern, stored_name):
                stored_shape, convert = layout.shape(stored_shape), layout.convert
        entries[stored_name] = StoredEntry(ours, shape, places[ours[0]].dtype, stored_shape, convert)
    return entries


def _stored_name(form, name):
    for ours, theirs in form.names:
        name = name.replace(ours, theirs)
    return name


def _num_labels(entries):
    """The number of classes, from whichever entry of offset learning tells; `None` for an encoder alone."""
    for name, axis in (("cls_repr", 1), ("mask_norm.weight", 0), ("mask_norm.bias", 0)):
        tensor = entries.get(f"decode_head.offset_learning.{name}")
        if tensor is not None and tensor.ndim > axis:
            return tensor.shape[axis]
    if any(name.startswith("decode_head.") for name in entries):
        raise ValueError(
            "`checkpoint` must be of a model with offset learning or of an encoder alone, but has a head and no "
            "`decode_head.offset_learning.cls_repr`; load other models with the library that they come from."
        )
    return None


def _nearest_variant(entries, num_labels):
    """Variant, format and prefix of names of the checkpoint: those from which none of its entries may differ."""
    encoder_only = num_labels is None
    prefix = "backbone." if encoder_only and any(name.startswith("backbone.") for name in entries) else ""
    differences = {}
    for form in FORMATS:
        for variant in VARIANTS:
            if form.encoder_only == encoder_only and VARIANTS[variant].model_type == form.model_type:
                lines = _differences(entries, form, prefix, _stored_entries(form, variant, num_labels))
                if not lines:
                    return variant, form, prefix
                differences[variant, form] = lines
    variant, form = min(differences, key=lambda candidate: len(differences[candidate]))
    lines = differences[variant, form]
    what = f"the encoder of {variant}" if encoder_only else f"{variant} with {num_labels} classes"
    raise ValueError(
        "`checkpoint` must hold all entries of a published model or encoder and no others, and is nearest to "
        f"{what}, but {len(lines)} of its entries differ; download it again:\n  " + "\n  ".join(lines)
    )


def _differences(entries, form, prefix, expected):
    """A line for every entry that is missing, misshapen or unknown."""
    expected = {prefix + name: stored.stored_shape for name, stored in expected.items()}
    found = {name: tuple(tensor.shape) for name, tensor in entries.items()}
    lines = [f"missing: {name} {shape}" for name, shape in expected.items() if name not in found]
    for name, shape in found.items():
        if name in expected and shape != expected[name]:
            lines.append(f"misshapen: {name} {shape}, must be {expected[name]}")
        elif name not in expected and not re.match(form.dead, name.removeprefix(prefix)):
            lines.append(f"unknown: {name} {shape}")
    return lines
