"""How do A and B start? Draws with ΔW = 0, and decompositions of W0.

Formulas are PEFT's, in Flax orientation: A is (stack..., inputs..., r), B (stack..., r,
outputs...). Fan-in is the product of the input axes alone; stack axes only enumerate.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from lorax.core.errors import LoraxError
from lorax.core.leaf import Factors, Roles
from lorax.core.packed import formed

DRAWS = ("kaiming", "gaussian", "orthogonal")
DECOMPOSITIONS = ("pissa", "olora")
INITIALIZERS = DRAWS + DECOMPOSITIONS


def draw(
    name: str, key: jax.Array, path: str, leaf: Any, roles: Roles, rank: int, dtype: Any
) -> Factors:
    """The first factors of one leaf.

    Those of a decomposition are counted from its A0 and B0, so they start at zero.

    A lookup has one-hot inputs, so A starts at zero and B at N(0, 1) there, as PEFT does for
    embeddings: with A random instead, the first gradients of B would shrink with the vocabulary.

    Raises:
      LoraxError: "orthogonal" with an odd rank; a decomposition with a rank above the leaf's.
    """
    a_shape, b_shape = roles.shapes(leaf.shape, rank)
    if name in DECOMPOSITIONS:
        check_rank(f"initializer='{name}'", path, leaf, roles, rank)
        return Factors(jnp.zeros(a_shape, dtype), jnp.zeros(b_shape, dtype), roles)
    if name == "orthogonal":
        return _orthogonal(key, path, a_shape, b_shape, roles, dtype)
    if roles.kind == "gather":
        return Factors(jnp.zeros(a_shape, dtype), jax.random.normal(key, b_shape, dtype), roles)
    if name == "gaussian":
        a = jax.random.normal(key, a_shape, dtype) / rank
    else:
        bound = 1.0 / math.sqrt(roles.matrix(leaf.shape)[1])
        a = jax.random.uniform(key, a_shape, dtype, -bound, bound)
    return Factors(a, jnp.zeros(b_shape, dtype), roles)


def _orthogonal(
    key: jax.Array,
    path: str,
    a_shape: tuple[int, ...],
    b_shape: tuple[int, ...],
    roles: Roles,
    dtype: Any,
) -> Factors:
    """Even directions in A, odd ones in B, so that A B is zero with neither of them zero.

    Any orthogonal Q gives A Q_even and Q_oddᵀ B; with Q a permutation A B is zero exactly, not
    only to rounding, so the adapted model starts at the base bit for bit.
    """
    rank, stacked = a_shape[-1], len(roles.stack)
    if rank % 2:
        raise LoraxError(
            f"initializer='orthogonal' at '{path}' has rank {rank}: expected an even rank; use "
            f"{rank + 1}"
        )
    a_key, b_key = jax.random.split(key)
    even = jnp.arange(rank) % 2 == 0
    odd = ~even.reshape((rank,) + (1,) * (len(b_shape) - stacked - 1))
    a = jnp.where(even, jax.random.normal(a_key, a_shape, dtype) / 10, 0)
    b = jnp.where(odd, jax.random.normal(b_key, b_shape, dtype) / 10, 0)
    return Factors(a, b, roles)


def scaled(factors: Factors, by: float) -> Factors:
    """The random numbers of a draw times `by`; the side that is zero stays zero."""
    if by == 1:
        return factors
    return jax.tree.map(lambda x: x * jnp.asarray(by, x.dtype), factors)


def decomposed(
    name: str, path: str, leaf: Any, roles: Roles, rank: int, scale: Any, dtype: Any
) -> Factors:
    """A0 and B0 from W0, one matrix of the stack at a time; a function of W0 alone, no key.

    "pissa": with U S Vᵀ = W0, A0 = U sqrt(S / scale), B0 = sqrt(S / scale) Vᵀ, first r. "olora":
    with Q R = W0ᵀ, A0 = Rᵀ, B0 = Qᵀ, first r.
    """
    check_rank(f"initializer='{name}'", path, leaf, roles, rank)
    w = matrices(leaf, roles)
    if name == "pissa":
        u, s, vt = jnp.linalg.svd(w, full_matrices=False)
        root = jnp.sqrt(s[:, :rank] / scale)
        a, b = u[:, :, :rank] * root[:, None, :], root[:, :, None] * vt[:, :rank]
    else:
        q, r = jnp.linalg.qr(jnp.swapaxes(w, 1, 2))
        a, b = jnp.swapaxes(r[:, :rank], 1, 2), jnp.swapaxes(q[:, :, :rank], 1, 2)
    a_shape, b_shape = roles.shapes(leaf.shape, rank)
    return Factors(a.reshape(a_shape).astype(dtype), b.reshape(b_shape).astype(dtype), roles)


def matrices(leaf: Any, roles: Roles) -> jax.Array:
    """W0 as a batch (number of stacked, in, out) in float32 or wider; a quantised one is formed."""
    order = (*roles.stack, *roles.inputs, *roles.outputs)
    wide = jnp.promote_types(leaf.dtype, jnp.float32)
    return jnp.transpose(formed(leaf), order).reshape(roles.matrix(leaf.shape)).astype(wide)


def check_rank(wanted_by: str, path: str, leaf: Any, roles: Roles, rank: int) -> None:
    """Raises LoraxError for a rank above the smaller side of the matrix."""
    _, fan_in, fan_out = roles.matrix(leaf.shape)
    if rank > min(fan_in, fan_out):
        raise LoraxError(
            f"{wanted_by} at '{path}' has rank {rank}: expected at most "
            f"{min(fan_in, fan_out)}, the smaller side of {fan_in} × {fan_out}; lower rank"
        )
