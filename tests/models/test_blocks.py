"""One by one or scanned, kept or recomputed: the same layers."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lorax
from lorax.models import GPT2, GPT2Config
from lorax.models.blocks import POLICIES, run_layers

CONFIG = GPT2Config(32, 4, 3, 1)
FORMS = pytest.mark.parametrize(
    "config",
    [
        dataclasses.replace(CONFIG, scan=scan, remat=remat)
        for scan in (False, True)
        for remat in (False, True)
    ],
    ids=["plain", "remat", "scan", "scan_remat"],
)


class Layer(nn.Module):
    """Adds a bias, the layer's number and what it is given; notes what dropout leaves."""

    config: GPT2Config
    deterministic: bool = True

    @nn.compact
    def __call__(self, x, number, given):
        bias = self.param("bias", nn.initializers.normal(), (4,))
        kept = nn.Dropout(0.5, deterministic=self.deterministic)(jnp.ones(64))
        self.sow("intermediates", "kept", kept)
        return x + bias + given + (0 if number is None else number), None


class Model(nn.Module):
    """Nothing but its layers."""

    config: GPT2Config
    options: dict

    @nn.compact
    def __call__(self, x, given):
        return run_layers(Layer, self.config, x, given, **self.options)


@FORMS
def test_every_layer_runs_once_in_order(config):
    model, x = Model(config, {"numbered": True}), jnp.zeros(4)
    params = model.init(jax.random.key(0), x, 10.0)["params"]
    if config.scan:
        assert jax.tree.map(jnp.shape, params) == {"layers": {"bias": (3, 4)}}
        biases = params["layers"]["bias"]
    else:
        assert list(params) == ["layer_0", "layer_1", "layer_2"]
        biases = jnp.stack([layer["bias"] for layer in params.values()])
    y = model.apply({"params": params}, x, 10.0)
    np.testing.assert_allclose(y, biases.sum(0) + 30 + 3, rtol=1e-5)
    assert jnp.abs(biases[0] - biases[1]).max() > 1e-4
    text = str(jax.make_jaxpr(model.apply)({"params": params}, x, 10.0))
    assert (" scan[" in text) == config.scan
    assert ("checkpoint" in text or "remat" in text) == config.remat


@FORMS
def test_every_layer_draws_its_own_dropout(config):
    model, x = Model(config, {"deterministic": False}), jnp.zeros(4)
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    params = model.init(keys, x, 0.0)["params"]
    _, state = model.apply(
        {"params": params}, x, 0.0, rngs={"dropout": jax.random.key(2)}, mutable=["intermediates"]
    )
    kept = np.concatenate([np.reshape(k, (-1, 64)) for k in jax.tree.leaves(state)])
    assert kept.shape == (3, 64) and len({row.tobytes() for row in kept}) == 3
    assert 0 < (kept == 0).mean() < 1


def test_numbers_are_not_in_a_scan_that_asks_for_none():
    config = dataclasses.replace(CONFIG, scan=True)
    model, x = Model(config, {}), jnp.zeros(4)
    params = model.init(jax.random.key(0), x, 0.0)
    assert "iota" not in str(jax.make_jaxpr(model.apply)(params, x, 0.0))


def _slopes(remat, scan=True):
    """What a step would differentiate, under a policy: GPT-2 with an adapter, on shapes."""
    config = GPT2Config(16, 8, 2, 2, max_length=8, scan=scan, remat=remat)
    model, tokens = GPT2(config), jnp.zeros((2, 8), jnp.int32)
    base = jax.eval_shape(model.init, jax.random.key(0), tokens)
    apply = lorax.adapt(model.apply, lorax.LoRA(rank=2))
    delta = jax.eval_shape(apply.init, jax.random.key(1), base, tokens)
    loss = lambda delta, base: jnp.sum(jnp.sin(apply(base, delta, tokens)))
    return loss, delta, base


def _kept(remat):
    """Numbers that the layers keep for the backward pass, arguments apart."""
    loss, delta, base = _slopes(remat)
    kept = jax.eval_shape(lambda d, b: jax.vjp(lambda d: loss(d, b), d)[1], delta, base)
    known = {leaf.shape for leaf in jax.tree.leaves((delta, base))}
    return sum(leaf.size for leaf in jax.tree.leaves(kept) if leaf.shape not in known)


def test_policies_keep_less_and_less():
    kept = {remat: _kept(remat) for remat in ("", "dots", "offload", "full", True)}
    assert kept[""] > 1.5 * kept["dots"] and kept["dots"] > 1.5 * kept["full"] > 0
    assert kept["offload"] == kept["dots"] and kept[True] == kept["full"]
    assert set(POLICIES) == {"full", "dots", "offload"}


def test_a_product_of_several_is_kept_once():
    """Under "dots" an adapted product counts as one: query, key and value, out, up, down."""
    per_layer, tokens = (3 + 1 + 4 + 1) * 8, 16
    entry, low_rank, rest = 8, 4 * 2, 2 * tokens * (8 + 16)  # of a layer, and of what is around
    assert _kept("dots") <= 2 * tokens * (per_layer + entry + low_rank) + rest


@pytest.mark.runs
@pytest.mark.parametrize("scan", [False, True])
def test_policies_change_no_gradient(scan):
    def slopes(remat):
        loss, delta, base = _slopes(remat, scan)
        draw = lambda leaf: 0.1 * jax.random.normal(jax.random.key(leaf.size), leaf.shape)
        return jax.jit(jax.grad(loss))(*jax.tree.map(draw, (delta, base)))

    want = slopes("")
    for policy in POLICIES:
        for x, y in zip(jax.tree.leaves(slopes(policy)), jax.tree.leaves(want), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7)
