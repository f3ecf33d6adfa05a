"""Which examples make up which row of which step? A pure function of (seed, step).

An order is a plan and not a stream: it knows how many examples there are, and how long, before the
first step. Shuffle buffers, and packers that fill rows from what they happen to read (grain's among
them), depend on everything read before and on the process that reads. Here every step can be asked
for on its own, so that a run is resumed by its step number alone, and a step is the same however
many processes share it. Training orders go on without end; each epoch holds every example once.

Draws are raw 64-bit numbers of PCG64, sorted: NumPy promises never to change those, which it does
not for `Generator.permutation`.
"""

import dataclasses
import functools
import zlib
from collections.abc import Sequence
from typing import Any, Protocol, cast

import numpy as np

from lorax.core.errors import LoraxError


class Order(Protocol):
    """What every order answers. Rows are lists of indices of examples; [] only fills up a batch."""

    @property
    def examples(self) -> int:
        """How many examples there are."""

    @property
    def batch(self) -> int:
        """Rows of a step, over all processes."""

    @property
    def packed(self) -> bool:
        """May a row hold several examples?"""

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every example comes once; the same in every epoch."""

    @property
    def steps(self) -> int | None:
        """How many steps there are; None is without end."""

    def rows(self, step: int) -> list[list[int]]:
        """The `batch` rows of a step, counted from 0; an IndexError for one there is not."""

    def length(self, step: int) -> int:
        """Tokens of each row of that step, padding included."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sequential:
    """One example a row, in order, once: for evaluation. The last batch is filled up.

    Attributes:
      examples: how many there are.
      batch: rows of a step, over all processes.
      tokens: of a row, padding included; 0 where rows are no sequences.
    """

    examples: int
    batch: int
    tokens: int = 0
    packed = False

    def __post_init__(self) -> None:
        """Raises LoraxError without examples, or with a batch below 1."""
        check(self.examples, self.batch)

    @property
    def steps_per_epoch(self) -> int:
        """Batches, the last one included."""
        return -(-self.examples // self.batch)

    @property
    def steps(self) -> int:
        """The same: there is one epoch."""
        return self.steps_per_epoch

    def rows(self, step: int) -> list[list[int]]:
        """The rows of a step; an IndexError outside the epoch."""
        if not 0 <= step < self.steps:
            raise IndexError(f"step {step}: expected 0 to {self.steps - 1}, which is the last one")
        return take(range(self.examples), step, self.batch)

    def length(self, step: int) -> int:
        """`tokens`, at every step."""
        return self.tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shuffled:
    """One example a row, in a new order every epoch. An epoch's last batch is filled up.

    Attributes:
      examples: how many there are.
      batch: rows of a step, over all processes.
      seed: of the order, 0 or above.
      tokens: of a row, padding included; 0 where rows are no sequences.
    """

    examples: int
    batch: int
    seed: int
    tokens: int = 0
    packed = False
    steps = None

    def __post_init__(self) -> None:
        """Raises LoraxError without examples, or with a batch below 1 or a seed below 0."""
        check(self.examples, self.batch, self.seed)

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch, the last one included."""
        return -(-self.examples // self.batch)

    def rows(self, step: int) -> list[list[int]]:
        """The rows of a step, the epochs following one another."""
        epoch, at = place(step, self.steps_per_epoch)
        return take(permutation(self.examples, self.seed, epoch), at, self.batch)

    def length(self, step: int) -> int:
        """`tokens`, at every step."""
        return self.tokens


def describe(order: Order) -> dict[str, Any]:
    """What settles an order, ready for JSON: two with the same description are the same plan.

    Lengths of examples are told by their number and a checksum.
    """
    told: dict[str, Any] = {"order": type(order).__name__}
    for field in dataclasses.fields(cast(Any, order)):
        if not field.init:
            continue
        value = getattr(order, field.name)
        if field.name == "lengths":
            value = f"{len(value)}:{zlib.crc32(np.asarray(value, '<i8').tobytes()):08x}"
        told[field.name] = list(value) if isinstance(value, tuple) else value
    return told


# From here on: what orders are built from.


@functools.lru_cache(maxsize=16)
def permutation(count: int, seed: int, epoch: int, stream: int = 0) -> np.ndarray:
    """(count,) int64, the numbers below `count` in random order; not to be written to.

    `stream` tells several draws of one epoch apart.
    """
    generator = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(stream, epoch)))
    found = np.argsort(generator.random_raw(count), kind="stable")
    found.setflags(write=False)
    return found


def place(step: int, steps_per_epoch: int) -> tuple[int, int]:
    """(epoch, step within it); an IndexError below 0."""
    if step < 0:
        raise IndexError(f"step {step}: expected 0 or above")
    return divmod(step, steps_per_epoch)


def take(indices: Sequence[int] | np.ndarray, at: int, batch: int) -> list[list[int]]:
    """Batch number `at` of rows of one index each, filled up with empty rows."""
    rows = [[int(index)] for index in indices[at * batch : (at + 1) * batch]]
    return rows + [[] for _ in range(batch - len(rows))]


def integers(values: Sequence[int] | np.ndarray) -> tuple[int, ...]:
    """Lengths as Python integers; a LoraxError where they are no integers."""
    array = np.asarray(values)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise LoraxError(f"lengths are {array.dtype} of shape {array.shape}: expected integers")
    return tuple(array.tolist())


def check(examples: int, batch: int, seed: int = 0) -> None:
    """Raises LoraxError without examples, or with a batch below 1 or a seed below 0."""
    if examples < 1:
        raise LoraxError("there are no examples: give a data set that is not empty")
    if batch < 1:
        raise LoraxError(f"batch is {batch}: expected 1 or more")
    if seed < 0:
        raise LoraxError(f"seed of the data is {seed}: expected 0 or above")


def check_room(lengths: Sequence[int], room: int, what: str) -> None:
    """Raises LoraxError, naming the longest example, where it is longer than `room`."""
    longest = max(range(len(lengths)), key=lengths.__getitem__)
    if lengths[longest] > room:
        raise LoraxError(
            f"example {longest} has {lengths[longest]} tokens, but {what} holds {room}: raise the "
            "length, or cut or skip long examples"
        )
