"""Roles, factors, and the definition: merge in float32, round once, keep every bit at zero."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lorax
from lorax.core.implicit import implicit, merged
from lorax.core.leaf import LowRank

MATRIX = lorax.Roles((), (0,), (1,))


def _merge(w, a, b, scale=1.0, **kwargs):
    factors = lorax.Factors(jnp.asarray(a), jnp.asarray(b), MATRIX)
    return merged(implicit("w", jnp.asarray(w), LowRank(factors, scale, **kwargs)))


def test_zero_update_keeps_every_bit_and_has_the_gradient_of_a_sum():
    w = np.array([[-0.0, 1.5], [np.float32(1e-40), 2.0]], np.float32)
    a, b = np.ones((2, 1), np.float32), np.zeros((1, 2), np.float32)
    assert np.asarray(_merge(w, a, b)).tobytes() == w.tobytes()
    slope = jax.grad(lambda b: _merge(w, a, b, 3.0).sum())(jnp.asarray(b))
    np.testing.assert_array_equal(slope, [[6.0, 6.0]])


def test_bfloat16_is_rounded_once():
    rng = np.random.default_rng(0)
    w = rng.normal(size=(16, 16)).astype(jnp.bfloat16)
    a, b = (rng.normal(size=s).astype(np.float32) for s in ((16, 3), (3, 16)))
    want = (w.astype(np.float32) + 0.01 * (a @ b)).astype(jnp.bfloat16)
    got = np.asarray(_merge(w, a, b, 0.01))
    assert got.dtype == w.dtype
    assert np.mean(got != want) < 0.01  # float32 summation order can move a tie


def test_zero_factors_give_zero_whatever_the_offset():
    rng = np.random.default_rng(0)
    w, a, b = (rng.normal(size=s).astype(np.float32) for s in ((7, 5), (7, 3), (3, 5)))
    offset = lorax.Factors(jnp.asarray(a), jnp.asarray(b), MATRIX)
    zeros = np.zeros_like(a), np.zeros_like(b)
    for merge in (_merge, jax.jit(_merge)):
        assert np.asarray(merge(w, *zeros, 0.37, offset=offset)).tobytes() == w.tobytes()


def test_an_offset_is_where_the_factors_are_counted_from():
    rng = np.random.default_rng(0)
    w, a, b = (rng.normal(size=s).astype(np.float32) for s in ((7, 5), (7, 3), (3, 5)))
    a0, b0 = a[::-1].copy(), b[:, ::-1].copy()
    offset = lorax.Factors(jnp.asarray(a0), jnp.asarray(b0), MATRIX)
    want = w + 0.4 * ((a0 + a) @ (b0 + b) - a0 @ b0)
    np.testing.assert_allclose(_merge(w, a, b, 0.4, offset=offset), want, rtol=1e-4, atol=1e-4)


def test_factors_are_two_arrays_with_roles_in_the_structure():
    factors = lorax.Factors(jnp.ones((4, 2)), jnp.ones((2, 3)), MATRIX)
    assert factors.rank == 2
    assert len(jax.tree.leaves(factors)) == 2
    assert jax.tree.map(lambda x: x + 1, factors).roles == MATRIX
    other = lorax.Factors(factors.A, factors.B, lorax.Roles((), (1,), (0,)))
    assert jax.tree.structure(other) != jax.tree.structure(factors)


def test_where_roles_come_from_is_no_part_of_them():
    assert lorax.Roles((), (0,), (1,), "gather") == MATRIX
    assert hash(lorax.Roles((), (0,), (1,), "conv", "seen")) == hash(MATRIX)


@pytest.mark.parametrize(
    "roles", [((), (0,), ()), ((0,), (0,), (1,)), ((), (0, 2), (1,)), ((), (0,), (1, 3))]
)
def test_roles_that_are_no_partition_are_refused(roles):
    with pytest.raises(lorax.LoraxError, match="roles of 'w'.*expected each of its 2 axes once"):
        lorax.Roles(*roles).check("w", (4, 4))
