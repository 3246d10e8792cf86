"""Compares OffSeg on SegFormer with transformers' SegFormer, and with OffSeg computed as the paper writes it.

    python scripts/benchmarks/compare_speed.py --variants offseg-b0 offseg-b2 --sizes 512 1024 --output outputs/speed
    python scripts/benchmarks/compare_speed.py --checkpoint outputs/my-model --sizes 512x1024 --measure photo memory
    python scripts/benchmarks/compare_speed.py --measure forward --dtype bfloat16 --device cuda --compile

Prints tables of time and memory. The folder `--output` gets `benchmark.json`, written after every case, from which
`--resume` goes on; `benchmark.png` where there are several sizes; and `accuracy.png` where there are several variants.
"""

import argparse
from dataclasses import fields
from pathlib import Path

USAGE = (
    "compare_speed.py [--variants NAME …] [--sizes HxW …] [--measure NAME …] [--output FOLDER] … (--help lists all)"
)


def size(text):
    """(height, width) of `512x1024`, or of one number for a square."""
    sides = [int(side) for side in text.split("x")]
    if len(sides) > 2:
        raise ValueError
    return sides[0], sides[-1]


def main(argv=None):
    parser = argparse.ArgumentParser(
        usage=USAGE, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--measure", nargs="+", default=["all"], help="forward, photo, post_processing, training, offset_learning, "
        "memory, limits, counts; all by default.")  # fmt: skip
    add("--variants", nargs="+", default=["offseg-b0"], help="offseg-b0 to offseg-b5.")
    add(
        "--sizes",
        nargs="+",
        type=size,
        default=[(512, 512)],
        help="Height x width of the models' input in pixels, or one number.",
    )
    add("--num_labels", nargs="+", type=int, default=[150], help="Numbers of classes to measure with.")
    add("--batch_sizes", nargs="+", type=int, default=[1], help="Images in a batch of a forward pass.")
    add("--training_batch_size", type=int, default=4, help="Images in a batch of a training step.")
    add("--checkpoint", help="Trained OffSeg model on SegFormer, with its classes, instead of random weights.")
    add(
        "--segformer_decoder_size",
        type=int,
        help="Channels of SegFormer's decoder: 256 in the paper; by default as released.",
    )
    add("--dtype", default="float32", help="float32 or bfloat16; for training, of autocast.")
    add("--device", default="cpu", help="cpu or cuda.")
    add("--compile", action="store_true", help="Compile all models, and count graph breaks.")
    add("--num_threads", type=int, default=2, help="torch's threads on a CPU.")
    add("--num_repeats", type=int, default=10, help="Rounds to measure, after one to warm up.")
    add("--output", type=Path, help="Folder for the record and the pictures.")
    exclusive = parser.add_mutually_exclusive_group()
    exclusive.add_argument("--resume", action="store_true", help="Go on from the record in that folder.")
    exclusive.add_argument("--overwrite", action="store_true", help="Replace the record in that folder.")
    args = parser.parse_args(argv)
    if args.resume and args.output is None:
        parser.error("`--output` must name the folder to resume from, got none; pass it.")

    from benchmark import measure_case
    from benchmark_cases import MEASURES, Settings, list_cases
    from benchmark_pictures import write_pictures
    from benchmark_report import describe_settings, is_measured, markdown_tables, start_record
    from tqdm import tqdm
    from transformers.utils.logging import disable_progress_bar

    from offseg_hf.files import write_json

    disable_progress_bar()  # of loading weights, a bar for every model
    try:
        settings = Settings(**{field.name: getattr(args, field.name) for field in fields(Settings)})
        cases = list_cases(
            MEASURES if args.measure == ["all"] else args.measure, args.variants, args.sizes, args.num_labels,
            args.batch_sizes, args.training_batch_size, args.checkpoint,
        )  # fmt: skip
        path = (args.output or Path()) / "benchmark.json"
        may_replace = args.overwrite or args.output is None
        record = start_record(path, describe_settings(settings), args.resume, may_replace)
        todo = [case for case in cases if not is_measured(record, case)]
        for case in tqdm(todo, unit="case", disable=None):
            record["cases"].append(measure_case(case, settings))
            if args.output is not None:
                write_json(path, record)
    except (ImportError, MemoryError, OSError, RuntimeError, ValueError) as error:
        parser.error(str(error))
    print(markdown_tables(record))
    if args.output is not None:
        write_pictures(args.output, record)


if __name__ == "__main__":
    main()
