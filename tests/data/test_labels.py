import json

import pytest

from offseg_hf.data import read_id2label


def test_names_are_numbered_when_separated_by_commas():
    assert read_id2label("sky, road,car") == {0: "sky", 1: "road", 2: "car"}


def test_names_are_read_from_a_text_file_with_a_line_each(tmp_path):
    (tmp_path / "names.txt").write_text("sky\nroad, paved\n\n")
    assert read_id2label(str(tmp_path / "names.txt")) == {0: "sky", 1: "road, paved"}


@pytest.mark.parametrize("content", [["sky", "road"], {"1": "road", "0": "sky"}])
def test_names_are_read_from_a_json_file(tmp_path, content):
    (tmp_path / "names.json").write_text(json.dumps(content))
    assert read_id2label(str(tmp_path / "names.json")) == {0: "sky", 1: "road"}


@pytest.mark.parametrize("labels", ["sky,,car", "sky,sky", ""])
def test_error_shows_the_names_when_one_is_missing_or_twice(labels):
    with pytest.raises(
        ValueError, match="`labels` must name the class ids 0, 1, … without a gap and each differently"
    ):
        read_id2label(labels)


@pytest.mark.parametrize("content", [[1, 2], {"road": 0}, {"1": "road"}])
def test_error_shows_the_entries_when_json_is_no_list_of_names(tmp_path, content):
    (tmp_path / "names.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="`labels` must name the class ids"):
        read_id2label(str(tmp_path / "names.json"))


def test_error_names_the_file_when_it_is_missing():
    with pytest.raises(ValueError, match=r"`labels` must be .* file, nowhere.txt is not there"):
        read_id2label("nowhere.txt")
