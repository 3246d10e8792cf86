"""Endless passes (epochs) over a streamed data set, shuffled, divided among processes and workers, exactly resumable.

Each worker of each process is a reader. In every pass the shards are dealt to the readers in a new order; a reader
shuffles its examples in blocks, as many as it holds in memory. The order depends on nothing but the seed, the number
of the pass and the number of readers, so five numbers say where a reader is.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from offseg_hf.data.broken import BrokenExamples

if TYPE_CHECKING:
    import datasets


class Position(NamedTuple):
    """Where one reader of a stream is.

    Args:
        reader (`int`): which of the readers, from 0.
        number (`int`): which pass, from 0.
        part (`int`): in which of the reader's shards of this pass the block of shuffled examples begins, from 0.
        row (`int`): with which row of that shard the block begins, from 0.
        num_read (`int`): how many examples of the block have been read.
    """

    reader: int
    number: int = 0
    part: int = 0
    row: int = 0
    num_read: int = 0


class EndlessStream(torch.utils.data.IterableDataset):
    """Endless passes over a streamed data set, each in a new order of its shards and of the examples within blocks.

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
        num_broken (`int`, *optional*, defaults to 0): examples that may be left out since they cannot be read.

    Raises:
        ValueError: while iterating, where the data holds no example.
    """

    def __init__(
        self,
        stream: "datasets.IterableDataset",
        prepare: Callable[[dict[str, Any], str], dict[str, Any]] | None = None,
        *,
        seed: int = 0,
        buffer_size: int = 500,
        num_broken: int = 0,
    ):
        self.broken = BrokenExamples(num_broken)
        self.stream = stream
        self.prepare = prepare
        self.seed = seed
        self.buffer_size = buffer_size

    @property
    def n_shards(self) -> int:
        """Number of shards as stored."""
        return self.stream.n_shards

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = torch.utils.data.get_worker_info()
        reader, num_readers = (worker.id, worker.num_workers) if worker else (0, 1)
        for _, example in self.read(Position(reader), num_readers):
            yield example

    def read(self, position: Position, num_readers: int) -> Iterator[tuple[Position, dict[str, Any]]]:
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
                start = position._replace(part=block[0][0], row=block[0][1], num_read=0)
                order = np.random.default_rng((self.seed, *start[:4])).permutation(len(block))
                for index in range(position.num_read, len(block)):
                    example = self._prepared(block[order[index]], parts, start.number)
                    if example is not None:
                        yield start._replace(num_read=index + 1), example
                position, is_empty = start, False
            # A pass may have nothing for one of the readers: empty files, or fewer examples than readers.
            if is_empty and next(_examples(self.stream), None) is None:
                raise ValueError("`stream` must hold at least one example, got none; check the files and the split.")
            position = Position(position.reader, position.number + 1)

    def _parts(self, num_shards, reader, number, num_readers):
        """(shard, modulus, remainder) of each part of a reader's pass, the rows with row % modulus == remainder.

        The modulus is the number of readers that share the shard.
        """
        order = np.random.default_rng((self.seed, number)).permutation(num_shards).tolist()
        place = (reader + number) % num_readers  # so that none has more than its share in every pass
        if num_shards >= num_readers:
            return [(shard, 1, 0) for shard in order[place::num_readers]]
        turn, shard = divmod(place, num_shards)
        return [(order[shard], len(range(shard, num_readers, num_shards)), turn)]

    def _rows(self, stream, parts, position):
        """(part, row, example) of what is left of a pass, from the beginning of the position's block on."""
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
        name = f"example {row} of shard {shard}"
        try:
            return self.prepare(example, name) if self.prepare else example
        except (OSError, TypeError, ValueError) as error:
            self.broken.leave_out(name, error)
            return None


def _examples(stream):
    """The examples of a shard; by batches, since iterating one by one would divide it among workers once more."""
    for columns in stream.iter(batch_size=16):
        yield from (dict(zip(columns, values)) for values in zip(*columns.values()))


class StreamLoader(torch.utils.data.DataLoader):
    """Batches of an endless stream for one of several processes; its state is where each of its workers is.

    A loader with the state of another of the same data and the same numbers of processes and workers goes on exactly
    as that one would have: nothing is read twice but the block of undecoded examples that a worker was in. Whatever
    workers had prepared ahead and nobody took is prepared again.

    Args:
        stream ([`EndlessStream`]): the examples.
        batch_size (`int`): examples per batch.
        collate_fn (callable): what makes a batch of a list of examples.
        num_workers (`int`): worker processes; 0 reads in this one.
        process_index (`int`), num_processes (`int`): which of how many processes this is.
        **options: passed on to `torch.utils.data.DataLoader`.
    """

    def __init__(
        self,
        stream: EndlessStream,
        *,
        batch_size: int,
        collate_fn: Callable[[list[dict[str, Any]]], Any],
        num_workers: int = 0,
        process_index: int = 0,
        num_processes: int = 1,
        **options: Any,
    ):
        readers_here = max(num_workers, 1)
        self.num_readers = readers_here * num_processes
        # Where each worker is, in the order in which their next batches come.
        self.positions = [Position(process_index * readers_here + worker) for worker in range(readers_here)]
        super().__init__(
            _PositionedExamples(stream, self.positions, self.num_readers),
            batch_size=batch_size,
            collate_fn=partial(_collate_with_position, collate_fn),
            num_workers=num_workers,
            generator=torch.Generator(),  # or else the global one is asked for a seed that nobody uses
            **options,
        )

    def __iter__(self) -> Iterator[Any]:
        for position, batch in super().__iter__():
            self.positions.append(Position(*position))
            del self.positions[0]
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Where the workers are after the last batch that was taken, as `dict` of numbers and lists, for JSON."""
        stream = self.dataset.stream
        return {
            "positions": [list(position) for position in self.positions],
            "num_readers": self.num_readers,
            "num_shards": stream.n_shards,
            "seed": stream.seed,
            "buffer_size": stream.buffer_size,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on exactly where another loader was.

        Args:
            state (`dict`): what [`StreamLoader.state_dict`] of the same process gave; to be loaded before the first
                batch is taken.

        Raises:
            ValueError: the data, the number of processes or the number of workers is another, so that parts of the
                data would be read twice and others never; or the state is another process's.
        """
        ours, theirs = _division(self.state_dict()), _division(state)
        differing = [name for name in ours if ours[name] != theirs[name]]
        if differing:
            wanted, found = (", ".join(f"{one[name]} {name}" for name in differing) for one in (ours, theirs))
            raise ValueError(
                f"`state` must be of the same stream, divided alike, as this one with {wanted}, got one with {found}; "
                "resume with the same data and numbers, or pass `--ignore_data_skip` to begin a new pass."
            )
        positions = [Position(*position) for position in state["positions"]]
        if {position.reader for position in positions} != {position.reader for position in self.positions}:
            raise ValueError(
                f"`state` must be that of process {self.positions[0].reader // len(positions)}, got that of process "
                f"{positions[0].reader // len(positions)}; give each process its own, or pass `--ignore_data_skip` "
                "to begin a new pass."
            )
        self.positions[:] = positions

    def begin_next_pass(self, state: dict[str, Any]) -> None:
        """Begins the pass after the one in which another loader was, whatever the numbers of processes and workers.

        Args:
            state (`dict`): what [`StreamLoader.state_dict`] of any process gave, the same one for all processes.
        """
        number = 1 + max(Position(*position).number for position in state["positions"])
        self.positions[:] = [Position(position.reader, number) for position in self.positions]


def _division(state):
    """What the order in a state depends on, as errors call it."""
    num_workers = len(state["positions"])
    return {
        "processes": state["num_readers"] // num_workers,
        "workers per process": num_workers,
        "shards": state["num_shards"],
        "as the seed": state["seed"],
        "examples in a shuffled block": state["buffer_size"],
    }


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
