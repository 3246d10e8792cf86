"""Segments photos: a label map and an overlay with a legend for each.

    python scripts/predict.py --model outputs/offseg-b0-ade20k --input photos --output outputs/segmented
    python scripts/predict.py --model outputs/camvid --input street.jpg --output outputs/segmented --overwrite \
        --window_size 512 512 --stride 384 384

For photo.jpg it writes photo_labels.png, whose pixels are class ids (8 bits, or 16 for more than 256 classes), and
photo_overlay.jpg. Any semantic-segmentation model of transformers will do.
"""

import argparse
import sys
from pathlib import Path


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="Folder or Hub id of the model and its image processor.")
    parser.add_argument("--input", required=True, help="Photo, or folder of photos (sub-folders are left out).")
    parser.add_argument("--output", required=True, type=Path, help="Folder to write to.")
    parser.add_argument("--overwrite", action="store_true", help="Replace label maps and overlays that exist.")
    parser.add_argument("--device", help="Such as cpu or cuda:1; by default the first GPU, if there is one.")
    parser.add_argument("--window_size", type=int, nargs=2, help="Height and width of sliding windows; else whole.")
    parser.add_argument("--stride", type=int, nargs=2, help="From one window to the next, down and across.")
    args = parser.parse_args(argv)

    import torch
    from PIL import Image
    from tqdm import tqdm
    from transformers import AutoImageProcessor

    import offseg_hf  # noqa: F401  registers OffSeg with the Auto classes
    from offseg_hf.data.presets import class_palette
    from offseg_hf.model_types import load_model, predicted_labels
    from offseg_hf.models.image_processing_offseg import read_image
    from offseg_hf.pictures.overlays import add_legend, overlay
    from offseg_hf.pictures.saving import save_picture
    from offseg_hf.prediction.label_maps import predict_label_map
    from offseg_hf.prediction.photos import find_images
    from offseg_hf.prediction.windows import check_windows

    try:
        check_windows(args.window_size, args.stride)
        photos = find_images(args.input)
        targets = plan_outputs(photos, args.output, args.overwrite)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    try:
        image_processor = AutoImageProcessor.from_pretrained(args.model)
        model = load_model(args.model)
    except (OSError, ValueError) as error:
        parser.error(f"`--model` must be a folder or Hub id that transformers can load, and for {args.model}: {error}")
    model.to(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    id2label = predicted_labels(model.config)
    palette = class_palette(id2label)

    args.output.mkdir(parents=True, exist_ok=True)
    num_failed = 0
    for photo in tqdm(photos, unit="photo"):
        try:
            image = read_image(photo)
        except (OSError, ValueError) as error:
            num_failed += 1
            tqdm.write(str(error), file=sys.stderr)
            continue
        label_map = predict_label_map(model, image_processor, image, args.window_size, args.stride)
        labels_path, overlay_path = targets[photo]
        save_picture(Image.fromarray(label_map), labels_path)
        picture = add_legend(overlay(image, label_map, palette), label_map, id2label, palette)
        save_picture(picture, overlay_path, quality=92)
    print(f"{len(photos) - num_failed} of {len(photos)} photos segmented, in {args.output}")
    return 1 if num_failed else 0


def plan_outputs(photos, folder, overwrite):
    """The label map's and the overlay's path for each photo, once it is sure that nothing is lost by writing them."""
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"`--output` must be a folder, and {folder} is a file: name another one.")
    targets, stems = {}, {}
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


if __name__ == "__main__":
    sys.exit(main())
