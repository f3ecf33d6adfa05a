"""Where do the numbers between layers lie on a mesh? With their rows, and whole in all other axes.

XLA spreads the shardings of a program's arguments through all of it, and mostly well. It errs where
a frozen table is cut along its width by the axis that also cuts the rows of a batch: then the whole
residual stream is cut along its width, and every product ends in a sum over devices, where one
layer's weights at a time should have been gathered. It is enough to say, before the first layer,
that the stream lies as its rows do: weights are then gathered as they are used, inside the scan.
The product with the vocabulary says besides that its table is gathered once, not with every chunk
of tokens.

This holds under the mesh of `jax.set_mesh` or `jax.sharding.use_abstract_mesh` where it has the
axes `data` and `fsdp`, which cut rows, and `tensor`, which cuts the vocabulary, all of them Auto.
Elsewhere nothing is done.
"""

import math

import jax
from jax.sharding import AbstractMesh, AxisType
from jax.sharding import PartitionSpec as P

_ROWS, _CHANNELS = ("data", "fsdp"), "tensor"


def stream(x: jax.Array) -> jax.Array:
    """``x`` (B, ..., D), what was looked up, cut along its rows alone.

    A batch that the devices do not divide is left to XLA.
    """
    mesh = _mesh()
    if mesh is None or x.shape[0] % math.prod(mesh.shape[axis] for axis in _ROWS):
        return x
    # in two steps: XLA finds no short way at once from the cut of a table to that of the rows
    middle = P(_ROWS[0], *[None] * (x.ndim - 2), P.UNCONSTRAINED)
    return jax.lax.with_sharding_constraint(jax.lax.with_sharding_constraint(x, middle), P(_ROWS))


def vocabulary(table: jax.Array, axis: int) -> jax.Array:
    """``table`` of a head, cut along ``axis``, that of the vocabulary, where it divides."""
    mesh = _mesh()
    if mesh is None:
        return table
    divides = table.shape[axis] % mesh.shape[_CHANNELS] == 0
    cut = [_CHANNELS if divides and i == axis else None for i in range(table.ndim)]
    return jax.lax.with_sharding_constraint(table, P(*cut))


def _mesh() -> AbstractMesh | None:
    """The mesh that is in force, if it has the axes."""
    mesh = jax.sharding.get_abstract_mesh()
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    auto = all(kinds.get(axis) == AxisType.Auto for axis in (*_ROWS, _CHANNELS))
    return mesh if auto else None
