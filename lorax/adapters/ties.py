"""How are adapters added that pull the same numbers both ways? Trim, elect signs, disjoint mean.

TIES-merging (Yadav et al., 2023, arXiv 2306.01708) on whole updates ΔW, matrix by matrix. Applied
to A's and B's apart, as is also done, it leaves cross terms A₁ B₂ that belong to no adapter.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from lorax.adapters.combine import Combined, combine_whole
from lorax.adapters.parts import Part
from lorax.adapters.whole_sums import Rule
from lorax.core.adapter import Base
from lorax.core.errors import LoraxError
from lorax.core.leaf import Roles


def ties(
    parts: Sequence[Part],
    *,
    rank: int,
    density: float = 0.2,
    base: Base = None,
    leave_out: bool = False,
    roles: Mapping[str, Roles] | None = None,
) -> Combined:
    """A weighted sum of whole updates in which those against the majority have no voice.

    Of each ΔW the largest entries stay. Then every entry takes the sign of Σ weight · ΔW, and
    becomes the mean over the updates that have this sign, weighted by |weight|, times Σ |weight|:
    the paper's disjoint mean times its λ where all weights are λ / n, and the plain sum where
    nothing is trimmed and all signs agree. The result is cut to `rank` by an SVD of each matrix.

    Args:
      parts, base, leave_out, roles: as for `combine`.
      rank: the most a leaf of the result may have.
      density: share of the entries of each matrix that stays, above 0 and at most 1; the paper
        takes 0.2.

    Raises:
      LoraxError, LoraxTypeError: as `combine`; a density out of range.
    """
    if not _is_number(density) or not 0 < density <= 1:
        raise LoraxError(f"density is {density!r}: expected above 0 and at most 1, such as 0.2")

    def numbers(path: str, entries: int) -> tuple[int, float]:
        return max(1, round(density * entries)), sum(abs(float(weight)) for *_, weight in parts)

    return combine_whole(parts, Rule(elected, numbers), rank, base, leave_out, roles)


def elected(updates: jax.Array, weights: jax.Array, keys: Any, numbers: Any) -> jax.Array:
    """The disjoint mean of the trimmed `updates` (parts, in, out): (in, out).

    Args:
      updates: ΔW of each part that has one.
      weights: (parts,).
      keys: not used.
      numbers: how many entries of an update stay, and the sum of |weight| of all parts.
    """
    kept, total = numbers
    sizes = jnp.abs(updates).reshape(len(updates), -1)
    least = jnp.take(jnp.sort(sizes, axis=1), sizes.shape[1] - kept, axis=1)
    trimmed = jnp.where(jnp.abs(updates) >= least[:, None, None], updates, 0)
    votes = weights[:, None, None] * trimmed
    sign = jnp.sign(jnp.sum(votes, axis=0))
    agree = (jnp.sign(votes) == sign) & (votes != 0)
    heard = jnp.sum(jnp.where(agree, jnp.abs(weights)[:, None, None], 0), axis=0)
    mean = jnp.sum(jnp.where(agree, votes, 0), axis=0) / jnp.where(heard > 0, heard, 1)
    return total * mean


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
