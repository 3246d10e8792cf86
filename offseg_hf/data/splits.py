"""From a data set's name to examples of a split to train or to evaluate on, its first masks checked."""

import datasets

from offseg_hf.data.augmentation import TrainTransform
from offseg_hf.data.examples import PrepareExample, TrainingExamples, evaluation_examples
from offseg_hf.data.formats.reading import LabelledDataset
from offseg_hf.data.labels import audited_label_table
from offseg_hf.data.sources import load_segmentation_dataset
from offseg_hf.data.streaming import EndlessStream
from offseg_hf.models.image_processing_offseg import OffSegImageProcessor


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
