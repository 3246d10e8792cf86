"""What models use of transformers that is no documented interface, each with a plain way where it is gone.

This file is copied into the repository of every published model, which newer libraries must load as well: without one
of these names a model may be slower, or lack what is said beside the name, but it answers the same.
"""

import functools
from collections.abc import Callable

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.image_processing_utils import BatchFeature

try:
    from transformers.utils.generic import can_return_tuple
except ImportError:

    def can_return_tuple(forward: Callable) -> Callable:
        """Lets a method that returns a `ModelOutput` return a tuple where `return_dict` is False."""

        @functools.wraps(forward)
        def wrapper(self, *args, return_dict=None, **kwargs):
            outputs = forward(self, *args, **kwargs)
            wants_dict = getattr(self.config, "return_dict", True) if return_dict is None else return_dict
            return outputs if wants_dict or isinstance(outputs, tuple) else outputs.to_tuple()

        return wrapper


try:
    from transformers.backbone_utils import filter_output_hidden_states
except ImportError:

    def filter_output_hidden_states(forward: Callable) -> Callable:
        """Lets a method that always returns hidden states return them where `output_hidden_states` is asked for."""

        @functools.wraps(forward)
        def wrapper(self, *args, **kwargs):
            wanted = kwargs.get("output_hidden_states", getattr(self.config, "output_hidden_states", False))
            outputs = forward(self, *args, **{**kwargs, "output_hidden_states": True})
            if wanted:
                return outputs
            return type(outputs)(**{name: value for name, value in outputs.items() if name != "hidden_states"})

        return wrapper


try:
    from transformers.utils.output_capturing import capture_outputs
except ImportError:

    def capture_outputs(forward: Callable) -> Callable:
        """Adds what the modules named in `_can_record_outputs` return; not to be compiled or shared by threads."""

        @can_return_tuple
        @functools.wraps(forward)
        def wrapper(self, *args, **kwargs):
            captured, hooks = {}, []
            for name, module_class in self._can_record_outputs.items():
                if kwargs.get(f"output_{name}", getattr(self.config, f"output_{name}", False)):
                    captured[name] = []
                    hook = functools.partial(_capture, name, captured[name])
                    modules = [module for module in self.modules() if isinstance(module, module_class)]
                    hooks += [module.register_forward_hook(hook) for module in modules]
            try:
                outputs = forward(self, *args, **kwargs)
            finally:
                for hook in hooks:
                    hook.remove()
            for name, values in captured.items():
                outputs[name] = tuple(values)
            return outputs

        return wrapper

    def _capture(name, values, module, inputs, outputs):
        if name == "hidden_states":
            values += [outputs] if values else [inputs[0], outputs]
        else:
            values.append(outputs[1])


try:
    from transformers.utils.output_capturing import maybe_install_capturing_hooks
except ImportError:
    maybe_install_capturing_hooks = None


def install_capturing_hooks(model: PreTrainedModel) -> None:
    """Prepares a native model for `output_hidden_states` and `output_attentions`.

    Else done by the first forward, which `torch.compile` cannot trace: where the name is gone, such a model must be
    run once before it is compiled.
    """
    if maybe_install_capturing_hooks is None:
        return
    if not any(getattr(module, "_output_capturing_hooks_installed", False) for module in model.modules()):
        maybe_install_capturing_hooks(model)


try:
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import rename_source_key
except ImportError:
    get_model_conversion_mapping = rename_source_key = None


def current_names(model: PreTrainedModel, names: list[str]) -> dict[str, str] | None:
    """What `from_pretrained` calls entries that have a checkpoint's historical names.

    Args:
        model (`transformers.PreTrainedModel`): to which the entries belong.
        names (`list[str]`): of entries.

    Returns:
        `dict[str, str]`: the name of each, or `None` where the library no longer tells.
    """
    if rename_source_key is None:
        return None
    renamings = get_model_conversion_mapping(model, add_legacy=False)
    return {name: rename_source_key(name, renamings, [])[0] for name in names}


def adopt_attention(config: PreTrainedConfig, base_config: PreTrainedConfig) -> None:
    """Lets a configuration name the attention that the model inside it uses, where the library has one to name."""
    if hasattr(base_config, "_attn_implementation"):
        config._attn_implementation_internal = base_config._attn_implementation


def attention_choice(base_config: PreTrainedConfig) -> dict:
    """The `attn_implementation` that leaves a configuration inside another as it is."""
    return {"": getattr(base_config, "_attn_implementation", None), "base_config": {}}


try:
    from transformers.modeling_layers import GradientCheckpointingLayer
except ImportError:
    GradientCheckpointingLayer = nn.Module  # trains with more memory


try:
    from transformers.image_processing_outputs import SemanticSegmentationPostProcessorOutput
except ImportError:
    SemanticSegmentationPostProcessorOutput = BatchFeature  # of which it is a sub-class
