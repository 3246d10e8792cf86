"""The card of a prepared data set: what was found in its files, and nothing else."""

from typing import Any

from huggingface_hub import DatasetCardData

from offseg_hf.markdown import markdown_table

MAX_CLASS_ROWS = 300  # of instance ids there may be thousands

CARD = """\
---
{metadata}
---

# {name}

Photos, and masks with a class id for every pixel, as Parquet shards: {origin}, in one
random order (seed {seed}). Each was decoded once, and each mask has the size of its photo.

{preview}{splits}

## Load

```python
from datasets import load_dataset

data = load_dataset("{source}", split="{first_split}", streaming=True)
example = next(iter(data))  # example["image"] and example["mask"] are PIL images
```

`id` is the photo's name. Photos that carry an EXIF orientation are stored as they are, and so are their masks.

## Classes

{meaning} Shares are of all pixels, and pictures are those in which the id occurs.

{classes}

## Licence

{licence} Shards change nothing in the rights to the pictures and the labels, which stay those of their source.
"""


def dataset_card(record: dict[str, Any], repo_id: str | None = None) -> str:
    """Writes the card of a prepared data set.

    Args:
        record (`dict`): content of `preparation.json`, see [`~offseg_hf.data.preparation.prepare.prepare_dataset`].
        repo_id (`str`, *optional*): the data set's id on the Hub.

    Returns:
        `str`: Markdown that begins with the metadata in YAML.
    """
    splits = record["splits"]
    data_files = [{"split": split, "path": f"{split}-*.parquet"} for split in splits]
    metadata = DatasetCardData(
        license=record["license"],
        license_name=record["name"].lower().replace(" ", "-") if record["license_link"] else None,
        license_link=record["license_link"],
        task_categories=["image-segmentation"],
        pretty_name=record["name"],
        configs=[{"config_name": "default", "data_files": data_files}],
    )
    rows = [
        (split, _count(found), f"{found['num_shards']:,}", f"{found['num_bytes']:,}")
        for split, found in splits.items()
    ]
    return CARD.format(
        metadata=metadata.to_yaml(),
        name=record["name"],
        seed=record["seed"],
        preview="![Photos with their classes, and how much there is of each](preview.jpg)\n\n"
        if record["preview"]
        else "",
        origin=f"the photos bit for bit, the masks drawn from {record['format']}"
        if record["format"]
        else "the files of the source bit for bit",
        splits=markdown_table(("split", "examples", "shards", "bytes"), rows, "lrrr"),
        source=repo_id or record["name"],
        first_split=next(iter(splits)),
        meaning=_meaning(record),
        classes=_classes(record),
        licence=_licence(record),
    )


def _licence(record):
    """Under which terms the data set is, as far as it is known."""
    if record["license_link"]:
        return f"The data set's own: {record['license_link']}."
    return "Not stated." if record["license"] == "unknown" else f"`{record['license']}`."


def _count(found):
    """The number of examples, and of those that were left out."""
    left_out = f" ({len(found['skipped']):,} broken ones left out)" if found["skipped"] else ""
    return f"{found['num_examples']:,}{left_out}"


def _meaning(record):
    """What the ids in the masks are."""
    if record["class_ids"] is None:
        return "Masks hold ids whose names are not known."
    if record["reduce_labels"]:
        return "Masks hold 0 where a pixel has no class, and the classes from 1."
    if all(int(stored) == class_id for stored, class_id in record["class_ids"].items()):
        return "Masks hold class ids."
    return f"Masks hold {record['encoding'] or 'ids'} that stand for classes."


def _classes(record):
    """A table of the ids: their class, their share of the pixels and the number of their pictures in each split."""
    splits, class_ids = record["splits"], record["class_ids"] or {}
    totals = {split: sum(found["pixels"].values()) for split, found in splits.items()}
    stored = sorted(class_ids.keys() | {label for found in splits.values() for label in found["pixels"]}, key=int)
    heading = ["id", "class"]
    for split in splits:
        heading += [f"{split}, % of pixels", f"{split}, pictures"]
    rows = []
    for label in stored[:MAX_CLASS_ROWS]:
        rows.append([label, record["id2label"][str(class_ids[label])] if label in class_ids else ""])
        for split, found in splits.items():
            share = found["pixels"].get(label, 0) / totals[split]
            rows[-1] += [f"{100 * share:.3f}", f"{found['pictures'].get(label, 0):,}"]
    table = markdown_table(heading, rows, "rl" + "rr" * len(splits))
    if len(stored) > MAX_CLASS_ROWS:
        table += f"\n\n{len(stored) - MAX_CLASS_ROWS:,} more ids are counted in `preparation.json`."
    return table
