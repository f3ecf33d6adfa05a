"""Does an update follow W, or raise what W has little of? The amplification factor and table 7.

U and V are the first r left and right singular vectors of one matrix, and ‖Uᵀ W V‖ is how much of
W lies in their directions. Taken of ΔW, of W itself, and of a random matrix they are the three
columns of the table; the factor is ‖ΔW‖ / ‖Uᵀ W V‖ with those of ΔW. All norms are Frobenius.

Source: Hu et al., "LoRA", arXiv 2106.09685, section 7.3 and appendix H.4.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from lorax.adapters.low_rank import plain, singular_factors
from lorax.analysis.updates import TINY, as_matrices, lora_members
from lorax.core import paths
from lorax.core.adapter import Adapter, Base, Delta, low_rank_leaves, unprepared
from lorax.core.errors import LoraxError


@dataclasses.dataclass(frozen=True)
class Amplification:
    """One leaf; every array has one entry a stacked matrix, (n,), n = 1 if none.

    Attributes:
      rank: r, the directions of each side.
      shape: (fan-in, fan-out).
      weight: ‖W‖.
      update: ‖ΔW‖, scale included.
      from_update: ‖Uᵀ W V‖ with U, V of ΔW; NaN where ΔW has fewer than r directions.
      from_weight: with those of W.
      from_random: with those of a Gaussian matrix.
      values: the first r singular values of W, (n, r).
    """

    rank: int
    shape: tuple[int, int]
    weight: np.ndarray
    update: np.ndarray
    from_update: np.ndarray
    from_weight: np.ndarray
    from_random: np.ndarray
    values: np.ndarray

    @property
    def factor(self) -> np.ndarray:
        """‖ΔW‖ / ‖Uᵀ W V‖: how much larger than in W the directions of ΔW are in ΔW."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.update / self.from_update

    @property
    def expected_from_weight(self) -> np.ndarray:
        """sqrt(Σσ²) over the first r singular values of W, which `from_weight` is."""
        return np.sqrt(np.sum(self.values**2, axis=1))

    @property
    def expected_from_random(self) -> np.ndarray:
        """‖W‖ r / sqrt(in · out), the root mean square of `from_random` over random matrices."""
        return self.weight * self.rank / np.sqrt(np.prod(self.shape))


def amplification(
    adapter: Adapter,
    base: Base,
    delta: Delta,
    *,
    rank: int | None = None,
    key: jax.Array | None = None,
) -> dict[str, Amplification]:
    """The row of table 7 for every leaf that `adapter` gives factors; no ΔW is formed.

    Args:
      adapter, base, delta: as for `adapter.merge`.
      rank: r; None takes that of each leaf's factors.
      key: of the random matrices, each leaf's draw by its path; None is `jax.random.key(0)`.

    Raises:
      LoraxError: no leaf has factors, or `rank` is more than a leaf can have.
    """
    lora_members(adapter, delta)  # refuses what has no factors
    key = jax.random.key(0) if key is None else key
    stored = paths.flatten(unprepared(base)[0])
    found = {}
    for path, leaf in low_rank_leaves(adapter.leaves(base, delta)).items():
        w = as_matrices(stored[path], leaf.factors.roles)
        _, *shape = w.shape
        r = _rank(path, rank, leaf.factors.rank, shape)
        with jax.default_matmul_precision("highest"):
            left, values, right = jax.jit(singular_factors)(plain(path, leaf))
            columns = _columns(w, left, values, right, paths.key_for(key, path), r)
        update = abs(float(leaf.scale)) * np.linalg.norm(np.asarray(values, np.float64), axis=1)
        numbers = {name: np.asarray(column, np.float64) for name, column in columns.items()}
        found[path] = Amplification(rank=r, shape=(shape[0], shape[1]), update=update, **numbers)
    return found


@functools.partial(jax.jit, static_argnames="rank")
def _columns(
    w: jax.Array,
    left: jax.Array,
    values: jax.Array,
    right: jax.Array,
    key: jax.Array,
    rank: int,
) -> dict[str, jax.Array]:
    """What `Amplification` says of W and its products, one matrix at a time."""

    def one(arrays: tuple[jax.Array, ...]) -> dict[str, jax.Array]:
        w, left, values, right, key = arrays
        own_left, sigma, own_right = jnp.linalg.svd(w, full_matrices=False)
        known = jnp.where(values[rank - 1] > TINY * values[0], 1.0, jnp.nan)
        return {
            "weight": jnp.linalg.norm(w),
            "from_update": known * _inside(w, left[:, :rank], right[:rank]),
            "from_weight": _inside(w, own_left[:, :rank], own_right[:rank]),
            "from_random": _inside(w, *_random(key, w, rank)),
            "values": sigma[:rank],
        }

    return jax.lax.map(one, (w, left, values, right, jax.random.split(key, len(w))))


def _inside(w: jax.Array, u: jax.Array, vt: jax.Array) -> jax.Array:
    """‖Uᵀ W V‖."""
    return jnp.linalg.norm(u.T @ w @ vt.T)


def _random(key: jax.Array, w: jax.Array, rank: int) -> tuple[jax.Array, jax.Array]:
    """U and Vᵀ as those of a Gaussian matrix are: independent, and uniform in direction."""
    draws = (
        jax.random.normal(k, (size, rank), w.dtype)
        for k, size in zip(jax.random.split(key), w.shape, strict=True)
    )
    u, v = (jnp.linalg.qr(draw)[0] for draw in draws)
    return u, v.T


def _rank(path: str, wanted: int | None, own: int, shape: Sequence[int]) -> int:
    most = min(own, *shape)
    rank = most if wanted is None else wanted
    if not 1 <= rank <= most:
        raise LoraxError(
            f"rank is {rank} and '{path}' has factors of rank {own} for {shape[0]} × {shape[1]}: "
            f"expected 1 to {most}; leave rank= out to take each leaf's own"
        )
    return rank
