"""How much memory will training take? Counted from shapes, before anything is allocated.

The forward pass is traced with its backward pass still to come; what the backward pass needs then
stands there as outputs of the program. A GPT-3 is counted in seconds, on any machine.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax

from lorax.core import _jax
from lorax.core.adapter import Adapter, Base, Delta, unprepared

LAYOUT = ("transpose", "reshape", "squeeze", "copy")
"""Primitives whose result is the same numbers: a product reads them where they are."""

REMAT = ("remat2", "remat", "checkpoint")
"""Primitives of `jax.checkpoint`, by version."""


@dataclasses.dataclass(frozen=True)
class MemoryPlan:
    """Bytes on each device that holds a whole model, while one part of a batch is computed.

    Attributes:
      base: the frozen parameters, in the dtype they are stored in.
      derived: what an adapter computes of them beforehand, PiSSA's factors for instance.
      delta: what learns.
      gradients: of the delta; twice where they are summed over parts of a batch.
      optimizer: its state.
      activations: what the forward pass keeps for the backward pass, logits apart.
      logits: of the head, where they are kept; or of one chunk of tokens.
      recomputed: what the most demanding rematerialised layer takes while it is computed again.
      checkpoint: on disk, for each that is kept: delta and optimizer, never the base.
    """

    base: int
    derived: int
    delta: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    recomputed: int
    checkpoint: int

    @property
    def total(self) -> int:
        """At the height of a step, which is an estimate: compilers fuse, reuse, and copy.

        The logits are gone when the last layer is computed again, so the larger of both counts.
        """
        constant = self.base + self.derived + self.delta + self.gradients + self.optimizer
        return constant + self.activations + max(self.logits, self.recomputed)


def memory_plan(
    loss: Callable[..., Any],
    adapter: Adapter,
    base: Base,
    delta: Delta,
    batch: Any,
    tx: Any,
    *,
    logits: Any = None,
    accumulate: int = 1,
) -> MemoryPlan:
    """What training `delta` beside `base` takes; nothing is computed or allocated.

    Args:
      loss: `loss(delta, base, batch, key) -> (scalar, metrics)`, as `lorax.train.step.make_step`
        takes it.
      adapter: whose delta it is.
      base, delta, batch: arrays, or their shapes (`jax.ShapeDtypeStruct`); the batch is what one
        device computes at once: of one replica, and of one part where gradients are accumulated.
      tx: the optimizer of the delta, an `optax.GradientTransformation`.
      logits: shape of the logits that exist at once, of all tokens or of a chunk; None for none.
      accumulate: parts of a batch.
    """
    prepared = jax.eval_shape(adapter.prepare, base, delta)
    arguments = (delta, prepared, batch, jax.eval_shape(lambda: jax.random.key(0)))
    kept = list(_residuals(loss, arguments))
    heads = [leaf for leaf in kept if logits is not None and _is_logits(leaf, logits)]
    state, trained = _bytes(jax.eval_shape(tx.init, delta)), _bytes(delta)
    plain, derived = unprepared(prepared)
    return MemoryPlan(
        base=_bytes(plain),
        derived=_bytes(derived),
        delta=trained,
        gradients=trained * (2 if accumulate > 1 else 1),
        optimizer=state,
        activations=sum(map(_size, kept)) - sum(map(_size, heads)),
        logits=max(sum(map(_size, heads)), 0 if logits is None else _size(logits)),
        recomputed=_recomputed(loss, arguments),
        checkpoint=trained + state,
    )


def _residuals(loss: Callable[..., Any], arguments: Any) -> Iterator[Any]:
    """Shapes of what the backward pass of `loss` needs beyond its own arguments."""

    def forward(arguments: Any) -> Any:
        delta, *rest = arguments
        _, backward, _ = jax.vjp(lambda delta: loss(delta, *rest), delta, has_aux=True)
        return backward  # a pytree of what it has kept

    program, _ = _jax.trace(forward, arguments)
    known = {id(variable) for variable in program.inputs}
    for eqn in program.jaxpr.eqns:
        if eqn.primitive.name in LAYOUT and id(eqn.invars[0]) in known:
            known.add(id(eqn.outvars[0]))
    for variable in program.outputs:
        if not _jax.is_literal(variable) and id(variable) not in known:
            known.add(id(variable))
            yield variable.aval


def _recomputed(loss: Callable[..., Any], arguments: Any) -> int:
    """Bytes alive at once in the most demanding rematerialised part of value and gradient."""

    def both(arguments: Any) -> Any:
        delta, *rest = arguments
        return jax.grad(lambda delta: loss(delta, *rest), has_aux=True)(delta)

    program, _ = _jax.trace(both, arguments)
    return max(map(_peak, _rematerialised(program)), default=0)


def _rematerialised(program: _jax.Program) -> Iterator[_jax.Program]:
    for eqn in program.jaxpr.eqns:
        for inner in _jax.programs(eqn):
            if eqn.primitive.name in REMAT:
                yield inner
            else:
                yield from _rematerialised(inner)


def _peak(program: _jax.Program) -> int:
    """The most bytes of results alive at once, when each is dropped after its last use."""
    uses, alive, most = _jax.last_uses(program.jaxpr), 0, 0
    ends: dict[int, int] = {}
    for number, eqn in enumerate(program.jaxpr.eqns):
        made = sum(_size(out.aval) for out in eqn.outvars)
        inside = max(map(_peak, _jax.programs(eqn)), default=0)
        most = max(most, alive + max(made, inside))
        alive += made
        for out in eqn.outvars:
            end = uses.get(out, number)
            ends[end] = ends.get(end, 0) + _size(out.aval)
        alive -= ends.pop(number, 0)
    return most


def _is_logits(leaf: Any, logits: Any) -> bool:
    same = math.prod(leaf.shape) == math.prod(logits.shape)
    return same and leaf.shape[-1:] == logits.shape[-1:]


def _bytes(tree: Any) -> int:
    return sum(map(_size, jax.tree.leaves(tree)))


def _size(leaf: Any) -> int:
    return math.prod(leaf.shape) * leaf.dtype.itemsize
