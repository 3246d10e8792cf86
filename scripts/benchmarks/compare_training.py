"""Trains models with the same schedule and several seeds, and compares the mean IoU that they reach.

    python scripts/benchmarks/compare_training.py --dataset data/camvid --labels sky,building,road --max_steps 600 \\
        --models segformer-b0 offseg-b0 --output outputs/comparison.json
    python scripts/benchmarks/compare_training.py --dataset data/camvid --labels labels.txt --seeds 0 1 2 \\
        --max_steps 600 --resize 320 240 --crop_size 128 192 --output outputs/comparison.json \\
        --models segformer-b0 offseg-b0 offseg-segnext-t-1x1 offseg-segnext-t offseg-t upernet-1x1 upernet

Every model starts from random weights, on the CPU or the first GPU, under bfloat16 autocast. A variant's name followed
by `-1x1` is that variant with a plain 1×1 classifier in place of offset learning; `upernet` is a small UPerNet on
ConvNeXt with offset learning. `--output` gets the metrics of every run; runs that it holds already are not repeated,
so an interrupted comparison goes on.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

PLAIN = "-1x1"


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "--models",
        nargs="+",
        required=True,
        help="Variants, such as offseg-b0 or offseg-b0-1x1; upernet, upernet-1x1.",
    )
    add("--dataset", required=True, nargs="+", help="Hub id, folder, Parquet files or URL pattern.")
    add("--labels", required=True, help="Class names separated by commas, or a file of them.")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="Seeds; every model is trained once with each.")
    add("--max_steps", type=int, required=True, help="Training steps of each run.")
    add("--warmup_steps", type=float, default=0.1, help="Warm-up steps; below 1, their share of all steps.")
    add("--batch_size", type=int, default=8, help="Images per step.")
    add("--learning_rate", type=float, default=6e-4, help="Learning rate of the encoder.")
    add("--head_learning_rate_factor", type=float, default=5 / 3, help="Learning rate of the head ÷ the encoder's.")
    add("--resize", type=int, nargs=2, default=[2048, 512], help="Longest and shortest edge of a photo, in pixels.")
    add("--crop_size", type=int, nargs=2, default=[512, 512], help="Height and width of a training crop, in pixels.")
    add("--output", type=Path, required=True, help="JSON file of the runs; new runs are added to it.")
    args = parser.parse_args(argv)

    from offseg_hf.data import read_id2label
    from offseg_hf.files import write_json

    id2label = read_id2label(args.labels)
    schedule = {name: value for name, value in vars(args).items() if name not in ("models", "seeds", "output")}
    record = json.loads(args.output.read_text()) if args.output.exists() else {"schedule": schedule, "runs": {}}
    if record["schedule"] != schedule:
        parser.error(f"`--output` must hold runs of this schedule, and {args.output} holds others: name another file.")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    for seed in args.seeds:
        for name in args.models:
            runs = record["runs"].setdefault(name, {})
            if str(seed) not in runs:
                runs[str(seed)] = run(name, seed, id2label, args)
                write_json(args.output, record)
                print(f"{name}, seed {seed}: mIoU {runs[str(seed)]['mean_iou']:.4f}", flush=True)
    print(table(record["runs"]))


def run(name, seed, id2label, args):
    """Trains and measures one model: its number of parameters and its metrics, in [0, 1]."""
    import torch
    from transformers import set_seed

    from offseg_hf import OffSegImageProcessor, SegmentationTrainer, SegmentationTrainingArguments
    from offseg_hf.data import TrainTransform, training_dataset

    set_seed(seed)
    model = create(name, id2label)
    image_processor = OffSegImageProcessor(size={"longest_edge": max(args.resize), "shortest_edge": min(args.resize)})
    transform = TrainTransform(crop_size=tuple(args.crop_size), resize=tuple(args.resize))
    train_dataset = training_dataset(
        args.dataset,
        "train",
        image_processor=image_processor,
        transform=transform,
        num_labels=len(id2label),
        seed=seed,
    )
    with tempfile.TemporaryDirectory() as folder:  # Trainer wants one
        training_args = SegmentationTrainingArguments(
            output_dir=folder, max_steps=args.max_steps, per_device_train_batch_size=args.batch_size, bf16=True,
            learning_rate=args.learning_rate, head_learning_rate_factor=args.head_learning_rate_factor,
            warmup_steps=args.warmup_steps, save_strategy="no", seed=seed, data_seed=seed, logging_steps=100,
            use_cpu=not torch.cuda.is_available(),
        )  # fmt: skip
        SegmentationTrainer(model, training_args, train_dataset=train_dataset).train()
    return {"parameters": model.num_parameters(), **measure(model, image_processor, args.dataset)}


def measure(model, image_processor, dataset):
    """The metrics of a model on the validation photos, with labels at their own resolution."""
    from offseg_hf.data import load_segmentation_dataset
    from offseg_hf.evaluation.protocol import evaluate_model

    data = load_segmentation_dataset(dataset, "validation")
    return evaluate_model(model, image_processor, data).metrics


def create(name, id2label):
    """The model of a name, with random weights."""
    from torch import nn
    from transformers import ConvNextConfig, UperNetConfig, UperNetForSemanticSegmentation

    from offseg_hf import OffsetLearningForSemanticSegmentation
    from offseg_hf.training.model import create_model

    variant, is_plain = name.removesuffix(PLAIN), name.endswith(PLAIN)
    if variant == "upernet":
        stages = {"hidden_sizes": [32, 64, 128, 256], "depths": [2, 2, 4, 2]}
        backbone = ConvNextConfig(**stages, out_features=["stage1", "stage2", "stage3", "stage4"])
        config = UperNetConfig(
            backbone_config=backbone, hidden_size=64, use_auxiliary_head=False, id2label=id2label,
            label2id={label: label_id for label_id, label in id2label.items()}, loss_ignore_index=255,
        )  # fmt: skip
        base = UperNetForSemanticSegmentation(config)
        return base if is_plain else OffsetLearningForSemanticSegmentation.from_base(base)
    model = create_model(variant, None, id2label)
    if is_plain:
        head, config = model.decode_head, model.config
        head.offset_learning = nn.Conv2d(head.offset_learning.cls_repr.shape[-1], config.num_labels, kernel_size=1)
        nn.init.normal_(head.offset_learning.weight, std=0.02)
        nn.init.zeros_(head.offset_learning.bias)
        config.attention_loss_weight = 0  # there is no coupled attention
    return model


def table(runs):
    """The comparison as a Markdown table, a row for each model."""
    from offseg_hf.markdown import markdown_table

    rows = []
    for name, by_seed in runs.items():
        values = [results["mean_iou"] for results in by_seed.values()]
        spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
        each = ", ".join(f"{value:.3f}" for value in values)
        parameters = next(iter(by_seed.values()))["parameters"]
        rows.append((name, f"{parameters / 1e6:.2f} M", f"{statistics.mean(values):.3f}{spread}", each))
    return markdown_table(("model", "parameters", "mIoU, mean ± standard deviation", "mIoU of each seed"), rows, "lrl")


if __name__ == "__main__":
    main()
