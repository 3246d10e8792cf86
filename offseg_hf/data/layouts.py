"""Where the files of a benchmark lie in the folder that its official download unpacks to."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class OfficialLayout:
    """Photos and label maps of a data set as it is published.

    Args:
        images (`str`): folder of a split's photos, with `{split}` in the place of its official name.
        image_ending (`str`): what the photos' names end in.
        masks (`str`): folder of its label maps, likewise.
        mask_endings (`tuple[str]`): what the label maps' names may end in, in place of `image_ending`; the first that
            occurs is taken.
        splits (`dict[str, str]`): name of a split → its official name.
        names (`str`, *optional*): text file that lists the names of a split, one per line; without one, all files
            below its folder belong to it.
        roots (`tuple[str]`): folders that the download may be wrapped in.
    """

    images: str
    image_ending: str
    masks: str
    mask_endings: tuple
    splits: dict
    names: str | None = None
    roots: tuple = ("",)

    def __str__(self):
        masks = " or ".join(f"{self.masks}/*{ending}" for ending in self.mask_endings)
        return f"{self.images}/*{self.image_ending} and {masks}" + (f" and {self.names}" if self.names else "")

    def find(self, folder):
        """The folder's splits that are there.

        Args:
            folder (`str` or `Path`): where the data set is.

        Returns:
            `dict[str, Path]`: split → the folder that the layout begins in; empty where the layout is another.
        """
        marks = [self.masks, self.names or self.images]
        for root in (Path(folder, root) for root in self.roots):
            found = {
                split: root
                for split, official in self.splits.items()
                if all((root / mark.format(split=official)).exists() for mark in marks)
            }
            if found:
                return found
        return {}

    def pairs(self, root, split):
        """The photos and label maps of a split.

        Args:
            root (`Path`): the folder that the layout begins in, of `find`.
            split (`str`): a key of `splits`.

        Returns:
            `list[tuple[Path, Path]]`: paths of photo and label map, sorted by name.

        Raises:
            FileNotFoundError: a photo or a label map has no partner, or is listed and not there.
        """
        official = self.splits[split]
        photos = _files_by_name(root / self.images.format(split=official), (self.image_ending,))[self.image_ending]
        masks = _files_by_name(root / self.masks.format(split=official), self.mask_endings)
        masks = next((files for files in masks.values() if files), {})
        names = photos.keys() | masks.keys()
        if self.names:
            names = set((root / self.names.format(split=official)).read_text(encoding="utf-8").split())
        alone = sorted(name for name in names if name not in photos or name not in masks)
        if alone or not names:
            shown = ", ".join(alone[:5]) + (", …" if len(alone) > 5 else "")
            raise FileNotFoundError(
                f"`data_dir` must hold a photo and a label map for each name of the split {official}, but "
                f"{len(alone)} of {len(names)} have but one or none: {shown or root}; unpack the "
                f"official files {self} completely."
            )
        return [(photos[name], masks[name]) for name in sorted(names)]


def _files_by_name(folder, endings):
    """Ending → path below the folder without that ending → file; a name counts for the longest ending that it has."""
    files = {ending: {} for ending in endings}
    for file in folder.rglob("*"):
        fitting = [ending for ending in endings if file.name.endswith(ending)]
        if fitting and not file.name.startswith("."):
            ending = max(fitting, key=len)
            files[ending][file.relative_to(folder).as_posix().removesuffix(ending)] = file
    return files
