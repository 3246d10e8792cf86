"""Data sets of photos and masks: reading, streaming, augmentation, what their ids mean.

Each name is loaded when it is first asked for, so that what needs no data sets does without the time to load them.
"""

import importlib
from typing import Any

# Public name → the module that has it.
_MODULES = {
    "EndlessStream": "streaming",
    "LabelTable": "labels",
    "PrepareExample": "examples",
    "TrainTransform": "augmentation",
    "TrainingExamples": "examples",
    "audit_labels": "labels",
    "audited_label_table": "labels",
    "estimate_class_weights": "class_weights",
    "evaluation_dataset": "splits",
    "evaluation_examples": "examples",
    "load_segmentation_dataset": "sources",
    "open_labelled_dataset": "formats.reading",
    "read_id2label": "labels",
    "stack_examples": "examples",
    "training_dataset": "splits",
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    """A public name's module is loaded when the name is first asked for; what it means is asked anew each time."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
