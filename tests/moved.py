"""A delta as training would have made it, away from its start. numpy draws: nothing compiles."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def moved(delta: Any, size: float = 0.1, seed: int = 5) -> Any:
    """`delta` with normal numbers of this size added to every leaf, in its dtype."""
    draws = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: jnp.asarray(x + (size * draws.standard_normal(x.shape)).astype(x.dtype)), delta
    )
