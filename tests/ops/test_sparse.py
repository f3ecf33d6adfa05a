"""Columns of norm 1 with √n entries each, and a product that is that of the matrix."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lorax.ops.sparse import draw_sparse

KEY = jax.random.key(0)


def matrix(sparse):
    found = np.zeros(sparse.shape)
    np.add.at(
        found, (np.asarray(sparse.rows), np.asarray(sparse.columns)), np.asarray(sparse.values)
    )
    return found


@pytest.mark.parametrize(("runs", "dim"), [([1], 1), ([60], 9), ([2, 3], 4), ([1, 50, 17, 9], 6)])
def test_every_column_has_norm_one_and_root_n_entries_a_run(runs, dim):
    sparse = draw_sparse(KEY, dim, runs)
    found = matrix(sparse)
    np.testing.assert_allclose(np.linalg.norm(found, axis=0), 1, atol=1e-6)
    start = 0
    for run in runs:
        part = found[start : start + run]
        assert ((part != 0).sum(axis=0) == max(1, round(math.sqrt(run)))).all()
        np.testing.assert_allclose((part**2).sum(axis=0), run / sum(runs), atol=1e-6)
        start += run
    assert (np.diff(sparse.rows) >= 0).all()


def test_the_product_and_its_transpose_are_those_of_the_matrix():
    with jax.enable_x64(True):
        sparse = draw_sparse(KEY, 13, [400, 20])
        rng = np.random.default_rng(0)
        theta, g = jnp.asarray(rng.normal(size=13)), jnp.asarray(rng.normal(size=420))
        found, back = jax.vjp(sparse.project, theta)
        np.testing.assert_allclose(found, matrix(sparse) @ theta, atol=1e-12)
        np.testing.assert_allclose(back(g)[0], matrix(sparse).T @ g, atol=1e-12)


def test_fewer_columns_are_the_first_ones():
    wide, narrow = (matrix(draw_sparse(KEY, dim, [500])) for dim in (40, 7))
    np.testing.assert_array_equal(wide[:, :7], narrow)


def test_every_row_is_met_equally_often():
    counts = (matrix(draw_sparse(KEY, 4000, [100])) != 0).sum(axis=1)
    assert abs(counts.mean() - 400) < 1 and counts.std() < 3 * math.sqrt(400)


def test_projections_of_many_seeds_go_through_vmap():
    keys = jax.random.split(KEY, 3)
    drawn = [draw_sparse(key, 5, [200]) for key in keys]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *drawn)
    thetas = jnp.asarray(np.random.default_rng(1).normal(size=(3, 5)), jnp.float32)
    many = jax.vmap(lambda sparse, theta: sparse.project(theta))(stacked, thetas)
    for sparse, theta, found in zip(drawn, thetas, many, strict=True):
        np.testing.assert_allclose(found, sparse.project(theta), atol=1e-6)
