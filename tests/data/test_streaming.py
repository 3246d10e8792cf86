import itertools
import json
import tracemalloc

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from offseg_hf.data.streaming import EndlessStream, Position, StreamLoader


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


def read_by_all(stream, num_readers, num_passes):
    """The ids that each of several readers sees in each of the first passes: pass → reader → ids."""
    seen = [[[] for _ in range(num_readers)] for _ in range(num_passes)]
    for reader in range(num_readers):
        for position, example in stream.read(Position(reader), num_readers):
            if position.number == num_passes:
                break
            seen[position.number][reader].append(example["id"])
    return seen


@pytest.mark.parametrize("num_readers", [2, 3, 5])
@pytest.mark.parametrize("num_shards", [1, 2, 3, 7])
def test_each_example_is_seen_once_per_pass_when_readers_divide_a_stream(num_readers, num_shards):
    stream = EndlessStream(numbered_stream(23, num_shards), buffer_size=4)
    for seen in read_by_all(stream, num_readers, 3):
        assert sorted(itertools.chain.from_iterable(seen)) == list(range(23))
        assert all(seen)


def test_shards_are_dealt_anew_in_each_pass_when_readers_divide_a_stream():
    first, second, _ = read_by_all(EndlessStream(numbered_stream(60, 12), buffer_size=4), 2, 3)
    assert set(first[0]) != set(second[0])


def test_readers_have_a_like_number_when_shards_do_not_divide_evenly():
    seen = read_by_all(EndlessStream(numbered_stream(30, 3), buffer_size=4), 2, 8)
    counts = [sum(len(of_pass[reader]) for of_pass in seen) for reader in range(2)]
    assert counts == [120, 120]


def test_row_groups_are_divided_when_there_are_fewer_files_than_readers(tmp_path):
    table = pa.table({"id": list(range(40))})
    pq.write_table(table, tmp_path / "train-0.parquet", row_group_size=5)
    stream = datasets.load_dataset("parquet", data_files=str(tmp_path / "*"), split="train", streaming=True)
    seen = read_by_all(EndlessStream(stream, buffer_size=4), 4, 2)
    for of_pass in seen:
        assert sorted(itertools.chain.from_iterable(of_pass)) == list(range(40))
    assert all(len({number // 5 for number in ids}) == 2 for ids in seen[0])  # two whole groups each


def test_augmentation_of_an_example_is_the_same_when_others_read_it():
    def seeds(num_readers):
        stream = EndlessStream(numbered_stream(20, 4), buffer_size=3)
        return {
            example["id"]: example["augmentation_seed"]
            for reader in range(num_readers)
            for example in itertools.islice(
                (e for _, e in stream.read(Position(reader), num_readers)), 20 // num_readers
            )
        }

    assert seeds(1) == seeds(4)


def loader(num_workers, num_shards=5, **options):
    stream = EndlessStream(numbered_stream(23, num_shards), buffer_size=4)
    context = {"multiprocessing_context": "fork"} if num_workers else {}
    return StreamLoader(stream, batch_size=3, collate_fn=list_of_ids, num_workers=num_workers, **context, **options)


def list_of_ids(examples):
    return [example["id"] for example in examples]


@pytest.mark.parametrize("num_workers", [0, 1, 2, 3])
@pytest.mark.parametrize("num_taken", [0, 1, 4, 17])
def test_loader_goes_on_as_if_uninterrupted_when_its_state_is_another_ones(num_workers, num_taken):
    whole = list(itertools.islice(loader(num_workers), num_taken + 30))
    first = loader(num_workers)
    assert list(itertools.islice(first, num_taken)) == whole[:num_taken]
    state = json.loads(json.dumps(first.state_dict()))
    second = loader(num_workers)
    assert second.load_state_dict(state)
    assert list(itertools.islice(second, 30)) == whole[num_taken:]


def test_loader_begins_the_next_pass_when_the_order_was_another():
    first, second = loader(0), loader(2)
    list(itertools.islice(first, 10))  # 30 of 23 examples: the second pass
    assert not second.load_state_dict(first.state_dict())
    assert {position.number for position in second.positions} == {2}


def test_global_random_state_is_untouched_when_a_loader_starts():
    before = torch.get_rng_state()
    list(itertools.islice(loader(2), 3))
    assert torch.equal(before, torch.get_rng_state())


def test_examples_are_read_once_when_processes_have_a_loader_each():
    loaders = [loader(2, num_shards=1, process_index=index, num_processes=2) for index in range(2)]
    seen = [list(itertools.chain.from_iterable(itertools.islice(one, 4))) for one in loaders]
    assert len(set(itertools.chain.from_iterable(seen))) > 20  # 24 of the first pass and a few of the second
    assert not set(seen[0][:9]) & set(seen[1][:9])


def test_memory_does_not_grow_when_a_million_examples_are_streamed():
    def generate(shards):
        for shard in shards:
            for row in range(2_000):
                yield {"id": shard * 2_000 + row}

    stream = datasets.IterableDataset.from_generator(generate, gen_kwargs={"shards": list(range(500))})
    examples = iter(EndlessStream(stream, buffer_size=1000))
    next(examples)
    tracemalloc.start()
    try:
        assert sum(1 for _ in itertools.islice(examples, 6_000)) == 6_000  # shards of 2,000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000  # bytes: a block of 1,000 and little else


def test_shards_are_forwarded_when_a_stream_is_endless():
    assert EndlessStream(numbered_stream(20, 4)).n_shards == 4


def test_error_is_raised_when_a_stream_is_empty():
    stream = numbered_stream(4, 2).filter(lambda example: False)
    with pytest.raises(
        ValueError, match="`stream` must hold at least one example for each of the 1 readers, got none for reader 0"
    ):
        next(iter(EndlessStream(stream)))
