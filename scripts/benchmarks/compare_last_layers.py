"""Trains the same head with one last layer after the other, and compares the mean IoU that they reach.

    python scripts/benchmarks/compare_last_layers.py --encoder outputs/efficientnet-lite0 --dataset data/camvid \\
        --labels sky,building,pole,road,pavement,tree,sign,fence,car,pedestrian,bicyclist --max_steps 400 \\
        --last_layers conv1x1 offset_learning --seeds 0 1 2 3 4 --output outputs/last_layers
    python scripts/benchmarks/compare_last_layers.py --report outputs/last_layers --plot outputs/last_layers.png

The encoder is a folder of pre-trained weights, such as `offseg convert` writes (see docs/encoders.md). It stays as it
is, so that its maps are computed once, unless `--fine_tune` is given. Photos are taken whole, mirrored at random; per
seed, the head's start, the photos' order and their mirroring are the same for every last layer. Each run is written to
a file of its own and is not repeated, so that an interrupted comparison goes on, also in several processes at once,
each with seeds of its own. `--report` prints the tables as Markdown, with paired differences from the 1×1 classifier.
"""

import argparse
import json
import statistics
import time
from collections import defaultdict
from pathlib import Path

import torch
from scipy import stats
from torch import nn
from torch.nn import functional as F
from transformers import AutoImageProcessor

from offseg_hf import OffSegBackboneForSemanticSegmentation
from offseg_hf.data import load_segmentation_dataset, read_id2label
from offseg_hf.evaluation.metric import SemanticSegmentationMetric
from offseg_hf.files import write_json
from offseg_hf.markdown import markdown_table
from offseg_hf.models.decode_head import OffSegDecodeHead
from offseg_hf.models.image_processing_offseg import read_image, read_mask
from offseg_hf.models.modeling_offseg_backbone import feature_maps
from offseg_hf.models.segmentation_loss import offset_learning_loss

# Name → fields of the configuration. What is done to the layer itself is in `replace_last_layer`.
PLAIN = {"logit_normalization": "class_bias", "attention_loss_weight": 0.0}
LAST_LAYERS = {
    "conv1x1": PLAIN,  # a 1×1 convolution, started as torch does
    "conv1x1_small_start": PLAIN,  # the same, its weight started with a deviation of 0.02
    "mlp": PLAIN,  # a residual branch with as many parameters as offset learning has, and a 1×1 convolution
    "offset_learning": {},  # the package's default for the number of classes
    "offset_learning_one_loss": {"attention_loss_weight": 0.0},
    "class_offset": {},
    "feature_offset": {},
    "no_offset": {},
    "layer_norm": {"logit_normalization": "layer_norm"},  # as published
    "fitted_layer_norm": {"logit_normalization": "fitted_layer_norm", "attention_loss_weight": 0.0},
    "fitted_layer_norm_two_losses": {"logit_normalization": "fitted_layer_norm", "attention_loss_weight": 0.4},
}
BASELINE = "conv1x1"


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--report", type=Path, help="Folder of runs, or one file with a list of them, to print the tables of.")
    add("--plot", type=Path, help="Picture to draw with --report: the differences against the number of steps.")
    add("--encoder", type=Path, help="Folder of the pre-trained encoder.")
    add("--dataset", help="Hub id, folder, Parquet files or URL pattern.")
    add("--labels", help="Class names separated by commas, or a file of them.")
    add("--merge", nargs="+", default=[], help="Classes to merge, as name,name …; those not named are one more.")
    add("--last_layers", nargs="+", choices=LAST_LAYERS, default=[BASELINE, "offset_learning"], help="To compare.")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="Every last layer is trained once with each.")
    add("--max_steps", type=int, default=400, help="Training steps, of 8 photos each.")
    add("--size", type=int, nargs=2, default=[320, 224], help="Width and height of the photos, in pixels.")
    add("--finest_stride", type=int, default=4, help="Of the maps that the head reads: 4, or 8 for a cheaper head.")
    add("--fine_tune", action="store_true", help="Train the encoder too, but for its BatchNorm statistics.")
    add("--learning_rate", type=float, default=2e-3, help="Of the head at the first step; it decays linearly to 0.")
    add("--encoder_learning_rate", type=float, default=2e-4, help="Of the encoder, with --fine_tune.")
    add("--threads", type=int, default=1, help="Of the CPU.")
    add("--output", type=Path, help="Folder of the runs.")
    args = parser.parse_args(argv)
    if args.report is not None:
        if args.report.is_dir():
            runs = [json.loads(path.read_text()) for path in sorted(args.report.glob("*.json"))]
        else:
            runs = json.loads(args.report.read_text())
        print(report(runs))
        if args.plot is not None:
            draw_differences(runs).savefig(args.plot, dpi=150)
        return
    if missing := [name for name in ("encoder", "dataset", "labels", "output") if getattr(args, name) is None]:
        parser.error(f"`--{missing[0]}` must be given, unless `--report` is.")

    args.class_names = list(read_id2label(args.labels).values())
    named = [name for group in args.merge for name in group.split(",")]
    if len({*named}) < len(named) or not {*named} <= {*args.class_names}:
        parser.error(f"`--merge` must have names of --labels, each once, got {' '.join(args.merge)}: check the names.")
    settings = {name: getattr(args, name) for name in ("size", "merge", "learning_rate", "encoder_learning_rate")}
    torch.set_num_threads(args.threads)
    args.output.mkdir(parents=True, exist_ok=True)
    comparison = None
    for seed in args.seeds:
        for name in args.last_layers:
            run = describe(args, name, seed)
            path = args.output / ("-".join(str(value) for value in run.values()) + ".json")
            if path.exists():
                if json.loads(path.read_text())["settings"] != settings:
                    parser.error(f"`--output` must hold runs of these settings, and {path} has others: name another.")
                continue
            comparison = comparison or Comparison(args)
            start = time.perf_counter()
            mean_iou, iou = comparison.run(name, seed)
            minutes = (time.perf_counter() - start) / 60
            write_json(path, {**run, "settings": settings, "mean_iou": mean_iou, "iou": iou, "minutes": minutes})
            print(f"{path.stem}: mIoU {mean_iou:.4f}, {minutes:.1f} minutes", flush=True)


def describe(args, name, seed):
    """What makes a run what it is."""
    return {
        "encoder": args.encoder.name,
        "training": "fine_tuned" if args.fine_tune else "frozen",
        "finest_stride": args.finest_stride,
        "width": args.size[0],
        "num_classes": len(merged_classes(args)),
        "max_steps": args.max_steps,
        "last_layer": name,
        "seed": seed,
    }


def merged_classes(args):
    """Names of the classes to learn, each a list of what `--labels` calls them."""
    groups = [group.split(",") for group in args.merge]
    rest = [name for name in args.class_names if not any(name in group for group in groups)]
    if not groups:
        return [[name] for name in rest]
    return [*groups, rest] if rest else groups


class Comparison:
    """The data, and the maps of an encoder that stays as it is; `run` trains and measures one last layer."""

    batch_size = 8

    def __init__(self, args):
        self.args = args
        groups = merged_classes(args)
        self.class_names = ["+".join(group) for group in groups]
        self.class_ids = [next(i for i, group in enumerate(groups) if name in group) for name in args.class_names]
        self.images, _, self.labels = self.read("train")
        self.eval_images, self.eval_labels, _ = self.read("validation")
        self.maps = self.eval_maps = None
        if not args.fine_tune:
            model = self.model("conv1x1", 0)
            self.maps = encode(model, [self.images, self.images.flip(3)])
            self.eval_maps = encode(model, [self.eval_images])

    def read(self, split):
        """Photos (N, 3, h, w) as the encoder wants them, labels as they are stored, and at half the photos' size."""
        width, height = self.args.size
        processor = AutoImageProcessor.from_pretrained(self.args.encoder)
        processor.size = {"height": height, "width": width}
        examples = list(load_segmentation_dataset(self.args.dataset, split, streaming=True))
        images = [processor(read_image(example["image"]), return_tensors="pt").pixel_values for example in examples]
        masks = torch.stack([torch.tensor(read_mask(example["mask"])) for example in examples]).long()
        table = torch.full((256,), 255)
        table[: len(self.class_ids)] = torch.tensor(self.class_ids)
        masks = table[masks]
        rows, columns = (
            ((2 * torch.arange(size // 2) + 1) * stored // size).clamp(max=stored - 1)
            for size, stored in zip((height, width), masks.shape[1:])
        )
        return torch.cat(images), masks, masks[:, rows][:, :, columns]

    def model(self, name, seed):
        """The encoder and a head with a last layer, whose start but for that layer is the same for each."""
        fields = {"decoder_hidden_size": 128, "id2label": dict(enumerate(self.class_names)), **LAST_LAYERS[name]}
        torch.manual_seed(seed)
        model = OffSegBackboneForSemanticSegmentation.from_backbone(self.args.encoder, **fields)
        if model.pyramid is not None:
            raise SystemExit("`--encoder` must have maps of several strides, which a plain vision transformer lacks.")
        if self.args.finest_stride == 8:
            torch.manual_seed(seed)
            model.decode_head = OffSegDecodeHead(
                model.config, feature_maps(model.config.backbone_config)[1][1:], pools=False
            )
        torch.manual_seed(seed)
        replace_last_layer(model.decode_head, name, len(self.class_names))
        return model

    def run(self, name, seed):
        """Mean IoU, and the IoU of each class by name."""
        args, model = self.args, self.model(name, seed)
        head, encoder = model.decode_head, model.backbone
        groups = [{"params": [p for p in head.parameters() if p.requires_grad], "base": args.learning_rate}]
        if args.fine_tune:
            groups.append({"params": list(encoder.parameters()), "base": args.encoder_learning_rate})
        optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
        generator, order = torch.Generator().manual_seed(seed), []
        for step in range(args.max_steps):
            for group in optimizer.param_groups:
                group["lr"] = group["base"] * (1 - step / args.max_steps)
            while len(order) < self.batch_size:
                order += torch.randperm(len(self.images), generator=generator).tolist()
            batch, order = torch.tensor(order[: self.batch_size]), order[self.batch_size :]
            mirrored = torch.rand(self.batch_size, generator=generator) < 0.5
            labels = torch.where(mirrored[:, None, None], self.labels[batch].flip(2), self.labels[batch])
            head.train()  # the encoder stays in evaluation mode
            with torch.autocast("cpu", torch.bfloat16):
                logits, features = head(self.inputs(encoder, batch, mirrored))
            loss = offset_learning_loss(head.offset_learning, features, logits.float(), labels, model.config)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return self.measure(model)

    def inputs(self, encoder, batch, mirrored):
        """The feature maps of a batch of training photos."""
        if self.maps is not None:
            return self.chosen([maps[batch + mirrored * len(self.images)] for maps in self.maps])
        images = self.images[batch]
        images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
        return self.chosen(encoder(images.contiguous(memory_format=torch.channels_last)).feature_maps)

    def chosen(self, maps):
        return maps[1:] if self.args.finest_stride == 8 else maps

    def measure(self, model):
        """The same, over the validation photos at the labels' own resolution."""
        model.eval()
        eval_maps = self.eval_maps or encode(model, [self.eval_images])
        metric = SemanticSegmentationMetric(len(self.class_names), ignore_index=255)
        with torch.no_grad():
            for start in range(0, len(self.eval_labels), self.batch_size):
                part = slice(start, start + self.batch_size)
                logits, _ = model.decode_head(self.chosen([maps[part] for maps in eval_maps]))
                labels = self.eval_labels[part]
                logits = F.interpolate(logits, labels.shape[1:], mode="bilinear")
                metric.add_batch(predictions=logits.argmax(1), references=labels)
        found = metric.compute()
        iou = dict(zip(self.class_names, (float(value) for value in found["per_category_iou"])))
        return float(found["mean_iou"]), iou


def encode(model, batches_of_images):
    """The maps of all photos, by stride, from the backbone in evaluation mode."""
    parts = []
    with torch.no_grad():
        for images in batches_of_images:
            for part in images.split(8):
                maps = model.backbone(part.contiguous(memory_format=torch.channels_last)).feature_maps
                parts.append([one.contiguous(memory_format=torch.channels_last) for one in maps])
    return [torch.cat(maps) for maps in zip(*parts)]


def replace_last_layer(head, name, num_classes):
    """Puts another layer in the place of offset learning, or takes one or both offsets away."""
    layer = head.offset_learning
    channels = layer.cls_repr.shape[2]
    for kept, projection in (("class_offset", layer.cls_offset_proj), ("feature_offset", layer.feat_offset_proj)):
        if name in ("class_offset", "feature_offset", "no_offset") and name != kept:
            projection.weight.requires_grad_(False).zero_()
    if name.startswith("conv1x1") or name == "mlp":
        classifier = nn.Conv2d(channels, num_classes, 1)
        if name == "conv1x1_small_start":
            nn.init.trunc_normal_(classifier.weight, std=0.02)
            nn.init.zeros_(classifier.bias)
        head.offset_learning = classifier
        if name == "mlp":
            head.offset_learning = nn.Sequential(ResidualBranch(channels), classifier)


class ResidualBranch(nn.Module):
    """Features plus two 1×1 convolutions of them, which have the size of offset learning's two projections."""

    def __init__(self, channels):
        super().__init__()
        first, second = (nn.Conv2d(channels, channels, 1, bias=False) for _ in range(2))
        self.branch = nn.Sequential(first, nn.ReLU(), second)

    def forward(self, features):
        return features + self.branch(features)


def report(runs):
    """Markdown tables of the runs: one per encoder, training, classes and steps."""
    tables = defaultdict(lambda: defaultdict(dict))
    for run in runs:
        setting = tuple(run[name] for name in list(run)[:6])
        tables[setting][run["last_layer"]][run["seed"]] = run
    parts = []
    for setting, layers in sorted(tables.items(), key=str):
        rows = [("last layer", "mIoU", "seeds", "difference from the 1×1 classifier, 95 % interval")]
        for name in LAST_LAYERS:
            if by_seed := layers.get(name):
                scores = [by_seed[seed]["mean_iou"] for seed in sorted(by_seed)]
                deviation = statistics.stdev(scores) if len(scores) > 1 else float("nan")
                rows.append(
                    (
                        name,
                        f"{statistics.mean(scores):.4f} ± {deviation:.4f}",
                        ", ".join(f"{score:.4f}" for score in scores),
                        "" if name == BASELINE else interval(differences(layers.get(BASELINE, {}), by_seed)),
                    )
                )
        parts += ["### " + ", ".join(map(str, setting)), markdown_table(rows[0], rows[1:])]
    return "\n\n".join(parts)


def differences(first, second, value=lambda run: run["mean_iou"]):
    """Of the seeds that both have."""
    return [value(second[seed]) - value(first[seed]) for seed in sorted(first.keys() & second.keys())]


def half_interval(paired):
    """Half the width of the 95 % interval of the mean of paired differences, by Student's t."""
    return stats.t.ppf(0.975, len(paired) - 1) * statistics.stdev(paired) / len(paired) ** 0.5


def interval(paired):
    """Mean and 95 % interval, as text."""
    if len(paired) < 2:
        return "one seed"
    mean, half = statistics.mean(paired), half_interval(paired)
    return f"{mean:+.4f} ({mean - half:+.4f} to {mean + half:+.4f})"


def draw_differences(runs):
    """A figure: what offset learning is ahead of the 1×1 classifier, by steps, with 95 % intervals."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.axhline(0, color="grey", linewidth=0.8)
    names = ("encoder", "training", "finest_stride", "width", "num_classes")
    settings = [tuple(run[name] for name in names) for run in runs]
    most = max(settings, key=settings.count)  # of several, the setting with the most runs
    runs = [run for run, setting in zip(runs, settings) if setting == most]
    for name, label in (("offset_learning", "offset learning"), ("mlp", "as many parameters without offsets")):
        points = []
        for max_steps in sorted({run["max_steps"] for run in runs}):
            layers = defaultdict(dict)
            for run in runs:
                if run["max_steps"] == max_steps:
                    layers[run["last_layer"]][run["seed"]] = run
            paired = differences(layers[BASELINE], layers[name])
            if len(paired) > 1:
                points.append((max_steps, 100 * statistics.mean(paired), 100 * half_interval(paired)))
        if points:
            steps, means, halves = zip(*points)
            axes.errorbar(steps, means, halves, marker="o", capsize=4, label=label)
    axes.set(xscale="log", xlabel="steps of 8 photos", ylabel="points of mIoU above the 1×1 classifier")
    axes.legend()
    return figure


if __name__ == "__main__":
    main()
