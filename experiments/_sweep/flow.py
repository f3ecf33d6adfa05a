"""What happens in a sweep? Units, their training, rows, reduction, report, in this order."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from configs._sweeps import BestOf
from experiments import _workdir
from experiments._cli import Call, Ended, UsageError
from experiments._report.page import require
from experiments._sweep import check, preview, report, tables
from experiments._sweep.items import write_items
from experiments._sweep.points import Sweep, read_sweep
from experiments._sweep.reduce import Reduced, compared, reduce
from experiments._sweep.rows import (
    DONE,
    FAILED,
    ROWS,
    SWEEP,
    Row,
    left,
    read_rows,
    row,
    state,
    write_rows,
)
from experiments._sweep.search import check as check_search
from experiments._sweep.trials import RATE, Search
from experiments._sweep.units import Unit, axes_of, make_units, reduction_of
from experiments._table import markdown
from experiments.figures import curves
from lorax.core.errors import LoraxError
from lorax.io.json_file import read_json
from lorax.train.stop import Stop, Stopped, catch


class Asked(NamedTuple):
    """What the flags of the verb say.

    Attributes:
      sweep: names of sweeps with commas; empty for the page's own.
      best_of: names of axes with commas, empty for none; None for what the page says.
      pack: units of a program; 0 chooses.
      memory: GiB that a program may take; 0 for what is there.
      launcher: local, slurm or ray; empty trains here.
      workers: processes at a time; 0 leaves it to the launcher.
      options: of the launcher.
      search: (lowest, highest) of a search for the rate in place of a grid; None for none.
      trials: of the search, a point of the sweep.
      only: a file with a JSON list of the units to train; empty for all.
      dry_run: whether to show what would be done.
    """

    sweep: str = ""
    best_of: str | None = None
    pack: int = 0
    memory: float = 0.0
    launcher: str = ""
    workers: int = 0
    options: Mapping[str, str] = {}
    search: tuple[float, float] | None = None
    trials: int = 0
    only: str = ""
    dry_run: bool = False


class Planned(NamedTuple):
    """A sweep, made of a page and flags.

    Attributes:
      units: of it; with a search, every point at one rate.
      best_of: what is chosen among them.
      search: of the rate; None for a grid.
    """

    units: Sequence[Unit]
    best_of: BestOf | None
    search: Search | None


def tell(call: Call, asked: Asked, argv: Sequence[str]) -> None:
    """Runs the sweep in `call.workdir`, or goes on with what is there.

    Args:
      call: of the command line.
      asked: of its own flags.
      argv: the arguments of a worker: page, workdir, overrides, sweep.

    Raises:
      LoraxError: a user's mistake, a disk that refuses, or all units failed; what is saved stays.
      Ended: a signal came; what was done is saved.
    """
    if asked.launcher and not asked.dry_run:
        from experiments._sweep import launch

        launch.check(asked.launcher, asked.options)
        launch.leave_devices()
    sweep = read_sweep(call.config_name, call.config, asked.sweep, alone=asked.search is not None)
    search = _search(call, asked, sweep)
    units = search.units() if search else make_units(call.config, sweep.points, call.overrides)
    best_of = reduction_of(units, sweep.reduction, asked.best_of)
    if search:
        best_of = BestOf((RATE,), search.by)
    compared([], best_of.by if best_of else "", {})
    if asked.dry_run:
        return preview.show(call.workdir, units, best_of, asked.trials)
    if call.config.get("plan_only"):
        raise LoraxError(f"'{call.config_name}' is a plan, too large to be run: add --dry_run")
    try:
        with catch() as stop:
            if asked.only:
                mine = left(call.workdir, _named(call.workdir, units, asked.only))
                return _train(mine, call, asked, stop)
            _sweep(call, asked, Planned(units, best_of, search), argv, stop)
    except Stopped as reason:
        raise Ended(
            f"{reason}: run the same command again to go on from what is in {call.workdir}",
            128 + reason.signum,
        ) from None


def _sweep(call: Call, asked: Asked, planned: Planned, argv: Sequence[str], stop: Stop) -> None:
    """All of it, in a workdir that is held; one that is complete is only told again."""
    units, best_of, search = planned
    record = _record(call, asked, units, best_of)
    if _complete(call, record):
        print(f"This sweep was finished before, in {call.workdir}; nothing is done again.")
        return _tell_result(call, best_of, asked.search)
    check.keeps_all(call.workdir, record)
    _check(call, units)
    _reopen(call)
    with _workdir.entered(call, resume=True):
        _write_record(call, record)
        train = lambda some: _train(left(call.workdir, some), call, asked, stop, argv)
        if search:
            units = search.run(train)
            _write_record(call, _record(call, asked, units, best_of))
        else:
            before = len(units) - len(left(call.workdir, units))
            print(f"{len(units)} units, {before} of them ended before.")
            train(units)
        stop.where = "before the report"
        rows = [row(call.workdir, unit) for unit in units]
        write_rows(call.workdir, rows)
        write_items(call.workdir, _reduced(call, rows, best_of, asked.search))
        report.write_report(call.workdir)
        if rest := left(call.workdir, units):
            raise LoraxError(
                f"{len(rest)} of {len(units)} units have not ended, the first '{rest[0].name}': "
                "run the same command again"
            )
        _workdir.finish(call.workdir)
    _tell_result(call, best_of, asked.search)


def _search(call: Call, asked: Asked, sweep: Sweep) -> Search | None:
    if asked.search is None:
        return None
    low, high = asked.search
    check_search(low, high, asked.trials)
    by = sweep.reduction.by if sweep.reduction else ""
    return Search(
        call.config, sweep.points, call.workdir, low, high, asked.trials, by, call.overrides
    )


def _check(call: Call, units: Sequence[Unit]) -> None:
    """What can be found out before anything is written.

    Raises:
      LoraxError: a unit that cannot be run, or a library of the report is not there.
    """
    curves.require()
    require()
    check.same_as_before(call.workdir, units)
    check.trainable(left(call.workdir, units), check.ready, print)


def _record(
    call: Call, asked: Asked, units: Sequence[Unit], best_of: BestOf | None
) -> dict[str, Any]:
    """What sweep.json says."""
    names = [name.strip() for name in asked.sweep.split(",") if name.strip()]
    search = {"search": [*asked.search, asked.trials]} if asked.search else {}
    return {
        "page": call.config_name,
        "sweep": names,
        **search,
        "axes": list(axes_of(units)),
        "best_of": list(best_of.axes) if best_of else [],
        "by": best_of.by if best_of else "",
        "units": {unit.name: dict(unit.overrides) for unit in units},
    }


def _write_record(call: Call, record: Mapping[str, Any]) -> None:
    _workdir.write(call.workdir / SWEEP, json.dumps(record, indent=1) + "\n")


def _complete(call: Call, record: Mapping[str, Any]) -> bool:
    """Whether this very sweep was finished here; of a search, whatever its units turned out to be.

    Raises:
      LoraxError: the workdir holds something else, or a sweep of another config.
    """
    if not _workdir.finished(call):
        return False
    try:
        there = read_json(call.workdir / SWEEP)
    except LoraxError:
        return False
    units, wanted = there.get("units", {}), json.loads(json.dumps(record))
    if "search" in wanted:
        wanted["units"] = units
    ended = all(state(call.workdir, name) in (DONE, FAILED) for name in units)
    return there == wanted and ended


def _reopen(call: Call) -> None:
    """Takes DONE from a sweep that has gained units, or is to be reduced otherwise."""
    if _workdir.finished(call):
        with _workdir.entered(call, resume=True):
            (call.workdir / "DONE").unlink(missing_ok=True)


def _named(workdir: pathlib.Path, units: Sequence[Unit], file: str) -> list[Unit]:
    """The units that a launcher gave to this process.

    Raises:
      UsageError: the file is no list of names of this sweep's units, or there is no sweep.
    """
    if not (workdir / SWEEP).is_file():
        raise UsageError(f"--only is for workers of a launcher: no sweep was begun in {workdir}")
    try:
        names = json.loads(pathlib.Path(file).read_text("utf-8"))
    except (OSError, ValueError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UsageError(f"--only={file}: expected a file with a JSON list of names of units")
    known = {unit.name: unit for unit in units}
    for name in names:
        if name not in known:
            raise UsageError(f"--only={file}: '{name}' is no unit of this sweep")
    return [known[name] for name in names]


def _train(
    units: Sequence[Unit], call: Call, asked: Asked, stop: Stop, argv: Sequence[str] = ()
) -> None:
    """Trains units in this process, or in those of the launcher."""
    if not units:
        return
    if not asked.launcher:
        from experiments._sweep import pack

        return pack.run_units(
            units, call.workdir, stop, pack=asked.pack, memory=asked.memory, say=print
        )
    from experiments._sweep import launch
    from experiments._sweep.program import programs

    tasks = launch.split(programs(units), launch.at_a_time(asked.launcher, asked.workers))
    launch.launch(
        asked.launcher, tasks, argv, call.workdir,
        workers=asked.workers, options=asked.options, say=print, stop=stop,
    )  # fmt: skip


def _tell_result(call: Call, best_of: BestOf | None, search: tuple[float, float] | None) -> None:
    """The best of each group, the failures, and where the report is.

    Raises:
      LoraxError: all units failed.
    """
    rows = read_rows(call.workdir / ROWS)
    reduced = _reduced(call, rows, best_of, search)
    print(f"\n{markdown(tables.best(reduced, rows, _workdir.plain(call.config)))}\n")
    for line in (failed := tables.failures(rows)):
        print(f"Failed: {line}")
    print(f"Done: {call.workdir / 'report.md'}, report.html, {ROWS}")
    if len(failed) == len(rows):
        raise LoraxError(f"all {len(rows)} units failed, the first {failed[0]}")


def _reduced(
    call: Call, rows: Sequence[Row], best_of: BestOf | None, search: tuple[float, float] | None
) -> Reduced:
    return reduce(rows, best_of, call.config.checkpoint.to_dict(), search or ())
