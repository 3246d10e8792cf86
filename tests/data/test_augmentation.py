import colorsys
import math
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image

from offseg_hf.data.augmentation import TrainTransform

PLAIN = {"flip_probability": 0, "photometric_distortion": False, "category_max_ratio": 1}


def random_photo(height, width, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def random_mask(height, width, seed=1):
    return np.random.default_rng(seed).integers(0, 5, (height, width), dtype=np.uint8)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


class ScriptedTransform(TrainTransform):
    """A transform that reports the size it resizes to."""

    def _resized_size(self, *args):
        self.resized = super()._resized_size(*args)
        return self.resized


def test_settings_are_known_without_what_takes_long_to_load():
    code = """
import sys
sys.argv = ["offseg"]
from offseg_hf.data.augmentation_settings import AugmentationSettings
print(AugmentationSettings.crop_size, *{"datasets", "numpy", "torch", "transformers"} & sys.modules.keys())
"""
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert output == "(512, 512)\n"


# Geometry


@pytest.mark.parametrize(
    ("size", "resize", "scale", "expected"),
    [
        ((512, 683), (2048, 512), 1, (512, 683)),
        ((480, 640), (2048, 512), 1, (512, 683)),  # the short side reaches 512
        ((100, 1000), (2048, 512), 1, (205, 2048)),  # the long side reaches 2048
        ((1024, 2048), (2048, 1024), 0.5, (512, 1024)),
        ((640, 480), (480, 640), 2, (1280, 960)),  # upright photos, and the pair in either order
        ((360, 480), (520, 520), 1, (390, 520)),
    ],
)
def test_size_keeps_the_ratio_within_both_limits_when_resized(size, resize, scale, expected):
    transform = TrainTransform(crop_size=(4096, 4096), resize=resize, scale_range=(scale, scale), **PLAIN)
    pixels, labels = transform(random_photo(*size), random_mask(*size))
    assert labels.shape == expected
    assert pixels.shape == (*expected, 3)


def test_scale_is_uniform_in_its_range_when_drawn():
    transform = ScriptedTransform(crop_size=(8, 8), resize=(100, 100), scale_range=(0.5, 2), **PLAIN)
    photo, mask = random_photo(10, 10), random_mask(10, 10)
    heights = []
    for seed in range(400):
        transform(photo, mask, seeded(seed))
        heights.append(transform.resized[0])
    assert min(heights) >= 50
    assert max(heights) <= 200
    assert np.histogram(heights, bins=3, range=(50, 200))[0].min() > 100  # a third is 133, its deviation 9


def nearest_pixels(mask, height, width):
    """The pixel of a mask under the centre of each pixel of its resized form."""
    rows, columns = (
        [int((i + Fraction(1, 2)) * n / m) for i in range(m)] for n, m in zip(mask.shape, (height, width))
    )
    return [[mask[row, column] for column in columns] for row in rows]


def levels_between(pixels, image):
    return np.abs(pixels.astype(int) - np.asarray(image)).max()


@pytest.mark.parametrize("size", [(40, 60), (91, 57)])
@pytest.mark.parametrize("scale", [0.5, 1.3, 2])
def test_photo_is_resized_as_pil_does_and_labels_to_the_nearest_when_it_fits_the_crop(size, scale):
    photo, mask = random_photo(*size), random_mask(*size)
    pixels, labels = TrainTransform((999, 999), resize=(60, 60), scale_range=(scale, scale), **PLAIN)(photo, mask)
    height, width = labels.shape
    assert levels_between(pixels, photo.resize((width, height), Image.Resampling.BILINEAR)) <= 1
    assert labels.tolist() == nearest_pixels(mask, height, width)


@pytest.mark.parametrize("size", [(40, 60), (91, 57)])
@pytest.mark.parametrize("scale", [0.5, 1.3, 2])
def test_crop_shows_the_pixels_under_it_when_the_photo_is_larger(size, scale):
    photo, places = random_photo(*size), np.arange(size[0] * size[1], dtype=np.int32).reshape(size)
    transform = ScriptedTransform((16, 16), resize=(60, 60), scale_range=(scale, scale), **PLAIN)
    lengths = set()
    for seed in range(20):
        pixels, labels = transform(photo, places, seeded(seed))
        # The box is found from the labels: the same number of source pixels on both sides of their centres.
        rows, columns = labels[:, 0] // size[1], labels[0] % size[1]
        steps = [side / resized for side, resized in zip(size, transform.resized)]
        boxes = []
        for centres, step, side in zip((rows, columns), steps, size):
            boxes += [
                [
                    (first, end)
                    for end in range(int(centres[-1]) + 1, min(int(centres[-1] + step) + 2, side) + 1)
                    for first in range(max(0, int(centres[0] - step) - 1), int(centres[0]) + 1)
                    if abs(end - first - 16 * step) <= 1
                    and [first + int((i + Fraction(1, 2)) * (end - first) / 16) for i in range(16)] == centres.tolist()
                ]
            ]
        found = [
            (top, bottom, left, right)
            for top, bottom in boxes[0]
            for left, right in boxes[1]
            if levels_between(
                pixels, photo.crop((left, top, right, bottom)).resize((16, 16), Image.Resampling.BILINEAR)
            )
            <= 1
        ]
        assert len(found) == 1
        lengths.add(found[0][1] - found[0][0])
    assert len(lengths) <= 3  # of one scale: rounded ends


def test_crops_reach_every_place_when_drawn():
    mask = np.arange(4, dtype=np.uint8).reshape(2, 2)
    transform = TrainTransform(crop_size=(1, 1), resize=(2, 2), scale_range=(1, 1), **PLAIN)
    seen = {transform(random_photo(2, 2), mask, seeded(seed))[1].item() for seed in range(50)}
    assert seen == {0, 1, 2, 3}


def test_flip_mirrors_photo_and_labels_when_it_is_certain():
    photo, mask = random_photo(6, 8), random_mask(6, 8)
    transform = TrainTransform((6, 8), (8, 6), (1, 1), flip_probability=1, photometric_distortion=False)
    pixels, labels = transform(photo, mask)
    assert np.array_equal(pixels, np.asarray(photo)[:, ::-1])
    assert np.array_equal(labels, mask[:, ::-1])


def test_half_is_flipped_when_the_probability_is_one_half():
    photo, mask = random_photo(6, 8), random_mask(6, 8)
    transform = TrainTransform((6, 8), (8, 6), (1, 1), category_max_ratio=1, photometric_distortion=False)
    flips = sum(not np.array_equal(transform(photo, mask, seeded(seed))[1], mask) for seed in range(400))
    assert 160 < flips < 240  # 200, its deviation 10


def half_and_half(width=40):
    """Left half class 0, right half class 1."""
    mask = np.zeros((4, width), np.uint8)
    mask[:, width // 2 :] = 1
    return mask


def largest_shares(mask, **arguments):
    """The largest class's share of 300 crops of 4×4."""
    transform = TrainTransform((4, 4), mask.shape, (1, 1), photometric_distortion=False, **arguments)
    crops = [transform(random_photo(*mask.shape), mask, seeded(seed))[1] for seed in range(300)]
    return np.array([np.bincount(crop[crop != 255], minlength=2).max() / 16 for crop in crops])


def test_crops_are_redrawn_ten_times_when_one_class_fills_them():
    # 3 of the 37 places have at most 3/4 of one class, so 11 draws fail with probability (34/37)^11 = 0.395.
    accepted = (largest_shares(half_and_half()) <= 0.75).mean()
    assert abs(accepted - 0.605) < 0.1
    assert (largest_shares(half_and_half(), category_max_ratio=1) <= 0.75).mean() < 0.2


def test_ignored_pixels_do_not_count_when_shares_are_measured():
    mask = half_and_half()
    mask[1:] = 255  # of each crop only the first row is labelled, the shares within it are as before
    accepted = (largest_shares(mask) <= 0.75 / 4).mean()
    assert abs(accepted - 0.605) < 0.1


def test_crops_without_a_label_are_redrawn_when_others_exist():
    mask = np.full((4, 40), 255, np.uint8)
    mask[:, :20] = 3
    transform = TrainTransform((4, 4), (40, 4), (1, 1), category_max_ratio=1, photometric_distortion=False)
    crops = [transform(random_photo(4, 40), mask, seeded(seed))[1] for seed in range(100)]
    assert all((crop == 3).any() for crop in crops)


def test_wide_ids_keep_their_values_when_masks_have_more_than_8_bits():
    mask = np.array([[300, -1], [255, 7]], np.int32)
    _, labels = TrainTransform((2, 2), (2, 2), (1, 1), **PLAIN)(random_photo(2, 2), mask)
    assert np.array_equal(labels, mask)


# Colours


def distorted(color, count=200, **arguments):
    """(count, 3) colours that a photo of one colour gets."""
    arguments = {"brightness": 0, "contrast": (1, 1), "saturation": (1, 1), "hue": 0, **arguments}
    transform = TrainTransform((1, 1), (1, 1), (1, 1), **arguments)
    photo, mask = Image.new("RGB", (1, 1), color), np.zeros((1, 1), np.uint8)
    return np.array([transform(photo, mask, seeded(seed))[0][0, 0] for seed in range(count)]).astype(int)


def test_brightness_shifts_half_of_the_photos_when_distorting():
    shifts = distorted((100, 120, 140), brightness=32) - (100, 120, 140)
    assert (shifts == shifts[:, :1]).all()
    assert shifts.min() >= -32
    assert shifts.max() <= 32
    assert 70 < (shifts[:, 0] == 0).sum() < 135
    assert np.ptp(shifts[:, 0]) > 50


def test_brightness_saturates_when_it_leaves_the_range():
    colors = distorted((0, 250, 255), brightness=32)
    assert colors.min() == 0
    assert colors.max() == 255


def test_contrast_scales_half_of_the_photos_when_distorting():
    factors = distorted((100, 100, 100), contrast=(0.5, 1.5))[:, 0] / 100
    assert factors.min() >= 0.5
    assert factors.max() <= 1.5
    assert 70 < (factors == 1).sum() < 135
    assert np.ptp(factors) > 0.8


def test_contrast_comes_before_or_after_the_colours_when_distorting():
    # Contrast 1.5 before saturation 2: (200, 150, 100) → (255, 225, 150) → (255, 195, 45), as red is clipped.
    # After it: (200, 150, 100) → (200, 100, 0) → (255, 150, 0).
    colors = distorted((200, 150, 100), contrast=(1.5, 1.5), saturation=(2, 2))
    before = np.abs(colors - (255, 195, 45)).max(1) <= 3
    after = np.abs(colors - (255, 150, 0)).max(1) <= 3
    assert 10 < before.sum() < 45  # one in eight of 200: both drawn, and the order
    assert 10 < after.sum() < 45


def test_saturation_scales_as_in_hsv_when_distorting():
    colors = distorted((200, 150, 100), saturation=(0.5, 0.5))
    hue, saturation, value = colorsys.rgb_to_hsv(200, 150, 100)
    changed = colors[np.abs(colors - (200, 150, 100)).max(1) > 3]
    assert 70 < len(changed) < 135
    assert np.abs(changed - colorsys.hsv_to_rgb(hue, saturation / 2, value)).max() <= 3


def test_hue_turns_by_at_most_its_degrees_when_distorting():
    colors = distorted((200, 80, 80), count=400, hue=18)
    degrees = np.array([colorsys.rgb_to_hsv(*color)[0] for color in colors / 255]) * 360
    degrees = (degrees + 180) % 360 - 180  # red is 0
    assert 13 < degrees.max() < 20  # 18, and PIL's hue has steps of 1.4
    assert -20 < degrees.min() < -13
    assert 150 < (np.abs(degrees) < 0.1).sum() < 250


def test_colours_stay_when_distortion_is_off():
    photo = random_photo(6, 8)
    pixels, _ = TrainTransform((6, 8), (8, 6), (1, 1), **PLAIN)(photo, random_mask(6, 8))
    assert np.array_equal(pixels, np.asarray(photo))


# Random numbers


@pytest.mark.parametrize("generator", [None, "own"])
def test_views_repeat_exactly_when_the_seed_is_the_same(generator):
    transform = TrainTransform(crop_size=(16, 16), resize=(40, 30))
    views = []
    for _ in range(2):
        torch.manual_seed(4)
        source = seeded(4) if generator else None
        views += [np.concatenate([transform(random_photo(30, 40), random_mask(30, 40), source)[0] for _ in range(3)])]
    assert np.array_equal(*views)


def test_global_random_state_is_untouched_when_a_generator_is_given():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    TrainTransform(crop_size=(16, 16))(random_photo(30, 40), random_mask(30, 40), seeded(0))
    assert torch.equal(before, torch.get_rng_state())


# Errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"crop_size": (0, 4)}, "`crop_size` must be numbers, each a whole number, at least 1 .*, got 0 4"),
        ({"resize": (512,)}, "`resize` must be 2 numbers, got 512; leave it out for 2048 512"),
        ({"scale_range": (0, 1)}, "`scale_range` must be numbers, each at least 0.05 and at most 20, got 0 1"),
        ({"scale_range": (0.001, 0.001)}, "`scale_range` must be numbers, each at least 0.05"),
        ({"contrast": (1.5, 0.5)}, "`contrast` must be a range, the smaller number first, got 1.5 0.5"),
        ({"saturation": (-1, 0.5)}, "`saturation` must be numbers, each at least 0"),
        ({"category_max_ratio": 75}, "`category_max_ratio` must be at least 0 and at most 1, got 75"),
        ({"flip_probability": -0.5}, "`flip_probability` must be at least 0 and at most 1, got -0.5"),
        ({"brightness": math.nan}, "`brightness` must be at least 0 and at most 255, got nan; leave it out for 32.0"),
    ],
)
def test_error_names_the_argument_when_a_number_is_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        TrainTransform(**arguments)
