"""Both forms are H G Π H B, column by column, with the adjoint of that matrix."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lorax.ops.fastfood import Blocks, draw_fastfood, draw_signs, table_size
from lorax.ops.hadamard import matrix

KEY = jax.random.key(0)


def columns(projection):
    return np.asarray(jax.jit(jax.vmap(projection.project))(jnp.eye(projection.shape[1])))


def blocks(dim, size, block):
    scale = jnp.float32(1 / math.sqrt(size))
    return Blocks(KEY, draw_signs(jax.random.key(1), dim), scale, block, (size, dim))


@pytest.mark.parametrize(("dim", "size"), [(5, 300), (33, 40), (7, 3), (1, 1)])
def test_one_transform_is_the_published_product(dim, size):
    fast = draw_fastfood(KEY, dim, size)
    length = max(table_size(size), table_size(dim))
    h = matrix(length).astype(np.float64)
    # Π after both long transforms: entry i is where the first one is picked from, up to the bits
    # in which θ's padding has zeros alone
    first = h @ np.pad(
        np.diag(np.asarray(fast.signs))[:, :dim], ((0, length - len(fast.signs)), (0, 0))
    )
    want = (h @ (np.asarray(fast.gaussian, np.float64)[:, None] * first[np.asarray(fast.picked)]))[
        :size
    ]
    np.testing.assert_allclose(columns(fast).T, want, atol=2e-5)
    # every entry of the table is picked as often as any other, as by a permutation of all places
    assert len(set(np.bincount(fast.picked, minlength=len(fast.signs)))) == 1


def test_norms_and_inner_products_at_the_size_of_the_paper():
    found = columns(draw_fastfood(KEY, 64, 199_210))
    products = found @ found.T
    norms = np.sqrt(np.diag(products))
    assert 0.99 < norms.min() and norms.max() < 1.01
    assert np.abs(products - np.diag(np.diag(products))).max() < 0.02


def test_blocks_have_unit_columns_that_are_nearly_orthogonal():
    found = columns(blocks(40, 20_000, 1024))
    products = found @ found.T
    np.testing.assert_allclose(np.sqrt(np.diag(products)), 1, atol=0.01)
    assert np.abs(products - np.diag(np.diag(products))).max() < 6 / math.sqrt(20_000)


@pytest.mark.parametrize(
    "projection",
    [draw_fastfood(KEY, 12, 300), blocks(12, 300, 64), blocks(12, 256, 64), blocks(12, 10, 16)],
    ids=["one", "blocks", "whole blocks", "a part of a block"],
)
def test_the_adjoint_is_that_of_the_matrix(projection):
    g = jnp.asarray(np.random.default_rng(0).normal(size=projection.shape[0]), jnp.float32)
    theta = jnp.arange(1.0, 13.0)
    found, back = jax.jit(
        lambda t, g: (projection.project(t), jax.vjp(projection.project, t)[1](g)[0])
    )(theta, g)
    p = columns(projection)
    np.testing.assert_allclose(found, np.asarray(theta) @ p, atol=1e-4)
    np.testing.assert_allclose(back, p @ np.asarray(g), atol=1e-4)


@pytest.mark.parametrize(
    "make", [lambda d: draw_fastfood(KEY, d, 900), lambda d: blocks(d, 900, 64)]
)
def test_fewer_columns_are_the_first_ones(make):
    np.testing.assert_allclose(columns(make(50))[:9], columns(make(9)), atol=1e-5)


def test_projections_of_many_seeds_go_through_vmap():
    drawn = [draw_fastfood(jax.random.key(seed), 6, 100) for seed in range(3)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *drawn)
    thetas = jnp.asarray(np.random.default_rng(1).normal(size=(3, 6)), jnp.float32)
    value = lambda fast, theta: jnp.sum(jnp.sin(fast.project(theta)))
    many = jax.vmap(jax.value_and_grad(value, argnums=1))(stacked, thetas)
    for i, (fast, theta) in enumerate(zip(drawn, thetas, strict=True)):
        alone = jax.value_and_grad(value, argnums=1)(fast, theta)
        for x, y in zip(many, alone, strict=True):
            np.testing.assert_allclose(x[i], y, atol=1e-4)


def test_devices_differ_in_the_order_of_sums_alone(monkeypatch):
    fast = draw_fastfood(KEY, 5, 100)
    g = jax.random.normal(KEY, (100,))
    (here,) = jax.vjp(fast.project, jnp.zeros(5))[1](g)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    (there,) = jax.vjp(fast.project, jnp.zeros(5))[1](g)
    np.testing.assert_allclose(there, here, atol=1e-6)
