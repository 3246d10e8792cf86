"""The benchmarks of the paper: classes, ids that their files store, sizes, and where they are to be had."""

from dataclasses import dataclass, field

import numpy as np

from offseg_hf.data import preset_classes
from offseg_hf.data.layouts import OfficialLayout
from offseg_hf.models.image_processing_offseg import IGNORE_INDEX
from offseg_hf.pictures.palettes import default_palette


@dataclass(frozen=True)
class LabelEncoding:
    """What the ids in masks mean.

    Args:
        name (`str`): what errors call it.
        class_ids (`dict[int, int]`): stored id → class id, or 255 for what is not labelled.
        tolerated (`dict[int, int]`): ids that some files have besides, and that tell nothing of the encoding.
        file_ending (`str`, *optional*): how files of this encoding are named, where the ids themselves do not tell.
    """

    name: str
    class_ids: dict
    tolerated: dict = field(default_factory=dict)
    file_ending: str | None = None

    def __str__(self) -> str:
        ids = sorted(self.class_ids)
        runs = [[ids[0], ids[0]]]
        for stored in ids[1:]:
            if stored == runs[-1][1] + 1:
                runs[-1][1] = stored
            else:
                runs.append([stored, stored])
        shown = ", ".join(f"{first}…{last}" if last > first else str(first) for first, last in runs)
        return f"{self.name} ({shown})"


@dataclass(frozen=True)
class HubSource:
    """A data set on the Hub.

    Args:
        repo_id (`str`): its id.
        load_options (`dict`): arguments of `datasets.load_dataset` without which it cannot be opened.
        image_column, mask_column (`str`): names of its columns.
    """

    repo_id: str
    image_column: str
    mask_column: str
    load_options: dict = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class DatasetPreset:
    """What is known of a data set.

    Args:
        title (`str`): what it is called.
        class_names (`tuple[str]`): names of the K classes in the order of their ids.
        palette (`np.ndarray`): uint8 of shape (K, 3), colours of the classes.
        reduce_labels (`bool`): whether its files have 0 for what is not labelled and the classes from 1, which its
            encodings say too; what an image processor for its files must have as `do_reduce_labels`.
        encodings (`tuple[LabelEncoding]`): what its files may store.
        crop_size (`tuple[int, int]`): height and width of the training crop.
        resize (`tuple[int, int]`): long and short edge that bound the photo before the random scale.
        eval_size (`tuple[int, int]`): long and short edge that bound the photo in evaluation.
        layouts (`tuple[OfficialLayout]`): what the official folder looks like.
        hub (`HubSource`, *optional*): where it can be streamed from.
    """

    title: str
    class_names: tuple
    palette: np.ndarray
    reduce_labels: bool
    encodings: tuple
    crop_size: tuple
    resize: tuple
    eval_size: tuple
    layouts: tuple
    hub: HubSource | None = None

    @property
    def id2label(self) -> dict[int, str]:
        """`dict[int, str]`: class names by class id."""
        return dict(enumerate(self.class_names))


def find_preset(dataset: str | list[str]) -> DatasetPreset | None:
    """The preset that a data set's name means.

    Args:
        dataset (`str` or `list[str]`): see [`~offseg_hf.data.load_segmentation_dataset`].

    Returns:
        `DatasetPreset` or `None`: `None` for whatever else it may be.
    """
    sources = [dataset] if not isinstance(dataset, (list, tuple)) else dataset
    return PRESETS.get(str(sources[0])) if len(sources) == 1 else None


def class_palette(id2label: dict[int, str]) -> np.ndarray:
    """The colours of a model's classes: those in which a data set of this file is commonly shown, or our own.

    Args:
        id2label (`dict[int, str]`): class names by class id, all K of them.

    Returns:
        `np.ndarray`: uint8 of shape (K, 3): the published colours where these are the classes of a preset, else those
        of [`~offseg_hf.pictures.palettes.default_palette`].
    """
    published = next((preset.palette for preset in PRESETS.values() if preset.id2label == id2label), None)
    return default_palette(len(id2label)) if published is None else published


def _classes(table):
    """(names, palette) of the text of preset_classes.py."""
    entries = [entry.strip().rsplit(" ", 1) for entry in table.replace("\n", " ").split(",")]
    palette = np.array([list(bytes.fromhex(colour)) for _, colour in entries], np.uint8)
    return {"class_names": tuple(name for name, _ in entries), "palette": palette}


def _train_ids(num_labels):
    """The encoding of files that hold class ids already."""
    class_ids = {class_id: class_id for class_id in range(num_labels)} | {IGNORE_INDEX: IGNORE_INDEX}
    return LabelEncoding("trainIds", class_ids, file_ending="_labelTrainIds.png")


def _class_ids_from_1(num_labels):
    """The encoding of files that hold 0 for what is not labelled."""
    class_ids = {0: IGNORE_INDEX} | {class_id + 1: class_id for class_id in range(num_labels)}
    return LabelEncoding("class ids from 1", class_ids)


# cityscapesScripts, labels.py: the evaluated ids in the order of their trainId.
_CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
# cocostuff, labels.txt: the pixel maps store the number there minus 1, and these never: street sign, hat, shoe, eye
# glasses, plate, mirror, window, desk, door, blender, hair brush.
_COCO_STUFF_GAPS = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
_COCO_STUFF_IDS = tuple(stored for stored in range(182) if stored not in _COCO_STUFF_GAPS)
_COCO_STUFF_SPLITS = {"train": "train2017", "validation": "val2017"}

PRESETS = {
    "ade20k": DatasetPreset(
        title="ADE20K",
        **_classes(preset_classes.ADE20K),
        reduce_labels=True,
        encodings=(_class_ids_from_1(150),),
        crop_size=(512, 512),
        resize=(2048, 512),
        eval_size=(2048, 512),
        layouts=(
            OfficialLayout(
                images="images/{split}",
                image_ending=".jpg",
                masks="annotations/{split}",
                mask_endings=(".png",),
                splits={"train": "training", "validation": "validation"},
                roots=("", "ADEChallengeData2016"),
            ),
        ),
        # Its main revision is a script, which `datasets` no longer runs; the converted files are named by folder.
        hub=HubSource(
            "zhoubolei/scene_parse_150",
            image_column="image",
            mask_column="annotation",
            load_options={"revision": "refs/convert/parquet", "data_dir": "scene_parsing"},
        ),
    ),
    "cityscapes": DatasetPreset(
        title="Cityscapes",
        **_classes(preset_classes.CITYSCAPES),
        reduce_labels=False,
        encodings=(
            LabelEncoding(
                "labelIds",
                {-1: IGNORE_INDEX, **dict.fromkeys(range(34), IGNORE_INDEX)}
                | {stored: class_id for class_id, stored in enumerate(_CITYSCAPES_IDS)},
                tolerated={IGNORE_INDEX: IGNORE_INDEX},  # -1, the licence plate, in an unsigned file
                file_ending="_labelIds.png",
            ),
            _train_ids(19),
        ),
        crop_size=(1024, 1024),
        resize=(2048, 1024),
        eval_size=(2048, 1024),
        layouts=(
            OfficialLayout(
                images="leftImg8bit/{split}",
                image_ending="_leftImg8bit.png",
                masks="gtFine/{split}",
                mask_endings=("_gtFine_labelIds.png", "_gtFine_labelTrainIds.png"),
                splits={"train": "train", "validation": "val", "test": "test"},
            ),
        ),
        hub=HubSource("Chris1/cityscapes", image_column="image", mask_column="semantic_segmentation"),
    ),
    "coco_stuff": DatasetPreset(
        title="COCO-Stuff-164K",
        **_classes(preset_classes.COCO_STUFF),
        reduce_labels=False,
        encodings=(
            LabelEncoding(
                "pixel-map ids",
                {stored: class_id for class_id, stored in enumerate(_COCO_STUFF_IDS)} | {IGNORE_INDEX: IGNORE_INDEX},
            ),
            _train_ids(171),
        ),
        crop_size=(512, 512),
        resize=(2048, 512),
        eval_size=(2048, 512),
        layouts=tuple(
            OfficialLayout(images, ".jpg", masks, (".png", "_labelTrainIds.png"), _COCO_STUFF_SPLITS)
            for images in ("images/{split}", "{split}")
            for masks in ("annotations/{split}", "stuffthingmaps/{split}")
        ),
        hub=HubSource("GATE-engine/COCOStuff164K", image_column="image", mask_column="mask"),
    ),
    "pascal_context": DatasetPreset(
        title="Pascal Context",
        **_classes(preset_classes.PASCAL_CONTEXT),
        reduce_labels=True,
        encodings=(_class_ids_from_1(59),),
        crop_size=(480, 480),
        resize=(520, 520),
        eval_size=(520, 520),
        layouts=(
            OfficialLayout(
                images="JPEGImages",
                image_ending=".jpg",
                masks="SegmentationClassContext",
                mask_endings=(".png",),
                splits={"train": "train", "validation": "val"},
                names="ImageSets/SegmentationContext/{split}.txt",
                roots=("", "VOC2010", "VOCdevkit/VOC2010"),
            ),
        ),
    ),
}
