"""The rows of a head that belong to classes: which they are, and how they follow the names when classes change."""

import copy
import json
import re
from collections.abc import Collection
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from offseg_hf.model_types import auto_model_class

logger = logging.get_logger(__name__)


class ClassRows:
    """The rows of a model's head by class name, for a model that took over another's rows by their numbers.

    Which parameters have a row for each class, and along which axis, follows from the same architecture with one class
    more. So all of a head is found: class representations, normalisation, biases, transformers' 1×1 classifiers,
    auxiliary heads.

    Args:
        config ([`transformers.PreTrainedConfig`]): of the model, with the classes that it is to have.
        stored (`dict[int, str]`): names of the classes that its weights were learned with.
    """

    def __init__(self, config: PreTrainedConfig, stored: dict[int, str]):
        self.config = config
        self.names = [config.id2label[label_id] for label_id in sorted(config.id2label)]
        ids = {name: label_id for label_id, name in stored.items()}
        self.sources = [ids.get(name) for name in self.names]  # None where a class is new

    def move(self, tensors: dict[str, torch.Tensor], fresh: dict[str, torch.Tensor]) -> None:
        """Puts each row where its class is now, in place; those of classes that are new become the fresh ones.

        Args:
            tensors (`dict[str, torch.Tensor]`): by the names of `state_dict`.
            fresh (`dict[str, torch.Tensor]`): the same tensors of a model that has learned nothing.
        """
        for name, axis in self.axes().items():
            if name in tensors:
                moved = self.moved(tensors[name], fresh[name], axis)
                with torch.no_grad():
                    tensors[name].copy_(moved)

    def moved(self, tensor: torch.Tensor, fresh: torch.Tensor, axis: int) -> torch.Tensor:
        """One tensor with its rows moved.

        Args:
            tensor (`torch.Tensor`): what was learned.
            fresh (`torch.Tensor`): what the rows of new classes are to be, of the same shape.
            axis (`int`): along which the classes are; what comes after them, such as "no object", stays.

        Returns:
            `torch.Tensor`: a new one.
        """
        moved = tensor.clone()
        for target, source in enumerate(self.sources):
            row = fresh.select(axis, target) if source is None else tensor.select(axis, source)
            moved.select(axis, target).copy_(row)
        return moved

    def axes(self) -> dict[str, int]:
        """Name of each parameter and statistic that has a row for each class → the axis of these."""
        larger = copy.deepcopy(self.config)
        if getattr(larger, "class_weights", None) is not None:
            larger.class_weights = None
        larger.id2label = {label_id: f"LABEL_{label_id}" for label_id in range(len(self.names) + 1)}
        shapes = []
        for config in (self.config, larger):
            with torch.device("meta"):
                model = auto_model_class(config).from_config(copy.deepcopy(config))
            shapes.append({name: tensor.shape for name, tensor in model.state_dict().items()})
        return {
            name: next(axis for axis, sides in enumerate(zip(shape, shapes[1][name])) if sides[0] != sides[1])
            for name, shape in shapes[0].items()
            if shape != shapes[1][name]
        }

    def description(self, origin: str) -> str:
        """One line that says what became of the classes.

        Args:
            origin (`str`): folder or Hub id of the weights.

        Returns:
            `str`
        """
        kept = [name for name, source in zip(self.names, self.sources) if source is not None]
        new = [name for name, source in zip(self.names, self.sources) if source is None]
        parts = [f"kept {_some(kept)}"] * bool(kept) + [f"initialised anew {_some(new)}"] * bool(new)
        return f"the classes of {origin} have other names or another order and are matched by name: {'; '.join(parts)}"


def rows_to_move(
    config: PreTrainedConfig, stored: dict[int, str], origin: str, anew: Collection[str] = ()
) -> ClassRows | None:
    """Says in one line what becomes of classes that have other names or another order than before.

    Args:
        config ([`transformers.PreTrainedConfig`]): of the model, with the classes that it is to have.
        stored (`dict[int, str]`): names of the classes that its weights were learned with.
        origin (`str`): folder or Hub id of the weights.
        anew (collection of `str`, *optional*): names of what the weights lack.

    Returns:
        [`ClassRows`] or `None`: `None` where nothing is to be moved: the names are the same, there are more or fewer
        of them, the weights have no such rows, or on one side they are only numbers, such as
        `LABEL_3`, and are taken in their order.
    """
    names = dict(config.id2label)
    if names == stored or len(names) != len(stored):
        return None
    rows = ClassRows(config, stored)
    if rows.axes().keys() <= set(anew):
        return None
    if any(all(re.fullmatch(r"LABEL_\d+", name) for name in each.values()) for each in (names, stored)):
        logger.warning(f"the classes of {origin} have no names here or there, and are taken in their order")
        return None
    logger.warning(rows.description(origin))
    return rows


def stored_id2label(checkpoint: str) -> dict[int, str]:
    """The classes of a checkpoint.

    Args:
        checkpoint (`str`): its folder.

    Returns:
        `dict[int, str]`: empty where it does not say, as one of LoRA's updates.
    """
    file = Path(checkpoint, "config.json")
    names = json.loads(file.read_text(encoding="utf-8")).get("id2label") or {} if file.is_file() else {}
    return {int(label_id): name for label_id, name in names.items()}


def match_classes(
    model: PreTrainedModel,
    stored: PreTrainedConfig,
    origin: str,
    keeps_weights: bool,
    anew: Collection[str] = (),
) -> None:
    """Moves the rows of a model's head to the classes of their names, in place, with the weights of classes.

    Args:
        model ([`transformers.PreTrainedModel`]): which took over rows by their numbers.
        stored ([`transformers.PreTrainedConfig`]): of the weights that it took over.
        origin (`str`): folder or Hub id of these.
        keeps_weights (`bool`): whether the `class_weights` of its configuration are those of the new order.
        anew (collection of `str`, *optional*): names of what was initialised anew.
    """
    rows = rows_to_move(model.config, dict(stored.id2label), origin, anew)
    if rows is None:
        return
    fresh = auto_model_class(model.config).from_config(copy.deepcopy(model.config))
    rows.move(model.state_dict(), fresh.state_dict())
    weights = getattr(model.config, "class_weights", None)
    if weights is not None and not keeps_weights and len(weights) == len(rows.sources):
        model.config.class_weights = [1.0 if source is None else weights[source] for source in rows.sources]


def move_optimizer_rows(optimizer: torch.optim.Optimizer, model: nn.Module, rows: ClassRows) -> None:
    """Moves what an optimizer remembers of the rows of classes, in place; of new classes it remembers nothing.

    Args:
        optimizer (`torch.optim.Optimizer`): of the model's parameters.
        model (`torch.nn.Module`): whose rows were moved.
        rows ([`ClassRows`]): how.
    """
    parameters = dict(model.named_parameters())
    for name, axis in rows.axes().items():
        if name not in parameters or parameters[name] not in optimizer.state:
            continue
        state = optimizer.state[parameters[name]]
        tensors = {key: value for key, value in state.items() if isinstance(value, torch.Tensor) and value.ndim > 0}
        if any(value.shape != parameters[name].shape for value in tensors.values()):  # Adafactor's, in factors
            del optimizer.state[parameters[name]]
            continue
        for key, value in tensors.items():
            state[key] = rows.moved(value, torch.zeros_like(value), axis)


def _some(names):
    """The first few names."""
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
