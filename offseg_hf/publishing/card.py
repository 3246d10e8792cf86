"""The model card of a published model: what is known of it, and nothing else."""

import re
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData
from transformers import PreTrainedConfig

from offseg_hf.markdown import markdown_table
from offseg_hf.model_types import auto_model_class, predicted_labels

ARCHITECTURES = {
    "offseg": "[SegFormer](https://arxiv.org/abs/2105.15203)",
    "offseg_segnext": "[SegNeXt](https://arxiv.org/abs/2209.08575)",
    "offseg_efficientformer": "[EfficientFormerV2](https://arxiv.org/abs/2212.08059)",
    "offseg_mask2former": "[Mask2Former](https://arxiv.org/abs/2112.01527)",
}
# Where weights began that are no model's on the Hub, in the record of a training or a conversion.
RANDOM_WEIGHTS, AUTHORS_WEIGHTS = "random", "authors"
METRICS = {"mean_iou": "Mean IoU", "mean_accuracy": "Mean accuracy", "overall_accuracy": "Pixel accuracy"}
NVIDIA_LICENSE = "https://github.com/NVlabs/SegFormer/blob/master/LICENSE"
PERMISSIVE_LICENSES = ("mit", "apache-2.0", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0")
PAPER = "https://arxiv.org/abs/2508.08811"
# Each row is left out where the training's record lacks a number of it.
RECIPE = (
    ("Steps", "{steps:,}, of {images_per_step} images each"),
    ("Learning rate", "{learning_rate:g} for the encoder, {head_learning_rate_factor:g} times that for the head"),
    ("Learning rate", "{learning_rate_of_head_alone:g} for the head; the encoder stays as it was"),
    ("Layer-wise decay", "the encoder's rate falls by the factor {layer_decay:g} with each block, from the head down"),
    ("Low-rank updates (LoRA)", "rank {lora_rank:d}, in place of the encoder's weights, into which they are merged"),
    ("Schedule", "linear warm-up over {warmup_steps:,} steps, then decay to 0 with power {lr_decay_power:g}"),
    ("Schedule", "{other_schedule}, warm-up over {warmup_steps:,} steps where it has one"),
    ("Gradients", "clipped at a norm of {max_grad_norm:g}"),
    (
        "Optimiser",
        "AdamW, betas {adam_beta1:g} and {adam_beta2:g}, weight decay {weight_decay:g}, none on norm layers",
    ),
    ("Optimiser", "{other_optimizer}, weight decay {weight_decay:g}, none on norm layers"),
    ("Photos", "long edge at most {resize[0]}, short edge at most {resize[1]} pixels, before the random scale"),
    ("Random scale", "{scale_range[0]:g} to {scale_range[1]:g}"),
    ("Crop (height × width)", "{crop_size[0]} × {crop_size[1]} pixels"),
    ("Horizontal flip", "with probability {flip_probability:g}"),
    ("Photometric distortion", "{photometric_distortion}"),
    ("Precision", "{precision}"),
    ("Seed", "{seed}"),
)
CITATION = """\
```bibtex
@inproceedings{zhang2025revisiting,
  title     = {Revisiting Efficient Semantic Segmentation: Learning Offsets for Better Spatial and Class Feature
               Alignment},
  author    = {Zhang, Shi-Chen and Li, Yunheng and Wu, Yu-Huan and Hou, Qibin and Cheng, Ming-Ming},
  booktitle = {Proceedings of the IEEE/CVF International Conference on Computer Vision (ICCV)},
  year      = {2025},
  note      = {arXiv:2508.08811}
}
```"""


def model_card(
    repo_id: str,
    config: PreTrainedConfig,
    num_parameters: int,
    training: dict,
    evaluations: list[dict],
    license: str | None = None,
    base_model: str | None = None,
    dataset_name: str | None = None,
) -> str:
    """Writes the card of a model from what was recorded; what was not is left out.

    Args:
        repo_id (`str`): the repository, such as `"org/offseg-b0"`.
        config ([`transformers.PreTrainedConfig`]): the model's.
        num_parameters (`int`): number of its parameters.
        training (`dict`): content of `training.json` as training writes it; empty where there is none.
        evaluations (`list[dict]`): contents of `evaluation-SPLIT.json` as `offseg evaluate` writes them.
        license (`str`, *optional*): the weights' licence, as the Hub spells it, such as `"apache-2.0"`; by default
            that of the encoder's weights, where it is known.
        base_model (`str`, *optional*): Hub id of the model whose weights the training began with, where `training`
            does not say.
        dataset_name (`str`, *optional*): name of the training data; by default its Hub id, or its folder's name.

    Returns:
        `str`: Markdown that begins with the metadata in YAML.

    Raises:
        ValueError: where `license` or `base_model` contradicts what was recorded.
    """
    origin = training.get("origin")
    if base_model is not None and origin not in (None, base_model):
        raise ValueError(
            f"`base_model` must be left out where the training's record says with which weights it began, which is "
            f"{origin!r}, got {base_model!r}."
        )
    origin = origin or base_model
    non_commercial = origin == AUTHORS_WEIGHTS or (origin or "").startswith("nvidia/")
    if non_commercial and license not in (None, "other"):
        raise ValueError(
            f"`license` must be 'other' or left out, since the weights derive from {_origin_name(origin)}, whose "
            f"licence allows non-commercial use only, got {license!r}."
        )
    encoder = training.get("encoder")
    encoder_license = encoder["license"] if encoder is not None else None
    if license not in (None, "other", encoder_license) and encoder_license not in (None, *PERMISSIVE_LICENSES):
        raise ValueError(
            f"`license` must be {encoder_license!r}, 'other' or left out, since the weights derive from "
            f"{_encoder_name(encoder)}, whose licence that is, got {license!r}."
        )
    names = [_dataset_name(evaluation, training, dataset_name) for evaluation in evaluations]
    results = [
        EvalResult(
            task_type="image-segmentation",
            task_name="Semantic segmentation",
            dataset_type=evaluation.get("dataset_id") or name,
            dataset_name=name,
            dataset_split=evaluation["split"],
            metric_type=metric,
            metric_name=metric_name,
            metric_value=round(evaluation[metric], 4),
        )
        for name, evaluation in zip(names, evaluations)
        if name is not None
        for metric, metric_name in METRICS.items()
    ]
    has_offset_learning = type(config).__module__.startswith("offseg_hf.")
    datasets = {
        dataset_id for record in (training, *evaluations) if (dataset_id := record.get("dataset_id")) is not None
    }
    hub_license, license_name = _hub_license(license, encoder_license)
    if non_commercial:
        hub_license, license_name = "other", None if origin == AUTHORS_WEIGHTS else "nvidia-segformer"
    metadata = ModelCardData(
        license=hub_license,
        license_name=license_name,
        license_link=NVIDIA_LICENSE if non_commercial and origin != AUTHORS_WEIGHTS else None,
        library_name="transformers",
        pipeline_tag="image-segmentation",
        tags=["semantic-segmentation", *(["offset-learning"] if has_offset_learning else [])],
        base_model=None if origin in (RANDOM_WEIGHTS, AUTHORS_WEIGHTS) else origin,
        datasets=sorted(datasets) or None,
        metrics=list(METRICS)[:1] if results else None,  # the only one that the Hub has a page for
        model_name=repo_id.split("/")[1] if results else None,
        eval_results=results or None,
    )
    labels = list(predicted_labels(config).values())
    sections = [
        f"# {repo_id.split('/')[1]}",
        _introduction(config, num_parameters, training, labels, has_offset_learning),
        f"## Use\n\n{_usage(repo_id, config)}",
        _training(training, origin, encoder, _dataset_name(training, training, dataset_name)),
        _evaluation(evaluations, names, labels),
        f"## Licences\n\n{_licences(license, origin, encoder, has_offset_learning)}",
        f"## Limits\n\n{_limits(labels, bool(evaluations))}",
        f"## Citation\n\n{CITATION}" if has_offset_learning else "",
    ]
    return f"---\n{metadata.to_yaml()}\n---\n\n" + "\n\n".join(section for section in sections if section) + "\n"


def _hub_license(license, encoder_license):
    """`license` and `license_name` of the metadata: a licence that the Hub does not list is "other", with its name."""
    if license not in (None, "other", encoder_license) or encoder_license is None:
        return license, None
    is_listed = encoder_license in PERMISSIVE_LICENSES or encoder_license.startswith("cc-")
    if license == "other" or not is_listed:
        return "other", None if is_listed or encoder_license == "other" else encoder_license
    return encoder_license, None


def _introduction(config, num_parameters, training, labels, has_offset_learning):
    inner = getattr(config, "base_config", config)
    if config.model_type == "offseg_backbone":
        inner = config.backbone_config
    architecture = ARCHITECTURES.get(inner.model_type) or f"transformers' `{inner.model_type}`"
    if inner.model_type == "timm_backbone":
        architecture = f"timm's `{inner.backbone}`"
    if has_offset_learning:
        architecture += f" with [offset learning]({PAPER})"
    variant = f" (`{training['variant']}`)" if training.get("variant") else ""
    return (
        f"Semantic segmentation: gives every pixel of a photo one of {len(labels)} classes. The model is "
        f"{architecture}{variant}, with {num_parameters:,} parameters.\n\nClasses: {', '.join(labels)}."
    )


def _usage(repo_id, config):
    auto_class = auto_model_class(config).__name__
    if config.num_labels == 1:  # a pipeline would name the background like the class
        code = f"""\
from PIL import Image
from transformers import AutoImageProcessor, {auto_class}

image_processor = AutoImageProcessor.from_pretrained("{repo_id}", trust_remote_code=True)
model = {auto_class}.from_pretrained("{repo_id}", trust_remote_code=True)
image = Image.open("photo.jpg")
outputs = model(**image_processor(images=image, return_tensors="pt"))
size = (image.height, image.width)
label_map = image_processor.post_process_semantic_segmentation(outputs, target_sizes=[size])[0]"""
    else:
        subtask = ', subtask="semantic"' if auto_class == "AutoModelForUniversalSegmentation" else ""
        code = f"""\
from transformers import pipeline

segment = pipeline("image-segmentation", model="{repo_id}", trust_remote_code=True)
for found in segment("photo.jpg"{subtask}):
    print(found["label"], found["mask"])"""
    needed = "torch, transformers and Pillow"
    if getattr(getattr(config, "backbone_config", None), "model_type", None) == "timm_backbone":
        needed = "torch, transformers, timm and Pillow"
    return (
        f"```python\n{code}\n```\n\n`trust_remote_code=True` runs the Python files of this repository; pin "
        '`revision="<commit>"` to run those that you have read. They need '
        f"{needed}."
    )


def _training(training, origin, encoder, dataset_name):
    start = {RANDOM_WEIGHTS: "from random weights", None: ""}.get(origin, f"from {_origin_name(origin)}")
    if encoder is not None and encoder["name"] is not None:
        start = f"from {_encoder_name(encoder)}, with a head whose weights were random,"
    split = f", split `{training['train_split']}`" if training.get("train_split") else ""
    data = f"on {dataset_name}{split}" if dataset_name else ""
    rows = list(_known_rows(training))
    parts = []
    if start or data:
        verb = "Converted" if origin == AUTHORS_WEIGHTS and not rows else "Trained"
        parts.append(" ".join(word for word in (verb, start, data) if word) + ".")
    if rows:
        parts.append(markdown_table(("", ""), rows))
    return "\n\n".join(["## Training", *parts]) if parts else ""


def _known_rows(training):
    """Yields (name, value) of what the training's record knows of the recipe."""
    known = {name: value for name, value in training.items() if value is not None}
    for name, template in RECIPE:
        try:
            value = template.format(**known)
        except (KeyError, IndexError, TypeError):
            continue
        yield name, {"True": "yes", "False": "no"}.get(value, value)


def _origin_name(origin):
    if origin == AUTHORS_WEIGHTS:
        return "a checkpoint of the method's authors"
    return f"[{origin}](https://huggingface.co/{origin})"


def _encoder_name(encoder):
    name = encoder["name"]
    if name is None:
        return f"the encoder ({encoder['source']})" if encoder["source"] else "the encoder"
    name = f"the encoder [{name}](https://huggingface.co/{name})" if encoder["is_hub_id"] else f"the encoder `{name}`"
    return f"{name} ({encoder['source']})" if encoder["source"] else name


def _evaluation(evaluations, names, labels):
    if not evaluations:
        return ""
    titles = [
        f"{name}, {evaluation['split']}" if name else evaluation["split"]
        for name, evaluation in zip(names, evaluations)
    ]
    figures = [
        (name, *(f"{evaluation[metric]:.4f}" for evaluation in evaluations)) for metric, name in METRICS.items()
    ]
    classes = []
    for label in labels:
        values = [evaluation.get(f"iou_{label}") for evaluation in evaluations]
        classes.append((label, *(None if value is None else f"{value:.4f}" for value in values)))
    align = "l" + "r" * len(titles)
    return (
        "## Evaluation\n\nMeasured on whole photos, at the labels' own resolution. A class without a number does not "
        "occur there.\n\n"
        + markdown_table(("", *titles), figures, align)
        + "\n\n"
        + markdown_table(("IoU by class", *titles), classes, align)
    )


def _licences(license, origin, encoder, has_offset_learning):
    lines = []
    if encoder is not None and encoder["license"] is None:
        lines.append(
            f"- The weights of {_encoder_name(encoder)}, from which these derive: it is not known under "
            "which licence they are; find out before you pass these on."
        )
    elif encoder is not None:
        lines.append(f"- The weights of {_encoder_name(encoder)}, from which these derive: `{encoder['license']}`.")
    if origin == AUTHORS_WEIGHTS:
        lines.append(
            "- The weights derive from a checkpoint of the method's authors, whose licence allows non-commercial use "
            "only."
        )
    elif (origin or "").startswith("nvidia/"):
        lines.append(
            f"- The weights derive from {_origin_name(origin)}; [NVIDIA's licence]({NVIDIA_LICENSE}) allows their "
            "non-commercial use only."
        )
    elif license is not None:
        lines.append(f"- The weights: `{license}`.")
    lines.append("- The Python files that come with them: Apache-2.0.")
    if has_offset_learning:
        lines.append(
            "- The method: these files were written from the paper. The authors' own code is under a non-commercial "
            "licence, with a patent claim on the method."
        )
    return "\n".join(lines)


def _limits(labels, is_measured):
    lines = [f"- Every pixel gets one of the {len(labels)} classes above, whatever it shows."]
    if is_measured:
        lines.append("- Measured on the data above alone: measure again before relying on it for other photos.")
    else:
        lines.append("- No measurement was recorded: measure before relying on it.")
    return "\n".join(lines)


def _dataset_name(record, training, given):
    """What the data of a record is called: as given, by its Hub id or by its folder."""
    sources = record.get("dataset")
    if given is not None and sources in (training.get("dataset", sources), None):
        return given
    if not sources or record.get("dataset_id"):
        return record.get("dataset_id")
    source = sources[0]
    if "://" in source:
        return None
    folders = [
        part for part in Path(source).parts if re.fullmatch(r"(?!.*\.parquet$)[^*?\[\]{}/]*\w[^*?\[\]{}/]*", part)
    ]
    return folders[-1] if folders else None
