"""Models of other libraries' checkpoints, and folders of them that `from_pretrained` loads."""

import difflib
import hashlib
import os
import re
import tempfile
from collections import defaultdict
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import AutoBackbone, AutoModelForSemanticSegmentation, PreTrainedModel

from offseg_hf.conversion.backbone_formats import BACKBONES, WEIGHTS, find_backbone_formats
from offseg_hf.conversion.checkpoints import read_bytes, read_checkpoint
from offseg_hf.conversion.formats import FORMATS, unchanged
from offseg_hf.files import UNFINISHED, whole_file, whole_folder, write_json
from offseg_hf.models.configuration_inverted_residual import InvertedResidualBackboneConfig
from offseg_hf.models.image_processing_offseg import OffSegImageProcessor
from offseg_hf.variants import VARIANTS, variant_config


def convert_entries(
    entries: dict[str, torch.Tensor], variant: str | None = None, id2label: dict[int, str] | None = None
) -> PreTrainedModel:
    """Creates the model that a checkpoint was saved from, or an encoder from a checkpoint of an encoder alone.

    Args:
        entries (`dict[str, torch.Tensor]`): all entries of the checkpoint, see [`read_checkpoint`]: of the authors'
            models on SegFormer, SegNeXt or EfficientFormerV2, of MSCAN from mmsegmentation, of EfficientFormerV2 from
            timm, for images of 224×224 (see [`extend_bias_table`]), or of MobileNetV2 or EfficientNet from
            torchvision, timm or efficientnet-pytorch.
        variant (`str`, *optional*): the variant that the checkpoint must be of, such as `"offseg-b0"` or
            `"timm/efficientnet_b0"`. By default the one whose entries it has.
        id2label (`dict[int, str]`, *optional*): names of the checkpoint's classes; `LABEL_0`, `LABEL_1`, … by default.
            An encoder has none.

    Returns:
        [`transformers.PreTrainedModel`]: the model with the checkpoint's weights, in float32 and evaluation mode, on
        the CPU. Its number of classes is the checkpoint's, its `logit_normalization` the published `"layer_norm"`. For
        an encoder alone, [`MscanBackbone`], [`EfficientFormerV2Backbone`], [`MobileNetV2Backbone`] or
        [`EfficientNetBackbone`].

    Raises:
        ValueError: where entries are missing, unknown or misshapen, all of which the message lists, or where `variant`
            or `id2label` contradicts the entries, or where several variants have the same entries and none is named.
    """
    return _convert(entries, variant, id2label)[0]


def _convert(entries, variant, id2label):
    """The model, and the variant that it is."""
    num_labels = _num_labels(entries)
    found, form, prefix = _nearest_variant(entries, num_labels, variant)
    if id2label is not None and num_labels is None:
        raise ValueError(f"`id2label` must be left out for an encoder alone, which has no classes, got {id2label}.")
    if id2label is not None and len(id2label) != num_labels:
        raise ValueError(
            f"`id2label` must name the {num_labels} classes of the checkpoint, got {len(id2label)} names."
        )
    config = _published_config(found, num_labels, id2label)
    state_dict = {}
    for name, stored in _stored_entries(form, found, num_labels).items():
        tensor = stored.convert(entries[prefix + name]).to(stored.dtype)
        parts = tensor.reshape(len(stored.names), *stored.shape)
        state_dict.update((our_name, part.clone()) for our_name, part in zip(stored.names, parts))
    model_class = type(_empty_model(config, form.encoder_only))
    return model_class.from_pretrained(None, config=config, state_dict=state_dict, dtype=torch.float32), found


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
    random. That of MobileNetV2 or EfficientNet has the encoder's own normalisation of photos in its image processor,
    and, where the file is a known one, `weights_license` and `weights_source` in its configuration.

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
    model, found = _convert(read_checkpoint(checkpoint), variant, id2label)
    image_processor = OffSegImageProcessor()
    if found in BACKBONES:
        mean, std = BACKBONES[found].normalization
        image_processor = OffSegImageProcessor(image_mean=mean, image_std=std)
        digest = hashlib.sha256(read_bytes(checkpoint)[1]).hexdigest()
        model.config.weights_license, model.config.weights_source = WEIGHTS.get(digest, (None, None))
    if not output.is_dir() or not any(output.iterdir()):
        with whole_folder(output) as folder:
            _save(model, image_processor, folder)
        return model
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f"{UNFINISHED}{output.name}-") as folder:
        _save(model, image_processor, Path(folder))
        (output / "config.json").unlink(missing_ok=True)  # nothing loads while its files are of two models
        for file in sorted(Path(folder).iterdir(), key=lambda file: file.name == "config.json"):
            with whole_file(output / file.name) as unfinished:
                file.rename(unfinished)
    return model


def _save(model, image_processor, folder):
    """Writes a converted model, its image processor, and where its weights come from, for the model card."""
    model.save_pretrained(folder)
    image_processor.save_pretrained(folder)
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
    if variant in BACKBONES:
        return BACKBONES[variant].config()
    # With an encoder alone any number of classes would do, since who loads it names another; but the default one, 2,
    # asks for a normalisation of its own, which would stay.
    id2label = id2label or {i: f"LABEL_{i}" for i in range(num_labels or 150)}
    label2id = {label: i for i, label in id2label.items()}
    return variant_config(variant, id2label=id2label, label2id=label2id, logit_normalization="layer_norm")


def _empty_model(config, encoder_only):
    with torch.device("meta"):  # shapes only
        if isinstance(config, InvertedResidualBackboneConfig):
            return AutoBackbone.from_config(config)
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
        convert = unchanged
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


def _nearest_variant(entries, num_labels, wanted):
    """Variant, format and prefix of names of the checkpoint: those from which none of its entries may differ."""
    if wanted is not None and wanted not in (known := [*VARIANTS, *BACKBONES]):
        close = ", ".join(difflib.get_close_matches(wanted, known, n=5, cutoff=0))
        raise ValueError(
            f"`variant` must be a model or encoder that is read, such as {close}, got {wanted!r}; correct it."
        )
    encoder_only = num_labels is None
    prefix = "backbone." if encoder_only and any(name.startswith("backbone.") for name in entries) else ""
    forms = find_backbone_formats({name.removeprefix(prefix): entry for name, entry in entries.items()})
    differences, known_names = {}, set()
    for form in forms or FORMATS:
        for variant in [form.variant] if form.variant else VARIANTS:
            if form.variant or (form.encoder_only == encoder_only and VARIANTS[variant].model_type == form.model_type):
                expected = _stored_entries(form, variant, num_labels)
                differences[variant, form] = _differences(entries, form, prefix, expected)
                known_names.update(prefix + name for name in expected)
    if known_names.isdisjoint(entries):
        raise ValueError(
            "`checkpoint` must be of a published model, or of MSCAN from mmsegmentation, EfficientFormerV2 from timm, "
            "or MobileNetV2 or EfficientNet from torchvision, timm or efficientnet-pytorch, got one that has none of "
            "their entries; convert another."
        )
    found = [(variant, form) for (variant, form), lines in differences.items() if not lines]
    same = [variant for variant, _ in found]
    if wanted is not None and same and wanted not in same:
        raise ValueError(
            f"`variant` must be that of the checkpoint, which is {' or '.join(same)}, got {wanted!r}; "
            f"{'leave it out' if len(same) == 1 else 'name one of them'}."
        )
    if len(found) > 1 and wanted is None:
        raise ValueError(
            f"`variant` must say whether the checkpoint is {' or '.join(same)}, which are padded and normalised "
            "differently, but whose entries have the same names and shapes; name it."
        )
    for variant, form in found:
        if wanted in (None, variant):
            return variant, form, prefix
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
