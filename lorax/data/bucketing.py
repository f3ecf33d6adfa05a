"""Which examples are of like length? Each belongs to the smallest bucket that holds it."""

import bisect
import dataclasses
import functools
import itertools
from collections.abc import Sequence

import numpy as np

from lorax.data.order import check, check_room, integers, permutation, place, take

_BATCHES, _WITHIN = 1, 2  # streams of random numbers; bucket b shuffles within by _WITHIN + b


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bucketed:
    """One example a row, rows of like length together: less padding, one compilation a bucket.

    A batch belongs to one bucket. Examples are shuffled within their bucket and batches among each
    other, anew every epoch. The last batch of each bucket is filled up.

    Attributes:
      lengths: tokens of each example.
      batch: rows of a step, over all processes.
      buckets: lengths of rows, padding included; any order.
      seed: of the order, 0 or above.
    """

    lengths: Sequence[int]
    batch: int
    buckets: Sequence[int]
    seed: int
    packed = False
    steps = None

    def __post_init__(self) -> None:
        """Raises LoraxError as `Shuffled` does, and for an example that no bucket holds."""
        object.__setattr__(self, "lengths", integers(self.lengths))
        object.__setattr__(self, "buckets", tuple(sorted(set(integers(self.buckets)))))
        check(len(self.lengths), self.batch, self.seed)
        check_room(self.lengths, max(self.buckets, default=0), "the longest bucket")

    @property
    def examples(self) -> int:
        """How many examples there are."""
        return len(self.lengths)

    @functools.cached_property
    def _members(self) -> list[np.ndarray]:
        """The examples of each bucket."""
        bucket = np.searchsorted(self.buckets, self.lengths)
        return [np.flatnonzero(bucket == b) for b in range(len(self.buckets))]

    @functools.cached_property
    def _ends(self) -> list[int]:
        """How many batches there are up to the end of each bucket, before they are shuffled."""
        return list(itertools.accumulate(-(-len(m) // self.batch) for m in self._members))

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch, over all buckets."""
        return self._ends[-1]

    def rows(self, step: int) -> list[list[int]]:
        """The rows of a step, the epochs following one another."""
        epoch, bucket, at = self._find(step)
        members = self._members[bucket]
        order = permutation(len(members), self.seed, epoch, _WITHIN + bucket)
        return take(members[order], at, self.batch)

    def length(self, step: int) -> int:
        """The length of that step's bucket."""
        return self.buckets[self._find(step)[1]]

    def _find(self, step: int) -> tuple[int, int, int]:
        """(epoch, bucket, which batch of it)."""
        epoch, at = place(step, self.steps_per_epoch)
        batch = int(permutation(self.steps_per_epoch, self.seed, epoch, _BATCHES)[at])
        bucket = bisect.bisect_right(self._ends, batch)
        return epoch, bucket, batch - (self._ends[bucket - 1] if bucket else 0)


def buckets_up_to(length: int, least: int = 16) -> tuple[int, ...]:
    """Lengths of buckets: `least`, its doublings below `length`, and `length`."""
    doublings = (least << i for i in itertools.count())
    return (*itertools.takewhile(lambda n: n < length, doublings), length)
