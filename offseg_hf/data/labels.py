"""Names of the classes, and the ids that they have in files."""

import json
from pathlib import Path

import numpy as np

from offseg_hf.models.image_processing_offseg import IGNORE_INDEX

_UNKNOWN = 254  # in a look-up table: an id that it has no class for


def read_id2label(labels: str) -> dict[int, str]:
    """Class names by id, from what a person has at hand.

    Args:
        labels (`str`): names separated by commas (`"sky,road,car"`), or the path of a `.txt` file with one name per
            line, or of a `.json` file with a list of names or an `id2label` dictionary.

    Returns:
        `dict[int, str]`: names by class id, from 0 without a gap.

    Raises:
        ValueError: where the names are not such a list, or not unique.
    """
    path = Path(labels)
    if path.suffix in (".txt", ".json"):
        if not path.is_file():
            raise ValueError(
                f"`labels` must be names separated by commas or a .txt or .json file, {labels} is not there."
            )
        text = path.read_text(encoding="utf-8")
        names = json.loads(text) if path.suffix == ".json" else text.rstrip().split("\n")
    else:
        names = labels.split(",")
    if isinstance(names, dict):
        id2label = {int(label_id) if str(label_id).isdigit() else label_id: name for label_id, name in names.items()}
    else:
        id2label = {label_id: name.strip() if isinstance(name, str) else name for label_id, name in enumerate(names)}
    is_named = all(isinstance(name, str) and name for name in id2label.values())
    if not is_named or set(id2label) != set(range(len(id2label))) or len(set(id2label.values())) != len(id2label):
        raise ValueError(
            "`labels` must name the class ids 0, 1, … without a gap and each differently, got "
            f"{list(id2label.items())[:20]}; correct the list."
        )
    return id2label


def read_label_table(path: str, id2label: dict[int, str]) -> dict[int, int]:
    """What the ids in label maps mean, from a file.

    Args:
        path (`str`): a JSON file of stored id → class id or class name, or `null` for what is not labelled.
        id2label (`dict[int, str]`): names of the classes.

    Returns:
        `dict[int, int]`: stored id → class id, 255 for what is not labelled.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds something else.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"`label_table` must be a JSON file of stored id → class, and {path} is not there.")
    table = json.loads(Path(path).read_text(encoding="utf-8"))
    known = {label_id: label_id for label_id in (*id2label, IGNORE_INDEX)} | {None: IGNORE_INDEX}
    known |= {name: label_id for label_id, name in id2label.items()}
    is_table = isinstance(table, dict) and table and all(key.removeprefix("-").isdecimal() for key in table)
    wrong = [str(table)]
    if is_table:
        values = {key: value if type(value) in (int, str, type(None)) else f"{value}" for key, value in table.items()}
        wrong = [f"{key}: {value}" for key, value in values.items() if value not in known]
    if wrong:
        raise ValueError(
            "`label_table` must map stored ids to class ids, names of classes or null, as in "
            f'{{"7": "{id2label[0]}", "8": 1, "0": null}}, got {", ".join(wrong)[:80]}; correct {path}.'
        )
    return {int(key): known[value] for key, value in table.items()}


class LabelTable:
    """Turns stored ids into class ids.

    Args:
        class_ids (`dict[int, int]`): stored id, from −1 to 65,535 → class id up to 253, or 255 for what is not
            labelled.

    Raises:
        ValueError: an id is out of its range.
    """

    def __init__(self, class_ids: dict[int, int]):
        stored, classes = np.array(list(class_ids.items()), np.int64).T
        if stored.min() < -1 or stored.max() > 65535:
            raise ValueError(
                f"`label_table` must have stored ids from −1 to 65,535, got {stored.min()} and {stored.max()}; "
                "renumber them."
            )
        if ((classes < 0) | (classes == _UNKNOWN) | (classes > IGNORE_INDEX)).any():
            raise ValueError(
                f"`label_table` must have class ids up to {_UNKNOWN - 1}, or {IGNORE_INDEX} for what is not labelled, "
                f"got {classes.min()} to {classes.max()}; renumber them."
            )
        self.table = np.full(max(255, stored.max()) + 3, _UNKNOWN, np.uint8)  # the last two: beyond the table, and −1
        self.table[stored] = classes

    def __call__(self, ids: np.ndarray, name: str = "mask") -> np.ndarray:
        """The class ids of a label map.

        Args:
            ids (`np.ndarray`): stored ids of any shape and integer type.
            name (`str`, *optional*): what errors call it.

        Returns:
            `np.ndarray`: uint8, a new array of the same shape.

        Raises:
            ValueError: an id has no class.
        """
        beyond = len(self.table) - 2
        inside = ids if ids.dtype == np.uint8 else np.where((ids >= -1) & (ids < beyond), ids, beyond).astype(np.int64)
        class_ids = self.table[inside]
        if (class_ids == _UNKNOWN).any():
            unknown = np.unique(ids[class_ids == _UNKNOWN])[:5].tolist()
            raise ValueError(
                f"`{name}` must hold ids that have a class, got {unknown}; correct the mask, or say what all "
                "stored ids mean with `--label_table FILE`."
            )
        return class_ids
