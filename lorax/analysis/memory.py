"""How much memory will training take? Counted from shapes, before anything is allocated.

The forward pass is traced with its backward pass still to come; what the backward pass needs then
stands there as outputs of the program. A GPT-3 is counted in seconds, on any machine.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from lorax.analysis.cuts import Value, item_bytes, value_of
from lorax.analysis.walk import Body, Walk
from lorax.core import _jax
from lorax.core.adapter import Adapter, Base, Delta, Prepared, unprepared


@dataclasses.dataclass(frozen=True)
class MemoryPlan:
    """Bytes on each device, while one part of a batch is computed.

    Attributes:
      base: the frozen parameters, in the dtype they are stored in.
      derived: what an adapter computes of them beforehand, PiSSA's factors for instance.
      delta: what learns.
      gradients: of the delta; twice where they are summed over parts of a batch.
      optimizer: its state.
      activations: what the forward pass keeps for the backward pass, logits apart.
      logits: of the head, where they are kept; or of one chunk of tokens.
      recomputed: what the most demanding rematerialised layer takes while it is computed again.
      checkpoint: on disk, for each that is kept: delta and optimizer, never the base. Of all
        devices together.
      gathered: weights that lie cut over devices and are whole while that layer is computed.
      head: the same of what is used outside of layers, beside the logits.
      unread: the part of `base` that a step does not read, for it is trained whole.
      copies: of weights that a loop reads, in 32 bits for 16 and 8 for 4; zero unless `wide`.
      converted: the same of what is kept for the backward pass, which is gone once it is copied.
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
    gathered: int = 0
    head: int = 0
    unread: int = 0
    copies: int = 0
    converted: int = 0

    @property
    def total(self) -> int:
        """At the height of a step, which is an estimate: compilers fuse, reuse, and copy.

        The logits are gone when the last layer is computed again, so the larger of both counts,
        each with the weights that it gathers. In between activations may be converted.
        """
        constant = self.base + self.derived + self.delta + self.gradients + self.optimizer
        layer = self.converted // 2 + self.recomputed + self.gathered
        height = max(self.logits + self.head, self.converted, layer)
        return constant + self.activations + self.copies + height


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
    opt_state: Any = None,
    wide: bool = False,
) -> MemoryPlan:
    """What training `delta` beside `base` takes; nothing is computed or allocated.

    Args:
      loss: `loss(delta, base, batch, key) -> (scalar, metrics)`, as `lorax.train.step.make_step`
        takes it.
      adapter: whose delta it is.
      base, delta, batch: arrays, or their shapes (`jax.ShapeDtypeStruct`). Where they say how they
        lie on a mesh (`sharding`), bytes are those of one device; else the batch is what one device
        computes at once: of one replica, and of one part where gradients are accumulated.
      tx: the optimizer of the delta, an `optax.GradientTransformation`.
      logits: shape of the logits that exist at once, of all tokens or of a chunk, on all devices;
        None for none.
      accumulate: parts of a batch.
      opt_state: shapes of the optimizer's state, with their shardings; None for those of `tx`.
      wide: count as XLA:CPU of jaxlib 0.10 compiles, which has no 16-bit arithmetic. Floats of 16
        bits take 32 while they are worked with, codes of 4 bits 8; what a loop reads slice by slice
        is copied whole before it begins, what it reads whole is gathered before it; of the gathered
        weights of a layer the largest lies there twice, as it came and as it is read.
    """
    prepared = _prepared(adapter, base, delta)
    arguments = (delta, prepared, batch, jax.eval_shape(lambda: jax.random.key(0)))
    opt_state = jax.eval_shape(tx.init, delta) if opt_state is None else opt_state
    kept, rows = _residuals(loss, arguments, wide)
    heads = [size for value, size in kept if logits is not None and _is_logits(value, logits)]
    walk, unread = _backward(loss, arguments, wide)
    bodies = walk.bodies
    layer, top = max(bodies[1:], key=_height, default=Body()), bodies[0]
    trained, (plain, derived) = _bytes(delta), unprepared(prepared)
    stays = _before_parts(arguments, walk) if wide and accumulate > 1 else 0
    return MemoryPlan(
        base=_bytes(plain),
        derived=_bytes(derived),
        delta=trained,
        gradients=trained * (2 if accumulate > 1 else 1),
        optimizer=_bytes(opt_state),
        activations=sum(size for _, size in kept) - sum(heads),
        logits=max(sum(heads), 0 if logits is None else math.ceil(_size(logits) / rows)),
        recomputed=max(layer.rematerialised, top.rematerialised),
        checkpoint=_whole(delta) + _whole(opt_state),
        gathered=_gathered(layer, wide),
        head=_gathered(top, wide) - sum(top.gathered.values()) * bool(stays),
        unread=unread,
        copies=stays + sum(size for key, size in walk.widened.items() if isinstance(key, int)),
        converted=sum(size for key, size in walk.widened.items() if not isinstance(key, int)),
    )


def _prepared(adapter: Adapter, base: Base, delta: Delta) -> Any:
    """Shapes of a base with what the adapter derives; the base lies as it did, that is whole."""
    if unprepared(base)[0] is not base:
        return base
    prepared = jax.eval_shape(adapter.prepare, base, delta)
    known = isinstance(prepared, Prepared)
    return dataclasses.replace(prepared, base=base) if known else base


def _values(arguments: Any) -> list[Value]:
    """Of (delta, base, batch, key): delta and base are weights, the others are computed with."""
    delta, base, batch, key = arguments
    weights = jax.tree.leaves((delta, base))
    found = [value_of(leaf, number) for number, leaf in enumerate(weights)]
    return found + [value_of(leaf) for leaf in jax.tree.leaves((batch, key))]


def _walk(arguments: Any, wide: bool) -> tuple[Walk, int]:
    """A walk on the mesh of the arguments, and over how many devices rows are cut."""
    shardings = [getattr(leaf, "sharding", None) for leaf in jax.tree.leaves(arguments)]
    named = [s.mesh for s in shardings if isinstance(s, jax.sharding.NamedSharding)]
    mesh: dict[str, int] = dict(named[0].shape) if named else {}
    cuts = [value_of(leaf).cut for leaf in jax.tree.leaves(arguments[2])]
    rows = next((cut[0] for cut in cuts if cut), ())
    return Walk(mesh, rows, wide), math.prod(mesh[name] for name in rows)


def _residuals(
    loss: Callable[..., Any], arguments: Any, wide: bool
) -> tuple[list[tuple[Value, int]], int]:
    """What the backward pass of `loss` needs beyond its own arguments, with its bytes on a device;
    and over how many devices rows are cut."""

    def forward(arguments: Any) -> Any:
        delta, *rest = arguments
        _, backward, _ = jax.vjp(lambda delta: loss(delta, *rest), delta, has_aux=True)
        return backward  # a pytree of what it has kept

    program, _ = _jax.trace(forward, arguments)
    walk, rows = _walk(arguments, wide)
    values = walk.run(program, _values(arguments))
    found = {
        id(variable): (value, walk.bytes(value, stored=True))
        for variable, value in zip(program.outputs, values, strict=True)
        if not _jax.is_literal(variable) and not value.kept
    }
    return list(found.values()), rows


def _backward(loss: Callable[..., Any], arguments: Any, wide: bool) -> tuple[Walk, int]:
    """A walk through value and gradient; and the bytes of the base that neither reads."""

    def both(arguments: Any) -> Any:
        delta, *rest = arguments
        return jax.grad(lambda delta: loss(delta, *rest), has_aux=True)(delta)

    program, _ = _jax.trace(both, arguments)
    walk, _ = _walk(arguments, wide)
    values = _values(arguments)
    walk.run(program, values)
    uses, trained = _jax.last_uses(program.jaxpr), len(jax.tree.leaves(arguments[0]))
    frozen = range(trained, trained + len(jax.tree.leaves(arguments[1])))
    unread = [values[i] for i in frozen if program.inputs[i] not in uses]
    return walk, sum(walk.bytes(value, stored=True) for value in unread)


def _before_parts(arguments: Any, walk: Walk) -> int:
    """Bytes of weights outside of layers that the loop over the parts of a batch finds ready: in 32
    bits, and gathered where they have to be."""
    top = walk.bodies[0].gathered
    copied = [
        dataclasses.replace(value, kept=False)
        for value in _values(arguments)
        if value.leaf is not None and value.leaf not in {*top, *walk.widened}
    ]
    short = [value for value in copied if value.dtype in (jnp.bfloat16, jnp.float16)]
    return sum(top.values()) + sum(map(walk.bytes, short))


def _height(body: Body) -> int:
    return body.rematerialised + sum(body.gathered.values())


def _gathered(body: Body, wide: bool) -> int:
    return sum(body.gathered.values()) + wide * max(body.gathered.values(), default=0)


def _is_logits(value: Value, logits: Any) -> bool:
    same = math.prod(value.shape) == math.prod(logits.shape)
    return same and value.shape[-1:] == logits.shape[-1:]


def _bytes(tree: Any) -> int:
    """On one device."""
    return sum(map(_on_device, jax.tree.leaves(tree)))


def _on_device(leaf: Any) -> int:
    sharding = getattr(leaf, "sharding", None)
    shape: Sequence[int] = leaf.shape if sharding is None else sharding.shard_shape(leaf.shape)
    return math.ceil(math.prod(shape) * item_bytes(leaf.dtype))


def _whole(tree: Any) -> int:
    return sum(map(_size, jax.tree.leaves(tree)))


def _size(leaf: Any) -> int:
    return math.ceil(math.prod(leaf.shape) * item_bytes(leaf.dtype))
