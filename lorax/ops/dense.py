"""What is P θ for a matrix P of normal numbers? The plain product, in d · size time and memory."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import lax


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Dense:
    """P as it is.

    Attributes:
      columns: (dim, size) float32, one row a column of P.
    """

    columns: jax.Array

    def project(self, theta: jax.Array) -> jax.Array:
        """P θ: (dim,) to (size,), in the wider dtype of the two."""
        dtype = jnp.promote_types(theta.dtype, self.columns.dtype)
        columns = self.columns.astype(dtype)
        return jnp.dot(theta.astype(dtype), columns, precision=lax.Precision.HIGHEST)


@functools.partial(jax.jit, static_argnums=(1, 2))
def draw_dense(key: jax.Array, dim: int, size: int) -> Dense:
    """Normal numbers, every column scaled to norm 1.

    Column j depends on `key`, `size` and j alone, so a P of fewer columns is the beginning of this
    one.
    """

    def column(number: jax.Array) -> jax.Array:
        found = jax.random.normal(jax.random.fold_in(key, number), (size,), jnp.float32)
        return found / jnp.linalg.norm(found)

    return Dense(lax.map(column, jnp.arange(dim)))
