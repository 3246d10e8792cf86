"""The paper's recipes (arXiv 2508.08811): a file of arguments per data set and family of models.

Those of training are scripts/train.py's; `window_size` and `stride`, of the sliding windows that the row is measured
with where it is not measured on whole photos, are scripts/evaluate.py's.
The sizes of photos and crops are the data set's, and stand with it in offseg_hf/data/presets.py; evaluation has those
of training. What neither says, such as the strengths of the colour changes, is the same for all and the default of its
argument. Mask2Former's encoder has a tenth of the head's learning rate, 1e-4, which is written as 1e-5 and a head
factor of 10.
"""

import argparse
import json
from pathlib import Path

from transformers import AutoConfig

from offseg_hf.data.presets import PRESETS
from offseg_hf.variants import variant_config

RECIPES = tuple(sorted(file.stem for file in Path(__file__).parent.glob("*.json")))
_FAMILIES = {
    "segformer": ("segformer", "offseg", "offseg_efficientformer"),  # the paper's own OffSeg-T, B, L too
    "segnext": ("offseg_segnext",),
    "mask2former": ("mask2former", "offseg_mask2former"),
}


def read_recipe(name: str, model_type: str | None = None) -> dict:
    """The arguments of a recipe.

    Args:
        name (`str`): one of `RECIPES`, such as `"ade20k-segnext"`, or its data set, here `"ade20k"`.
        model_type (`str`, *optional*): `model_type` of the configuration of the model to train, from which the family
            follows where `name` is a data set.

    Returns:
        `dict`: argument of the training or the evaluating script → value. The batch size is that of a step over all
        devices.

    Raises:
        ValueError: where there is no such recipe, or none for such models.
    """
    family = next((family for family, model_types in _FAMILIES.items() if model_type in model_types), None)
    found = [recipe for recipe in (name, f"{name}-{family}") if recipe in RECIPES]
    if not found:
        raise ValueError(
            f"`recipe` must be one of {', '.join(RECIPES)}, or its first part where the model is of that family, got "
            f"{name!r} for a model of type {model_type}."
        )
    preset = PRESETS[found[0].split("-")[0]]
    sizes = {size: list(getattr(preset, size)) for size in ("crop_size", "resize")}
    return sizes | json.loads(Path(__file__).with_name(f"{found[0]}.json").read_text())


def apply_recipe(parser: argparse.ArgumentParser, argv: list[str] | None = None):
    """Makes the recipe that a command line asks for the defaults of its parser: what is given wins over the recipe.

    Args:
        parser (`argparse.ArgumentParser`): with the arguments of the training or the evaluating script, which takes
            from the recipe what it has.
        argv (`list[str]`, *optional*): the words of the command line; the process's own if left out.

    Raises:
        ValueError, OSError: where there is no such recipe or model.
    """
    asked, _ = parser.parse_known_args(argv, argparse.Namespace(num_train_epochs=None))
    if asked.recipe is None:
        return
    recipe = read_recipe(asked.recipe, _model_type(asked))
    if asked.num_train_epochs is not None:
        del recipe["max_steps"]  # which Trainer would take instead of the epochs that were asked for
    parser.set_defaults(**{name: value for name, value in recipe.items() if hasattr(asked, name)})


def _model_type(asked):
    if getattr(asked, "variant", None) is not None:
        return variant_config(asked.variant).model_type
    path = asked.model if hasattr(asked, "model") else asked.model_name_or_path
    if path is None:
        return None
    config = AutoConfig.from_pretrained(path, trust_remote_code=getattr(asked, "trust_remote_code", False))
    return getattr(config, "base_config", config).model_type  # a model with offset learning added is of its base's
