"""What is the program of units that differ in numbers alone? One adapter, one loss, one epoch.

They differ in the learning rate, in the projection, which is drawn for each seed and handed over as
arrays, and in d, where θ of the smaller ones ends in zeros that nothing moves. Columns of P do not
depend on d, so that is exactly the unit alone.
"""

import dataclasses
import functools
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

import lorax
from experiments._intrinsic.rows import DIRECT, LORA, SUBSPACE
from experiments._intrinsic.search import Point
from experiments._intrinsic.task import Task
from experiments._train import method
from lorax.core import paths
from lorax.train.epochs import Epoch, make_epoch
from lorax.train.stacks import stack
from lorax.train.step import State, init_state

Compiled = tuple[Epoch, Callable[..., Any]]


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


def compiled(task: Task, study: Mapping[str, Any], adapter: lorax.Adapter, width: int) -> Compiled:
    """An epoch, and the merge, of an adapter; those of one that comes again are kept."""
    if (adapter, width) not in task.compiled:
        optimizer = functools.partial(_optimizer, task)
        loss, complete = _loss(task, study, adapter), complete_for(adapter)
        task.compiled[adapter, width] = (
            make_epoch(
                loss,
                optimizer,
                complete,
                width=width,
                by_step=_convolves(task),
                accumulate=task.config.train.accumulate,
            ),
            jax.jit(functools.partial(_merged, adapter)),
        )
    found: Compiled = task.compiled[adapter, width]
    return found


def _convolves(task: Task) -> bool:
    """Whether the model has convolutions that a CPU would take inside a loop."""
    example = jnp.zeros(task.setting.example.shape, task.setting.example.dtype)
    roles = lorax.roles(task.setting.fn, task.setting.subject.base, example)
    return jax.default_backend() == "cpu" and any(r.kind == "conv" for r in roles.values())


def make_program(task: Task, study: Mapping[str, Any], points: Sequence[Point]) -> Program:
    """The program of points that `packs` puts together: deltas begin, projections are drawn."""
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


def complete_for(adapter: lorax.Adapter) -> Callable[[Any, Any], Any]:
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


def _optimizer(task: Task, numbers: Mapping[str, Any]) -> Any:
    given = {name: numbers[name] for name in ("learning_rate",) if name in numbers}
    fields = types.SimpleNamespace(**task.config.optimizer.to_dict() | given)
    return method.make_optimizer(fields, task.config.train.epochs * task.steps)


def first_states(task: Task, program: Program) -> State:
    """Every unit before its first step, stacked."""
    tx, _ = _optimizer(task, {})
    key = jax.random.key(task.config.seed.dropout)
    return stack([init_state(delta, tx, key) for delta in program.deltas])
