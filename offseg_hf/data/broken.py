"""Examples that cannot be read: left out where that was asked for, each named once, and no more than a number."""

import hashlib
import multiprocessing
import sys

import torch


class BrokenExamples:
    """The broken examples of a data set, over all its passes and the processes that read it.

    Args:
        limit (`int`): how many may be left out; with 0 the first one is an error.
    """

    def __init__(self, limit: int = 0):
        self.limit = limit
        self._digests = torch.zeros(limit, dtype=torch.int64).share_memory_()  # workers begin with each pass
        self._lock = multiprocessing.get_context("spawn").Lock()  # which processes that are forked inherit too

    def __len__(self) -> int:
        return int((self._digests != 0).sum())

    def leave_out(self, name: str, error: Exception) -> None:
        """Names an example that is left out, the first time that it is.

        Args:
            name (`str`): which, the same in each pass.
            error (`Exception`): why it is broken, which names the file.

        Raises:
            Exception: `error`, where none may be left out.
            ValueError: more are broken than may be left out.
        """
        if self.limit == 0:
            raise error
        digest = int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big") + 1
        with self._lock:
            if (self._digests == digest).any():
                return
            if (place := len(self)) == self.limit:
                raise ValueError(
                    "`skip_broken_examples` must be at least the number of examples that are broken, got "
                    f"{self.limit}, and one more is: {error}; mend them, or pass a larger number."
                ) from error
            self._digests[place] = digest
        print(f"left out, since it is broken: {error}", file=sys.stderr, flush=True)
