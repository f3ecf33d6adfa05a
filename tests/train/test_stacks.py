"""Trees of different shapes as one stack: padding is zero, and cutting undoes it."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lorax.train.stacks import common, cut, pad, stack, take

SHAPES = st.lists(st.tuples(*[st.integers(1, 4)] * 2), min_size=1, max_size=4)


def tree(shape, seed):
    x = np.random.default_rng(seed).normal(size=shape).astype(np.float32) + 5
    return {"x": jnp.asarray(x), "count": jnp.int32(seed)}


@given(SHAPES)
@settings(max_examples=6)
def test_what_is_padded_stacked_taken_and_cut_is_the_same(shapes):
    trees = [tree(shape, seed) for seed, shape in enumerate(shapes)]
    like = common(trees)
    assert like["x"].shape == tuple(max(s[i] for s in shapes) for i in range(2))
    stacked = stack([pad(one, like) for one in trees])
    for number, one in enumerate(trees):
        back = take(stacked, number)
        assert float(back["x"].sum()) == float(pad(one, like)["x"].sum())
        assert jax.tree.all(jax.tree.map(np.array_equal, cut(back, one), one))


def test_padding_is_zero_at_the_end():
    padded = pad({"x": jnp.ones((1, 2))}, {"x": jax.ShapeDtypeStruct((2, 3), jnp.float32)})
    assert padded["x"].tolist() == [[1, 1, 0], [0, 0, 0]]
