"""How are units of a study trained? Those of one program together, epoch by epoch.

A unit that becomes NaN is told and stands still, and the others of its program go on.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from experiments._intrinsic.program import (
    compiled,
    complete_for,
    first_states,
    make_program,
    seeds_of,
)
from experiments._intrinsic.rows import Row
from experiments._intrinsic.search import Point
from experiments._intrinsic.task import TRAIN, Task
from lorax.core.errors import LoraxError
from lorax.ops.fastfood import table_size
from lorax.train.stacks import take

WIDEN = 1.5
"""d of units side by side differ by at most this factor: each pays for the largest."""

IN_TURN = 5
"""Units of a program that come one after the other: as many are lost where it is stopped."""


def packs(
    task: Task, study: Mapping[str, Any], points: Sequence[Point], beside: int
) -> list[list[Point]]:
    """The points in programs, `beside` of them side by side in each, in the order of their d.

    Side by side, units of like d pay together; one after the other, only those of one d do.
    """

    def key(point: Point) -> tuple[Any, ...]:
        seeds = seeds_of(task, study, point)
        # Fastfood on short leaves is another one for every length of θ's table
        table = table_size(point.dim or 1) if point.projection == "fastfood" else 0
        return point.method, point.projection, table, point.rank, seeds["base"], seeds["data"]

    found: list[list[Point]] = []
    groups: dict[tuple[Any, ...], list[Point]] = {}
    for point in points:
        groups.setdefault(key(point), []).append(point)
    for group in groups.values():
        group = sorted(group, key=lambda point: point.dim or 0)
        while group:
            limit = (WIDEN if beside > 1 else 1) * (group[0].dim or 0)
            one = [p for p in group if (p.dim or 0) <= limit][: beside if beside > 1 else IN_TURN]
            found.append(one)
            group = [point for point in group if point not in one]
    return found


def train_pack(
    task: Task,
    study: Mapping[str, Any],
    points: Sequence[Point],
    say: Callable[[str], None],
    width: int = 0,
) -> list[Row]:
    """The row of every point, trained to the end.

    Args:
      task: of the study.
      study: `config.study`.
      points: of one program, as `packs` puts them together.
      say: told how far it is.
      width: units side by side; 0 for all, else the others come after them.

    Raises:
      Stopped: a signal came; nothing of the pack is kept.
    """
    began = time.perf_counter()
    program = make_program(task, study, points)
    step, params = compiled(task, study, program.adapter, width)
    epochs, complete = task.config.train.epochs, complete_for(program.adapter)
    seeds = [seeds_of(task, study, point) for point in points]
    states = first_states(task, program)
    records = [_Record(study) for _ in points]
    base = task.base(seeds[0]["base"])
    start = task.numbers(base, "validation", "test", TRAIN)
    for epoch in range(epochs):
        task.stop.where = f"in epoch {epoch + 1} of {points[0].name}"  # of evaluations too
        task.stop.check()
        order = task.order(seeds[0]["data"], epoch)
        states, _, finite = step(states, program.numbers, program.base, task.data, order)
        last = epoch + 1 == epochs
        for number, record in enumerate(records):
            if not record.failed and not finite[number]:
                record.failed = f"NaN or infinity in epoch {epoch + 1}: lower the learning rate"
            if record.failed:
                continue
            unit = take((states.delta, program.numbers), number)
            record.add(task, params(complete(*unit), program.base), epoch + 1, last)
        if last or (epoch + 1) % max(1, epochs // 5) == 0:
            say(_told(points, records, epoch + 1, epochs))
    seconds = (time.perf_counter() - began) / len(points)
    trained = sum(leaf.size for leaf in jax.tree.leaves(take(states.delta, 0)))
    return [
        Row(
            name=point.name, method=point.method, projection=point.projection,
            trained=point.dim or trained, total=task.total, dim=point.dim, rank=point.rank,
            repeat=point.repeat, seeds=own, lr=point.lr, epochs=epochs, last=record.last,
            best=record.best, start=start, curve=record.curve, seconds=round(seconds, 2),
            packed=len(points), failed=record.failed,
        )
        for point, own, record in zip(points, seeds, records, strict=True)
    ]  # fmt: skip


class _Record:
    """What is measured of one unit while it is trained."""

    def __init__(self, study: Mapping[str, Any]):
        self.metric, self.mode = study["metric"], study["mode"]
        self.last: dict[str, float] = {}
        self.best: dict[str, float] = {}
        self.curve: list[float] = []
        self.failed = ""

    def add(self, task: Task, params: Any, epoch: int, last: bool) -> None:
        """Validation after every epoch; test and training set at the end, or where they count."""
        watched = [name for name in ("test", TRAIN) if last or self.metric.startswith(f"{name}/")]
        try:
            numbers = task.numbers(params, "validation", *watched)
        except LoraxError as error:  # answers that are not finite, where they are correlated
            self.failed = f"after epoch {epoch}: {error}"
            return
        value = numbers[self.metric]
        if not math.isfinite(value):
            self.failed = f"{self.metric} is not finite after epoch {epoch}"
            return
        self.curve.append(value)
        ahead = value > self.best.get(self.metric, -math.inf)
        if self.mode == "min":
            ahead = value < self.best.get(self.metric, math.inf)
        if ahead:
            self.best = {"epoch": epoch, **numbers}
        self.last = numbers


def _told(points: Sequence[Point], records: Sequence[_Record], epoch: int, epochs: int) -> str:
    values = ", ".join(f"{r.curve[-1]:.4f}" if r.curve and not r.failed else "-" for r in records)
    names = points[0].name if len(points) == 1 else f"{points[0].name} and {len(points) - 1} more"
    return f"{names}: epoch {epoch} of {epochs}, {records[0].metric} {values}"
