"""Data sets of photos and label maps: reading, streaming, augmentation, a check of their labels."""

from offseg_hf.data.audit import audit_labels
from offseg_hf.data.augmentation import TrainTransform
from offseg_hf.data.class_weights import estimate_class_weights
from offseg_hf.data.examples import PrepareExample, TrainingExamples, evaluation_examples, stack_examples
from offseg_hf.data.labels import read_id2label
from offseg_hf.data.sources import load_segmentation_dataset
from offseg_hf.data.splits import audit_first_labels, audited_label_table, evaluation_dataset, training_dataset
from offseg_hf.data.streaming import EndlessStream

__all__ = [
    "EndlessStream",
    "PrepareExample",
    "TrainTransform",
    "TrainingExamples",
    "audit_first_labels",
    "audit_labels",
    "audited_label_table",
    "estimate_class_weights",
    "evaluation_dataset",
    "evaluation_examples",
    "load_segmentation_dataset",
    "read_id2label",
    "stack_examples",
    "training_dataset",
]
