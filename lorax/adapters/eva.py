"""Where does LoRA start, if it knows what its layers see? EVA: along their inputs.

Paischer et al., "One Initialization to Rule them All: Fine-tuning via Explained Variance
Adaptation", 2024, arXiv:2410.07170.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lorax.adapters.lora import LoRA
from lorax.core import paths
from lorax.core.adapter import Base, Delta, unprepared
from lorax.core.errors import LoraxError, LoraxTypeError
from lorax.core.inputs import Moments, second_moments
from lorax.core.leaf import Factors, Roles
from lorax.core.roles import roles as roles_of

_MORE = 8  # directions beyond those that are kept, so that the last of these converge as well


@dataclasses.dataclass(frozen=True)
class Explained:
    """A LoRA that starts along the inputs of its leaves.

    Attributes:
      adapter: with the rank and alpha of each leaf, whose scale is that of the LoRA it came from.
      delta: A holds orthonormal directions, those of most variance first; B is zero.
      shares: by path, what part of Σ‖x‖² lies along each direction that was looked at, descending;
        the mean over the matrices of a stack.
    """

    adapter: LoRA
    delta: Delta
    shares: dict[str, jax.Array]


def eva(
    fn: Any,
    adapter: LoRA,
    key: jax.Array,
    base: Base,
    batches: Iterable[Any],
    *,
    rho: float = 1.0,
    passes: int = 3,
) -> Explained:
    """A first delta whose A are the top right singular vectors of what each leaf is fed.

    The directions are found by subspace iteration on the inputs, each pass over all batches once:
    nothing larger than (in, rho · r + 8) is kept of a matrix. Inputs are not centred, and count
    alike, so give batches without padding.

    Args:
      fn: of (params, batch).
      adapter: whose `where`, rank and scale are taken; its initializer is not.
      key: of the first directions.
      base: the frozen parameters.
      batches: of inputs, which are kept and read `passes` times.
      rho: 1.0 leaves every rank as it is. Above it ranks are dealt out anew, to those directions
        that explain most, whatever leaf they are of: at most rho · r to a leaf and at least one,
        no more in all matrices together than before; a stack has one rank.
      passes: over the batches.

    Returns:
      `Explained`; its adapter and delta are an ordinary LoRA.

    Raises:
      LoraxError: no batch, rho below 1, or a leaf that no dot product contracts.
      LoraxTypeError: another adapter than a LoRA, or one array for batches.
    """
    if not isinstance(adapter, LoRA):
        raise LoraxTypeError(
            f"adapter is a {type(adapter).__name__}: expected a LoRA; of a Chain start the LoRA "
            "member with eva, and the others with init"
        )
    if paths.is_array(batches):
        raise LoraxTypeError(
            f"batches is one array, {tuple(getattr(batches, 'shape', ()))}: expected several "
            "inputs; write [batch]"
        )
    if rho < 1 or passes < 1:
        raise LoraxError(f"rho is {rho} and passes {passes}: expected at least 1 of both")
    base, _ = unprepared(base)
    kept = list(batches)
    if not kept:
        raise LoraxError("batches is empty: expected some inputs, as those of training are")
    roles = roles_of(fn, base, kept[0])
    first = adapter.init(key, base, roles)
    own = {path: pair.roles for path, pair in first.items()}
    along = {
        path: _start(paths.key_for(key, path), pair.A.shape, pair.roles, math.ceil(rho * pair.rank))
        for path, pair in first.items()
    }
    moments = jax.jit(lambda base, along, batch: _tree(second_moments(fn, base, along, own, batch)))
    whole = functools.partial(jax.tree.map, jnp.add)
    read = lambda along: functools.reduce(whole, (moments(base, along, batch) for batch in kept))
    found = read(along)
    for _ in range(passes - 1):
        along = {path: _orthonormal(found[path][0], own[path]) for path in own}
        found = read(along)
    ritz = {path: _ritz(along[path], found[path][0], found[path][1], own[path]) for path in own}
    shares = {path: share for path, (_, share) in ritz.items()}
    ranks = {path: pair.rank for path, pair in first.items()}
    if rho > 1:
        ranks = _dealt(shares, ranks, {path: _count(first[path]) for path in first}, rho)
    return _explained(adapter, first, {path: q for path, (q, _) in ritz.items()}, shares, ranks)


def _tree(found: Mapping[str, Moments]) -> dict[str, tuple[jax.Array, jax.Array]]:
    return {path: (one.along, one.squares) for path, one in found.items()}


def _start(key: jax.Array, shape: tuple[int, ...], roles: Roles, rank: int) -> jax.Array:
    """Random orthonormal directions (stack..., inputs..., m)."""
    fan_in = math.prod(shape[len(roles.stack) : -1])
    drawn = jax.random.normal(key, (*shape[:-1], min(fan_in, rank + _MORE)), jnp.float32)
    return _orthonormal(drawn, roles)


def _orthonormal(x: jax.Array, roles: Roles) -> jax.Array:
    return jnp.linalg.qr(_flat(x, roles))[0].reshape(x.shape)


def _flat(x: jax.Array, roles: Roles) -> jax.Array:
    """(n, in, m) of (stack..., inputs..., m)."""
    stack = x.shape[: len(roles.stack)]
    return x.reshape(math.prod(stack), -1, x.shape[-1])


def _ritz(
    q: jax.Array, along: jax.Array, squares: jax.Array, roles: Roles
) -> tuple[jax.Array, jax.Array]:
    """The best directions within the span of q, (stack..., inputs..., m), and their shares (m,)."""
    flat, moved = _flat(q, roles), _flat(along, roles)
    small = jnp.einsum("nim,nik->nmk", flat, moved)
    values, vectors = jnp.linalg.eigh((small + jnp.swapaxes(small, 1, 2)) / 2)
    best = jnp.einsum("nim,nmk->nik", flat, vectors[:, :, ::-1])
    total = jnp.sum(squares.reshape(len(flat), -1), axis=1, keepdims=True)
    shares = jnp.maximum(values[:, ::-1], 0) / jnp.where(total > 0, total, 1.0)
    return best.reshape(q.shape), jnp.mean(shares, axis=0)


def _count(pair: Factors) -> int:
    return math.prod(pair.A.shape[: len(pair.roles.stack)])


def _dealt(
    shares: Mapping[str, jax.Array],
    ranks: Mapping[str, int],
    counts: Mapping[str, int],
    rho: float,
) -> dict[str, int]:
    """One direction for each leaf, then the best ones while the budget lasts."""
    left = sum(ranks[path] * counts[path] for path in ranks)
    dealt = dict.fromkeys(ranks, 1)
    left -= sum(counts.values())
    open_ = [
        (-float(share), path)
        for path in ranks
        for share in shares[path][1 : math.ceil(rho * ranks[path])]
    ]
    for _, path in sorted(open_):
        if counts[path] <= left:
            dealt[path] += 1
            left -= counts[path]
    return dealt


def _explained(
    adapter: LoRA,
    first: Delta,
    directions: Mapping[str, jax.Array],
    shares: dict[str, jax.Array],
    ranks: Mapping[str, int],
) -> Explained:
    where, delta = {}, {}
    for path, pair in first.items():
        rank, roles = ranks[path], pair.roles
        shape = list(pair.B.shape)
        shape[len(roles.stack)] = rank
        a = directions[path][..., :rank].astype(pair.A.dtype)
        lacking = rank - a.shape[-1]  # a rank above the fan-in
        a = jnp.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, lacking)])
        delta[path] = Factors(a, jnp.zeros(shape, pair.B.dtype), roles)
        per = math.sqrt(rank) if adapter.scaling == "rslora" else rank
        where[re.escape(path)] = {"rank": rank, "alpha": adapter.scale_of(path) * per}
    made = dataclasses.replace(adapter, where=where, exclude=(), initializer="kaiming")
    return Explained(made, delta, shares)
