"""What happens in a study? Units are trained that the search asks for, until it asks no more."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax

import lorax
from experiments import _workdir
from experiments._cli import Call, Ended, UsageError
from experiments._intrinsic import pack, search
from experiments._intrinsic.report import how_it_ended, write_report
from experiments._intrinsic.rows import ROWS, STUDY, SUBSPACE, Row, read, write
from experiments._intrinsic.task import Task, check, chosen, open_task, total_of
from experiments._report.page import require
from experiments._train.setting import Setting, make_setting
from experiments.figures import curves
from lorax.core.errors import LoraxError
from lorax.train.stop import Stop, Stopped, catch


class Asked(NamedTuple):
    """What the flags of the verb say.

    Attributes:
      pack: units side by side; 0 chooses.
      dry_run: whether to show what would be done.
    """

    pack: int = 0
    dry_run: bool = False


def tell(call: Call, asked: Asked) -> None:
    """Runs the study in `call.workdir`, or goes on with what is there.

    Raises:
      LoraxError: a user's mistake, a disk that refuses, or a threshold that is never reached; what
        is measured stays.
      Ended: a signal came; units that were complete are kept.
    """
    if "study" not in call.config:
        raise LoraxError(
            f"'{call.config_name}' has no config.study: expected a page such as "
            "configs/intrinsic_digits.py; see configs/_study.py for the fields"
        )
    _refuse_idle(call)
    if call.config.get("plan_only") and not asked.dry_run:
        raise LoraxError(f"'{call.config_name}' is a plan, too large to be run: add --dry_run")
    if not asked.dry_run and _workdir.finished(call):
        _workdir.show(call.workdir)
        rows = read(call.workdir / ROWS)
        ended = how_it_ended(call.workdir, rows, call.config.study.to_dict())
        print(ended.line)
        return _refuse_unreached(ended)
    curves.require()
    require()
    setting = make_setting(call.config)
    study = call.config.study.to_dict()
    check(setting, study["metric"])
    total = total_of(setting)
    points = _checked(setting, study, total)
    if asked.dry_run:
        return _preview(call, setting, study, total, points)
    try:
        with catch() as stop, _workdir.entered(call, resume=True) as needed:
            if needed:
                task = open_task(setting, call.workdir, stop)
                verdict = _run(task, study, asked, stop)
                _finish(call, verdict)
    except Stopped as reason:
        raise Ended(
            f"{reason}: run the same command again to go on from what is in {call.workdir}",
            128 + reason.signum,
        ) from None


_IDLE = {"optimizer.learning_rate": "rates", "adapter.projection": "projection"}
"""Fields of one run that a study sets in every unit, and where they come from there."""


def _refuse_idle(call: Call) -> None:
    """Raises UsageError for an override of a field that a study does not read."""
    for field, own in _IDLE.items():
        if field in call.overrides:
            raise UsageError(
                f"--config.{field}={call.overrides[field]} has no effect in a study, which sets it "
                f"in every unit: use --config.study.{own}"
            )


def _run(task: Task, study: Mapping[str, Any], asked: Asked, stop: Stop) -> search.Verdict:
    """Trains until nothing is left to train; every pack is on the disk when it is done."""
    file = task.workdir / ROWS
    rows = read(file) if file.exists() else []
    if rows:
        print(f"{len(rows)} units were trained before.")
    least = _least(task.setting)
    about = {"total": task.total, "least": least}
    _workdir.write(task.workdir / STUDY, json.dumps(about, indent=1) + "\n")
    while points := search.next_points(rows, study, task.total, least):
        print(f"\n{search.verdict(rows, study, task.total, least).line}")
        side_by_side = asked.pack or (1 if jax.default_backend() == "cpu" else 8)
        one = pack.packs(task, study, points, side_by_side)[0]
        with stop.deferred():
            found = pack.train_pack(task, study, one, print, _width(len(one), side_by_side))
        stop.where = "between two programs"
        rows = [*rows, *found]
        write(file, rows)
        _tell_units(found)
    return search.verdict(rows, study, task.total, least)


def _width(units: int, most: int) -> int:
    """The largest divisor of the units that is no more than `most`."""
    return max(n for n in range(1, units + 1) if units % n == 0 and n <= most)


def _tell_units(rows: Sequence[Row]) -> None:
    for row in rows:
        said = row.failed or ", ".join(f"{k} {v:.4f}" for k, v in row.last.items())
        print(f"{row.name}: {said} ({row.seconds:.0f} s)")


def _finish(call: Call, verdict: search.Verdict) -> None:
    write_report(call.workdir)
    _workdir.finish(call.workdir)
    print(f"\n{verdict.line}\nDone: {call.workdir / 'report.md'}, report.html, {ROWS}")
    _refuse_unreached(verdict)


def _refuse_unreached(verdict: search.Verdict) -> None:
    """Raises LoraxError where the threshold is out of reach, so that a script knows of it."""
    if verdict.state == search.UNREACHED:
        raise LoraxError(verdict.line)


def _checked(setting: Setting, study: Mapping[str, Any], total: int) -> list[search.Point]:
    """The first units, every d of which the adapter can have.

    Raises:
      LoraxError: a d that is too large or too small, or a study that cannot be.
    """
    points = search.next_points([], study, total, _least(setting))
    fields, leaves = setting.config.adapter.to_dict(), chosen(setting)
    for point in points:
        if point.method == SUBSPACE:
            adapter = lorax.from_dict(fields | {"dim": point.dim, "projection": point.projection})
            assert isinstance(adapter, lorax.Subspace)
            adapter.directions(leaves)
    return points


def _least(setting: Setting) -> int:
    """The smallest d that the adapter can have."""
    assert isinstance(setting.adapter, lorax.Subspace)  # as `check` says
    return setting.adapter.least(chosen(setting))


def _preview(
    call: Call, setting: Setting, study: Mapping[str, Any], total: int, points: Sequence[Any]
) -> None:
    """What would be trained, with nothing trained or written."""
    steps = setting.config.train.epochs * setting.data.pipeline.steps_per_epoch
    leaves = chosen(setting)
    print(f"{call.config_name}: D = {total:,} in {len(leaves)} leaves, {steps:,} updates a unit")
    for path, leaf in leaves.items():
        print(f"  {path}  {'×'.join(map(str, leaf.shape))}")
    print(f"The first {len(points)} units; those of the bisection follow from what they reach:")
    for point in points:
        print(f"  {point.name}")
    against = (
        f"own baseline, or {study['baseline']} as a global one"
        if study["baseline"]
        else "own baseline"
    )
    print(f"Threshold: {study['share']:g} of the {against}; searched: {study['target']}.")
