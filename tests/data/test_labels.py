import json

import numpy as np
import pytest
import torch

from offseg_hf.data import read_id2label
from offseg_hf.data.labels import (
    LabelTable,
    audit_labels,
    find_label_encoding,
    find_label_table,
    read_colour_table,
    read_label_table,
)
from offseg_hf.data.presets import PRESETS
from offseg_hf.models.image_processing_offseg import reduce_labels

# Names and tables from files


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


def test_label_table_gives_the_id_1_to_a_single_class(tmp_path):
    (tmp_path / "table.json").write_text('{"7": "road", "8": 0, "9": 1, "0": null}')
    assert read_label_table(str(tmp_path / "table.json"), {0: "road"}) == {7: 1, 8: 0, 9: 1, 0: 255}


def test_label_table_may_have_colours(tmp_path):
    (tmp_path / "table.json").write_text('{"#4682B4": "sky", "0,0,142": 1, "128 64 128": null, "#000000": 255}')
    colours = read_colour_table(str(tmp_path / "table.json"), ID2LABEL)
    assert colours == {(70, 130, 180): "sky", (0, 0, 142): "road", (128, 64, 128): None, (0, 0, 0): None}


@pytest.mark.parametrize("content", ['{"7": "road"}', '{"street": "road"}', "{}", "[]"])
def test_label_table_has_no_colours_when_its_keys_are_none(tmp_path, content):
    (tmp_path / "table.json").write_text(content)
    assert read_colour_table(str(tmp_path / "table.json"), ID2LABEL) is None


@pytest.mark.parametrize(
    ("entry", "found"),
    [
        ('"7": "road"', "7: road"),
        ('"#0000": "road"', "#0000: road"),
        ('"0,0,256": "road"', "0,0,256: road"),
        ('"0,0,1": "street"', "0,0,1: street"),
        ('"0,0,1": true', "0,0,1: True"),
        ('"0,0,1": [1]', r"0,0,1: \[1\]"),
        ('"255,255,255": 0', "255,255,255: 0"),
    ],
)
def test_error_shows_what_is_wrong_when_a_table_of_colours_has_something_else(tmp_path, entry, found):
    (tmp_path / "table.json").write_text(f'{{"#ffffff": "sky", {entry}}}')
    with pytest.raises(
        ValueError, match=f"`label_table` must map each colour to null or a class .sky, road.*, got {found}; correct"
    ):
        read_colour_table(str(tmp_path / "table.json"), ID2LABEL)


def test_error_names_the_file_when_a_table_of_colours_is_missing():
    with pytest.raises(
        FileNotFoundError, match=r"`label_table` must be a JSON file of colour → class, and nowhere.json"
    ):
        read_colour_table("nowhere.json", ID2LABEL)


def test_error_names_the_file_when_a_label_table_is_missing():
    with pytest.raises(
        FileNotFoundError, match=r"`label_table` must be a JSON file .*, and nowhere.json is not there"
    ):
        read_label_table("nowhere.json", ID2LABEL)


# Tables


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
        ({0: 65535}, "must have class ids from 0 to 65,534, with 255 for what is not labelled, got 65535 to 65535"),
        ({0: -1, 1: 256}, "must have class ids from 0 to 65,534, .* got -1 to 256"),
    ],
)
def test_error_names_the_range_when_a_table_leaves_it(class_ids, message):
    with pytest.raises(ValueError, match=f"`label_table` {message}; renumber them"):
        LabelTable(class_ids)


def test_class_ids_have_16_bits_when_there_are_many_classes():
    table = LabelTable({1: 254, 2: 256, 3: 65534, 4: 255, 65535: 0})
    mapped = table(np.array([1, 2, 3, 4, 65535], np.uint16))
    assert mapped.dtype == np.uint16 and mapped.tolist() == [254, 256, 65534, 255, 0]
    with pytest.raises(ValueError, match=r"`mask` must hold ids that have a class, got \[0, 5\]"):
        table(np.array([0, 5, 1], np.uint16))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64])
@pytest.mark.parametrize("num_labels", [1, 2, 150, 254, 300])
def test_reduced_table_gives_what_the_image_processor_does(num_labels, dtype):
    largest = min(max(num_labels, 2), 254)
    stored = np.array([[0, 1, 2, 255], [0, largest - 2, largest - 1, largest]], dtype)
    reduced = LabelTable.reduced(num_labels)(stored)
    assert np.array_equal(reduced, reduce_labels(stored))
    assert reduced.dtype == np.uint8 and reduced[0].tolist() == [255, 0, 1, 255]


@pytest.mark.parametrize(("num_labels", "stored"), [(1, 3), (2, 3), (150, 151), (300, 256), (3, -1)])
def test_reduced_table_refuses_ids_beyond_the_classes(num_labels, stored):
    with pytest.raises(ValueError, match=rf"`mask` must hold ids that have a class, got \[{stored}\]"):
        LabelTable.reduced(num_labels)(np.array([0, 1, stored]))


def table_of(ids, num_labels, **arguments):
    """What the table that is found makes of each stored id."""
    table = find_label_table([(np.array(ids), "1.png")], num_labels, **arguments)
    return {stored: table(np.array([stored])).item() for stored in ids}


@pytest.mark.parametrize(("num_labels", "ids"), [(3, [0, 1, 2, 255]), (1, [0, 1, 255]), (300, [0, 254, 255, 299])])
def test_ids_stay_and_others_are_refused_when_they_are_classes(num_labels, ids):
    assert table_of(ids, num_labels) == {label_id: label_id for label_id in ids}
    with pytest.raises(ValueError, match=rf"`7.png` must hold ids that have a class, got \[{max(num_labels, 2)}\]"):
        LabelTable.identity(num_labels)(np.array([[0, max(num_labels, 2)]]), "7.png")


def test_table_reduces_when_asked_for():
    assert table_of([0, 1, 3, 255], 3, do_reduce_labels=True) == {0: 255, 1: 0, 3: 2, 255: 255}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ade20k", {0: 255, 1: 0, 150: 149}),
        ("cityscapes", {0: 255, 7: 0, 33: 18}),
        ("coco_stuff", {0: 0, 12: 11, 181: 170, 255: 255}),
        ("pascal_context", {0: 255, 1: 0, 59: 58}),
    ],
)
def test_table_is_the_presets_when_the_data_set_is_known(name, expected):
    preset = PRESETS[name]
    arguments = {"preset": preset, "do_reduce_labels": preset.reduce_labels}
    assert table_of([*expected], len(preset.class_names), **arguments) == expected


def test_given_table_wins_over_the_presets():
    assert table_of([0, 7], 2, preset=PRESETS["ade20k"], label_table={0: 1, 7: 0}) == {0: 1, 7: 0}


@pytest.mark.parametrize(
    ("ids", "num_labels", "arguments", "message"),
    [
        ([0, 4], 3, {"do_reduce_labels": True}, "`masks` must hold ids up to 3, before label 0 is dropped"),
        ([0, 256], 300, {"do_reduce_labels": True}, r"`masks` must hold ids that have a class, got \[256\]"),
        ([0, 8], 3, {"label_table": {0: 0}}, r"`masks` must hold ids that have a class, got \[8\]"),
        ([0], 3, {"label_table": {0: 0}, "do_reduce_labels": True}, "`do_reduce_labels` must be False with a"),
    ],
)
def test_error_is_raised_when_no_table_can_be_right(ids, num_labels, arguments, message):
    with pytest.raises(ValueError, match=message):
        table_of(ids, num_labels, **arguments)


# Checks


def masks(*ids):
    """Two masks that share these ids between them."""
    return [np.array([ids[::2]]), np.array([ids[1::2] or ids])]


@pytest.mark.parametrize(
    ("ids", "num_labels", "arguments"),
    [
        ((0, 1, 2, 255), 3, {}),
        ((1, 2), 3, {}),
        ((0, 1), 1, {}),
        ((0, 1, 255), 2, {}),
        ((0,), 2, {}),
        ((0, 1, 2, 3, 255), 3, {"reduce_labels": True}),
        ((0, 1, 254), 2, {"ignore_index": 254}),
        ((-1, 0, 1), 2, {"ignore_index": -1}),
    ],
)
def test_nothing_is_raised_when_ids_can_be_right(ids, num_labels, arguments):
    assert audit_labels(masks(*ids), num_labels, **arguments) is None


def test_tensors_of_any_integer_type_pass_when_ids_can_be_right():
    masks_of_both_kinds = [torch.tensor([[0, 1]]), np.array([[255, 2]], np.uint8)]
    assert audit_labels(iter(masks_of_both_kinds), 3) is None


@pytest.mark.parametrize(
    ("ids", "num_labels", "arguments", "message"),
    [
        ((0, 1, -1), 3, {}, "must not hold negative ids, got -1, 0, 1; write 255"),
        ((0, 255), 2, {}, "class ids up to 1, got only 0, 255, and 255 means unlabelled here; say what black and"),
        ((0, 255), 1, {}, "class ids up to 1, got only 0, 255, and 255 means unlabelled here; say what black and"),
        ((0, 255), 5, {}, "class ids up to 4, got only 0, 255, and 255 means unlabelled here; say what black and"),
        ((0, 255), 3, {"reduce_labels": True}, "got only 0, 255, .* without --do_reduce_labels"),
        ((255,), 3, {}, "must have labelled pixels, got only 255, all of them ignored; check the mask column"),
        ((0,), 3, {"reduce_labels": True}, "all of them ignored; pass no --do_reduce_labels if 0 is a class"),
        ((1, 2, 3), 3, {}, "up to 2 for 3 classes, got 1, 2, 3; 0 never occurs, .*: see in the masks which class"),
        ((0, 1, 3, 255), 3, {}, "up to 2 for 3 classes, got 0, 1, 3, 255; see in the masks which class each id"),
        ((0, 7, 33), 19, {}, "up to 18 for 19 classes, got 0, 7, 33; see in .* with `--label_table FILE`, as in"),
        ((0, 5), 3, {"reduce_labels": True}, "up to 3, before label 0 is dropped, for 3 classes, got 0, 5; see"),
        ((0, 128, 255), 2, {}, "up to 1 for 2 classes, got 0, 128, 255; see in the masks"),
        (range(40), 19, {}, "got 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, …; see in the masks"),
    ],
)
def test_error_names_the_remedy_when_ids_cannot_be_right(ids, num_labels, arguments, message):
    with pytest.raises(ValueError, match=f"^`masks` .*{message}"):
        audit_labels(masks(*ids), num_labels, **arguments)


@pytest.mark.parametrize("ids", [[1, 2, 3], [0, 1, 3, 255], [0, 7, 33]])
def test_no_hint_is_to_reduce_labels_when_their_order_is_not_known(ids):
    with pytest.raises(ValueError, match=r"^(?!.*do_reduce_labels).*`masks` must hold ids up to 2"):
        audit_labels(masks(*ids), 3)


def test_error_says_that_masks_count_objects_when_each_has_all_numbers_up_to_its_own():
    counted = [np.arange(31), np.arange(13), np.arange(1, 26)]
    with pytest.raises(ValueError, match="the first ones hold all numbers up to 30, 12, 25, as masks of instances do"):
        audit_labels(counted, 19)


@pytest.mark.parametrize(
    ("ids", "label_table", "expected"),
    [
        ([0, 255], {"0": "background", "255": "object"}, [0, 1]),  # the remedies that messages name
        ([0, 255], {"0": "background", "1": "object", "255": None}, [0, 255]),
        ([0, 1, 2], {"0": None, "1": "background", "2": "object"}, [255, 0, 1]),
    ],
)
def test_label_table_is_the_remedy_when_ids_are_no_classes(tmp_path, ids, label_table, expected):
    id2label = {0: "background", 1: "object"}
    with pytest.raises(ValueError, match=r"`masks` must .*--label_table FILE"):
        table_of(ids, 2)
    (tmp_path / "table.json").write_text(json.dumps(label_table))
    table = read_label_table(str(tmp_path / "table.json"), id2label)
    assert list(table_of(ids, 2, label_table=table).values()) == expected


def test_error_is_raised_when_there_is_no_mask():
    with pytest.raises(ValueError, match="`masks` must hold at least one mask, got none"):
        audit_labels([], 3)


def encoding(name, *masks, ending=".png"):
    """The name of the encoding that is found from the ids of these masks."""
    examples = ((np.array(ids), f"{index}{ending}") for index, ids in enumerate(masks))
    return find_label_encoding(examples, PRESETS[name]).name


@pytest.mark.parametrize(
    ("name", "masks", "found"),
    [
        ("ade20k", [(0, 5, 150)], "class ids from 1"),
        ("ade20k", [(5, 6)], "class ids from 1"),
        ("cityscapes", [(1, 3, 7, 8), (7, 11, 26)], "labelIds"),
        ("cityscapes", [(7, 26, 255)], "labelIds"),  # licence plates, -1, in an unsigned file
        ("cityscapes", [(-1, 7)], "labelIds"),
        ("cityscapes", [(0, 1, 18), (2, 255)], "trainIds"),
        ("coco_stuff", [(0, 255), (20, 181)], "pixel-map ids"),
        ("coco_stuff", [(0, 12, 171)], "pixel-map ids"),
        ("coco_stuff", [(0, 255), (11, 170)], "trainIds"),  # no pixel map has 11, a street sign
        ("pascal_context", [(0, 59)], "class ids from 1"),
    ],
)
def test_encoding_is_found_from_the_ids(name, masks, found):
    assert encoding(name, *masks) == found


@pytest.mark.parametrize(
    ("name", "ending", "found"),
    [
        ("cityscapes", "_gtFine_labelIds.png", "labelIds"),
        ("cityscapes", "_gtFine_labelTrainIds.png", "trainIds"),
        ("coco_stuff", "_labelTrainIds.png", "trainIds"),
    ],
)
def test_name_of_the_files_decides_when_the_ids_fit_both(name, ending, found):
    assert encoding(name, (7, 8), (12,), ending=ending) == found


def test_ids_decide_when_the_name_of_the_files_says_otherwise():
    assert encoding("cityscapes", (7, 26), ending="_gtFine_labelTrainIds.png") == "labelIds"


def test_more_masks_are_read_while_the_first_do_not_tell():
    assert encoding("cityscapes", *[(7,)] * 150, (33,)) == "labelIds"


def test_no_more_masks_are_read_than_tell():
    def examples():
        for _ in range(16):
            yield np.array([26]), ""
        raise AssertionError("16 are enough")

    assert find_label_encoding(examples(), PRESETS["cityscapes"]).name == "labelIds"


@pytest.mark.parametrize(
    ("name", "masks", "message"),
    [
        (
            "ade20k",
            [(0, 151)],
            r"ids of ADE20K, class ids from 1 \(0…150\), got 0, 151; take the original files, or say",
        ),
        (
            "ade20k",
            [(0, 149), (255,)],
            r"ids of ADE20K, .* got 0, 149, 255; 255 is not among them, so labels seem to be reduced already",
        ),
        ("pascal_context", [(0, 415)], r"ids of Pascal Context, class ids from 1 \(0…59\), got 0, 415; take the orig"),
        ("cityscapes", [(0, 34)], r"ids of Cityscapes, labelIds \(-1…33\) or trainIds \(0…18, 255\), got 0, 34; take"),
        (
            "coco_stuff",
            [(0, 182)],
            r"ids of COCO-Stuff-164K, pixel-map ids \(0…10, .*\) or trainIds .*, got 0, 182; take",
        ),
        (
            "coco_stuff",
            [(11,), (181,)],
            "ids of .* got 11, 181; take the original files, or say what stored ids mean with `--label",
        ),
    ],
)
def test_error_shows_the_encodings_when_the_ids_fit_none(name, masks, message):
    with pytest.raises(ValueError, match=f"^`masks` must hold the {message}"):
        encoding(name, *masks)


@pytest.mark.parametrize("name", ["cityscapes", "coco_stuff"])
def test_error_names_the_remedy_when_the_ids_fit_both_encodings(name):
    with pytest.raises(
        ValueError,
        match=r"^`masks` must show which ids .* but 3, 7, all in the first 2, fit both; say .* `--label_table",
    ):
        encoding(name, (3,), (7,))


def test_error_is_raised_when_there_is_no_mask_to_find_the_encoding_from():
    with pytest.raises(ValueError, match="`masks` must hold at least one mask, got none"):
        encoding("cityscapes")


@pytest.mark.parametrize("dtype", [np.int64, np.uint32, np.uint64])
def test_stored_ids_beyond_32_bits_have_no_class(dtype):
    stored = np.array([[7, min(2**32 + 7, np.iinfo(dtype).max)]], dtype)
    with pytest.raises(ValueError, match=r"`mask` must hold ids that have a class, got \[4294967"):
        LabelTable({7: 1, -1: 255})(stored)


def test_ids_that_are_no_integers_are_refused():
    with pytest.raises(ValueError, match="`mask` must hold integer ids, got float32; convert it to uint8"):
        LabelTable({1: 0})(np.ones((2, 2), np.float32))
    with pytest.raises(ValueError, match="`masks` must hold integer ids, got float64; convert them to uint8"):
        audit_labels([np.full((2, 2), 1.5)], 3)


def test_names_are_read_without_a_byte_order_mark(tmp_path):
    for name, content in (("names.txt", "sky\nroad\n"), ("names.json", '["sky", "road"]'), ("names.TXT", "sky\nroad")):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + content.encode())
        assert read_id2label(str(tmp_path / name)) == {0: "sky", 1: "road"}
    (tmp_path / "table.json").write_bytes(b'\xef\xbb\xbf{"7": "road"}')
    assert read_label_table(str(tmp_path / "table.json"), ID2LABEL) == {7: 1}


def test_blank_lines_between_names_are_pointed_at_by_number(tmp_path):
    (tmp_path / "names.txt").write_text("sky\n\nroad\n  \ncar\n\n")
    with pytest.raises(
        ValueError, match=r"`labels` must have a name in each line, but in .* blank are the lines 2, 4;"
    ):
        read_id2label(str(tmp_path / "names.txt"))


@pytest.mark.parametrize("labels", ["classes.csv", "classes.yaml", "folder/classes"])
def test_a_file_of_another_kind_does_not_become_a_class(labels, tmp_path):
    with pytest.raises(ValueError, match=rf"`labels` must be names .* got {labels}; save the names as a .txt file"):
        read_id2label(labels)
    (tmp_path / "classes").write_text("sky\nroad")
    with pytest.raises(ValueError, match="`labels` must be names separated by commas"):
        read_id2label(str(tmp_path / "classes"))
    assert read_id2label("crack") == {0: "crack"}
