"""Compares the time of training's input pipeline with that of the least work: to decode a photo and resize it once.

    python scripts/benchmarks/input_pipeline.py
    python scripts/benchmarks/input_pipeline.py --dataset data/camvid --crop_size 512 512 --resize 2048 512

The pipeline decodes photo and mask, augments, normalises and collates them. Both are timed in turn on the same
examples, in batches of 8, in one process on one thread, as a worker of a DataLoader works. Without `--dataset` they
are timed on drawn photos of 500×375 pixels.
"""

import argparse
import io
import math
import statistics
import time


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--dataset", nargs="+", help="Hub id, folder, Parquet files or URL pattern; by default photos are drawn."
    )
    parser.add_argument("--split", default="train", help="Split to read.")
    parser.add_argument("--crop_size", type=int, nargs=2, default=[512, 512], help="Height and width of a crop.")
    parser.add_argument("--resize", type=int, nargs=2, default=[2048, 512], help="Longest and shortest edge.")
    parser.add_argument("--num_examples", type=int, default=64, help="Examples per round.")
    parser.add_argument("--num_rounds", type=int, default=7, help="Rounds, of which the median counts.")
    parser.add_argument("--examples_per_second", type=float, nargs="+", default=[20, 50, 100, 200, 400],
                        help="Speeds of training to print the number of workers for.")  # fmt: skip
    args = parser.parse_args(argv)

    import torch

    from offseg_hf import OffSegImageProcessor
    from offseg_hf.data import PrepareExample, TrainTransform, stack_examples

    torch.set_num_threads(1)
    examples = read_examples(args) if args.dataset else drawn_examples(args.num_examples)
    transform = TrainTransform(crop_size=tuple(args.crop_size), resize=tuple(args.resize))
    prepare = PrepareExample(OffSegImageProcessor(), transform)

    def pipeline(examples):
        stack_examples([prepare({**example, "augmentation_seed": index}) for index, example in enumerate(examples)])

    def bare(examples):
        for example in examples:
            decode_and_resize(example, args.resize)

    seconds = {pipeline: [], bare: []}
    for number in range(args.num_rounds + 1):
        for function, times in seconds.items():
            start = time.perf_counter()
            for first in range(0, len(examples), 8):
                function(examples[first : first + 8])
            if number:  # the first round warms up
                times.append((time.perf_counter() - start) / len(examples))
    ratios = [ours / others for ours, others in zip(seconds[pipeline], seconds[bare])]
    median = statistics.median(seconds[pipeline])
    print(f"input pipeline: {1000 * median:.1f} ms an example, {1 / median:.0f} a second and worker")
    print(f"bare decoding and one resize: {1000 * statistics.median(seconds[bare]):.1f} ms")
    print(f"ratio: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f} in {len(ratios)} rounds)")
    for speed in args.examples_per_second:
        print(f"for {speed:g} examples a second: {math.ceil(speed * median)} workers")
    return statistics.median(ratios)


def read_examples(args):
    """The first examples of a data set, undecoded."""
    from itertools import islice

    from offseg_hf.data import load_segmentation_dataset

    data = load_segmentation_dataset(args.dataset, args.split, streaming=True)
    return list(islice(data, args.num_examples))


def drawn_examples(count):
    """Street scenes as undecoded JPEG photos and PNG label maps."""
    from PIL import Image

    from offseg_hf.data.scenes.scenes import draw_scene

    examples = []
    for seed in range(min(count, 16)):
        photo, mask = draw_scene(seed, (375, 500))
        files = io.BytesIO(), io.BytesIO()
        photo.save(files[0], "JPEG", quality=92)
        Image.fromarray(mask).save(files[1], "PNG")
        examples.append(
            {name: {"bytes": file.getvalue(), "path": None} for name, file in zip(("image", "mask"), files)}
        )
    return (examples * math.ceil(count / len(examples)))[:count]


def decode_and_resize(example, resize):
    """The least that any pipeline must do: decodes the whole JPEG and resizes the photo once."""
    from PIL import Image

    source = example["image"]
    with Image.open(io.BytesIO(source["bytes"]) if source["bytes"] else source["path"]) as file:
        photo = file.convert("RGB")
    scale = min(max(resize) / max(photo.size), min(resize) / min(photo.size))
    photo.resize([round(side * scale) for side in photo.size], Image.Resampling.BILINEAR)


if __name__ == "__main__":
    main()
