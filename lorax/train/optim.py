"""Which optimizer? AdamW on the delta, clipped, a rate of its own for every B; what settles it."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lorax.core._jax import is_traced
from lorax.core.adapter import Adapter
from lorax.core.errors import LoraxError
from lorax.core.leaf import Factors


def adamw(
    learning_rate: optax.ScalarOrSchedule,
    weight_decay: float = 0.0,
    clip: float | None = 1.0,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    loraplus: float = 1.0,
) -> optax.GradientTransformation:
    """AdamW, gradients first clipped to a global norm of `clip` unless that is None or 0.

    For a delta of n bytes its state takes 2 n bytes and one or two int32 counts. All numbers but
    `clip` may be traced, so that runs which differ in them can be one program under `jax.vmap`.

    Args:
      learning_rate: a number, or a schedule such as that of `lorax.train.schedules.schedule`.
      weight_decay: an update takes away `learning_rate · weight_decay` of each number.
      clip: of the whole delta's gradient at once.
      b1, b2: decay of the two moments.
      eps: beside the root of the second moment.
      loraplus: rate of every B over the rate of everything else, A and whole leaves; weight decay
        follows the rate. 1.0 is plain AdamW bit for bit, LoRA+ shows 20.

    Raises:
      LoraxError: a number out of its range.

    Source: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", arXiv:1711.05101;
      Hayou et al., "LoRA+", arXiv:2402.12354.
    """
    if not callable(learning_rate):
        _check("learning rate", learning_rate, above=0)
    _check("weight_decay", weight_decay, least=0)
    _check("clip", clip or 0, least=0)
    for name, value in (("b1", b1), ("b2", b2)):
        _check(name, value, least=0, below=1)
    _check("eps", eps, least=0)
    _check("loraplus", loraplus, above=0)
    return optax.chain(
        *([optax.clip_by_global_norm(clip)] if clip else []),
        optax.adamw(learning_rate, b1, b2, eps, weight_decay=weight_decay),
        # an update is proportional to the rate, so a factor on it is a rate, without a second state
        optax.stateless(lambda updates, _: _times_for_b(updates, loraplus)),
    )


class Settled(NamedTuple):
    """The state of `settled`: that of the optimizer, the method's memory, and the updates made."""

    inner: Any
    memory: Any
    done: jax.Array


def settled(
    tx: optax.GradientTransformation, adapter: Adapter, steps: int
) -> optax.GradientTransformation:
    """`tx`, after each of whose updates the method of `adapter` has its word.

    Args:
      tx: of a delta of `adapter`; a whole optimizer, learning rate included.
      adapter: what its `watch` remembers becomes a part of the state.
      steps: updates of the run.

    Returns:
      `tx` itself for a method that remembers nothing, as most do.
    """

    def init(delta: Any) -> Any:
        memory = adapter.watch(delta)
        inner = tx.init(delta)
        return inner if memory is None else Settled(inner, memory, jnp.zeros((), jnp.int32))

    def update(grads: Any, state: Any, delta: Any = None) -> tuple[Any, Any]:
        if not isinstance(state, Settled):
            return tx.update(grads, state, delta)
        updates, inner = tx.update(grads, state.inner, delta)
        moved = optax.apply_updates(delta, updates)
        final, memory = adapter.settle(moved, delta, grads, state.memory, state.done, steps)
        # what is set to zero must become it exactly: x + (0 - x) does
        updates = jax.tree.map(
            lambda u, old, new, want: jnp.where(new == want, u, want - old),
            updates, delta, moved, final,
        )  # fmt: skip
        return updates, Settled(inner, memory, optax.safe_increment(state.done))

    return optax.GradientTransformation(init, update)


def _times_for_b(updates: Any, factor: Any) -> Any:
    """`updates` with every B of a `Factors`, wherever it lies, times `factor`."""

    def one(node: Any) -> Any:
        if not isinstance(node, Factors):
            return node
        return dataclasses.replace(node, B=(node.B * factor).astype(node.B.dtype))

    return jax.tree.map(one, updates, is_leaf=lambda node: isinstance(node, Factors))


def _check(
    name: str,
    value: Any,
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    below: float = math.inf,
) -> None:
    """Raises LoraxError for a number out of its range; a traced one is not known yet."""
    if is_traced(value) or (least <= value < below and value > above):
        return
    low = f"a number above {above}" if least == -math.inf else f"a number of at least {least}"
    high = "" if below == math.inf else f" and below {below}"
    raise LoraxError(f"{name} is {value}: expected {low}{high}; change {name}")
