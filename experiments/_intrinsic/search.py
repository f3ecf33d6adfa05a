"""Which units come next? Those of the grid, then where d90 may lie; from the rows alone.

Nothing of a search is stored: with the same rows it says the same. The grid is measured first,
with direct training and all that stands beside. If no d of it passes the threshold, d doubles, up
to D; if the first one passes, d is halved, down to 1. Between the first d that passes and the one
below it the distance is halved until it is no more than the resolution; then those two are
measured again while their means are within one standard error of the threshold.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from experiments._intrinsic.levels import Level, best, better, direct, subspaces
from experiments._intrinsic.rows import DIRECT, LORA, SUBSPACE, Row
from experiments._intrinsic.threshold import Threshold, target
from lorax.core.errors import LoraxError

OPEN, FOUND, UNREACHED = "open", "found", "unreached"


@dataclasses.dataclass(frozen=True)
class Point:
    """A unit that is to be trained; the attributes are those of its row."""

    method: str
    projection: str
    dim: int | None
    rank: int | None
    repeat: int
    lr: float

    @property
    def name(self) -> str:
        """That of its row, "sparse,d=750,lr=0.001,repeat=0"."""
        size = {SUBSPACE: f",d={self.dim}", LORA: f",r={self.rank}"}.get(self.method, "")
        return f"{self.projection or self.method}{size},lr={self.lr:g},repeat={self.repeat}"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """How a search stands.

    Attributes:
      state: "open" (units are missing), "found" or "unreached".
      dim: the first d whose mean passes; None where there is none yet.
      below: the last d below it, which does not pass; None where none was measured.
      line: one line that says so.
    """

    state: str
    dim: int | None
    below: int | None
    line: str


def next_points(
    rows: Sequence[Row], study: Mapping[str, Any], total: int, least: int = 1
) -> list[Point]:
    """Units to train now, in order, none of which is among the rows; empty when it is finished.

    Args:
      rows: of all units so far, failed ones too: those are not trained again.
      study: `config.study`.
      total: D, numbers of all chosen leaves.
      least: the smallest d that there can be.

    Raises:
      LoraxError: a d is larger than D or smaller than the least, or the study's fields cannot work
        together.
    """
    return _step(rows, study, total, least)[1]


def verdict(rows: Sequence[Row], study: Mapping[str, Any], total: int, least: int = 1) -> Verdict:
    """How the search stands with these rows; arguments and errors as for `next_points`."""
    return _step(rows, study, total, least)[0]


def _step(
    rows: Sequence[Row], study: Mapping[str, Any], total: int, least: int
) -> tuple[Verdict, list[Point]]:
    threshold = target(rows, study)
    planned = {point.name: point for point in _planned(rows, study, total, least)}
    for row in rows:
        planned.pop(row.name, None)
    if planned:
        line = f"{len(planned)} units are left to train"
        return Verdict(OPEN, None, None, line), list(planned.values())
    levels = subspaces(rows, study, study["projection"])
    if threshold is None:
        line = "direct training has no finite value: there is no threshold"
        return Verdict(UNREACHED, None, None, line), []
    passing = [d for d, one in levels.items() if one.passes(threshold.value, study["mode"])]
    if not passing:
        return _upward(rows, study, levels, threshold, total)
    high = passing[0]
    low = max((d for d in levels if d < high), default=0)
    between = _between(low, high, study, least)
    if between:
        line = f"between d={low} and d={high}"
        return Verdict(OPEN, high, low or None, line), list(_at(study, between))
    again = [*_again(levels.get(low), study, threshold), *_again(levels[high], study, threshold)]
    said = f"d={high} is the first d whose mean passes {threshold.value:.4g}"
    below = f"d={low}, below it, does not" if low else "none below it was measured"
    return Verdict(OPEN if again else FOUND, high, low or None, f"{said}; {below}"), again


def _planned(
    rows: Sequence[Row], study: Mapping[str, Any], total: int, least: int
) -> Iterator[Point]:
    """All that must be there whatever comes of it, and every d that was begun."""
    searched = study["projection"]
    begun = {row.dim for row in rows if row.method == SUBSPACE and row.projection == searched}
    beside = [(name, d) for name, dims in study["also"] for d in dims]
    for d in [*study["grid"], *(d for _, d in beside)]:
        if not least <= d <= total:
            raise LoraxError(
                f"d={d} of the study: expected {least} to D={total}, all numbers of the leaves"
            )
    for lr in study["direct_rates"]:
        for repeat in range(study["direct_repeats"]):
            yield Point(DIRECT, "", None, None, repeat, lr)
    for d in sorted({*study["grid"], *(d for d in begun if d is not None)}):
        yield from _at(study, d)
    for name, d in beside:
        yield from _at(study, d, name, study["also_repeats"])
    for rank in study["ranks"]:
        for lr in study["lora_rates"]:
            for repeat in range(study["repeats"]):
                yield Point(LORA, "", None, rank, repeat, lr)


def _at(
    study: Mapping[str, Any], d: int, projection: str = "", repeats: int = 0
) -> Iterator[Point]:
    for lr in study["rates"]:
        for repeat in range(repeats or study["repeats"]):
            yield Point(SUBSPACE, projection or study["projection"], d, None, repeat, lr)


def _upward(
    rows: Sequence[Row], study: Mapping[str, Any], levels: Mapping[int, Level],
    threshold: Threshold, total: int,
) -> tuple[Verdict, list[Point]]:  # fmt: skip
    """Twice the largest d, unless it is D or failed, or all D numbers trained do not pass."""
    largest, mode = max(levels), study["mode"]
    if levels[largest].stat is None:
        failed = next((row.failed for row in levels[largest].rows if row.failed), "no number")
        line = f"every unit of d={largest} failed ({failed}): set other config.study.rates"
        return Verdict(UNREACHED, None, None, line), []
    whole = direct(rows, study)
    trained = whole.stat.mean if whole and whole.stat else None
    hopeless = trained is not None and not better(trained, threshold.value, mode)
    if largest < total and not hopeless:
        d = min(2 * largest, total)
        return Verdict(OPEN, None, None, f"no d up to {largest} passes"), list(_at(study, d))
    means = {d: one.stat.mean for d, one in levels.items() if one.stat}
    said = f"the threshold {threshold.value:.4g} is never reached"
    if means:
        value = best(means.values(), mode)
        place = next(d for d, mean in means.items() if mean == value)
        said += f": the best value seen is {value:.4g}, at d={place}"
    if trained is not None:
        said += f"; direct training has {trained:.4g}"
    return Verdict(UNREACHED, None, None, said), []


def _between(low: int, high: int, study: Mapping[str, Any], least: int) -> int | None:
    """The next d to look at, None where the bracket is narrow enough; `low` 0: none measured."""
    if not low:
        return max(high // 2, least) if high > least else None
    step = max(1, study["resolution"])
    if high - low <= step:
        return None
    inside = range(step * (low // step + 1), high, step)  # an open bracket wider than a step
    return min(inside, key=lambda d: abs(2 * d - low - high))


def _again(level: Level | None, study: Mapping[str, Any], threshold: Threshold) -> list[Point]:
    """One repeat more of a level of which it is not clear whether it passes."""
    if level is None or level.failed or level.stat is None:
        return []
    count, error = len(level.rows), level.stat.error
    near = error is None or abs(level.stat.mean - threshold.value) <= error
    if not near or count >= study["most_repeats"]:
        return []
    repeat = 1 + max(row.repeat for row in level.rows)
    return [Point(SUBSPACE, level.rows[0].projection, level.rows[0].dim, None, repeat, level.rate)]
