"""Image files → Parquet shards: shuffled once, every picture and mask verified, resumable, described by a card."""

import contextlib
import hashlib
import json
import multiprocessing
import os
import re
import threading
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets.utils.py_utils import convert_file_size_to_int
from tqdm import tqdm

from offseg_hf.data.audit import audit_labels
from offseg_hf.data.dataset_card import dataset_card
from offseg_hf.data.loading import find_pairs
from offseg_hf.data.presets import PRESETS, find_preset
from offseg_hf.models.image_processing_offseg import IGNORE_INDEX, open_image, read_image, read_mask

RECORD, CLASS_NAMES, CARD = "preparation.json", "id2label.json", "README.md"
SHARD_NAME = r"\w+-\d{5}-of-\d{5}\.parquet"
UNFINISHED = ".unfinished-"
FOOTER_KEY = b"offseg_hf"  # of what a shard's footer says of its plan and its content
MAX_ROWS_PER_GROUP = 100  # one row is read at the cost of its row group; few rows of many bytes are bounded in bytes
FEATURES = datasets.Features(id=datasets.Value("string"), image=datasets.Image(), mask=datasets.Image())
NUM_SHOWN = 5  # of the broken examples
LICENSE_LINKS = {
    "ade20k": "https://groups.csail.mit.edu/vision/datasets/ADE20K/terms/",
    "cityscapes": "https://www.cityscapes-dataset.com/license/",
    "coco_stuff": "https://github.com/nightrome/cocostuff",
    "pascal_context": "https://cs.stanford.edu/~roozbeh/pascal-context/",
}


@dataclass(frozen=True)
class Shard:
    """A file to write: where, what its footer tells of the plan, and its examples (id, photo, mask) in their order."""

    path: Path
    plan: dict
    examples: list
    folder: Path  # of the source, which a message that may be published must not tell


def prepare_dataset(
    dataset,
    output,
    splits=("train", "validation"),
    *,
    data_dir=None,
    id2label=None,
    reduce_labels=False,
    name=None,
    license=None,
    repo_id=None,
    image_column=None,
    mask_column=None,
    seed=0,
    max_shard_size="100MB",
    max_row_group_size="16MB",
    num_proc=1,
    skip_broken=False,
    overwrite=False,
):
    """Writes a folder of pictures and masks as Parquet shards, `train-00000-of-00004.parquet` and so on.

    Each row holds `image` and `mask`, the files as they are, bit for bit, and the `id`, the photo's name. Examples are
    shuffled once, so that a stream which reads shard after shard is well mixed. Every photo and mask is decoded once,
    their sizes are compared and the labels counted. The shards are the same for the same files, sizes and seed,
    whatever the number of processes; one that is there already, after an interruption, is not written again. When all
    are there, `preparation.json` tells what they hold, `id2label.json` the names of the classes and `README.md` is
    the card.

    Args:
        dataset (`str` or `Path`): a folder of image files, or with `data_dir` the name of a data set that is known,
            see [`~offseg_hf.data.load_segmentation_dataset`], as `image_column` and `mask_column`.
        output (`str` or `Path`): a folder that is new, empty, or holds what an interrupted preparation left.
        splits (sequence of `str`): names of the splits.
        data_dir (`str` or `Path`, *optional*): the folder of a known data set's official download.
        id2label (`dict[int, str]`, *optional*): names of the classes, for other data sets; where the classes are
            known, all ids of the masks are checked.
        reduce_labels (`bool`): whether id 0 of the masks means unlabelled and the classes start at 1, likewise.
        name (`str`, *optional*): what the card calls the data set, by default the folder's name.
        license (`str`, *optional*): licence of the data as the Hub spells it, such as `"cc-by-4.0"`.
        repo_id (`str`, *optional*): id on the Hub under which the data set shall be published.
        seed (`int`): not negative; seed of the order.
        max_shard_size (`int` or `str`): largest sum of the files in a shard, in bytes or such as `"500MB"`.
        max_row_group_size (`int` or `str`): largest sum of the files in a row group, that is of what must be read to
            get at one example; a larger example is a group of its own, and no group has more than 100.
        num_proc (`int`): number of processes that read and write, each of them one row group at a time.
        skip_broken (`bool`): whether to leave out examples that cannot be read or do not fit, and to record which.
        overwrite (`bool`): whether to remove the shards, the record and the card of another preparation first.

    Returns:
        `dict`: the content of `preparation.json`.

    Raises:
        FileNotFoundError, ValueError: the folder, a split, an argument or an example is not right.
        FileExistsError: `output` holds anything else.
        PermissionError: `repo_id` is given for Cityscapes, which must not be published.
        RuntimeError: a process was killed.
    """
    output, preset = Path(output), find_preset(str(dataset))
    settings = {
        "seed": seed,
        "max_shard_size": _num_bytes("max_shard_size", max_shard_size),
        "max_row_group_size": _num_bytes("max_row_group_size", max_row_group_size),
    }
    if num_proc < 1:
        raise ValueError(f"`num_proc` must be at least 1, got {num_proc}.")
    folder = _source_folder(dataset, data_dir, preset)
    if output.resolve().is_relative_to(folder):
        raise ValueError(f"`output` must lie outside of the source {folder}, got {output}; name another folder.")
    pairs = {split: _find_pairs(folder, split, preset, image_column, mask_column) for split in splits}
    if repo_id is not None:
        check_redistribution(dataset, [photo for split in pairs for photo, _ in pairs[split]])
    shards = [shard for split in pairs for shard in _plan_shards(output, split, pairs[split], folder, settings)]

    _claim_folder(output, shards, overwrite)
    footers = {shard.path: _footer(shard.path) for shard in shards}
    missing = [shard for shard in shards if not _is_finished(footers[shard.path], skip_broken)]
    footers |= _write_shards(missing, sum(len(shard.examples) for shard in shards), num_proc)
    if not skip_broken:
        _refuse_broken(shards, footers)

    summaries = {
        split: _summary([shard for shard in shards if shard.plan["split"] == split], footers) for split in pairs
    }
    first_mask = next(iter(pairs.values()))[0][1]
    classes = _classes(preset, id2label, reduce_labels, summaries, first_mask.name)
    record = {
        "name": name or (preset.title if preset else folder.name),
        "license": license or ("other" if preset else "unknown"),
        "license_link": LICENSE_LINKS[str(dataset)] if preset and license is None else None,
        **settings,
        **classes,
        "splits": summaries,
    }
    _describe(output, record, repo_id)
    return record


def check_redistribution(dataset, photos=()):
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
        raise FileNotFoundError(
            f"`{argument}` must be a folder of pictures and masks, and there is no folder {folder}."
        )
    if any(folder.rglob("*.parquet")):
        raise ValueError(
            f"`{argument}` must be a folder of pictures and masks, but {folder} has Parquet files; read "
            "these as they are."
        )
    return folder


def _find_pairs(folder, split, preset, image_column, mask_column):
    """(photo, mask) of every example of a split."""
    if not re.fullmatch(r"\w+", split):
        raise ValueError(f"`splits` must be names of letters, digits and '_', got {split!r}.")
    return find_pairs(folder, split, preset, image_column, mask_column)


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


def _plan_shards(output, split, pairs, folder, settings):
    """The shards of a split: examples in random order, as many in each, as few shards as their bound allows."""
    parent = os.path.commonpath([photo.parent for photo, _ in pairs])
    ids = [photo.relative_to(parent).with_suffix("").as_posix() for photo, _ in pairs]
    if len(set(ids)) < len(ids):
        twice, _ = Counter(ids).most_common(1)[0]
        raise ValueError(f"`dataset` must hold photos of different names, but {split} has {twice} twice; rename one.")
    sizes = [(photo.stat().st_size, mask.stat().st_size) for photo, mask in pairs]
    digest = hashlib.sha256()
    for example_id, (photo, mask), (photo_size, mask_size) in zip(ids, pairs, sizes):
        digest.update(f"{example_id}\0{photo.name}\0{photo_size}\0{mask.name}\0{mask_size}\n".encode())

    order = np.random.default_rng(settings["seed"]).permutation(len(pairs))
    sizes = np.array(sizes).sum(1)[order]
    if sizes.max() > settings["max_shard_size"]:
        raise ValueError(
            f"`max_shard_size` must hold the largest example of {split}, which has {sizes.max():,} bytes, got "
            f"{settings['max_shard_size']:,}; raise it."
        )
    num_shards = -(-int(sizes.sum()) // settings["max_shard_size"])
    while max(part.sum() for part in np.array_split(sizes, num_shards)) > settings["max_shard_size"]:
        num_shards += 1 + num_shards // 50
    plan = {
        "split": split,
        "num_examples": len(pairs),
        "num_shards": num_shards,
        **settings,
        "files": digest.hexdigest(),  # of all names and sizes
    }
    return [
        Shard(
            output / f"{split}-{number:05d}-of-{num_shards:05d}.parquet",
            plan,
            [(ids[index], *pairs[index]) for index in indices],
            folder,
        )
        for number, indices in enumerate(np.array_split(order, num_shards))
    ]


def _claim_folder(output, shards, overwrite):
    """Makes the folder, or sees that it holds nothing but a part of the same preparation."""
    output.mkdir(parents=True, exist_ok=True)
    for file in output.glob(f"{UNFINISHED}*"):
        file.unlink()
    if overwrite:
        for file in output.iterdir():
            if file.name in (RECORD, CLASS_NAMES, CARD) or re.fullmatch(SHARD_NAME, file.name):
                file.unlink()
    plans = {shard.plan["split"]: shard.plan for shard in shards}
    described = (RECORD, CLASS_NAMES, CARD) if (output / RECORD).exists() else ()
    for file in sorted(output.iterdir()):
        if file.name.startswith(".") or file.name in described:
            continue
        footer = _footer(file) if re.fullmatch(SHARD_NAME, file.name) else None
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


def _footer(path):
    """What a shard says of itself; None if it is no whole shard of a preparation."""
    try:
        metadata = pq.read_metadata(path)
    except (OSError, pa.ArrowInvalid):
        return None
    content = (metadata.metadata or {}).get(FOOTER_KEY)
    return content and {**json.loads(content), "num_rows": metadata.num_rows, "num_bytes": path.stat().st_size}


def _is_finished(footer, skip_broken):
    """Whether a shard with this footer need not be written again."""
    return footer is not None and (skip_broken or not footer["skipped"])


# The work


def _write_shards(shards, num_examples, num_proc):
    """Writes shards in many processes; their footers by path."""
    footers = {}
    num_written = num_examples - sum(len(shard.examples) for shard in shards)
    with ProcessPoolExecutor(num_proc, initializer=_end_with_parent) as executor:
        futures = {executor.submit(_write_shard, shard): shard for shard in shards}
        try:
            with tqdm(total=num_examples, initial=num_written, unit="examples", desc="Preparing") as progress:
                for future in as_completed(futures):
                    footers[futures[future].path] = future.result()
                    progress.update(len(futures[future].examples))
        except BrokenProcessPool as error:
            raise RuntimeError(
                "`num_proc` processes must fit into memory, and one of them was killed; run the same command again, "
                f"which goes on from here, perhaps with fewer than {num_proc}."
            ) from error
        finally:
            executor.shutdown(cancel_futures=True)
    return footers


def _end_with_parent():
    """Ends this process when its parent is killed: else it would wait for work forever."""

    def watch():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _write_shard(shard):
    """Reads, verifies and writes the examples of a shard; its footer."""
    skipped, pixels, pictures = {}, Counter(), Counter()

    def rows():
        for example_id, photo, mask in shard.examples:
            try:
                row, ids = _read_example(example_id, photo, mask)
            except (OSError, ValueError, TypeError) as error:
                skipped[example_id] = str(error).replace(f"{shard.folder}{os.sep}", "")
                continue
            found, counts = np.unique(ids, return_counts=True)
            pixels.update(dict(zip(found.tolist(), counts.tolist())))
            pictures.update(found.tolist())
            yield row

    with _whole_file(shard.path) as file:
        # As `datasets` writes shards: pictures are compressed already, and pages end where the content says so, which
        # spares the Hub what it has. Statistics would hold whole small pictures, several times.
        options = {"compression": "none", "use_dictionary": False, "write_statistics": ["id"]}
        options |= {"use_content_defined_chunking": True, "write_page_index": True}
        with pq.ParquetWriter(file, FEATURES.arrow_schema, **options) as writer:
            for group in _row_groups(rows(), shard.plan["max_row_group_size"]):
                writer.write_table(pa.Table.from_pylist(group, schema=FEATURES.arrow_schema))
            footer = {
                "plan": shard.plan,
                "skipped": skipped,
                "pixels": {str(label_id): pixels[label_id] for label_id in sorted(pixels)},
                "pictures": {str(label_id): pictures[label_id] for label_id in sorted(pictures)},
            }
            writer.add_key_value_metadata({FOOTER_KEY: json.dumps(footer, ensure_ascii=False)})
    return _footer(shard.path)


def _read_example(example_id, photo, mask):
    """A row of the shard, and the ids of the mask; both files are decoded, and fit each other."""
    image_file, mask_file = ({"bytes": path.read_bytes(), "path": path.name} for path in (photo, mask))
    opened = open_image(image_file["bytes"], str(photo))
    read_image(opened, str(photo))
    ids = read_mask(mask_file["bytes"], opened, str(mask))
    return {"id": example_id, "image": image_file, "mask": mask_file}, ids


def _row_groups(rows, max_size):
    """Rows in lists that stay within the bounds of a row group."""
    group, size = [], 0
    for row in rows:
        row_size = len(row["image"]["bytes"]) + len(row["mask"]["bytes"])
        if group and (size + row_size > max_size or len(group) == MAX_ROWS_PER_GROUP):
            yield group
            group, size = [], 0
        group.append(row)
        size += row_size
    if group:
        yield group


@contextlib.contextmanager
def _whole_file(path):
    """A file to write that appears under its name whole or not at all, also if the machine loses power."""
    unfinished = path.with_name(f"{UNFINISHED}{os.getpid()}-{path.name}")
    try:
        with unfinished.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


# The result


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
            f"`dataset` must hold whole pictures, each with a mask of its size, but {len(messages):,} of "
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


def _classes(preset, id2label, reduce_labels, summaries, mask_name):
    """What the ids in the masks mean, as far as it is known, after a check of all of them."""
    encoding = None
    if preset is not None:
        id2label, reduce_labels = preset.id2label, preset.reduce_labels
        named = [each for each in preset.encodings if each.file_ending and mask_name.endswith(each.file_ending)]
        encoding = (named or preset.encodings)[0]
    if id2label is None:
        return {"reduce_labels": False, "id2label": None, "encoding": None, "class_ids": None}
    stored = {label_id + reduce_labels: label_id for label_id in id2label}
    for split, summary in summaries.items():
        ids = set(map(int, summary["pixels"]))
        if encoding is None:
            audit_labels([np.array(sorted(ids))], len(id2label), reduce_labels=reduce_labels)
        elif unknown := ids - encoding.class_ids.keys() - encoding.tolerated.keys():
            raise ValueError(
                f"`data_dir` must hold masks of {encoding}, but those of {split} have {sorted(unknown)[:10]} too; "
                "check that they are the official ones."
            )
    if encoding is not None:
        kept = {label_id: class_id for label_id, class_id in encoding.class_ids.items() if class_id != IGNORE_INDEX}
        stored = {
            label_id: class_id - reduce_labels for label_id, class_id in kept.items() if class_id >= reduce_labels
        }
    return {
        "reduce_labels": reduce_labels,
        "id2label": {str(label_id): label for label_id, label in sorted(id2label.items())},
        "encoding": encoding and encoding.name,
        "class_ids": {str(label_id): class_id for label_id, class_id in sorted(stored.items())},
    }


def _describe(output, record, repo_id):
    """Writes record, class names and card; the same ones are left, others are not overwritten."""
    if (output / RECORD).exists() and json.loads((output / RECORD).read_text(encoding="utf-8")) != record:
        raise FileExistsError(
            f"`output` must not hold another record, and {output / RECORD} differs in what it says of these shards; "
            f"remove it and {CARD} to have them written anew."
        )
    texts = {RECORD: json.dumps(record, indent=2, ensure_ascii=False) + "\n"}
    if record["id2label"]:
        texts[CLASS_NAMES] = json.dumps(record["id2label"], indent=2, ensure_ascii=False) + "\n"
    texts[CARD] = dataset_card(record, repo_id)
    for file, text in texts.items():  # the record first: what else lies here without one is not ours
        if not (output / file).exists():
            with _whole_file(output / file) as unfinished:
                unfinished.write(text.encode())
