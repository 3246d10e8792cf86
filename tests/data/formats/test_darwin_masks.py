import numpy as np
import pytest
from mask_samples import SAMPLES, TRUTH, label_maps, write

from offseg_hf.data.formats import darwin_masks

SAMPLE = SAMPLES / "darwin_index"


def write_folder(folder, rows, mask):
    folder.mkdir(exist_ok=True)
    (folder / "class_mapping.csv").write_text("class_name,class_color\r\n" + "".join(f"{row}\r\n" for row in rows))
    write(folder / "images" / "a.jpg", np.zeros((*np.shape(mask)[:2], 3)))
    return write(folder / "masks" / "a.png", mask)


def test_sample_is_read_by_its_table_whose_ids_are_alphabetical():
    assert darwin_masks.find(SAMPLE)
    labels = darwin_masks.read(SAMPLE)
    assert labels.names == ("__background__", "car", "road", "sky")
    [(name, (split, label_map))] = label_maps(labels).items()
    assert (name, split) == ("a.jpg", "train")
    assert [(label_map == class_id).sum() for class_id in (0, 1, 2, 255)] == [660, 667, 259, 814]
    differs = label_map != TRUTH  # Darwin fills the edges of its polygons too, one pixel more at the right and below
    neighbours = np.pad(TRUTH, 1, mode="edge")
    around = np.stack([neighbours[y : y + 40, x : x + 60] for y in range(3) for x in range(3)])
    assert differs.sum() == 174 and (around == label_map)[:, differs].any(axis=0).all()


def test_colours_are_read_by_the_table(tmp_path):
    rows = ["__background__,0 0 0", "road,255 51 51", '"sky, clear",51 255 51']
    write_folder(tmp_path, rows, [[(0, 0, 0), (255, 51, 51), (51, 255, 51)]])
    label_map = label_maps(darwin_masks.read(tmp_path), ["sky, clear", "road"])["a.jpg"][1]
    assert label_map.tolist() == [[255, 1, 0]]


def greys(num_values):
    """The rows that Darwin writes for grey masks, and what it paints for each of its numbers."""
    table = [int(number * 255 / (num_values - 1)) for number in range(num_values)]
    painted = np.arange(num_values)
    for number, grey in enumerate(table):
        painted = np.where(painted == number, grey, painted)
    return [f"class {number},{grey}" for number, grey in enumerate(table)], [painted.tolist()]


def test_greys_are_read_up_to_16_values(tmp_path):
    rows, mask = greys(16)
    write_folder(tmp_path, rows, mask)
    label_map = label_maps(darwin_masks.read(tmp_path), [f"class {number}" for number in range(16)])["a.jpg"][1]
    assert label_map.tolist() == [list(range(16))]


@pytest.mark.parametrize("num_values", [17, 40, 254])
def test_greys_are_refused_from_17_values_on_since_classes_share_one(tmp_path, num_values):
    rows, mask = greys(num_values)
    assert len(set(mask[0])) < num_values
    write_folder(tmp_path, rows, mask)
    with pytest.raises(
        ValueError, match=rf"greys that tell {num_values} classes apart, .* export semantic_mask_index or"
    ):
        darwin_masks.read(tmp_path)


def test_photo_is_the_one_of_the_masks_folder(tmp_path):
    for folder in ("first", "second"):
        write(tmp_path / "images" / folder / "a.jpg", np.zeros((1, 2, 3)))
        write(tmp_path / "masks" / folder / "a.png", [[0, 1]])
    (tmp_path / "class_mapping.csv").write_text("class_name,class_color\n__background__,0\nsky,1\n")
    photos = darwin_masks.read(tmp_path).photos
    assert [(photo.photo.parent.name, photo.source) for photo in photos] == [
        ("first", "masks/first/a.png"),
        ("second", "masks/second/a.png"),
    ]


def test_error_names_the_mask_when_its_photo_is_not_there(tmp_path):
    write_folder(tmp_path, ["__background__,0", "sky,1"], [[0, 1]])
    (tmp_path / "images" / "a.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"masks/a.png` must have its photo, and there is no a.jpg or .png"):
        darwin_masks.read(tmp_path)


def test_error_names_both_photos_when_either_may_be_meant(tmp_path):
    write_folder(tmp_path, ["__background__,0", "sky,1"], [[0, 1]])
    write(tmp_path / "others" / "a.jpg", np.zeros((1, 2, 3)))
    with pytest.raises(
        ValueError, match=r"one photo, but it may be .*images/a.jpg or .*others/a.jpg; move one of them"
    ):
        darwin_masks.read(tmp_path)


def test_error_names_the_table_when_a_colour_is_none(tmp_path):
    write_folder(tmp_path, ["__background__,0", "sky,1 2"], [[0, 1]])
    with pytest.raises(
        ValueError, match=r"class_mapping.csv` must have a grey or three numbers as class_color for each"
    ):
        darwin_masks.read(tmp_path)
