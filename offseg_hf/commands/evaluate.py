"""Measures a model by the benchmarks' protocol: mean IoU, accuracies, the figures of every class.

    offseg evaluate --model outputs/camvid --dataset data/camvid --split validation
    accelerate launch -m offseg_hf evaluate --model org/offseg-b0 --dataset ade20k --data_dir ADEChallengeData2016 \\
        --window_size 512 512 --stride 480 480 --flip --scales 0.5 0.75 1 1.25 1.5 1.75 --pictures 16

Photos are resized as the image processor says, masks stay at their own resolution. A table is printed. Written are,
by default in the model's folder, evaluation-SPLIT.json and two pictures: evaluation-SPLIT-confusion.png shows what the
pixels of each class were taken for, evaluation-SPLIT-worst.png the photos with the lowest mean IoU.
"""

import sys
from pathlib import Path
from typing import Any

from offseg_hf.commands.parser import CommandParser, add_photo_arguments, exit_code
from offseg_hf.files import check_output, write_json


def build_parser() -> CommandParser:
    """The parser of `offseg evaluate`."""
    parser = CommandParser("evaluate", __doc__)
    parser.add_argument("--model", required=True, help="Folder or Hub id of the model and its image processor.")
    parser.add_argument(
        "--dataset", required=True, nargs="+", help="Name, Hub id, folder, Parquet files, URL pattern."
    )
    parser.add_argument("--data_dir", help="Where the data of a data set given by its name is.")
    parser.add_argument("--split", default="validation", help="Split to measure on.")
    parser.add_argument("--streaming", action="store_true", help="Read while measuring instead of before.")
    parser.add_argument("--image_column", help="Column of the photos, where it cannot be guessed.")
    parser.add_argument("--mask_column", help="Column of the label maps, where it cannot be guessed.")
    parser.add_argument("--format", help="Format of the labels, such as coco; by default found from what lies there.")
    parser.add_argument("--background", help="Class of the pixels that are not labelled in a tool's files.")
    parser.add_argument("--label_table", help="JSON file of stored id, colour or name → class, where these differ.")
    parser.add_argument(
        "--do_reduce_labels", action="store_true", help="Label 0 means 'ignore', classes count from 1."
    )
    parser.add_argument("--size", type=int, nargs=2, help="Longest and shortest edge to resize photos to.")
    parser.add_argument("--recipe", help="Data set of the paper by whose windows to measure, such as ade20k.")
    parser.add_argument("--window_size", type=int, nargs=2, help="Height and width of sliding windows; else whole.")
    parser.add_argument("--stride", type=int, nargs=2, help="From one window to the next, down and across.")
    parser.add_argument("--flip", action="store_true", help="Average over the mirror image too.")
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0], help="Factors of the size to average over.")
    parser.add_argument("--pictures", type=int, default=8, help="How many of the worst photos to show.")
    parser.add_argument("--output", type=Path, help="JSON file to write; the pictures go beside it.")
    parser.add_argument("--overwrite", action="store_true", help="Replace files that exist.")
    add_photo_arguments(parser)
    return parser


@exit_code
def main(argv: list[str] | None = None) -> int:
    """Runs `offseg evaluate`; arguments and exit codes are those of `offseg_hf.commands.main`."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.pictures < 0:
        parser.error(f"`--pictures` must be 0 or more, got {args.pictures}: pass 0 for none.")

    output = args.output or Path(args.model if Path(args.model).is_dir() else ".", f"evaluation-{args.split}.json")
    confusion, worst = (output.with_name(f"{output.stem}-{name}.png") for name in ("confusion", "worst"))
    for path in (output, confusion, worst):
        if path.is_dir():
            parser.error(f"`--output` must be a file, and {path} is a folder: name a .json file in it.")
        if path.exists() and not args.overwrite:
            parser.error(f"`--output` must not exist, and {path} does: name another file, or pass --overwrite.")
    with parser.mistakes():
        check_output(output)

    from offseg_hf import OffSegImageProcessor
    from offseg_hf.data import audited_label_table, load_segmentation_dataset, open_labelled_dataset
    from offseg_hf.data.labels import check_class_names, read_label_table
    from offseg_hf.data.presets import find_preset
    from offseg_hf.evaluation.figures import class_table
    from offseg_hf.evaluation.pictures import save_pictures
    from offseg_hf.evaluation.protocol import check_scales, evaluate_model, evaluation_processes
    from offseg_hf.model_types import load_model, loading_errors, predicted_labels
    from offseg_hf.prediction.windows import check_windows
    from offseg_hf.publishing.records import dataset_id, weights_digest
    from offseg_hf.training.recipes import apply_recipe

    state = evaluation_processes()
    with parser.mistakes():
        apply_recipe(parser, argv)
        args = parser.parse_args(argv)
        check_windows(args.window_size, args.stride)
        check_scales(args.scales)
        protocol = {name: getattr(args, name) for name in ("window_size", "stride", "flip", "scales")}
        settings: dict[str, Any] = {"do_reduce_labels": True} if args.do_reduce_labels else {}
        preset = find_preset(args.dataset)
        if (preset or args.label_table) and not args.do_reduce_labels:  # whatever the model was trained on
            settings["do_reduce_labels"] = preset is not None and preset.reduce_labels and not args.label_table
        if edges := args.size or (preset and preset.eval_size):
            settings["size"] = {"longest_edge": max(edges), "shortest_edge": min(edges)}
        if args.max_value is not None:
            settings["max_value"] = args.max_value
        with loading_errors(args.model):
            image_processor = OffSegImageProcessor.from_pretrained(args.model, **settings)
            model = load_model(args.model).to(state.device)
        id2label = predicted_labels(model.config)
        labelled = None
        if preset is None:
            labelled = open_labelled_dataset(
                args.dataset,
                format=args.format,
                names=list(id2label.values()),
                # The model of a single class has the background beside it.
                background=args.background or (id2label[0] if model.config.num_labels == 1 else None),
                label_table=args.label_table,
            )
        if labelled is not None and state.is_main_process:
            print(labelled.description())
        if labelled is None and args.label_table is None and model.config.num_labels > 1:
            check_class_names(args.dataset, id2label)
        dataset = labelled or args.dataset
        data = load_segmentation_dataset(
            dataset,
            args.split,
            streaming=args.streaming,
            image_column=args.image_column,
            mask_column=args.mask_column,
            data_dir=args.data_dir,
        )
        table = read_label_table(args.label_table, id2label) if args.label_table and labelled is None else None
        table = audited_label_table(data, dataset, model.config.num_labels, image_processor.do_reduce_labels, table)
        evaluation = evaluate_model(
            model, image_processor, data, label_table=table, num_pictures=args.pictures, **protocol
        )
    if not state.is_main_process:
        return 0

    report = {
        "model": args.model,
        "weights": weights_digest(args.model),
        "dataset": args.dataset,
        "dataset_id": dataset_id(args.dataset, args.data_dir),
        "split": args.split,
        "size": image_processor.to_dict()["size"],
        **protocol,
        "num_examples": evaluation.num_examples,
        **evaluation.metrics,
        "classes": evaluation.classes,
    }
    print(class_table(evaluation))
    print(f"{evaluation.num_examples} photos, mIoU {evaluation.metrics['mean_iou']:.4f}", flush=True)
    try:
        write_json(output, report)
        save_pictures(evaluation, id2label, confusion, worst)
    except OSError as error:  # a disk that is full, say: the figures are on the screen
        print(f"offseg evaluate: error: measured, but not written to {output}: {error}", file=sys.stderr)
        return 1
    print(f"written to {output}")
    return 0
