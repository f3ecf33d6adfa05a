"""Does an update change how large the weights are, or where they point? DoRA's decomposition.

The column w of W that makes one output, over all inputs, has a magnitude ‖w‖ and a direction
w / ‖w‖. An update to w + d changes the one by ‖w + d‖ - ‖w‖, the other by 1 - cos(w, w + d). Both
are counted without subtracting nearly equal numbers, so that those of a small d are not rounding.

Source: Liu et al., "DoRA", arXiv 2402.09353, section 3.2.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from lorax.analysis.updates import changes
from lorax.core.adapter import Adapter, Base, Delta
from lorax.core.leaf import Roles


@dataclasses.dataclass(frozen=True)
class Decomposition:
    """One leaf, (n, out) each: n stacked matrices (1 if none), the outputs flattened.

    Attributes:
      magnitude: ‖w‖ of W0, the norm over the inputs of each output.
      change: ‖w + d‖ - ‖w‖.
      turn: 1 - cos(w, w + d), in [0, 2]; NaN where either is zero and has no direction.
    """

    magnitude: np.ndarray
    change: np.ndarray
    turn: np.ndarray

    @property
    def mean_change(self) -> np.ndarray:
        """The mean of |change| over the outputs, (n,): the paper's ΔM."""
        return np.mean(np.abs(self.change), axis=1)

    @property
    def mean_turn(self) -> np.ndarray:
        """The mean of turn over the outputs that have a direction, (n,): the paper's ΔD."""
        known = ~np.isnan(self.turn)
        count = known.sum(axis=1)
        mean = np.where(known, self.turn, 0.0).sum(axis=1) / np.maximum(count, 1)
        return np.where(count > 0, mean, np.nan)


def magnitude_direction(
    adapter: Adapter, base: Base, delta: Delta, *, roles: Mapping[str, Roles] | None = None
) -> dict[str, Decomposition]:
    """Magnitude and direction of every adapted matrix, before and after, by path.

    Args:
      adapter, base, delta: as for `adapter.merge`.
      roles: of leaves that are trained whole, see `lorax.analysis.updates.changes`.

    Raises:
      LoraxError: as `changes`.
    """
    return {
        path: Decomposition(*(np.asarray(x, np.float64) for x in _decompose(w, change)))
        for path, w, change in changes(adapter, base, delta, roles)
    }


@jax.jit
def _decompose(w: jax.Array, d: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Along and across each w of the inputs axis: d = p w / ‖w‖ + q."""
    before = jnp.linalg.norm(w, axis=1)
    unit = w / jnp.where(before > 0, before, 1.0)[:, None]
    p = jnp.sum(unit * d, axis=1)
    across = jnp.linalg.norm(d - p[:, None] * unit, axis=1)
    along = before + p
    after = jnp.hypot(along, across)
    both = before + after
    change = (2 * before * p + p**2 + across**2) / jnp.where(both > 0, both, 1.0)
    # 1 - cos = (after - along) / after; for an acute angle as across² / (after + along) / after
    gap = jnp.where(along > 0, across**2 / jnp.where(along > 0, after + along, 1.0), after - along)
    known = (before > 0) & jnp.any(w + d != 0, axis=1)
    turn = jnp.where(known, gap / jnp.where(after > 0, after, 1.0), jnp.nan)
    return before, change, turn
