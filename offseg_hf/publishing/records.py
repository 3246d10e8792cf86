"""What is recorded beside a model's weights: how it was trained, and what was measured."""

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import ModelCard

from offseg_hf.data.presets import find_preset
from offseg_hf.data.sources import is_hub_id
from offseg_hf.files import read_json, write_json
from offseg_hf.publishing.card import METRICS, PERMISSIVE_LICENSES, RANDOM_WEIGHTS

if TYPE_CHECKING:
    from transformers import TrainingArguments

TRAINING_RECORD = "training.json"
# Of weights on the Hub whose pages are not to be relied on, their authors' licence; docs/encoders.md has the sources.
AUTHORS_LICENSES = {
    "facebook/convnextv2-": "cc-by-nc-4.0",
    "facebook/dinov3-": "dinov3-license",
    "google/mobilenet_v2_": "other",
}
# Networks whose published weights are none of them free: a page that says otherwise may be that of a copy.
RESTRICTED_NETWORKS = ("convnextv2", "dinov3")
WEIGHT_PATTERNS = ("*.safetensors", "*.bin")


def weight_files(folder: Path) -> list[Path]:
    """The files of the weights that are loaded from a folder.

    Args:
        folder (`Path`): a model's folder.

    Returns:
        `list[Path]`: safetensors, or where there are none the older format; empty where there are none of either.
    """
    for pattern in WEIGHT_PATTERNS:
        files = sorted(file for file in folder.glob(pattern) if file.name != "training_args.bin")
        if files:
            return files
    return []


def weights_digest(folder: str | os.PathLike) -> str | None:
    """What tells the weights in a folder from all others: the SHA-256 of their files.

    Args:
        folder (`str` or `os.PathLike`): a model's folder.

    Returns:
        `str` or `None`: 64 hexadecimal digits; `None` where the folder holds no weights.
    """
    digests = []
    for file in weight_files(Path(folder)):
        with file.open("rb") as content:
            digests.append(hashlib.file_digest(content, "sha256").hexdigest())
    if len(digests) > 1:
        return hashlib.sha256("".join(digests).encode()).hexdigest()
    return digests[0] if digests else None


def dataset_id(dataset: str | list[str], data_dir: str | None = None) -> str | None:
    """The Hub id of a data set, as records call it.

    Args:
        dataset (`str` or `list[str]`): see [`~offseg_hf.data.load_segmentation_dataset`].
        data_dir (`str`, *optional*): likewise.

    Returns:
        `str` or `None`: the id; `None` for files and folders.
    """
    preset = find_preset(dataset)
    if preset is not None:
        dataset = data_dir or (preset.hub.repo_id if preset.hub else [])
    sources = [dataset] if isinstance(dataset, str) else dataset
    return sources[0] if len(sources) == 1 and is_hub_id(sources[0]) else None


def write_training_record(
    folder: str | os.PathLike,
    args: "TrainingArguments",
    steps: int,
    metrics: dict,
    data: dict,
    variant: str | None = None,
    model_name_or_path: str | None = None,
    lora_rank: int | None = None,
    backbone: str | None = None,
) -> None:
    """Writes what the model card tells of a training, as `training.json` beside the weights.

    Args:
        folder (`str` or `os.PathLike`): the trained model's folder.
        args ([`~offseg_hf.training.arguments.SegmentationTrainingArguments`]): the recipe.
        steps (`int`): optimiser steps that were taken.
        metrics (`dict`): of `Trainer.evaluate`; empty where nothing was measured.
        data (`dict`): data and augmentation: `dataset`, `train_split`, `eval_split`, `crop_size`, `resize`,
            `scale_range`, `flip_probability` and `photometric_distortion`.
        variant (`str`, *optional*): the architecture's name.
        model_name_or_path (`str`, *optional*): folder or Hub id of the weights that the training began with.
        lora_rank (`int`, *optional*): of the updates, where they were trained in place of the encoder's weights.
        backbone (`str`, *optional*): folder or Hub id of the encoder that the training began with, of whose weights
            the licence is recorded too.
    """
    names_of_data = ("train_split", "crop_size", "resize", "scale_range", "flip_probability", "photometric_distortion")
    names = ("head_learning_rate_factor", "weight_decay", "seed", "freeze_backbone")
    is_adamw, is_polynomial = args.optim.value.startswith("adamw"), args.lr_scheduler_type == "polynomial"
    evaluation = {name.removeprefix("eval_"): value for name, value in metrics.items()}
    record = {
        "weights": weights_digest(folder),
        "origin": _origin_of_weights(model_name_or_path or backbone),
        "encoder": _encoder(Path(folder), model_name_or_path, backbone),
        "variant": variant,
        "dataset": data["dataset"],
        "dataset_id": dataset_id(data["dataset"], data.get("data_dir")),
        **{name: data[name] for name in names_of_data},
        **{name: getattr(args, name) for name in names},
        "learning_rate": None if args.freeze_backbone else args.learning_rate,
        "learning_rate_of_head_alone": (
            args.learning_rate * args.head_learning_rate_factor if args.freeze_backbone else None
        ),
        "layer_decay": None if args.layer_decay == 1 else args.layer_decay,
        **{name: getattr(args, name) if is_adamw else None for name in ("adam_beta1", "adam_beta2")},
        "other_optimizer": None if is_adamw else args.optim.value,
        "lr_decay_power": args.lr_decay_power if is_polynomial else None,
        "other_schedule": None if is_polynomial else args.lr_scheduler_type.value,
        "steps": steps,
        "warmup_steps": args.get_warmup_steps(steps),
        "max_grad_norm": args.max_grad_norm or None,  # 0 for any
        "lora_rank": lora_rank,
        "images_per_step": args.train_batch_size * args.world_size * args.gradient_accumulation_steps,
        "precision": "bfloat16" if args.bf16 else "float16" if args.fp16 else "float32",
        "evaluation": {"split": data["eval_split"], **evaluation} if metrics else None,
    }
    write_json(Path(folder, TRAINING_RECORD), record)


def read_records(folder: Path) -> tuple[dict, list[dict]]:
    """What training and evaluation wrote beside the weights.

    Args:
        folder (`Path`): the model's folder.

    Returns:
        `tuple[dict, list[dict]]`: the record of the training, empty where there is none, and those of evaluations.

    Raises:
        ValueError: where a file is none of this package's records, or of other weights than those in the folder.
    """
    digest = weights_digest(folder)
    training = _read_record(folder / TRAINING_RECORD, digest)
    evaluations = [_read_record(path, digest, METRICS) for path in sorted(folder.glob("evaluation-*.json"))]
    own = training.get("evaluation")
    if own and own["split"] not in (evaluation.get("split") for evaluation in evaluations):
        evaluations.append({**own, "dataset": training["dataset"], "dataset_id": training["dataset_id"]})
    return training, evaluations


def _origin_of_weights(model_name_or_path):
    """`"random"`, a Hub id, or for a folder what its own record says: `None` where it has none."""
    if model_name_or_path is None:
        return RANDOM_WEIGHTS
    if Path(model_name_or_path).is_dir():
        return _read_record(Path(model_name_or_path, TRAINING_RECORD)).get("origin")
    return model_name_or_path


def _encoder(folder, model_name_or_path, backbone):
    """Name, licence and source of the encoder's weights; a trained model's as its record or configuration says."""
    if backbone is None and model_name_or_path is None:
        return None
    if backbone is None:
        recorded = _read_record(Path(model_name_or_path, TRAINING_RECORD)).get("encoder")
        if recorded is not None:
            return recorded
    fields = _read_record(folder / "config.json").get("backbone_config") or {}
    license, source = fields.get("weights_license"), fields.get("weights_source")
    if backbone is None:
        stated = {"name": None, "is_hub_id": False, "license": license, "source": source}
        return stated if license is not None else None
    is_folder = Path(backbone).is_dir()
    if license is None and not is_folder:
        license = next((known for start, known in AUTHORS_LICENSES.items() if backbone.startswith(start)), None)
    if license is None:
        license = _license_of_page(Path(backbone, "README.md") if is_folder else backbone)
        network = fields.get("backbone") or fields.get("model_type", "")  # of timm's the architecture
        if license in PERMISSIVE_LICENSES and any(name in network for name in RESTRICTED_NETWORKS):
            license = None
    name = Path(backbone).resolve().name if is_folder else backbone
    return {"name": name, "is_hub_id": not is_folder, "license": license, "source": source}


def _license_of_page(page):
    """What the front matter of a README, a file's or a repository's, says; `None` where it does not."""
    try:
        metadata = ModelCard.load(page).data
    except Exception:  # there is none, or it is broken, or out of reach
        return None
    license = metadata.get("license")
    if license in ("other", None):
        license = metadata.get("license_name") or license
    return ", ".join(license) if isinstance(license, list) else license


def _read_record(path, digest=None, needed=()):
    """The content of a JSON file; empty where there is none."""
    if not path.is_file():
        return {}
    try:
        record = read_json(path)
        lacking = [name for name in needed if name not in record]
    except (ValueError, TypeError):
        record, lacking = {}, ["JSON"]
    if lacking:
        raise ValueError(f"`{path}` must be a record of this package, and lacks {lacking[0]}; remove or rename it.")
    if digest is not None and record.get("weights") not in (None, digest):
        raise ValueError(
            f"`{path}` must be of the weights beside it, and was written for others; evaluate again with --overwrite, "
            "or remove it."
        )
    return record
