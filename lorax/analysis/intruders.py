"""Which directions of the tuned weights were not there before? Intruder dimensions.

A singular vector u_j of W0 + ΔW, j ≤ k, is an intruder if max_i |cos(u_j, u0_i)| < ε over all
singular vectors u0_i of W0. The paper's are the left ones of (out, in) matrices: those in the space
of the leaf's output, the right ones of ours.

Source: Shuttleworth et al., "LoRA vs Full Fine-tuning: An Illusion of Equivalence", arXiv
2410.21228; k = 10 and ε = 0.5 are the authors' and PEFT's.
"""

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from lorax.analysis.updates import changes
from lorax.core.adapter import Adapter, Base, Delta
from lorax.core.errors import LoraxError
from lorax.core.leaf import Roles


@dataclasses.dataclass(frozen=True)
class Intruders:
    """One leaf.

    Attributes:
      likeness: (n, k), max_i |cos(u_j, u0_i)| of the first k singular vectors of the tuned matrix,
        by singular value; n stacked matrices (1 if none). 1 for a direction that was there.
      epsilon: below which one is an intruder.
    """

    likeness: np.ndarray
    epsilon: float

    @property
    def count(self) -> np.ndarray:
        """How many of the k are intruders, (n,)."""
        return np.sum(self.likeness < self.epsilon, axis=1)


def intruders(
    adapter: Adapter,
    base: Base,
    delta: Delta,
    *,
    k: int = 10,
    epsilon: float = 0.5,
    roles: Mapping[str, Roles] | None = None,
) -> dict[str, Intruders]:
    """The intruder dimensions of every adapted matrix, by path.

    W0 + ΔW is formed in float32 at least, one leaf at a time; two singular value decompositions a
    matrix, one matrix at a time.

    Args:
      adapter, base, delta: as for `adapter.merge`.
      k: how many directions of the tuned matrix are looked at; all of a smaller one.
      epsilon: in (0, 1].
      roles: of leaves that are trained whole, see `lorax.analysis.updates.changes`.

    Raises:
      LoraxError: a number out of its range, or as `changes`.
    """
    if k < 1:
        raise LoraxError(f"k is {k}: expected at least 1, such as 10")
    if not 0 < epsilon <= 1:
        raise LoraxError(f"epsilon is {epsilon}: expected a cosine in (0, 1], such as 0.5")
    found = {}
    for path, w, change in changes(adapter, base, delta, roles):
        with jax.default_matmul_precision("highest"):
            likeness = np.asarray(_likeness(w, change, min(k, *w.shape[1:])), np.float64)
        found[path] = Intruders(likeness, epsilon)
    return found


def total(found: Mapping[str, Intruders]) -> int:
    """The intruders of all leaves together."""
    return sum(int(leaf.count.sum()) for leaf in found.values())


@functools.partial(jax.jit, static_argnames="k")
def _likeness(w: jax.Array, change: jax.Array, k: int) -> jax.Array:
    def one(pair: tuple[jax.Array, jax.Array]) -> jax.Array:
        w, change = pair
        before, after = (jnp.linalg.svd(x, full_matrices=False)[2] for x in (w, w + change))
        return jnp.max(jnp.abs(after[:k] @ before.T), axis=1)

    return jax.lax.map(one, (w, change))
