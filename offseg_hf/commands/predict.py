"""Segments photos: writes a label map, and an overlay with a legend, for each.

    offseg predict --model outputs/offseg-b0-ade20k --input photos --output outputs/segmented
    offseg predict --model outputs/camvid --input street.jpg --output outputs/segmented --overwrite \\
        --window_size 512 512 --stride 384 384

    offseg predict --model outputs/mine --input photos --output outputs/segmented --format coco

For photo.jpg it writes photo_labels.png, whose pixels are class ids (8 bits, or 16 for more than 256 classes), and
photo_overlay.jpg; with --format also, in the folder annotations, what a labelling tool imports, to be corrected there.
Any semantic-segmentation model of transformers will do. Where a photo fails, the others are still segmented, and the
exit code is 1.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from offseg_hf.commands.parser import CommandParser, add_photo_arguments, exit_code
from offseg_hf.files import check_output

ANNOTATION_FORMATS = ("coco", "cvat", "label-studio", "labelme")


def build_parser() -> CommandParser:
    """The parser of `offseg predict`."""
    parser = CommandParser("predict", __doc__)
    parser.add_argument("--model", required=True, help="Folder or Hub id of the model and its image processor.")
    parser.add_argument("--input", required=True, help="Photo, or folder of photos (sub-folders are left out).")
    parser.add_argument("--output", required=True, type=Path, help="Folder to write to.")
    parser.add_argument("--overwrite", action="store_true", help="Replace label maps and overlays that exist.")
    parser.add_argument("--format", choices=ANNOTATION_FORMATS, help="Labelling tool to write annotations for.")
    parser.add_argument("--device", help="Such as cpu or cuda:1; by default the first GPU, if there is one.")
    parser.add_argument("--window_size", type=int, nargs=2, help="Height and width of sliding windows; else whole.")
    parser.add_argument("--stride", type=int, nargs=2, help="From one window to the next, down and across.")
    add_photo_arguments(parser)
    return parser


@exit_code
def main(argv: list[str] | None = None) -> int:
    """Runs `offseg predict`; arguments and exit codes are those of `offseg_hf.commands.main`."""
    parser = build_parser()
    args = parser.parse_args(argv)

    import numpy as np
    from PIL import Image
    from tqdm import tqdm
    from transformers import AutoImageProcessor

    from offseg_hf.data.presets import class_palette
    from offseg_hf.model_types import load_model, loading_errors, predicted_labels
    from offseg_hf.models.image_processing_offseg import read_image
    from offseg_hf.pictures.overlays import add_legend, overlay
    from offseg_hf.pictures.saving import save_picture
    from offseg_hf.prediction.annotations.writing import annotation_files, write_annotations
    from offseg_hf.prediction.label_maps import predict_label_map
    from offseg_hf.prediction.photos import find_images
    from offseg_hf.prediction.windows import check_windows

    with parser.mistakes():
        check_windows(args.window_size, args.stride)
        photos, others = find_images(args.input)
        targets = plan_outputs(photos, args.output, args.overwrite)
        annotations = args.output / "annotations"
        if args.format is not None:
            annotation_files(args.format, annotations, photos, args.overwrite)
        device = usable_device(args.device)
        with loading_errors(args.model):
            image_processor = AutoImageProcessor.from_pretrained(args.model)
            model = load_model(args.model).to(device)
        if args.max_value is not None:
            image_processor.max_value = args.max_value
    id2label = predicted_labels(model.config)
    palette = class_palette(id2label)

    args.output.mkdir(parents=True, exist_ok=True)
    if others:
        names = ", ".join(path.name for path in others[:10]) + (", …" if len(others) > 10 else "")
        print(
            f"left out, since Pillow opens no pictures of their kinds: {len(others)} files ({names})", file=sys.stderr
        )
    segmented: list[Path] = []
    for photo in tqdm(photos, unit="photo"):
        labels_path, overlay_path = targets[photo]
        try:
            image = read_image(photo, max_value=getattr(image_processor, "max_value", None))
            label_map = predict_label_map(model, image_processor, image, args.window_size, args.stride)
            save_picture(Image.fromarray(label_map), labels_path)
            picture = add_legend(overlay(image, label_map, palette), label_map, id2label, palette)
            save_picture(picture, overlay_path, quality=92)
            segmented.append(photo)
        except Exception as error:  # whatever fails for one photo is no reason to leave the others
            tqdm.write(f"{photo}: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
    print(f"{len(segmented)} of {len(photos)} photos segmented, in {args.output}")
    if args.format is not None and segmented:
        label_maps = ((photo, np.array(Image.open(targets[photo][0]))) for photo in segmented)
        print(f"to import: {write_annotations(args.format, label_maps, id2label, annotations, args.overwrite)}")
    return 0 if len(segmented) == len(photos) else 1


def usable_device(device: str | None) -> str:
    """The device to compute on: the one that was asked for, after a try, else the first GPU or the CPU."""
    import torch

    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=device).item()
    except Exception as error:  # torch raises many kinds on what it was not built for
        known = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        known += ["mps"] if torch.backends.mps.is_available() else []
        raise ValueError(
            f"`device` must be one that torch can use here, {' or '.join(known)}, got {device} "
            f"({str(error).split('.')[0][:100]}); leave it out for the default."
        ) from error
    return device


def plan_outputs(photos: Sequence[Path], folder: Path, overwrite: bool) -> dict[Path, tuple[Path, Path]]:
    """The label map's and the overlay's path for each photo, once it is sure that nothing is lost by writing them."""
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"`--output` must be a folder, and {folder} is a file: name another one.")
    check_output(folder / "labels.png")
    targets: dict[Path, tuple[Path, Path]] = {}
    stems: dict[str, str] = {}
    for photo in photos:
        if photo.stem.lower() in stems:
            raise FileExistsError(
                f"`--input` must hold photos of different names, and {stems[photo.stem.lower()]} and {photo.name} "
                "would be written to the same files: rename one, or segment them one by one into different folders."
            )
        stems[photo.stem.lower()] = photo.name
        targets[photo] = (folder / f"{photo.stem}_labels.png", folder / f"{photo.stem}_overlay.jpg")
    paths = [path for pair in targets.values() for path in pair]
    photo_paths = {photo.resolve() for photo in photos}
    for path in paths:
        if path.resolve() in photo_paths:
            raise FileExistsError(f"`--output` must be another folder than the photos', since {path} is one of them.")
        if path.exists() and not overwrite:
            raise FileExistsError(
                f"`--output` must not hold results already, and {path} exists: name another folder, or pass "
                "--overwrite to replace it."
            )
    return targets
