"""What is a weighted sum of adapters? One LoRA whose ΔW is Σ weight · ΔW, with its error told."""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lorax.adapters.lora import LoRA
from lorax.core.adapter import Chain, Delta
from lorax.core.errors import LoraxError, LoraxTypeError
from lorax.core.leaf import Factors, LowRank

Part = tuple[LoRA, Delta, float]


@dataclasses.dataclass(frozen=True)
class Combined:
    """A sum of adapters as one adapter.

    Attributes:
      adapter: a LoRA with scale 1 at every leaf.
      delta: its factors.
      error: by path, ‖ΔW - Σ weight · ΔW‖ / ‖Σ weight · ΔW‖ in the Frobenius norm, what truncation
        to a rank lost; 0.0 where nothing was cut (rounding, about 1e-7, is not counted).
    """

    adapter: LoRA
    delta: Delta
    error: dict[str, float]


def combine(parts: Sequence[Part], *, rank: int | None = None, base: Any = None) -> Combined:
    """Σ weight · ΔW of several adapters of one model, as one plain LoRA.

    Whole updates are added, never A's to A's and B's to B's, so there are no cross terms. Without
    `rank` the factors are laid side by side, which is exact and has the sum of their ranks; with it
    the sum is cut to its largest singular values, the best approximation of that rank (Eckart and
    Young, 1936), found from the factors without forming a ΔW.

    Args:
      parts: (adapter, delta, weight); a leaf that one adapter leaves alone counts as zero there.
      rank: the most a leaf of the result may have; None keeps all.
      base: the frozen parameters, needed for adapters that start from them (PiSSA, OLoRA).

    Raises:
      LoraxError: no parts, a weight that is not finite, leaves that disagree in shape or roles, or
        a base is needed.
      LoraxTypeError: a part is not (LoRA, delta, number).
    """
    if not parts:
        raise LoraxError("nothing to combine: expected at least one (adapter, delta, weight)")
    if rank is not None and rank < 1:
        raise LoraxError(f"rank is {rank}: expected 1 or more, or None to keep all")
    found: dict[str, list[Factors]] = {}
    if isinstance(parts, tuple) and isinstance(parts[0], LoRA):
        raise LoraxTypeError("parts is one part: expected a list; write [(adapter, delta, weight)]")
    for adapter, delta, weight in (_checked(i, part) for i, part in enumerate(parts)):
        for path, leaf in plain_leaves(adapter, delta, base).items():
            found.setdefault(path, []).append(_weighted(leaf, weight))
    joined = {path: _side_by_side(path, factors) for path, factors in found.items()}
    error = dict.fromkeys(joined, 0.0)
    if rank is not None:
        for path, factors in joined.items():
            if factors.rank > rank:
                joined[path], lost = truncate(factors, rank)
                error[path] = float(lost)
    where = {re.escape(p): {"rank": f.rank, "alpha": float(f.rank)} for p, f in joined.items()}
    most = max(factors.rank for factors in joined.values())
    return Combined(LoRA(rank=most, alpha=float(most), where=where), joined, error)


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
    return _side_by_side(path, [old, new])


def truncate(factors: Factors, rank: int) -> tuple[Factors, jax.Array]:
    """The best approximation of A B with `rank`, and the relative Frobenius norm of what is lost.

    One matrix of a stack at a time; the second result is over all of them together. Costs
    O((in + out) R²) for factors of rank R: the product is never formed.
    """
    left, values, right = singular_factors(factors)
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


def _checked(number: int, part: Any) -> Part:
    wanted = "expected (adapter, delta, weight)"
    if not isinstance(part, tuple | list):
        raise LoraxTypeError(f"part {number} is a {type(part).__name__}: {wanted}")
    if len(part) == 2:
        raise LoraxTypeError(f"part {number} has no weight: {wanted}; 1.0 adds it as it is")
    if len(part) != 3:
        raise LoraxTypeError(f"part {number} has {len(part)} entries: {wanted}")
    adapter, delta, weight = part
    if isinstance(adapter, Chain):
        raise LoraxTypeError(
            f"part {number} is of a Chain: expected a LoRA; pass its LoRA member and that member's "
            "delta, (chain.members[i], delta[i], weight)"
        )
    if not isinstance(adapter, LoRA):
        raise LoraxTypeError(
            f"part {number} is of a {type(adapter).__name__}: expected a LoRA; other adapters have "
            "no factors to add"
        )
    return adapter, delta, _number(number, weight)


def _number(number: int, weight: Any) -> float:
    if isinstance(weight, str | bytes) or not hasattr(weight, "__float__") or np.ndim(weight):
        raise LoraxTypeError(
            f"part {number} has the weight {' '.join(repr(weight).split())[:60]}: expected a "
            "number, such as 0.5"
        )
    value = float(weight)
    if not math.isfinite(value):
        raise LoraxError(f"part {number} has the weight {value}: expected a finite number")
    return value


def _weighted(leaf: LowRank, weight: float) -> Factors:
    factors = leaf.factors
    return Factors(factors.A, factors.B * (weight * leaf.scale), factors.roles)


def _side_by_side(path: str, parts: list[Factors]) -> Factors:
    """[A₁, A₂, …] and [B₁; B₂; …]: the sum of the products."""
    roles = parts[0].roles
    rank_axis = len(roles.stack)
    shapes = {(part.roles, part.A.shape[:-1], _without(part.B.shape, rank_axis)) for part in parts}
    if len(shapes) > 1:
        raise LoraxError(
            f"'{path}' has another shape or other roles in two of the adapters: expected adapters "
            "of one model"
        )
    a = jnp.concatenate([part.A for part in parts], axis=-1)
    return Factors(a, jnp.concatenate([part.B for part in parts], axis=rank_axis), roles)


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return (*shape[:axis], *shape[axis + 1 :])
