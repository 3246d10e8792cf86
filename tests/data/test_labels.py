import json

import numpy as np
import pytest

from offseg_hf.data import read_id2label
from offseg_hf.data.labels import LabelTable, read_label_table


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


ID2LABEL = {0: "sky", 1: "road"}


def test_label_table_may_give_ids_names_or_null(tmp_path):
    (tmp_path / "table.json").write_text('{"7": "road", "8": 0, "-1": null, "9": 255}')
    assert read_label_table(str(tmp_path / "table.json"), ID2LABEL) == {7: 1, 8: 0, -1: 255, 9: 255}


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ('{"7": "street"}', "7: street"),
        ('{"7": 2}', "7: 2"),
        ('{"road": 7}', "{'road': 7}"),
        ('{"7": [1]}', r"7: \[1\]"),
        ('{"7": true}', "7: True"),
        ("[1, 2]", r"\[1, 2\]"),
        ("{}", "{}"),
    ],
)
def test_error_shows_what_is_wrong_when_a_label_table_is_something_else(tmp_path, content, found):
    (tmp_path / "table.json").write_text(content)
    with pytest.raises(
        ValueError, match=f'`label_table` must map stored ids to .* \\{{"7": "sky", .* got {found}; cor'
    ):
        read_label_table(str(tmp_path / "table.json"), ID2LABEL)


def test_error_names_the_file_when_a_label_table_is_missing():
    with pytest.raises(
        FileNotFoundError, match=r"`label_table` must be a JSON file .*, and nowhere.json is not there"
    ):
        read_label_table("nowhere.json", ID2LABEL)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64])
def test_ids_become_classes_whatever_their_type(dtype):
    stored = np.array([[7, 8], [0, 7]], dtype)
    mapped = LabelTable({7: 1, 8: 0, 0: 255})(stored)
    assert mapped.dtype == np.uint8 and mapped.tolist() == [[1, 0], [255, 1]]
    assert stored.tolist() == [[7, 8], [0, 7]]


def test_negative_and_large_ids_become_classes_too():
    table = LabelTable({-1: 255, 254: 3, 4000: 7})
    assert table(np.array([-1, 254, 4000], np.int16)).tolist() == [255, 3, 7]


@pytest.mark.parametrize("stored", [5, 255, 256, 257, 258, -1, -2, 70000])
def test_error_names_the_ids_when_they_have_no_class(stored):
    table = LabelTable({7: 1, 254: 2})
    with pytest.raises(ValueError, match=rf"`mask of 3` must hold ids that have a class, got \[{stored}\]; correct"):
        table(np.array([7, 254, stored], np.int64), "mask of 3")


@pytest.mark.parametrize(
    ("class_ids", "message"),
    [
        ({-2: 0}, "must have stored ids from −1 to 65,535, got -2 and -2"),
        ({65536: 0}, "must have stored ids from −1 to 65,535, got 65536 and 65536"),
        ({0: 254}, "must have class ids up to 253, or 255 for what is not labelled, got 254 to 254"),
        ({0: -1, 1: 256}, "must have class ids up to 253, .* got -1 to 256"),
    ],
)
def test_error_names_the_range_when_a_table_leaves_it(class_ids, message):
    with pytest.raises(ValueError, match=f"`label_table` {message}; renumber them"):
        LabelTable(class_ids)
