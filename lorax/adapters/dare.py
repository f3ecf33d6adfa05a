"""How are adapters added that share few numbers? Drop most of each update at random, and rescale.

DARE (Yu et al., 2023, arXiv 2311.03099) on whole updates ΔW: each entry is dropped with
probability p and divided by 1 - p otherwise, so that the sum is right in expectation.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from lorax.adapters.combine import Combined, combine_whole
from lorax.adapters.parts import Part
from lorax.adapters.whole_sums import Rule, weighted_sum
from lorax.core import paths
from lorax.core.adapter import Base
from lorax.core.errors import LoraxError
from lorax.core.leaf import Roles


def dare(
    parts: Sequence[Part],
    *,
    rank: int,
    key: jax.Array,
    rate: float = 0.9,
    base: Base = None,
    leave_out: bool = False,
    roles: Mapping[str, Roles] | None = None,
) -> Combined:
    """A weighted sum of whole updates of which a random share 1 - `rate` is left.

    What is dropped from a leaf depends on `key`, its path, and the number of the part alone. The
    result is cut to `rank` by an SVD of each matrix: at rates near 1 it has no low rank, and the
    error says so.

    Args:
      parts, base, leave_out, roles: as for `combine`.
      rank: the most a leaf of the result may have.
      key: of the draws.
      rate: p, at least 0 and below 1.

    Raises:
      LoraxError, LoraxTypeError: as `combine`; a rate out of range, or no key.
    """
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate < 1:
        raise LoraxError(f"rate is {rate!r}: expected at least 0 and below 1, such as 0.9")
    paths.check_key(key)
    rule = Rule(
        dropped_sum,
        lambda path, entries: rate,
        lambda path, number: paths.key_for(jax.random.fold_in(key, number), path),
    )
    return combine_whole(parts, rule, rank, base, leave_out, roles)


def dropped_sum(updates: jax.Array, weights: jax.Array, keys: Any, numbers: Any) -> jax.Array:
    """Σ weight · the rescaled rest of each update (parts, in, out): (in, out).

    Args:
      updates: ΔW of each part that has one.
      weights: (parts,).
      keys: one a part.
      numbers: the rate.
    """
    # one by one: mapped over keys, some generators draw from the first alone
    stays = [jax.random.bernoulli(keys[i], 1 - numbers, one.shape) for i, one in enumerate(updates)]
    rest = jnp.where(jnp.stack(stays), updates / (1 - numbers), 0)
    return weighted_sum(rest, weights, None, ())
