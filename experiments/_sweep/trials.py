"""What are the trials of a search? Units, as those of a grid, whose rates are found on the way."""

import dataclasses
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from configs._sweeps import SHORT, Point
from experiments._report.words import higher_is_better
from experiments._sweep import search
from experiments._sweep.check import same_as_before
from experiments._sweep.reduce import VALIDATION
from experiments._sweep.rows import row
from experiments._sweep.units import Unit, make_units

RATE = "lr"


@dataclasses.dataclass(frozen=True)
class Search:
    """The best rate of every point of a sweep is searched for.

    Attributes:
      config: of the page.
      points: of its sweep; a rate in them is left out.
      workdir: of the sweep.
      low, high: of the rates.
      trials: rates a point.
      by: the validation number that rates are compared by; empty for `checkpoint.best` where that
        is one, else validation/loss.
      overrides: of the command line, to find one that no unit keeps.
    """

    config: Any
    points: Sequence[Point]
    workdir: pathlib.Path
    low: float
    high: float
    trials: int
    by: str = ""
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def units(self, rate: float = 0.0) -> list[Unit]:
        """Every point at one rate; by default at the middle of the search.

        Raises:
          LoraxError: as `make_units`.
        """
        middle = search.rounded(math.sqrt(self.low * self.high))
        points = [{**point, RATE: rate or middle} for point in self._points()]
        return make_units(self.config, points, self.overrides)

    def run(self, train: Callable[[Sequence[Unit]], None]) -> list[Unit]:
        """Every unit that was tried; those that have a result are not trained again.

        Args:
          train: trains units.

        Raises:
          LoraxError: optuna is not there, or a unit was begun with another config.
        """
        checkpoint = self.config.checkpoint
        best = checkpoint.best if checkpoint.best.startswith(VALIDATION) else ""
        by = self.by or best or f"{VALIDATION}loss"
        stated = checkpoint.mode if by == checkpoint.best else ""
        raw = self._points()
        units = make_units(self.config, raw)
        known = {unit.name: point for unit, point in zip(units, raw, strict=True)}

        def checked(units: Sequence[Unit]) -> None:
            same_as_before(self.workdir, units)
            train(units)

        return search.search(
            units,
            lambda unit, rate: make_units(self.config, [{**known[unit.name], RATE: rate}])[0],
            checked,
            lambda unit: row(self.workdir, unit).get(by),
            low=self.low, high=self.high, trials=self.trials,
            mode=stated or ("max" if higher_is_better(by) else "min"),
        )  # fmt: skip

    def _points(self) -> list[Point]:
        """Without the rate, each once."""
        found: list[Point] = []
        for point in self.points:
            rest = {f: value for f, value in point.items() if f not in (RATE, *SHORT[RATE])}
            if rest not in found:
                found.append(rest)
        return found
