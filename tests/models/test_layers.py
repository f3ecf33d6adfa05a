"""Norms, products and tables, each against its equation or its documented first values."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lorax.models import GPT2Config, RMSNorm, layers

CONFIG = GPT2Config(32, 16, 2, 4, norm_eps=1e-3)


def normal(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def test_rms_norm_is_its_equation():
    x, scale = normal(2, 3, 8), normal(8, seed=1)
    y = RMSNorm(eps=1e-3).apply({"params": {"scale": scale}}, x)
    wide = np.asarray(x, np.float64)
    expected = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-3) * np.asarray(scale)
    np.testing.assert_allclose(y, expected, rtol=1e-5)


def test_rms_norm_starts_as_ones_in_the_parameter_dtype():
    params = RMSNorm(param_dtype=jnp.bfloat16).init(jax.random.key(0), normal(2, 8))["params"]
    assert params["scale"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(params["scale"], np.ones(8))


def test_rms_norm_takes_statistics_in_float32():
    x = (1 + normal(2, 4096) / 8).astype(jnp.bfloat16)
    params = {"params": {"scale": jnp.ones(4096)}}
    y = RMSNorm().apply(params, x)
    exact = RMSNorm().apply(params, x.astype(jnp.float32))
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y, exact.astype(jnp.bfloat16))


def test_rms_norm_compute_dtype_decides_the_output():
    params = {"params": {"scale": jnp.ones(8)}}
    assert RMSNorm(dtype=jnp.bfloat16).apply(params, normal(2, 8)).dtype == jnp.bfloat16


def test_layer_norm_is_its_equation_also_far_from_zero():
    x, scale, bias = 3000 + normal(2, 3, 16), normal(16, seed=1), normal(16, seed=2)
    module = layers.layer_norm(CONFIG, "norm")
    y = module.apply({"params": {"scale": scale, "bias": bias}}, x)
    wide = np.asarray(x, np.float64)
    centred = wide - wide.mean(-1, keepdims=True)
    spread = np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-3)
    np.testing.assert_allclose(y, centred / spread * scale + bias, atol=3e-3)


@pytest.mark.parametrize("bias", [False, True])
def test_dense_starts_small_and_smaller_before_the_stream(bias):
    deviation = {}
    for residual in (False, True):
        module = layers.dense(CONFIG, 4096, "out", bias=bias, residual=residual)
        params = module.init(jax.random.key(0), normal(1, 16))["params"]
        assert ("bias" in params) == bias and params["kernel"].shape == (16, 4096)
        deviation[residual] = float(params["kernel"].std())
    np.testing.assert_allclose(deviation[False], (2 / (5 * 16)) ** 0.5, rtol=0.05)
    np.testing.assert_allclose(deviation[True], deviation[False] / 2, rtol=0.05)  # sqrt(2 * 2)


@pytest.mark.parametrize("tied", [False, True])
def test_the_head_is_the_product_with_the_vocabulary_also_in_a_scan(tied):
    config = dataclasses.replace(CONFIG, tied=tied, dtype="bfloat16")

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            embed = layers.embed(config, 32, "embed")
            head = layers.vocabulary_head(config, embed, "lm_head")
            return head(x), jax.lax.map(jax.checkpoint(head), x)

    x = normal(3, 4, 16)
    table = normal(*((32, 16) if tied else (16, 32)), seed=1)
    params = {"embed": {"embedding": table}} if tied else {"lm_head": {"kernel": table}}
    drawn = Model().init(jax.random.key(0), x)["params"]
    assert jax.tree.structure(drawn) == jax.tree.structure(params)
    logits, scanned = Model().apply({"params": params}, x)
    assert logits.shape == (3, 4, 32) and logits.dtype == jnp.bfloat16
    exact = x @ (table.T if tied else table)
    np.testing.assert_allclose(logits.astype(jnp.float32), exact, atol=0.1)
    np.testing.assert_array_equal(logits, scanned)


def test_an_index_beyond_the_table_gives_nan():
    table = layers.embed(CONFIG, 3, "positions")
    rows = table.apply({"params": {"embedding": jnp.ones((3, 16))}}, jnp.array([2, 3]))
    assert (rows[0] == 1).all() and jnp.isnan(rows[1]).all()


def test_attention_dropout_is_none_where_nothing_drops():
    assert layers.attention_dropout(0.5, deterministic=True) is None
    assert layers.attention_dropout(0.0, deterministic=False) is None
    assert layers.attention_dropout(0.5, deterministic=False).rate == 0.5


def test_an_interceptor_meets_a_product_once():
    dense = layers.dense(CONFIG, 3, "any", bias=False)
    x, met = normal(2, 4), []
    weights = dense.init(jax.random.key(0), x)

    def note(call, args, kwargs, context):
        met.append(context.module.name)
        return 2 * call(*args, **kwargs)

    with nn.intercept_methods(note):
        found = dense.apply(weights, x)
    assert met == ["any"]
    np.testing.assert_array_equal(found, 2 * dense.apply(weights, x))
