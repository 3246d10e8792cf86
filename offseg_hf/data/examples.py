"""Undecoded examples → tensors: augmented crops for training, whole photos and their own labels for evaluation."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import datasets
import numpy as np
import torch
from torch.nn import functional as F

from offseg_hf.data.augmentation import TrainTransform
from offseg_hf.data.broken import BrokenExamples
from offseg_hf.data.labels import LabelTable
from offseg_hf.models.image_processing_offseg import OffSegImageProcessor, open_image, read_image, read_mask


class PrepareExample:
    """Decodes an example and makes tensors of it.

    With a transform, for training: the photo is augmented, normalised by the image processor, and then padded at the
    bottom and right to the crop size, by zeros; its labels by the ignore index. Without one, for evaluation: the image
    processor resizes and normalises the photo, while the labels stay at their own resolution.

    Args:
        image_processor (`OffSegImageProcessor`): the model's.
        transform (`TrainTransform`, *optional*): augmentation; without it, evaluation.
        label_table ([`~offseg_hf.data.labels.LabelTable`], *optional*): what makes class ids of the stored ones, such
            as [`~offseg_hf.data.audited_label_table`] gives; without it, the stored ids are class ids.

    Raises:
        ValueError: the image processor would reduce labels, and there is no table that says so.
    """

    def __init__(
        self,
        image_processor: OffSegImageProcessor,
        transform: TrainTransform | None = None,
        label_table: LabelTable | None = None,
    ):
        if label_table is None and image_processor.do_reduce_labels:
            raise ValueError(
                "`label_table` must be given with an image processor whose `do_reduce_labels` is True, got None; pass "
                "`LabelTable.reduced(num_labels)`."
            )
        self.image_processor = image_processor
        self.transform = transform
        self.label_table = label_table

    def __call__(self, example: Mapping[str, Any], name: str = "example") -> dict[str, torch.Tensor]:
        """One example for the model.

        Args:
            example (`dict`): with `image` and `mask`, anything that `read_image` and `read_mask` take; perhaps with an
                `augmentation_seed`, an integer.
            name (`str`): what errors call it; the path of the file is added if it is known.

        Returns:
            `dict`: `pixel_values`, (3, h, w) float32, and `labels`, (h', w') int64.

        Raises:
            FileNotFoundError, ValueError, TypeError: a photo or a mask can't be read, or they do not fit each other.
        """
        photo_name, mask_name = (_name(example[column], f"{column} of {name}") for column in ("image", "mask"))
        white = self.image_processor.max_value
        photo = open_image(example["image"], photo_name, max_value=white)
        image = read_image(photo, photo_name, white)  # before the mask: what is wrong with the photo is told of it
        ids = read_mask(example["mask"], photo, mask_name)
        if self.label_table is not None:
            ids = self.label_table(ids, mask_name)
        if self.transform is None:
            pixel_values = self.image_processor(image, return_tensors="pt")["pixel_values"][0]
            return {"pixel_values": pixel_values, "labels": torch.from_numpy(ids.astype(np.int64))}

        generator = None
        if "augmentation_seed" in example:
            generator = torch.Generator().manual_seed(example["augmentation_seed"])
        pixels, ids = self.transform(image, ids, generator)
        height, width = self.transform.crop_size
        padding = (0, width - ids.shape[1], 0, height - ids.shape[0])
        pixel_values = torch.from_numpy(self.image_processor.normalize_pixels(pixels))  # (3, h, w)
        labels = torch.from_numpy(ids.astype(np.int64))
        if any(padding):
            pixel_values = F.pad(pixel_values, padding)
            labels = F.pad(labels, padding, value=self.transform.ignore_index)
        return {"pixel_values": pixel_values, "labels": labels}


class TrainingExamples(torch.utils.data.Dataset):
    """The examples of a data set, each augmented by the number of the pass and its index alone.

    So a training that resumes after skipping what it has seen goes on as if it had not been interrupted.

    Args:
        data (`datasets.Dataset`): with the columns `image` and `mask`.
        prepare ([`PrepareExample`]): what makes tensors of an example.
        seed (`int`): not negative; seed of the augmentation.
        num_broken (`int`, *optional*, defaults to 0): examples that may be left out since they cannot be read; the
            next one that can takes the place.
    """

    def __init__(self, data: datasets.Dataset, prepare: PrepareExample, *, seed: int = 0, num_broken: int = 0):
        self.data = data
        self.prepare = prepare
        self.seed = seed
        self.broken = BrokenExamples(num_broken)
        self.epoch = torch.tensor(0).share_memory_()  # workers that outlive a pass hold a copy of all else

    def set_epoch(self, epoch: int) -> None:
        """Sets the number of the pass, from 0."""
        self.epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        for position in range(index, index + len(self)):
            position %= len(self)
            entropy = np.random.SeedSequence((self.seed, self.epoch.item(), position))
            example = {**self.data[position], "augmentation_seed": int(entropy.generate_state(1)[0])}
            try:
                return self.prepare(example, f"example {position}")
            except (OSError, TypeError, ValueError) as error:
                self.broken.leave_out(f"example {position}", error)
        raise ValueError("`data` must hold an example that can be read, and all of them are broken; mend them.")


def evaluation_examples(
    data: datasets.Dataset | datasets.IterableDataset, prepare: PrepareExample
) -> datasets.Dataset | datasets.IterableDataset:
    """The examples of a data set or stream, prepared when they are read.

    Args:
        data (`datasets.Dataset` or `datasets.IterableDataset`): with the columns `image` and `mask`.
        prepare ([`PrepareExample`]): what makes tensors of an example.

    Returns:
        `datasets.Dataset` or `datasets.IterableDataset`: of `pixel_values` and `labels`.
    """
    # No lambdas: worker processes that are spawned get what they do pickled.
    if isinstance(data, datasets.IterableDataset):
        return data.map(partial(_prepare_one, prepare), with_indices=True, remove_columns=["image", "mask"])
    return data.with_transform(partial(_prepare_columns, prepare))


def _prepare_one(prepare, example, index):
    return prepare(example, f"example {index}")


def _prepare_columns(prepare, columns):
    examples = [prepare(dict(zip(columns, values))) for values in zip(*columns.values())]
    return {name: [example[name] for example in examples] for name in examples[0]}


def stack_examples(examples: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """A batch of prepared examples, for `Trainer(data_collator=…)`.

    Args:
        examples (`list[dict]`): `pixel_values` and `labels` as [`PrepareExample`] makes them.

    Returns:
        `dict`: the same, stacked along a new first axis.

    Raises:
        ValueError: sizes differ within the batch.
    """
    batch = {}
    for name in ("pixel_values", "labels"):
        sizes = sorted({tuple(example[name].shape[-2:]) for example in examples})
        if len(sizes) > 1:
            raise ValueError(
                f"`{name}` must agree in (height, width) within a batch, got {sizes[0]} and {sizes[-1]}; evaluate "
                "with --per_device_eval_batch_size 1."
            )
        batch[name] = torch.stack([example[name] for example in examples])
    return batch


def _name(source, name):
    """What errors call a file: its path is known here only, if its content comes along."""
    return f"{name}: {source['path']}" if isinstance(source, dict) and source.get("path") else name
