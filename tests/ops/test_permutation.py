"""A Feistel network is a bijection that shuffles, and a gather through it has a gather backward."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorax.core.errors import LoraxError
from lorax.ops.permutation import draw_permutation, permute


@pytest.mark.parametrize("bits", [0, 1, 2, 5, 10])
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=10)
def test_it_is_a_bijection_and_inverse_undoes_it(bits, seed):
    permutation = draw_permutation(jax.random.key(np.uint32(seed)), 2**bits)
    index = jnp.arange(2**bits)
    places = permutation.places(index)
    assert sorted(places.tolist()) == list(range(2**bits))
    np.testing.assert_array_equal(permutation.inverse(places), index)


def test_it_shuffles_as_a_drawn_permutation_does():
    size, draws = 64, 400
    keys = jax.random.split(jax.random.key(0), draws)
    places = np.asarray(
        jax.vmap(lambda key: draw_permutation(key, size).places(jnp.arange(size)))(keys)
    )
    counts = np.stack([np.bincount(places[:, i], minlength=size) for i in range(size)])
    expected = draws / size
    statistic = ((counts - expected) ** 2 / expected).sum() / (size * (size - 1))
    assert 0.9 < statistic < 1.1  # chi-squared a degree of freedom: every place equally often
    steps = np.abs(np.diff(places, axis=1)).mean()
    assert abs(steps - size / 3) < 0.05 * size  # neighbours land as far apart as two random places


def test_permute_is_that_order_and_its_gradient_the_other():
    x = jnp.arange(32.0)
    permutation = draw_permutation(jax.random.key(3), 32)
    np.testing.assert_array_equal(permute(x, permutation), x[permutation.places(jnp.arange(32))])
    weights = jnp.asarray(np.random.default_rng(0).normal(size=32), jnp.float32)
    slope = jax.grad(lambda x: jnp.vdot(permute(x, permutation), weights))(x)
    np.testing.assert_array_equal(permute(slope, permutation), weights)
    text = (
        jax.jit(jax.grad(lambda x: jnp.vdot(permute(x, permutation), weights))).lower(x).as_text()
    )
    assert "scatter" not in text


def test_a_length_is_a_power_of_two():
    with pytest.raises(LoraxError, match="length is 6"):
        draw_permutation(jax.random.key(0), 6)
