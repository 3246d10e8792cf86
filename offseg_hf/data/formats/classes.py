"""The tool's class names → the model's class ids: by name, never by number."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from offseg_hf.data.formats.records import Labels
from offseg_hf.files import read_json
from offseg_hf.models.image_processing_offseg import IGNORE_INDEX

# What tools call that which is not labelled, compared without case and without what is no letter.
BACKGROUND = {"background", "bg", "unlabeled", "unlabelled", "nolabel"}
IGNORED = {"void", "ignore", "unknownarea"}  # these stay ignored where the background is a class
UNLABELLED = BACKGROUND | IGNORED


@dataclass(frozen=True)
class Classes:
    """What a model learns, and how the tool's names map to it.

    Args:
        id2label (`dict[int, str]`): names by class id.
        class_ids (`dict[str, int]`): each of the tool's names → class id, or 255 for what is not labelled.
        unlabelled_id (`int`): what pixels without any label get: 255, or the class id of the background.
    """

    id2label: dict[int, str]
    class_ids: dict[str, int]
    unlabelled_id: int = IGNORE_INDEX


def match_classes(
    labels: Labels,
    names: Sequence[str] | None = None,
    background: str | None = None,
    label_table: Mapping[str, str | None] | None = None,
) -> Classes:
    """Matches the names in a tool's files to the classes of a model.

    Args:
        labels ([`~offseg_hf.data.formats.records.Labels`]): what the files say.
        names (sequence of `str`, *optional*): names of the classes in the order of their ids, 0, 1, …; by default the
            tool's, without what means "not labelled".
        background (`str`, *optional*): name of the class that pixels without a label get; by default they are ignored.
        label_table (`dict`, *optional*): a name in the files → the class that it means, or `None` for "not labelled";
            names that it leaves out mean themselves.

    Returns:
        [`Classes`]

    Raises:
        ValueError: the names do not agree, or two of them differ only in how they are written.
    """
    if not all(isinstance(name, str) and name.strip() for name in labels.names):
        raise ValueError(
            f"`labels` must be names, but one in the files has no letter ({_shown(map(repr, labels.names))}); name "
            "the class in the tool, and export again."
        )
    label_table = dict(label_table or {})
    if extra := sorted(label_table.keys() - set(labels.names)):
        raise ValueError(
            f"`label_table` must have names of the labels ({_shown(labels.names)}), got {_shown(extra)}; correct it."
        )
    meaning = {name: label_table.get(name, name) for name in labels.names}
    wanted = {*(names or ()), background}
    for name in labels.names:
        if name not in label_table and name not in wanted and is_unlabelled(labels, name):
            meaning[name] = None
    classes = list(names) if names else list(dict.fromkeys(name for name in meaning.values() if name is not None))
    if background is not None and background not in classes:
        if names:
            raise ValueError(
                f"`background` must be one of `labels`, {_shown(names)}, got {background}; correct either."
            )
        classes.append(background)
    _check_agreement(labels, classes, meaning, background, names is not None)
    if not classes:
        raise ValueError(
            "`labels` must have two classes to tell apart, and the files name none; label objects in the tool, and "
            "export again."
        )
    if len(classes) == 1:
        raise ValueError(
            f"`labels` must have two classes to tell apart, got {classes[0]} alone, and what is not labelled is "
            "ignored; if it is the background, pass `--background background`."
        )
    ids = {name: class_id for class_id, name in enumerate(classes)}
    class_ids = {name: IGNORE_INDEX if mean is None else ids[mean] for name, mean in meaning.items()}
    unlabelled_id = IGNORE_INDEX if background is None else ids[background]
    for name in labels.names:  # the tool's own background is the one that was named, whatever it is called
        is_background = name == labels.unlabelled or _letters(name) in BACKGROUND
        if background is not None and name not in label_table and name not in ids and is_background:
            class_ids[name] = unlabelled_id
    return Classes(dict(enumerate(classes)), class_ids, unlabelled_id)


def read_name_table(path: str | Path) -> dict[str, str | None]:
    """What names in a tool's files mean, from a JSON file.

    Args:
        path (`str` or `Path`): a file of name → class, or `null` for what shall be ignored.

    Returns:
        `dict[str, str | None]`

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds something else.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"`label_table` must be a JSON file of name → class, and {path} is not there.")
    try:
        table = read_json(path)
    except ValueError as error:
        raise ValueError(f"`label_table` must be a JSON file, and {path} is none ({error}); correct it.") from error
    if not isinstance(table, dict) or not all(isinstance(name, str | None) for name in table.values()):
        raise ValueError(
            "`label_table` must map the names in the files to classes or null, as in "
            f'{{"Car": "car", "other": null}}, got {str(table)[:80]}; correct {path}.'
        )
    return table


def is_unlabelled(labels: Labels, name: str) -> bool:
    """Whether a name of the tool means "not labelled"."""
    return name == labels.unlabelled or _letters(name) in UNLABELLED


def _letters(name):
    return "".join(letter for letter in name.lower() if letter.isalpha())


def _check_agreement(labels, classes, meaning, background, is_given):
    """Raises where names of the files and classes do not fit each other."""
    spellings = {}
    for name in dict.fromkeys(mean for mean in meaning.values() if mean is not None):
        same = spellings.setdefault(_spelling(name), name)
        if same != name:
            raise ValueError(
                f"`labels` must not differ only in case or blanks, but the files have both {same!r} and {name!r} (of "
                f"{_shown(labels.names)}); rename one, or say which class it is by `--label_table FILE` with "
                f'{{"{name}": "{same}"}}.'
            )
    if not is_given:
        return
    unknown = [name for name, mean in meaning.items() if mean is not None and mean not in classes]
    missing = [name for name in classes if name not in meaning.values() and name != background]
    if not labels.is_complete and not unknown:
        missing = []  # another part of the work may have them
    if unknown or missing:
        rest = [name for name in missing if is_unlabelled(labels, name)]
        remedy = f"pass `--background {rest[0]}` if that is what is not labelled, " if rest else ""
        only = [f"only in the files: {_shown(unknown)}"] * bool(unknown)
        only += [f"only in `labels`: {_shown(missing)}"] * bool(missing)
        raise ValueError(
            f"`labels` must have the names that the files have, but {'; '.join(only)} (`labels`: {_shown(classes)}; "
            f"files: {_shown(labels.names)}); {remedy}correct `--labels`, or say what a name of the files means with "
            "`--label_table FILE`, null for what shall be ignored."
        )


def _spelling(name):
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def _shown(names):
    names = [str(name) for name in names]
    return ", ".join(names[:30]) + (", …" if len(names) > 30 else "")
