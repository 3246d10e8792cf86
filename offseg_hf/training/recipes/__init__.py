"""The paper's recipes (arXiv 2508.08811): a file of arguments per data set and family of models.

The arguments are those of `offseg train`, but for `window_size` and `stride`, those of `offseg evaluate`: the sliding
windows by which the paper measures; where they are missing, it measures whole photos.

The sizes of photos and crops belong to the data set and stand in offseg_hf/data/presets.py. Evaluation resizes photos
as training does before its random scale. What neither file says, such as the strengths of the colour changes, is the
default of its argument. The paper gives Mask2Former a learning rate of 1e-4 and its encoder a tenth of that; here this
is a `learning_rate` of 1e-5, the encoder's, and a `head_learning_rate_factor` of 10.
"""

import argparse
import json
from pathlib import Path

from transformers import AutoConfig

from offseg_hf.data.presets import PRESETS
from offseg_hf.models.configuration_offseg_backbone import OffSegBackboneConfig
from offseg_hf.variants import variant_config

RECIPES = tuple(sorted(file.stem for file in Path(__file__).parent.glob("*.json")))
_FAMILIES = {
    # The paper's own OffSeg-T, B, L too; and any backbone, since the head on it is that of OffSeg-B0.
    "segformer": ("segformer", "offseg", "offseg_efficientformer", "offseg_backbone"),
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
        `dict`: argument of `offseg train` or `offseg evaluate` → value, with `total_batch_size`, the images per step
        over all devices.

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


def apply_recipe(parser: argparse.ArgumentParser, argv: list[str] | None = None) -> None:
    """Makes the recipe of `--recipe` the defaults of a parser, so that other options of the command line override it.

    Args:
        parser (`argparse.ArgumentParser`): of `offseg train` or `offseg evaluate`; values that it has no argument for
            are left out.
        argv (`list[str]`, *optional*): the words of the command line; by default the process's own.

    Raises:
        ValueError, OSError: where there is no such recipe or model.
    """
    asked, _ = parser.parse_known_args(argv, argparse.Namespace(num_train_epochs=None))
    if asked.recipe is None:
        return
    recipe = read_recipe(asked.recipe, _model_type(asked))
    if asked.num_train_epochs is not None:
        del recipe["max_steps"]  # it would win over the epochs, which were asked for
    parser.set_defaults(**{name: value for name, value in recipe.items() if hasattr(asked, name)})


def _model_type(asked):
    if getattr(asked, "variant", None) is not None:
        return variant_config(asked.variant).model_type
    if getattr(asked, "backbone", None) is not None:
        return OffSegBackboneConfig.model_type
    path = asked.model if hasattr(asked, "model") else asked.model_name_or_path
    if path is None:
        return None
    config = AutoConfig.from_pretrained(path, trust_remote_code=getattr(asked, "trust_remote_code", False))
    return getattr(config, "base_config", config).model_type  # a model with offset learning added is of its base's
