import itertools

import datasets
import pytest
import torch
from torch.utils.data import DataLoader

from offseg_hf.data.streaming import EndlessStream


def numbered_stream(count, num_shards):
    return datasets.Dataset.from_dict({"id": list(range(count))}).to_iterable_dataset(num_shards=num_shards)


def ids(stream, count):
    return [example["id"] for example in itertools.islice(stream, count)]


def test_each_example_is_seen_once_per_pass_when_a_stream_is_endless():
    seen = ids(EndlessStream(numbered_stream(20, 4), buffer_size=6), 60)
    assert [sorted(seen[i : i + 20]) for i in (0, 20, 40)] == [list(range(20))] * 3


def test_order_is_new_in_each_pass_when_a_stream_is_endless():
    seen = ids(EndlessStream(numbered_stream(20, 4), buffer_size=6), 60)
    assert len({tuple(seen[i : i + 20]) for i in (0, 20, 40)}) == 3


def test_examples_repeat_exactly_when_the_seed_is_the_same():
    first, second = (
        list(itertools.islice(EndlessStream(numbered_stream(20, 4), seed=5, buffer_size=6), 50)) for _ in range(2)
    )
    assert first == second
    assert ids(EndlessStream(numbered_stream(20, 4), seed=6, buffer_size=6), 50) != [e["id"] for e in first]


def test_augmentation_seeds_differ_when_an_example_returns():
    seeds = [example["augmentation_seed"] for example in itertools.islice(EndlessStream(numbered_stream(5, 1)), 50)]
    assert len(set(seeds)) == 50


def test_global_random_state_is_untouched_when_a_stream_is_shuffled():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    ids(EndlessStream(numbered_stream(5, 1)), 12)
    assert torch.equal(before, torch.get_rng_state())


class StreamWithWorker(EndlessStream):
    def __iter__(self):
        worker = torch.utils.data.get_worker_info().id
        yield from ({"id": example["id"], "worker": worker} for example in super().__iter__())


@pytest.mark.parametrize(("num_workers", "num_shards", "shares"), [(2, 4, [6, 6]), (2, 3, [8, 4]), (2, 1, [12])])
def test_each_example_is_seen_once_per_pass_when_workers_share_a_stream(num_workers, num_shards, shares):
    stream = StreamWithWorker(numbered_stream(12, num_shards), buffer_size=4)
    loader = DataLoader(stream, batch_size=None, num_workers=num_workers, multiprocessing_context="fork")
    seen = {}
    for example in itertools.islice(loader, 48):
        seen.setdefault(example["worker"], []).append(example["id"])
    assert sorted(seen) == list(range(len(shares)))
    for number in range(3):
        of_pass = [seen[worker][number * share : (number + 1) * share] for worker, share in enumerate(shares)]
        assert sorted(itertools.chain.from_iterable(of_pass)) == list(range(12))


def test_shards_are_forwarded_when_a_stream_is_endless():
    assert EndlessStream(numbered_stream(20, 4)).n_shards == 4


def test_error_is_raised_when_a_stream_is_empty():
    stream = numbered_stream(4, 2).filter(lambda example: False)
    with pytest.raises(ValueError, match="`stream` must hold at least one example in the shards of each worker"):
        next(iter(EndlessStream(stream)))
