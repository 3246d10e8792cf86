"""The tool's names → class ids."""

import json

import pytest

from offseg_hf.data.formats.classes import match_classes, read_name_table
from offseg_hf.data.formats.records import Labels

TOOL = Labels(names=("sky", "road", "car"), photos=())
VOC = Labels(names=("background", "sky", "road"), photos=())


def test_classes_are_the_tools_in_its_order():
    classes = match_classes(TOOL)
    assert classes.id2label == {0: "sky", 1: "road", 2: "car"}
    assert classes.class_ids == {"sky": 0, "road": 1, "car": 2}
    assert classes.unlabelled_id == 255


def test_ids_follow_the_given_names_and_not_the_tools_order():
    classes = match_classes(TOOL, ["car", "sky", "road"])
    assert classes.class_ids == {"sky": 1, "road": 2, "car": 0}


@pytest.mark.parametrize("name", ["background", "_background_", "__bg__", "Void", "unlabeled", "__ignore__"])
def test_what_is_not_labelled_is_no_class_unless_it_is_named(name):
    labels = Labels(names=(name, "sky", "road"), photos=())
    assert match_classes(labels).class_ids == {name: 255, "sky": 0, "road": 1}
    named = match_classes(labels, ["sky", "road", name])
    assert (named.class_ids, named.unlabelled_id) == ({name: 2, "sky": 0, "road": 1}, 255)


def test_the_formats_own_name_for_unlabelled_is_no_class():
    labels = Labels(names=("rest", "sky", "road"), photos=(), unlabelled="rest")
    assert match_classes(labels).class_ids == {"rest": 255, "sky": 0, "road": 1}


def test_background_becomes_the_last_class_and_takes_all_that_is_not_labelled():
    classes = match_classes(TOOL, background="other")
    assert classes.id2label == {0: "sky", 1: "road", 2: "car", 3: "other"}
    assert classes.unlabelled_id == 3


def test_background_of_the_tool_keeps_its_place_or_takes_the_one_given():
    kept = match_classes(VOC, background="background")
    assert (kept.class_ids, kept.unlabelled_id) == ({"background": 0, "sky": 1, "road": 2}, 0)
    renamed = match_classes(VOC, background="other")
    assert renamed.id2label == {0: "sky", 1: "road", 2: "other"}
    assert renamed.class_ids == {"background": 2, "sky": 0, "road": 1}


def test_border_and_void_stay_ignored_where_the_background_is_a_class():
    labels = Labels(names=("background", "sky", "road", "void", "__ignore__"), photos=())
    class_ids = match_classes(labels, background="other").class_ids
    assert class_ids == {"background": 2, "sky": 0, "road": 1, "void": 255, "__ignore__": 255}


def test_background_takes_its_place_among_the_given_names():
    classes = match_classes(TOOL, ["other", "sky", "road", "car"], background="other")
    assert (classes.unlabelled_id, classes.class_ids["sky"]) == (0, 1)


def test_table_renames_merges_and_ignores():
    classes = match_classes(TOOL, label_table={"car": "road", "sky": None}, background="rest")
    assert classes.id2label == {0: "road", 1: "rest"}
    assert classes.class_ids == {"sky": 255, "road": 0, "car": 0}


def test_classes_that_do_not_occur_are_allowed_where_the_tool_keeps_no_list():
    found = Labels(names=("road", "sky"), photos=(), is_complete=False)
    assert match_classes(found, ["sky", "road", "car"]).class_ids == {"road": 1, "sky": 0}
    with pytest.raises(ValueError, match=r"only in `labels`: car .*files: road, sky"):
        match_classes(Labels(names=("road", "sky"), photos=()), ["sky", "road", "car"])


def test_error_lists_both_sides_where_names_disagree():
    with pytest.raises(ValueError, match=r"only in the files: car; only in `labels`: bus \(`labels`: sky, road, bus"):
        match_classes(TOOL, ["sky", "road", "bus"])
    assert match_classes(TOOL, ["sky", "road", "bus"], label_table={"car": "bus"}).class_ids["car"] == 2
    assert match_classes(TOOL, ["sky", "road"], label_table={"car": None}).class_ids["car"] == 255


def test_error_says_how_to_name_the_background():
    with pytest.raises(ValueError, match=r"only in `labels`: background .*pass `--background background`"):
        match_classes(TOOL, ["background", "sky", "road", "car"])
    classes = match_classes(TOOL, ["background", "sky", "road", "car"], background="background")
    assert classes.unlabelled_id == 0


def test_error_when_two_names_differ_in_case_alone():
    labels = Labels(names=("Car", "sky", "car "), photos=())
    with pytest.raises(ValueError, match=r"both 'Car' and 'car ' \(of Car, sky, car \).*`--label_table FILE` with"):
        match_classes(labels)
    assert match_classes(labels, label_table={"car ": "Car"}).class_ids == {"Car": 0, "sky": 1, "car ": 0}


def test_error_when_the_background_is_none_of_the_given_names():
    with pytest.raises(ValueError, match=r"`background` must be one of `labels`, sky, road, car, got other"):
        match_classes(TOOL, ["sky", "road", "car"], background="other")


def test_error_when_one_class_is_alone():
    labels = Labels(names=("car",), photos=())
    with pytest.raises(ValueError, match=r"got car alone.*`--background background`"):
        match_classes(labels)
    assert match_classes(labels, background="background").id2label == {0: "car", 1: "background"}


def test_error_when_the_table_has_names_that_do_not_occur():
    with pytest.raises(ValueError, match=r"`label_table` must have names of the labels \(sky, road, car\), got bus"):
        match_classes(TOOL, label_table={"bus": "car"})


def test_name_table_is_read_from_json(tmp_path):
    path = tmp_path / "names.json"
    path.write_text(json.dumps({"Car": "car", "other": None}))
    assert read_name_table(path) == {"Car": "car", "other": None}


@pytest.mark.parametrize("content", ["{", "[1]", '{"Car": 3}'])
def test_error_when_the_name_table_is_something_else(tmp_path, content):
    path = tmp_path / "names.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"`label_table` must .*names.json"):
        read_name_table(path)


def test_error_when_the_name_table_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"names\.json is not there"):
        read_name_table(tmp_path / "names.json")
