"""Decoding with the key-value cache equals the full forward pass."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lorax.models import GPT2, GPT2Config, Llama, LlamaConfig, init_cache, stack_layers

CONFIG = LlamaConfig(32, 16, 2, 4, 2, 24, max_length=16)
TOKENS = jax.random.randint(jax.random.key(7), (2, 10), 0, 32)
GPT2_CONFIG = GPT2Config(32, 16, 2, 4, max_length=16)
FORMS = pytest.mark.parametrize(
    ("config", "scan"),
    [(CONFIG, False), (CONFIG, True), (GPT2_CONFIG, True)],
    ids=["llama", "llama_scan", "gpt2_scan"],
)


def model(config):
    return (Llama if isinstance(config, LlamaConfig) else GPT2)(config)


@functools.cache
def build(config=CONFIG, scan=False, remat=False):
    """A config with its parameters, the same values for either layout, drawn by numpy."""
    config, draw = dataclasses.replace(config, remat=remat), np.random.default_rng(0)
    shapes = jax.eval_shape(model(config).init, jax.random.key(0), TOKENS)["params"]
    params = jax.tree.map(lambda leaf: jnp.asarray(draw.normal(0, 0.4, leaf.shape), "f4"), shapes)
    config = dataclasses.replace(config, scan=scan)
    return config, stack_layers(params, config) if scan else params


def traced(config):
    """The model under jit, donating the cache, with a list that grows by one a trace."""
    traces = []

    def apply(params, tokens, cache=None, mask=None):
        traces.append(tokens.shape)
        return model(config).apply({"params": params}, tokens, cache=cache, mask=mask)

    return jax.jit(apply, donate_argnames="cache"), traces


@functools.cache
def jitted(config):
    """The model under jit, compiled once for all tests."""
    return traced(config)[0]


@FORMS
@pytest.mark.parametrize("remat", [False, True])
def test_token_by_token_equals_the_full_pass_with_one_compile(config, scan, remat):
    config, params = build(config, scan, remat)
    apply, traces = traced(config)
    full = apply(params, TOKENS)
    traces.clear()
    cache = init_cache(config, batch=2, length=10)
    for t in range(10):
        logits, cache = apply(params, TOKENS[:, t : t + 1], cache)
        np.testing.assert_allclose(logits[:, 0], full[:, t], atol=3e-5)
    assert traces == [(2, 1)]
    assert int(cache.length) == 10


@FORMS
def test_prefill_in_pieces_equals_the_full_pass(config, scan):
    config, params = build(config, scan)
    apply = jitted(config)
    cache, pieces = init_cache(config, batch=2), []
    for piece in jnp.split(TOKENS, 2, axis=1):
        logits, cache = apply(params, piece, cache)
        pieces.append(logits)
    np.testing.assert_allclose(jnp.concatenate(pieces, 1), apply(params, TOKENS), atol=3e-5)


@FORMS
@pytest.mark.parametrize("left", [False, True])
def test_prompts_of_different_lengths_decode_as_if_alone(config, scan, left):
    config, params = build(config, scan)
    apply = jitted(config)
    # Row 0 has a prompt of 6, row 1 one of 4 and two of padding; both go on for four tokens.
    prompt, mask = TOKENS[:, :6], jnp.ones((2, 6), bool)
    if left:
        prompt = prompt.at[1].set(jnp.roll(prompt[1], 2))
        mask = mask.at[1, :2].set(False)
    else:
        mask = mask.at[1, 4:].set(False)
    _, cache = apply(params, prompt, init_cache(config, batch=2), mask)
    steps = []
    for t in range(6, 10):
        logits, cache = apply(params, TOKENS[:, t : t + 1], cache)
        steps.append(logits[:, 0])
    together = jnp.stack(steps, axis=1)
    short = jnp.concatenate([TOKENS[1:, :4], TOKENS[1:, 6:]], axis=1)
    np.testing.assert_allclose(together[:1], apply(params, TOKENS[:1])[:, 6:], atol=3e-5)
    np.testing.assert_allclose(together[1:], apply(params, short)[:, 4:], atol=3e-5)


def test_the_two_layouts_share_one_cache_form():
    caches = []
    for scan in (False, True):
        config, params = build(scan=scan)
        _, cache = jitted(config)(params, TOKENS[:, :6], init_cache(config, batch=2))
        caches.append(cache)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=3e-5), *caches)


def test_shapes_and_dtypes_of_the_empty_cache():
    cache = init_cache(CONFIG, 3, 8, "bfloat16")
    assert cache.keys.shape == cache.values.shape == (2, 3, 8, 2, 4)
    assert cache.keys.dtype == jnp.bfloat16 and cache.valid.shape == (3, 8)
    assert init_cache(CONFIG, 1).keys.shape[2] == CONFIG.max_length
    assert init_cache(CONFIG, 1).keys.dtype == jnp.float32
    assert init_cache(GPT2_CONFIG, 1).keys.shape == (2, 1, 16, 4, 4)


@pytest.mark.parametrize("config", [CONFIG, GPT2_CONFIG])
def test_a_model_makes_its_own(config):
    made, expected = (
        jax.eval_shape(make)
        for make in (
            lambda: model(config).init_cache(3, 8, "bfloat16"),
            lambda: init_cache(config, 3, 8, "bfloat16"),
        )
    )
    assert made == expected


def test_a_bfloat16_cache_serves_a_float32_model():
    config, params = build()
    cache = init_cache(config, 2, 10, "bfloat16")
    logits, after = jax.jit(model(config).apply)({"params": params}, TOKENS, cache=cache)
    full = jitted(config)(params, TOKENS)
    assert logits.dtype == jnp.float32 and after.keys.dtype == jnp.bfloat16
    assert int(cache.length) == 0 and not cache.keys.any()  # a new one comes out
    assert 0 < jnp.abs(logits - full).max() < 0.05 * jnp.abs(full).max()


def test_an_overfilled_cache_gives_nan_from_then_on():
    config, params = build()
    apply = jitted(config)
    logits, cache = apply(params, TOKENS[:, :4], init_cache(config, 2, 4))
    assert jnp.isfinite(logits).all()
    for _ in range(2):
        logits, cache = apply(params, TOKENS[:, :1], cache)
        assert jnp.isnan(logits).all()


@pytest.mark.parametrize(("batch", "length"), [(0, 4), (1, 0), (1, 17)])
def test_impossible_caches_are_errors(batch, length):
    with pytest.raises(ValueError, match=f"max_length=16, got batch={batch}, length={length}: "):
        init_cache(CONFIG, batch, length)


@pytest.mark.parametrize(
    ("cache", "mask", "message"),
    [
        (init_cache(CONFIG, 3), None, r"cache keys must have shape \(2, 2, 16, 2, 4\).*batch=2"),
        (init_cache(dataclasses.replace(CONFIG, kv_heads=4), 2), None, "cache keys must have"),
        (init_cache(CONFIG, 2, 8), None, "10 tokens do not fit the cache's 8 slots: make it"),
        (
            init_cache(CONFIG, 2),
            jnp.ones((2, 10, 10), bool),
            "mask must be bool of",
        ),
    ],
)
def test_a_cache_that_does_not_fit_is_an_error(cache, mask, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(Llama(CONFIG).init, jax.random.key(0), TOKENS, mask=mask, cache=cache)
