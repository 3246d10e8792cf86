import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from offseg_hf.data.preparation.near_duplicates import (
    groups_between,
    joined_groups,
    near_duplicate_groups,
    photo_hash,
)
from offseg_hf.data.scenes import draw_scene


def saved(photo, format="JPEG", **options):
    file = io.BytesIO()
    photo.save(file, format, **options)
    return file.getvalue()


def distance(first, second):
    return int(np.bitwise_count(first ^ second).sum())


def hash_of_bits(*bits):
    """A hash in which these bits are set."""
    chosen = np.zeros(256, bool)
    chosen[list(bits)] = True
    return np.packbits(chosen)


@pytest.fixture(scope="module")
def scene():
    return draw_scene(1, (240, 320))[0]


@pytest.mark.parametrize(
    "change",
    [
        lambda scene: saved(scene, quality=40),
        lambda scene: saved(scene.resize((160, 120))),
        lambda scene: saved(scene.resize((1280, 960)), quality=80),  # which is decoded at a smaller scale
        lambda scene: saved(ImageEnhance.Brightness(scene).enhance(1.2), "PNG"),
        lambda scene: saved(scene.convert("L"), "PNG"),
        lambda scene: saved(scene.crop((4, 3, 316, 237)), "PNG"),
    ],
    ids=["compressed", "halved", "enlarged", "brightened", "grey", "cropped"],
)
def test_copy_is_in_the_group_of_its_photo(scene, change):
    assert near_duplicate_groups([photo_hash(scene), photo_hash(change(scene))]).tolist() == [0, 0]


def test_different_scenes_are_groups_of_their_own():
    hashes = [photo_hash(draw_scene(seed, (96, 128))[0]) for seed in range(30)]
    assert near_duplicate_groups(hashes).tolist() == list(range(30))


def test_mirrored_photo_is_another(scene):
    assert distance(photo_hash(scene), photo_hash(scene.transpose(Image.Transpose.FLIP_LEFT_RIGHT))) > 72


def test_hash_is_that_of_the_upright_photo(scene):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    turned = scene.transpose(Image.Transpose.ROTATE_90)
    assert distance(photo_hash(saved(turned, quality=95, exif=exif)), photo_hash(scene)) <= 8
    assert distance(photo_hash(saved(turned, quality=95)), photo_hash(scene)) > 72


def test_hash_has_half_of_its_bits_set_but_never_the_first(scene):
    bits = np.unpackbits(photo_hash(scene))
    assert bits.shape == (256,)
    assert bits[0] == 0
    assert bits.sum() == 127


def test_hash_of_16_bits_grey_is_that_of_8_bits(scene, tmp_path):
    grey = scene.convert("L")
    Image.fromarray(np.asarray(grey).astype(np.uint16) * 257).save(tmp_path / "deep.png")
    assert distance(photo_hash(tmp_path / "deep.png"), photo_hash(grey)) <= 2


def test_hash_of_a_broken_file_names_it(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"broken\.jpg"):
        photo_hash(tmp_path / "broken.jpg")


def test_groups_reach_as_far_as_the_distance():
    hashes = [hash_of_bits(), hash_of_bits(*range(1, 4)), hash_of_bits(*range(1, 5))]
    assert near_duplicate_groups(hashes[::2], max_distance=3).tolist() == [0, 1]
    assert near_duplicate_groups(hashes[::2], max_distance=4).tolist() == [0, 0]


def test_frames_in_a_row_are_one_group_by_their_neighbours():
    hashes = [hash_of_bits(*range(1, 1 + 3 * frame)) for frame in range(5)]
    assert near_duplicate_groups(hashes, max_distance=3).tolist() == [0] * 5
    assert near_duplicate_groups(hashes, max_distance=2).tolist() == [0, 1, 2, 3, 4]


def test_groups_agree_with_all_pairs_one_by_one():
    rng = np.random.default_rng(0)
    seeds = rng.integers(0, 256, (300, 32), dtype=np.uint8)
    hashes = seeds[rng.integers(0, 300, 700)]  # some thrice, some never
    hashes[:, 5] ^= rng.integers(0, 2, 700, dtype=np.uint8)
    groups = near_duplicate_groups(hashes, max_distance=1)

    expected = np.arange(700)
    for first in range(700):
        for second in range(first):
            if distance(hashes[first], hashes[second]) <= 1:
                expected[expected == expected[first]] = expected[second]
    same = groups[:, None] == groups
    np.testing.assert_array_equal(same, expected[:, None] == expected)
    assert groups.max() == len(np.unique(groups)) - 1


def test_thousands_of_equal_photos_are_one_group():
    assert not near_duplicate_groups(np.tile(hash_of_bits(3, 200), (6000, 1))).any()


def test_no_photos_have_no_groups():
    assert near_duplicate_groups([]).tolist() == []
    assert joined_groups(np.array([], int), np.array([], int)).tolist() == []


def test_joined_groups_are_together_by_either_reason():
    joined = joined_groups(np.array([0, 0, 1, 2, 3]), np.array([5, 4, 4, 0, 1]))
    assert joined.tolist() == [0, 0, 0, 1, 2]


def test_groups_between_splits():
    splits = ["train", "train", "validation", "validation", "test"]
    assert groups_between(np.array([0, 1, 1, 2, 0]), splits) == [[0, 4], [1, 2]]
    assert groups_between(np.array([0, 0, 1, 1, 2]), splits) == []
