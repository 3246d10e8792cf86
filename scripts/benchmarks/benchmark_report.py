"""The results of a benchmark: a JSON record, from which an interrupted run goes on, and tables in Markdown."""

import importlib.metadata
import json
import os
import platform
from dataclasses import asdict
from pathlib import Path

import torch
from benchmark_models import IMAGE_PROCESSORS, MODELS

from offseg_hf.markdown import markdown_table

MODEL_NAMES = {"offseg": "OffSeg", "segformer": "SegFormer", "literal": "literal"}
MEBIBYTE = 2**20
RELEASED = (
    "256 channels for B0 and B1 and 768 for B2 to B5, as in the released checkpoints; the paper's figures for "
    "SegFormer are those of 256 for all."
)
# Title of the table of each measure, and what a second or a byte is in it.
TITLES = {
    "forward": ("Forward pass, ms", 1000),
    "photo": ("JPEG photo of 768×1024 pixels to its label map, ms", 1000),
    "post_processing": ("Logits to a label map of 768×1024 pixels, ms", 1000),
    "training": ("Training step, ms", 1000),
    "offset_learning": ("Offset learning alone, of features with 256 channels, ms", 1000),
    "photo_memory": ("Memory added from a JPEG photo of 768×1024 pixels to its label map, MiB", 1 / MEBIBYTE),
    "training_memory": ("Memory added by a training step, MiB", 1 / MEBIBYTE),
    "whole_memory": (
        "Memory added from a JPEG photo to its label map, the model at the photo's size, MiB",
        1 / MEBIBYTE,
    ),
    "window_memory": ("The same by sliding windows of 512×512 pixels, MiB", 1 / MEBIBYTE),
}
LIMIT = 8 * 2**30  # bytes
NOISE = (
    "Weights are random, so the label maps are close to noise. That is the worst case for OffSeg's post-processing, "
    "which takes longer the more borders there are between classes; `--checkpoint` measures a trained model."
)


def describe_settings(settings):
    """The settings of a run, and the software and machine that it ran on.

    Args:
        settings ([`~benchmark_cases.Settings`]): the settings.

    Returns:
        `dict`: its fields; `versions` of libraries; `processor` and `gpu`; `image_processor`, transformers' class.
    """
    packages = ("offseg-hf", "torch", "transformers", "numpy", "pillow")
    return {
        **asdict(settings),
        "versions": {"python": platform.python_version()}
        | {package: importlib.metadata.version(package) for package in packages},
        "processor": _processor_name(),
        "gpu": torch.cuda.get_device_name(settings.device) if settings.waits else None,
        "image_processor": IMAGE_PROCESSORS["segformer"].__name__,
    }


def start_record(path, settings, resume=False, overwrite=False):
    """The record that measured cases are added to.

    Args:
        path (`Path`): its JSON file.
        settings (`dict`): what [`describe_settings`] says.
        resume (`bool`, *optional*, defaults to `False`): whether to go on from that file, if there is one.
        overwrite (`bool`, *optional*, defaults to `False`): whether that file may be replaced.

    Returns:
        `dict`: `settings`, and `cases`, a list of what [`~benchmark.measure_case`] returns.

    Raises:
        FileExistsError: where there is a file, and neither is asked for.
        ValueError: where it is to be gone on from, but is of other settings, or no such record.
    """
    path = Path(path)
    if path.exists() and resume:
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            others = sorted(name for name in settings if record["settings"].get(name) != settings[name])
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ValueError(
                f"`resume` needs a benchmark's record, and {path} is none; name another folder."
            ) from error
        if others:
            raise ValueError(
                f"`resume` needs the settings of {path}, but {', '.join(others)} differ; name another folder, or pass "
                "`overwrite` to start again."
            )
        return record
    if path.exists() and not overwrite:
        raise FileExistsError(
            f"`output` must not hold a benchmark, but there is {path}; pass `resume` to go on or `overwrite` to start "
            "again."
        )
    return {"settings": settings, "cases": []}


def is_measured(record, case):
    """Whether a record holds a case.

    Args:
        record (`dict`): what [`start_record`] returns.
        case ([`~benchmark_cases.Case`]): the case.

    Returns:
        `bool`
    """
    return any(asdict(case).items() <= {name: done[name] for name in asdict(case)}.items() for done in record["cases"])


def markdown_tables(record):
    """A record as Markdown: a table for each measure.

    Args:
        record (`dict`): what [`start_record`] returns, with cases.

    Returns:
        `str`
    """
    settings = record["settings"]
    machine = settings["gpu"] or f"{settings['processor']}, {settings['num_threads']} of its threads"
    compiled = ", compiled" if settings["compile"] else ""
    text = [
        f"torch {settings['versions']['torch']}, transformers {settings['versions']['transformers']}, "
        f"{settings['dtype']}{compiled}, on {machine}. Times are medians of {settings['num_repeats']} rounds in which "
        "all models take turns, with quartiles; ratios are medians of the ratios within each round. `literal` is "
        "OffSeg computed as the paper writes it, with transformers' image processor. SegFormer's decoder has "
        + (f"{settings['segformer_decoder_size']} channels." if settings["segformer_decoder_size"] else RELEASED)
    ]
    for measure, (title, factor) in TITLES.items():
        cases = [case for case in record["cases"] if case["measure"] == measure]
        if cases:
            text += [f"### {title}", _table(_rows(cases, factor))]
            if measure in ("photo", "post_processing") and settings["checkpoint"] is None:
                text.append(NOISE)
            if measure in ("whole_memory", "window_memory"):
                text += _limits(cases)
    counted = [case for case in record["cases"] if case["measure"] == "counts"]
    if counted:
        text += ["### Parameters and multiply-adds", _table(_count_rows(counted))]
    return "\n\n".join(text)


def _limits(cases):
    """A sentence on the largest photo that fits into 8 GiB, from the growth between the two largest measured."""
    groups = {}  # (pixels, bytes) of every size, by what was measured
    for case in cases:
        for name, values in case["models"].items():
            group = groups.setdefault(f"{MODEL_NAMES[name]} ({case['variant']}, {case['num_labels']} classes)", set())
            group.add((case["height"] * case["width"], values["median"]))
    sentences = []
    for name, sizes in groups.items():
        (*_, smaller, larger) = [(0, 0), *sorted(sizes)]
        slope = (larger[1] - smaller[1]) / (larger[0] - smaller[0])  # bytes for a pixel
        if len(sizes) > 1 and slope > 0:
            largest = larger[0] + (LIMIT - larger[1]) / slope
            sentences.append(f"{name}: {slope:.0f} bytes a pixel, {largest / 1e6:,.0f} megapixels in 8 GiB.")
    return ["By the growth between the two largest sizes: " + " ".join(sentences)] if sentences else []


def _rows(cases, factor):
    names = [name for name in MODELS if name in cases[0]["models"]]
    others = names[1:]
    has_borders, has_breaks = "border_cells" in cases[0], "graph_breaks" in cases[0]
    header = ["variant", "classes", "size", "batch", *(MODEL_NAMES[name] for name in names)]
    header += [f"OffSeg ÷ {MODEL_NAMES[name]}" for name in others]
    rows = [header + ["cells at borders"] * has_borders + ["graph breaks"] * has_breaks]
    for case in cases:
        row = _place(case)
        for name in names:
            values = case["models"][name]
            cell = _number(values["median"] * factor)
            if len(values["values"]) > 1:
                cell += f" ({_number(values['lower_quartile'] * factor)}–{_number(values['upper_quartile'] * factor)})"
            row.append(cell)
        row += [f"{case['ratios'][name]:.2f}" for name in others]
        if has_borders:
            row.append(f"{case['border_cells']:,} of {case['cells']:,}")
        if has_breaks:
            row.append(", ".join(f"{case['graph_breaks'][name]}" for name in names))
        rows.append(row)
    return rows


def _count_rows(cases):
    header = ["variant", "classes", "size", "batch"]
    rows = [[*header, "model", "parameters", "multiply-adds, 10⁹", "the paper's GFLOPs"]]
    for case in cases:
        for name, counts in case["models"].items():
            cells = [f"{counts['parameters']:,}", f"{counts['multiply_adds'] / 1e9:.2f}"]
            rows.append([*_place(case), MODEL_NAMES[name], *cells, f"{counts.get('paper_gflops', '')}"])
    return rows


def _place(case):
    size = f"{case['height']}×{case['width']}"
    return [case["variant"], f"{case['num_labels']}", size, f"{case['batch_size']}"]


def _table(rows):
    return markdown_table(rows[0], rows[1:], align="l" + "r" * (len(rows[0]) - 1))


def _number(value):
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _processor_name():
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name} ({os.cpu_count()} cores)"
