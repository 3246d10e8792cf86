"""What the ids in masks mean: class names, tables from stored ids to class ids, and checks of the first masks.

A data set's table is decided once, by [`find_label_table`]; whoever reads masks applies it and nothing else.
"""

import json
import re
from collections.abc import Iterable
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from offseg_hf.data.formats.refusals import refuse_instances, refuse_mask
from offseg_hf.data.presets import DatasetPreset, LabelEncoding, find_preset
from offseg_hf.files import read_json, read_text
from offseg_hf.models.image_processing_offseg import IGNORE_INDEX, read_mask

if TYPE_CHECKING:
    import datasets
    import torch

    from offseg_hf.data.formats.reading import LabelledDataset

NUM_FIRST_MASKS = 16  # that are checked before a data set is used
MAX_FIRST_MASKS = 200  # that are read while it is not clear what their ids mean

# Names and tables from files


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
    suffix = path.suffix.lower() if "," not in labels else ""
    if suffix in (".txt", ".json"):
        if not path.is_file():
            raise ValueError(
                f"`labels` must be names separated by commas or a .txt or .json file, {labels} is not there."
            )
        names = read_json(path) if suffix == ".json" else read_text(path).rstrip().split("\n")
        blank = [number for number, name in enumerate(names, 1) if suffix == ".txt" and not name.strip()]
        if blank:
            raise ValueError(
                f"`labels` must have a name in each line, but in {labels} blank are the lines "
                f"{', '.join(map(str, blank[:10]))}; remove them, or name the classes that belong there."
            )
    elif "," not in labels and (path.is_file() or re.search(r"\.[A-Za-z]{2,4}$|[/\\]", labels)):
        raise ValueError(
            f"`labels` must be names separated by commas or a .txt or .json file, got {labels}; save the names as a "
            ".txt file with one in each line."
        )
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
    """What the ids in masks mean, from a file.

    Args:
        path (`str`): a JSON file of stored id → class id or class name, or `null` for what is not labelled.
        id2label (`dict[int, str]`): names of the classes; a single class has the id 1, and 0 is the background.

    Returns:
        `dict[int, int]`: stored id → class id, 255 for what is not labelled.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds something else.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"`label_table` must be a JSON file of stored id → class, and {path} is not there.")
    table = read_json(path)
    known: dict[int | str | None, int] = {label_id: label_id for label_id in (*id2label, IGNORE_INDEX)}
    known[None] = IGNORE_INDEX
    known |= {name: label_id for label_id, name in id2label.items()}
    if len(id2label) == 1:  # the single class is 1, and 0 is the background
        known |= {1: 1, id2label[0]: 1}
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


def stored_class_names(dataset: str | list[str]) -> dict[int, str] | None:
    """The names of the classes that a prepared data set says of its ids.

    Args:
        dataset (`str` or `list[str]`): see [`~offseg_hf.data.load_segmentation_dataset`].

    Returns:
        `dict[int, str]` or `None`: of the file `id2label.json` of a local folder; `None` where there is none.
    """
    sources = [dataset] if isinstance(dataset, str) else dataset
    file = Path(sources[0]).expanduser() / "id2label.json"
    return read_id2label(str(file)) if len(sources) == 1 and file.is_file() else None


def check_class_names(dataset: str | list[str], id2label: dict[int, str]) -> None:
    """Checks that the classes of a model are those that a prepared data set has under the same ids.

    Args:
        dataset (`str` or `list[str]`): see [`~offseg_hf.data.load_segmentation_dataset`].
        id2label (`dict[int, str]`): names of the model's classes by id.

    Raises:
        ValueError: an id has another name, with the table that mends it where the names are the same.
    """
    stored = stored_class_names(dataset)
    if stored is None or stored == id2label:
        return
    remedy = "correct `--labels`, or leave it out"
    if set(stored.values()) <= set(id2label.values()):
        table = json.dumps({str(label_id): name for label_id, name in stored.items()}, ensure_ascii=False)
        remedy = f"pass `--label_table FILE` with {table}"
    raise ValueError(
        f"`labels` must be the classes that {dataset if isinstance(dataset, str) else dataset[0]} has in its "
        f"id2label.json ({', '.join(stored.values())}), in this order, got {', '.join(id2label.values())}; {remedy}."
    )


def read_colour_table(path: str, id2label: dict[int, str]) -> dict[tuple[int, int, int], str | None] | None:
    """What the colours in masks mean, from a label table whose keys are colours.

    Args:
        path (`str`): a JSON file of colour, as `"#4682b4"` or `"70,130,180"` → name of a class, class id, or `null`
            for what is not labelled.
        id2label (`dict[int, str]`): names of the classes; where it is empty, those that the file has.

    Returns:
        `dict[tuple[int, int, int], str | None]` or `None`: (red, green, blue) → name or `None`; `None` where the first
        key of the file is no colour, so that the file is one for [`read_label_table`].

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a key is no colour or twice there, or a value no class.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"`label_table` must be a JSON file of colour → class, and {path} is not there.")
    table = read_json(path)
    if not isinstance(table, dict) or _colour(next(iter(table), "")) is None:
        return None
    id2label = id2label or dict(enumerate(name for name in table.values() if isinstance(name, str)))
    known: dict[int | str | None, str | None] = {None: None, IGNORE_INDEX: None}
    known |= dict(id2label) | {name: name for name in id2label.values()}
    colours: dict[tuple[int, int, int], str | None] = {}
    for key, value in table.items():
        colour = _colour(key)
        is_class = type(value) in (int, str, type(None)) and value in known
        if colour is None or colour in colours or not is_class:
            names = ", ".join(list(id2label.values())[:10])
            raise ValueError(
                f"`label_table` must map each colour to null or a class ({names}), by name or id, as in "
                f'{{"#4682b4": "{id2label.get(0, "sky")}", "0,0,142": null}}, got {key}: {value}; correct {path}.'
            )
        colours[colour] = known[value]
    return colours


def _colour(text):
    """(red, green, blue) of `#rrggbb` or `r,g,b`; `None` where a text is neither."""
    if re.fullmatch(r"#[0-9a-fA-F]{6}", text):
        red, green, blue = bytes.fromhex(text[1:])
        return red, green, blue
    parts = re.fullmatch(r"\s*(\d{1,3})[\s,]+(\d{1,3})[\s,]+(\d{1,3})\s*", text)
    colour = tuple(int(part) for part in parts.groups()) if parts else None
    return colour if colour and max(colour) <= 255 else None


class LabelTable:
    """Turns stored ids into class ids.

    Args:
        class_ids (`dict[int, int]`): stored id, from −1 to 65,535 → class id up to 65,534, or 255 for what is not
            labelled.
        name (`str`, *optional*): what the stored ids are called, such as `"trainIds"`.

    Raises:
        ValueError: an id is out of its range.
    """

    def __init__(self, class_ids: dict[int, int], name: str | None = None):
        self.class_ids = dict(class_ids)
        self.name = name
        if not class_ids:
            raise ValueError("`label_table` must say what at least one stored id means, got none; fill it.")
        stored, classes = np.array(list(class_ids.items()), np.int64).T
        if stored.min() < -1 or stored.max() > 65535:
            raise ValueError(
                f"`label_table` must have stored ids from −1 to 65,535, got {stored.min()} and {stored.max()}; "
                "renumber them."
            )
        if classes.min() < 0 or classes.max() > 65534:
            raise ValueError(
                f"`label_table` must have class ids from 0 to 65,534, with {IGNORE_INDEX} for what is not labelled, "
                f"got {classes.min()} to {classes.max()}; renumber them."
            )
        # Of each type, one number that is no class marks stored ids without a class.
        fits_8_bits = classes[classes != IGNORE_INDEX].max(initial=0) < 254
        dtype, self._unknown = (np.uint8, 254) if fits_8_bits else (np.uint16, 65535)
        self._table = np.full(max(255, stored.max()) + 3, self._unknown, dtype)  # the last two: ids beyond, and −1
        self._table[stored] = classes

    @classmethod
    def reduced(cls, num_labels: int) -> "LabelTable":
        """The table of masks in which 0 means unlabelled and the classes count from 1 (`do_reduce_labels`).

        Its class ids are those of the image processor's `reduce_labels`; ids beyond the classes are refused.

        Args:
            num_labels (`int`): number of classes. Since 255 stays unlabelled, only 254 can be told apart in this way.

        Returns:
            [`LabelTable`]: 0 and 255 → 255, and any other stored id → itself minus 1.
        """
        largest = min(max(num_labels, 2), 254)  # a single class has the background beside it
        return cls({0: IGNORE_INDEX, IGNORE_INDEX: IGNORE_INDEX} | {stored + 1: stored for stored in range(largest)})

    @classmethod
    def identity(cls, num_labels: int) -> "LabelTable":
        """The table of masks whose ids are class ids, so that any other id is refused wherever it occurs.

        Args:
            num_labels (`int`): number of classes; beside a single class there is the background, as 0.

        Returns:
            [`LabelTable`]: each class id and 255 → itself.
        """
        return cls({label_id: label_id for label_id in (*range(max(num_labels, 2)), IGNORE_INDEX)})

    def __call__(self, ids: np.ndarray, name: str = "mask") -> np.ndarray:
        """The class ids of a label map.

        Args:
            ids (`np.ndarray`): stored ids of any shape and integer type.
            name (`str`, *optional*): what errors call it.

        Returns:
            `np.ndarray`: a new array of the same shape, uint8, or uint16 where there are class ids above 253.

        Raises:
            ValueError: an id has no class, or is no integer.
        """
        if ids.dtype.kind not in "iu":
            raise ValueError(f"`{name}` must hold integer ids, got {ids.dtype}; convert it to uint8.")
        beyond = len(self._table) - 2
        inside = ids if ids.dtype == np.uint8 else np.where((ids >= -1) & (ids < beyond), ids, beyond).astype(np.int64)
        class_ids: np.ndarray = np.take(self._table, inside, mode="wrap")  # faster than to index, and −1 is the last
        if (class_ids == self._unknown).any():
            unknown = np.unique(ids[class_ids == self._unknown])[:5].tolist()
            raise ValueError(
                f"`{name}` must hold ids that have a class, got {unknown}; correct the mask, or say what all "
                "stored ids mean with `--label_table FILE`."
            )
        return class_ids


# Which table


def audited_label_table(
    data: "datasets.Dataset | datasets.IterableDataset",
    dataset: "str | list[str] | LabelledDataset",
    num_labels: int,
    do_reduce_labels: bool = False,
    label_table: dict[int, int] | None = None,
) -> LabelTable | None:
    """What makes class ids of a data set's stored ones, see [`find_label_table`], after a look at its first masks.

    Args:
        data (`datasets.Dataset` or `datasets.IterableDataset`): with the column `mask`, undecoded.
        dataset (`str`, `list[str]` or [`~offseg_hf.data.formats.reading.LabelledDataset`]): what it was loaded from,
            perhaps the name of a preset.
        num_labels (`int`): number of classes.
        do_reduce_labels (`bool`, *optional*, defaults to `False`): whether 0 means unlabelled and the classes count
            from 1.
        label_table (`dict[int, int]`, *optional*): stored id → class id, or 255 for what is not labelled.

    Returns:
        [`LabelTable`] or `None`: for [`~offseg_hf.data.PrepareExample`]; `None` for a labelling tool's data set, whose
            masks are drawn with class ids.

    Raises:
        ValueError: where the first masks do not hold such ids or nothing in them is labelled, with the remedy.
    """
    if not isinstance(dataset, (str, list, tuple)):  # its masks were drawn with class ids
        if do_reduce_labels:
            raise ValueError(
                f"`do_reduce_labels` must be False for {dataset}, whose classes are known by name, got True; leave "
                "--do_reduce_labels out."
            )
        return None
    masks = ((_stored_ids(each["mask"]), _path(each["mask"])) for each in data)
    first_masks = list(islice(masks, NUM_FIRST_MASKS))
    table = find_label_table(
        chain(first_masks, masks),
        num_labels,
        preset=find_preset(dataset),
        do_reduce_labels=do_reduce_labels,
        label_table=label_table,
    )
    if all((table(ids) == IGNORE_INDEX).all() for ids, _ in first_masks):
        stored = sorted({int(stored) for ids, _ in first_masks for stored in ids})[:10]
        if label_table is None:
            raise ValueError(
                f"`masks` must have labelled pixels, got only {stored} in the first ones, all of which mean "
                "unlabelled; check the mask column."
            )
        raise ValueError(
            f"`label_table` must give classes to the ids of the masks, got {stored} in the first ones, all of "
            "which it leaves unlabelled; correct it, or check the mask column."
        )
    return table


def find_label_table(
    masks: Iterable[tuple[np.ndarray, str]],
    num_labels: int,
    *,
    preset: DatasetPreset | None = None,
    do_reduce_labels: bool = False,
    label_table: dict[int, int] | None = None,
) -> LabelTable:
    """What makes class ids of stored ones: the table given, else a preset's, else that of reduced or of class ids.

    Args:
        masks (iterable of `tuple[np.ndarray, str]`): the ids that occur in a mask as stored, and the path of its
            file, empty where there is none; no more are read than are needed.
        num_labels (`int`): number of classes.
        preset ([`~offseg_hf.data.presets.DatasetPreset`], *optional*): the data set, if it is a known one.
        do_reduce_labels (`bool`, *optional*, defaults to `False`): whether 0 means unlabelled and the classes count
            from 1.
        label_table (`dict[int, int]`, *optional*): stored id → class id, or 255 for what is not labelled; wins over
            what the preset says.

    Returns:
        [`LabelTable`]: which refuses the ids that mean nothing, in whichever mask they occur.

    Raises:
        ValueError: the arguments contradict each other, or the masks hold other ids.
    """
    if label_table is not None:
        if do_reduce_labels:
            raise ValueError(
                "`do_reduce_labels` must be False with a `label_table`, whose classes count from 0, got True; leave "
                "it out, and map to null what is not labelled."
            )
        classes = set(label_table.values()) - {IGNORE_INDEX}
        if not classes or max(classes) >= max(num_labels, 2):
            raise ValueError(
                f"`label_table` must map to the ids of {num_labels} classes, or to {IGNORE_INDEX}, got "
                f"{sorted(classes)[-5:]}; correct it, or `num_labels`."
            )
        table = LabelTable(label_table)
    elif preset is not None:
        _check_fits_preset(preset, num_labels, do_reduce_labels)
        encoding = find_label_encoding(masks, preset)
        return LabelTable(encoding.class_ids | encoding.tolerated, encoding.name)
    else:
        masks = list(islice(masks, NUM_FIRST_MASKS))
        audit_labels([ids for ids, _ in masks], num_labels, reduce_labels=do_reduce_labels)
        table = LabelTable.reduced(num_labels) if do_reduce_labels else LabelTable.identity(num_labels)
    for ids, _ in islice(masks, NUM_FIRST_MASKS):
        table(ids, "masks")
    return table


def _stored_ids(mask):
    """The ids that occur in a mask which can be one."""
    refuse_mask(mask)
    return np.unique(read_mask(mask, name="mask"))


def _path(source):
    """The path of a file that may come with its content."""
    return source.get("path") or "" if isinstance(source, dict) else ""


def _check_fits_preset(preset, num_labels, do_reduce_labels):
    if num_labels != len(preset.class_names):
        raise ValueError(
            f"`num_labels` must be {len(preset.class_names)} for {preset.title}, got {num_labels}; take a model of as "
            "many classes, or say which classes stored ids mean with `--label_table FILE`."
        )
    if do_reduce_labels != preset.reduce_labels:
        raise ValueError(
            f"`do_reduce_labels` must be {preset.reduce_labels} for {preset.title}, got {do_reduce_labels}; leave "
            "--do_reduce_labels out, or say what stored ids mean with `--label_table FILE`."
        )


# Checks


def audit_labels(
    masks: "Iterable[np.ndarray | torch.Tensor]",
    num_labels: int,
    ignore_index: int = IGNORE_INDEX,
    reduce_labels: bool = False,
) -> None:
    """Checks that the ids of some masks are class ids, and says what to do if they are not.

    Only what cannot be right is an error: whether an id stands for the class one thinks of cannot be known here.

    Args:
        masks (iterable of `np.ndarray` or `torch.Tensor`): integer label maps of any shape, as stored, that is before
            labels are reduced; a few dozen tell most.
        num_labels (`int`): number of classes K; ids must be 0 … K−1, or 0 and 1 for the binary K = 1.
        ignore_index (`int`): id of unlabelled pixels.
        reduce_labels (`bool`): whether label 0 means unlabelled and the classes start at 1.

    Raises:
        ValueError: an id is negative or too large, masks are black and white (0 and 255), they count objects, or
            every pixel is ignored.
    """
    masks = [np.unique(np.asarray(mask)) for mask in masks]
    if wrong := {str(each.dtype) for each in masks if each.dtype.kind not in "iub"}:
        raise ValueError(f"`masks` must hold integer ids, got {wrong.pop()}; convert them to uint8.")
    ids = {int(value) for mask in masks for value in mask}
    if not ids:
        raise ValueError("`masks` must hold at least one mask, got none.")
    shown = ", ".join(map(str, sorted(ids)[:10])) + (", …" if len(ids) > 10 else "")
    classes = ids - {ignore_index} - ({0} if reduce_labels else set())
    largest = max(num_labels, 2) - 1 + reduce_labels  # as stored

    if min(ids - {ignore_index}, default=0) < 0:
        raise ValueError(
            f"`masks` must not hold negative ids, got {shown}; write {ignore_index} where a pixel is unlabelled."
        )
    if ids == {0, 255} or (num_labels <= 2 and max(ids) == 255 and not classes - {0, 255}):
        raise ValueError(
            f"`masks` must hold class ids up to {max(num_labels, 2) - 1}, got only {shown}, and {ignore_index} means "
            'unlabelled here; say what black and white are with `--label_table FILE`, as in {"0": "background", '
            '"255": "object"} or {"0": "sky", "1": "road", "255": null}, without --do_reduce_labels.'
        )
    if not classes:
        remedy = "pass no --do_reduce_labels if 0 is a class" if 0 in ids else "check the mask column"
        raise ValueError(f"`masks` must have labelled pixels, got only {shown}, all of them ignored; {remedy}.")
    if max(classes) > largest:
        refuse_instances(masks)
        reduced = ", before label 0 is dropped," if reduce_labels else ""
        is_shifted = max(classes) == largest + 1 and not reduce_labels
        seem = "0 never occurs, so the classes seem to start at 1: " if is_shifted and 0 not in ids else ""
        raise ValueError(
            f"`masks` must hold ids up to {largest}{reduced} for {num_labels} classes, got {shown}; {seem}see in the "
            "masks which class each id is (`offseg prepare --only_preview` draws them), give all of them names "
            '(`num_labels`), and say which is which with `--label_table FILE`, as in {"0": null, "1": "sky"}, since '
            "tools number classes in orders of their own."
        )


def find_label_encoding(
    examples: Iterable[tuple[np.ndarray, str]], preset: DatasetPreset, num_examples: int = NUM_FIRST_MASKS
) -> LabelEncoding:
    """Finds which of the encodings that a known data set's files may have some masks are in.

    Args:
        examples (iterable of `tuple[np.ndarray, str]`): the ids that occur in a mask as stored, and the path of
            its file, empty where there is none.
        preset ([`~offseg_hf.data.presets.DatasetPreset`]): the data set.
        num_examples (`int`, *optional*, defaults to 16): how many to look at, more where these do not tell.

    Returns:
        [`~offseg_hf.data.presets.LabelEncoding`]

    Raises:
        ValueError: the ids fit none of the encodings, or several.
    """
    seen: set[int] = set()
    paths: list[str] = []
    for ids, path in examples:
        seen |= set(ids.tolist())
        paths.append(path)
        fitting = _fitting_encodings(seen, preset.encodings)
        if (len(paths) >= num_examples and len(fitting) < 2) or len(paths) == MAX_FIRST_MASKS:
            break
    if not paths:
        raise ValueError("`masks` must hold at least one mask, got none.")
    shown = ", ".join(map(str, sorted(seen)[:20])) + (", …" if len(seen) > 20 else "")
    if not fitting:
        reduced = preset.reduce_labels and IGNORE_INDEX in seen
        hint = f"{IGNORE_INDEX} is not among them, so labels seem to be reduced already: " if reduced else ""
        raise ValueError(
            f"`masks` must hold the ids of {preset.title}, {' or '.join(map(str, preset.encodings))}, got {shown}; "
            f"{hint}take the original files, or say what stored ids mean with `--label_table FILE`."
        )
    if len(fitting) > 1:
        fitting = [
            encoding
            for encoding in fitting
            if encoding.file_ending and all(path.endswith(encoding.file_ending) for path in paths)
        ]
    if len(fitting) != 1:
        raise ValueError(
            f"`masks` must show which ids of {preset.title} they hold, {' or '.join(map(str, preset.encodings))}, but "
            f"{shown}, all in the first {len(paths)}, fit both; say what stored ids mean with `--label_table FILE`."
        )
    return fitting[0]


def _fitting_encodings(ids, encodings):
    """The encodings that have all these ids; where none has, those that tolerate the others."""
    return [encoding for encoding in encodings if ids <= encoding.class_ids.keys()] or [
        encoding for encoding in encodings if ids <= encoding.class_ids.keys() | encoding.tolerated.keys()
    ]
