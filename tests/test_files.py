import json
import os

import pytest

from offseg_hf.files import check_output, read_json, read_text, whole_file, whole_folder, write_json, write_text


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


def test_text_is_read_without_a_byte_order_mark(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfsky\n")
    assert read_text(tmp_path / "a.txt") == "sky\n"
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"sky": 0}')
    assert read_json(tmp_path / "a.json") == {"sky": 0}


def test_error_names_the_file_when_it_is_no_text_no_json_or_missing(tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(FileNotFoundError, match=r"a.json` must be a text file, but there is no such file; check"):
        read_text(path)
    path.write_text("sky", encoding="utf-16")
    with pytest.raises(ValueError, match=r"a.json` must be text in UTF-8, but .*; save it in that encoding"):
        read_json(path)
    path.write_text('{\n"sky": }')
    with pytest.raises(ValueError, match=r"a.json` must be JSON, but .* line 2 column 8 .*; correct it there"):
        read_json(path)


def test_output_is_refused_when_it_lies_below_a_file(tmp_path):
    (tmp_path / "a.txt").write_text("mine")
    with pytest.raises(
        NotADirectoryError, match=r"`output` must lie in a folder, and .*a.txt is a file: name another"
    ):
        check_output(tmp_path / "a.txt" / "b" / "c.json")
    check_output(tmp_path / "new" / "b" / "c.json")
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_output_is_refused_where_nothing_may_be_written(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match=r"`output` must lie where files may be written, and .* is none"):
        check_output(tmp_path / "a.json")
