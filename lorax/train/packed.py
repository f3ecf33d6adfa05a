"""How are many units trained as one program? Side by side over one base, or in turn inside it.

A unit is one training of a sweep. Units of a pack differ in their state, in numbers that are traced
(rates, decay, scales) and in their batches; the base is the same, an argument that is never copied.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lorax.core.errors import LoraxError
from lorax.train.gradients import Base, Delta, Loss, Metrics, value_and_grad
from lorax.train.step import Schedule, State, updated

Numbers = Any
PackedStep = Callable[[State, Numbers, Any, Base, Any], tuple[State, Metrics]]
Optimizer = Callable[[Numbers], tuple[optax.GradientTransformation, Schedule | None]]


def make_packed_step(
    loss: Loss,
    optimizer: Optimizer,
    complete: Callable[[Delta, Numbers], Any] | None = None,
    *,
    width: int = 0,
    accumulate: int = 1,
) -> PackedStep:
    """One compiled update of every unit of a pack, equal to `make_step` of each of them.

    Args:
      loss: as for `make_step`; its delta is what `complete` returns.
      optimizer: from the numbers of a unit to its optimizer, and to the schedule inside, if any.
      complete: from a delta and the numbers of its unit to what `loss` takes, such as a
        `PaddedDelta`; None for a loss that takes the delta itself.
      width: units side by side, in one vmap; the others of the pack come after them, inside the
        same program (`lax.map`). A divisor of the units; 0 for all at once. Below the number of
        rows that fills the device side by side is faster, above it in turn.
      accumulate: as for `make_step`.

    Returns:
      `step(states, numbers, active, base, batches) -> (states, metrics)`, jitted, the states
      donated. All but the base have a leading axis of units; `active` (units,) is false for those
      that stay as they are. So does a unit whose loss or gradient is not finite, which its metrics
      tell; its neighbours are not touched. `metrics` are those of `make_step`, (units,) each.

    Raises:
      LoraxError: when called, a width that does not divide the units.
    """

    one = unit_update(loss, optimizer, complete, accumulate)

    def step(
        states: State, numbers: Numbers, active: jax.Array, base: Base, batches: Any
    ) -> tuple[State, Metrics]:
        units = active.shape[0]
        beside = jax.vmap(one, in_axes=(0, 0, 0, 0, None))
        if width in (0, units):
            return beside(states, numbers, active, batches, base)
        if units % width:
            raise LoraxError(f"width is {width} of {units} units: expected one of its divisors")
        parts = (states, numbers, active, batches)
        groups = jax.tree.map(lambda x: x.reshape(-1, width, *x.shape[1:]), parts)
        results = jax.lax.map(lambda part: beside(part[0], part[1], part[2], part[3], base), groups)
        return jax.tree.map(lambda x: x.reshape(units, *x.shape[2:]), results)

    return jax.jit(step, donate_argnums=0)


def unit_update(
    loss: Loss,
    optimizer: Optimizer,
    complete: Callable[[Delta, Numbers], Any] | None = None,
    accumulate: int = 1,
) -> Callable[[State, Numbers, jax.Array, Any, Base], tuple[State, Metrics]]:
    """One update of one unit, for use under `jax.vmap` inside another program.

    Args:
      loss, optimizer, complete, accumulate: as for `make_packed_step`.

    Returns:
      `update(state, numbers, active, batch, base) -> (state, metrics)`; the state is the one that
      came in where the unit is not active, or its loss or gradient is not finite.
    """

    def one(
        state: State, numbers: Numbers, active: jax.Array, batch: Any, base: Base
    ) -> tuple[State, Metrics]:
        tx, rate = optimizer(numbers)

        def own(delta: Delta, base: Base, batch: Any, key: jax.Array) -> Any:
            return loss(delta if complete is None else complete(delta, numbers), base, batch, key)

        new, metrics = updated(state, base, batch, value_and_grad(own, accumulate), tx, rate)
        keep = active & jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["l2_grads"])
        return _chosen(keep, new, state), metrics

    return one


def _chosen(keep: jax.Array, new: State, old: State) -> State:
    """`new` where it is to be kept; the key of a unit never changes."""
    choose = lambda new, old: jax.tree.map(lambda a, b: jnp.where(keep, a, b), new, old)
    delta, opt_state = choose(new.delta, old.delta), choose(new.opt_state, old.opt_state)
    return State(delta, opt_state, choose(new.step, old.step), old.key)
