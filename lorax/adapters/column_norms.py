"""How long are the columns of W0 + s A B? Their squared norms without forming A B.

‖W + s A B‖² = ‖W‖² + 2 s ⟨W, A B⟩ + s² ‖A B‖², column by column: ⟨W, A B⟩ is the sum over the rank
of (Aᵀ W) * B, and ‖A B‖² that of ((Aᵀ A) B) * B. Nothing is larger than a factor.
"""

import jax
import jax.numpy as jnp
from jax import lax

from lorax.core.contract import contract
from lorax.core.implicit import RANK
from lorax.core.leaf import Factors, LowRank, Roles
from lorax.core.packed import formed, is_packed

_EXACT = lax.Precision.HIGHEST


def squares(w: jax.Array, roles: Roles) -> jax.Array:
    """‖W‖² of every column, (stack..., outputs...) in float32 or wider.

    A column is what one output sums: all input axes of the leaf.
    """
    wide = jnp.promote_types(w.dtype, jnp.float32)
    if is_packed(w) and roles.stack == (0,):
        return lax.map(lambda one: squares(formed(one), _below(roles)), w)
    total = jnp.sum(jnp.square(formed(w).astype(wide)), axis=roles.inputs)
    return jnp.transpose(total, _order(roles))


def moved_squares(own: jax.Array, w: jax.Array, update: LowRank) -> jax.Array:
    """‖W + s A B‖² of every column, as `squares`, of which `own` is the result.

    Where B is zero they are exactly `own`.
    """
    wide = own.dtype
    b = update.factors.B.astype(wide)
    scale = jnp.asarray(update.scale, wide)
    axis = len(update.factors.roles.stack)
    with_w = jnp.sum(_projected(w, update.factors, wide) * b, axis=axis)
    with_self = jnp.sum(_gram(update.factors, wide) * b, axis=axis)
    return own + 2 * scale * with_w + scale**2 * with_self


def _projected(w: jax.Array, factors: Factors, wide: jnp.dtype) -> jax.Array:
    """Aᵀ W, (stack..., rank, outputs...)."""
    roles = factors.roles
    if is_packed(w) and roles.stack == (0,):  # one layer of codes at a time
        below = _below(roles)
        one = lambda pair: _projected(formed(pair[0]), Factors(pair[1], pair[2], below), wide)
        return lax.map(one, (w, factors.A, factors.B))
    w = formed(w)
    # a 16-bit W is multiplied as it is: the term is small beside ‖W‖², and W is not copied
    a = factors.A.astype(w.dtype if w.dtype.itemsize == 2 else wide)
    a_axes = (*roles.stack, *roles.inputs, RANK)
    out = (*roles.stack, RANK, *roles.outputs)
    return contract(a, a_axes, w, tuple(range(w.ndim)), out, precision=_EXACT, dtype=wide)


def _gram(factors: Factors, wide: jnp.dtype) -> jax.Array:
    """(Aᵀ A) B, (stack..., rank, outputs...)."""
    roles, other = factors.roles, "other rank"
    a, b = factors.A.astype(wide), factors.B.astype(wide)
    axes = (*roles.stack, *roles.inputs)
    square = contract(
        a, (*axes, other), a, (*axes, RANK), (*roles.stack, other, RANK), precision=_EXACT
    )
    return contract(
        square, (*roles.stack, other, RANK), b, (*roles.stack, RANK, *roles.outputs),
        (*roles.stack, other, *roles.outputs), precision=_EXACT,
    )  # fmt: skip


def _order(roles: Roles) -> list[int]:
    """Where the axes (stack..., outputs...) are once the inputs are summed away."""
    kept = sorted((*roles.stack, *roles.outputs))
    return [kept.index(axis) for axis in (*roles.stack, *roles.outputs)]


def _below(roles: Roles) -> Roles:
    """The roles of one layer of a leaf that is stacked along its first axis."""
    less = lambda axes: tuple(axis - 1 for axis in axes)
    return Roles((), less(roles.inputs), less(roles.outputs))
