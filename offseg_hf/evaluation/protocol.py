"""Measuring models: the benchmarks' protocol on one or many processes, and what `Trainer` needs while it trains."""

import dataclasses
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import datasets
import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object, parse_flag_from_env, reduce
from datasets.distributed import split_dataset_by_node
from PIL import Image
from tqdm import tqdm

from offseg_hf.data import PrepareExample
from offseg_hf.data.labels import LabelTable
from offseg_hf.data.presets import published_palette
from offseg_hf.evaluation.figures import named_results
from offseg_hf.evaluation.metric import SemanticSegmentationMetric
from offseg_hf.model_types import ignore_index, predicted_labels
from offseg_hf.models.image_processing_offseg import open_image, read_image
from offseg_hf.pictures.overlays import IGNORE_INDEX, confusion_matrix_picture, mark_errors, picture_sheet
from offseg_hf.pictures.palettes import default_palette
from offseg_hf.pictures.saving import save_picture
from offseg_hf.prediction.windows import label_maps_in_bands

CELL_WIDTH = 384  # pixels, of the pictures that are kept


@dataclasses.dataclass
class Evaluation:
    """What a model did on a data set.

    Args:
        metrics (`dict[str, float]`): see [`named_results`].
        classes (`list[dict]`): of each class the `name`, and of its pixels the `iou` and the `accuracy` (in [0, 1];
            `None` where no pixel counts) and their number in the labels, `pixels`.
        confusion_matrix (`np.ndarray` of shape `(num_labels, num_labels)`): pixels, by label and by prediction.
        num_examples (`int`): photos that were measured.
        worst (`list[tuple[str, tuple]]`): a caption with the scores of a photo, and the photo, its label map, its
            prediction and the errors marked, scaled down; the photo of the lowest mean IoU first.
    """

    metrics: dict
    classes: list
    confusion_matrix: np.ndarray
    num_examples: int
    worst: list


def evaluation_processes() -> PartialState:
    """Which of how many processes this is, and its device; on machines without an accelerator as well.

    Returns:
        [`accelerate.PartialState`]
    """
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU", default=not torch.accelerator.is_available()))


def evaluate_model(
    model,
    image_processor,
    data,
    *,
    label_table=None,
    window_size=None,
    stride=None,
    flip=False,
    scales=(1.0,),
    num_pictures=0,
) -> Evaluation:
    """Measures a model by the benchmarks' protocol: each photo by itself, with labels at their own resolution.

    Photos are resized as the image processor says, at every scale; for how they become label maps of the labels' size
    see [`~offseg_hf.prediction.label_maps.label_maps_in_bands`]. No labels are given to the model.

    In a program started by `accelerate launch` or `torchrun`, each process measures its share of the examples, every
    one exactly once, and all get the same result.

    Args:
        model ([`transformers.PreTrainedModel`]): a segmentation model, on the device to measure on.
        image_processor ([`OffSegImageProcessor`]): the model's.
        data (`datasets.Dataset` or `datasets.IterableDataset`): of [`~offseg_hf.data.load_segmentation_dataset`].
        label_table ([`~offseg_hf.data.labels.LabelTable`], *optional*): what makes class ids of the stored ones; by
            default what the image processor's `do_reduce_labels` says.
        window_size (`tuple[int, int]`, *optional*): (height, width) of sliding windows; by default photos are whole.
        stride (`tuple[int, int]`, *optional*): from one window to the next, down and across.
        flip (`bool`, *optional*, defaults to `False`): whether to average over the mirror image too.
        scales (sequence of `float`, *optional*, defaults to `(1.0,)`): factors of the image processor's size, over
            which to average; the benchmarks' multi-scale results have 0.5, 0.75, 1, 1.25, 1.5 and 1.75, and flips.
        num_pictures (`int`, *optional*, defaults to 0): how many of the worst photos to keep.

    Returns:
        [`Evaluation`]

    Raises:
        ValueError: where `scales` cannot be had, there is no example, or one is not what it should be.
    """
    state, id2label = evaluation_processes(), predicted_labels(model.config)
    if label_table is None and image_processor.do_reduce_labels:
        label_table = LabelTable.reduced(len(id2label))
    metric = SemanticSegmentationMetric(len(id2label), ignore_index=ignore_index(model.config))
    total, num_examples, worst = torch.zeros_like(metric.confusion_matrix), 0, []
    share = _share(data, state.process_index, state.num_processes)
    examples = _prepared(
        share, [PrepareExample(one, label_table=label_table) for one in _at_scales(image_processor, scales)]
    )
    length = len(range(state.process_index, len(data), state.num_processes)) if hasattr(data, "__len__") else None
    for name, photo, views in tqdm(
        _read_ahead(examples), total=length, unit="photo", desc="measuring", disable=not state.is_main_process
    ):
        labels = views[0]["labels"].to(model.device)
        pixel_values = [view["pixel_values"][None] for view in views]
        prediction = label_maps_in_bands(model, pixel_values, labels.shape, window_size, stride, flip)[0]
        metric.add(prediction=prediction, reference=labels)
        total += metric.confusion_matrix
        num_examples += 1
        results = metric.compute()  # of this photo alone
        score = results["mean_iou"]
        if not math.isnan(score) and (len(worst) < num_pictures or (worst and score < worst[-1][0])):
            caption = f"{name}: mIoU {score:.3f}, pixel accuracy {results['overall_accuracy']:.3f}"
            worst.append((score, caption, _cells(photo, labels, prediction, metric.ignore_index)))
            worst = _lowest(worst, num_pictures)

    counted = torch.cat([total.flatten(), torch.tensor([num_examples])])
    counted = reduce(counted.to(state.device), reduction="sum").cpu()
    worst = _lowest(gather_object(worst), num_pictures)
    if counted[-1] == 0:
        raise ValueError("`data` must hold at least one example to measure on, got none; choose another split.")
    total = counted[:-1].view_as(total)
    metric.confusion_matrix = total.clone()
    results = metric.compute()
    return Evaluation(
        metrics=named_results(results, id2label),
        classes=_classes(results, total, id2label),
        confusion_matrix=total[:, :-1].numpy(),
        num_examples=counted[-1].item(),
        worst=[(caption, cells) for _, caption, cells in worst],
    )


def class_table(evaluation: Evaluation) -> str:
    """The figures of every class and their means, in percent, as lines of text.

    Args:
        evaluation ([`Evaluation`]): the measurement.

    Returns:
        `str`
    """
    metrics, classes = evaluation.metrics, evaluation.classes
    pixels = sum(entry["pixels"] for entry in classes)
    rows = [(entry["name"], entry["iou"], entry["accuracy"], entry["pixels"]) for entry in classes]
    rows += [("mean of the classes", metrics["mean_iou"], metrics["mean_accuracy"], pixels)]
    rows += [("all pixels", None, metrics["overall_accuracy"], pixels)]
    width = max(len(name) for name, *_ in rows)
    lines = [f"{'class':{width}}  {'IoU':>6}  {'accuracy':>8}  {'pixels':>15}"]
    for name, *shares, count in rows:
        iou, accuracy = ("" if share is None else f"{100 * share:.2f}" for share in shares)
        lines.append(f"{name:{width}}  {iou:>6}  {accuracy:>8}  {count:>15,}")
    return "\n".join(lines)


def save_pictures(evaluation: Evaluation, id2label: dict[int, str], confusion: Path, worst: Path):
    """Saves what a measurement looks like; each file appears whole or not at all.

    Args:
        evaluation ([`Evaluation`]): the measurement.
        id2label (`dict[int, str]`): class names.
        confusion (`Path`): file of the confusion matrix, replaced where it exists.
        worst (`Path`): file of the worst photos, likewise; removed where the measurement has none.
    """
    save_picture(confusion_matrix_picture(evaluation.confusion_matrix, id2label), confusion)
    if not evaluation.worst:
        worst.unlink(missing_ok=True)  # it would show another measurement
    else:
        palette = published_palette(id2label)
        palette = default_palette(len(id2label)) if palette is None else palette
        captions, rows = zip(*evaluation.worst)
        headers = ("image", "truth", "prediction", "errors")
        save_picture(picture_sheet(rows, headers, id2label, palette, CELL_WIDTH, captions), worst)


def _at_scales(image_processor, scales):
    """The image processor at each factor of its size."""
    if not scales or min(scales) <= 0:
        raise ValueError(f"`scales` must be one or more numbers above 0, got {list(scales)}; 1 is the size itself.")
    if not image_processor.do_resize and any(scale != 1 for scale in scales):
        raise ValueError("`scales` must be 1 for an image processor with `do_resize` False; give it a `size` instead.")
    settings = image_processor.to_dict()
    sizes = [{name: max(1, round(side * scale)) for name, side in settings["size"].items()} for scale in scales]
    return [type(image_processor).from_dict({**settings, "size": size}) for size in sizes]


def _share(data, process_index, num_processes):
    """(name, example) of each example that one of the processes measures."""
    if isinstance(data, datasets.IterableDataset):
        stream = split_dataset_by_node(data, process_index, num_processes)
        of_process = f" of process {process_index}" if num_processes > 1 else ""
        yield from ((f"example {index}{of_process}", example) for index, example in enumerate(stream))
    else:
        yield from ((f"example {index}", data[index]) for index in range(process_index, len(data), num_processes))


def _prepared(examples, prepare):
    """(name, photo, the example at each scale) of each (name, example)."""
    for name, example in examples:
        path = example["image"].get("path") if isinstance(example["image"], dict) else None
        name = f"{name} ({Path(path).name})" if path else name
        photo = open_image(example["image"], f"image of {name}")  # decoded once for all scales
        views = [one({**example, "image": photo}, name) for one in prepare]
        yield name, photo, views


def _read_ahead(items):
    """The items, each made in a thread while the one before it is used."""
    with ThreadPoolExecutor(1) as reader:
        upcoming = reader.submit(next, items, None)
        while (item := upcoming.result()) is not None:
            upcoming = reader.submit(next, items, None)
            yield item


def _cells(photo, labels, prediction, ignore_index):
    """Small pictures of a photo: itself, its label map, its prediction, and where they differ."""
    size = (CELL_WIDTH, max(1, round(labels.shape[0] * CELL_WIDTH / labels.shape[1])))
    photo = read_image(photo).resize(size, Image.Resampling.BICUBIC)
    truth, predicted = (
        np.asarray(Image.fromarray(ids.cpu().numpy().astype(np.int32)).resize(size, Image.Resampling.NEAREST))
        for ids in (labels.where(labels != ignore_index, IGNORE_INDEX), prediction)
    )
    return photo, truth, predicted, mark_errors(photo, (predicted != truth) & (truth != IGNORE_INDEX))


def _lowest(scored, count):
    """The entries (score, caption, cells) of the lowest scores, in order."""
    return sorted(scored, key=lambda entry: entry[:2])[:count]


def _classes(results, confusion_matrix, id2label):
    """Name, IoU, accuracy and number of labelled pixels of every class."""
    pixels = confusion_matrix.sum(dim=1).tolist()
    shares = (
        [None if math.isnan(value) else value for value in results[f"per_category_{name}"]]
        for name in ("iou", "accuracy")
    )
    return [
        {"name": id2label[label_id], "iou": iou, "accuracy": accuracy, "pixels": count}
        for label_id, (iou, accuracy, count) in enumerate(zip(*shares, pixels))
    ]
