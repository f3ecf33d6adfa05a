"""What does a sweep say? Means over seeds, and of every group of units the best choice.

A group is the units that differ in seeds and in what is chosen alone: with best_of("lr"), one a
rank say. The choice is made by the mean, over seeds, of a number of the validation part; test
numbers are only reported beside it. Learning rates of which a seed failed are not compared with
those of which all are there.
"""

import dataclasses
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from configs._sweeps import BestOf
from experiments._report.words import higher_is_better
from experiments._sweep.rows import DONE, FAILED, Row, numbers
from experiments._sweep.units import is_seed
from lorax.core.errors import LoraxError

VALIDATION = "validation/"

NEAR_END = 1.05
"""Within this factor of an end of its range, the best rate of a search is at the edge."""

FROM_RANK = 4
"""Where published best rates stop moving: Schulman et al., "LoRA Without Regret", 2025."""


@dataclasses.dataclass(frozen=True)
class Stat:
    """Mean over n seeds, and its standard error: sample standard deviation / sqrt(n).

    Attributes:
      mean: of the finite values.
      error: None where n is 1.
      n: finite values.
    """

    mean: float
    error: float | None
    n: int


@dataclasses.dataclass(frozen=True)
class Tried:
    """One choice of a group.

    Attributes:
      chosen: its value of each axis that is chosen from, {"lr": 0.01}.
      score: of what is compared; None where no seed has it.
      failed: units that became NaN.
      rows: of all its seeds.
    """

    chosen: Mapping[str, Any]
    score: Stat | None
    failed: int
    rows: tuple[Row, ...]


@dataclasses.dataclass(frozen=True)
class Group:
    """Units that differ in seeds and in what is chosen alone.

    Attributes:
      point: what they share, {"rank": 4}.
      tried: every choice, in the order of its values.
      best: the best of them; None where no seed of any has what is compared.
      edge: {axis: "lowest" or "highest"} where the best value is the last one that was tried; of
        a search, where it is within `NEAR_END` of an end of the range.
      numbers: of the best choice, of all results that its seeds have.
    """

    point: Mapping[str, Any]
    tried: tuple[Tried, ...]
    best: Tried | None
    edge: Mapping[str, str]
    numbers: Mapping[str, Stat]


@dataclasses.dataclass(frozen=True)
class Moves:
    """How far the best learning rate moves between ranks, all else the same.

    Attributes:
      point: all else.
      rates: {rank: best rate}, ranks rising.
      factor: highest over lowest rate.
      factor_from_4: the same among ranks of 4 and more; None where there are not two.
      bound: whether a best rate lies at the edge of its grid, so that the factors are bounds.
    """

    point: Mapping[str, Any]
    rates: Mapping[int, float]
    factor: float
    factor_from_4: float | None
    bound: bool


@dataclasses.dataclass(frozen=True)
class Reduced:
    """A sweep, reduced.

    Attributes:
      axes: what was chosen, ("lr",); empty for nothing.
      by: the number that was compared; empty where no unit has one.
      higher: whether more of it is better.
      groups: in order of their first unit.
      moves: of the rate between ranks; empty where the rate was not chosen, or rank is no axis.
      search: (lowest, highest, ...) of a search for the rate; empty for a grid.
    """

    axes: tuple[str, ...]
    by: str
    higher: bool
    groups: tuple[Group, ...]
    moves: tuple[Moves, ...]
    search: tuple[float, ...] = ()


def reduce(
    rows: Sequence[Row],
    best_of: BestOf | None = None,
    checkpoint: Mapping[str, Any] | None = None,
    search: Sequence[float] = (),
) -> Reduced:
    """The rows of rows.jsonl, reduced.

    Args:
      rows: of all units.
      best_of: what is chosen; None for nothing, so that only seeds are averaged over.
      checkpoint: that part of the page's config: its `best` and `mode` say what is compared.
      search: what sweep.json says of a search, the lowest and the highest rate first.

    Raises:
      LoraxError: what is to be compared is of the test part, or no unit has it.
    """
    axes = best_of.axes if best_of else ()
    by, higher = compared(rows, best_of.by if best_of else "", checkpoint or {})
    sorted_: dict[str, list[Row]] = {}
    for row in rows:
        sorted_.setdefault(_key(_without(row["point"], axes)), []).append(row)
    groups = tuple(_group(members, axes, by, higher, search) for members in sorted_.values())
    return Reduced(axes, by, higher, groups, tuple(_moves(groups, axes)), tuple(search))


def compared(rows: Sequence[Row], by: str, checkpoint: Mapping[str, Any]) -> tuple[str, bool]:
    """(the number that choices are made by, whether more of it is better).

    `by`, else `checkpoint.best` if it is of the validation part, else validation/loss, else the
    first number of that part; empty where there is none.

    Raises:
      LoraxError: `by` is of the test part, or no unit has it.
    """
    names = [name for name in numbers(rows) if name.startswith(VALIDATION)]
    best = checkpoint.get("best") or ""
    if by and not by.startswith(VALIDATION):
        raise LoraxError(
            f"best_of is by '{by}': expected a number of the validation part, such as "
            f"{VALIDATION}loss, since what is chosen by the test part is not tested by it"
        )
    if by and names and by not in names:
        raise LoraxError(f"best_of is by '{by}', which no unit has: expected {', '.join(names)}")
    wanted = [by, best, f"{VALIDATION}loss", *names]
    chosen = next((name for name in wanted if name in names), "")
    stated = bool(chosen) and chosen == best and "mode" in checkpoint
    return chosen, checkpoint["mode"] == "max" if stated else higher_is_better(chosen)


def stat(values: Iterable[Any]) -> Stat | None:
    """Mean, standard error and count of those values that are finite numbers; None without one."""
    finite = [v for v in values if v is not None and math.isfinite(v)]
    if not finite:
        return None
    error = statistics.stdev(finite) / math.sqrt(len(finite)) if len(finite) > 1 else None
    return Stat(statistics.fmean(finite), error, len(finite))


def grid_step(group: Group, axis: str) -> float | None:
    """The factor between neighbouring values of an axis; None where they are not evenly apart."""
    values = sorted(
        {t.chosen[axis] for t in group.tried if isinstance(t.chosen.get(axis), int | float)}
    )
    factors = [b / a for a, b in zip(values, values[1:], strict=False) if a > 0]
    return min(factors) if factors and max(factors) < 1.1 * min(factors) else None


def _group(
    members: Sequence[Row], axes: Sequence[str], by: str, higher: bool, search: Sequence[float]
) -> Group:
    choices: dict[str, list[Row]] = {}
    for row in members:
        chosen = {axis: row["point"].get(axis) for axis in axes}
        choices.setdefault(_key(chosen), []).append(row)
    tried = [
        Tried(
            {axis: rows[0]["point"].get(axis) for axis in axes},
            stat(row.get(by) for row in rows if row["state"] == DONE),
            sum(row["state"] == FAILED for row in rows),
            tuple(rows),
        )
        for rows in choices.values()
    ]
    tried.sort(key=lambda t: [_order(t.chosen[axis]) for axis in axes])
    best = _best(tried, higher) if axes else tried[0]
    point = _without(members[0]["point"], axes)
    done = [row for row in best.rows if row["state"] == DONE] if best else []
    means = {name: stat(row.get(name) for row in done) for name in numbers(done)}
    known = {name: found for name, found in means.items() if found}
    edge = _end(best, search) if search else _edge(tried, best, axes)
    return Group(point, tuple(tried), best, edge, known)


def _best(tried: Sequence[Tried], higher: bool) -> Tried | None:
    """Among the choices of which most seeds have a number; the lowest of those that tie."""
    most = max((t.score.n for t in tried if t.score), default=0)
    fair = [(t.score.mean, t) for t in tried if t.score and t.score.n == most]
    pick = max if higher else min
    return pick(fair, key=lambda pair: pair[0])[1] if fair else None


def _edge(tried: Sequence[Tried], best: Tried | None, axes: Sequence[str]) -> dict[str, str]:
    """A rate that failed was tried too: the one below it is not at the edge."""
    found: dict[str, str] = {}
    for axis in axes if best else ():
        values = [t.chosen[axis] for t in tried]
        if len(set(map(_key, values))) < 2 or not all(map(_is_number, values)):
            continue
        value = best.chosen[axis] if best else None
        if value in (min(values), max(values)):
            found[axis] = "lowest" if value == min(values) else "highest"
    return found


def _end(best: Tried | None, search: Sequence[float]) -> dict[str, str]:
    """A search chooses the rate alone, from a range that it need not have tried the ends of."""
    (low, high), rate = search[:2], best.chosen.get("lr") if best else None
    if rate is None or low * NEAR_END < rate < high / NEAR_END:
        return {}
    return {"lr": "lowest" if rate <= low * NEAR_END else "highest"}


def _moves(groups: Sequence[Group], axes: Sequence[str]) -> Iterable[Moves]:
    if "lr" not in axes:
        return
    others: dict[str, dict[int, tuple[Group, float]]] = {}
    for group in groups:
        if group.best and isinstance(group.point.get("rank"), int):
            rest = {axis: value for axis, value in group.point.items() if axis != "rank"}
            others.setdefault(_key(rest), {})[group.point["rank"]] = group, group.best.chosen["lr"]
    for by_rank in others.values():
        if len(by_rank) < 2:
            continue
        ranks = sorted(by_rank)
        rates = {rank: float(by_rank[rank][1]) for rank in ranks}
        high = [rates[rank] for rank in ranks if rank >= FROM_RANK]
        point = {a: v for a, v in by_rank[ranks[0]][0].point.items() if a != "rank"}
        yield Moves(
            point, rates, _factor(rates.values()), _factor(high) if len(high) > 1 else None,
            any("lr" in group.edge for group, _ in by_rank.values()),
        )  # fmt: skip


def _factor(rates: Iterable[float]) -> float:
    found = list(rates)
    return max(found) / min(found) if min(found) > 0 else math.inf


def _without(point: Mapping[str, Any], axes: Sequence[str]) -> dict[str, Any]:
    return {n: value for n, value in point.items() if n not in axes and not is_seed(n)}


def _key(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _order(value: Any) -> tuple[bool, Any]:
    """Numbers first and in order, then the rest by its text."""
    return (not _is_number(value), value if _is_number(value) else str(value))
