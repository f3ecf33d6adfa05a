"""Programs on other leaves, and shapes in place of arrays."""

import jax
import jax.numpy as jnp

from lorax.core.trace import shapes_of, shapes_only


def test_only_shapes_become_arguments():
    shape = jax.ShapeDtypeStruct((2,), jnp.float32)
    tree = ({"x": shape, "n": 3, "key": jax.random.key(0)}, "relu", None)
    abstract, put_back = shapes_only(tree)
    assert abstract == [shape]
    filled = put_back([jnp.ones(2)])
    assert filled[0]["n"] == 3 and filled[1] == "relu" and filled[2] is None
    assert filled[0]["x"].sum() == 2 and filled[0]["key"] is tree[0]["key"]


def test_shapes_of_leaves():
    assert shapes_of({"a": jnp.ones((2, 3))}) == {"a": jax.ShapeDtypeStruct((2, 3), jnp.float32)}
