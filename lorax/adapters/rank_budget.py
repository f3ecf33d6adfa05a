"""How important is each triplet of AdaLoRA, and how many may stay? Arrays in, arrays out."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lorax.core.leaf import Learnt

Learnts = Mapping[str, Learnt]
_TINY = 1e-12  # under the root of a norm, whose slope at zero is no number


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Importance:
    """Smoothed over updates, of every number that learns: trees with the structure of the delta.

    Attributes:
      sensitivity: of |w · dL/dw|.
      variation: of its distance from the smoothed one.
    """

    sensitivity: Any
    variation: Any

    @classmethod
    def zeros(cls, delta: Learnts) -> "Importance":
        """Before the first update."""
        return cls(jax.tree.map(jnp.zeros_like, delta), jax.tree.map(jnp.zeros_like, delta))

    def after(self, delta: Learnts, grads: Learnts, beta1: float, beta2: float) -> "Importance":
        """With one more gradient, of `delta`; equations 9 and 10 of the paper."""
        mix = lambda beta: lambda old, new: beta * old + (1 - beta) * new
        now = jax.tree.map(lambda w, g: jnp.abs(w * g), delta, grads)
        sensitivity = jax.tree.map(mix(beta1), self.sensitivity, now)
        apart = jax.tree.map(lambda x, mean: jnp.abs(x - mean), now, sensitivity)
        return Importance(sensitivity, jax.tree.map(mix(beta2), self.variation, apart))

    def scores(self) -> dict[str, jax.Array]:
        """Of every triplet, (stack..., r) by path: that of E, and the means of those of its column
        of P and its row of Q (equation 8)."""
        product = jax.tree.map(jnp.multiply, self.sensitivity, self.variation)
        return {path: _triplets(learnt) for path, learnt in product.items()}


def _triplets(learnt: Learnt) -> jax.Array:
    stacked, inputs = len(learnt.roles.stack), len(learnt.roles.inputs)
    p = jnp.mean(learnt["P"], axis=tuple(range(stacked, stacked + inputs)))
    q = jnp.mean(learnt["Q"], axis=tuple(range(stacked + 1, learnt["Q"].ndim)))
    return learnt["E"] + p + q


def best(scores: Mapping[str, jax.Array], left: Any) -> dict[str, jax.Array]:
    """Which triplets are among the `left` best of all, exactly so many; booleans like `scores`.

    Of equal ones those come first whose paths, and then whose places, do.
    """
    paths = sorted(scores)
    flat = jnp.concatenate([scores[path].reshape(-1) for path in paths])
    place = jnp.argsort(jnp.argsort(-flat, stable=True), stable=True)
    starts, found = 0, {}
    for path in paths:
        size = scores[path].size
        found[path] = (place[starts : starts + size] < left).reshape(scores[path].shape)
        starts += size
    return found


def budget(full: int, least: int, warmup: int, final: int, now: Any, steps: int) -> jax.Array:
    """Triplets left after update `now`, counted from 0: a cubic from `full` to `least`.

    It begins to fall after `warmup` updates and arrives `final` updates before the end; equation 13
    of the paper, rounded down.
    """
    share = (now + 1 - warmup) / (steps - final - warmup)
    rest = 1.0 - jnp.clip(share, 0.0, 1.0)
    return least + jnp.floor((full - least) * rest**3).astype(jnp.int32)


def matrices(delta: Learnts) -> int:
    """How many matrices there are in all leaves together."""
    return sum(math.prod(learnt["E"].shape[:-1]) for learnt in delta.values())


def not_orthogonal(learnt: Learnt) -> jax.Array:
    """‖PᵀP - I‖ and ‖QQᵀ - I‖ of every matrix of a leaf, (2 n,)."""
    stack, rank = learnt["E"].shape[:-1], learnt["E"].shape[-1]
    n = math.prod(stack)
    p, q = learnt["P"].reshape(n, -1, rank), learnt["Q"].reshape(n, rank, -1)
    exact = jax.lax.Precision.HIGHEST
    grams = (
        jnp.einsum("nir,nis->nrs", p, p, precision=exact),
        jnp.einsum("nro,nso->nrs", q, q, precision=exact),
    )
    square = lambda gram: jnp.sum(jnp.square(gram - jnp.eye(rank, dtype=gram.dtype)), (1, 2))
    return jnp.sqrt(jnp.concatenate([square(gram) for gram in grams]) + _TINY)
