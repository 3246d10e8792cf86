import io
import pickle

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from offseg_hf.data.augmentation import TrainTransform
from offseg_hf.data.examples import PrepareExample, TrainingExamples, evaluation_examples, stack_examples
from offseg_hf.data.labels import LabelTable
from offseg_hf.models.image_processing_offseg import OffSegImageProcessor

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def encoded(pixels, path=None):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return {"bytes": file.getvalue(), "path": path}


def example(height, width, seed=0):
    rng = np.random.default_rng(seed)
    photo = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    mask = rng.integers(0, 4, (height, width), dtype=np.uint8)
    return photo, mask, {"image": encoded(photo), "mask": encoded(mask)}


def batch_of(prepare, raws):
    return stack_examples([prepare(raw, f"example {index}") for index, raw in enumerate(raws)])


def plain_transform(crop_size, **arguments):
    """No resize of photos of 8 × 8, and no change of their colours."""
    return TrainTransform(crop_size, (8, 8), (1, 1), 1, 0, photometric_distortion=False, **arguments)


def test_photos_are_normalised_and_labels_kept_when_training():
    photo, mask, raw = example(8, 8)
    batch = batch_of(PrepareExample(OffSegImageProcessor(), plain_transform((8, 8))), [raw, raw])
    expected = (photo / 255 - MEAN) / STD
    assert batch["pixel_values"].dtype == torch.float32
    assert batch["labels"].dtype == torch.int64
    assert batch["labels"].shape == (2, 8, 8)
    np.testing.assert_allclose(batch["pixel_values"][1].permute(1, 2, 0), expected, atol=1e-5)
    assert np.array_equal(batch["labels"][1], mask)


def test_processors_own_mean_is_used_when_it_differs():
    photo, _, raw = example(8, 8)
    processor = OffSegImageProcessor(image_mean=[0.5, 0.5, 0.5], image_std=[0.5, 0.5, 0.5])
    batch = batch_of(PrepareExample(processor, plain_transform((8, 8))), [raw])
    np.testing.assert_allclose(batch["pixel_values"][0].permute(1, 2, 0), photo / 127.5 - 1, atol=1e-5)


def test_small_photos_are_padded_at_the_bottom_and_right_when_training():
    _, mask, raw = example(8, 6)
    batch = batch_of(PrepareExample(OffSegImageProcessor(), plain_transform((10, 9))), [raw])
    assert batch["pixel_values"].shape == (1, 3, 10, 9)
    assert (batch["pixel_values"][0, :, 8:] == 0).all()
    assert (batch["pixel_values"][0, :, :, 6:] == 0).all()
    assert np.array_equal(batch["labels"][0, :8, :6], mask)
    assert (batch["labels"][0] == 255).sum() == 90 - 48


@pytest.mark.parametrize("size", [(1, 5), (3, 3), (4, 8)])
def test_channels_are_recognised_when_crops_are_tiny(size):
    raw = example(8, 8)[2]
    batch = batch_of(PrepareExample(OffSegImageProcessor(), plain_transform(size)), [raw])
    assert batch["pixel_values"].shape == (1, 3, *size)


def test_views_depend_on_the_examples_seeds_alone_when_they_carry_some():
    raw = example(8, 8)[2]
    prepare = PrepareExample(OffSegImageProcessor(), TrainTransform((4, 4), (8, 8)))
    first, second, other = (
        batch_of(prepare, [{**raw, "augmentation_seed": seed}])["pixel_values"] for seed in (1, 1, 2)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_labels_keep_their_resolution_when_evaluating():
    photo, mask, raw = example(20, 30)
    processor = OffSegImageProcessor(size={"shortest_edge": 10, "longest_edge": 100})
    batch = batch_of(PrepareExample(processor), [raw])
    assert batch["pixel_values"].shape == (1, 3, 10, 15)
    assert np.array_equal(batch["labels"][0], mask)
    assert batch["labels"].dtype == torch.int64
    expected = processor(Image.fromarray(photo), return_tensors="pt")["pixel_values"]
    assert torch.equal(batch["pixel_values"], expected)


@pytest.mark.parametrize("mode", ["training", "evaluation"])
def test_photos_are_normalised_by_one_number_when_mean_and_deviation_are_such(mode):
    photo, _, raw = example(8, 8)
    processor = OffSegImageProcessor(image_mean=0.5, image_std=0.25, size={"height": 8, "width": 8})
    prepare = PrepareExample(processor, plain_transform((8, 8)) if mode == "training" else None)
    pixel_values = batch_of(prepare, [raw])["pixel_values"][0]
    np.testing.assert_allclose(pixel_values.permute(1, 2, 0), (photo / 255 - 0.5) / 0.25, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"do_normalize": False}, lambda pixels: pixels / 255),
        ({"do_normalize": False, "do_rescale": False}, lambda pixels: pixels),
        ({"rescale_factor": 1 / 127.5, "image_mean": 1, "image_std": 1}, lambda pixels: pixels / 127.5 - 1),
    ],
)
def test_training_has_the_values_of_the_image_processor_whatever_its_settings(settings, expected):
    photo, _, raw = example(8, 8)
    processor = OffSegImageProcessor(do_resize=False, **settings)
    pixel_values = PrepareExample(processor, plain_transform((8, 8)))(raw)["pixel_values"]
    np.testing.assert_allclose(pixel_values.permute(1, 2, 0), expected(photo.astype(float)), rtol=1e-5, atol=1e-5)
    assert torch.equal(pixel_values, processor(Image.fromarray(photo), return_tensors="pt")["pixel_values"][0])


@pytest.mark.parametrize("mode", ["training", "evaluation"])
def test_labels_are_reduced_once_when_the_processor_says_so(mode):
    mask = np.array([[0, 1], [4, 255]], np.uint8)
    raw = {"image": encoded(np.zeros((2, 2, 3), np.uint8)), "mask": encoded(mask)}
    transform = TrainTransform((2, 2), (2, 2), (1, 1), flip_probability=0) if mode == "training" else None
    prepare = PrepareExample(OffSegImageProcessor(do_reduce_labels=True), transform, LabelTable.reduced(4))
    assert batch_of(prepare, [raw])["labels"].tolist() == [[[255, 0], [3, 255]]]


@pytest.mark.parametrize(
    ("size", "name"),
    [({"shortest_edge": 10, "longest_edge": 100}, "pixel_values"), ({"height": 8, "width": 8}, "labels")],
)
def test_error_names_the_batch_size_when_sizes_differ_in_evaluation(size, name):
    prepare = PrepareExample(OffSegImageProcessor(size=size))
    with pytest.raises(ValueError, match=rf"`{name}` must agree .* with --per_device_eval_batch_size 1"):
        batch_of(prepare, [example(20, 30)[2], example(20, 31)[2]])


def test_pixels_that_reduction_ignores_do_not_count_when_a_crop_is_judged():
    mask = np.zeros((4, 40), np.uint8)  # unlabelled but for the first row: one class on the left, one on the right
    mask[0, :20], mask[0, 20:] = 1, 2
    photo = encoded(np.zeros((4, 40, 3), np.uint8))
    transform = TrainTransform((4, 4), (40, 4), (1, 1), flip_probability=0)
    prepare = PrepareExample(OffSegImageProcessor(do_reduce_labels=True), transform, LabelTable.reduced(2))
    raws = [{"image": photo, "mask": encoded(mask), "augmentation_seed": seed} for seed in range(300)]
    crops = [prepare(raw)["labels"] for raw in raws]
    # Of the 37 places 3 have at most 3/4 of one class, so 11 draws fail with probability (34/37)^11 = 0.395.
    accepted = np.mean([0 < (crop[0] == 1).sum() < 4 for crop in crops])
    assert abs(accepted - 0.605) < 0.1
    assert all((crop[1:] == 255).all() for crop in crops)


def test_error_is_raised_when_the_processor_would_reduce_and_no_table_does():
    with pytest.raises(ValueError, match=r"`label_table` must be given .*; pass `LabelTable.reduced\(num_labels\)`"):
        PrepareExample(OffSegImageProcessor(do_reduce_labels=True), TrainTransform())


@pytest.mark.parametrize("broken", ["image", "mask"])
@pytest.mark.parametrize("mode", ["training", "evaluation"])
def test_error_names_the_file_when_it_is_broken(broken, mode):
    raw = example(8, 8)[2]
    raw[broken] = {"bytes": raw[broken]["bytes"][:60], "path": "scene_7.png"}
    prepare = PrepareExample(OffSegImageProcessor(), plain_transform((8, 8)) if mode == "training" else None)
    with pytest.raises(ValueError, match=r"1.*scene_7.png"):
        batch_of(prepare, [example(8, 8)[2], raw])


@pytest.mark.parametrize("mode", ["training", "evaluation"])
def test_error_names_the_example_when_photo_and_mask_differ_in_size(mode):
    raw = {"image": example(8, 8)[2]["image"], "mask": example(6, 8)[2]["mask"]}
    prepare = PrepareExample(OffSegImageProcessor(), plain_transform((8, 8)) if mode == "training" else None)
    with pytest.raises(ValueError, match=r"0.* must have the size of its image, 8 x 8 .* 6 x 8"):
        batch_of(prepare, [raw])


@pytest.mark.parametrize("streaming", [False, True])
def test_data_set_yields_tensors_when_prepared(streaming):
    raws = [example(8, 8, seed)[2] for seed in range(3)]
    features = datasets.Features(image=datasets.Image(decode=False), mask=datasets.Image(decode=False))
    data = datasets.Dataset.from_list(raws, features=features)
    data = data.to_iterable_dataset() if streaming else data
    prepare = PrepareExample(OffSegImageProcessor(size={"height": 8, "width": 8}))
    prepared = list(evaluation_examples(data, prepare))
    assert [set(one) for one in prepared] == [{"pixel_values", "labels"}] * 3
    for one, raw in zip(prepared, raws):
        assert torch.equal(one["pixel_values"], prepare(raw)["pixel_values"])
        assert torch.equal(one["labels"], prepare(raw)["labels"])


def evaluation_sets():
    """Four examples as a data set and as a stream."""
    raws = [example(8, 8, seed)[2] for seed in range(4)]
    features = datasets.Features(image=datasets.Image(decode=False), mask=datasets.Image(decode=False))
    data = datasets.Dataset.from_list(raws, features=features)
    processor = OffSegImageProcessor(size={"height": 8, "width": 8}, do_reduce_labels=True)
    prepare = PrepareExample(processor, label_table=LabelTable.reduced(3))
    return [evaluation_examples(each, prepare) for each in (data, data.to_iterable_dataset(num_shards=2))]


class OneAfterAnother(torch.utils.data.Dataset):
    """The examples of a map-style data set of four, and then those of a stream of four."""

    def __init__(self, data, stream):
        self.data, self.stream = data, stream

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return self.data[index] if index < 4 else list(self.stream)[index - 4]


@pytest.mark.slow  # each has a process that loads transformers
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_workers_prepare_examples_however_their_processes_are_started(method):
    both = OneAfterAnother(*evaluation_sets())
    loader = torch.utils.data.DataLoader(
        both, batch_size=2, collate_fn=stack_examples, num_workers=1, multiprocessing_context=method
    )
    batches = list(loader)
    whole = stack_examples([both[index] for index in range(8)])
    for name in ("pixel_values", "labels"):
        assert torch.equal(torch.cat([batch[name] for batch in batches]), whole[name])


def test_evaluation_data_can_be_pickled():
    for data in evaluation_sets():
        for sent, own in zip(pickle.loads(pickle.dumps(data)), data, strict=True):
            assert torch.equal(sent["pixel_values"], own["pixel_values"])
            assert torch.equal(sent["labels"], own["labels"])


def test_what_prepares_training_examples_can_be_pickled():
    prepare = PrepareExample(OffSegImageProcessor(), plain_transform((8, 8)), LabelTable({0: 1, 1: 0, 2: 255, 3: 2}))
    sent = pickle.loads(pickle.dumps(prepare))
    raw = example(8, 8)[2]
    assert torch.equal(sent(raw)["labels"], prepare(raw)["labels"])


def test_views_depend_on_the_pass_and_the_index_alone():
    raws = [example(8, 8)[2]] * 2
    prepare = PrepareExample(OffSegImageProcessor(), TrainTransform((4, 4), (8, 8)))
    views = TrainingExamples(raws, prepare, seed=1)
    first = [views[0]["pixel_values"], views[1]["pixel_values"]]
    assert len(views) == 2
    assert torch.equal(views[0]["pixel_values"], first[0])
    assert not torch.equal(*first)
    views.set_epoch(1)
    assert not torch.equal(views[0]["pixel_values"], first[0])
    assert not torch.equal(TrainingExamples(raws, prepare, seed=2)[0]["pixel_values"], first[0])
