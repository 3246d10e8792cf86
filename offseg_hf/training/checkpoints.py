"""Checkpoints on disk: which is the newest whole one, and whether a training may write into a folder."""

import contextlib
import errno
import json
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers.utils import logging

logger = logging.get_logger(__name__)

FULL = (errno.ENOSPC, errno.EDQUOT)
STATE_FILE = "trainer_state.json"


def check_output_dir(output_dir: str, resume_from_checkpoint: str | None, overwrite: bool) -> str | None:
    """The checkpoint to resume from, after a check that nothing is overwritten unasked.

    Args:
        output_dir (`str`): folder that the training writes to.
        resume_from_checkpoint (`str`, *optional*): a checkpoint's folder, or `"last"` for the newest in `output_dir`.
        overwrite (`bool`): whether to write into a folder that is not empty.

    Returns:
        `str` or `None`: the checkpoint's folder.

    Raises:
        FileNotFoundError: where there is no such checkpoint.
        NotADirectoryError: where `output_dir`, or a folder around it, is a file.
        FileExistsError: where `output_dir` is not empty and neither resuming nor overwriting was asked for.
    """
    if Path(output_dir).is_file():
        raise NotADirectoryError(f"`output_dir` must be a folder, and {output_dir} is a file; name another place.")
    if file := next((folder for folder in Path(output_dir).parents if folder.is_file()), None):
        raise NotADirectoryError(f"`output_dir` must lie in a folder, and {file} is a file; name another place.")
    if resume_from_checkpoint is not None:
        is_last = resume_from_checkpoint == "last"
        checkpoint = last_whole_checkpoint(output_dir) if is_last else resume_from_checkpoint
        if checkpoint is None or not Path(checkpoint).is_dir():
            raise FileNotFoundError(
                f"`resume_from_checkpoint` must be a checkpoint's folder, or 'last' for the newest in {output_dir}, "
                f"but there is none for {resume_from_checkpoint!r}; leave it out to start anew."
            )
        if broken := broken_file(checkpoint):
            raise ValueError(
                f"`resume_from_checkpoint` must be a whole checkpoint, but {broken} in {checkpoint} is missing or cut "
                "off; pass 'last' for the newest whole one."
            )
        return str(checkpoint)
    if not overwrite and Path(output_dir).is_dir() and any(Path(output_dir).iterdir()):
        if (newest := last_whole_checkpoint(output_dir)) is not None:
            raise FileExistsError(
                f"`output_dir` must be a new or empty folder, and {output_dir} holds a training up to step "
                f"{newest.name.split('-')[1]}: pass `--resume_from_checkpoint last` to go on there, or `--overwrite` "
                "to start anew there."
            )
        raise FileExistsError(
            f"`output_dir` must be a new or empty folder, got {output_dir}, which has no checkpoint to "
            "go on from; name another, or pass `--overwrite` to start anew there."
        )
    return None


def last_whole_checkpoint(output_dir: str | Path) -> Path | None:
    """The newest checkpoint of a folder whose files are all there and whole; warns of the broken ones before it.

    Args:
        output_dir (`str` or `Path`): folder that trainings write to.

    Returns:
        `Path` or `None`: the checkpoint's folder.
    """
    folders = [path for path in Path(output_dir).glob("checkpoint-*") if path.name.split("-")[1].isdecimal()]
    for folder in sorted(folders, key=lambda path: int(path.name.split("-")[1]), reverse=True):
        broken = broken_file(folder)
        if broken is None:
            return folder
        logger.warning(f"{folder} is passed over, since {broken} in it is missing or cut off.")
    return None


def broken_file(checkpoint: str | Path) -> str | None:
    """The first file of a checkpoint that is missing or cut off.

    Args:
        checkpoint (`str` or `Path`): the folder.

    Returns:
        `str` or `None`: its name; `None` where the checkpoint is whole.
    """
    checkpoint = Path(checkpoint)
    if not list(checkpoint.glob("*.safetensors")):
        return "model.safetensors"
    for file in (checkpoint / STATE_FILE, *sorted(checkpoint.iterdir())):
        try:
            if file.suffix == ".safetensors":
                with safe_open(file, "pt"):
                    pass
            elif file.suffix in (".pt", ".pth"):
                zipfile.ZipFile(file).close()
            elif file.suffix == ".json":
                json.loads(file.read_text())
        except (OSError, ValueError, SafetensorError, zipfile.BadZipFile):
            return file.name
    return None


@contextlib.contextmanager
def full_disk_said(output_dir: str | Path) -> Iterator[None]:
    """Whatever a library raises where the disk is full becomes one sentence that says so.

    Args:
        output_dir (`str` or `Path`): the folder that the block writes to.

    Raises:
        OSError: the disk is full.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:  # torch's writer gives a `RuntimeError` without a reason
        is_said = getattr(error, "errno", None) in FULL or "No space left" in str(error)
        if not is_said and not (isinstance(error, RuntimeError) and shutil.disk_usage(output_dir).free < 2**20):
            raise
        last = last_whole_checkpoint(output_dir)
        remedy = "start again" if last is None else "go on with `--resume_from_checkpoint last --save_total_limit 1`"
        raise OSError(
            errno.ENOSPC,
            f"`output_dir` must have room for a checkpoint, and the disk of {output_dir} is full; free some and "
            f"{remedy}.",
        ) from error


@contextlib.contextmanager
def without_progress_bars() -> Iterator[None]:
    """Keeps transformers' own progress bars, such as that of the shards it writes, off for a while."""
    were_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if were_on:
            logging.enable_progress_bar()
