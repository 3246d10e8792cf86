"""Publishing on the Hugging Face Hub: weights, configuration, the model's own code and a card, in one commit."""

import contextlib
import hashlib
import inspect
import json
import os
import shutil
import tempfile
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, RepoCard, get_token
from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id
from transformers import AutoConfig, AutoImageProcessor, AutoModelForUniversalSegmentation
from transformers.dynamic_module_utils import get_relative_import_files

from offseg_hf.data.presets import find_preset
from offseg_hf.data.sources import is_hub_id
from offseg_hf.files import write_json
from offseg_hf.model_types import auto_model_class
from offseg_hf.publishing.card import METRICS, RANDOM_WEIGHTS, model_card

TRAINING_RECORD = "training.json"
WEIGHT_PATTERNS = ("*.safetensors", "*.bin")


def weights_digest(folder: str | os.PathLike) -> str | None:
    """What tells the weights in a folder from all others: the SHA-256 of their files.

    Args:
        folder (`str` or `os.PathLike`): a model's folder.

    Returns:
        `str` or `None`: 64 hexadecimal digits; `None` where the folder holds no weights.
    """
    digests = []
    for file in _weight_files(Path(folder)):
        with file.open("rb") as content:
            digests.append(hashlib.file_digest(content, "sha256").hexdigest())
    if len(digests) > 1:
        return hashlib.sha256("".join(digests).encode()).hexdigest()
    return digests[0] if digests else None


def dataset_id(dataset: str | list[str], data_dir: str | None = None) -> str | None:
    """The Hub id of a data set, as records call it.

    Args:
        dataset (`str` or `list[str]`): see [`~offseg_hf.data.load_segmentation_dataset`], as `data_dir`.

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
    args,
    steps: int,
    metrics: dict,
    data: dict,
    variant: str | None = None,
    model_name_or_path: str | None = None,
    lora_rank: int | None = None,
):
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
    """
    names_of_data = ("train_split", "crop_size", "resize", "scale_range", "flip_probability", "photometric_distortion")
    names = ("learning_rate", "head_learning_rate_factor", "weight_decay", "seed")
    is_adamw, is_polynomial = args.optim.value.startswith("adamw"), args.lr_scheduler_type == "polynomial"
    evaluation = {name.removeprefix("eval_"): value for name, value in metrics.items()}
    record = {
        "weights": weights_digest(folder),
        "origin": _origin_of_weights(model_name_or_path),
        "variant": variant,
        "dataset": data["dataset"],
        "dataset_id": dataset_id(data["dataset"], data.get("data_dir")),
        **{name: data[name] for name in names_of_data},
        **{name: getattr(args, name) for name in names},
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


def write_repository(
    model_folder: str | os.PathLike,
    output: str | os.PathLike,
    repo_id: str,
    license: str | None = None,
    base_model: str | None = None,
    dataset_name: str | None = None,
) -> list[Path]:
    """Writes all files of a repository from which a model is loaded without this package. Nothing is sent.

    Args:
        model_folder (`str` or `os.PathLike`): the model with its image processor; stays as it is. Records of training
            and evaluation in it (`training.json`, `evaluation-SPLIT.json`) go into the card.
        output (`str` or `os.PathLike`): an empty folder.
        repo_id (`str`): the repository, such as `"org/offseg-b0"`, which the card names.
        license (`str`, *optional*): see [`~offseg_hf.publishing.card.model_card`], as `base_model` and `dataset_name`.

    Returns:
        `list[Path]`: the files: weights as safetensors, `config.json`, `preprocessor_config.json`, `README.md`, and
        the Python files of the model and the image processor with all that these import.

    Raises:
        FileNotFoundError: where `model_folder` holds no model, no weights or no image processor.
        ValueError: where the weights are not all there, an evaluation is of others, or see
            [`~offseg_hf.publishing.card.model_card`].
    """
    model_folder, output = Path(model_folder), Path(output)
    _check_repo_id(repo_id)
    _check_model_folder(model_folder)
    training, evaluations = _read_records(model_folder)
    config = AutoConfig.from_pretrained(model_folder)
    auto_class = auto_model_class(config)
    masks = auto_class is AutoModelForUniversalSegmentation
    model, report = auto_class.from_pretrained(model_folder, config=config, output_loading_info=True)
    lacking = sorted([*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])])
    if lacking:
        raise ValueError(
            f"`model` must hold all weights of the model, and {model_folder} lacks {len(lacking)} of them, such as "
            f"{lacking[0]}; save the trained model there with `save_pretrained`."
        )
    image_processor = AutoImageProcessor.from_pretrained(model_folder)
    card = model_card(
        repo_id, model.config, model.num_parameters(), training, evaluations, license, base_model, dataset_name
    )
    # The second is the one by which a pipeline finds models that classify masks.
    auto_classes = [auto_class.__name__, *(["AutoModelForImageSegmentation"] if masks else [])]
    _ship_code(output, model.config, AutoConfig=model.config, **dict.fromkeys(auto_classes, model))
    _ship_code(output, image_processor, AutoImageProcessor=image_processor)
    model.save_pretrained(output)
    image_processor.save_pretrained(output)
    (output / "README.md").write_text(card, encoding="utf-8")
    return sorted(output.iterdir())


def check_repository(repo_id: str, private: bool = False, token: str | None = None, repo_type: str = "model"):
    """Checks that something can be published in a repository, before any work is done for it.

    Args:
        repo_id (`str`): the repository, `"NAMESPACE/NAME"`; it need not exist.
        private (`bool`, *optional*, defaults to `False`): whether nobody else shall see it.
        token (`str`, *optional*): token of the Hub; by default that of `HF_TOKEN` or of `hf auth login`.
        repo_type (`str`, *optional*, defaults to `"model"`): or `"dataset"`.

    Returns:
        [`huggingface_hub.ModelInfo`], [`huggingface_hub.DatasetInfo`] or `None`: the repository, where it exists.

    Raises:
        ValueError: where `repo_id` is none, or the repository shall be private and is public.
        PermissionError: where there is no token, or it may not write there.
        OSError: where the Hub cannot be reached.
    """
    _check_repo_id(repo_id)
    if token is None and get_token() is None:
        raise PermissionError(
            "`HF_TOKEN` must hold a token of the Hugging Face Hub with write access, and there is none; log in with "
            "`hf auth login`, or set it."
        )
    api = HfApi(token=token)
    with _one_sentence(repo_id):
        user = api.whoami()
    if user.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise PermissionError(
            f"`HF_TOKEN` must hold a token with write access, and that of {user['name']} may only read; make another "
            "at https://huggingface.co/settings/tokens."
        )
    namespaces = [user["name"], *(organization["name"] for organization in user.get("orgs", ()))]
    if repo_id.split("/")[0] not in namespaces:
        raise PermissionError(
            f"`repo` must begin with a name under which {user['name']} may publish ({', '.join(namespaces)}), got "
            f"{repo_id}."
        )
    with _one_sentence(repo_id):
        try:
            repository = api.repo_info(repo_id, repo_type=repo_type)
        except RepositoryNotFoundError:
            return None
    if private and not repository.private:
        raise ValueError(
            f"`private` must be left out for a repository that is public, which {repo_id} is; make it private in its "
            "settings, name another, or let everybody see what is published."
        )
    return repository


def upload_repository(
    folder: str | os.PathLike,
    repo_id: str,
    private: bool = False,
    token: str | None = None,
    repo_type: str = "model",
):
    """Publishes the files of a folder in one commit; those that are there already are not sent again.

    The repository is made right before, if it does not exist. Other files in it are left. Where anything fails, the
    repository is as before, or new and empty; a repetition goes on from there.

    Args:
        folder (`str` or `os.PathLike`): the files, as [`write_repository`] writes them, or a prepared data set's.
        repo_id (`str`): see [`check_repository`], as `private`, `token` and `repo_type`.

    Returns:
        `tuple[str, bool]`: the commit's address, and whether the commit is new: it is not where nothing changed.

    Raises:
        ValueError, PermissionError, OSError: see [`check_repository`], and where the Hub refuses the card or a file.
    """
    before = check_repository(repo_id, private, token, repo_type)
    api = HfApi(token=token)
    operations = [
        CommitOperationAdd(path_in_repo=file.name, path_or_fileobj=file) for file in sorted(Path(folder).iterdir())
    ]
    with _one_sentence(repo_id):
        RepoCard.load(Path(folder, "README.md")).validate(repo_type)
        if before is None:
            api.create_repo(repo_id, private=private or None, repo_type=repo_type, exist_ok=True)
        message = "Upload model, code and card" if repo_type == "model" else "Upload data and card"
        commit = api.create_commit(repo_id, operations, commit_message=message, repo_type=repo_type)
    return commit.commit_url, before is None or commit.oid != before.sha


def push_to_hub(
    model_folder: str | os.PathLike, repo_id: str, private: bool = False, token: str | None = None, **card_options
):
    """Publishes a model: [`write_repository`] in a temporary folder, then [`upload_repository`].

    Args:
        model_folder (`str` or `os.PathLike`): the model; stays as it is.
        repo_id (`str`): see [`check_repository`], as `private` and `token`.
        **card_options: `license`, `base_model` and `dataset_name` of [`~offseg_hf.publishing.card.model_card`].

    Returns:
        `tuple[str, bool]`: see [`upload_repository`].

    Raises:
        FileNotFoundError, ValueError, PermissionError, OSError: see the functions named.
    """
    with tempfile.TemporaryDirectory() as folder:
        write_repository(model_folder, folder, repo_id, **card_options)
        return upload_repository(folder, repo_id, private, token)


def _origin_of_weights(model_name_or_path):
    """`"random"`, a Hub id, or for a folder what its own record says: `None` where it has none."""
    if model_name_or_path is None:
        return RANDOM_WEIGHTS
    if Path(model_name_or_path).is_dir():
        return _read_record(Path(model_name_or_path, TRAINING_RECORD)).get("origin")
    return model_name_or_path


def _check_repo_id(repo_id):
    try:
        validate_repo_id(repo_id)
        is_valid = (repo_id or "").count("/") == 1
    except HFValidationError:
        is_valid = False
    if not is_valid:
        raise ValueError(
            "`repo` must be NAMESPACE/NAME, of letters, digits, '-', '_' and '.', such as 'org/offseg-b0', got "
            f"{repo_id!r}."
        )


def _check_model_folder(folder):
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"`model` must be a model's folder, and there is no config.json in {folder}; name the folder that "
            "training or `save_pretrained` wrote."
        )
    if not _weight_files(folder):
        raise FileNotFoundError(
            f"`model` must hold weights ({' or '.join(WEIGHT_PATTERNS)}), and there are none in {folder}; name the "
            "folder that training wrote."
        )
    if not (folder / "preprocessor_config.json").is_file():
        raise FileNotFoundError(
            f"`model` must hold its image processor, and there is no preprocessor_config.json in {folder}; save it "
            "there with `OffSegImageProcessor(…).save_pretrained`."
        )


def _weight_files(folder):
    """The weights that are loaded: safetensors, or where there are none the older format."""
    for pattern in WEIGHT_PATTERNS:
        files = sorted(file for file in folder.glob(pattern) if file.name != "training_args.bin")
        if files:
            return files
    return []


def _read_records(folder):
    """What training and evaluation wrote beside the weights: one record, and a list of them."""
    digest = weights_digest(folder)
    training = _read_record(folder / TRAINING_RECORD, digest)
    evaluations = [_read_record(path, digest, METRICS) for path in sorted(folder.glob("evaluation-*.json"))]
    own = training.get("evaluation")
    if own and own["split"] not in (evaluation.get("split") for evaluation in evaluations):
        evaluations.append({**own, "dataset": training["dataset"], "dataset_id": training["dataset_id"]})
    return training, evaluations


def _read_record(path, digest=None, needed=()):
    """The content of a JSON file; empty where there is none."""
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
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


def _ship_code(folder, described, **classes):
    """Copies the files of objects' classes and all that these import, and says where in `described.auto_map`.

    Classes that transformers has itself need no file. What `register_for_auto_class` would do, but for these objects
    alone: it would change what every later `save_pretrained` of the process writes.
    """
    auto_map = {}
    for auto_class, instance in classes.items():
        if type(instance).__module__.startswith("offseg_hf.models."):
            source = inspect.getfile(type(instance))
            for file in (source, *get_relative_import_files(source)):
                shutil.copyfile(file, folder / Path(file).name)
            auto_map[auto_class] = f"{Path(source).stem}.{type(instance).__name__}"
    if auto_map:
        described.auto_map = auto_map


@contextlib.contextmanager
def _one_sentence(repo_id):
    """Turns what fails on the way to the Hub, which is of many kinds, into an `OSError` of one sentence."""
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise ConnectionError(
            f"`repo` {repo_id} cannot be reached, since HF_HUB_OFFLINE is set; unset it to publish."
        ) from error
    except Exception as error:
        if isinstance(error, ValueError):
            raise ValueError(
                f"`repo` {repo_id} gets nothing, since the Hub refuses what was sent: {' '.join(str(error).split())}"
            ) from error
        cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error  # of one file
        reason = getattr(cause, "server_message", None) or str(cause).strip().split("\n")[0] or type(cause).__name__
        if getattr(getattr(cause, "response", None), "status_code", None) in (401, 403):
            raise PermissionError(
                f"`HF_TOKEN` must hold a token that may write to {repo_id}, and the Hub refuses it ({reason}); check "
                "it at https://huggingface.co/settings/tokens."
            ) from error
        raise OSError(
            f"`repo` {repo_id} gets nothing, since the Hub cannot be reached or failed ({reason}); run the same "
            "command again."
        ) from error
