"""With which words does a page say what it sweeps? Axes, their product, labels, and a reduction.

A page has a generator `sweep()`, or `sweep(arg)` to be given the page's words, of points
`{field: value}`, and may have others, `sweep_NAME()`, that `--sweep=NAME` takes:

    reduction = best_of("lr")

    def sweep():
        yield from product(axis("rank", (1, 4, 16)), axis("lr", (1e-3, 1e-2)), axis("seed", (0, 1)))

A field is written in full, "adapter.rank", or by its name in `SHORT`. `NAMED` are sweeps that need
no page. `seed` is that of the first draw, of the order of examples and of dropout alike.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from lorax.core.errors import LoraxError

SEEDS = ("seed.init", "seed.data", "seed.dropout")

SHORT: Mapping[str, tuple[str, ...]] = {
    "rank": ("adapter.rank",),
    "alpha": ("adapter.alpha",),
    "lr": ("optimizer.learning_rate",),
    "seed": SEEDS,
}
"""Names of what is swept most, and the fields that each sets."""

Point = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Labelled:
    """A value with a name, by which folders and rows call it."""

    label: str
    value: Any


@dataclasses.dataclass(frozen=True)
class BestOf:
    """A reduction: of points that differ in `axes` and seeds alone, the best one stands for all.

    Attributes:
      axes: names of what is chosen, "lr" say.
      by: the number that is compared; empty for `checkpoint.best` where that is one of the
        validation part, else validation/loss, else the first number of that part.
    """

    axes: tuple[str, ...]
    by: str = ""


def axis(field: str, values: Iterable[Any]) -> list[Point]:
    """One point a value, `[{field: value}, ...]`.

    Raises:
      LoraxError: there is no value.
    """
    points = [{field: value} for value in values]
    if not points:
        raise LoraxError(f"axis('{field}') of a sweep has no values: expected one or more")
    return points


def product(*sweeps: Iterable[Point]) -> Iterator[Point]:
    """Every point of each with every point of the others; the last varies fastest.

    Raises:
      LoraxError: two of them set the same field.
    """
    for parts in itertools.product(*map(list, sweeps)):
        point: Point = {}
        for part in parts:
            for field in part:
                if field in point:
                    raise LoraxError(f"two sweeps of one product set '{field}': expected it in one")
            point |= part
        yield point


def label(name: str, value: Any) -> Labelled:
    """`value`, called `name` in folders and rows: label("q,v", (".*/(query|value)/kernel",))."""
    return Labelled(name, value)


def best_of(*axes: str, by: str = "") -> BestOf:
    """The reduction that keeps the best of `axes`, chosen on validation; see `BestOf`."""
    return BestOf(tuple(axes), by)


def _times(field: str, factors: Sequence[float]) -> Callable[[Any], list[Point]]:
    """A sweep around what the page has."""

    def sweep(config: Any) -> list[Point]:
        part, _, name = SHORT[field][0].partition(".")
        if name not in config[part]:
            raise LoraxError(f"the sweep '{field}' needs config.{part}.{name}: this page has none")
        # four digits, so that folders have short names
        return axis(field, [float(f"{config[part][name] * factor:.4g}") for factor in factors])

    return sweep


NAMED: Mapping[str, Callable[[Any], list[Point]]] = {
    "rank": lambda _: axis("rank", (1, 2, 4, 8, 64)),
    "alpha": _times("alpha", (0.25, 0.5, 1, 2, 4)),
    "lr": _times("lr", (0.25, 0.5, 1, 2, 4)),
    "seed": lambda _: axis("seed", (0, 1, 2)),
    "scaling": lambda _: axis("adapter.scaling", ("standard", "rslora")),
    "initializer": lambda _: axis("adapter.initializer", ("kaiming", "gaussian")),
}
"""Sweeps of the page's config that `--sweep` knows on every page."""
