"""How are whole updates put together? Each ΔW is formed, and the result cut to a rank by its SVD.

One matrix of a stack at a time, so that no more than the updates of one matrix exists at once.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lorax.adapters.low_rank import matrices, sides
from lorax.adapters.parts import Update
from lorax.core.leaf import Factors, Roles

_matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class Rule(NamedTuple):
    """How the updates of one matrix become one.

    Attributes:
      put: (updates (parts, in, out), weights (parts,), a list of keys, numbers) -> (in, out); a
        function of a module, not a lambda, since programs are kept by it.
      numbers: (path, entries of the matrix) -> any pytree of numbers for `put`.
      keys: (path, number of the part) -> a key, or None for a rule that draws nothing.
    """

    put: Callable[..., jax.Array]
    numbers: Callable[[str, int], Any] = lambda path, entries: ()
    keys: Callable[[str, int], jax.Array] | None = None


def weighted_sum(updates: jax.Array, weights: jax.Array, keys: Any, numbers: Any) -> jax.Array:
    """Σ weight · ΔW of updates (parts, in, out)."""
    return jnp.tensordot(weights, updates, 1, precision=jax.lax.Precision.HIGHEST)


PLAIN = Rule(weighted_sum)


def cut_sum(
    updates: Mapping[int, Update],
    weights: Sequence[float],
    rank: int,
    path: str = "",
    rule: Rule = PLAIN,
) -> tuple[Factors, float, float]:
    """What `rule` makes of the updates of one leaf, as factors of at most `rank`.

    Args:
      updates: by the number of the part; of one shape, see `check_alike`.
      weights: of all parts.
      rank: a value above the smaller side of the matrices is that side.
      path: of the leaf.
      rule: how they are put together.

    Returns:
      The factors; the distance of their product from Σ weight · ΔW; and that of the cut alone. Both
      are Frobenius norms relative to ‖Σ weight · ΔW‖: 0 if there is no distance, infinite where
      the sum is zero and the result is not.
    """
    some = next(iter(updates.values()))
    roles, a_sides, b_sides = some.roles, *_sides(some)
    stacked = len(roles.stack)
    fan_in, fan_out = math.prod(a_sides[stacked:]), math.prod(b_sides[stacked:])
    rank = min(rank, fan_in, fan_out)
    terms = [_term(update, roles) for update in updates.values()]
    keys = None if rule.keys is None else [rule.keys(path, number) for number in updates]
    own = jnp.asarray([weights[number] for number in updates], terms[0][0].dtype)
    a, b, squares = _cut(terms, own, keys, rule.numbers(path, fan_in * fan_out), rule.put, rank)
    far, cut, whole = (math.sqrt(float(square)) for square in squares)
    shapes = (*a_sides, rank), (*b_sides[:stacked], rank, *b_sides[stacked:])
    factors = Factors(a.reshape(shapes[0]), b.reshape(shapes[1]), roles)
    return factors, _relative(far, whole), _relative(cut, whole)


@functools.partial(jax.jit, static_argnames=("put", "rank"))
def _cut(
    terms: Any, weights: jax.Array, keys: Any, numbers: Any, put: Callable[..., Any], rank: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """A (n, in, rank), B (n, rank, out), and three squared norms summed over the n matrices."""

    def one(item: Any) -> Any:
        number, own = item
        updates = jnp.stack([_matmul(*term) if len(term) == 2 else term[0] for term in own])
        drawn = keys and [jax.random.fold_in(key, number) for key in keys]
        wanted = weighted_sum(updates, weights, None, ())
        found = put(updates, weights, drawn, numbers)
        u, values, vt = jnp.linalg.svd(found, full_matrices=False)
        root = jnp.sqrt(values[:rank])
        a, b = u[:, :rank] * root, root[:, None] * vt[:rank]
        far = jnp.sum((_matmul(a, b) - wanted) ** 2)
        return a, b, jnp.stack([far, jnp.sum(values[rank:] ** 2), jnp.sum(wanted**2)])

    count = jnp.arange(terms[0][0].shape[0])
    a, b, squares = jax.lax.map(one, (count, terms))
    return a, b, jnp.sum(squares, axis=0)


def _term(update: Update, roles: Roles) -> tuple[jax.Array, ...]:
    """(A (n, in, r), B (n, r, out)), or (ΔW (n, in, out),)."""
    if isinstance(update, Factors):
        return matrices(update)
    order = (*roles.stack, *roles.inputs, *roles.outputs)
    return (jnp.transpose(update.update, order).reshape(roles.matrix(update.update.shape)),)


def _sides(update: Update) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if isinstance(update, Factors):
        return sides(update)
    roles, shape = update.roles, update.update.shape
    inputs, outputs = (
        tuple(shape[axis] for axis in (*roles.stack, *group))
        for group in (roles.inputs, roles.outputs)
    )
    return inputs, outputs


def _relative(distance: float, whole: float) -> float:
    return distance / whole if whole else (math.inf if distance else 0.0)
