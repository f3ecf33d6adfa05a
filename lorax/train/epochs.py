"""How does one train on data that lies in memory? An epoch is one program, of one unit or many.

A step of a small model costs less than handing it a batch. Here the device holds all examples, and
a scan over their order takes the batches out of them: nothing is dispatched within an epoch.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lorax.core.errors import LoraxError
from lorax.train.gradients import Base, Delta, Loss
from lorax.train.packed import Numbers, Optimizer, unit_update
from lorax.train.step import State

Epoch = Callable[[State, Numbers, Base, Any, jax.Array], tuple[State, jax.Array, jax.Array]]


def make_epoch(
    loss: Loss,
    optimizer: Optimizer,
    complete: Callable[[Delta, Numbers], Any] | None = None,
    *,
    width: int = 0,
    accumulate: int = 1,
    by_step: bool = False,
) -> Epoch:
    """One compiled epoch of every unit of a pack, step for step what `make_step` does of each.

    Args:
      loss, optimizer, complete, accumulate: as for `lorax.train.packed.make_packed_step`.
      width: units side by side; the others come after them, each through the whole epoch. A divisor
        of the units; 0 for all at once.
      by_step: every step is a program of its own. XLA's CPU backend takes four times as long for a
        convolution inside a loop (measured on LeNet, jax 0.10.2), so there that is the faster way.

    Returns:
      `epoch(states, numbers, base, data, order) -> (states, losses, finite)`, jitted, the states
      donated. States and numbers have a leading axis of units; `data` is a batch of all examples,
      (N, ...) each; `order` (steps, B) says which make up the batch of each step, the same for all
      units. `losses` (units,) are means over the steps; `finite` (units,) is false for a unit that
      was not finite at some step and has stood still there.

    Raises:
      LoraxError: when called, a width that does not divide the units.
    """
    update = unit_update(loss, optimizer, complete, accumulate)
    beside = _beside(jax.vmap(update, in_axes=(0, 0, 0, None, None)), update)

    def step(
        states: State, numbers: Numbers, base: Base, data: Any, rows: jax.Array
    ) -> tuple[State, jax.Array]:
        active = jnp.ones(states.step.shape, bool)
        batch = jax.tree.map(lambda x: x[rows], data)
        new, metrics = beside(states, numbers, active, batch, base)
        return new, jnp.stack([metrics["loss"], new.step > states.step])

    def group(
        states: State, numbers: Numbers, base: Base, data: Any, order: jax.Array
    ) -> tuple[State, jax.Array, jax.Array]:
        one = lambda states, rows: step(states, numbers, base, data, rows)
        return _told(*jax.lax.scan(one, states, order))

    if by_step:
        return _by_step(step, width)

    def epoch(
        states: State, numbers: Numbers, base: Base, data: Any, order: jax.Array
    ) -> tuple[State, jax.Array, jax.Array]:
        units = states.step.shape[0]
        if width in (0, units):
            return group(states, numbers, base, data, order)
        _check(width, units)
        parts = jax.tree.map(lambda x: x.reshape(-1, width, *x.shape[1:]), (states, numbers))
        results = jax.lax.map(lambda part: group(part[0], part[1], base, data, order), parts)
        return jax.tree.map(lambda x: x.reshape(units, *x.shape[2:]), results)

    return jax.jit(epoch, donate_argnums=0)


def _beside(many: Callable[..., Any], one: Callable[..., Any]) -> Callable[..., Any]:
    """Units side by side; one alone without `vmap`, which makes grouped ones of convolutions."""

    def update(states: State, numbers: Numbers, active: jax.Array, batch: Any, base: Base) -> Any:
        if active.shape[0] > 1:
            return many(states, numbers, active, batch, base)
        own = jax.tree.map(lambda x: x[0], (states, numbers, active))
        return jax.tree.map(lambda x: x[None], one(*own, batch, base))

    return update


def _told(states: State, found: jax.Array) -> tuple[State, jax.Array, jax.Array]:
    """Of (steps, 2, units): mean losses, and whether all was finite."""
    return states, found[:, 0].mean(axis=0), found[:, 1].astype(bool).all(axis=0)


def _by_step(step: Callable[..., Any], width: int) -> Epoch:
    """The same, with a program a step and group of units."""
    step = jax.jit(step, donate_argnums=0)

    def epoch(
        states: State, numbers: Numbers, base: Base, data: Any, order: jax.Array
    ) -> tuple[State, jax.Array, jax.Array]:
        units, ended = states.step.shape[0], []
        _check(width, units)
        for first in range(0, units, width or units):
            part = slice(first, first + (width or units))
            own, given = jax.tree.map(lambda x, part=part: x[part], (states, numbers))
            found = []
            for rows in jnp.asarray(order):
                own, told = step(own, given, base, data, rows)
                found.append(told)
            ended.append(_told(own, jnp.stack(found)))
        return jax.tree.map(lambda *x: jnp.concatenate(x), *ended)

    return epoch


def _check(width: int, units: int) -> None:
    if width and units % width:
        raise LoraxError(f"width is {width} of {units} units: expected one of its divisors")
