"""The photo that a tool's file names, found where people put it."""

from collections import defaultdict
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit

from offseg_hf.data.layouts import IMAGE_SUFFIXES


class PhotoFolder:
    """The image files below a folder, found by the names that labels have for them.

    Args:
        folder (`Path`): where the photos are, in whatever sub-folders.
        skip (`tuple[str]`): names of sub-folders that hold no photos but masks.
    """

    def __init__(self, folder: Path, skip: tuple[str, ...] = ()):
        self.folder = folder
        self._by_name: dict[str, list[Path]] = defaultdict(list)
        for file in sorted(folder.rglob("*")):
            parts = file.relative_to(folder).parts
            if file.suffix.lower() in IMAGE_SUFFIXES and not any(p.startswith(".") or p in skip for p in parts):
                self._by_name[file.name].append(file)

    def find(self, name: str, source: str) -> Path:
        """The photo of a name.

        Args:
            name (`str`): a file name, a path (of another computer, perhaps with backslashes) or an address, as labels
                have it.
            source (`str`): what errors call the labels.

        Returns:
            `Path`: the file whose path below the folder agrees with the end of the name in most parts.

        Raises:
            FileNotFoundError: there is none of this name.
            ValueError: several agree equally well.
        """
        wanted = photo_path(name)
        if wanted.name not in self._by_name:
            wanted = PurePosixPath(unquote(str(wanted)))  # of an address, though it does not begin like one
        files = self._by_name.get(wanted.name, [])
        if not files:
            raise FileNotFoundError(
                f"`{source}` names the photo {name}, and there is no {wanted.name} below {self.folder}; put the "
                "photos beside the labels."
            )
        agreement = [_common_end(file.relative_to(self.folder).parts, wanted.parts) for file in files]
        best = [file for file, count in zip(files, agreement) if count == max(agreement)]
        if len(best) > 1:
            raise ValueError(
                f"`{source}` names the photo {name}, which may be {best[0]} or {best[1]}; move one of them elsewhere."
            )
        return best[0]


def photo_path(name: str) -> PurePosixPath:
    """The path in a name that labels have for a photo: a path of any system, or an address."""
    address = urlsplit(name)
    if local := parse_qs(address.query).get("d"):  # Label Studio's local files
        name = local[0]
    elif address.scheme in ("http", "https", "s3", "gs", "file"):
        name = unquote(address.path)
    return PurePosixPath(name.replace("\\", "/"))


def _common_end(first, second):
    """How many parts the ends of two paths share."""
    count = 0
    for one, other in zip(reversed(first), reversed(second)):
        if one != other:
            break
        count += 1
    return count
