"""Segmentation data sets from the Hub, Parquet shards, URLs or image files, streamed or not, not yet decoded."""

import glob
import io
import json
import re
from pathlib import Path

import datasets
import numpy as np
from datasets.data_files import resolve_pattern
from PIL import Image

from offseg_hf.data.formats.reading import LabelledDataset
from offseg_hf.data.layouts import find_pairs
from offseg_hf.data.naming import SPLIT_SPELLINGS, canonical_split, choose_columns, choose_split
from offseg_hf.data.presets import PRESETS, find_preset
from offseg_hf.hub import check_on_hub
from offseg_hf.models.image_processing_offseg import read_mask

ROWS_PER_READ = 100  # of a Parquet file; by default as many as in its first row group, which fails where that is empty
MAX_FILE_SHARDS = 64  # of a streamed folder of image files: enough to shuffle and to feed many workers


def load_segmentation_dataset(
    dataset: str | list[str] | LabelledDataset,
    split: str,
    *,
    streaming: bool = False,
    image_column: str | None = None,
    mask_column: str | None = None,
    data_dir: str | None = None,
) -> datasets.Dataset | datasets.IterableDataset:
    """A split of a segmentation data set as two columns of files, decoded by whoever reads them.

    Args:
        dataset (`str`, `list[str]` or [`~offseg_hf.data.formats.reading.LabelledDataset`]): where the data is, one of

            - a folder of Parquet shards (`train-*.parquet`, `validation-*.parquet`, or in a sub-folder per split);
            - a folder that `save_to_disk` of `datasets` wrote;
            - Parquet files, or patterns such as `data/train-*.parquet`, `http://host/path/{split}-*.parquet`;
            - a folder of image files: `images/<split>/…` and `masks/<split>/…`, or `<split>/images/…` and
              `<split>/masks/…` (also named `annotations` or `labels`), paired by name, or with a `metadata.jsonl` of
              `image_file_name` and `mask_file_name`;
            - the id of a data set on the Hub;
            - the name of a preset: `ade20k`, `cityscapes`, `coco_stuff` or `pascal_context`;
            - what [`~offseg_hf.data.open_labelled_dataset`] read of a labelling tool's files, whose masks have class
              ids.
        split (`str`): name of the split; `validation`, `valid` and `val` mean the same, `train` and `training` too.
            Files that carry no split in their name are the training split.
        streaming (`bool`): whether to read while iterating rather than to prepare everything in a cache first.
        image_column (`str`, *optional*): the photos' column, if its name or type does not tell.
        mask_column (`str`, *optional*): the masks' column, if its name or type does not tell.
        data_dir (`str`, *optional*): where a preset's data is: the folder of its official download, or any place that
            `dataset` can name otherwise; by default the preset's repository on the Hub.

    Returns:
        `datasets.Dataset` or, streamed, `datasets.IterableDataset` (a shard per Parquet file), with the columns
        `image` and `mask`, each `{"bytes": …, "path": …}`; masks that are stored as nested lists or arrays of ids
        become files, too.

    Raises:
        FileNotFoundError: the path does not exist, or photos and masks do not pair up.
        ValueError: the split, the columns or the folder's layout is not clear.
    """
    if isinstance(dataset, LabelledDataset):
        return dataset.load(split, streaming)
    preset, hub = find_preset(dataset), None
    if preset is not None:
        dataset, hub = _place_of_preset(preset, dataset, data_dir)
    elif data_dir is not None:
        raise ValueError(
            f"`data_dir` must be left out where `dataset` is none of {', '.join(PRESETS)}, got {data_dir} for "
            f"{dataset}; name the place as `dataset` itself."
        )
    sources = [str(source) for source in (dataset if isinstance(dataset, (list, tuple)) else [dataset])]
    folder = Path(sources[0]).expanduser() if len(sources) == 1 else None
    if folder and (saved := _saved_datasets(folder)):
        data = _load_saved(choose_split(saved, split, folder), streaming)
        return _as_image_and_mask(data, image_column, mask_column)
    if folder and folder.is_dir() and not _parquet_files_below(folder):
        pairs = find_pairs(folder, split, preset, image_column, mask_column)
        return _dataset_of_pairs(pairs, streaming)
    if len(sources) == 1 and is_hub_id(sources[0]):
        data = _load_from_hub(sources[0], split, streaming, hub.load_options if hub else {})
    else:
        files = _parquet_files(sources, split)
        data = datasets.load_dataset(
            "parquet", data_files={"train": files}, split="train", streaming=streaming, batch_size=ROWS_PER_READ
        )
    if hub is not None:
        image_column, mask_column = image_column or hub.image_column, mask_column or hub.mask_column
    return _as_image_and_mask(data, image_column, mask_column)


def _place_of_preset(preset, name, data_dir):
    """Where a preset's data is, and what is known of it if it is the preset's own repository on the Hub."""
    name = name if isinstance(name, str) else str(name[0])
    if data_dir is None:
        if Path(name).exists():
            raise ValueError(
                f"`dataset` must be unambiguous, but {name} is a preset and a path here too; pass ./{name} for the "
                f"path alone, or `--data_dir {name}` besides for the preset's data there."
            )
        if preset.hub is None:
            raise ValueError(
                f"`data_dir` must name the folder of {preset.title}, of which the Hub has no copy with these classes; "
                f"make it of the official files ({preset.layouts[0]}) and pass `--data_dir FOLDER`."
            )
        return preset.hub.repo_id, preset.hub
    data_dir = str(data_dir)
    is_elsewhere = is_hub_id(data_dir) or re.search(r"://|[*?{\[]", data_dir)
    if not is_elsewhere and not Path(data_dir).expanduser().exists():
        raise FileNotFoundError(
            f"`data_dir` must be the folder of {preset.title}, its Parquet files or a Hub id, but there is no "
            f"{data_dir}; leave it out to read from the Hub."
        )
    return data_dir, preset.hub if preset.hub and data_dir == preset.hub.repo_id else None


# Parquet


def _parquet_files_below(folder):
    """The Parquet files in a folder, hidden folders left out."""
    files = sorted(folder.rglob("*.parquet"))
    return [file for file in files if not any(part.startswith(".") for part in file.relative_to(folder).parts)]


def _parquet_files(sources, split):
    """The Parquet files of a split, of those that folders, files, patterns and URLs stand for."""
    named, unnamed, by_split = [], [], {}
    for source in sources:
        if "{split}" in source:
            named += _files_of_template(source, split)
            continue
        for file, parts in _files_of_source(source):
            name = _split_in_name(parts, split)
            if name:
                by_split.setdefault(name, []).append(file)
            else:
                unnamed.append(file)
    if named:
        return named
    if not by_split:
        by_split["train"] = unnamed
    return choose_split(by_split, split, ", ".join(sources))


def _files_of_template(template, split):
    """The files of a pattern with `{split}`, in the first spelling of the split that has any."""
    spellings = (split, *SPLIT_SPELLINGS.get(canonical_split(split), ()))
    for spelling in spellings:
        try:
            return [file for file, _ in _files_of_source(template.replace("{split}", spelling))]
        except FileNotFoundError as error:
            missing = error
    raise FileNotFoundError(
        f"`dataset` must name existing Parquet files, but {template} matches none with {{split}} as "
        f"{', '.join(dict.fromkeys(spellings))}."
    ) from missing


def _files_of_source(source):
    """(file, the parts of its path that may name its split) of each file that one source stands for."""
    if "://" in source:
        try:
            files = sorted(resolve_pattern(source, base_path=""))
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"`dataset` must name existing Parquet files, but nothing is found at {source} (a pattern needs a "
                "server that lists its folders)."
            ) from error
        return [(file, file.split("/")[-2:]) for file in files]
    path = Path(source).expanduser()
    if path.is_dir():
        return [(str(file), file.relative_to(path).parts) for file in _parquet_files_below(path)]
    files = [str(path)] if path.exists() else sorted(glob.glob(str(path), recursive=True))
    if not files:
        raise FileNotFoundError(f"`dataset` must exist, but there is no file or folder {source}.")
    for file in files:
        if not file.endswith(".parquet"):
            raise ValueError(f"`dataset` must name Parquet files or one folder, got the file {file}.")
    return [(file, Path(file).parts[-2:]) for file in files]


def _split_in_name(parts, split):
    """The split that a file's name, else the nearest of its folders, starts with or is; None if there is none."""
    *folders, file = parts
    stem = file.removesuffix(".parquet")
    if stem == split or stem.startswith(f"{split}-"):
        return split
    spellings = (spelling for same in SPLIT_SPELLINGS.values() for spelling in same)
    match = re.match(rf"({'|'.join(spellings)})(?![a-z])", stem.lower())
    if match:
        return canonical_split(match[1])
    for folder in reversed(folders):
        if folder == split or canonical_split(folder) in SPLIT_SPELLINGS:
            return canonical_split(folder)
    return None


# Folders of `save_to_disk`


def _saved_datasets(folder):
    """Split → folder, of each data set that `save_to_disk` wrote there: one, or one in each of its folders."""
    if not folder.is_dir():
        return {}
    saved = {}
    for part in (folder, *sorted(folder.iterdir())):
        state = part / "state.json"
        if state.is_file() and (part / "dataset_info.json").is_file():
            name = json.loads(state.read_text(encoding="utf-8")).get("_split") if part == folder else part.name
            saved[name or "train"] = part
    return saved


def _load_saved(folder, streaming):
    data = datasets.load_from_disk(str(folder)).with_format(None)
    return data.to_iterable_dataset(num_shards=min(len(data), MAX_FILE_SHARDS)) if streaming else data


# The Hub


def is_hub_id(source: str) -> bool:
    """Whether a source can only be meant as `name` or `owner/name` on the Hub."""
    path = Path(source).expanduser()
    if path.exists() or source.endswith(".parquet") or not re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", source):
        return False
    return "/" not in source or not path.parent.exists()


def _load_from_hub(dataset, split, streaming, load_options):
    if not Path(datasets.config.HF_DATASETS_CACHE, dataset.replace("/", "___")).exists():
        check_on_hub(dataset, "dataset", "dataset")
    try:
        names = datasets.get_dataset_split_names(dataset, **load_options)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"`dataset` must be an existing path or a data set on the Hub, but {dataset!r} is no path here and cannot "
            f"be opened on the Hub: {reason}"
        ) from error
    name = choose_split({name: name for name in names}, split, dataset)
    return datasets.load_dataset(dataset, split=name, streaming=streaming, **load_options)


# Image files


def _dataset_of_pairs(pairs, streaming):
    columns = {
        "image": [{"bytes": None, "path": str(photo)} for photo, _ in pairs],
        "mask": [{"bytes": None, "path": str(mask)} for _, mask in pairs],
    }
    features = datasets.Features(image=datasets.Image(decode=False), mask=datasets.Image(decode=False))
    data = datasets.Dataset.from_dict(columns, features=features)
    return data.to_iterable_dataset(num_shards=min(len(pairs), MAX_FILE_SHARDS)) if streaming else data


# Columns


def _as_image_and_mask(data, image_column, mask_column):
    """The two columns of a data set, undecoded, under their standard names."""
    features = data.features or {}
    candidates = [name for name, feature in features.items() if _holds_images(feature)]
    lists = [name for name, feature in features.items() if _holds_images(getattr(feature, "feature", None))]
    if lists and (mask_column in lists or (mask_column is None and len(candidates) < 2)):
        raise ValueError(
            f"`mask_column` must hold one mask per example, but {', '.join(lists)} holds lists of images, as "
            "in the full ADE20K, whose masks are colours; write one map of class ids each, or take --dataset ade20k "
            "as it is by default."
        )
    arrays = [name for name, feature in features.items() if _holds_ids(feature)]
    image_column, mask_column = choose_columns(candidates + arrays, list(features), image_column, mask_column)
    data = data.select_columns([image_column, mask_column])
    for column in {image_column, mask_column}.difference(arrays):  # first of all, or else renaming decodes
        data = data.cast_column(column, datasets.Image(decode=False))
    renamed = {image_column: "image", mask_column: "mask"}
    data = data.rename_columns({old: new for old, new in renamed.items() if old != new})
    if mask_column in arrays:
        files = datasets.Features(image=datasets.Image(decode=False), mask=datasets.Image(decode=False))
        data = data.map(_with_mask_file, with_indices=True, features=files)
    return data


def _with_mask_file(example, index):
    """The mask of an example, nested lists of ids, as the content of a file that keeps them all."""
    try:
        ids = np.array(example["mask"])
    except ValueError as error:  # of rows that differ in length
        raise ValueError(
            f"`mask` of example {index} must have rows of one length, but {error}; write one label map per photo."
        ) from error
    ids = read_mask(ids, name=f"mask of example {index}")
    low, high = ids.min(), ids.max()
    dtype = np.int32 if low < 0 or high > 65535 else np.uint16 if high > 255 else np.uint8
    file = io.BytesIO()
    Image.fromarray(ids.astype(dtype)).save(file, "TIFF" if dtype == np.int32 else "PNG")  # PNG has no 32 bits
    return {"mask": {"bytes": file.getvalue(), "path": None}}


def _holds_ids(feature):
    """Whether a column has label maps as arrays or as lists of rows."""
    if isinstance(feature, datasets.Array2D):
        value = feature
    else:
        value = getattr(getattr(feature, "feature", None), "feature", None)
    return re.fullmatch(r"u?int\d+|bool", str(getattr(value, "dtype", ""))) is not None


def _holds_images(feature):
    """Whether a column has image files: typed as such, or as other tools write them (a struct, or plain bytes)."""
    if isinstance(feature, dict):
        return set(feature) == {"bytes", "path"}
    return isinstance(feature, datasets.Image) or getattr(feature, "dtype", None) in ("binary", "large_binary")
