"""The formats of labels: how each is recognised and read."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from offseg_hf.data.formats.records import Labels


@dataclass(frozen=True)
class LabelFormat:
    """A row of the table.

    Args:
        title (`str`): what people call it.
        module (`str`): name of the file here that has its two functions: `find(place: Path) -> bool`, whether this
            format is what lies at a folder or file, and `read(place: Path) -> Labels`.
    """

    title: str
    module: str

    def find(self, place: Path) -> bool:
        """Whether a folder or file is in this format."""
        return self._function("find")(place)

    def read(self, place: Path) -> Labels:
        """What a folder or file in this format says."""
        return self._function("read")(place)

    def _function(self, name) -> Callable:
        return getattr(importlib.import_module(f"offseg_hf.data.formats.{self.module}"), name)


# Name, as `--format` takes it → the format. Where several recognise a place, the first of them counts.
FORMATS: dict[str, LabelFormat] = {
    "voc": LabelFormat("Pascal VOC masks, CVAT segmentation masks", "voc"),
    "cityscapes-masks": LabelFormat("Cityscapes masks of Datumaro and CVAT", "cityscapes"),
    "kitti-masks": LabelFormat("KITTI masks of Datumaro and CVAT", "kitti"),
    "camvid": LabelFormat("CamVid masks", "camvid"),
    "roboflow-masks": LabelFormat("Roboflow semantic segmentation masks", "roboflow_masks"),
    "darwin-masks": LabelFormat("V7 Darwin semantic masks", "darwin_masks"),
    "masks": LabelFormat("masks with a table of names", "colours"),
    "coco": LabelFormat("COCO JSON", "coco"),
    "labelme": LabelFormat("labelme JSON", "labelme"),
    "cvat": LabelFormat("CVAT for images 1.1", "cvat"),
    "label-studio": LabelFormat("Label Studio JSON", "label_studio"),
    "coco-panoptic": LabelFormat("COCO panoptic JSON", "coco_panoptic"),
    "darwin": LabelFormat("Darwin JSON", "darwin"),
    "supervisely": LabelFormat("Supervisely project", "supervisely"),
    "yolo": LabelFormat("YOLO segmentation labels", "yolo"),
}
