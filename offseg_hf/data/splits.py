"""From a data set's name to examples of a split to train or to evaluate on, its first masks checked."""

import datasets

from offseg_hf.data.augmentation import TrainTransform
from offseg_hf.data.examples import PrepareExample, TrainingExamples, evaluation_examples
from offseg_hf.data.formats.reading import LabelledDataset
from offseg_hf.data.labels import audited_label_table
from offseg_hf.data.sources import load_segmentation_dataset
from offseg_hf.data.streaming import EndlessStream
from offseg_hf.models.image_processing_offseg import OffSegImageProcessor, open_image

ORIENTATION = 0x0112  # the tag of EXIF


def training_dataset(
    dataset: str | list[str] | LabelledDataset,
    split: str,
    *,
    image_processor: OffSegImageProcessor,
    transform: TrainTransform,
    num_labels: int,
    streaming: bool = False,
    image_column: str | None = None,
    mask_column: str | None = None,
    data_dir: str | None = None,
    label_table: dict[int, int] | None = None,
    seed: int = 0,
    shuffle_buffer_size: int = 500,
    num_broken: int = 0,
) -> TrainingExamples | EndlessStream:
    """A split to train on: augmented crops, of audited labels, streamed ones endless and shuffled anew in every pass.

    Args:
        dataset (`str`, `list[str]` or [`~offseg_hf.data.formats.reading.LabelledDataset`]): see
            [`~offseg_hf.data.load_segmentation_dataset`], as `split`, `streaming`, `image_column`, `mask_column` and
            `data_dir`.
        image_processor ([`OffSegImageProcessor`]): the model's.
        transform ([`~offseg_hf.data.TrainTransform`]): the augmentation.
        num_labels (`int`): number of classes, against which the first masks are checked.
        label_table (`dict[int, int]`, *optional*): stored id → class id, or 255 for what is not labelled, where they
            differ; a preset's is found from the first masks.
        seed (`int`, *optional*, defaults to 0): of the augmentation and of a stream's order.
        shuffle_buffer_size (`int`, *optional*, defaults to 500): undecoded examples among which a stream is shuffled.
        num_broken (`int`, *optional*, defaults to 0): examples that may be left out since they cannot be read.

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
        return EndlessStream(data, prepare, seed=seed, buffer_size=shuffle_buffer_size, num_broken=num_broken)
    return TrainingExamples(data, prepare, seed=seed, num_broken=num_broken)


def evaluation_dataset(
    dataset: str | list[str] | LabelledDataset,
    split: str,
    *,
    image_processor: OffSegImageProcessor,
    num_labels: int,
    streaming: bool = False,
    image_column: str | None = None,
    mask_column: str | None = None,
    data_dir: str | None = None,
    label_table: dict[int, int] | None = None,
    batch_size: int = 1,
) -> datasets.Dataset | datasets.IterableDataset:
    """A split to evaluate on: whole photos, with labels at their own resolution.

    Args:
        dataset (`str`, `list[str]` or [`~offseg_hf.data.formats.reading.LabelledDataset`]): see
            [`~offseg_hf.data.load_segmentation_dataset`], as `split`, `streaming`, `image_column`, `mask_column` and
            `data_dir`.
        image_processor ([`OffSegImageProcessor`]): the model's.
        num_labels (`int`): number of classes, against which the first masks are checked.
        label_table (`dict[int, int]`, *optional*): stored id → class id, or 255 for what is not labelled, where they
            differ; a preset's is found from the first masks.
        batch_size (`int`, *optional*, defaults to 1): photos that are stacked; with more than one, the sizes of all
            photos are read and must agree.

    Returns:
        `datasets.Dataset` or `datasets.IterableDataset`: of `pixel_values` and `labels`.

    Raises:
        ValueError, FileNotFoundError: where the data cannot be found, or its labels are no class ids.
    """
    data = load_segmentation_dataset(
        dataset, split, streaming=streaming, image_column=image_column, mask_column=mask_column, data_dir=data_dir
    )
    table = audited_label_table(data, dataset, num_labels, image_processor.do_reduce_labels, label_table)
    if batch_size > 1:
        _check_one_size(data)
    return evaluation_examples(data, PrepareExample(image_processor, label_table=table))


def _check_one_size(data):
    """Raises where photos, as they are seen, differ in size; only their headers are read."""
    first = None
    for index, example in enumerate(data):
        photo = open_image(example["image"], f"image of example {index}", max_value=65535)
        size = photo.size[::-1] if photo.getexif().get(ORIENTATION, 1) > 4 else photo.size  # turned by a quarter
        first = first or size
        if size != first:
            raise ValueError(
                f"`per_device_eval_batch_size` must be 1 for photos of several sizes, and example {index} has "
                f"{size[0]} × {size[1]} pixels, example 0 {first[0]} × {first[1]}; leave it out."
            )
