"""How many units at once, and how many of them side by side? As memory and measured speed say."""

import dataclasses
import math
import os
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

FILLED = {"cpu": 512}
"""Rows of a product that keep a device busy, by platform: the first guess of a width."""

OTHERWISE = 8192
"""The same of every other platform."""

MOST = 64
"""Units of a pack: each has files open, and a thread that saves."""

WORTH = 30
"""Training must take so many times as long as compiling for another width to be tried."""

BETTER = 0.97
"""Another width is taken if a step takes less than this share of the time."""

TIMED = 3
"""Steps that are timed of each width; the fastest counts."""


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled step of a pack, `program(states, numbers, active, base, batches)`.

    Attributes:
      step: for batches of `shapes`.
      units: places of the pack.
      width: of them side by side.
      bytes: that it needs, arguments and results included.
      seconds: of one step; NaN where none was timed.
      compiling: seconds that it took to compile.
      shapes: of the arrays of the batches.
      jitted: for batches whose rows have other lengths, compiled for each.
    """

    step: Callable[..., Any]
    units: int
    width: int
    bytes: int
    seconds: float = math.nan
    compiling: float = math.nan
    shapes: Any = None
    jitted: Callable[..., Any] | None = None

    def __call__(self, *arguments: Any) -> Any:
        """One step."""
        same = self.jitted is None or _shapes(arguments[4]) == self.shapes
        return (self.step if same else self.jitted)(*arguments)


def units_of(count: int, pack: int = 0) -> int:
    """The most units of a pack for `count` of them: as few packs as may be, of like size.

    Args:
      count: units to train, at least 1.
      pack: the most in one; 0 for `MOST`.
    """
    packs = -(-count // (pack or MOST))
    return -(-count // packs)


def places(units: int) -> int:
    """Places of a pack of so many units: a few more than units where these have few divisors."""
    return units if units <= 8 else -(-units // 4) * 4


def first_width(places: int, rows: int) -> int:
    """The first guess: so many units side by side as keep the device busy.

    Args:
      places: of the pack; the width is one of its divisors.
      rows: of one unit that a product sees: its tokens, or examples of a model of images.
    """
    return _nearest(places, FILLED.get(jax.default_backend(), OTHERWISE) / rows)


def _nearest(places: int, wanted: float) -> int:
    """The divisor of `places` that is nearest, as a ratio."""
    divisors = [n for n in range(1, places + 1) if places % n == 0]
    return min(divisors, key=lambda n: abs(math.log(n / wanted)))


def limit(gibibytes: float = 0.0) -> int:
    """Bytes that a program may take: as told, or what the device has, or most of the host's."""
    if gibibytes:
        return int(gibibytes * 2**30)
    stats = jax.local_devices()[0].memory_stats() or {}
    host = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return int(stats.get("bytes_limit") or 0.7 * host)


def compiled(step: Callable[..., Any], width: int, arguments: tuple[Any, ...]) -> Program:
    """`step`, jitted, for arguments of these shapes."""
    begun = time.perf_counter()
    made = step.lower(*arguments).compile()
    took = time.perf_counter() - begun
    used = made.memory_analysis()
    size = 0
    if used is not None:  # some backends do not tell
        size = used.argument_size_in_bytes + used.output_size_in_bytes + used.temp_size_in_bytes
        size -= used.alias_size_in_bytes
    units = arguments[2].shape[0]
    shapes = _shapes(arguments[4])
    return Program(made, units, width, size, compiling=took, shapes=shapes, jitted=step)


def _shapes(batches: Any) -> list[tuple[int, ...]]:
    return [jnp.shape(leaf) for leaf in jax.tree.leaves(batches)]


def timed(program: Program, arguments: tuple[Any, ...]) -> Program:
    """`program` with the seconds of a step on copies of `arguments`, which are not changed."""
    best = math.inf
    for _ in range(TIMED):
        states = jax.tree.map(jnp.copy, arguments[0])
        begun = time.perf_counter()
        jax.block_until_ready(program.step(states, *arguments[1:]))
        best = min(best, time.perf_counter() - begun)
    return dataclasses.replace(program, seconds=best)


def fastest(
    first: Program,
    make: Callable[[int], Program],
    arguments: tuple[Any, ...],
    steps: int,
    limit: float = math.inf,
) -> Program:
    """`first`, or a program of another width that is faster, where training is long enough.

    Args:
      first: of the first guess.
      make: the program of a width.
      arguments: of a step.
      steps: that are to be made.
      limit: bytes that it may take.
    """
    best = timed(first, arguments)
    if steps * best.seconds < WORTH * first.compiling:
        return best
    for factor in (4, 1 / 4):
        while (width := _nearest(best.units, best.width * factor)) != best.width:
            other = make(width)
            if other.bytes > limit:
                break
            other = timed(other, arguments)
            if other.seconds > BETTER * best.seconds:
                break
            best = other
        if best.width != first.width:
            break
    return best
