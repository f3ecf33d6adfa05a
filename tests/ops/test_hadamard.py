"""The transform is H, by every factor and in every batch; it is its own inverse and its adjoint."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorax.core.errors import LoraxError
from lorax.ops.hadamard import hadamard, matrix


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def test_the_published_example():
    found = hadamard(jnp.array([1.0, 0, 1, 0, 0, 1, 1, 0]))
    np.testing.assert_array_equal(found, [4, 2, 0, -2, 0, 2, 0, 2])


@settings(max_examples=15)
@given(
    bits=st.integers(0, 9), factor_bits=st.integers(1, 7), batch=st.sampled_from([(), (3,), (2, 3)])
)
def test_any_length_factor_and_batch_is_the_product_with_h(bits, factor_bits, batch):
    x = jnp.asarray(normal(*batch, 2**bits), jnp.float32)
    found = hadamard(x, factor=2**factor_bits)
    want = np.asarray(x, np.float64) @ matrix(2**bits)
    np.testing.assert_allclose(found, want, atol=1e-5 * 2 ** (bits / 2))


def test_twice_is_times_the_length():
    x = jnp.asarray(normal(2**14), jnp.float32)
    np.testing.assert_allclose(hadamard(hadamard(x)) / 2**14, x, atol=1e-6)


def test_the_gradient_is_that_of_finite_differences():
    with jax.enable_x64(True):
        x, g = jnp.asarray(normal(64)), jnp.asarray(normal(64, seed=1))
        value = lambda x: jnp.sum(jnp.sin(hadamard(x)) * g)
        slope, size = jax.grad(value)(x), 1e-6
        for i in range(0, 64, 7):
            moved = jnp.zeros(64).at[i].set(size)
            difference = (value(x + moved) - value(x - moved)) / (2 * size)
            assert abs(float(slope[i] - difference)) < 1e-8 * max(1.0, abs(float(difference)))


def test_the_adjoint_is_exact():
    with jax.enable_x64(True):
        x, g = jnp.asarray(normal(2**10)), jnp.asarray(normal(2**10, seed=1))
        y, back = jax.vjp(hadamard, x)
        assert abs(float(jnp.vdot(y, g) - jnp.vdot(x, back(g)[0]))) < 1e-10 * float(
            jnp.abs(y).sum()
        )


def test_vmap_and_its_gradients_are_those_of_each_row():
    x = jnp.asarray(normal(3, 256), jnp.float32)
    rows = jnp.stack([hadamard(row) for row in x])
    np.testing.assert_allclose(jax.vmap(hadamard)(x), rows, atol=1e-4)
    value = lambda x: jnp.sum(hadamard(x) ** 2)
    slopes = jnp.stack([jax.grad(value)(row) for row in x])
    np.testing.assert_allclose(jax.vmap(jax.grad(value))(x), slopes, rtol=1e-4)
    outside = jax.grad(lambda x: jnp.sum(jax.vmap(hadamard)(x) ** 2))(x)
    np.testing.assert_allclose(outside, slopes, rtol=1e-4)


def test_a_long_axis_needs_no_array_of_its_square():
    shape = jax.ShapeDtypeStruct((2**29,), jnp.float32)
    compiled = jax.jit(hadamard).lower(shape).compile()
    assert compiled.memory_analysis().temp_size_in_bytes <= 2 * 4 * 2**29 + 2**20


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (jnp.zeros(12), "length 12: expected a power of two"),
        (jnp.zeros((2, 0)), "length 0"),
        (jnp.zeros(()), "length 0"),
        (jnp.zeros(8, jnp.int32), "dtype int32: expected floating-point"),
    ],
)
def test_what_has_no_transform_is_refused(x, words):
    with pytest.raises(LoraxError, match=words):
        hadamard(x)


def test_a_factor_is_a_power_of_two():
    with pytest.raises(LoraxError, match="factor is 3"):
        hadamard(jnp.zeros(8), factor=3)
