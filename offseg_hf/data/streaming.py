"""Endless, shuffled passes over a streamed data set, divided among processes and workers, that go on where they were.

The order is a function of the seed, the number of the pass and the division alone; a position in it is five numbers.
"""

from functools import partial
from typing import NamedTuple

import numpy as np
import torch


class Position(NamedTuple):
    """Where one reader of a stream is.

    Args:
        reader (`int`): which of the readers.
        number (`int`): of the pass, from 0.
        part (`int`): of the reader's shards in this pass, the one in which the block of shuffled examples begins.
        row (`int`): of that shard, the one with which the block begins.
        index (`int`): examples of the block that were given out.
    """

    reader: int
    number: int = 0
    part: int = 0
    row: int = 0
    index: int = 0


class EndlessStream(torch.utils.data.IterableDataset):
    """Endless passes over a streamed data set, each shuffled anew: its shards, then blocks of consecutive examples.

    Every pass shows each example exactly once, whatever the number of workers: in each pass the shards are dealt anew;
    where they are too few, they are divided into row groups, and if those are too few as well, workers share a shard
    and take turns. Shuffling never touches the global random state. Every example carries an `augmentation_seed` of
    its own in each pass, so its augmentation does not depend on who reads it. Several processes, and trainings that
    are to go on where they were stopped, read by a [`StreamLoader`].

    Args:
        stream (`datasets.IterableDataset`): the data, unshuffled, preferably undecoded as blocks hold examples.
        prepare (callable, *optional*): what each example goes through, such as `PrepareExample`.
        seed (`int`): not negative; seed of the order and of the augmentation.
        buffer_size (`int`): number of examples in a block, which each worker holds.

    Raises:
        ValueError: while iterating, when the shards of a reader hold no example.
    """

    def __init__(self, stream, prepare=None, *, seed=0, buffer_size=500):
        self.stream = stream
        self.prepare = prepare
        self.seed = seed
        self.buffer_size = buffer_size

    @property
    def n_shards(self):
        """Number of shards as stored."""
        return self.stream.n_shards

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        reader, num_readers = (worker.id, worker.num_workers) if worker else (0, 1)
        for _, example in self.read(Position(reader), num_readers):
            yield example

    def read(self, position, num_readers):
        """The examples of one of several readers, from a position on.

        Args:
            position ([`Position`]): where to start.
            num_readers (`int`): how many readers divide every pass among themselves.

        Yields:
            `tuple[Position, dict]`: the position after an example, and the example.
        """
        stream = self.stream if self.n_shards >= num_readers else self.stream.reshard()
        while True:
            parts = self._parts(stream.n_shards, position.reader, position.number, num_readers)
            rows = self._rows(stream, parts, position)
            is_empty = position[2:] == (0, 0, 0)
            while block := self._block(rows):
                start = position._replace(part=block[0][0], row=block[0][1], index=0)
                order = np.random.default_rng((self.seed, *start[:4])).permutation(len(block))
                for index in range(position.index, len(block)):
                    yield start._replace(index=index + 1), self._prepared(block[order[index]], parts, start.number)
                position, is_empty = start, False
            if is_empty:
                raise ValueError(
                    f"`stream` must hold at least one example for each of the {num_readers} readers, got none for "
                    f"reader {position.reader}; drop the empty files or use fewer workers."
                )
            position = Position(position.reader, position.number + 1)

    def _parts(self, num_shards, reader, number, num_readers):
        """(shard, modulus, remainder) of each part of a reader's pass: the rows that it takes of the shard."""
        order = np.random.default_rng((self.seed, number)).permutation(num_shards).tolist()
        place = (reader + number) % num_readers  # so that none has more than its share in every pass
        if num_shards >= num_readers:
            return [(shard, 1, 0) for shard in order[place::num_readers]]
        turn, shard = divmod(place, num_shards)
        return [(order[shard], len(range(shard, num_readers, num_shards)), turn)]

    def _rows(self, stream, parts, position):
        """(part, row, example) of a pass, from the beginning of the position's block on."""
        for part, (shard, modulus, remainder) in enumerate(parts):
            if part < position.part:
                continue
            first = position.row if part == position.part else 0
            rows = stream.shard(num_shards=stream.n_shards, index=shard)
            for row, example in enumerate(_examples(rows.skip(first) if first else rows), start=first):
                if row % modulus == remainder:
                    yield part, row, example

    def _block(self, rows):
        return [entry for _, entry in zip(range(self.buffer_size), rows)]

    def _prepared(self, entry, parts, number):
        part, row, example = entry
        shard = parts[part][0]
        entropy = np.random.SeedSequence((self.seed, number, shard, row))
        example = {**example, "augmentation_seed": int(entropy.generate_state(1)[0])}
        return self.prepare(example, f"example {row} of shard {shard}") if self.prepare else example


def _examples(stream):
    """The examples of a shard; by batches, since iterating one by one would divide it among workers once more."""
    for columns in stream.iter(batch_size=16):
        yield from (dict(zip(columns, values)) for values in zip(*columns.values()))


class StreamLoader(torch.utils.data.DataLoader):
    """Batches of an endless stream for one of several processes; its state is where each of its workers is.

    A loader with the state of another goes on exactly as that one would have: nothing is read twice but the block of
    undecoded examples that a worker was in. Whatever workers had prepared ahead and nobody took is prepared again.

    Args:
        stream ([`EndlessStream`]): the examples.
        batch_size (`int`): examples per batch.
        collate_fn (callable): what makes a batch of a list of examples.
        num_workers (`int`): worker processes; 0 reads in this one.
        process_index (`int`), num_processes (`int`): which of how many processes this is.
        **options: passed on to `torch.utils.data.DataLoader`.
    """

    def __init__(self, stream, *, batch_size, collate_fn, num_workers=0, process_index=0, num_processes=1, **options):
        readers_here = max(num_workers, 1)
        self.num_readers = readers_here * num_processes
        # Of the workers, in the order in which their next batches come.
        self.positions = [Position(process_index * readers_here + worker) for worker in range(readers_here)]
        super().__init__(
            _PositionedExamples(stream, self.positions, self.num_readers),
            batch_size=batch_size,
            collate_fn=partial(_collate_with_position, collate_fn),
            num_workers=num_workers,
            generator=torch.Generator(),  # or else the global one is asked for a seed that nobody uses
            **options,
        )

    def __iter__(self):
        for position, batch in super().__iter__():
            self.positions.append(Position(*position))
            del self.positions[0]
            yield batch

    def state_dict(self):
        """Where the workers are, after the last batch that was taken; of numbers and lists."""
        return {"positions": [list(position) for position in self.positions], **self._order()}

    def load_state_dict(self, state):
        """Goes on where another loader was; where the order was another, at the beginning of its next pass.

        Args:
            state (`dict`): what [`StreamLoader.state_dict`] gave, before the first batch is taken.

        Returns:
            `bool`: whether the order is the same, so that nothing is lost or repeated.
        """
        positions = [Position(*position) for position in state["positions"]]
        is_same = {name: state[name] for name in self._order()} == self._order()
        if not is_same:
            number = 1 + max(position.number for position in positions)
            positions = [Position(position.reader, number) for position in self.positions]
        self.positions[:] = positions
        return is_same

    def _order(self):
        """What else the order depends on."""
        stream = self.dataset.stream
        return {
            "num_readers": self.num_readers, "num_shards": stream.n_shards, "seed": stream.seed,
            "buffer_size": stream.buffer_size,
        }  # fmt: skip


class _PositionedExamples(torch.utils.data.IterableDataset):
    """The examples of a worker, each with the position after it."""

    def __init__(self, stream, positions, num_readers):
        self.stream = stream
        self.positions = positions
        self.num_readers = num_readers

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        yield from self.stream.read(self.positions[worker.id if worker else 0], self.num_readers)


def _collate_with_position(collate_fn, examples):
    positions, examples = zip(*examples)
    return positions[-1], collate_fn(list(examples))
