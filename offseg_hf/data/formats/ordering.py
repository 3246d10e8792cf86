"""The order of labelled photos, each of which is there once."""

from collections.abc import Iterable

from offseg_hf.data.formats.records import LabelledPhoto


def ordered(labelled: Iterable[LabelledPhoto]) -> tuple[LabelledPhoto, ...]:
    """Labelled photos by path.

    Args:
        labelled (iterable of [`~offseg_hf.data.formats.records.LabelledPhoto`]): in whatever order.

    Returns:
        `tuple[LabelledPhoto]`

    Raises:
        ValueError: two are of the same photo.
    """
    by_photo: dict = {}
    for one in labelled:
        if (other := by_photo.setdefault(one.photo.resolve(), one)) is not one:
            raise ValueError(
                f"`{one.source}` must be of a photo of its own, and `{other.source}` is of {one.photo} too; remove "
                "one of the two, or put photos of the same name into different folders as their labels have them."
            )
    return tuple(sorted(by_photo.values(), key=lambda one: one.photo))
