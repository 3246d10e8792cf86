"""Measuring models by the benchmarks' protocol, on one or many processes."""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import datasets
import torch
from accelerate import PartialState
from accelerate.utils import gather_object, parse_flag_from_env, reduce
from datasets.distributed import split_dataset_by_node
from tqdm import tqdm
from transformers import PreTrainedModel

from offseg_hf.data import PrepareExample
from offseg_hf.data.labels import LabelTable
from offseg_hf.evaluation.figures import Evaluation, class_figures, named_results
from offseg_hf.evaluation.metric import SemanticSegmentationMetric
from offseg_hf.evaluation.pictures import error_pictures
from offseg_hf.model_types import ignore_index, predicted_labels
from offseg_hf.models.image_processing_offseg import OffSegImageProcessor, open_image, read_image
from offseg_hf.prediction.windows import label_maps_in_bands

MAX_SCALE = 16


def evaluation_processes() -> PartialState:
    """Which of how many processes this is, and its device; on machines without an accelerator as well.

    Returns:
        [`accelerate.PartialState`]
    """
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU", default=not torch.accelerator.is_available()))


def evaluate_model(
    model: PreTrainedModel,
    image_processor: OffSegImageProcessor,
    data: datasets.Dataset | datasets.IterableDataset,
    *,
    label_table: LabelTable | None = None,
    window_size: tuple[int, int] | None = None,
    stride: tuple[int, int] | None = None,
    flip: bool = False,
    scales: Sequence[float] = (1.0,),
    num_pictures: int = 0,
) -> Evaluation:
    """Measures a model by the benchmarks' protocol: each photo by itself, with labels at their own resolution.

    Photos are resized as the image processor says, at every scale; for how they become label maps of the labels' size
    see [`~offseg_hf.prediction.windows.label_maps_in_bands`]. No labels are given to the model.

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
    white = image_processor.max_value
    metric = SemanticSegmentationMetric(len(id2label), ignore_index=ignore_index(model.config))
    total, num_examples = torch.zeros_like(metric.confusion_matrix), 0
    worst: list[tuple[float, str, tuple]] = []  # mean IoU, caption, pictures
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
        try:
            prediction = label_maps_in_bands(model, pixel_values, labels.shape, window_size, stride, flip)[0]
        except Exception as error:  # of the model, which does not know which photo it sees
            raise ValueError(
                f"`model` must segment every photo, and for {name}: {' '.join(str(error).split()) or repr(error)}"
            ) from error
        metric.add(prediction=prediction, reference=labels)
        total += metric.confusion_matrix
        num_examples += 1
        results = metric.compute()  # of this photo alone
        score = results["mean_iou"]
        if not math.isnan(score) and (len(worst) < num_pictures or (worst and score < worst[-1][0])):
            caption = f"{name}: mIoU {score:.3f}, pixel accuracy {results['overall_accuracy']:.3f}"
            worst.append(
                (
                    score,
                    caption,
                    error_pictures(read_image(photo, name, white), labels, prediction, metric.ignore_index),
                )
            )
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
        classes=class_figures(results, total, id2label),
        confusion_matrix=total[:, :-1].numpy(),
        num_examples=counted[-1].item(),
        worst=[(caption, pictures) for _, caption, pictures in worst],
    )


def check_scales(scales: Sequence[float]) -> None:
    """Checks the factors of the image processor's size.

    Args:
        scales (sequence of `float`): the factors.

    Raises:
        ValueError: there is none, or one is not above 0 and at most 16.
    """
    if not scales or not all(0 < scale <= MAX_SCALE for scale in scales):
        raise ValueError(
            f"`scales` must be one or more numbers above 0 and up to {MAX_SCALE}, got {list(scales)}; 1 is the size "
            "itself."
        )


def _at_scales(image_processor, scales):
    """The image processor at each factor of its size."""
    check_scales(scales)
    if not image_processor.do_resize and any(scale != 1 for scale in scales):
        raise ValueError("`scales` must be 1 for an image processor with `do_resize` False; give it a `size` instead.")
    settings = image_processor.to_dict()
    sizes = [{name: max(1, round(side * scale)) for name, side in settings["size"].items()} for scale in scales]
    return [type(image_processor).from_dict({**settings, "size": size}) for size in sizes]


def _share(data, process_index, num_processes):
    """Yields (name, example) of each example that one of the processes measures."""
    if isinstance(data, datasets.IterableDataset):
        stream = split_dataset_by_node(data, process_index, num_processes)
        of_process = f" of process {process_index}" if num_processes > 1 else ""
        yield from ((f"example {index}{of_process}", example) for index, example in enumerate(stream))
    else:
        yield from ((f"example {index}", data[index]) for index in range(process_index, len(data), num_processes))


def _prepared(examples, prepare):
    """Yields name, photo and the prepared example at each scale, of each (name, example)."""
    for name, example in examples:
        path = example["image"].get("path") if isinstance(example["image"], dict) else None
        name = f"{name} ({Path(path).name})" if path else name
        white = prepare[0].image_processor.max_value
        photo = open_image(example["image"], f"image of {name}", max_value=white)  # decoded once for all scales
        views = [one({**example, "image": photo}, name) for one in prepare]
        yield name, photo, views


def _read_ahead(items):
    """The items of an iterator, each made in a thread while the one before it is used."""
    with ThreadPoolExecutor(1) as reader:
        upcoming = reader.submit(next, items, None)
        while (item := upcoming.result()) is not None:
            upcoming = reader.submit(next, items, None)
            yield item


def _lowest(scored, count):
    """The entries (score, caption, pictures) of the lowest scores, in order."""
    return sorted(scored, key=lambda entry: entry[:2])[:count]
