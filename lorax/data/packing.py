"""Which examples share a row? Each goes where it leaves the least room.

Source: best fit, an online rule; Johnson et al., "Worst-case performance bounds for simple
one-dimensional packing algorithms", SIAM J. Comput. 3(4), 1974: no more than 1.7 times the fewest
rows in the limit.
"""

import dataclasses
from collections.abc import Iterable, Sequence

from lorax.data.order import Shuffled, check, check_room, integers, permutation

_PLACING = 1  # the stream of random numbers that settles the order of placement


@dataclasses.dataclass(frozen=True, kw_only=True)
class Packed:
    """Several examples a row, as many as fit: hardly any padding, and one compilation.

    Which examples share a row is settled once, from the seed; rows are shuffled anew every epoch.
    An epoch's last batch is filled up.

    Attributes:
      lengths: tokens of each example.
      batch: rows of a step, over all processes.
      tokens: of a row, padding included.
      seed: of the order, 0 or above.
      packs: the examples of each row of an epoch, before rows are shuffled; follows from the rest.
    """

    lengths: Sequence[int]
    batch: int
    tokens: int
    seed: int
    packs: list[list[int]] = dataclasses.field(init=False, repr=False, compare=False)
    packed = True
    steps = None

    def __post_init__(self) -> None:
        """Raises LoraxError as `Shuffled` does, and for an example longer than a row."""
        object.__setattr__(self, "lengths", integers(self.lengths))
        check(len(self.lengths), self.batch, self.seed)
        check_room(self.lengths, self.tokens, "a row")
        placing = permutation(self.examples, self.seed, 0, _PLACING)
        packs = best_fit(self.lengths, placing.tolist(), self.tokens)
        object.__setattr__(self, "packs", packs)

    @property
    def examples(self) -> int:
        """How many examples there are."""
        return len(self.lengths)

    @property
    def _shuffled(self) -> Shuffled:
        """The same of rows instead of examples."""
        return Shuffled(examples=len(self.packs), batch=self.batch, seed=self.seed)

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch, the last one included."""
        return self._shuffled.steps_per_epoch

    def rows(self, step: int) -> list[list[int]]:
        """The rows of a step, the epochs following one another."""
        return [[i for pack in row for i in self.packs[pack]] for row in self._shuffled.rows(step)]

    def length(self, step: int) -> int:
        """`tokens`, at every step."""
        return self.tokens


def best_fit(lengths: Sequence[int], order: Iterable[int], room: int) -> list[list[int]]:
    """Rows of examples whose lengths add up to `room` at most, each example in one row.

    Args:
      lengths: tokens of each example, none above `room`.
      order: the examples, indices into `lengths`, in the order in which they are placed.
      room: tokens of a row.

    Returns:
      Rows in the order in which they were opened, each with its examples in order of placement.
    """
    rows: list[list[int]] = []
    by_room: list[list[int]] = [[] for _ in range(room + 1)]  # rows by the room they have left
    some = 0  # bit n: there is a row with room n; the lowest bit from `need` on is the best fit
    for example in order:
        need = lengths[example]
        fitting = some >> need
        if fitting:
            left = need + (fitting & -fitting).bit_length() - 1
            row = by_room[left].pop()
            if not by_room[left]:
                some ^= 1 << left
        else:
            left, row = room, len(rows)
            rows.append([])
        rows[row].append(example)
        by_room[left - need].append(row)
        some |= 1 << (left - need)
    return rows
