"""Names of the classes."""

import json
from pathlib import Path


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
