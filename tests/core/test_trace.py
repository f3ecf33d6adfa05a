"""Programs on other leaves, and shapes in place of arrays."""

import jax
import jax.numpy as jnp
import pytest
from flax import linen, nnx

import lorax
from lorax.core.trace import check_program, shapes_of, shapes_only


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


def test_a_model_is_no_program():
    module = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    graph, state = nnx.split(module)
    check_program(lambda state, x: nnx.merge(graph, state)(x))
    check_program(nnx.jit(lambda state, x: x))
    check_program(linen.Dense(3).apply)
    cases = {
        "fn is a Linear, an NNX module .*nnx.split": module,
        "fn is a Dense: .*pass model.apply": linen.Dense(3),
        "fn is a int: expected a function": 3,
    }
    for words, wrong in cases.items():
        with pytest.raises(lorax.LoraxTypeError, match=words) as caught:
            lorax.adapt(wrong, lorax.LoRA(rank=2))
        assert "\n" not in str(caught.value)
