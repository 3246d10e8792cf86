"""Segmentation data sets from the Hub, Parquet shards, URLs or image files, streamed or not, not yet decoded."""

import glob
import itertools
import json
import re
from pathlib import Path

import datasets
from datasets.data_files import resolve_pattern

from offseg_hf.data.presets import PRESETS, find_preset

SPLIT_SPELLINGS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid"),
    "test": ("test", "testing"),
}
IMAGE_NAMES = ("image", "images", "img", "photo", "picture", "pixel_values")
MASK_NAMES = (
    *("mask", "masks", "annotation", "annotations", "label", "labels", "label_map", "seg_map", "segmentation_map"),
    *("segmentation", "segmentation_mask", "semantic_segmentation", "semantic_mask", "ground_truth", "gt"),
)
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
MAX_FILE_SHARDS = 64  # of a streamed folder of image files: enough to shuffle and to feed many workers


def load_segmentation_dataset(dataset, split, *, streaming=False, image_column=None, mask_column=None, data_dir=None):
    """A split of a segmentation data set as two columns of files, decoded by whoever reads them.

    Args:
        dataset (`str` or `list[str]`): where the data is, one of

            - a folder of Parquet shards (`train-*.parquet`, `validation-*.parquet`, or in a sub-folder per split);
            - Parquet files, or patterns such as `data/train-*.parquet`, `http://host/path/{split}-*.parquet`;
            - a folder of image files: `images/<split>/…` and `masks/<split>/…`, or `<split>/images/…` and
              `<split>/masks/…` (also named `annotations` or `labels`), paired by name, or with a `metadata.jsonl` of
              `image_file_name` and `mask_file_name`;
            - the id of a data set on the Hub;
            - the name of a preset: `ade20k`, `cityscapes`, `coco_stuff` or `pascal_context`.
        split (`str`): name of the split; `validation`, `valid` and `val` mean the same, `train` and `training` too.
            Files that carry no split in their name are the training split.
        streaming (`bool`): whether to read while iterating rather than to prepare everything in a cache first.
        image_column (`str`, *optional*): the photos' column, if its name or type does not tell.
        mask_column (`str`, *optional*): the label maps' column, if its name or type does not tell.
        data_dir (`str`, *optional*): where a preset's data is: the folder of its official download, or any place that
            `dataset` can name otherwise; by default the preset's repository on the Hub.

    Returns:
        `datasets.Dataset` or, streamed, `datasets.IterableDataset` (a shard per Parquet file), with the columns
        `image` and `mask`, each `{"bytes": …, "path": …}`.

    Raises:
        FileNotFoundError: the path does not exist, or photos and masks do not pair up.
        ValueError: the split, the columns or the folder's layout is not clear.
    """
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
    if folder and folder.is_dir() and not _parquet_files_below(folder):
        pairs = find_pairs(folder, split, preset, image_column, mask_column)
        return _dataset_of_pairs(pairs, streaming)
    if len(sources) == 1 and is_hub_id(sources[0]):
        data = _load_from_hub(sources[0], split, streaming, hub.load_options if hub else {})
    else:
        files = _parquet_files(sources, split)
        data = datasets.load_dataset("parquet", data_files={"train": files}, split="train", streaming=streaming)
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


# Splits


def _canonical_split(name):
    """`name`, or the first spelling of the split that it means."""
    for canonical, spellings in SPLIT_SPELLINGS.items():
        if name.lower() in spellings:
            return canonical
    return name


def _choose_split(by_split, split, dataset):
    """The value of the split, under whichever spelling it is known."""
    if split in by_split:
        return by_split[split]
    same = [value for name, value in by_split.items() if _canonical_split(name) == _canonical_split(split)]
    if len(same) != 1:
        known = ", ".join(sorted(by_split)) or "none"
        raise ValueError(f"`split` must be one of the splits of {dataset} ({known}), got {split!r}.")
    return same[0]


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
    return _choose_split(by_split, split, ", ".join(sources))


def _files_of_template(template, split):
    """The files of a pattern with `{split}`, in the first spelling of the split that has any."""
    spellings = (split, *SPLIT_SPELLINGS.get(_canonical_split(split), ()))
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
    spellings = itertools.chain.from_iterable(SPLIT_SPELLINGS.values())
    match = re.match(rf"({'|'.join(spellings)})(?![a-z])", stem.lower())
    if match:
        return _canonical_split(match[1])
    for folder in reversed(folders):
        if folder == split or _canonical_split(folder) in SPLIT_SPELLINGS:
            return _canonical_split(folder)
    return None


# The Hub


def is_hub_id(source):
    """Whether a source can only be meant as `name` or `owner/name` on the Hub."""
    path = Path(source).expanduser()
    if path.exists() or source.endswith(".parquet") or not re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", source):
        return False
    return "/" not in source or not path.parent.exists()


def _load_from_hub(dataset, split, streaming, load_options):
    try:
        names = datasets.get_dataset_split_names(dataset, **load_options)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"`dataset` must be an existing path or a data set on the Hub, but {dataset!r} is no path here and cannot "
            f"be opened on the Hub: {reason}"
        ) from error
    name = _choose_split({name: name for name in names}, split, dataset)
    return datasets.load_dataset(dataset, split=name, streaming=streaming, **load_options)


# Image files


def find_pairs(folder, split, preset=None, image_column=None, mask_column=None):
    """The photos and masks of a split of a folder of image files.

    Args:
        folder (`Path`): see [`load_segmentation_dataset`], as `split`, `image_column` and `mask_column`.
        preset ([`~offseg_hf.data.presets.DatasetPreset`], *optional*): the data set, in whose official layout the
            folder may be.

    Returns:
        `list[tuple[Path, Path]]`: paths of photo and mask, sorted.

    Raises:
        FileNotFoundError: photos and masks do not pair up.
        ValueError: the split or the folder's layout is not clear.
    """
    for layout in preset.layouts if preset else ():
        if roots := layout.find(folder):
            name = _choose_split({name: name for name in roots}, split, folder)
            return layout.pairs(roots[name], name)
    tables = {file.parent: file for file in (folder / "metadata.jsonl", *folder.glob("*/metadata.jsonl"))}
    tables = {parent: file for parent, file in tables.items() if file.exists()}
    if tables:
        by_split = {"train" if parent == folder else parent.name: file for parent, file in tables.items()}
        return _pairs_of_metadata(_choose_split(by_split, split, folder), image_column, mask_column)

    by_split = {}
    for name, photos, masks in _folders_of_splits(folder):
        if name in by_split:
            raise ValueError(
                f"`dataset` must hold one folder of photos and one of masks per split, but {folder} has several for "
                f"{name!r}: {by_split[name][1]} and {masks}."
            )
        by_split[name] = photos, masks
    if not by_split and preset:
        raise ValueError(
            f"`data_dir` must be the official folder of {preset.title} ({preset.layouts[0]}) or one of Parquet files, "
            f"but {folder} is neither; name the folder that these begin in."
        )
    if not by_split:
        raise ValueError(
            f"`dataset` must be a folder of Parquet files, of images/<split> and masks/<split>, of <split>/images and "
            f"<split>/masks, or with a metadata.jsonl, but {folder} is none of these."
        )
    photos, masks = (_files_by_stem(part) for part in _choose_split(by_split, split, folder))
    alone = [files[stem] for files, others in ((photos, masks), (masks, photos)) for stem in files.keys() - others]
    if alone or not photos:
        raise FileNotFoundError(
            f"`dataset` must hold a mask of the same name for every photo, but {len(alone)} of {len(photos)} photos "
            f"and {len(masks)} masks have no partner: {_first(alone)}."
        )
    return [(photos[stem], masks[stem]) for stem in sorted(photos)]


def _folders_of_splits(folder):
    """(split, folder of photos, folder of masks) in each of the usual layouts."""
    for image_name, mask_name in itertools.product(IMAGE_NAMES, MASK_NAMES):
        photos, masks = folder / image_name, folder / mask_name
        if photos.is_dir() and masks.is_dir():
            splits = [part.name for part in sorted(photos.iterdir()) if part.is_dir() and (masks / part.name).is_dir()]
            yield from ((name, photos / name, masks / name) for name in splits)
            if not splits:
                yield "train", photos, masks
        for part in sorted(folder.iterdir()):
            if (part / image_name).is_dir() and (part / mask_name).is_dir():
                yield part.name, part / image_name, part / mask_name


def _files_by_stem(folder):
    """Path below the folder without its suffix → image file."""
    files = {}
    for file in sorted(folder.rglob("*")):
        if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith("."):
            stem = str(file.relative_to(folder).with_suffix(""))
            if stem in files:
                raise ValueError(f"`dataset` must hold one file per name, got both {files[stem]} and {file}.")
            files[stem] = file
    return files


def _pairs_of_metadata(table, image_column, mask_column):
    """(photo, mask) paths that the lines of a metadata.jsonl name, relative to its folder."""
    lines = [json.loads(line) for line in table.read_text(encoding="utf-8").splitlines() if line.strip()]
    names = {key.removesuffix("_file_name") if key != "file_name" else "image": key for key in (lines or [{}])[0]}
    names = {name: key for name, key in names.items() if key.endswith("file_name")}
    image, mask = (names[name] for name in _choose_columns(list(names), list(names), image_column, mask_column))
    pairs = [(table.parent / line[image], table.parent / line[mask]) for line in lines]
    missing = [path for path in itertools.chain.from_iterable(pairs) if not path.exists()]
    if missing:
        raise FileNotFoundError(
            f"{table} must name existing files, but {len(missing)} do not exist: {_first(missing)}."
        )
    return pairs


def _first(paths, count=5):
    """The first few names of a list of paths."""
    shown = ", ".join(str(path) for path in sorted(paths)[:count])
    return shown + (", …" if len(paths) > count else "")


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
            f"`mask_column` must hold one label map per example, but {', '.join(lists)} holds lists of pictures, as "
            "in the full ADE20K, whose masks are colours; write one map of class ids each, or take --dataset ade20k "
            "as it is by default."
        )
    image_column, mask_column = _choose_columns(candidates, list(features), image_column, mask_column)
    data = data.select_columns([image_column, mask_column])
    for column in (image_column, mask_column):  # first of all, or else renaming decodes
        data = data.cast_column(column, datasets.Image(decode=False))
    renamed = {image_column: "image", mask_column: "mask"}
    return data.rename_columns({old: new for old, new in renamed.items() if old != new})


def _holds_images(feature):
    """Whether a column has image files: typed as such, or as other tools write them (a struct, or plain bytes)."""
    if isinstance(feature, dict):
        return set(feature) == {"bytes", "path"}
    return isinstance(feature, datasets.Image) or getattr(feature, "dtype", None) in ("binary", "large_binary")


def _choose_columns(candidates, columns, image_column, mask_column):
    """The names of the photos' and the masks' column: the given ones, or those that the candidates' names tell."""
    chosen = {}
    for argument, given, names in (
        ("image_column", image_column, IMAGE_NAMES),
        ("mask_column", mask_column, MASK_NAMES),
    ):
        if given is not None and given not in columns:
            raise ValueError(f"`{argument}` must be one of the columns {', '.join(columns)}, got {given!r}.")
        fitting = [given] if given is not None else [name for name in candidates if name.lower() in names]
        if len(fitting) != 1:
            found = f"{' and '.join(fitting)} could be" if fitting else "no image column's name tells"
            raise ValueError(
                f"`{argument}` must be given as --{argument} NAME for this data set, with the columns "
                f"{', '.join(columns)}: {found} the {'photos' if argument == 'image_column' else 'label maps'}."
            )
        chosen[argument] = fitting[0]
    if chosen["image_column"] == chosen["mask_column"]:
        raise ValueError(f"`mask_column` must differ from `image_column`, got {chosen['mask_column']!r} for both.")
    return chosen["image_column"], chosen["mask_column"]
