"""What a benchmark of OffSeg on SegFormer measures, and how."""

from dataclasses import dataclass

import torch
from benchmark_models import checkpoint_config

from offseg_hf.variants import VARIANTS

MEASURES = ("forward", "photo", "post_processing", "training", "offset_learning", "memory", "limits", "counts")
VARIANT_NAMES = tuple(name for name, variant in VARIANTS.items() if variant.model_type == "offseg")
# Cases of the measures that are named otherwise than these.
PARTS = {"memory": ("photo_memory", "training_memory"), "limits": ("whole_memory", "window_memory")}
DTYPES = ("float32", "bfloat16")
OFFSET_LEARNING_SIZES = ((64, 64), (128, 256))
OFFSET_LEARNING_CLASSES = (2, 19, 150, 1000)


@dataclass(frozen=True)
class Case:
    """One measurement of every model.

    Args:
        measure (`str`): one of `MEASURES`, but those of `PARTS` for memory and its limits.
        variant (`str`): the size, such as `"offseg-b0"`; `"checkpoint"` for a trained model, `"layer"` for offset
            learning alone.
        num_labels (`int`): number of classes.
        height (`int`): of what the model sees, in pixels; of the features for offset learning alone.
        width (`int`): likewise.
        batch_size (`int`, *optional*, defaults to 1): images at once.
    """

    measure: str
    variant: str
    num_labels: int
    height: int
    width: int
    batch_size: int = 1

    @property
    def size(self):
        return self.height, self.width


@dataclass(frozen=True)
class Settings:
    """How cases are measured, the same for all of a run.

    Args:
        num_repeats (`int`, *optional*, defaults to 10): rounds that count, in each of which every model runs once.
        num_threads (`int`, *optional*, defaults to 2): torch's threads on a CPU.
        dtype (`str`, *optional*, defaults to `"float32"`): `"bfloat16"` for weights in it; training keeps them in
            float32, under autocast.
        device (`str`, *optional*, defaults to `"cpu"`): torch's name of it.
        compile (`bool`, *optional*, defaults to `False`): whether models and layers are compiled. Memory is measured
            without.
        checkpoint (`str`, *optional*): folder or Hub id of a trained OffSeg model on SegFormer, in place of random
            weights.
        segformer_decoder_size (`int`, *optional*): channels of SegFormer's decoder; by default as released, 256 for B0
            and B1 and 768 for the deeper ones. The paper's figures for SegFormer are of 256 for all.

    Raises:
        ValueError: where one is out of its range.
    """

    num_repeats: int = 10
    num_threads: int = 2
    dtype: str = "float32"
    device: str = "cpu"
    compile: bool = False
    checkpoint: str | None = None
    segformer_decoder_size: int | None = None

    def __post_init__(self):
        for name in ("num_repeats", "num_threads", "segformer_decoder_size"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}; pass 1 or more.")
        if self.dtype not in DTYPES:
            raise ValueError(f"`dtype` must be one of {', '.join(DTYPES)}, got {self.dtype!r}; choose one.")
        if self.device.partition(":")[0] not in ("cpu", "cuda"):
            raise ValueError(f"`device` must be cpu or cuda, got {self.device!r}; choose one.")
        if self.device != "cpu" and not torch.cuda.is_available():
            raise ValueError(f"`device` must be cpu where torch finds no GPU, got {self.device!r}; pass cpu.")

    @property
    def torch_dtype(self):
        return getattr(torch, self.dtype)

    @property
    def waits(self):
        """Whether work goes on after a function has returned."""
        return self.device != "cpu"


def list_cases(measures, variants, sizes, num_labels, batch_sizes=(1,), training_batch_size=4, checkpoint=None):
    """All cases that lists of measures, variants, sizes, classes and batch sizes make.

    Args:
        measures (`list[str]`): of `MEASURES`.
        variants (`list[str]`): of `VARIANT_NAMES`.
        sizes (`list[tuple[int, int]]`): (height, width) of what models see, at least 32 each.
        num_labels (`list[int]`): numbers of classes.
        batch_sizes (`list[int]`, *optional*): images at once in `forward`; `photo` and `post_processing` take one.
        training_batch_size (`int`, *optional*, defaults to 4): images of a training step.
        checkpoint (`str`, *optional*): a trained model, which takes the place of `variants` and `num_labels`.

    Returns:
        `list[Case]`

    Raises:
        ValueError: where a value is none of these, or the checkpoint is no OffSeg model on SegFormer.
        OSError: where there is no checkpoint.
    """
    for name, values, known in (("measures", measures, MEASURES), ("variants", variants, VARIANT_NAMES)):
        for value in values:
            if value not in known:
                raise ValueError(f"`{name}` must be of {', '.join(known)}, got {value!r}; choose from these.")
    if min(side for size in sizes for side in size) < 32:
        text = ", ".join(f"{height}x{width}" for height, width in sizes)
        raise ValueError(f"`sizes` must be at least 32 pixels high and wide, got {text}; pass larger ones.")
    if min(*num_labels, *batch_sizes, training_batch_size) < 1:
        raise ValueError(
            f"`num_labels`, `batch_sizes` and `training_batch_size` must be at least 1, got {num_labels}, "
            f"{batch_sizes} and {training_batch_size}; pass 1 or more."
        )
    if checkpoint is not None:
        variants, num_labels = ["checkpoint"], [checkpoint_config(checkpoint).num_labels]
    batches = {"forward": batch_sizes, "training": [training_batch_size], "training_memory": [training_batch_size]}
    cases = []
    for measure in measures:
        if measure == "offset_learning":
            for k in OFFSET_LEARNING_CLASSES:
                cases += [Case(measure, "layer", k, *size) for size in OFFSET_LEARNING_SIZES]
            continue
        for part in PARTS.get(measure, (measure,)):
            cases += [
                Case(part, variant, k, *size, batch_size)
                for variant in variants
                for k in num_labels
                for size in sizes
                for batch_size in batches.get(part, [1])
            ]
    return cases
