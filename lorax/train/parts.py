"""How is a leading axis cut into equal parts? With strides, so that every part spans the axis."""

from typing import Any

import jax
import jax.numpy as jnp

from lorax.core.errors import LoraxError


def cut(tree: Any, parts: int) -> Any:
    """Every array (B, ...) of `tree` as (parts, B / parts, ...): part i has rows i, i + parts, ...

    A B that is split over devices stays so in every part, where runs of neighbours would each lie
    on a few devices only. None and other empty subtrees stay.

    Raises:
      LoraxError: a B that `parts` does not divide.
    """

    def one(x: Any) -> jax.Array:
        rows = jnp.shape(x)[0] if jnp.ndim(x) else 1
        if rows % parts:
            raise LoraxError(
                f"a batch of {rows} cannot be cut into {parts} equal parts: expected a multiple of "
                f"{parts}; change the size of the batch, or accumulate"
            )
        x = jnp.asarray(x)
        return x.reshape(rows // parts, parts, *x.shape[1:]).swapaxes(0, 1)

    return jax.tree.map(one, tree)
