"""Did two runs learn the same directions? Subspace similarity φ of their A's, or of their B's.

φ(A, A', i, j) = ‖U_iᵀ U'_j‖² / min(i, j), U_i the first i singular vectors of A in the space of
the leaf's input: 1 where one span contains the other, 0 where they are orthogonal. With σ the
cosines of the principal angles and p = min(i, j) it is Σσ²/p = 1 - d²/p, d the projection metric.

Source: Hu et al., "LoRA", arXiv 2106.09685, section 7.2 and appendix G.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lorax.adapters.lora import LoRA
from lorax.adapters.low_rank import matrices
from lorax.analysis.updates import TINY, lora_members
from lorax.core.adapter import Adapter, Base, Chain, Delta
from lorax.core.errors import LoraxError, check_choice
from lorax.core.leaf import Factors


@dataclasses.dataclass(frozen=True)
class Similarity:
    """φ of one leaf of two adapters, for every pair of i and j.

    Attributes:
      phi: (n, i, j), n stacked matrices (1 if none); `phi[:, i - 1, j - 1]` is φ(A, A', i, j). NaN
        from the first direction that a factor does not have: a factor of zeros has none.
      dimension: of the space that the directions lie in, the fan-in for A, the fan-out for B.
    """

    phi: np.ndarray
    dimension: int

    @property
    def chance(self) -> np.ndarray:
        """What independent subspaces have on average, (i, j), see `chance`."""
        i, j = (np.arange(1, size + 1) for size in self.phi.shape[1:])
        return chance(i[:, None], j, self.dimension)


def similarity(
    adapter: Adapter,
    delta: Delta,
    other_adapter: Adapter,
    other_delta: Delta,
    *,
    factor: str = "A",
    base: Base | None = None,
) -> dict[str, Similarity]:
    """φ of every leaf that both adapters give factors; their ranks may differ.

    A barely moves where the rate and the steps are few beside its first size, and two runs from one
    seed then look alike: show φ of `first_delta` of both beside it, and `Similarity.chance`.

    Args:
      adapter, delta, other_adapter, other_delta: as trained, or as imported.
      factor: "A" or "B".
      base: the frozen parameters, needed for adapters that start from them (PiSSA, OLoRA), whose
        factor is A0 + A.

    Raises:
      LoraxError: no factors, none at a common leaf, leaves of another shape, or a base is needed.
    """
    mine, theirs = (
        directions(one, learnt, factor=factor, base=base)
        for one, learnt in ((adapter, delta), (other_adapter, other_delta))
    )
    common = [path for path in mine if path in theirs]
    if not common:
        raise LoraxError(
            f"the adapters have no leaf in common: one has '{next(iter(mine))}' and {len(mine) - 1}"
            f" more, the other '{next(iter(theirs))}' and {len(theirs) - 1} more; expected two "
            "adapters of one model with a target in common"
        )
    found = {}
    for path in common:
        u, v = mine[path], theirs[path]
        if u.shape[:2] != v.shape[:2]:
            raise LoraxError(
                f"'{path}' has {factor} of {u.shape[0]} × {u.shape[1]} in one adapter and "
                f"{v.shape[0]} × {v.shape[1]} in the other (stacked × dimension): expected "
                "adapters of one model"
            )
        found[path] = Similarity(phi(u, v), u.shape[1])
    return found


def directions(
    adapter: Adapter, delta: Delta, *, factor: str = "A", base: Base | None = None
) -> dict[str, np.ndarray]:
    """By path, the singular vectors of A (or of B) in the space outside, largest first: (n, d, k).

    d is the fan-in for "A", the fan-out for "B"; k the smaller of d and the rank. Columns are
    orthonormal; those of singular values that are zero are NaN. Arguments and errors as
    `similarity`.
    """
    check_choice("factor", factor, ("A", "B"))
    found = {}
    for member, part in lora_members(adapter, delta):
        for path, factors in _in_use(member, part, base).items():
            a, b = matrices(factors)
            found[path] = np.asarray(_left(a if factor == "A" else jnp.swapaxes(b, 1, 2)))
    return found


def phi(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """φ of the first i columns of `u` and the first j of `v`, for every i and j.

    Args:
      u, v: (..., d, i) and (..., d, j), orthonormal columns in one space.

    Returns:
      (..., i, j), float64, entry [i - 1, j - 1] of i and j columns.
    """
    u, v = np.asarray(u, np.float64), np.asarray(v, np.float64)
    cosines = np.swapaxes(u, -1, -2) @ v
    shared = np.cumsum(np.cumsum(cosines**2, axis=-1), axis=-2)
    i, j = (np.arange(1, size + 1) for size in shared.shape[-2:])
    return shared / np.minimum(i[:, None], j)


def chance(i: Any, j: Any, dimension: int) -> np.ndarray:
    """max(i, j) / dimension: the mean of φ over independent subspaces, uniform in direction.

    E ‖U_iᵀ V_j‖² = i j / d, of which φ takes the min(i, j)-th part.
    """
    return np.asarray(np.maximum(i, j) / dimension)


def first_delta(adapter: Adapter, key: jax.Array, delta: Delta) -> Delta:
    """The delta that `adapter.init` drew with `key`, for the leaves of `delta`; needs no base.

    Of members without factors `delta` itself is returned, since they start from the base. With it
    φ at initialisation is ``similarity(a, first_delta(a, key, x), b, first_delta(b, other, y))``.

    Args:
      adapter: whose configuration has not changed since.
      key: that of the run's `init`.
      delta: of the run, at any step; its shapes and roles alone are read.

    Raises:
      LoraxError: no member has factors.
    """
    lora_members(adapter, delta)  # refuses what has no factors
    return _first(adapter, key, delta)


def _first(adapter: Adapter, key: jax.Array, delta: Delta) -> Delta:
    if isinstance(adapter, Chain):
        parts = zip(adapter.members, delta, strict=True)
        return tuple(_first(member, key, part) for member, part in parts)
    if not isinstance(adapter, LoRA):
        return delta
    # the leaves by name, so that no pattern of `where` or `exclude` looks for the rest of the model
    where = {re.escape(path): {"rank": factors.rank} for path, factors in delta.items()}
    shapes = {path: _leaf(factors) for path, factors in delta.items()}
    roles = {path: factors.roles for path, factors in delta.items()}
    return dataclasses.replace(adapter, where=where, exclude=()).init(key, shapes, roles)


def _leaf(factors: Factors) -> jax.ShapeDtypeStruct:
    """The leaf of W0 that `factors` were made for."""
    roles = factors.roles
    stacked, sizes = len(roles.stack), dict[int, int]()
    for axes, lengths in (
        (roles.stack, factors.A.shape[:stacked]),
        (roles.inputs, factors.A.shape[stacked:-1]),
        (roles.outputs, factors.B.shape[stacked + 1 :]),
    ):
        sizes |= dict(zip(axes, lengths, strict=True))
    return jax.ShapeDtypeStruct(tuple(sizes[axis] for axis in sorted(sizes)), factors.A.dtype)


def _in_use(adapter: LoRA, delta: Mapping[str, Factors], base: Base | None) -> dict[str, Factors]:
    """The factors with those they are counted from."""
    if not adapter.starts_from_base:
        return dict(delta)
    if base is None:
        raise LoraxError(
            f"initializer='{adapter.initializer}' counts its factors from the base: pass base="
        )
    start = adapter.derive(base, delta) or {}
    return {
        path: Factors(start[path].A + f.A, start[path].B + f.B, f.roles)
        for path, f in delta.items()
    }


@jax.jit
def _left(x: jax.Array) -> jax.Array:
    u, values, _ = jnp.linalg.svd(x, full_matrices=False)
    return jnp.where((values > TINY * values[:, :1])[:, None, :], u, jnp.nan)
