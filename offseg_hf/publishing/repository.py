"""The files of a published model: weights, configuration, the model's own code and a card."""

import ast
import inspect
import os
import shutil
from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers import AutoConfig, AutoImageProcessor, AutoModelForUniversalSegmentation

from offseg_hf.files import whole_folder, write_text
from offseg_hf.model_types import auto_model_class, check_finite_weights, loading_errors
from offseg_hf.publishing.card import model_card
from offseg_hf.publishing.records import WEIGHT_PATTERNS, read_records, weight_files


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
        output (`str` or `os.PathLike`): a new or empty folder, which appears whole or not at all.
        repo_id (`str`): the repository, such as `"org/offseg-b0"`, which the card names.
        license, base_model, dataset_name (`str`, *optional*): see [`~offseg_hf.publishing.card.model_card`].

    Returns:
        `list[Path]`: the files: weights as safetensors, `config.json`, `preprocessor_config.json`, `README.md`, and
        the Python files of the model and the image processor with all that these import.

    Raises:
        FileExistsError: where `output` is a file or a folder that is not empty.
        FileNotFoundError: where `model_folder` holds no model, no weights or no image processor.
        ValueError: where the weights are not all there, an evaluation is of others, or see
            [`~offseg_hf.publishing.card.model_card`].
    """
    model_folder, output = Path(model_folder), Path(output)
    check_repo_id(repo_id)
    if output.is_file() or (output.is_dir() and any(output.iterdir())):
        raise FileExistsError(f"`output` must be a new or empty folder, got {output}; name another.")
    _check_model_folder(model_folder)
    training, evaluations = read_records(model_folder)
    with loading_errors(model_folder):
        config = AutoConfig.from_pretrained(model_folder)
        auto_class = auto_model_class(config)
        model, report = auto_class.from_pretrained(model_folder, config=config, output_loading_info=True)
        image_processor = AutoImageProcessor.from_pretrained(model_folder)
    masks = auto_class is AutoModelForUniversalSegmentation
    lacking = sorted([*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])])
    if lacking:
        raise ValueError(
            f"`model` must hold all weights of the model, and {model_folder} lacks {len(lacking)} of them, such as "
            f"{lacking[0]}; save the trained model there with `save_pretrained`."
        )
    check_finite_weights(model, model_folder)
    card = model_card(
        repo_id, model.config, model.num_parameters(), training, evaluations, license, base_model, dataset_name
    )
    # The second is the one by which a pipeline finds models that classify masks.
    auto_classes = [auto_class.__name__, *(["AutoModelForImageSegmentation"] if masks else [])]
    with whole_folder(output) as folder:
        _ship_code(folder, model.config, AutoConfig=model.config, **dict.fromkeys(auto_classes, model))
        _ship_code(folder, image_processor, AutoImageProcessor=image_processor)
        model.save_pretrained(folder)
        image_processor.save_pretrained(folder)
        write_text(folder / "README.md", card)
    return sorted(output.iterdir())


def check_repo_id(repo_id: str) -> None:
    """Checks that a repository can have a name.

    Args:
        repo_id (`str`): the name, `"NAMESPACE/NAME"`.

    Raises:
        ValueError: where it is none.
    """
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


def imported_siblings(file: Path) -> list[Path]:
    """A Python file and all files of its folder that it imports, directly or through others.

    Args:
        file (`Path`): the file, whose imports of siblings have the form `from .sibling import name`.

    Returns:
        `list[Path]`: the files that transformers must find beside it, itself first.
    """
    found = [file]
    for path in found:  # which grows on the way
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level == 1:
                sibling = path.with_name(f"{node.module}.py")
                if sibling not in found:
                    found.append(sibling)
    return found


def _check_model_folder(folder):
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"`model` must be a model's folder, and there is no config.json in {folder}; name the folder that "
            "training or `save_pretrained` wrote."
        )
    if not weight_files(folder):
        raise FileNotFoundError(
            f"`model` must hold weights ({' or '.join(WEIGHT_PATTERNS)}), and there are none in {folder}; name the "
            "folder that training wrote."
        )
    if not (folder / "preprocessor_config.json").is_file():
        raise FileNotFoundError(
            f"`model` must hold its image processor, and there is no preprocessor_config.json in {folder}; save it "
            "there with `OffSegImageProcessor(…).save_pretrained`."
        )


def _ship_code(folder, described, **classes):
    """Copies the files of objects' classes and all that these import, and names them in `described.auto_map`.

    Classes that transformers has itself need no file. `register_for_auto_class` would do the same, but for every later
    `save_pretrained` of the process as well.
    """
    auto_map = {}
    for auto_class, instance in classes.items():
        if type(instance).__module__.startswith("offseg_hf.models."):
            source = Path(inspect.getfile(type(instance)))
            for file in imported_siblings(source):
                shutil.copyfile(file, folder / file.name)
            auto_map[auto_class] = f"{source.stem}.{type(instance).__name__}"
    if auto_map:
        described.auto_map = auto_map
