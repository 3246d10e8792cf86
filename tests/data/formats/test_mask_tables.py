from pathlib import Path

import pytest
from mask_samples import write

from offseg_hf.data.formats.mask_tables import (
    labels_of_masks,
    make_table,
    read_class_dict,
    read_label_colors,
    read_labelmap,
    read_names,
)


def test_table_has_names_in_the_order_of_its_lines_and_ids_too():
    table = make_table([("road", (1, 2, 3)), ("sky", (4, 5, 6))], Path("table"))
    assert table.names == ("road", "sky", "void")
    assert table.by_id == {0: "road", 1: "sky", 255: "void"}
    assert table.by_colour == {(1, 2, 3): "road", (4, 5, 6): "sky"}


def test_class_may_have_several_colours():
    table = make_table([("road", (1, 2, 3)), ("road", (4, 5, 6))], Path("table"))
    assert table.by_colour == {(1, 2, 3): "road", (4, 5, 6): "road"}


def test_black_is_first_when_it_is_the_background(tmp_path):
    (tmp_path / "colors.txt").write_text("1 2 3 sky blue\n# comment\n0 0 0 nothing\n")
    table = read_label_colors(tmp_path / "colors.txt")
    assert table.by_id == {0: "nothing", 1: "sky blue", 255: "void"}
    assert table.by_colour == {(0, 0, 0): "nothing", (1, 2, 3): "sky blue"}


def test_error_names_both_classes_when_they_share_a_colour(tmp_path):
    (tmp_path / "labelmap.txt").write_text("sky:1,2,3::\nroad:1,2,3::\n")
    with pytest.raises(ValueError, match=r"labelmap.txt` must have a colour .* but sky and road share 1,2,3, so that"):
        read_labelmap(tmp_path / "labelmap.txt")


@pytest.mark.parametrize("colour", ["1,2", "1,2,256", "a,b,c", "1,2,3,4"])
def test_error_shows_the_line_when_a_colour_is_none(tmp_path, colour):
    (tmp_path / "labelmap.txt").write_text(f"sky:{colour}::\n")
    with pytest.raises(ValueError, match=f"labelmap.txt` must have colours of three numbers .*, got 'sky:{colour}::'"):
        read_labelmap(tmp_path / "labelmap.txt")


def test_error_names_the_file_when_it_has_no_names(tmp_path):
    (tmp_path / "names.txt").write_text("\n")
    with pytest.raises(ValueError, match=r"names.txt` must list the classes, one a line, and lists none; export"):
        read_names(tmp_path / "names.txt")


def test_error_names_the_column_when_it_lacks(tmp_path):
    (tmp_path / "class_dict.csv").write_text("name,red,green,b\nsky,1,2,3\n")
    with pytest.raises(
        ValueError, match=r"must have the columns name, r, g, b, but r, g is missing \(it has name, red"
    ):
        read_class_dict(tmp_path / "class_dict.csv")


def test_error_names_the_folder_when_it_has_no_masks(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"`dataset` must have masks that belong to photos, and .* has none; put"
    ):
        labels_of_masks([], make_table([("sky", None)], Path("table")), tmp_path)


def test_photos_are_sorted_and_have_the_masks_path_below_the_folder(tmp_path):
    mask = write(tmp_path / "masks" / "a.png", [[0]])
    photos = [tmp_path / "b.jpg", tmp_path / "a.jpg"]
    labels = labels_of_masks([(photo, mask, "train") for photo in photos], make_table([("sky", None)], mask), tmp_path)
    assert [(photo.photo.name, photo.source) for photo in labels.photos] == [
        ("a.jpg", "masks/a.png"),
        ("b.jpg", "masks/a.png"),
    ]
