"""How does LoRA start on a quantised base? From the best rank-r part of what quantising loses.

LoftQ (Li et al., 2023, arXiv 2310.08659): Q = quantised(W - s A B) and A B = the largest singular
values of (W - Q) / s, in turns. The result is an ordinary delta of an ordinary LoRA, on the
quantised base: training starts near W and not near the quantised W.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lorax.adapters.lora import LoRA
from lorax.core import paths
from lorax.core.adapter import Base, Delta, unprepared
from lorax.core.errors import LoraxError, LoraxTypeError
from lorax.core.leaf import Factors, Roles
from lorax.core.packed import formed, is_packed


class LoftQ(NamedTuple):
    """A quantised base and the delta that makes up for it.

    Attributes:
      base: with a quantised leaf wherever `quantize` made one.
      delta: of the LoRA that was given.
      error: by path of the adapted, quantised leaves, ‖W - (Q + s A B)‖ / ‖W‖ in the Frobenius
        norm, all matrices of a stack together.
      plain: the same for quantised(W) alone; never less than `error`.
    """

    base: Base
    delta: Delta
    error: dict[str, float]
    plain: dict[str, float]


def loftq(
    adapter: LoRA,
    base: Base,
    quantize: Callable[[str, Any], Any],
    *,
    iterations: int = 5,
    roles: Mapping[str, Roles] | None = None,
    key: jax.Array | None = None,
) -> LoftQ:
    """The quantised base and the first delta of `adapter` on it, together as near W as can be.

    Of all turns the best is kept, leaf by leaf, so that the error is never more than that of plain
    quantisation. Each turn takes an SVD of every matrix, one at a time.

    Args:
      adapter: a LoRA whose ΔW does not start from the base itself.
      base: the frozen parameters, not quantised.
      quantize: (path, leaf) -> the leaf, quantised or as it is; `lorax.ops.quantize.quantizer`
        makes one. Called for every leaf.
      iterations: turns; the paper takes 5.
      roles: how the program uses each leaf, as for `LoRA.init`.
      key: for adapted leaves that `quantize` leaves alone, which start as `LoRA.init` draws them.

    Raises:
      LoraxError: as `LoRA.init`; PiSSA or OLoRA; less than one turn; a base that is quantised
        already; nothing that is both adapted and quantised; or a key is needed.
      LoraxTypeError: no LoRA, or a `quantize` that cannot be called.
    """
    _check(adapter, quantize, iterations)
    base = unprepared(base)[0]
    stored = paths.flatten(base)
    first = adapter.init(jax.random.key(0) if key is None else key, base, roles)
    packed, delta = dict[str, Any](), dict(first)
    error, plain = dict[str, float](), dict[str, float]()
    for path, leaf in stored.items():
        if path in first and is_packed(leaf):
            raise LoraxError(
                f"'{path}' is quantised already: expected the plain base, which tells what "
                "quantising loses; pass it as it was read"
            )
        packed[path] = quantize(path, leaf)
        if path not in first:
            continue
        if is_packed(packed[path]):
            turn = functools.partial(quantize, path)
            found = _alternated(leaf, packed[path], first[path], adapter, path, turn, iterations)
            packed[path], delta[path], error[path], plain[path] = found
        elif key is None:
            raise LoraxError(
                f"'{path}' is adapted and not quantised, so its A is drawn: pass key=, or let "
                "quantize take it too"
            )
    if not error:
        raise LoraxError(
            f"none of the {len(first)} adapted leaves is quantised: expected one at least; widen "
            "the quantiser's where=, or start with adapter.init"
        )
    return LoftQ(paths.replace(base, packed), delta, error, plain)


def _alternated(
    w: jax.Array, packed: Any, first: Factors, adapter: LoRA, path: str,
    quantize: Callable[[Any], Any], iterations: int,
) -> tuple[Any, Factors, float, float]:  # fmt: skip
    """The best of all turns of one leaf: Q, A and B, their error, and that of Q alone."""
    roles, rank = first.roles, first.rank
    scale, size = float(adapter.scale_of(path)), float(jnp.linalg.norm(_matrices(w, roles)))
    far = float(jnp.linalg.norm(_matrices(w, roles) - _matrices(formed(packed), roles)))
    best, plain = (packed, jax.tree.map(jnp.zeros_like, first), far), far
    for turn in range(iterations):
        factors, rest, squared = _fitted(w, formed(packed), scale, roles, rank, first.A.dtype)
        if (distance := float(jnp.sqrt(squared))) < best[2]:
            best = packed, factors, distance
        if turn + 1 < iterations:
            packed = quantize(rest)
    whole = size or 1.0
    return best[0], best[1], best[2] / whole, plain / whole


@functools.partial(jax.jit, static_argnames=("roles", "rank", "dtype"))
def _fitted(
    w: jax.Array, quantised: jax.Array, scale: jax.Array, roles: Roles, rank: int, dtype: Any
) -> tuple[Factors, jax.Array, jax.Array]:
    """A and B of the largest singular values of W - Q; W - s A B as the leaf; ‖W - Q - s A B‖²."""

    def one(pair: tuple[jax.Array, jax.Array]) -> Any:
        w, q = pair
        u, values, vt = jnp.linalg.svd(w - q, full_matrices=False)
        root = jnp.sqrt(values[:rank] / scale)
        a, b = (u[:, :rank] * root).astype(dtype), (root[:, None] * vt[:rank]).astype(dtype)
        exact = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
        rest = w - scale * exact(a.astype(w.dtype), b.astype(w.dtype))
        return a, b, rest, jnp.sum((rest - q) ** 2)

    a, b, rest, squared = jax.lax.map(one, (_matrices(w, roles), _matrices(quantised, roles)))
    short = rank - a.shape[-1]  # a rank above the smaller side has no more directions to fill
    a, b = jnp.pad(a, ((0, 0), (0, 0), (0, short))), jnp.pad(b, ((0, 0), (0, short), (0, 0)))
    a_shape, b_shape = roles.shapes(w.shape, rank)
    order = (*roles.stack, *roles.inputs, *roles.outputs)
    rest = rest.reshape([w.shape[axis] for axis in order])
    rest = jnp.transpose(rest, [order.index(axis) for axis in range(w.ndim)])
    return (
        Factors(a.reshape(a_shape), b.reshape(b_shape), roles),
        rest.astype(w.dtype),
        sum(squared),
    )


def _matrices(leaf: jax.Array, roles: Roles) -> jax.Array:
    """(n, in, out), float32 at least."""
    order = (*roles.stack, *roles.inputs, *roles.outputs)
    wide = jnp.promote_types(leaf.dtype, jnp.float32)
    return jnp.transpose(leaf, order).reshape(roles.matrix(leaf.shape)).astype(wide)


def _check(adapter: Any, quantize: Any, iterations: Any) -> None:
    if not isinstance(adapter, LoRA):
        raise LoraxTypeError(
            f"adapter is a {type(adapter).__name__}: expected a LoRA; of a Chain start the LoRA "
            "member with loftq and the others with init"
        )
    if adapter.starts_from_base:
        raise LoraxError(
            f"initializer='{adapter.initializer}' counts A and B from the base itself: expected "
            "a LoRA of another initializer, such as 'kaiming'"
        )
    if not callable(quantize):
        raise LoraxTypeError(
            f"quantize is {quantize!r}: expected a function of (path, leaf), such as "
            "lorax.ops.quantize.quantizer('nf4')"
        )
    if isinstance(iterations, bool) or not isinstance(iterations, int) or iterations < 1:
        raise LoraxError(f"iterations is {iterations!r}: expected a whole number, 1 or more")
