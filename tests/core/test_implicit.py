"""The definition: merge in float32, round once, keep every bit at zero; views by label."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lorax
from lorax.core.implicit import bare, implicit, merged, with_leaves
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


def test_pieces_and_rebuild_are_inverse_for_a_quantised_leaf_too():
    pytest.importorskip("qwix")
    w = jax.random.normal(jax.random.key(0), (3, 128, 8))
    plain = bare("w", w)
    packed = bare("w", lorax.quantize({"w": w}, "nf4", where=("w",))["w"])
    assert plain.shape == packed.shape == (3, 128, 8)
    for leaf in (plain, packed):
        again = leaf.rebuild([array for array, _ in leaf.pieces()])
        np.testing.assert_array_equal(merged(again), merged(leaf))
        second = leaf.rebuild([array[1] for array, _ in leaf.pieces()], drop=0)
        np.testing.assert_array_equal(merged(second), merged(leaf)[1])
    assert [labels[0] for _, labels in packed.pieces()] == [0, 0]
    assert packed.whole(1) and not packed.whole(2) and not plain.whole(1)


def test_a_merged_tree_is_plain_throughout():
    pytest.importorskip("qwix")
    base = {name: jax.random.normal(jax.random.key(1), (64, 8)) for name in "ab"} | {"c": 1}
    packed = lorax.quantize(base, "int8", where=("a", "b"))
    factors = lorax.Factors(jnp.ones((64, 1)), jnp.ones((1, 8)), MATRIX)
    tree = with_leaves(packed, {"a": LowRank(factors, 1.0)})
    dense = lorax.dequantize(packed)
    assert jax.tree.structure(tree) == jax.tree.structure(base) and tree["c"] == 1
    np.testing.assert_array_equal(tree["b"], dense["b"])
    np.testing.assert_allclose(tree["a"], dense["a"] + 1, rtol=1e-6)
