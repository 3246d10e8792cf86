import json

import pytest

from offseg_hf.files import whole_file, whole_folder, write_json, write_text


def test_file_appears_when_it_is_whole(tmp_path):
    with whole_file(tmp_path / "new" / "a.bin") as unfinished:
        unfinished.write_bytes(b"1")
        assert unfinished.suffix == ".bin" and not (tmp_path / "new" / "a.bin").exists()
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["a.bin"]


def test_file_stays_as_it_was_when_writing_fails(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(KeyError), whole_file(tmp_path / "a.txt") as unfinished:
        unfinished.write_text("half")
        raise KeyError
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"a.txt": "old"}


def test_folder_appears_when_it_is_whole_and_not_at_all_when_filling_it_fails(tmp_path):
    with pytest.raises(KeyError), whole_folder(tmp_path / "out") as unfinished:
        (unfinished / "half").touch()
        raise KeyError
    assert not list(tmp_path.iterdir())
    with whole_folder(tmp_path / "out") as unfinished:
        (unfinished / "a").touch()
        assert not (tmp_path / "out").exists()
    assert [file.name for file in tmp_path.rglob("*")] == ["out", "a"]


def test_folder_with_files_is_left_alone(tmp_path):
    (tmp_path / "mine").touch()
    with pytest.raises(OSError, match="not empty"), whole_folder(tmp_path):
        pass
    assert (tmp_path / "mine").exists()


def test_json_is_readable_text(tmp_path):
    write_json(tmp_path / "a.json", {"name": "Straße"})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "name": "Straße"\n}\n'
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"name": "Straße"}


def test_names_may_be_as_long_as_the_system_allows(tmp_path):
    name = "é" * 120 + ".txt"  # 244 bytes
    write_text(tmp_path / name, "whole")
    with whole_folder(tmp_path / ("é" * 120)) as folder:
        (folder / "file").touch()
    assert (tmp_path / name).read_text() == "whole" and (tmp_path / ("é" * 120) / "file").exists()


def test_a_folder_that_is_there_keeps_who_may_read_it(tmp_path):
    (tmp_path / "private").mkdir(mode=0o700)
    with whole_folder(tmp_path / "private"):
        pass
    assert (tmp_path / "private").stat().st_mode & 0o777 == 0o700
