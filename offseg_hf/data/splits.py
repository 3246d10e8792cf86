"""A split to train on and a split to evaluate on, their first label maps checked."""

from itertools import islice

from offseg_hf.data.audit import audit_labels
from offseg_hf.data.examples import PrepareExample, TrainingExamples, evaluation_examples
from offseg_hf.data.loading import load_segmentation_dataset
from offseg_hf.data.streaming import EndlessStream
from offseg_hf.models.image_processing_offseg import read_mask


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
    seed=0,
    shuffle_buffer_size=500,
):
    """A split to train on: augmented crops, of audited labels, streamed ones endless and shuffled anew in every pass.

    Args:
        dataset (`str` or `list[str]`): see [`~offseg_hf.data.load_segmentation_dataset`], as `split`, `streaming`,
            `image_column` and `mask_column`.
        image_processor ([`OffSegImageProcessor`]): the model's.
        transform ([`~offseg_hf.data.TrainTransform`]): the augmentation.
        num_labels (`int`): number of classes, against which the first label maps are checked.
        seed (`int`, *optional*, defaults to 0): of the augmentation and of a stream's order.
        shuffle_buffer_size (`int`, *optional*, defaults to 500): undecoded examples among which a stream is shuffled.

    Returns:
        [`~offseg_hf.data.TrainingExamples`] or [`~offseg_hf.data.EndlessStream`]: of `pixel_values` and `labels`.

    Raises:
        ValueError, FileNotFoundError: where the data cannot be found, or its labels are no class ids.
    """
    data = load_segmentation_dataset(
        dataset, split, streaming=streaming, image_column=image_column, mask_column=mask_column
    )
    audit_first_labels(data, num_labels, image_processor.do_reduce_labels)
    prepare = PrepareExample(image_processor, transform)
    if streaming:
        return EndlessStream(data, prepare, seed=seed, buffer_size=shuffle_buffer_size)
    return TrainingExamples(data, prepare, seed=seed)


def evaluation_dataset(
    dataset, split, *, image_processor, num_labels, streaming=False, image_column=None, mask_column=None
):
    """A split to evaluate on: whole photos, with labels at their own resolution.

    Args:
        dataset (`str` or `list[str]`): see [`~offseg_hf.data.load_segmentation_dataset`], as `split`, `streaming`,
            `image_column` and `mask_column`.
        image_processor ([`OffSegImageProcessor`]): the model's.
        num_labels (`int`): number of classes, against which the first label maps are checked.

    Returns:
        `datasets.Dataset` or `datasets.IterableDataset`: of `pixel_values` and `labels`.

    Raises:
        ValueError, FileNotFoundError: where the data cannot be found, or its labels are no class ids.
    """
    data = load_segmentation_dataset(
        dataset, split, streaming=streaming, image_column=image_column, mask_column=mask_column
    )
    audit_first_labels(data, num_labels, image_processor.do_reduce_labels)
    return evaluation_examples(data, PrepareExample(image_processor))


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
