"""What a model says of a mesh: rows and vocabularies are cut where they divide, or nothing is."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from lorax.models import mesh as where

AXES = ("data", "fsdp", "tensor")


def _mesh(*shape, names=AXES, kind=AxisType.Auto):
    return jax.make_mesh(shape, names, axis_types=(kind,) * len(names))


def _under(mesh, fn, x):
    """`fn(x)` compiled under the mesh, and where it lies."""

    def program(x):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return fn(x)

    y = jax.jit(program)(x)
    assert (y == x).all()
    return y.sharding


def test_without_a_mesh_nothing_is_said():
    x = jnp.ones((8, 2, 4))
    assert where.stream(x) is x and where.vocabulary(x[0], 0) is not None
    assert "sharding_constraint" not in str(jax.make_jaxpr(where.stream)(x))


def test_a_stream_is_cut_along_its_rows():
    mesh = _mesh(2, 2, 1)
    x = jax.device_put(
        jnp.arange(64.0).reshape(8, 2, 4), NamedSharding(mesh, P(None, None, "fsdp"))
    )
    assert _under(mesh, where.stream, x).is_equivalent_to(
        NamedSharding(mesh, P(("data", "fsdp"))), 3
    )


@pytest.mark.parametrize("rows", [1, 6])
def test_rows_that_do_not_divide_are_left_alone(rows):
    x = jnp.ones((rows, 2, 4))
    mesh = _mesh(2, 2, 1)
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        assert "sharding_constraint" not in str(jax.make_jaxpr(where.stream)(x))


@pytest.mark.parametrize(
    ("shape", "axis", "cut"),
    [((6, 4), 0, P("tensor")), ((4, 6), 1, P(None, "tensor")), ((5, 4), 0, P())],
)
def test_a_vocabulary_is_cut_where_it_divides_and_the_width_is_whole(shape, axis, cut):
    mesh = _mesh(1, 2, 2)
    lies = P(*("fsdp" if i != axis else None for i in range(2)))
    table = jax.device_put(jnp.ones(shape), NamedSharding(mesh, lies))
    found = _under(mesh, lambda x: where.vocabulary(x, axis), table)
    assert found.is_equivalent_to(NamedSharding(mesh, cut), 2)


@pytest.mark.parametrize(
    "mesh",
    [
        lambda: _mesh(2, 2, names=("rows", "columns")),
        lambda: _mesh(2, 2, names=("data", "tensor")),
        lambda: _mesh(2, 2, 1, kind=AxisType.Explicit),
    ],
)
def test_another_mesh_is_somebody_elses(mesh):
    x = jnp.ones((8, 2, 4))
    with jax.sharding.use_abstract_mesh(mesh().abstract_mesh):
        assert where.stream(x) is x
