"""Stacking and unstacking of layers."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lorax.models import (
    GPT2,
    GPT2Config,
    Llama,
    LlamaConfig,
    Roberta,
    RobertaConfig,
    stack_layers,
    unstack_layers,
)

CONFIG = LlamaConfig(32, 16, 3, 4, 2, 24, param_dtype="bfloat16")
MODELS = {LlamaConfig: Llama, GPT2Config: GPT2, RobertaConfig: Roberta}
CONFIGS = pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        GPT2Config(32, 16, 3, 4, max_length=8, tied=False),
        RobertaConfig(32, 16, 3, 4, 24, max_length=8, head="masked_lm"),
    ],
    ids=["llama", "gpt2", "roberta"],
)
TOKENS = jnp.zeros((1, 4), jnp.int32)


@functools.cache
def init(config):
    shapes = jax.eval_shape(MODELS[type(config)](config).init, jax.random.key(0), TOKENS)["params"]
    draw = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(draw.normal(size=leaf.shape), leaf.dtype), shapes)


def assert_identical(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@CONFIGS
@pytest.mark.parametrize("scan", [False, True])
def test_there_and_back_is_bitwise(config, scan):
    config = dataclasses.replace(config, scan=scan)
    params = init(config)
    if scan:
        assert_identical(stack_layers(unstack_layers(params, config), config), params)
    else:
        assert_identical(unstack_layers(stack_layers(params, config), config), params)


@CONFIGS
def test_stacked_is_the_layout_of_the_scanned_model(config):
    scanned = init(dataclasses.replace(config, scan=True))
    params = init(config)
    stacked = stack_layers(params, config)
    assert jax.tree.map(jnp.shape, stacked) == jax.tree.map(jnp.shape, scanned)
    assert set(stacked) == {n for n in params if not n.startswith("layer_")} | {"layers"}


def test_input_is_not_changed_and_it_jits():
    params = init(CONFIG)
    names = list(params)
    jitted = jax.jit(stack_layers, static_argnums=1)(params, CONFIG)
    assert_identical(jitted, stack_layers(params, CONFIG))
    assert list(params) == names


def test_ten_layers_stack_in_number_order():
    params = {f"layer_{i}": {"scale": jnp.full(2, float(i))} for i in range(12)}
    stacked = stack_layers(params, dataclasses.replace(CONFIG, layers=12))
    np.testing.assert_array_equal(stacked["layers"]["scale"][:, 0], np.arange(12))


def test_errors_name_what_came():
    params = init(CONFIG)
    stacked = stack_layers(params, CONFIG)
    other = dataclasses.replace(CONFIG, layers=2)
    for bad, config in ((stacked, CONFIG), (params, other), ({"params": params}, CONFIG)):
        with pytest.raises(ValueError, match="expected layer_0 … layer_.*got .*: pass variables"):
            stack_layers(bad, config)
    for bad, config in ((params, CONFIG), (stacked, other), ({"params": stacked}, CONFIG)):
        with pytest.raises(ValueError, match="expected one stacked entry 'layers'.*: pass"):
            unstack_layers(bad, config)
