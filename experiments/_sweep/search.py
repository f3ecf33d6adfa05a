"""Which learning rate is best? Asked of optuna, a round of trials at a time.

Every point of a sweep, seeds left aside, has a search of its own; a trial is a rate on all of the
point's seeds, and its value their mean. The trials of a round, over all points, are trained
together, so they share programs. The first round is evenly spaced on the logarithmic axis; then
optuna's tree-structured Parzen estimator asks (Bergstra et al. 2011, Algorithms for hyper-parameter
optimization). Nothing of a search is stored: when it is run again the same rates are asked for, and
the units answer from their folders.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from experiments._sweep.units import Unit, is_seed
from lorax.core.errors import LoraxError, check_choice

DIGITS = 3
"""Of a rate, so that names of units stay short."""

WIDTH = 4
"""Trials of a point in a round."""


class _Study(NamedTuple):
    """The search of one point: its units, one a seed, and what optuna knows."""

    seeds: Sequence[Unit]
    known: Any


class _Trial(NamedTuple):
    study: _Study
    asked: Any
    units: Sequence[Unit]


def check(low: float, high: float, trials: int) -> None:
    """Raises LoraxError unless optuna is there and the search is one."""
    if not 0 < low < high < math.inf:
        raise LoraxError(
            f"the search is from {low:g} to {high:g}: expected two positive numbers, the smaller "
            "one first, such as lr:1e-4:1e-1"
        )
    if trials < 1:
        raise LoraxError(f"trials is {trials}: expected 1 or more")
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise LoraxError("--search takes optuna: pip install 'lorax-flax[search]'") from None


def search(
    points: Sequence[Unit],
    at: Callable[[Unit, float], Unit],
    run: Callable[[Sequence[Unit]], None],
    value: Callable[[Unit], float | None],
    *,
    low: float,
    high: float,
    trials: int,
    mode: str = "min",
    seed: int = 0,
    width: int = WIDTH,
) -> list[Unit]:
    """Every unit that was tried, in the order of asking.

    Args:
      points: of the sweep, without a rate.
      at: a point with a rate put into it.
      run: trains those of some units that have no result yet.
      value: of a unit that was run: its validation number; None, NaN or infinite if it failed.
      low: smallest rate.
      high: largest rate.
      trials: rates a point.
      mode: "min" or "max", whichever is better of `value`.
      seed: of optuna's sampler.
      width: trials of a point that are asked for before the answers of any are known.

    Raises:
      LoraxError: as `check`.
    """
    check(low, high, trials)
    check_choice("mode", mode, ("min", "max"))
    width = max(1, min(width, trials))
    studies = [_study(seeds, mode, seed, width, low, high) for seeds in _by_point(points)]
    units: dict[str, Unit] = {}
    for begun in range(0, trials, width):
        count = min(width, trials - begun)
        batch = [_ask(study, at, low, high) for study in studies for _ in range(count)]
        units |= {unit.name: unit for trial in batch for unit in trial.units}
        run(list({unit.name: unit for trial in batch for unit in trial.units}.values()))
        for trial in batch:
            _tell(trial, [value(unit) for unit in trial.units])
    return list(units.values())


def rounded(rate: float) -> float:
    """The rate with `DIGITS` significant digits."""
    return float(f"{rate:.{DIGITS}g}")


def _by_point(points: Sequence[Unit]) -> list[list[Unit]]:
    """Units that differ in seeds alone, together."""
    found: dict[str, list[Unit]] = {}
    for unit in points:
        rest = {axis: choice for axis, choice in unit.point.items() if not is_seed(axis)}
        found.setdefault(repr(rest), []).append(unit)
    return list(found.values())


def _study(
    seeds: Sequence[Unit], mode: str, seed: int, width: int, low: float, high: float
) -> _Study:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=width, constant_liar=True)
    known = optuna.create_study(sampler=sampler, direction=f"{mode}imize")
    for part in range(width):
        known.enqueue_trial({"rate": low * (high / low) ** ((part + 0.5) / width)})
    return _Study(seeds, known)


def _ask(study: _Study, at: Callable[[Unit, float], Unit], low: float, high: float) -> _Trial:
    from optuna.distributions import FloatDistribution

    asked = study.known.ask({"rate": FloatDistribution(low, high, log=True)})
    rate = rounded(asked.params["rate"])
    return _Trial(study, asked, [at(unit, rate) for unit in study.seeds])


def _tell(trial: _Trial, values: Sequence[float | None]) -> None:
    from optuna.trial import TrialState

    known = [v for v in values if v is not None and math.isfinite(v)]
    if len(known) == len(values):
        trial.study.known.tell(trial.asked, sum(known) / len(known))
    else:  # "failed" would be forgotten, and the same rates asked for again
        trial.study.known.tell(trial.asked, state=TrialState.PRUNED)
