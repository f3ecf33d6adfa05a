"""What is d90? By the published rule, and interpolated with an interval beside it.

The rule of Li et al. 2018 takes the first d, of those that were measured, whose mean is strictly
better than the threshold; how fine the grid is decides, and so does one lucky mean. Beside it
stands where the mean curve crosses the threshold: linear in log d, after the curve was made
monotone by pooling adjacent violators (Ayer et al. 1955), with a percentile bootstrap of 95 % that
draws the repeats of every d, and those of direct training for one's own threshold, again.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments._intrinsic.levels import Level, direct, projections, subspaces
from experiments._intrinsic.rows import Row
from experiments._intrinsic.threshold import OWN, Threshold, thresholds

DRAWS, SHARE = 1000, 0.95
"""Of the bootstrap, and what its interval holds of them."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """d90 of one projection for one threshold.

    Attributes:
      projection: of the subspace.
      kind: of the threshold, "own" or "global".
      threshold: it.
      published: the first d whose mean passes; None where none does.
      below: the last d that was measured below it; None where there is none.
      interpolated: where the monotone mean curve crosses it; None where it does not.
      low, high: the interval of `interpolated`, 0 and infinity where it is open to that side; None
        where there is none.
      reasons: what cannot be told, and why; a line each.
    """

    projection: str
    kind: str
    threshold: Threshold
    published: int | None
    below: int | None
    interpolated: float | None
    low: float | None
    high: float | None
    reasons: tuple[str, ...]


def estimate(rows: Sequence[Row], study: Mapping[str, Any]) -> list[Estimate]:
    """One of each projection for each threshold, the searched projection first.

    Args:
      rows: of all units.
      study: `config.study`.

    Raises:
      LoraxError: as `thresholds`.
    """
    found, whole = thresholds(rows, study), direct(rows, study)
    return [
        _estimate(projection, subspaces(rows, study, projection), threshold, whole, study["mode"])
        for projection in projections(rows, study)
        for threshold in found.values()
    ]


def monotone(values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """The closest curve that never falls, by weighted squares: adjacent violators are pooled."""
    blocks: list[tuple[float, float, int]] = []  # mean, weight, members
    for value, weight in zip(values, weights, strict=True):
        count = 1
        while blocks and blocks[-1][0] >= value:
            mean, other, more = blocks.pop()
            value = (mean * other + value * weight) / (other + weight)
            weight, count = weight + other, count + more
        blocks.append((value, weight, count))
    return [mean for mean, _, count in blocks for _ in range(count)]


def crossing(dims: Sequence[int], means: Sequence[float], threshold: float) -> float:
    """The d at which a curve that never falls passes `threshold`; 0 below all d, infinity above."""
    first = next((i for i, mean in enumerate(means) if mean > threshold), None)
    if first is None:
        return math.inf
    if not first:
        return 0.0
    (x, y), (low, high) = np.log(dims[first - 1 : first + 1]), means[first - 1 : first + 1]
    return float(np.exp(x + (threshold - low) / (high - low) * (y - x)))


def _estimate(
    projection: str, levels: Mapping[int, Level], threshold: Threshold, whole: Level | None,
    mode: str,
) -> Estimate:  # fmt: skip
    first = next((d for d, one in levels.items() if one.passes(threshold.value, mode)), None)
    below = max((d for d in levels if first and d < first), default=None)
    sign = 1.0 if mode == "max" else -1.0
    usable = {d: one for d, one in levels.items() if one.stat and not one.failed}
    reasons = []
    if left := [d for d in levels if d not in usable]:
        reasons.append(f"d = {_listed(left)} left out of the curve, since a repeat failed")
    dims, counts = list(usable), [len(one.values) for one in usable.values()]
    means = [sign * one.stat.mean for one in usable.values() if one.stat]
    at = crossing(dims, monotone(means, counts), sign * threshold.value)
    low = high = None
    if not 0 < at < math.inf:
        if dims:
            side = f"no d up to {dims[-1]:,}" if at else f"every d from {dims[0]:,} on"
            reasons.append(f"{side} passes: there is no crossing to interpolate")
    elif max(counts) == 1:
        reasons.append("one repeat a d: there is nothing to draw an interval from")
    else:
        low, high = _interval(usable, threshold, whole, sign)
        if single := [d for d, count in zip(dims, counts, strict=True) if count == 1]:
            reasons.append(f"one repeat at d = {_listed(single)}, which is taken as exact")
    told = at if 0 < at < math.inf else None
    return Estimate(
        projection, threshold.kind, threshold, first, below, told, low, high, tuple(reasons)
    )


def _listed(dims: Sequence[int]) -> str:
    return ", ".join(f"{d:,}" for d in dims)


def _interval(
    levels: Mapping[int, Level], threshold: Threshold, whole: Level | None, sign: float
) -> tuple[float, float]:
    draw = np.random.default_rng(0)
    means = sign * np.stack([_drawn(one.values, draw) for one in levels.values()], axis=1)
    limits = np.full(DRAWS, threshold.value)
    if threshold.kind == OWN and whole:
        gained = _drawn(whole.values, draw) - threshold.start
        limits = threshold.start + threshold.share * gained
    dims, counts = list(levels), [len(one.values) for one in levels.values()]
    found = sorted(
        crossing(dims, monotone(curve, counts), sign * limit)
        for curve, limit in zip(means.tolist(), limits.tolist(), strict=True)
    )
    outside = round((1 - SHARE) / 2 * DRAWS)  # order statistics: infinity is one of them
    return found[outside], found[-1 - outside]


def _drawn(values: Sequence[float], draw: np.random.Generator) -> np.ndarray:
    """(DRAWS,) means of as many values, drawn with replacement."""
    places = draw.integers(len(values), size=(DRAWS, len(values)))
    return np.asarray(values)[places].mean(axis=1)
