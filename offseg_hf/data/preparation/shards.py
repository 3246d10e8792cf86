"""Parquet shards of photos and masks: what goes where, written in many processes, each whole or not at all."""

import hashlib
import json
import multiprocessing
import os
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from offseg_hf.data.formats.drawing import DrawnMask
from offseg_hf.files import whole_file
from offseg_hf.models.image_processing_offseg import open_image, read_image, read_mask

FOOTER_KEY = b"offseg_hf"  # of what a shard's footer says of its plan and its content
MAX_ROWS_PER_GROUP = 100  # one row is read at the cost of its row group; few rows of many bytes are bounded in bytes
FEATURES = datasets.Features(id=datasets.Value("string"), image=datasets.Image(), mask=datasets.Image())


@dataclass(frozen=True)
class Shard:
    """A file to write.

    Args:
        path (`Path`): where it will be.
        plan (`dict`): what its footer shall tell, the same for all shards of a split: what these depend on.
        examples (`list[tuple[str, Path, Path | DrawnMask]]`): id, photo and mask of each, in their order.
        folder (`Path`): that of the source, which messages leave out as they may be published.
    """

    path: Path
    plan: dict
    examples: list
    folder: Path


def shard_name(split: str, number: int, num_shards: int) -> str:
    """What a shard is called, counted from 0, so that the Hub and `datasets` know its split."""
    return f"{split}-{number:05d}-of-{num_shards:05d}.parquet"


def plan_shards(
    output: Path,
    split: str,
    pairs: Sequence[tuple[Path, Path | DrawnMask]],
    folder: Path,
    settings: dict[str, int],
) -> list[Shard]:
    """The shards of a split: examples in random order, as many in each, as few shards as their bound allows.

    Args:
        output (`Path`): folder of the shards.
        split (`str`): name of the split.
        pairs (`list[tuple[Path, Path | DrawnMask]]`): photo and mask of each example; a drawn mask, whose size is not
            known yet, counts nothing.
        folder (`Path`): that of the source.
        settings (`dict`): `seed` of the order, `max_shard_size` and `max_row_group_size` in bytes of the files.

    Returns:
        `list[Shard]`

    Raises:
        ValueError: two photos have one name, or an example is larger than a shard.
    """
    parent = os.path.commonpath([photo.parent for photo, _ in pairs])
    ids = [photo.relative_to(parent).with_suffix("").as_posix() for photo, _ in pairs]
    if len(set(ids)) < len(ids):
        twice, _ = Counter(ids).most_common(1)[0]
        raise ValueError(f"`dataset` must hold photos of different names, but {split} has {twice} twice; rename one.")
    sizes = [(photo.stat().st_size, mask.stat().st_size if isinstance(mask, Path) else 0) for photo, mask in pairs]
    digest = hashlib.sha256()
    for example_id, (photo, mask), (photo_size, mask_size) in zip(ids, pairs, sizes):
        content = mask_size if isinstance(mask, Path) else mask.digest()
        digest.update(f"{example_id}\0{photo.name}\0{photo_size}\0{mask.name}\0{content}\n".encode())

    order = np.random.default_rng(settings["seed"]).permutation(len(pairs))
    sizes = np.array(sizes).sum(1)[order]
    if sizes.max() > settings["max_shard_size"]:
        raise ValueError(
            f"`max_shard_size` must hold the largest example of {split}, which has {sizes.max():,} bytes, got "
            f"{settings['max_shard_size']:,}; raise it."
        )
    num_shards = -(-int(sizes.sum()) // settings["max_shard_size"])
    while max(part.sum() for part in np.array_split(sizes, num_shards)) > settings["max_shard_size"]:
        num_shards = min(num_shards + 1 + num_shards // 50, len(sizes))  # no more than examples: none is empty
    plan = {
        "split": split,
        **settings,
        "files": digest.hexdigest(),  # of all names and sizes, and of what is drawn
        "num_examples": len(pairs),
        "num_shards": num_shards,
    }
    return [
        Shard(
            output / shard_name(split, number, num_shards),
            plan,
            [(ids[index], *pairs[index]) for index in indices],
            folder,
        )
        for number, indices in enumerate(np.array_split(order, num_shards))
    ]


def write_shards(shards: Sequence[Shard], num_examples: int, num_proc: int) -> dict[Path, dict[str, Any]]:
    """Writes shards in many processes, with a progress bar.

    Args:
        shards (`list[Shard]`): those that are not there yet.
        num_examples (`int`): number of examples of all shards, those that are there included.
        num_proc (`int`): number of processes, each of which holds one row group at a time.

    Returns:
        `dict[Path, dict]`: see [`read_footer`].

    Raises:
        OSError: a file cannot be written.
        RuntimeError: a process was killed.
    """
    footers = {}
    num_written = num_examples - sum(len(shard.examples) for shard in shards)
    with ProcessPoolExecutor(num_proc, initializer=end_with_parent) as executor:
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


def end_with_parent() -> None:
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

    with whole_file(shard.path) as unfinished:
        # As `datasets` writes shards. Image files are compressed already. Where pages end depends on the content, so
        # that the Hub need not store again what it has. Statistics would repeat small image files whole.
        options = {"compression": "none", "use_dictionary": False, "write_statistics": ["id"]}
        options |= {"use_content_defined_chunking": True, "write_page_index": True}
        with pq.ParquetWriter(unfinished, FEATURES.arrow_schema, **options) as writer:
            for group in _row_groups(rows(), shard.plan["max_row_group_size"]):
                writer.write_table(pa.Table.from_pylist(group, schema=FEATURES.arrow_schema))
            footer = {
                "plan": shard.plan,
                "skipped": skipped,
                "pixels": {str(label_id): pixels[label_id] for label_id in sorted(pixels)},
                "pictures": {str(label_id): pictures[label_id] for label_id in sorted(pictures)},
            }
            writer.add_key_value_metadata({FOOTER_KEY: json.dumps(footer, ensure_ascii=False)})
    return read_footer(shard.path)


def _read_example(example_id, photo, mask):
    """A row of the shard, and the ids of the mask; both files are decoded, and fit each other."""
    image_file, mask_file = ({"bytes": file.read_bytes(), "path": file.name} for file in (photo, mask))
    opened = open_image(image_file["bytes"], str(photo), max_value=65535)  # who reads it says which value is white
    read_image(opened, str(photo), 65535)
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


def read_footer(path: Path) -> dict[str, Any] | None:
    """What a shard says of itself.

    Args:
        path (`Path`): the file.

    Returns:
        `dict` or `None`: its `plan`, the examples that were `skipped` (id → reason), `pixels` and `pictures` (id in
        the masks, as a string → number), `num_rows` and `num_bytes`; `None` where it is no whole shard of a
        preparation.
    """
    try:
        metadata = pq.read_metadata(path)
    except (OSError, pa.ArrowInvalid):
        return None
    content = (metadata.metadata or {}).get(FOOTER_KEY)
    return content and {**json.loads(content), "num_rows": metadata.num_rows, "num_bytes": path.stat().st_size}
