"""Image files → Parquet shards: shuffled once, every photo and mask verified, resumable, described by a card."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets.utils.py_utils import convert_file_size_to_int

from offseg_hf.data.formats.drawing import DrawnMask
from offseg_hf.data.formats.reading import LabelledDataset
from offseg_hf.data.formats.table import FORMATS
from offseg_hf.data.labels import find_label_table
from offseg_hf.data.layouts import find_pairs
from offseg_hf.data.preparation.card import dataset_card
from offseg_hf.data.preparation.inspection import PREVIEW, Inspection, Pairs
from offseg_hf.data.preparation.shards import plan_shards, read_footer, shard_name, write_shards
from offseg_hf.data.presets import PRESETS, find_preset
from offseg_hf.files import UNFINISHED, write_json, write_text
from offseg_hf.models.image_processing_offseg import IGNORE_INDEX, read_mask

RECORD, CLASS_NAMES, CARD = "preparation.json", "id2label.json", "README.md"
SHARD_NAME = r"\w+-\d{5}-of-\d{5}\.parquet"
NUM_SHOWN = 5  # of the broken examples
LICENSE_LINKS = {
    "ade20k": "https://groups.csail.mit.edu/vision/datasets/ADE20K/terms/",
    "cityscapes": "https://www.cityscapes-dataset.com/license/",
    "coco_stuff": "https://github.com/nightrome/cocostuff",
    "pascal_context": "https://cs.stanford.edu/~roozbeh/pascal-context/",
}


def prepare_dataset(
    dataset: str | Path | LabelledDataset,
    output: str | Path,
    splits: Sequence[str] | None = None,
    *,
    data_dir: str | Path | None = None,
    id2label: dict[int, str] | None = None,
    reduce_labels: bool = False,
    label_table: dict[int, int] | None = None,
    name: str | None = None,
    license: str | None = None,
    repo_id: str | None = None,
    image_column: str | None = None,
    mask_column: str | None = None,
    validation_fraction: float | None = None,
    group_by: str | None = None,
    preview: bool = True,
    only_preview: bool = False,
    seed: int = 0,
    max_shard_size: int | str = "100MB",
    max_row_group_size: int | str = "16MB",
    num_proc: int = 1,
    skip_broken: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Writes photos and masks as Parquet shards, `train-00000-of-00004.parquet` and so on.

    Each row holds `image` and `mask`, the files as they are, bit for bit, and the `id`, the photo's name. Masks of a
    labelling tool's files are drawn, with the class ids of `id2label.json` and 255 for unlabelled. Examples are
    shuffled once, so that a stream which reads shard after shard is well mixed. Every photo and mask is decoded once,
    their sizes are compared and the labels counted. The shards are the same for the same files, sizes and seed,
    whatever the number of processes; one that is there already, after an interruption, is not written again. When all
    are there, `preparation.json`, which tells what they hold, `id2label.json`, the names of the classes if these are
    known, and `README.md`, the card, are written in this order: where the card is, the folder is complete. Before all
    of it all examples are looked at, and `preview.jpg` is drawn.
    [`prepared_files`] lists what was written.

    Args:
        dataset (`str`, `Path` or [`~offseg_hf.data.formats.reading.LabelledDataset`]): a folder of image files; or
            with `data_dir` the name of a data set that is known, see [`~offseg_hf.data.load_segmentation_dataset`], as
            `image_column` and `mask_column`; or what a labelling tool wrote, from
            [`~offseg_hf.data.open_labelled_dataset`].
        output (`str` or `Path`): a folder that is new, empty, or holds what an interrupted preparation left.
        splits (sequence of `str`, *optional*): names of the splits; by default training and validation, or all of a
            labelling tool's.
        data_dir (`str` or `Path`, *optional*): the folder of a known data set's official download.
        id2label (`dict[int, str]`, *optional*): names of the classes, for other data sets; where the classes are
            known, all ids of the masks are checked.
        reduce_labels (`bool`): whether id 0 of the masks means unlabelled and the classes start at 1; a known data
            set's own answer is taken.
        label_table (`dict[int, int]`, *optional*): stored id → class id, or 255 for what is not labelled, where they
            differ.
        name (`str`, *optional*): what the card calls the data set, by default the folder's name.
        license (`str`, *optional*): licence of the data as the Hub spells it, such as `"cc-by-4.0"`.
        repo_id (`str`, *optional*): id on the Hub under which the data set shall be published.
        validation_fraction (`float`, *optional*): share of the photos, between 0 and 1, that is set aside for
            validation where there is no such split, see [`~offseg_hf.data.preparation.held_out.hold_out`].
        group_by (`str`, *optional*): regular expression: photos whose names agree in what it finds stay in one split.
        preview (`bool`): whether to write `preview.jpg`; classes without names go by their ids.
        only_preview (`bool`): whether to write nothing else.
        seed (`int`): not negative; seed of the order, and of what is set aside and shown.
        max_shard_size (`int` or `str`): largest sum of the files in a shard, in bytes or such as `"500MB"`.
        max_row_group_size (`int` or `str`): largest sum of the files in a row group, that is of what must be read to
            get at one example; a larger example is a group of its own, and no group has more than 100.
        num_proc (`int`): number of processes that read and write, each of them one row group at a time.
        skip_broken (`bool`): whether to leave out examples that cannot be read or do not fit, and to record which.
        overwrite (`bool`): whether to remove the shards, the record and the card of another preparation first.

    Returns:
        `dict`: the content of `preparation.json`; with `only_preview` the statistics alone.

    Raises:
        FileNotFoundError, ValueError: the folder, a split, an argument or an example is not right.
        FileExistsError: `output` holds anything else.
        PermissionError: `repo_id` is given for Cityscapes, which must not be published.
        RuntimeError: a process was killed.
    """
    output = Path(output)
    labelled = dataset if isinstance(dataset, LabelledDataset) else None
    preset = None if labelled else find_preset(str(dataset))
    if labelled is not None:
        id2label = labelled.id2label
    settings = {
        "seed": seed,
        "max_shard_size": _num_bytes("max_shard_size", max_shard_size),
        "max_row_group_size": _num_bytes("max_row_group_size", max_row_group_size),
    }
    if preset is None and id2label is None and (reduce_labels or label_table):
        raise ValueError(
            "`id2label` must be given with `reduce_labels` or `label_table`, which say what stored ids mean, got "
            "None; give the names of the classes."
        )
    if num_proc < 1:
        raise ValueError(f"`num_proc` must be at least 1, got {num_proc}.")
    if labelled is None:
        folder = _source_folder(dataset, data_dir, preset)
    else:
        folder = labelled.place.resolve()
        folder = folder if folder.is_dir() else folder.parent
    if output.resolve().is_relative_to(folder):
        raise ValueError(f"`output` must lie outside of the source {folder}, got {output}; name another folder.")

    def pairs_of(split):
        if not re.fullmatch(r"\w+", split):
            raise ValueError(f"`splits` must be names of letters, digits and '_', got {split!r}.")
        if labelled is not None:
            return [(mask.labelled.photo, mask) for mask in labelled.masks(split)]
        return find_pairs(folder, split, preset, image_column, mask_column)

    if validation_fraction is not None:
        _check_one_split(splits, pairs_of)
        splits = ["train"]
    pairs: Pairs = {
        split: pairs_of(split) for split in splits or (labelled.splits if labelled else ("train", "validation"))
    }
    if repo_id is not None:
        check_redistribution(str(dataset), [photo for split in pairs for photo, _ in pairs[split]])
    name = name or (preset.title if preset else folder.name)
    inspection, names = None, preset.id2label if preset and id2label is None else id2label
    if preview or only_preview or validation_fraction is not None:
        _refuse_foreign_files(output)
        table = None if names is None else _table(pairs, preset, names, reduce_labels, label_table)
        inspection = Inspection(pairs, names, table, num_proc)
        if validation_fraction is not None:
            pairs = inspection.hold_out(validation_fraction, group_by, seed)
        notes = labelled.labels.notes if labelled else ()
        if only_preview:
            inspection.write_preview(output / PREVIEW, name, seed, notes)
            return inspection.record()
    shards = [shard for split in pairs for shard in plan_shards(output, split, pairs[split], folder, settings)]

    _claim_folder(output, shards, overwrite)
    is_drawn = (output / RECORD).exists() and (output / PREVIEW).exists()
    if inspection is not None and inspection.examples and preview and not is_drawn:
        inspection.write_preview(output / PREVIEW, name, seed, notes)
    footers = {shard.path: read_footer(shard.path) for shard in shards}
    missing = [shard for shard in shards if _is_missing(footers[shard.path], skip_broken)]
    footers |= write_shards(missing, sum(len(shard.examples) for shard in shards), num_proc)
    if not skip_broken:
        _refuse_broken(shards, footers)

    summaries = {
        split: _summary([shard for shard in shards if shard.plan["split"] == split], footers) for split in pairs
    }
    first_mask = next(iter(pairs.values()))[0][1]
    classes = _classes(preset, id2label, reduce_labels, label_table, summaries, first_mask.name)
    record = {
        "name": name,
        "license": license or ("other" if preset else "unknown"),
        "license_link": LICENSE_LINKS[str(dataset)] if preset and license is None else None,
        "format": FORMATS[labelled.format].title if labelled else None,
        **settings,
        **classes,
        "splits": summaries,
        "validation_fraction": validation_fraction,
        "group_by": group_by,
        "notes": inspection.notes if inspection else [],
        "statistics": inspection.record() if inspection and inspection.examples else None,
        "preview": preview and (output / PREVIEW).exists(),
    }
    _describe(output, record, repo_id)
    return record


def prepared_files(output: str | Path) -> list[Path]:
    """The files that a preparation wrote, and no others that lie beside them: what to publish.

    Args:
        output (`str` or `Path`): folder of a complete preparation.

    Returns:
        `list[Path]`: the preview if there is one, the shards, the record, the class names if there are any, and the
        card.

    Raises:
        FileNotFoundError: one of them is not there.
    """
    output = Path(output)
    if not (output / RECORD).is_file():
        raise FileNotFoundError(
            f"`output` must be the folder of a complete preparation, and there is no {output / RECORD}; prepare the "
            "data set first."
        )
    record = json.loads((output / RECORD).read_text(encoding="utf-8"))
    names = [PREVIEW] if record["preview"] else []
    names += [
        shard_name(split, number, found["num_shards"])
        for split, found in record["splits"].items()
        for number in range(found["num_shards"])
    ]
    files = [output / name for name in (*names, RECORD, *([CLASS_NAMES] if record["id2label"] else []), CARD)]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise FileNotFoundError(
            f"`output` must be the folder of a complete preparation, and {output} lacks {missing[0]}; run the same "
            "preparation again, which goes on from here."
        )
    return files


def check_redistribution(dataset: str | Path, photos: Iterable[Path] = ()) -> None:
    """Checks that the licence of a data set allows to publish it.

    Args:
        dataset (`str` or `Path`): see [`prepare_dataset`].
        photos (iterable of `Path`, *optional*): the photos, whose names may tell what an unnamed data set is.

    Raises:
        PermissionError: for Cityscapes.
    """
    if str(dataset) == "cityscapes" or any(photo.stem.endswith("_leftImg8bit") for photo in photos):
        raise PermissionError(
            "`repo_id` must be left out for Cityscapes, whose licence forbids to distribute its pictures and labels "
            f"({LICENSE_LINKS['cityscapes']}); prepare it without publishing, and let others prepare their own "
            "download."
        )


# The source


def _source_folder(dataset, data_dir, preset):
    """The folder of image files that is meant."""
    if (preset is None) != (data_dir is None):
        raise ValueError(
            f"`data_dir` must be given for {', '.join(PRESETS)}, and only for these, got {data_dir!r} for {dataset}; "
            "pass the folder of the official download for these, and any other folder as `dataset` itself."
        )
    argument, folder = ("data_dir", data_dir) if preset else ("dataset", dataset)
    folder = Path(folder).expanduser().resolve()
    if not folder.is_dir():
        raise FileNotFoundError(f"`{argument}` must be a folder of photos and masks, and there is no folder {folder}.")
    if any(folder.rglob("*.parquet")):
        raise ValueError(
            f"`{argument}` must be a folder of photos and masks, but {folder} has Parquet files; read "
            "these as they are."
        )
    return folder


# The plan


def _num_bytes(argument, size):
    """A size such as `"500MB"` as a number of bytes."""
    try:
        num_bytes = convert_file_size_to_int(int(size) if str(size).isdigit() else size)
    except ValueError:
        num_bytes = 0
    if num_bytes < 1:
        raise ValueError(
            f"`{argument}` must be a positive size such as 500MB, 16MiB or a number of bytes, got {size!r}."
        )
    return num_bytes


def _check_one_split(splits, pairs_of):
    """Raises where photos are to be set aside for validation, and there are such already."""
    if splits not in (None, ["train"]):
        raise ValueError(
            f"`splits` must be left out with `validation_fraction`, which divides train, got {' '.join(splits)}."
        )
    try:
        validation = pairs_of("validation")
    except (FileNotFoundError, ValueError):
        return
    raise ValueError(
        f"`validation_fraction` must be left out where there are photos for validation already, and {len(validation)} "
        "such were found, as with other splits of a tool; leave it out to keep them."
    )


def _table(pairs, preset, id2label, reduce_labels, label_table):
    """What makes class ids of the stored ones, by the first masks; `None` where these are class ids."""
    masks = [mask for split in pairs.values() for _, mask in split]
    if isinstance(masks[0], DrawnMask):
        return None
    first = ((np.unique(read_mask(mask)), str(mask)) for mask in masks)
    reduce_labels = reduce_labels if label_table or preset is None else preset.reduce_labels
    return find_label_table(
        first, len(id2label), preset=preset, do_reduce_labels=reduce_labels, label_table=label_table
    )


def _refuse_foreign_files(output):
    """Raises where a folder holds what no preparation writes, before any work."""
    for file in sorted(output.iterdir()) if output.is_dir() else ():
        described = (RECORD, CLASS_NAMES, CARD) if (output / RECORD).exists() else ()
        is_ours = file.name in (*described, PREVIEW) or re.fullmatch(SHARD_NAME, file.name)
        if not is_ours and not file.name.startswith("."):
            raise FileExistsError(
                f"`output` must be new, empty, or hold a part of the same preparation, but {file} is none; name "
                "another folder, or move the file."
            )


def _claim_folder(output, shards, overwrite):
    """Makes the folder, or sees that it holds nothing but a part of the same preparation."""
    output.mkdir(parents=True, exist_ok=True)
    for file in output.glob(f"{UNFINISHED}*"):
        if file.is_file():
            file.unlink()
    if overwrite:
        for file in output.iterdir():
            if file.name in (RECORD, CLASS_NAMES, CARD) or re.fullmatch(SHARD_NAME, file.name):
                file.unlink()  # the preview is drawn already
    plans = {shard.plan["split"]: shard.plan for shard in shards}
    described = (RECORD, CLASS_NAMES, CARD) if (output / RECORD).exists() else ()
    for file in sorted(output.iterdir()):
        if file.name.startswith(".") or file.name in (*described, PREVIEW):
            continue
        footer = read_footer(file) if re.fullmatch(SHARD_NAME, file.name) else None
        if footer is None:
            raise FileExistsError(
                f"`output` must be new, empty, or hold a part of the same preparation, but {file} is none; name "
                "another folder, or move the file."
            )
        plan, found = plans.get(footer["plan"]["split"], {}), footer["plan"]
        if found != plan:
            differing = next(key for key in found if found[key] != plan.get(key))
            raise FileExistsError(
                f"`output` must be new, empty, or hold a part of the same preparation, but {file} is of another one "
                f"({_difference(differing, found, plan)}); name another folder, or pass --overwrite to begin anew."
            )


def _difference(key, found, plan):
    """How two plans differ, in words."""
    if key == "files":
        return "the names or sizes of the source's files have changed"
    return f"its {key} is {found[key]!r}" + (f", not {plan[key]!r}" if plan else "")


# The result


def _is_missing(footer, skip_broken):
    """Whether a shard with this footer must be written: it is not there, or lacks broken examples."""
    return footer is None or (footer["skipped"] and not skip_broken)


def _refuse_broken(shards, footers):
    """Removes the shards from which examples are missing, and says which."""
    messages = []
    for shard in shards:
        if footers[shard.path]["skipped"]:
            messages += footers[shard.path]["skipped"].values()
            shard.path.unlink()
    if messages:
        num_examples = sum(len(shard.examples) for shard in shards)
        shown = sorted(messages)[:NUM_SHOWN] + (["…"] if len(messages) > NUM_SHOWN else [])
        raise ValueError(
            f"`dataset` must hold whole photos, each with a mask of its size, but {len(messages):,} of "
            f"{num_examples:,} examples are broken; repair them, or pass --skip_broken to leave them out:\n  "
            + "\n  ".join(shown)
        )


def _summary(shards, footers):
    """What the shards of a split hold together."""
    plan, footers = shards[0].plan, [footers[shard.path] for shard in shards]
    skipped = {example_id: message for footer in footers for example_id, message in footer["skipped"].items()}
    num_examples = sum(footer["num_rows"] for footer in footers)
    if num_examples == 0:
        raise ValueError(f"`dataset` must hold at least one whole example of {plan['split']}; all of them are broken.")
    summary = {
        "num_examples": num_examples,
        "num_shards": len(shards),
        "num_bytes": sum(footer["num_bytes"] for footer in footers),
        "files": plan["files"],
        "skipped": dict(sorted(skipped.items())),
    }
    for key in ("pixels", "pictures"):
        counts = sum((Counter(footer[key]) for footer in footers), Counter())
        summary[key] = {label_id: counts[label_id] for label_id in sorted(counts, key=int)}
    return summary


def _classes(preset, id2label, reduce_labels, label_table, summaries, mask_name):
    """What the ids in the masks mean, as far as it is known, after a check of all of them."""
    if preset is not None:
        id2label = id2label or preset.id2label
        reduce_labels = reduce_labels if label_table else preset.reduce_labels
    if id2label is None:
        return {"reduce_labels": False, "encoding": None, "id2label": None, "class_ids": None}
    ids = np.array(sorted({int(label_id) for summary in summaries.values() for label_id in summary["pixels"]}))
    table = find_label_table(
        [(ids, mask_name)], len(id2label), preset=preset, do_reduce_labels=reduce_labels, label_table=label_table
    )
    first = int(len(id2label) == 1)  # a single class is 1, and 0 is the background
    return {
        "reduce_labels": reduce_labels,
        "encoding": table.name,
        "id2label": {str(label_id): label for label_id, label in sorted(id2label.items())},
        "class_ids": {
            str(stored): class_id - first
            for stored, class_id in sorted(table.class_ids.items())
            if first <= class_id != IGNORE_INDEX
        },
    }


def _describe(output, record, repo_id):
    """Writes record, class names and card; the same ones are left, others are not overwritten."""
    if (output / RECORD).exists() and json.loads((output / RECORD).read_text(encoding="utf-8")) != record:
        raise FileExistsError(
            f"`output` must not hold another record, and {output / RECORD} differs in what it says of these shards; "
            f"remove it and {CARD} to have them written anew."
        )
    if not (output / RECORD).exists():  # the record first: what else lies here without one is not ours
        write_json(output / RECORD, record)
    if record["id2label"] and not (output / CLASS_NAMES).exists():
        write_json(output / CLASS_NAMES, record["id2label"])
    if not (output / CARD).exists():  # the card last: where it is, nothing is missing
        write_text(output / CARD, dataset_card(record, repo_id))
