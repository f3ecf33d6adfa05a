"""Which points does a sweep have, and what is chosen among them? As the page and the flags say."""

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from configs._sweeps import NAMED, BestOf, Point, product
from experiments._cli import UsageError, nearest
from experiments._page_file import broken, load_page
from lorax.core.errors import LoraxError

SMOKE_VALUES, SMOKE_UNITS = 2, 4
"""Values of an axis, and units, that are left where a page is asked for `smoke`."""


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What is to be swept.

    Attributes:
      names: of --sweep; none for the page's own.
      points: `{field: value}`, as they were written.
      reduction: of the page; None where it has none.
    """

    names: tuple[str, ...]
    points: Sequence[Point]
    reduction: BestOf | None


def read_sweep(page: str, config: Any, chosen: str = "", *, alone: bool = False) -> Sweep:
    """The points of the page's `sweep()`, or the product of the sweeps that are `chosen`.

    A page that is asked for `smoke` keeps of every axis the first two values, and four points.

    Args:
      page: `path/to/file.py` or `path/to/file.py:words`.
      config: of the page with the overrides of the command line, around which `NAMED` sweep.
      chosen: names with commas, "rank,lr": each is `sweep_NAME` of the page, else one of `NAMED`.
      alone: whether a page without a sweep has one point, that of no field.

    Raises:
      UsageError: the page has no sweep, there is none of that name, one is named twice, or fails.
      LoraxError: what the page's own words refuse; no point at all.
    """
    module, words = load_page(page)
    path = page.partition(":")[0]
    names = tuple(name.strip() for name in chosen.split(",") if name.strip())
    if twice := [name for n, name in enumerate(names) if name in names[:n]]:
        raise UsageError(f"--sweep={chosen} names '{twice[0]}' twice: expected each sweep once")
    if names:
        parts = [_named(module, path, words, name, config) for name in names]
        points = list(product(*parts))
    elif alone and not hasattr(module, "sweep"):
        points = [{}]
    else:
        if not hasattr(module, "sweep"):
            raise UsageError(
                f"config file '{path}' has no sweep(): name one, --sweep=rank,lr, or add a "
                "generator of points such as {'adapter.rank': 1, 'seed': 0}"
            )
        points = _called(module.sweep, path, words)
    if not points:
        raise LoraxError(f"the sweep of '{path}' is empty: expected at least one point")
    if "smoke" in words.split(","):
        points = smaller(points)
    return Sweep(names, points, _reduction(module, path))


def smaller(points: Sequence[Point]) -> list[Point]:
    """Points that have of every axis one of its first two values; four, of the first seed first."""
    values: dict[str, list[Any]] = {}
    for point in points:
        for field, value in point.items():
            seen = values.setdefault(field, [])
            if value not in seen and len(seen) < SMOKE_VALUES:
                seen.append(value)
    kept = [p for p in points if all(value in values[field] for field, value in p.items())]
    later = lambda p: sum(v != values[f][0] for f, v in p.items() if f.partition(".")[0] == "seed")
    chosen = sorted(range(len(kept)), key=lambda i: (later(kept[i]), i))[:SMOKE_UNITS]
    return [kept[i] for i in sorted(chosen)]


def _named(module: ModuleType, path: str, words: str, name: str, config: Any) -> list[Point]:
    own = getattr(module, f"sweep_{name}", None)
    if own is not None:
        return _called(own, path, words)
    if name in NAMED:
        return NAMED[name](config)
    known = [n.removeprefix("sweep_") for n in vars(module) if n.startswith("sweep_")]
    near = nearest(name, [*known, *NAMED])
    raise UsageError(
        f"--sweep: there is no sweep '{name}'{near}: expected some of "
        f"{', '.join(dict.fromkeys([*known, *NAMED]))}"
    )


def _called(sweep: Callable[..., Any], path: str, words: str) -> list[Point]:
    """All that a page's function yields; it is given the page's words where it takes any."""
    try:
        found = sweep(words) if inspect.signature(sweep).parameters else sweep()
        if found is None:
            raise UsageError(
                f"{sweep.__name__}() of '{path}' yields no points: expected yield {{field: value}} "
                "such as yield {'adapter.rank': 1, 'seed': 0}"
            )
        points = list(found)
    except (LoraxError, UsageError):
        raise
    except Exception as error:
        raise broken(path, error) from None
    for point in points:
        if not isinstance(point, dict) or not point:
            raise UsageError(
                f"config file '{path}': {sweep.__name__}() yields {point!r}: expected "
                "{field: value} such as {'adapter.rank': 1, 'seed': 0}"
            )
    return points


def _reduction(module: ModuleType, path: str) -> BestOf | None:
    found = getattr(module, "reduction", None)
    if found is None or isinstance(found, BestOf):
        return found
    raise UsageError(
        f"config file '{path}': reduction is {found!r}: expected best_of('lr') of configs._sweeps"
    )
