"""Historical names of checkpoint entries, for models that have native transformers models as parts."""

from itertools import chain

from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import rename_source_key


def rename_checkpoint_entries(model, state_dict, prefix, *_):
    """Renames entries with a checkpoint's historical names in place, as `from_pretrained` does.

    `load_state_dict` alone, which Trainer and Accelerate call to resume, would leave them out with just a warning.
    """
    known = {prefix + name for name, _ in chain(model.named_parameters(), model.named_buffers())}
    foreign = [name for name in state_dict if name.startswith(prefix) and name not in known]
    if foreign:
        renamings = get_model_conversion_mapping(model, add_legacy=False)
        for name in foreign:
            renamed, _ = rename_source_key(name.removeprefix(prefix), renamings, [])
            state_dict[prefix + renamed] = state_dict.pop(name)
