"""Who computes attention, the written-out path against the fused one, and masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lorax.models import attention, segment_mask
from lorax.models.attention import attend, implementation, pair_mask

HERE = {"backend": "gpu", "dtype": "bfloat16", "head_dim": 64}
SHAPE = {"tokens": 128, "keys": 128, "masked": False}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, "cudnn"),
        ({"dtype": "float16"}, "cudnn"),
        ({"head_dim": 128}, "cudnn"),
        ({"masked": True}, "cudnn"),
        ({"tokens": 127, "keys": 127}, "cudnn"),
        ({"tokens": 127, "keys": 127, "masked": True}, "xla"),
        ({"backend": "cpu"}, "xla"),
        ({"backend": "tpu"}, "xla"),
        ({"dtype": "float32"}, "xla"),
        ({"head_dim": 256}, "xla"),
        ({"head_dim": 12}, "xla"),
        ({"tokens": 1}, "xla"),  # decoding over a cache
    ],
)
def test_auto_takes_cudnn_where_it_can(change, expected):
    assert implementation("auto", **{**HERE, **SHAPE, **change}) == expected


def test_a_named_implementation_is_taken_or_refused():
    assert implementation("xla", **HERE, **SHAPE) == "xla"
    assert implementation("cudnn", **HERE, **{**SHAPE, "tokens": 1}) == "cudnn"
    for change in ({"backend": "cpu"}, {"dtype": "float32"}):
        with pytest.raises(ValueError, match='attention="cudnn" needs a GPU and 16-bit .*: set'):
            implementation("cudnn", **{**HERE, **SHAPE, **change})


def test_the_choice_reaches_jax_with_a_full_mask(monkeypatch):
    seen = {}

    def fused(query, key, value, **options):
        seen.update(options)
        return query

    monkeypatch.setattr(attention, "implementation", lambda *_, **__: "cudnn")
    monkeypatch.setattr(jax.nn, "dot_product_attention", fused)
    x = jnp.zeros((2, 4, 2, 8), jnp.bfloat16)
    attend(x, x, x, mask=pair_mask(jnp.ones((2, 4), bool)), causal=True, attention="cudnn")
    assert seen["implementation"] == "cudnn" and seen["is_causal"]
    assert seen["mask"].shape == (2, 1, 4, 4)


def operands(dtype="float32", tokens=6):
    draw = np.random.default_rng(0)
    shapes = (2, tokens, 4, 8), (2, 6, 2, 8), (2, 6, 2, 8)
    return [jnp.asarray(draw.normal(size=shape), dtype) for shape in shapes]


MASKS = {
    "none": None,
    "padding": pair_mask(jnp.ones((2, 6), bool).at[1, 4:].set(False)),
    "pairs": pair_mask(segment_mask(jnp.array([[1, 1, 2, 2, 2, 0], [1, 1, 1, 1, 2, 2]]))),
}


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("mask", MASKS)
def test_dropping_nothing_equals_the_fused_path_in_values_and_gradients(mask, causal):
    def run(drop):
        def loss(operands):
            mixed = attend(*operands, mask=MASKS[mask], causal=causal, drop=drop)
            return jnp.sum(jnp.sin(mixed)), mixed

        return jax.jit(jax.grad(loss, has_aux=True))(operands())

    for a, b in zip(jax.tree.leaves(run(None)), jax.tree.leaves(run(lambda w: w)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_dropping_nothing_equals_the_fused_path_in_bfloat16_and_with_fewer_queries():
    drop = lambda weights: weights
    for dtype, tokens in (("bfloat16", 6), ("float32", 3)):
        a, b = (
            attend(*operands(dtype, tokens), mask=None, causal=False, drop=d) for d in (None, drop)
        )
        assert a.dtype == b.dtype == jnp.dtype(dtype) and a.shape == b.shape == (2, tokens, 4, 8)
        np.testing.assert_allclose(a.astype("f4"), b.astype("f4"), atol=2e-2)


def test_what_is_dropped_are_the_weights_after_the_softmax():
    seen = []

    def drop(weights):
        seen.append(weights)
        return weights.at[..., 0].set(0)

    query, key, value = operands()
    mixed = attend(query, key, value, mask=None, causal=False, drop=drop)
    assert seen[0].shape == (2, 2, 2, 6, 6)
    np.testing.assert_allclose(seen[0].sum(-1), 1, rtol=1e-5)
    unseen = attend(query, key, value.at[:, 0].set(9.0), mask=None, causal=False, drop=drop)
    np.testing.assert_array_equal(mixed, unseen)


@pytest.mark.parametrize("drop", [None, lambda weights: weights])
def test_a_row_that_sees_nothing_has_finite_gradients(drop):
    mask = pair_mask(jnp.zeros((2, 6), bool))
    loss = lambda operands: jnp.sum(attend(*operands, mask=mask, causal=True, drop=drop) ** 2)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.jit(jax.grad(loss))(operands()))


def test_pair_masks_have_a_head_axis():
    assert pair_mask(None) is None
    assert pair_mask(jnp.ones((2, 6), bool)).shape == (2, 1, 1, 6)
    assert pair_mask(jnp.ones((2, 6, 6), bool)).shape == (2, 1, 6, 6)


def test_segment_mask_joins_equal_ids_and_nothing_to_padding():
    mask = segment_mask(jnp.array([[1, 1, 2, 0]]))
    expected = [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    np.testing.assert_array_equal(mask[0], np.array(expected, bool))


@pytest.mark.parametrize("segments", [jnp.ones((2, 3)), jnp.ones(3, jnp.int32)])
def test_segment_mask_wants_two_integer_axes(segments):
    with pytest.raises(ValueError, match=r"segments must be integers of shape \(batch, tokens\)"):
        segment_mask(segments)
