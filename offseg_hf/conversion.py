"""Official checkpoints → models: reads what mmsegmentation saved and writes what `from_pretrained` loads.

A checkpoint is used up entry by entry: each one must fill its place in the model, or be one that the authors' models
hold but never use. Anything else is refused, so a model that comes out here computes what the checkpoint's did.
"""

import os
import re
import tempfile
from collections import defaultdict
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForSemanticSegmentation, PreTrainedModel

from offseg_hf.models.image_processing_offseg import OffSegImageProcessor
from offseg_hf.variants import VARIANTS, variant_config

# The model's names and the checkpoint's, replaced in this order.
SEGFORMER_NAMES = (
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
)
# Linear layers of the model that are 1×1 convolutions in the checkpoint.
SEGFORMER_CONVOLUTIONS = re.compile(r"\.ffn\.layers\.[04]\.weight$")
# In the checkpoint, but never used by the authors' models.
SEGFORMER_DEAD = re.compile(r"^decode_head\.conv_seg\.")

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

    def __init__(self, *args):
        pass

    def __setstate__(self, state):
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
    """Creates the model that an official checkpoint was saved from.

    Args:
        entries (`dict[str, torch.Tensor]`): all entries of the checkpoint, see [`read_checkpoint`].
        variant (`str`, *optional*): the variant that the checkpoint must be of, such as `"offseg-b0"`. By default the
            one whose widths and depths the entries have.
        id2label (`dict[int, str]`, *optional*): names of the checkpoint's classes; `LABEL_0`, `LABEL_1`, … by default.

    Returns:
        [`OffSegForSemanticSegmentation`]: the model with the checkpoint's weights, in float32 and evaluation mode, on
        the CPU. Its number of classes is the checkpoint's, its `logit_normalization` the published `"layer_norm"`.

    Raises:
        ValueError: where entries are missing, unknown or misshapen, all of which the message lists, or where `variant`
            or `id2label` contradicts the entries.
    """
    found, num_labels = _infer_variant(entries), _infer_num_labels(entries)
    if variant not in (None, found):
        raise ValueError(f"`variant` must be that of the checkpoint, which is {found}, got {variant!r}; leave it out.")
    if id2label is None:
        id2label = {i: f"LABEL_{i}" for i in range(num_labels)}
    if len(id2label) != num_labels:
        raise ValueError(
            f"`id2label` must name the {num_labels} classes of the checkpoint, got {len(id2label)} names."
        )
    label2id = {label: i for i, label in id2label.items()}
    config = variant_config(found, id2label=id2label, label2id=label2id, logit_normalization="layer_norm")
    with torch.device("meta"):  # shapes only: the weights come from the checkpoint
        model = AutoModelForSemanticSegmentation.from_config(config)
    places = model.state_dict()

    # The checkpoint's name → the model's names: several where query, key and value lie stacked, in this order.
    names = defaultdict(list)
    for name in sorted(places, key=lambda name: (".k_proj." in name) + 2 * (".v_proj." in name)):
        names[_checkpoint_name(name)].append(name)
    shapes = {name: _checkpoint_shape(name, [places[ours].shape for ours in names[name]]) for name in names}
    _check_entries({name: tuple(tensor.shape) for name, tensor in entries.items()}, shapes, found, num_labels)

    state_dict = {}
    for name, ours in names.items():
        place = places[ours[0]]
        parts = entries[name].reshape(len(ours), *place.shape).to(place.dtype)
        state_dict.update((our_name, part.clone()) for our_name, part in zip(ours, parts))
    model.load_state_dict(state_dict, assign=True)
    return model.eval()


def convert_checkpoint(
    checkpoint: str | os.PathLike,
    output: str | os.PathLike,
    variant: str | None = None,
    id2label: dict[int, str] | None = None,
    overwrite: bool = False,
) -> PreTrainedModel:
    """Converts an official checkpoint into a folder that `AutoModelForSemanticSegmentation.from_pretrained` loads.

    The folder holds the configuration, the weights as safetensors and the image processor with its default size
    (short edge at most 512, long edge at most 2048). It appears whole or not at all.

    Args:
        checkpoint (`str` or `os.PathLike`): the file to convert, see [`read_checkpoint`].
        output (`str` or `os.PathLike`): the folder to write.
        variant (`str`, *optional*): see [`convert_entries`].
        id2label (`dict[int, str]`, *optional*): see [`convert_entries`].
        overwrite (`bool`, *optional*, defaults to `False`): whether to write into a folder that is not empty. Files of
            the same names are replaced, others are left.

    Returns:
        [`OffSegForSemanticSegmentation`]: the model that was written.

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
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as temporary:
        folder = Path(temporary) / "new"
        model.save_pretrained(folder)
        OffSegImageProcessor().save_pretrained(folder)
        if output.exists():
            for file in sorted(folder.iterdir(), reverse=True):  # config.json last: without it nothing loads
                os.replace(file, output / file.name)
        else:
            os.replace(folder, output)
    return model


def _infer_variant(entries):
    """The variant with most of the checkpoint's four stage widths and four depths."""
    widths, depths = [0] * 4, [0] * 4
    for name, tensor in entries.items():
        if match := re.match(r"backbone\.layers\.([0-3])\.2\.weight$", name):
            widths[int(match[1])] = tensor.numel()
        if match := re.match(r"backbone\.layers\.([0-3])\.1\.(\d+)\.", name):
            depths[int(match[1])] = max(depths[int(match[1])], int(match[2]) + 1)

    def num_agreeing(name):
        architecture = VARIANTS[name].hidden_sizes + VARIANTS[name].depths
        return sum(ours == theirs for ours, theirs in zip(architecture, widths + depths))

    return max((name for name in VARIANTS if VARIANTS[name].model_type == "offseg"), key=num_agreeing)


def _infer_num_labels(entries):
    """The number of classes, from whichever entry of offset learning tells."""
    for name, axis in (("cls_repr", 1), ("mask_norm.weight", 0), ("mask_norm.bias", 0)):
        tensor = entries.get(f"decode_head.offset_learning.{name}")
        if tensor is not None and tensor.ndim > axis:
            return tensor.shape[axis]
    raise ValueError(
        "`checkpoint` must be of SegFormer with offset learning, but holds no `decode_head.offset_learning.cls_repr`; "
        "load other models with the library that they come from."
    )


def _checkpoint_name(name):
    """The checkpoint's name of a model's entry."""
    for ours, theirs in SEGFORMER_NAMES:
        name = name.replace(ours, theirs)
    return name


def _checkpoint_shape(name, shapes):
    """The shape of the checkpoint's entry that holds entries of these shapes stacked."""
    shape = (len(shapes) * shapes[0][0], *shapes[0][1:]) if len(shapes) > 1 else tuple(shapes[0])
    return (*shape, 1, 1) if SEGFORMER_CONVOLUTIONS.search(name) else shape


def _check_entries(found, expected, variant, num_labels):
    """Raises one error that lists every entry (name → shape) that is missing, unknown or misshapen."""
    lines = [f"missing: {name} {shape}" for name, shape in expected.items() if name not in found]
    for name, shape in found.items():
        if name in expected and shape != expected[name]:
            lines.append(f"misshapen: {name} {shape}, must be {expected[name]}")
        elif name not in expected and not SEGFORMER_DEAD.match(name):
            lines.append(f"unknown: {name} {shape}")
    if lines:
        raise ValueError(
            f"`checkpoint` must be a whole one of the authors' models, and is nearest to {variant} with {num_labels} "
            f"classes, but {len(lines)} of its entries differ; download it again:\n  " + "\n  ".join(lines)
        )
