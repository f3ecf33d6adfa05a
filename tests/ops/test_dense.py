"""Normal columns of norm 1, of which fewer are the first ones."""

import jax
import jax.numpy as jnp
import numpy as np

from lorax.ops.dense import draw_dense

KEY = jax.random.key(0)


def test_columns_have_norm_one_and_fewer_are_the_first_ones():
    wide, narrow = draw_dense(KEY, 20, 1000).columns, draw_dense(KEY, 6, 1000).columns
    np.testing.assert_allclose(jnp.linalg.norm(wide, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(wide[:6], narrow)
    products = np.asarray(wide @ wide.T) - np.eye(20)
    assert np.abs(products).max() < 5 / np.sqrt(1000)


def test_the_product_is_that_of_the_matrix():
    dense = draw_dense(KEY, 6, 50)
    theta = jnp.arange(6.0)
    np.testing.assert_allclose(dense.project(theta), dense.columns.T @ theta, atol=1e-6)
