"""Endless, shuffled passes over a streamed data set."""

import itertools

import numpy as np
import torch


class EndlessStream(torch.utils.data.IterableDataset):
    """Endless passes over a streamed data set, each shuffled anew: its shards, then the examples in a buffer.

    Every pass shows each example exactly once, also with several workers (each reads its own shards). Shuffling is a
    function of `seed` and the number of the pass alone, and never touches the global random state. Every example
    carries an `augmentation_seed`, so its augmentation does not depend on what else was read: a training that resumes
    after skipping what it has seen goes on as if it had not been interrupted.

    Args:
        stream (`datasets.IterableDataset`): the data, unshuffled, preferably undecoded as the buffer holds examples.
        prepare (callable, *optional*): what each example goes through, such as `PrepareExample`.
        seed (`int`): not negative; seed of the order and of the augmentation.
        buffer_size (`int`): number of examples in the shuffle buffer of each worker.

    Raises:
        ValueError: while iterating, when the stream holds no example.
    """

    def __init__(self, stream, prepare=None, *, seed=0, buffer_size=500):
        self.stream = stream
        self.prepare = prepare
        self.seed = seed
        self.buffer_size = buffer_size

    @property
    def n_shards(self):
        """Number of shards, the largest number of workers that have something to read."""
        return self.stream.n_shards

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        worker_id = worker.id if worker else 0
        if worker_id >= self.n_shards:  # `datasets` leaves this worker without a shard
            return
        for number in itertools.count():
            # A new shuffle rather than `set_epoch`, whose counter the workers share though they end passes apart; one
            # input shard at a time, as `datasets` sleeps 5 s after each pass that reads several side by side.
            order = np.random.default_rng((self.seed, number))
            stream = self.stream.shuffle(generator=order, buffer_size=self.buffer_size, max_buffer_input_shards=1)
            position = -1
            for position, example in enumerate(stream):
                entropy = np.random.SeedSequence((self.seed, number, worker_id, position))
                example = {**example, "augmentation_seed": int(entropy.generate_state(1)[0])}
                yield self.prepare(example, f"example {position} of pass {number}") if self.prepare else example
            if number == 0 and position < 0:
                raise ValueError(
                    f"`stream` must hold at least one example in the shards of each worker, got none in those of "
                    f"worker {worker_id}; drop the empty files or use fewer workers."
                )
