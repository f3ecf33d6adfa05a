"""What is reached with so many numbers? The units of one d, of one rank or of direct training."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments._intrinsic.rows import DIRECT, LORA, SUBSPACE, Row, value
from experiments._sweep.reduce import Stat, stat


@dataclasses.dataclass(frozen=True)
class Level:
    """All repeats of one d, rank, or direct training, at the rate of the best mean.

    Attributes:
      trained: numbers that learn.
      rate: learning rate.
      rows: its repeats.
      values: of the study's metric, those that are finite.
      stat: their mean and standard error; None where there is none.
      failed: repeats without a number.
      rates: {learning rate: mean} of all that were tried.
    """

    trained: int
    rate: float
    rows: tuple[Row, ...]
    values: tuple[float, ...]
    stat: Stat | None
    failed: int
    rates: Mapping[float, float | None]

    def passes(self, threshold: float, mode: str) -> bool:
        """Is the mean strictly better? A level with a failed repeat does not pass."""
        return bool(self.stat and not self.failed and better(self.stat.mean, threshold, mode))


def better(value: float, than: float, mode: str) -> bool:
    """Strictly; `mode` is "max" where more is better, else "min"."""
    return value > than if mode == "max" else value < than


def best(values: Iterable[float], mode: str) -> float:
    """The highest or the lowest."""
    return max(values) if mode == "max" else min(values)


def subspaces(rows: Sequence[Row], study: Mapping[str, Any], projection: str) -> dict[int, Level]:
    """{d: level} of one projection, d rising."""
    members = [row for row in rows if row.method == SUBSPACE and row.projection == projection]
    return _sorted(((row.dim, row) for row in members), study)


def loras(rows: Sequence[Row], study: Mapping[str, Any]) -> dict[int, Level]:
    """{rank: level}, ranks rising."""
    return _sorted(((row.rank, row) for row in rows if row.method == LORA), study)


def direct(rows: Sequence[Row], study: Mapping[str, Any]) -> Level | None:
    """Training of all numbers; None where no unit is there."""
    return _sorted(((0, row) for row in rows if row.method == DIRECT), study).get(0)


def projections(rows: Sequence[Row], study: Mapping[str, Any]) -> list[str]:
    """Those that were measured, the searched one first."""
    found = dict.fromkeys(row.projection for row in rows if row.method == SUBSPACE)
    return sorted(found, key=lambda name: name != study["projection"])


def _sorted(pairs: Iterable[tuple[int | None, Row]], study: Mapping[str, Any]) -> dict[int, Level]:
    found: dict[int, list[Row]] = {}
    for key, row in pairs:
        assert key is not None  # as its method has one
        found.setdefault(key, []).append(row)
    return {key: _level(found[key], study) for key in sorted(found)}


def _level(rows: Sequence[Row], study: Mapping[str, Any]) -> Level:
    """A rate with a failed repeat counts only where every rate has one."""
    by_rate: dict[float, list[Row]] = {}
    for row in rows:
        by_rate.setdefault(row.lr, []).append(row)
    tried = []
    for rate, members in sorted(by_rate.items()):
        values = tuple(v for row in members if (v := value(row, study)) is not None)
        tried.append((rate, tuple(members), values, stat(values), len(members) - len(values)))
    means = {rate: found.mean if found else None for rate, _, _, found, _ in tried}
    usable = [one for one in tried if one[3] and not one[4]] or [o for o in tried if o[3]] or tried
    sign = 1 if study["mode"] == "max" else -1
    chosen = max(usable, key=lambda one: sign * one[3].mean if one[3] else 0.0)
    return Level(rows[0].trained, *chosen, means)
