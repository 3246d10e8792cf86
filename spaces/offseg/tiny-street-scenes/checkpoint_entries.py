"""Historical names of checkpoint entries, for models that have native transformers models as parts."""

from itertools import chain

from torch import nn

from .library_internals import current_names


def rename_checkpoint_entries(model: nn.Module, state_dict: dict, prefix: str, *arguments) -> None:
    """Renames entries with a checkpoint's historical names in place, as `from_pretrained` does.

    `load_state_dict` alone, which Trainer and Accelerate call to resume, would leave them out with just a warning. It
    raises a `RuntimeError` where it must and the library no longer tells their current names.
    """
    known = {prefix + name for name, _ in chain(model.named_parameters(), model.named_buffers())}
    foreign = [name for name in state_dict if name.startswith(prefix) and name not in known]
    if foreign:
        renamed = current_names(model, [name.removeprefix(prefix) for name in foreign])
        if renamed is not None:
            for name in foreign:
                state_dict[prefix + renamed[name.removeprefix(prefix)]] = state_dict.pop(name)
        elif any(prefix + name not in state_dict for name in model.state_dict()):
            error_messages = arguments[-1]
            error_messages.append(
                "`state_dict` must have the current names of entries, since this version of transformers does not "
                f"tell how to rename historical ones, got {foreign[0]!r} (of {len(foreign)}); load the file by "
                "`from_pretrained`, or install a newer version of this model's code."
            )
