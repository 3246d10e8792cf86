"""A split to train on and a split to evaluate on, their first label maps checked."""

from itertools import chain, islice

import numpy as np

from offseg_hf.data.audit import audit_labels, find_label_encoding
from offseg_hf.data.examples import PrepareExample, TrainingExamples, evaluation_examples
from offseg_hf.data.labels import LabelTable
from offseg_hf.data.presets import find_preset
from offseg_hf.data.sources import load_segmentation_dataset
from offseg_hf.data.streaming import EndlessStream
from offseg_hf.models.image_processing_offseg import IGNORE_INDEX, read_mask


def training_dataset(
    dataset,
    split,
    *,
    image_processor,
    transform,
    num_labels,
    streaming=False,
    image_column=None,
    mask_column=None,
    data_dir=None,
    label_table=None,
    seed=0,
    shuffle_buffer_size=500,
):
    """A split to train on: augmented crops, of audited labels, streamed ones endless and shuffled anew in every pass.

    Args:
        dataset (`str` or `list[str]`): see [`~offseg_hf.data.load_segmentation_dataset`], as `split`, `streaming`,
            `image_column`, `mask_column` and `data_dir`.
        image_processor ([`OffSegImageProcessor`]): the model's.
        transform ([`~offseg_hf.data.TrainTransform`]): the augmentation.
        num_labels (`int`): number of classes, against which the first label maps are checked.
        label_table (`dict[int, int]`, *optional*): stored id → class id, or 255 for what is not labelled, where they
            differ; a preset's is found from the first label maps.
        seed (`int`, *optional*, defaults to 0): of the augmentation and of a stream's order.
        shuffle_buffer_size (`int`, *optional*, defaults to 500): undecoded examples among which a stream is shuffled.

    Returns:
        [`~offseg_hf.data.TrainingExamples`] or [`~offseg_hf.data.EndlessStream`]: of `pixel_values` and `labels`.

    Raises:
        ValueError, FileNotFoundError: where the data cannot be found, or its labels are no class ids.
    """
    data = load_segmentation_dataset(
        dataset, split, streaming=streaming, image_column=image_column, mask_column=mask_column, data_dir=data_dir
    )
    table = audited_label_table(data, dataset, num_labels, image_processor.do_reduce_labels, label_table)
    prepare = PrepareExample(image_processor, transform, table)
    if streaming:
        return EndlessStream(data, prepare, seed=seed, buffer_size=shuffle_buffer_size)
    return TrainingExamples(data, prepare, seed=seed)


def evaluation_dataset(
    dataset,
    split,
    *,
    image_processor,
    num_labels,
    streaming=False,
    image_column=None,
    mask_column=None,
    data_dir=None,
    label_table=None,
):
    """A split to evaluate on: whole photos, with labels at their own resolution.

    Args:
        dataset (`str` or `list[str]`): see [`~offseg_hf.data.load_segmentation_dataset`], as `split`, `streaming`,
            `image_column`, `mask_column` and `data_dir`.
        image_processor ([`OffSegImageProcessor`]): the model's.
        num_labels (`int`): number of classes, against which the first label maps are checked.
        label_table (`dict[int, int]`, *optional*): stored id → class id, or 255 for what is not labelled, where they
            differ; a preset's is found from the first label maps.

    Returns:
        `datasets.Dataset` or `datasets.IterableDataset`: of `pixel_values` and `labels`.

    Raises:
        ValueError, FileNotFoundError: where the data cannot be found, or its labels are no class ids.
    """
    data = load_segmentation_dataset(
        dataset, split, streaming=streaming, image_column=image_column, mask_column=mask_column, data_dir=data_dir
    )
    table = audited_label_table(data, dataset, num_labels, image_processor.do_reduce_labels, label_table)
    return evaluation_examples(data, PrepareExample(image_processor, label_table=table))


def audit_first_labels(data, num_labels: int, reduce_labels: bool, num_examples: int = 16):
    """Checks that the first label maps of a data set hold class ids, see [`~offseg_hf.data.audit_labels`].

    Args:
        data (`datasets.Dataset` or `datasets.IterableDataset`): with the columns `image` and `mask`.
        num_labels (`int`): number of classes.
        reduce_labels (`bool`): whether label 0 means "ignore" and classes count from 1.
        num_examples (`int`, *optional*, defaults to 16): how many to check.

    Raises:
        ValueError: where they do not, with the remedy.
    """
    masks = [read_mask(example["mask"], name="mask") for example in islice(data, num_examples)]
    audit_labels(masks, num_labels, reduce_labels=reduce_labels)


def audited_label_table(data, dataset, num_labels, reduce_labels, label_table=None):
    """What makes class ids of the stored ones: given, or found from the first label maps, which are checked by it.

    Args:
        data (`datasets.Dataset` or `datasets.IterableDataset`): with the columns `image` and `mask`.
        dataset (`str` or `list[str]`): what it was loaded from, perhaps the name of a preset.
        num_labels (`int`): number of classes.
        reduce_labels (`bool`): whether label 0 means "ignore" and classes count from 1.
        label_table (`dict[int, int]`, *optional*): stored id → class id, or 255 for what is not labelled.

    Returns:
        [`~offseg_hf.data.labels.LabelTable`] or `None`: for [`~offseg_hf.data.PrepareExample`]; `None` where what is
        stored are class ids.

    Raises:
        ValueError: where the first label maps do not hold such ids, with the remedy.
    """
    preset = find_preset(dataset)
    if label_table is None and preset is None:
        audit_first_labels(data, num_labels, reduce_labels)
        return None
    if label_table is not None and reduce_labels:
        raise ValueError(
            "`do_reduce_labels` must be False with a `label_table`, whose classes count from 0, got True; leave it "
            "out, and map to null what is not labelled."
        )
    examples = ((np.unique(read_mask(each["mask"], name="mask")), each["mask"]["path"] or "") for each in data)
    first_examples = list(islice(examples, 16))
    if label_table is not None:
        _check_given_table(label_table, num_labels, [ids for ids, _ in first_examples])
        return LabelTable(label_table)
    _check_fits_preset(preset, num_labels, reduce_labels)
    encoding = find_label_encoding(chain(first_examples, examples), preset)
    table = LabelTable(encoding.class_ids | encoding.tolerated)
    audit_labels([table(ids) for ids, _ in first_examples], num_labels, reduce_labels=reduce_labels)
    return table


def _check_given_table(label_table, num_labels, masks):
    classes = set(label_table.values()) - {IGNORE_INDEX}
    if not classes or max(classes) >= max(num_labels, 2):
        raise ValueError(
            f"`label_table` must map to the ids of {num_labels} classes, or to {IGNORE_INDEX}, got "
            f"{sorted(classes)[-5:]}; correct it, or `num_labels`."
        )
    if all((LabelTable(label_table)(ids) == IGNORE_INDEX).all() for ids in masks):
        stored = sorted({stored for ids in masks for stored in ids.tolist()})[:10]
        raise ValueError(
            f"`label_table` must give classes to the ids of the label maps, got {stored} in the first ones, all of "
            "which it leaves unlabelled; correct it, or check the mask column."
        )


def _check_fits_preset(preset, num_labels, reduce_labels):
    if num_labels != len(preset.class_names):
        raise ValueError(
            f"`num_labels` must be {len(preset.class_names)} for {preset.title}, got {num_labels}; take a model of as "
            "many classes, or say which classes stored ids mean with `--label_table FILE`."
        )
    if reduce_labels != preset.reduce_labels:
        raise ValueError(
            f"`do_reduce_labels` must be {preset.reduce_labels} for {preset.title}, got {reduce_labels}; leave "
            "--do_reduce_labels out, or say what stored ids mean with `--label_table FILE`."
        )
