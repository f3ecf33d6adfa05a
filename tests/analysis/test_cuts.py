"""Cuts of results from cuts of operands, one operation at a time."""

import jax
import jax.numpy as jnp
import pytest

from lorax.analysis.cuts import Value, cuts, item_bytes, value_of

MESH = {"data": 2, "tensor": 4}
ROWS, COLUMNS, WHOLE = ("data",), ("tensor",), ()


def cut_of(fn, *operands):
    """The cut of the result of the one operation that `fn` is; operands are (shape, cut)."""
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape, _ in operands]
    (eqn,) = jax.make_jaxpr(fn)(*shapes).jaxpr.eqns
    values = [Value(shape, jnp.float32, cut) for shape, cut in operands]
    (found,) = cuts(eqn, values, MESH)
    return found


def test_a_product_keeps_free_axes_and_adds_up_over_contracted_ones():
    x, w = ((8, 6, 16), (ROWS, WHOLE, WHOLE)), ((16, 12), (WHOLE, COLUMNS))
    assert cut_of(jnp.dot, x, w) == (ROWS, WHOLE, COLUMNS)
    hidden, down = ((8, 6, 16), (ROWS, WHOLE, COLUMNS)), ((16, 12), (COLUMNS, WHOLE))
    assert cut_of(jnp.dot, hidden, down) == (ROWS, WHOLE, WHOLE)


def test_a_batch_of_products_lies_as_either_side():
    stacked = lambda a, b: jax.lax.dot_general(a, b, (((2,), (1,)), ((0,), (0,))))
    a, b = ((4, 6, 8), (WHOLE, WHOLE, WHOLE)), ((4, 8, 8), (COLUMNS, WHOLE, ROWS))
    assert cut_of(stacked, a, b) == (COLUMNS, WHOLE, ROWS)


def test_no_axis_of_the_mesh_is_taken_twice():
    a, b = ((8, 16), (ROWS, WHOLE)), ((16, 8), (WHOLE, ROWS))
    assert cut_of(jnp.dot, a, b) == (ROWS, WHOLE)


@pytest.mark.parametrize(
    "before, cut, after, expected",
    [
        ((8, 6, 16), (ROWS, WHOLE, COLUMNS), (8, 6, 4, 4), (ROWS, WHOLE, COLUMNS, WHOLE)),
        ((8, 6, 4, 4), (ROWS, WHOLE, COLUMNS, WHOLE), (8, 6, 16), (ROWS, WHOLE, COLUMNS)),
        ((8, 6, 16), (ROWS, WHOLE, COLUMNS), (48, 16), (ROWS, COLUMNS)),
        ((8, 16), (ROWS, COLUMNS), (8, 1, 16), (ROWS, WHOLE, COLUMNS)),
        ((8, 16), (ROWS, COLUMNS), (8, 2, 8), (ROWS, WHOLE, WHOLE)),  # 2 heads on 4 devices
    ],
)
def test_axes_joined_and_divided(before, cut, after, expected):
    assert cut_of(lambda x: jnp.reshape(x, after), (before, cut)) == expected


def test_axes_moved_added_and_summed():
    x = ((8, 6, 16), (ROWS, WHOLE, COLUMNS))
    assert cut_of(lambda x: x.transpose(2, 0, 1), x) == (COLUMNS, ROWS, WHOLE)
    assert cut_of(lambda x: jax.lax.broadcast_in_dim(x, (3, 8, 6, 16), (1, 2, 3)), x)[1] == ROWS
    assert cut_of(lambda x: jax.lax.reduce_max(x, (2,)), x) == (ROWS, WHOLE)


def test_operands_of_one_shape_agree():
    a, b = ((8, 16), (WHOLE, WHOLE)), ((8, 16), (ROWS, COLUMNS))
    assert cut_of(jax.lax.add, a, b) == (ROWS, COLUMNS)
    fused = ((8, 48), (ROWS, COLUMNS))
    assert cut_of(lambda x: jax.lax.slice(x, (0, 0), (8, 16)), fused) == (ROWS, COLUMNS)


def test_rows_of_a_table_lie_as_the_indices():
    table = jax.ShapeDtypeStruct((32, 16), jnp.float32)
    indices = jax.ShapeDtypeStruct((8, 6, 1), jnp.int32)
    numbers = jax.lax.GatherDimensionNumbers((2,), (0,), (0,))
    look = lambda t, i: jax.lax.gather(t, i, numbers, (1, 16))
    (eqn,) = (e for e in jax.make_jaxpr(look)(table, indices).jaxpr.eqns if "gather" in str(e))
    values = [value_of(table), Value((8, 6, 1), jnp.int32, (ROWS, WHOLE, WHOLE))]
    assert cuts(eqn, values, MESH) == [(ROWS, WHOLE, WHOLE)]


def test_bytes_of_a_number():
    assert item_bytes(jnp.bfloat16) == 2 and item_bytes(jnp.dtype("int8")) == 1
    assert item_bytes(jnp.uint4) == 0.5


def test_a_shape_says_how_it_lies():
    kind = jax.sharding.AxisType.Auto
    mesh = jax.sharding.AbstractMesh((2, 4), ("data", "tensor"), axis_types=(kind, kind))
    spec = jax.sharding.PartitionSpec(("data", "tensor"))
    lies = jax.sharding.NamedSharding(mesh, spec)
    found = value_of(jax.ShapeDtypeStruct((8, 3), jnp.float32, sharding=lies), 5)
    assert found == Value((8, 3), jnp.float32, (("data", "tensor"), ()), 5, True)
