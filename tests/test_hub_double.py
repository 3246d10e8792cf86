"""The stand-in for the Hub, as data sets and Spaces use it."""

import os
import subprocess
import sys

import pyarrow.parquet
import pytest
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

READ_STREAMED_AND_WHOLE = """
import datasets
streamed = datasets.load_dataset("org/numbers", split="train", streaming=True)
print([example["number"] for example in streamed], datasets.load_dataset("org/numbers", split="train")["number"])
"""


def test_data_set_is_uploaded_and_read_back(hub, tmp_path):
    api = HfApi()
    api.create_repo("org/numbers", repo_type="dataset")
    for part in range(2):
        table = pyarrow.table({"number": [2 * part, 2 * part + 1]})
        pyarrow.parquet.write_table(table, tmp_path / "part.parquet")
        path = f"data/train-{part}.parquet"
        api.upload_file(
            path_or_fileobj=tmp_path / "part.parquet", path_in_repo=path, repo_id="org/numbers", repo_type="dataset"
        )
    environment = os.environ | hub.environment(tmp_path / "reader", token=None)
    command = [sys.executable, "-c", READ_STREAMED_AND_WHOLE]
    output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    assert output.splitlines()[-1].replace("Column(", "").replace(")", "") == "[0, 1, 2, 3] [0, 1, 2, 3]"


def test_space_keeps_its_kind_and_folders(hub, tmp_path):
    api = HfApi()
    api.create_repo("org/demo", repo_type="space", space_sdk="gradio")
    (tmp_path / "space" / "pictures").mkdir(parents=True)
    (tmp_path / "space" / "app.py").write_text("print()")
    (tmp_path / "space" / "pictures" / "one.png").write_bytes(b"picture")
    api.upload_folder(repo_id="org/demo", repo_type="space", folder_path=tmp_path / "space")
    assert hub.files("org/demo", "spaces") == {"app.py": b"print()", "pictures/one.png": b"picture"}
    assert api.space_info("org/demo").sdk == "gradio"
    names = {entry.path for entry in api.list_repo_tree("org/demo", repo_type="space", recursive=True)}
    assert names == {".gitattributes", "app.py", "pictures", "pictures/one.png"}


def test_private_repository_is_seen_by_its_members_alone(hub):
    hub.create("org/secret", private=True, files={"a.txt": b"a"})
    assert HfApi().model_info("org/secret").private
    with pytest.raises(RepositoryNotFoundError):
        HfApi(token=False).model_info("org/secret")


def test_what_does_not_exist_is_told_apart(hub):
    hub.create("org/model", files={"a.txt": b"a"})
    with pytest.raises(RepositoryNotFoundError):
        hf_hub_download("org/other", "a.txt")
    with pytest.raises(RevisionNotFoundError):
        hf_hub_download("org/model", "a.txt", revision="0" * 40)
    with pytest.raises(EntryNotFoundError):
        hf_hub_download("org/model", "b.txt")
