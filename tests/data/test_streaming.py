import functools
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
            if position.number >= num_passes:
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


@functools.cache
def first_batches(num_workers):
    """47 batches of an uninterrupted loader."""
    return list(itertools.islice(loader(num_workers), 47))


@pytest.mark.parametrize("num_workers", [0, 1, 2, 3])
@pytest.mark.parametrize("num_taken", [0, 1, 4, 17])
def test_loader_goes_on_as_if_uninterrupted_when_its_state_is_another_ones(num_workers, num_taken):
    whole = first_batches(num_workers)
    first = loader(num_workers)
    assert list(itertools.islice(first, num_taken)) == whole[:num_taken]
    state = json.loads(json.dumps(first.state_dict()))
    second = loader(num_workers)
    second.load_state_dict(state)
    assert list(itertools.islice(second, 30)) == whole[num_taken : num_taken + 30]


def test_loader_begins_the_next_pass_when_asked_to():
    first, second = loader(0), loader(2)
    list(itertools.islice(first, 10))  # 30 of 23 examples: the second pass
    second.begin_next_pass(first.state_dict())
    assert second.positions == [Position(0, number=2), Position(1, number=2)]
    batches = list(itertools.islice(second, 6))  # of the two workers in turn
    for worker, third_pass in enumerate(read_by_all(second.dataset.stream, 2, 3)[2]):
        assert list(itertools.chain.from_iterable(batches[worker::2])) == third_pass[:9]


def division(num_processes, num_workers):
    """The loaders of all processes."""
    return [loader(num_workers, process_index=index, num_processes=num_processes) for index in range(num_processes)]


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ((1, 4), (2, 2), "this one with 2 processes, 2 workers per process, got one with 1 processes, 4 workers"),
        ((2, 2), (1, 4), "this one with 1 processes, 4 workers per process, got one with 2 processes, 2 workers"),
        ((1, 2), (2, 2), "this one with 2 processes, got one with 1 processes; resume with the same data and numbers"),
        ((1, 1), (1, 3), "this one with 3 workers per process, got one with 1 workers per process; resume with"),
    ],
)
def test_error_names_both_numbers_when_a_stream_was_divided_otherwise(before, after, message):
    state = division(*before)[0].state_dict()
    for one in division(*after):
        positions = list(one.positions)
        with pytest.raises(ValueError, match=f"`state` must be .* as {message}.*, or pass `--ignore_data_skip` to"):
            one.load_state_dict(state)
        assert one.positions == positions


def test_error_names_what_differs_when_the_data_is_another():
    state = loader(1, num_shards=4).state_dict()
    with pytest.raises(ValueError, match="as this one with 5 shards, got one with 4 shards; resume with the same"):
        loader(1).load_state_dict(state)
    state = {**loader(1).state_dict(), "seed": 7, "buffer_size": 500}
    with pytest.raises(ValueError, match="with 0 as the seed, 4 examples in a shuffled block, got one with 7"):
        loader(1).load_state_dict(state)


def test_error_names_the_process_when_a_state_is_anothers():
    first, second = division(2, 2)
    with pytest.raises(ValueError, match="`state` must be that of process 1, got that of process 0; give each"):
        second.load_state_dict(first.state_dict())


def test_state_of_no_worker_is_that_of_one():
    state = loader(0).state_dict()
    other = loader(1)
    other.load_state_dict(state)
    assert other.state_dict() == state


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
    with pytest.raises(ValueError, match="`stream` must hold at least one example, got none; check the files"):
        next(iter(EndlessStream(stream)))


def parquet_stream(folder, *counts):
    """A streamed file of numbered examples for each count, in row groups of 2."""
    first = 0
    for index, count in enumerate(counts):
        table = pa.table({"id": pa.array(range(first, first + count), pa.int64())})
        with pq.ParquetWriter(folder / f"train-{index}.parquet", table.schema) as writer:
            if count:  # else not even a row group
                writer.write_table(table, row_group_size=2)
        first += count
    return datasets.load_dataset("parquet", data_files=str(folder / "*"), split="train", streaming=True)


@pytest.mark.parametrize("num_readers", [1, 2, 3, 5])
@pytest.mark.parametrize("counts", [(3, 0, 4), (0, 7, 0), (2,), (0, 1)])
def test_each_example_is_seen_once_per_pass_when_files_are_empty_or_few(tmp_path, counts, num_readers):
    stream = EndlessStream(parquet_stream(tmp_path, *counts), buffer_size=4)
    for seen in read_by_all(stream, num_readers, 6):
        assert sorted(itertools.chain.from_iterable(seen)) == list(range(sum(counts)))


def test_batches_come_when_a_worker_has_an_empty_file(tmp_path):
    stream = EndlessStream(parquet_stream(tmp_path, 4, 0), buffer_size=4)
    options = {"batch_size": 2, "collate_fn": list_of_ids, "multiprocessing_context": "fork"}
    batches = list(itertools.islice(StreamLoader(stream, num_workers=2, **options), 6))
    for worker in range(2):
        own = [example["id"] for _, example in itertools.islice(stream.read(Position(worker), 2), 6)]
        assert list(itertools.chain.from_iterable(batches[worker::2])) == own
