import time

import pytest

from offseg_hf.hub import check_on_hub
from offseg_hf.model_types import loading_errors


def test_a_repository_that_is_there_passes(hub):
    hub.create("org/model")
    check_on_hub("org/model", "model")


def test_a_name_that_is_mistyped_is_told_at_once(hub):
    message = (
        "`model` must be a folder or the id of a model on the Hub, and org/modle is neither here nor there; check"
    )
    start = time.monotonic()
    with pytest.raises(FileNotFoundError, match=message), loading_errors("org/modle"):
        raise AssertionError
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("name", ["a/b/c", "/no/where", "../model", "a b"])
def test_a_path_that_is_no_name_of_a_repository_is_told_without_asking(name):
    with pytest.raises(
        FileNotFoundError, match=f"`dataset` must be a folder or the id of a dataset .* {name} is neit"
    ):
        check_on_hub(name, "dataset", "dataset")


def test_no_network_is_told_after_a_few_seconds(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.hf_api.ENDPOINT", "http://127.0.0.1:9", raising=False)
    start = time.monotonic()
    message = r"there is no folder org/model in .*, and http://127.0.0.1:9 does not answer \(.*\); check the path, or"
    with pytest.raises(ConnectionError, match=message):
        check_on_hub("org/model", "model")
    assert time.monotonic() - start < 10
