"""Measures a segmentation model: mean IoU, mean accuracy, pixel accuracy and the IoU of every class.

    python scripts/evaluate.py --model outputs/camvid --dataset data/camvid --split validation
    python scripts/evaluate.py --model org/offseg-b0 --dataset data/camvid --split test --streaming --output test.json

The labels are taken at their own resolution. Writes a JSON file, by default evaluation-SPLIT.json in the model's
folder.
"""

import argparse
import sys
from pathlib import Path

# A script's folder comes first on its path, where evaluate.py would hide the library of that name.
sys.path[:] = [path for path in sys.path if Path(path).resolve() != Path(__file__).resolve().parent]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="Folder or Hub id of the model and its image processor.")
    parser.add_argument("--dataset", required=True, nargs="+", help="Hub id, folder, Parquet files or URL pattern.")
    parser.add_argument("--split", default="validation", help="Split to measure on.")
    parser.add_argument("--streaming", action="store_true", help="Read while measuring instead of before.")
    parser.add_argument("--image_column", help="Column of the photos, where it cannot be guessed.")
    parser.add_argument("--mask_column", help="Column of the label maps, where it cannot be guessed.")
    parser.add_argument("--batch_size", type=int, default=1, help="Images per batch; more than 1 need one size.")
    parser.add_argument("--size", type=int, nargs=2, help="Longest and shortest edge to resize photos to.")
    parser.add_argument(
        "--do_reduce_labels", action="store_true", help="Label 0 means 'ignore', classes count from 1."
    )
    parser.add_argument("--output", type=Path, help="JSON file to write.")
    parser.add_argument("--overwrite", action="store_true", help="Replace the JSON file if it exists.")
    args = parser.parse_args(argv)

    output = args.output or Path(args.model if Path(args.model).is_dir() else ".", f"evaluation-{args.split}.json")
    if output.exists() and not args.overwrite:
        parser.error(f"`--output` must not exist, and {output} does: name another file, or pass --overwrite.")

    from offseg_hf import OffSegImageProcessor
    from offseg_hf.data import evaluation_dataset
    from offseg_hf.hub import dataset_id, weights_digest, write_record
    from offseg_hf.inference import load_model
    from offseg_hf.training import evaluate_model

    try:
        settings = {"do_reduce_labels": True} if args.do_reduce_labels else {}
        if args.size:
            settings["size"] = {"longest_edge": max(args.size), "shortest_edge": min(args.size)}
        image_processor = OffSegImageProcessor.from_pretrained(args.model, **settings)
        model = load_model(args.model)
        dataset = evaluation_dataset(
            args.dataset,
            args.split,
            image_processor=image_processor,
            num_labels=model.config.num_labels,
            streaming=args.streaming,
            image_column=args.image_column,
            mask_column=args.mask_column,
        )
    except (OSError, ValueError) as error:
        parser.error(str(error))
    results = evaluate_model(model, image_processor, dataset, args.batch_size)

    report = {
        "model": args.model,
        "weights": weights_digest(args.model),
        "dataset": args.dataset,
        "dataset_id": dataset_id(args.dataset),
        "split": args.split,
        **results,
    }
    write_record(output, report)
    for name, value in results.items():
        print(f"{name:32}{value:8.4f}")
    print(f"written to {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
