import numpy as np
import pytest

from offseg_hf.data.preparation.held_out import groups_of_names, hold_out


def names_of(num_photos):
    return [f"photo{index}" for index in range(num_photos)]


def held_names(names, counts, groups, fraction, **options):
    held, _ = hold_out(names, counts, groups, fraction, **options)
    return {name for name, is_held in zip(names, held) if is_held}


def test_rare_class_is_in_both_parts_and_common_ones_in_their_share():
    counts = np.zeros((40, 3), int)
    counts[:, 0] = 500
    counts[:20, 1] = 30
    counts[[3, 25], 2] = 1  # in two photos alone
    for seed in range(10):
        held, notes = hold_out(names_of(40), counts, np.arange(40), 0.1, seed=seed)
        assert held.sum() == 4
        assert (counts[held] > 0).sum(0).tolist() == [4, 2, 1]
        assert notes == []


def test_class_that_validation_lacks_comes_with_its_smallest_group():
    # Class 1 is in the groups 0 (five photos) and 1 (two): a tenth of seven photos rounds to none of them.
    groups = np.array([0] * 5 + [1] * 2 + list(range(2, 15)))
    counts = np.ones((20, 2), int)
    counts[7:, 1] = 0
    held, _ = hold_out(names_of(20), counts, groups, 0.1)
    assert np.flatnonzero(held).tolist() == [5, 6]


def test_groups_stay_whole():
    groups = np.arange(60) // 3
    counts = np.random.default_rng(0).integers(0, 2, (60, 5))
    held, _ = hold_out(names_of(60), counts, groups, 0.2)
    assert set(held.reshape(20, 3).sum(1).tolist()) == {0, 3}


def test_photos_without_any_class_are_held_out_in_their_share():
    held, notes = hold_out(names_of(30), np.zeros((30, 2), int), np.arange(30), 0.2)
    assert held.sum() == 6
    assert notes == []


def test_choice_depends_on_the_seed_and_not_on_the_order_of_the_photos():
    rng = np.random.default_rng(0)
    names, counts, groups = names_of(50), rng.integers(0, 2, (50, 4)), np.arange(50) // 2
    chosen = held_names(names, counts, groups, 0.2, seed=1)
    order = rng.permutation(50)
    again = held_names([names[index] for index in order], counts[order], 100 - groups[order], 0.2, seed=1)
    assert chosen == again
    assert chosen != held_names(names, counts, groups, 0.2, seed=2)


def test_class_of_a_single_group_stays_in_train_and_is_named():
    counts = np.zeros((10, 3), int)
    counts[:, 0] = 1
    counts[4, 1] = counts[7, 2] = 1
    held, notes = hold_out(names_of(10), counts, np.arange(10), 0.5, id2label={0: "road", 1: "car", 2: "bus"})
    assert not held[[4, 7]].any()
    assert held.sum() == 5
    assert notes == ["car, bus are in one group of photos only, and stay in train."]


def test_class_that_train_cannot_spare_stays_there_and_is_named():
    # Class 0 is in two groups, each of which is the only one with another class.
    counts = np.array([[1, 1, 0], [1, 0, 1], [0, 0, 0], [0, 0, 0]])
    held, notes = hold_out(names_of(4), counts, np.arange(4), 0.25)
    assert held.sum() == 1
    assert not held[:2].any()
    assert notes == [
        "1, 2 are in one group of photos only, and stay in train.",
        "0 is in photos only that train cannot spare, and stays in train.",
    ]


def test_notes_of_many_classes_name_five():
    counts = np.vstack([np.ones((1, 9), int), np.zeros((3, 9), int)])
    _, notes = hold_out(names_of(4), counts, np.arange(4), 0.25)
    assert notes == ["0, 1, 2, 3, 4 and 4 more classes are in one group of photos only, and stay in train."]


def test_share_that_groups_do_not_allow_is_told():
    held, notes = hold_out(names_of(30), np.ones((30, 1), int), np.array([0] * 20 + [1] * 10), 0.1)
    assert np.flatnonzero(held).tolist() == list(range(20, 30))
    assert notes == [
        "validation has 10 of 30 photos, not 3, since groups stay whole and every class shall be in both parts."
    ]


@pytest.mark.parametrize("fraction", [0, 1, -0.5, 10, float("nan")])
def test_fraction_out_of_range_raises(fraction):
    with pytest.raises(ValueError, match=f"`validation_fraction` must lie between 0 and 1, got {fraction}; pass 0.1"):
        hold_out(names_of(9), np.ones((9, 1)), np.arange(9), fraction)


def test_one_photo_cannot_be_divided():
    with pytest.raises(ValueError, match="must leave photos in both parts, and there are 1; label more photos"):
        hold_out(["only"], np.ones((1, 1)), np.zeros(1, int), 0.5)


@pytest.mark.parametrize(("fraction", "part"), [(0.1, 0), (0.9, 4)])
def test_fraction_that_leaves_a_part_empty_names_one_that_does_not(fraction, part):
    with pytest.raises(ValueError, match=f"but {fraction} of 4 photos is {part}; .* or pass 0.25"):
        hold_out(names_of(4), np.ones((4, 1)), np.arange(4), fraction)
    held, _ = hold_out(names_of(4), np.ones((4, 1)), np.arange(4), 0.25)
    assert held.sum() == 1


def test_one_group_cannot_be_divided():
    with pytest.raises(ValueError, match="all 8 photos are one group of near-duplicates, or of `--group_by`; add"):
        hold_out(names_of(8), np.ones((8, 1)), np.full(8, 3), 0.5)


def test_groups_with_classes_of_their_own_cannot_be_divided():
    with pytest.raises(ValueError, match="each of the 3 groups of photos has a class that no other one has; label"):
        hold_out(names_of(6), np.eye(3, dtype=int)[np.arange(6) // 2], np.arange(6) // 2, 0.5)


def test_group_is_what_the_expression_captures():
    names = ["berlin_01_a", "berlin_02_b", "ulm_01_a"]
    assert groups_of_names(names, r"^(\w+?)_\d").tolist() == [0, 0, 1]


def test_group_is_the_whole_match_without_a_capture():
    assert groups_of_names(["a/01", "a/02", "b/01"], r"\d+").tolist() == [0, 1, 0]


def test_name_without_the_group_is_named_and_the_remedy_works():
    names = ["berlin_1", "berlin_2", "extra", "other"]
    with pytest.raises(
        ValueError, match=r"`group_by` must be found in the name of every photo, .* is not in extra; .*"
    ):
        groups_of_names(names, r"(\w+)_\d")
    assert groups_of_names(names, r"(\w+)_\d|.*").tolist() == [0, 0, 1, 2]


def test_broken_expression_raises_and_the_remedy_works():
    with pytest.raises(ValueError, match=r"`group_by` must be a regular expression, got '\+' .*; correct it, or put"):
        groups_of_names(["a+b"], "+")
    assert groups_of_names(["a+b"], r"\+").tolist() == [0]
