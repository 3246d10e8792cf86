"""Preparing a data set as a person does it: by the command, killed on the way, and published."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import DatasetCard
from PIL import Image

from offseg_hf.commands.prepare import main

READ_STREAMED = """
import json, datasets
undecoded = datasets.Image(decode=False)
for split in ("train", "validation"):
    data = datasets.load_dataset("org/streets", split=split, streaming=True).cast_column("image", undecoded)
    print(json.dumps(sorted(example["id"] + str(len(example["image"]["bytes"])) for example in data)))
"""


def write_source(folder, num_train, size):
    rng = np.random.default_rng(0)
    for split, number in (("train", num_train), ("validation", 2)):
        for kind in ("images", "masks"):
            (folder / kind / split).mkdir(parents=True)
        for index in range(number):
            photo = Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8))
            photo.save(folder / "images" / split / f"{index}.jpg")
            mask = Image.fromarray(rng.integers(0, 3, size, dtype=np.uint8))
            mask.save(folder / "masks" / split / f"{index}.png")
    return folder


@pytest.fixture
def source(tmp_path):
    return write_source(tmp_path / "streets", 5, (16, 24))


def arguments(source, output, *more):
    return ["--dataset", str(source), "--output", str(output), "--num_proc", "2", *more]


def contents(folder):
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def shards(folder):
    return sorted(folder.glob("train-*.parquet"))


def descendants(pid):
    """Processes that a process has started, as far as they live."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [Path("/proc", child) for child in children]


def is_alive(process):
    """Whether it runs: a zombie is only waited for."""
    try:
        return (process / "stat").read_text().rsplit(") ", 1)[1][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_shards_record_and_card_are_written_with_the_options(source, tmp_path, capsys):
    options = "--labels", "sky,road,car", "--max_shard_size", "4KB", "--max_row_group_size", "2KB", "--seed", "3"
    assert main(arguments(source, tmp_path / "out", *options, "--name", "Streets", "--license", "cc-by-4.0")) == 0
    record = json.loads((tmp_path / "out" / "preparation.json").read_text())
    assert (record["name"], record["license"], record["seed"]) == ("Streets", "cc-by-4.0", 3)
    assert (record["max_shard_size"], record["max_row_group_size"]) == (4000, 2000)
    assert json.loads((tmp_path / "out" / "id2label.json").read_text()) == {"0": "sky", "1": "road", "2": "car"}
    num_bytes = sum(file.stat().st_size for file in shards(tmp_path / "out"))
    line = f"train: 5 examples in {len(shards(tmp_path / 'out'))} shards, {num_bytes:,} bytes"
    printed = capsys.readouterr()
    assert line in printed.out and f"written to {tmp_path / 'out'}" in printed.out
    assert "Preparing: 100%" in printed.err


def test_table_of_ids_is_read(source, tmp_path, capsys):
    (tmp_path / "table.json").write_text('{"0": null, "1": "sky", "2": "road"}')
    table = "--label_table", str(tmp_path / "table.json")
    assert main(arguments(source, tmp_path / "out", "--labels", "road,sky", *table)) == 0
    assert json.loads((tmp_path / "out" / "preparation.json").read_text())["class_ids"] == {"1": 1, "2": 0}
    assert main(arguments(source, tmp_path / "again", *table)) == 2
    assert "`--label_table` needs `--labels`" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--do_reduce_labels"], ["--label_table", "table.json"]])
def test_what_ids_mean_needs_the_names_of_the_classes(source, tmp_path, capsys, option):
    assert main(arguments(source, tmp_path / "out", *option)) == 2
    assert f"`{option[0]}` needs `--labels`" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_error_is_told_without_a_traceback(source, tmp_path, capsys):
    (source / "masks/train/3.png").write_text("no picture")
    assert main(arguments(source, tmp_path / "out")) == 2
    assert (
        "error: `--dataset` must hold whole photos, each with a mask of its size, but 1 of 7"
        in capsys.readouterr().err
    )


@pytest.mark.skipif(sys.platform != "linux", reason="finds the worker processes in /proc")
def test_killed_preparation_goes_on_and_ends_with_the_same_shards(tmp_path):
    source = write_source(tmp_path / "streets", 240, (160, 160))  # 50 kB each
    options = "--max_shard_size", "400KB"
    command = [sys.executable, "-m", "offseg_hf", "prepare", *arguments(source, tmp_path / "killed", *options)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(shards(tmp_path / "killed")) < 2 and process.poll() is None:
        time.sleep(0.002)
    workers = descendants(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(workers) == 2
    deadline = time.monotonic() + 30
    while any(map(is_alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(map(is_alive, workers))

    written = {file: file.stat() for file in shards(tmp_path / "killed")}
    assert main(arguments(source, tmp_path / "whole", *options)) == 0
    assert 2 <= len(written) < len(shards(tmp_path / "whole"))
    assert not (tmp_path / "killed" / "preparation.json").exists()
    assert main(arguments(source, tmp_path / "killed", *options)) == 0
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    for file, before in written.items():
        assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_data_set_is_published_for_nobody_else_and_streamed_from_there(source, hub, tmp_path, capsys):
    push = "--push_to_hub", "org/streets", "--license", "cc-by-4.0", "--max_shard_size", "4KB"
    assert main(arguments(source, tmp_path / "out", *push)) == 0
    repository = hub.repository("org/streets", "datasets")
    assert repository.private and len(repository.commits) == 2  # the first is the Hub's own
    assert hub.files("org/streets", "datasets") == contents(tmp_path / "out")
    assert f"published: {hub.url}/datasets/org/streets/commit/{repository.commits[-1].oid}" in capsys.readouterr().out
    assert 'load_dataset("org/streets"' in DatasetCard.load(tmp_path / "out" / "README.md").text

    environment = os.environ | hub.environment(tmp_path / "reader")
    command = [sys.executable, "-c", READ_STREAMED]
    output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    for line, split in zip(output.splitlines()[-2:], ("train", "validation"), strict=True):
        files = (source / "images" / split).iterdir()
        assert json.loads(line) == sorted(f"{file.stem}{file.stat().st_size}" for file in files)

    assert main(arguments(source, tmp_path / "out", *push)) == 0
    assert "nothing has changed since" in capsys.readouterr().out


def test_data_set_is_published_for_all_only_when_asked(source, hub, tmp_path, capsys):
    push = "--push_to_hub", "org/streets", "--license", "cc-by-4.0"
    (tmp_path / "out" / ".cache").mkdir(parents=True)
    (tmp_path / "out" / ".env").write_text("TOKEN=secret")  # tolerated beside what is written, and not published
    assert main(arguments(source, tmp_path / "out", *push, "--public")) == 0
    names = {file.name for file in (tmp_path / "out").iterdir()} - {".env", ".cache"}
    assert hub.files("org/streets", "datasets").keys() == names
    assert not hub.repository("org/streets", "datasets").private
    assert main(arguments(source, tmp_path / "out", *push)) == 2
    message = "which org/streets is; make it private in its settings, name another, or let everybody see"
    assert message in capsys.readouterr().err


def test_shards_stay_when_their_publication_fails(source, hub, tmp_path, capsys):
    hub.fail["commit"] = 500
    push = "--push_to_hub", "org/streets", "--license", "cc-by-4.0"
    assert main(arguments(source, tmp_path / "out", *push)) == 1
    assert f"prepared in {tmp_path / 'out'}, but not published: `repo` org/streets" in capsys.readouterr().err
    hub.fail.clear()
    assert main(arguments(source, tmp_path / "out", *push)) == 0
    assert hub.files("org/streets", "datasets") == contents(tmp_path / "out")


def test_repository_is_checked_before_the_work(source, hub, tmp_path, capsys):
    assert main(arguments(source, tmp_path / "out", "--push_to_hub", "other/streets")) == 2
    assert "`repo` must begin with a name under which someone may publish" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_cityscapes_is_refused_without_any_connection(tmp_path, capsys, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("nothing is sent")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert main([*arguments("cityscapes", tmp_path / "out"), "--data_dir", "cs", "--push_to_hub", "org/cs"]) == 2
    message = "`repo_id` must be left out for Cityscapes, whose licence forbids to distribute its pictures and labels"
    assert message in capsys.readouterr().err
