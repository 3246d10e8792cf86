"""Writes photos and masks, or what a labelling tool wrote, as Parquet shards: checked and shown first.

    offseg prepare --dataset photos_and_masks --labels sky,road,car --output data/mine --num_proc 8
    offseg prepare --dataset annotations.json --validation_fraction 0.1 --output data/mine
    offseg prepare --dataset ade20k --data_dir ADEChallengeData2016 --output data/ade20k \\
        --push_to_hub org/ade20k

The files are kept bit for bit, in one random order. After an interruption the same command goes on where it stopped.
Every photo and mask is decoded; what was found is in preview.jpg, to be looked at before training, in preparation.json
and in README.md, the data set's card.
"""

import os
import sys
from pathlib import Path

from offseg_hf.commands.parser import CommandParser, add_photo_arguments, exit_code


def build_parser() -> CommandParser:
    """The parser of `offseg prepare`."""
    parser = CommandParser("prepare", __doc__)
    parser.add_argument(
        "--dataset", required=True, help="Folder or file of a labelling tool, folder of photos and masks, or ade20k …"
    )
    parser.add_argument("--format", help="Format of the labels, such as coco; by default found from what lies there.")
    parser.add_argument("--data_dir", help="Folder of the official download of a data set that is given by its name.")
    parser.add_argument("--output", required=True, type=Path, help="Folder for the shards, the record and the card.")
    parser.add_argument(
        "--splits", nargs="+", help="Splits to prepare; by default train and validation, or all that a tool has."
    )
    parser.add_argument("--labels", help="Names of the classes: sky,road,car, or a .txt or .json file.")
    parser.add_argument("--background", help="Class of the pixels that are not labelled; by default they are ignored.")
    parser.add_argument("--do_reduce_labels", action="store_true", help="Id 0 means unlabelled, classes start at 1.")
    parser.add_argument("--label_table", help="JSON file of stored id, colour or name → class, where they differ.")
    parser.add_argument("--name", help="What the card calls the data set; by default its folder's name.")
    parser.add_argument("--license", help="Licence of the data as the Hub spells it, such as cc-by-4.0.")
    parser.add_argument("--image_column", help="Column of the photos in metadata.jsonl, where it cannot be guessed.")
    parser.add_argument("--mask_column", help="Column of the masks in metadata.jsonl, where it cannot be guessed.")
    parser.add_argument(
        "--validation_fraction", type=float, help="Share of the photos to set aside for validation, such as 0.1."
    )
    parser.add_argument(
        "--group_by", help="Regular expression; photos whose names agree in what it finds stay in one split."
    )
    parser.add_argument("--no_preview", action="store_true", help="Draw no preview.jpg.")
    parser.add_argument("--only_preview", action="store_true", help="Draw the preview, and write nothing else.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the order of the examples.")
    parser.add_argument("--max_shard_size", default="100MB", help="Largest size of a shard's photos and masks.")
    parser.add_argument(
        "--max_row_group_size", default="16MB", help="Largest part of a shard that is read for one example."
    )
    parser.add_argument(
        "--num_proc", type=int, default=os.cpu_count(), help="Processes; by default one for each core."
    )
    parser.add_argument("--skip_broken", action="store_true", help="Leave out what cannot be read or does not fit.")
    parser.add_argument("--overwrite", action="store_true", help="Remove another preparation from --output first.")
    parser.add_argument("--push_to_hub", metavar="NAMESPACE/NAME", help="Publish it there, as private.")
    parser.add_argument("--public", action="store_true", help="Publish it for everybody to see.")
    add_photo_arguments(parser, with_max_value=False)  # the files stay as they are
    return parser


@exit_code
def main(argv: list[str] | None = None) -> int:
    """Runs `offseg prepare`; arguments and exit codes are those of `offseg_hf.commands.main`."""
    parser = build_parser()
    args = parser.parse_args(argv)

    from offseg_hf.data import open_labelled_dataset
    from offseg_hf.data.labels import read_id2label, read_label_table
    from offseg_hf.data.preparation import check_redistribution, prepare_dataset, prepared_files
    from offseg_hf.publishing.upload import check_repository, upload_repository

    repository = {"repo_id": args.push_to_hub, "private": not args.public, "repo_type": "dataset"}
    with parser.mistakes(RuntimeError):  # a process that was killed
        if args.push_to_hub is not None:
            check_redistribution(args.dataset)
            check_repository(**repository)
        id2label = read_id2label(args.labels) if args.labels else None
        labelled = None
        if args.data_dir is None:
            labelled = open_labelled_dataset(
                args.dataset,
                format=args.format,
                names=list(id2label.values()) if id2label else None,
                background=args.background,
                label_table=args.label_table,
            )
        if labelled is not None:
            print(labelled.description())
        for name in ("do_reduce_labels", "image_column", "mask_column"):
            if labelled is not None and getattr(args, name):
                parser.error(f"`--{name}` must be left out for a labelling tool's files, got it for {args.dataset}.")
        for name in ("label_table", "do_reduce_labels"):
            if labelled is None and getattr(args, name) and not args.labels and args.data_dir is None:
                parser.error(
                    f"`--{name}` needs `--labels`, the names of the classes that the ids stand for; pass both."
                )
        record = prepare_dataset(
            labelled or args.dataset,
            args.output,
            args.splits,
            data_dir=args.data_dir,
            id2label=id2label,
            reduce_labels=args.do_reduce_labels,
            label_table=read_label_table(args.label_table, id2label)
            if args.label_table and id2label is not None and labelled is None
            else None,
            name=args.name,
            license=args.license,
            repo_id=args.push_to_hub,
            image_column=args.image_column,
            mask_column=args.mask_column,
            validation_fraction=args.validation_fraction,
            group_by=args.group_by,
            preview=not args.no_preview,
            only_preview=args.only_preview,
            seed=args.seed,
            max_shard_size=args.max_shard_size,
            max_row_group_size=args.max_row_group_size,
            num_proc=args.num_proc,
            skip_broken=args.skip_broken,
            overwrite=args.overwrite,
        )
    if args.only_preview:
        print(f"look at {args.output / 'preview.jpg'}")
        return 0
    for note in record["notes"]:
        print(note)
    for split, found in record["splits"].items():
        counts = f"{found['num_examples']:,} examples in {found['num_shards']:,} shards"
        print(f"{split}: {counts}, {found['num_bytes']:,} bytes")
    print(f"written to {args.output}" + (f"; look at {args.output / 'preview.jpg'}" if record["preview"] else ""))
    if args.push_to_hub is not None:
        try:
            url, is_new = upload_repository(args.output, **repository, files=prepared_files(args.output))
        except (OSError, ValueError) as error:
            print(f"offseg prepare: prepared in {args.output}, but not published: {error}", file=sys.stderr)
            return 1
        print(f"published: {url}" if is_new else f"nothing has changed since {url}")
    return 0
