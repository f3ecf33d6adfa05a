"""What would a sweep do? `--dry_run`: units, programs, parameters, and what is done already."""

import pathlib
import re
from collections.abc import Sequence

from configs._sweeps import BestOf
from experiments._sweep import check
from experiments._sweep.program import programs
from experiments._sweep.rows import DONE, FAILED, state
from experiments._sweep.trials import RATE
from experiments._sweep.units import Unit, axes_of
from experiments._table import markdown


def show(
    workdir: pathlib.Path, units: Sequence[Unit], best_of: BestOf | None, trials: int = 0
) -> None:
    """Prints it; nothing is written, fetched or trained.

    Args:
      workdir: of the sweep; need not exist.
      units: of it; where rates are searched for, every point at one rate.
      best_of: what is chosen among them.
      trials: of a search, a point; 0 for a grid.

    Raises:
      LoraxError: a unit that cannot be run.
    """
    sizes = check.trainable(units, check.planned, print)
    packed = programs(units)
    states = {unit.name: state(workdir, unit.name) for unit in units}
    axes = {n: len(values) for n, values in axes_of(units).items() if not trials or n != RATE}
    over = " × ".join(f"{count} {name}" for name, count in axes.items()) or "1 point"
    ended = sum(found in (DONE, FAILED) for found in states.values())
    table = [["unit", "program", "trainable", "state"]]
    for number, program in enumerate(packed, 1):
        for unit in program:
            name = unit.name
            shown = re.sub(rf"(^|,){RATE}=[^,]*", rf"\1{RATE}=?", name) if trials else name
            table.append([shown, str(number), f"{sizes[name]:,}", states[name]])
    print(markdown(table))
    print(f"\nSweep: {over}: {_count(len(units), 'unit')} in {_count(len(packed), 'program')}.")
    if trials:
        print(f"Of each, {_count(trials, 'rate')} will be tried, as a search finds them.")
    if best_of:
        print(f"Chosen on validation: the best of {' and '.join(best_of.axes)}.")
    if ended:
        print(f"Ended before, and left as they are: {ended}.")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
