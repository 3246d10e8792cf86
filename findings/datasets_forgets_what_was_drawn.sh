#!/usr/bin/env bash
# datasets 5.2.0, pillow 13.0.0: an image that was opened from a file and then changed in place.
#
# One would guess that a dataset keeps the pixels it is given, so that ids are corrected with `mask.paste(...)` or
# `putpixel` in a `map`. But an image that knows its file is stored as the file's path: the dataset has the pixels of the
# file, in silence, whether the image comes from `Image.open` or from a row whose file lies beside. A copy knows no file,
# and a row whose bytes are in the dataset neither: with these the same line of code works.
#
# Seen (the first pixel, 0 in the file and 7 as drawn): opened 0, its copy 7, map over files 0, map over stored bytes 7
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q datasets==5.2.0 pillow==13.0.0
cd "$folder"
export HF_HUB_OFFLINE=1 HF_HOME="$folder/home" HF_DATASETS_DISABLE_PROGRESS_BARS=1
venv/bin/python - <<'PYTHON'
from datasets import Dataset, Features, Image
from PIL import Image as Picture

FEATURES = Features({"mask": Image()})
Picture.new("L", (3, 2)).save("mask.png")


def redrawn(row):
    row["mask"].putpixel((0, 0), 7)
    return row


def stored(masks):
    return Dataset.from_dict({"mask": masks}, features=FEATURES)


opened = Picture.open("mask.png")
copied = opened.copy()
seen = {
    "opened": stored([redrawn({"mask": opened})["mask"]]),
    "its copy": stored([redrawn({"mask": copied})["mask"]]),
    "map over files": stored(["mask.png"]).map(redrawn),
    "map over stored bytes": stored([Picture.new("L", (3, 2))]).map(redrawn),
}
seen = {name: dataset[0]["mask"].getpixel((0, 0)) for name, dataset in seen.items()}
print(", ".join(f"{name} {value}" for name, value in seen.items()))
assert list(seen.values()) == [0, 7, 0, 7]
PYTHON
