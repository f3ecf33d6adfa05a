"""Second moments of inputs equal those of activations that are written down."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lorax
from lorax.core.inputs import second_moments


def _moments(fn, base, x, names):
    roles = lorax.roles(fn, base, x)
    draw = jax.random.normal
    directions = {
        n: draw(jax.random.key(i), roles[n].shapes(base[n].shape, 2)[0])
        for i, n in enumerate(names)
    }
    run = jax.jit(lambda base, x: {
        n: (m.along, m.squares)
        for n, m in second_moments(fn, base, directions, roles, x).items()
    })  # fmt: skip
    return directions, run(base, x)


def _check(found, q, inputs):
    """`inputs` (tokens, in) of one matrix."""
    np.testing.assert_allclose(found[0], inputs.T @ (inputs @ q), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found[1], (inputs**2).sum(0), rtol=1e-4)


def test_dots_in_a_scan_under_remat():
    base = {"w": 0.4 * jax.random.normal(jax.random.key(0), (3, 4, 4)), "out": jnp.ones((4, 2))}
    x = jax.random.normal(jax.random.key(1), (2, 5, 4))

    def fn(base, x):
        layer = jax.checkpoint(lambda h, w: (jnp.sin(h @ w), None))
        return jax.lax.scan(layer, x, base["w"])[0] @ base["out"]

    directions, found = _moments(fn, base, x, ("w", "out"))
    h = x
    for i in range(3):
        one = jax.tree.map(lambda leaf, i=i: leaf[i], found["w"])
        _check(one, directions["w"][i], np.asarray(h).reshape(-1, 4))
        h = jnp.sin(h @ base["w"][i])
    _check(found["out"], directions["out"], np.asarray(h).reshape(-1, 4))


def test_experts_and_a_leaf_used_twice():
    base = {"e": jnp.ones((2, 4, 3)), "w": jnp.ones((3, 3))}
    x = jax.random.normal(jax.random.key(1), (2, 5, 4))

    def fn(base, x):
        return jnp.sin(jnp.einsum("etd,edf->etf", x, base["e"]) @ base["w"]) @ base["w"]

    directions, found = _moments(fn, base, x, ("e", "w"))
    for i in range(2):
        one = jax.tree.map(lambda leaf, i=i: leaf[i], found["e"])
        _check(one, directions["e"][i], np.asarray(x[i]))
    first = jnp.einsum("etd,edf->etf", x, base["e"])
    both = np.concatenate([first.reshape(-1, 3), jnp.sin(first @ base["w"]).reshape(-1, 3)])
    _check(found["w"], directions["w"], both)


def test_a_leaf_that_nothing_contracts():
    base = {"w": jnp.ones((4, 3))}
    roles = {"w": lorax.Roles((), (0,), (1,))}
    with pytest.raises(lorax.LoraxError, match="no product of the program contracts the inputs"):
        second_moments(lambda b, x: x * b["w"], base, {"w": jnp.ones((4, 2))}, roles, 2.0)
