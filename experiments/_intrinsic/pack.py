"""How are units of a study trained? Those of one program together, epoch by epoch.

Units share a program where they differ in numbers alone: in the learning rate, in the projection,
which is drawn for each seed and handed over as arrays, and in d, where θ of the smaller ones ends
in zeros that nothing moves. Columns of P do not depend on d, so that is exactly the unit alone.
"""

import dataclasses
import functools
import math
import time
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

import lorax
from experiments._intrinsic.rows import DIRECT, LORA, SUBSPACE, Row
from experiments._intrinsic.search import Point
from experiments._intrinsic.task import TRAIN, Task
from experiments._train import method
from lorax.core import paths
from lorax.train.epochs import make_epoch
from lorax.train.stacks import stack, take
from lorax.train.step import State, init_state

WIDEN = 1.5
"""d of units side by side differ by at most this factor: each pays for the largest."""

IN_TURN = 4
"""Units of a program that come one after the other: as many are lost where it is stopped."""

Seeds = Mapping[str, int]


def seeds_of(task: Task, study: Mapping[str, Any], point: Point) -> dict[str, int]:
    """{"base", "projection", "data"} of a unit: those in `study.vary` go up with its repeat.

    Direct training, which has no projection, varies the others, and LoRA draws its A from the seed
    that a subspace draws P from.
    """
    config = task.config
    first = {
        "base": config.seed.base,
        "projection": config.adapter.get("seed", 0),
        "data": config.seed.data,
    }
    vary = ("base", "data") if point.method == DIRECT else study["vary"]
    return {name: seed + point.repeat * (name in vary) for name, seed in first.items()}


def packs(
    task: Task, study: Mapping[str, Any], points: Sequence[Point], beside: int
) -> list[list[Point]]:
    """The points in programs, `beside` of them side by side in each, in the order of their d.

    Side by side, units of like d pay together; one after the other, only those of one d do.
    """

    def key(point: Point) -> tuple[Any, ...]:
        seeds = seeds_of(task, study, point)
        return point.method, point.projection, point.rank, seeds["base"], seeds["data"]

    found: list[list[Point]] = []
    groups: dict[tuple[Any, ...], list[Point]] = {}
    for point in points:
        groups.setdefault(key(point), []).append(point)
    for group in groups.values():
        group = sorted(group, key=lambda point: point.dim or 0)
        while group:
            limit = (WIDEN if beside > 1 else 1) * (group[0].dim or 0)
            one = [p for p in group if (p.dim or 0) <= limit][: max(beside, IN_TURN)]
            found.append(one)
            group = [point for point in group if point not in one]
    return found


@dataclasses.dataclass(frozen=True)
class Program:
    """What the units of one pack share.

    Attributes:
      adapter: of all of them, its `dim` the largest.
      base: θ0, prepared where all have one projection.
      deltas: the first of each unit.
      numbers: of every unit, stacked: rate, how many of θ count, projection where they differ.
    """

    adapter: lorax.Adapter
    base: Any
    deltas: Sequence[Any]
    numbers: Mapping[str, Any]


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
    program = _program(task, study, points)
    epochs = task.config.train.epochs
    optimizer = functools.partial(_optimizer, task, epochs * task.steps)
    complete = _complete(program.adapter)
    step = make_epoch(_loss(task, study, program.adapter), optimizer, complete, width=width)
    params = jax.jit(functools.partial(_merged, program.adapter))
    seeds = [seeds_of(task, study, point) for point in points]
    states = _states(task, program)
    records = [_Record(study) for _ in points]
    base = task.base(seeds[0]["base"])
    start = task.numbers(base, "validation", "test")
    for epoch in range(epochs):
        task.stop.check(f"in epoch {epoch + 1} of {points[0].name}")
        order = task.order(seeds[0]["data"], epoch)
        states, losses, finite = step(states, program.numbers, program.base, task.data, order)
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
        numbers = task.numbers(params, "validation", *watched)
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


def _program(task: Task, study: Mapping[str, Any], points: Sequence[Point]) -> Program:
    seeds = [seeds_of(task, study, point) for point in points]
    projections = [own["projection"] for own in seeds]
    base = task.base(seeds[0]["base"])
    rates = {"learning_rate": jnp.array([point.lr for point in points])}
    adapter = _adapter(task, study, points)
    example = jnp.zeros(task.setting.example.shape, task.setting.example.dtype)
    init = lorax.adapt(task.setting.fn, adapter, on_fallback="allow").init
    drawn = {seed: init(jax.random.key(seed), base, example) for seed in set(projections)}
    deltas = [drawn[seed] for seed in projections]
    if not isinstance(adapter, lorax.Subspace):
        return Program(adapter, base, deltas, rates)
    largest = deltas[0]["theta"].size
    sizes = jnp.array([point.dim - adapter.dim + largest for point in points])
    drawn = {
        seed: dataclasses.replace(adapter, seed=seed).derive(base, None)
        for seed in set(projections)
    }
    numbers = rates | {"size": sizes}
    if len(drawn) == 1:  # one copy for all
        prepared = lorax.Prepared(base, *drawn.values(), adapter)
        return Program(adapter, prepared, deltas, numbers)
    numbers["projection"] = stack([drawn[seed] for seed in projections])
    return Program(adapter, base, deltas, numbers)


def _adapter(task: Task, study: Mapping[str, Any], points: Sequence[Point]) -> lorax.Adapter:
    fields, point = task.config.adapter.to_dict(), points[0]
    if point.method == DIRECT:
        return lorax.Full(where=fields["where"], exclude=fields["exclude"])
    if point.method == LORA:
        where = study["lora_where"]
        where = "all-linear" if tuple(where) == ("all-linear",) else tuple(where)
        return lorax.LoRA(rank=point.rank, alpha=float(point.rank), where=where)
    assert point.method == SUBSPACE
    largest = max(point.dim or 0 for point in points)
    return lorax.from_dict(fields | {"dim": largest, "projection": point.projection})


def _complete(adapter: lorax.Adapter) -> Callable[[Any, Any], Any]:
    """From a unit's delta and numbers to the delta whose padding is zero, and its projection."""

    def complete(delta: Any, numbers: Any) -> tuple[Any, Any]:
        if not isinstance(adapter, lorax.Subspace):
            return delta, None
        theta = delta["theta"]
        theta = jnp.where(jnp.arange(theta.size) < numbers["size"], theta, 0)
        return delta | {"theta": theta}, numbers.get("projection")

    return complete


def _with(adapter: lorax.Adapter, base: Any, projection: Any) -> Any:
    return base if projection is None else lorax.Prepared(base, projection, adapter)


def _loss(task: Task, study: Mapping[str, Any], adapter: lorax.Adapter) -> Any:
    """The task's loss of (delta, projection), and L2 on the kernels that the model sees."""
    own, l2 = task.loss(adapter), study["l2"]

    def loss(given: Any, base: Any, batch: Any, key: jax.Array) -> Any:
        delta, projection = given
        base = _with(adapter, base, projection)
        value, metrics = own(delta, base, batch, key)
        if l2:
            leaves = paths.flatten(adapter.merge(base, delta))
            kernels = [leaf for path, leaf in leaves.items() if path.endswith("/kernel")]
            value += l2 * sum(jnp.sum(jnp.square(kernel)) for kernel in kernels)
        return value, metrics

    return loss


def _merged(adapter: lorax.Adapter, given: Any, base: Any) -> Any:
    delta, projection = given
    return adapter.merge(_with(adapter, base, projection), delta)


def _optimizer(task: Task, steps: int, numbers: Any) -> Any:
    fields = task.config.optimizer.to_dict() | {"learning_rate": numbers["learning_rate"]}
    return method.make_optimizer(types.SimpleNamespace(**fields), steps)


def _states(task: Task, program: Program) -> State:
    fields = task.config.optimizer.to_dict()
    tx, _ = method.make_optimizer(types.SimpleNamespace(**fields), task.steps)
    key = jax.random.key(task.config.seed.dropout)
    return stack([init_state(delta, tx, key) for delta in program.deltas])
