"""What does a step in a subspace cost beside a step that trains everything, alone and packed?

The network is 784-200-200-10 on random data of MNIST's shape, batches of 128, Adam at 1e-3 with β2
of 0.99. A timed run is one call of a compiled scan over 50 steps, as a study makes them. "Direct"
is the bare model, all of whose numbers learn.
"""

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lorax
from experiments.benchmarks import _measure as measure
from lorax.models.mlp import MLP
from lorax.train.epochs import make_epoch
from lorax.train.gradients import value_and_grad
from lorax.train.stacks import stack
from lorax.train.step import State, init_state, updated

GATE = 1e-4
"""The largest relative difference of a packed unit's mean loss of its first run from its own."""

KINDS: dict[str, dict[str, Any]] = {
    "sparse": {"projection": "sparse"},
    "sparse_leaf": {"projection": "sparse", "density": "leaf"},
    "fastfood": {"projection": "fastfood"},
    "fastfood_blocks": {"projection": "fastfood", "block": 2**12},
}
"""Fields of the projections that are timed in every round."""

SLOW: dict[str, dict[str, Any]] = {"dense": {"projection": "dense"}}
"""Of those some fifty times as slow, which are timed in `SLOW_ROUNDS` of their own."""

SLOW_ROUNDS = 3

PACKED = ("sparse", "fastfood")
"""Of which several share a program."""


Fields = Mapping[str, Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Shape:
    """Sizes of the work; others than these are for tests.

    Attributes:
      features: of the layers.
      inputs: numbers of an example.
      batch, steps: examples of a step, steps of a run.
      dim: d.
      units: of a pack.
    """

    features: tuple[int, ...] = (200, 200, 10)
    inputs: int = 784
    batch: int = 128
    steps: int = 50
    dim: int = 750
    units: int = 8


class Work:
    """The base, the data and the order of a run."""

    def __init__(self, shape: Shape):
        self.shape = shape
        draw = np.random.default_rng(0)
        count = shape.batch * shape.steps
        self.model = MLP(shape.features)
        self.data = {
            "inputs": jnp.asarray(draw.normal(size=(count, shape.inputs)), jnp.float32),
            "labels": jnp.asarray(draw.integers(0, shape.features[-1], count), jnp.int32),
        }
        self.order = jnp.asarray(draw.permutation(count).reshape(shape.steps, shape.batch))
        self.base = jax.jit(self.model.init)(jax.random.key(0), self.data["inputs"][:1])
        self.tx = optax.adam(1e-3, b2=0.99)

    def adapter(self, **fields: Any) -> lorax.Subspace:
        """A subspace of d numbers."""
        return lorax.Subspace(dim=self.shape.dim, **fields)

    def state(self, delta: Any) -> State:
        """Before the first step."""
        return init_state(delta, self.tx, jax.random.key(0))

    def first(self, adapter: lorax.Subspace) -> Any:
        """The delta that training starts from."""
        return lorax.adapt(self.model.apply, adapter, on_fallback="allow").init(
            jax.random.key(0), self.base, self.data["inputs"][:1]
        )

    def drawn(self, adapter: lorax.Subspace, seed: int = 0) -> Any:
        """P of a seed."""
        return dataclasses.replace(adapter, seed=seed).derive(self.base, None)

    def loss(self, adapter: lorax.Subspace | None) -> Callable[..., Any]:
        """loss((delta, P), base, batch, key), or of all parameters where there is no adapter."""

        def of(logits: jax.Array, labels: jax.Array) -> Any:
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), {}

        if adapter is None:
            apply = self.model.apply
            return lambda params, base, batch, key: of(
                apply(params, batch["inputs"]), batch["labels"]
            )
        adapted = lorax.adapt(self.model.apply, adapter, on_fallback="allow")

        def loss(given: Any, base: Any, batch: Any, key: jax.Array) -> Any:
            delta, projection = given
            prepared = lorax.Prepared(base, projection, adapter)
            return of(adapted(prepared, delta, batch["inputs"]), batch["labels"])

        return loss

    def alone(self, adapter: lorax.Subspace | None) -> Callable[..., Any]:
        """(state, P, base, data, order) -> (state, losses), compiled, the state donated."""
        own = self.loss(adapter)

        def scan(state: State, projection: Any, base: Any, data: Any, order: jax.Array) -> Any:
            def with_it(delta: Any, *rest: Any) -> Any:
                return own(delta if adapter is None else (delta, projection), *rest)

            gradients = value_and_grad(with_it)

            def step(state: State, rows: jax.Array) -> tuple[State, jax.Array]:
                batch = jax.tree.map(lambda x: x[rows], data)
                state, metrics = updated(state, base, batch, gradients, self.tx)
                return state, metrics["loss"]

            return jax.lax.scan(step, state, order)

        return jax.jit(scan, donate_argnums=0)


class Run:
    """One training after another by one program; calling it makes 50 more steps of each."""

    def __init__(self, work: Work, adapter: lorax.Subspace | None, seeds: tuple[int, ...] = (0,)):
        self.work, self.program = work, work.alone(adapter)
        if adapter is None:
            self.projections: list[Any] = [None]
            self.states = [work.state(work.base)]
        else:
            self.projections = [work.drawn(adapter, seed) for seed in seeds]
            self.states = [work.state(work.first(adapter)) for _ in seeds]

    def __call__(self) -> list[jax.Array]:
        """Losses of every step of each."""
        work, losses = self.work, []
        for number, projection in enumerate(self.projections):
            self.states[number], found = self.program(
                self.states[number], projection, work.base, work.data, work.order
            )
            losses.append(found)
        return losses


class Pack:
    """The same trainings in one program, `width` of them side by side."""

    def __init__(self, work: Work, adapter: lorax.Subspace, seeds: tuple[int, ...], width: int):
        self.work = work
        complete = lambda delta, numbers: (delta, numbers["projection"])
        optimizer = lambda numbers: (work.tx, None)
        self.program = make_epoch(work.loss(adapter), optimizer, complete, width=width)
        self.numbers = {"projection": stack([work.drawn(adapter, seed) for seed in seeds])}
        self.states = stack([work.state(work.first(adapter)) for _ in seeds])

    def __call__(self) -> jax.Array:
        """Mean loss of each."""
        work = self.work
        self.states, losses, _ = self.program(
            self.states, self.numbers, work.base, work.data, work.order
        )
        return losses


def compared(
    shape: Shape, rounds: int, kinds: Fields = KINDS, slow: Fields = SLOW
) -> dict[str, Any]:
    """Steps of every projection over the direct step.

    Raises:
      RuntimeError: a first loss is not that of the frozen start.
    """
    work = Work(shape)
    direct = Run(work, None)
    start = float(direct()[0][0])
    over_direct, milliseconds = {}, {}
    for group, count in ((kinds, rounds), (slow, SLOW_ROUNDS)):
        runs = {name: Run(work, work.adapter(**fields)) for name, fields in group.items()}
        for name, run in runs.items():
            value = float(run()[0][0])
            if not abs(value / start - 1) <= GATE:
                raise RuntimeError(f"the first loss is {value} with {name}: expected {start}")
        seconds = measure.interleaved({"direct": direct, **runs}, count)
        over_direct |= {name: measure.ratio(seconds, name, "direct") for name in runs}
        milliseconds = _milliseconds(seconds, shape.steps) | milliseconds
    return {
        "total": sum(leaf.size for leaf in jax.tree.leaves(work.base)),
        "dim": shape.dim,
        "over_direct": over_direct,
        "milliseconds_a_step": milliseconds,
    }


def packed(shape: Shape, rounds: int, names: Sequence[str] = PACKED) -> list[dict[str, Any]]:
    """Several projections of a kind in one program beside each in its own, compiled once."""
    work, seeds, found = Work(shape), tuple(range(shape.units)), []
    for name in names:
        adapter = work.adapter(**KINDS[name])
        runs: dict[str, Callable[[], Any]] = {
            "alone": Run(work, adapter, seeds),
            "side_by_side": Pack(work, adapter, seeds, 0),
            "in_turn": Pack(work, adapter, seeds, 1),
        }
        worst = gate({name: run() for name, run in runs.items()})
        seconds = measure.interleaved(runs, rounds)
        found.append(
            {
                "projection": name,
                "units": shape.units,
                "largest_relative_difference_of_losses": worst,
                "alone_over": {
                    other: measure.ratio(seconds, "alone", other)
                    for other in ("side_by_side", "in_turn")
                },
                "milliseconds_a_step_and_unit": _milliseconds(seconds, shape.steps * shape.units),
            }
        )
    return found


def gate(losses: Mapping[str, Any]) -> float:
    """The largest relative difference of the packed units' mean losses from those alone.

    Raises:
      RuntimeError: it is above `GATE`.
    """
    alone = np.array([float(np.mean(values)) for values in losses["alone"]])
    worst = max(
        float(np.max(np.abs(np.asarray(losses[name]) / alone - 1)))
        for name in ("side_by_side", "in_turn")
    )
    if not worst <= GATE:
        raise RuntimeError(f"packed losses differ from those of the units alone by {worst:.2g}")
    return float(f"{worst:.1e}")


def _milliseconds(seconds: Mapping[str, list[float]], steps: int) -> dict[str, float]:
    return {
        name: round(1e3 * statistics.median(values) / steps, 4) for name, values in seconds.items()
    }
