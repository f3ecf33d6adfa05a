"""What is P θ where nearly all of P is zero? Sums of segments, and gathers for the transpose.

P (size, dim) has about √size entries in each column. They are drawn one a stratum: the rows are cut
into as many equal runs as a column has entries, and each run has one of them, anywhere in it. So
every column has the same number of entries, none falls twice, their places come in order, and the
norm of a column is 1 by construction. An entry is not zero as often as if each were drawn alone.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sparse:
    """The entries of P that are not zero, in order of their rows.

    Attributes:
      rows, columns: (entries,) int32.
      values: (entries,) float32.
      shape: (size, dim); static.
    """

    rows: jax.Array
    columns: jax.Array
    values: jax.Array
    shape: tuple[int, int] = dataclasses.field(metadata={"static": True})

    def project(self, theta: jax.Array) -> jax.Array:
        """P θ: (dim,) to (size,), in the wider dtype of the two."""
        return _project(self.shape, (self.rows, self.columns, self.values), theta)


def draw_sparse(key: jax.Array, dim: int, runs: Sequence[int]) -> Sparse:
    """A P of unit columns over sum(runs) rows.

    Column j depends on `key` and j alone, so a P of fewer columns is the beginning of this one.

    Args:
      key: of the draw.
      dim: columns.
      runs: lengths of the runs of rows, each with √length entries in each column: one run for a
        density of 1/√D, one a leaf for one of 1/√n. All rows count alike: a run of n rows has n/D
        of a column's squared norm.
    """
    return _drawn(key, dim, tuple(runs))


@functools.partial(jax.jit, static_argnums=(1, 2))
def _drawn(key: jax.Array, dim: int, runs: tuple[int, ...]) -> Sparse:
    low, high, size = _strata(runs)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(dim))

    def column(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        place, sign = jax.random.split(key)
        rows = jax.random.randint(place, low.shape, low, high, jnp.int32)
        return rows, jax.random.rademacher(sign, size.shape, jnp.float32) * size

    rows, values = jax.vmap(column)(keys)
    columns = jnp.broadcast_to(jnp.arange(dim, dtype=jnp.int32)[:, None], rows.shape)
    order = jnp.argsort(rows.ravel())
    rows, columns, values = (x.ravel()[order] for x in (rows, columns, values))
    return Sparse(rows, columns, values, (sum(runs), dim))


def _strata(runs: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First row, the row after the last, and size of the entry, of every stratum of a column."""
    low, high, size, start, total = [], [], [], 0, sum(runs)
    for run in runs:
        count = max(1, round(math.sqrt(run)))
        edges = start + np.arange(count + 1, dtype=np.int64) * run // count
        low.append(edges[:-1])
        high.append(edges[1:])
        size.append(np.full(count, math.sqrt(run / (count * total)), np.float32))
        start += run
    joined = [np.concatenate(parts) for parts in (low, high, size)]
    return joined[0].astype(np.int32), joined[1].astype(np.int32), joined[2]


_MODE = "promise_in_bounds"  # a check of each index is a tenth of the time on CPUs

Entries = tuple[jax.Array, jax.Array, jax.Array]


def _sum(shape: tuple[int, int], entries: Entries, theta: jax.Array) -> jax.Array:
    rows, columns, values = entries
    return jax.ops.segment_sum(
        _taken(theta, columns) * values, rows, num_segments=shape[0], indices_are_sorted=True,
        mode=_MODE,
    )  # fmt: skip


def _taken(x: jax.Array, index: jax.Array) -> jax.Array:
    return x.at[index].get(mode=_MODE, wrap_negative_indices=False)


_project = jax.custom_vjp(_sum, nondiff_argnums=(0,))


def _project_forward(
    shape: tuple[int, int], entries: Entries, theta: jax.Array
) -> tuple[jax.Array, Entries]:
    return _project(shape, entries, theta), entries


def _project_backward(
    shape: tuple[int, int], entries: Entries, cotangent: jax.Array
) -> tuple[None, jax.Array]:
    rows, columns, values = entries
    entries_of_columns = _taken(cotangent, rows) * values
    return None, jax.ops.segment_sum(entries_of_columns, columns, num_segments=shape[1], mode=_MODE)


_project.defvjp(_project_forward, _project_backward)
