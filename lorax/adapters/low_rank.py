"""What can be said of an update A B without forming it? Its factors, sums, singular values."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from lorax.adapters.lora import LoRA
from lorax.core.adapter import Delta
from lorax.core.errors import LoraxError
from lorax.core.leaf import Factors, LowRank


def plain_leaves(adapter: LoRA, delta: Delta, base: Any = None) -> dict[str, LowRank]:
    """Every leaf of `delta` as factors and a scale alone: ΔW = scale · A B, no offset, no dropout.

    Those of PiSSA and OLoRA become factors of twice the rank, see `plain`.

    Raises:
      LoraxError: the adapter starts from the base and `base` is None.
    """
    offsets = adapter.derive(base, delta) if base is not None else None
    if base is None and adapter.starts_from_base:
        raise LoraxError(
            f"initializer='{adapter.initializer}' counts its factors from the base: pass base="
        )
    found = {}
    for path, factors in delta.items():
        leaf = LowRank(factors, adapter.scale_of(path), (offsets or {}).get(path))
        found[path] = LowRank(plain(path, leaf), leaf.scale)
    return found


def plain(path: str, leaf: LowRank) -> Factors:
    """Factors whose product is the whole update of `leaf` but for its scale.

    With an offset, (A0 + A) (B0 + B) - A0 B0, they are A' = [A, A0 + A] and B' = [B0; B]: zero for
    a delta of zeros, however A0 and B0 were rounded.
    """
    factors, start = leaf.factors, leaf.offset
    if start is None:
        return factors
    old = Factors(factors.A, start.B, factors.roles)
    new = Factors(start.A + factors.A, factors.B, factors.roles)
    return side_by_side(path, [old, new])


@functools.partial(jax.jit, static_argnames="rank")
def truncate(factors: Factors, rank: int) -> tuple[Factors, jax.Array]:
    """The best approximation of A B with `rank`, and the relative Frobenius norm of what is lost.

    One matrix of a stack at a time; the second result is over all of them together. Costs
    O((in + out) R²) for factors of rank R: the product is never formed (Eckart and Young, 1936).
    A `rank` above the smaller side of the matrices is that side.
    """
    left, values, right = singular_factors(factors)
    rank = min(rank, values.shape[1])
    root = jnp.sqrt(values[:, :rank])
    a, b = left[:, :, :rank] * root[:, None, :], root[:, :, None] * right[:, :rank]
    whole = jnp.sqrt(jnp.sum(values**2))
    lost = jnp.sqrt(jnp.sum(values[:, rank:] ** 2)) / jnp.where(whole > 0, whole, 1.0)
    a_shape, b_shape = (*factors.A.shape[:-1], rank), list(factors.B.shape)
    b_shape[len(factors.roles.stack)] = rank
    dtype = factors.A.dtype
    return Factors(
        a.reshape(a_shape).astype(dtype), b.reshape(b_shape).astype(dtype), factors.roles
    ), lost


def singular_factors(factors: Factors) -> tuple[jax.Array, jax.Array, jax.Array]:
    """U (n, in, R), the singular values (n, R), and Vᵀ (n, R, out) of every matrix A B.

    n matrices are stacked (1 if none), R is the smallest of rank, in and out; values are in
    descending order. In float32 at least.
    """
    a, b = matrices(factors)
    q_a, r_a = jnp.linalg.qr(a)
    q_b, r_b = jnp.linalg.qr(jnp.swapaxes(b, 1, 2))
    u, values, vt = jnp.linalg.svd(r_a @ jnp.swapaxes(r_b, 1, 2), full_matrices=False)
    return q_a @ u, values, vt @ jnp.swapaxes(q_b, 1, 2)


def matrices(factors: Factors) -> tuple[jax.Array, jax.Array]:
    """A as (n, in, r) and B as (n, r, out), in float32 at least."""
    stacked = len(factors.roles.stack)
    wide = jnp.promote_types(factors.A.dtype, jnp.float32)
    count = math.prod(factors.A.shape[:stacked])
    a = jnp.asarray(factors.A, wide).reshape(count, -1, factors.rank)
    return a, jnp.asarray(factors.B, wide).reshape(count, factors.rank, -1)


def side_by_side(path: str, parts: Sequence[Factors]) -> Factors:
    """[A₁, A₂, …] and [B₁; B₂; …]: the sum of the products.

    Raises:
      LoraxError: they are not of one matrix.
    """
    check_alike(path, parts)
    roles = parts[0].roles
    a = jnp.concatenate([part.A for part in parts], axis=-1)
    return Factors(a, jnp.concatenate([part.B for part in parts], axis=len(roles.stack)), roles)


def check_alike(path: str, parts: Sequence[Factors]) -> None:
    """Raises LoraxError unless the products have one shape and one meaning of its axes."""
    if len({(part.roles, *sides(part)) for part in parts}) > 1:
        raise LoraxError(
            f"'{path}' has another shape or other roles in two of the adapters: expected adapters "
            "of one model"
        )


def sides(factors: Factors) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shapes of A and of B without their common axis."""
    axis, shape = len(factors.roles.stack), tuple(factors.B.shape)
    return tuple(factors.A.shape[:-1]), (*shape[:axis], *shape[axis + 1 :])
