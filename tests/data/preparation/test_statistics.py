import pickle

import numpy as np

from offseg_hf.data.preparation.statistics import LabelStatistics, class_counts

NAMES = {0: "sky", 1: "road", 2: "car", 3: "bus"}
# Of class 1 one object, whose pixels touch at a corner; of class 2 two, of one and two pixels.
SCENE = np.array(
    [
        [0, 0, 0, 0, 2],
        [0, 1, 1, 0, 0],
        [0, 0, 0, 1, 0],
        [2, 2, 0, 255, 255],
    ],
    np.uint8,
)


def test_record_has_shares_photos_objects_and_the_smallest():
    statistics = LabelStatistics()
    statistics.add(SCENE, "scene")
    assert statistics.record(NAMES) == {
        "num_photos": 1,
        "unlabelled": 0.1,
        "hidden": None,
        "classes": {
            "sky": {"pixels": 0.6, "photos": 1, "objects": 1, "smallest_object": 12, "in": "scene"},
            "road": {"pixels": 0.15, "photos": 1, "objects": 1, "smallest_object": 3, "in": "scene"},
            "car": {"pixels": 0.15, "photos": 1, "objects": 2, "smallest_object": 1, "in": "scene"},
            "bus": {"pixels": 0.0, "photos": 0, "objects": 0, "smallest_object": None, "in": None},
        },
    }


def test_objects_are_shapes_where_these_are_given():
    statistics = LabelStatistics()
    statistics.add(SCENE, "scene", num_objects={1: 4, 3: 1}, num_hidden=2)
    statistics.add(SCENE, "other", num_objects={1: 1}, num_hidden=4)
    assert dict(statistics.objects) == {1: 5, 3: 1}
    assert statistics.record(NAMES)["hidden"] == 0.15


def test_photos_without_labels_count_as_unlabelled():
    statistics = LabelStatistics()
    statistics.add(np.full((4, 5), 255, np.uint8), "empty")
    assert statistics.record(NAMES)["unlabelled"] == 1
    assert not statistics.photos


def test_ids_beyond_255_are_counted():
    statistics = LabelStatistics()
    statistics.add(np.array([[300, 300, 255, 256]], np.uint16), "wide")
    assert dict(statistics.pixels) == {300: 2, 256: 1}
    assert statistics.num_unlabelled == 1


def test_statistics_merge_into_those_of_all_photos():
    rng = np.random.default_rng(0)
    maps = [rng.integers(0, 4, (6, 7), dtype=np.uint8) for _ in range(6)]
    whole, first, second = LabelStatistics(), LabelStatistics(), LabelStatistics()
    for index, ids in enumerate(maps):
        hidden = index if index > 3 else None
        whole.add(ids, str(index), num_hidden=hidden)
        (first if index % 2 else second).add(ids, str(index), num_hidden=hidden)
    second.merge(pickle.loads(pickle.dumps(first)))  # as it comes from another process
    assert second == whole
    assert whole.num_hidden == 9


def test_statistics_of_nothing():
    record = LabelStatistics().record({0: "sky"})
    assert record["unlabelled"] == record["classes"]["sky"]["pixels"] == 0


def test_class_counts_leave_out_what_is_not_labelled():
    assert class_counts(SCENE, 4).tolist() == [12, 3, 3, 0]
    counts = class_counts(np.array([255, 299, 299], np.uint16), 300)
    assert counts.shape == (300,)
    assert np.flatnonzero(counts).tolist() == [299]
