"""Names of libraries that are no documented interface and are used by one file each, and what to do without them.

Those that ship inside published models have tests of their own beside the models'.
"""

import importlib

import pytest

NAMES = {
    "torch._subclasses:FakeTensorMode": "`complexity.py` counts on tensors without data: put models on the device "
    "'meta' and count there",
    "datasets.utils.py_utils:convert_file_size_to_int": "`data/preparation/prepare.py` reads sizes such as 500MB by "
    "it: read the number and its unit there",
    "datasets.data_files:resolve_pattern": "`data/sources.py` finds the files of a URL pattern by it: list the folder "
    "by `fsspec`'s `glob`",
    "datasets.distributed:split_dataset_by_node": "`evaluation/protocol.py` and `training/trainer.py` divide streams "
    "by it: take every n-th example instead",
}


@pytest.mark.parametrize(("name", "remedy"), NAMES.items(), ids=NAMES)
def test_name_is_there(name, remedy):
    module, name = name.split(":")
    assert hasattr(importlib.import_module(module), name), f"{module} has lost {name}: {remedy}."
