"""GPT-2: what its parameters are called and mean, padding, layouts, dropout, dtypes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lorax.models import GPT2, GPT2Config, stack_layers

CONFIG = GPT2Config(vocab_size=32, dim=16, layers=2, heads=4, max_length=12, hidden_dim=24)
DROPS = dataclasses.replace(CONFIG, dropout=0.4)
TOKENS = jax.random.randint(jax.random.key(7), (2, 8), 0, 32)
KEY = functools.partial(jax.random.key, impl="unsafe_rbg")  # quicker to compile


@functools.cache
def init(config=CONFIG):
    """Parameters large enough that attention is far from uniform; drawn by numpy, to be quick."""
    draw = np.random.default_rng(0)

    def leaf(path, shape):
        values = 0.4 * draw.standard_normal(shape.shape) + (path[-1].key == "scale")
        return jnp.asarray(values, shape.dtype)

    shapes = jax.eval_shape(GPT2(config).init, jax.random.key(0), TOKENS)["params"]
    return jax.tree_util.tree_map_with_path(leaf, shapes)


@functools.cache
def jitted(config):
    return jax.jit(GPT2(config).apply, static_argnames="deterministic")


def logits(params, config=CONFIG, tokens=TOKENS, **options):
    return jitted(config)({"params": params}, tokens, **options)


@pytest.mark.parametrize("tied", [False, True])
def test_names_and_shapes(tied):
    config = dataclasses.replace(CONFIG, tied=tied)
    paths = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(init(config))
    }
    layer = {
        "attention_norm/scale": (16,),
        "attention_norm/bias": (16,),
        "attention/qkv/kernel": (16, 48),
        "attention/qkv/bias": (48,),
        "attention/out/kernel": (16, 16),
        "attention/out/bias": (16,),
        "mlp_norm/scale": (16,),
        "mlp_norm/bias": (16,),
        "mlp/up/kernel": (16, 24),
        "mlp/up/bias": (24,),
        "mlp/down/kernel": (24, 16),
        "mlp/down/bias": (16,),
    }
    expected = {f"layer_{i}/{name}": shape for i in range(2) for name, shape in layer.items()}
    expected |= {"embed/embedding": (32, 16), "positions/embedding": (12, 16)}
    expected |= {"norm/scale": (16,), "norm/bias": (16,)}
    assert paths == expected | ({} if tied else {"lm_head/kernel": (16, 32)})


def test_a_later_token_changes_no_earlier_logit():
    params = init()
    before, after = logits(params), logits(params, tokens=TOKENS.at[:, 5].add(1) % 32)
    np.testing.assert_array_equal(before[:, :5], after[:, :5])
    assert jnp.all(jnp.abs(before - after)[:, 5:].max(axis=-1) > 1e-3)


def test_the_fused_columns_are_queries_keys_values():
    """Without queries every key weighs the same, without values nothing is told."""

    def without(part):
        def leaf(path, x):
            return x.at[..., 16 * part : 16 * (part + 1)].set(0) if "qkv" in str(path) else x

        return jax.tree_util.tree_map_with_path(leaf, init())

    other = TOKENS.at[:, 0].add(1) % 32
    silent = without(2)
    np.testing.assert_array_equal(logits(silent)[:, 1:], logits(silent, tokens=other)[:, 1:])
    even = [logits(without(part)) for part in (0, 1)]  # scores are 0 either way
    np.testing.assert_allclose(*even, atol=1e-5)
    assert jnp.abs(even[0] - logits(init())).max() > 1e-2


@pytest.mark.parametrize("left", [False, True])
def test_padding_is_not_seen(left):
    params = init()
    padding = jnp.zeros((2, 3), TOKENS.dtype)
    real = jnp.ones(TOKENS.shape, bool)
    order = (lambda a, b: (b, a)) if left else (lambda a, b: (a, b))
    tokens = jnp.concatenate(order(TOKENS, padding), axis=1)
    mask = jnp.concatenate(order(real, padding.astype(bool)), axis=1)
    padded = logits(params, tokens=tokens, mask=mask)
    kept = padded[:, 3:] if left else padded[:, :8]
    np.testing.assert_allclose(kept, logits(params), atol=2e-5)


def test_positions_are_rows_of_their_table():
    params, arange = init(), jnp.broadcast_to(jnp.arange(8), TOKENS.shape)
    plain = logits(params)
    np.testing.assert_allclose(logits(params, positions=arange), plain, atol=1e-6)
    assert jnp.abs(logits(params, positions=arange + 1) - plain).max() > 1e-3
    assert jnp.isnan(logits(params, positions=arange + 5)).any()  # rows 5 ... 12 of 12


def loss_and_grad(params, config, **options):
    def loss(params):
        out = GPT2(config).apply({"params": params}, TOKENS, **options)
        return jnp.mean(jax.nn.log_softmax(out)[..., 3])

    return jax.jit(jax.value_and_grad(loss))(params)


def test_scan_with_remat_changes_neither_values_nor_gradients():
    params = init()
    loss, grads = loss_and_grad(params, CONFIG)
    config = dataclasses.replace(CONFIG, scan=True, remat=True)
    other_loss, other_grads = loss_and_grad(stack_layers(params, config), config)
    np.testing.assert_allclose(other_loss, loss, rtol=1e-6)
    expected = jax.tree.leaves(stack_layers(grads, config))
    for a, b in zip(jax.tree.leaves(other_grads), expected, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)


def test_dropout_is_off_unless_asked_for():
    params = init()
    plain = logits(params)
    np.testing.assert_allclose(logits(params, DROPS), plain, atol=1e-6)
    np.testing.assert_allclose(logits(params, deterministic=False), plain, atol=1e-6)  # no key
    with pytest.raises(Exception, match='needs PRNG for "dropout"'):
        GPT2(DROPS).apply({"params": params}, TOKENS, deterministic=False)


def test_dropout_follows_its_key_and_recomputes_the_same():
    params, rngs = init(), {"dropout": KEY(0)}
    scanned = dataclasses.replace(DROPS, scan=True)
    stacked = stack_layers(params, scanned)
    loss, grads = loss_and_grad(stacked, scanned, deterministic=False, rngs=rngs)
    config = dataclasses.replace(scanned, remat=True)
    again, recomputed = loss_and_grad(stacked, config, deterministic=False, rngs=rngs)
    np.testing.assert_allclose(again, loss, rtol=1e-6)
    drop = lambda seed: logits(params, DROPS, deterministic=False, rngs={"dropout": KEY(seed)})
    assert jnp.abs(drop(0) - drop(1)).max() > 1e-3 < jnp.abs(drop(0) - logits(params)).max()
    for a, b in zip(jax.tree.leaves(recomputed), jax.tree.leaves(grads), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)


def test_bfloat16_compute_keeps_float32_parameters_gradients_and_logits():
    config = dataclasses.replace(CONFIG, dtype="bfloat16")
    params = init(config)
    exact, rounded = logits(params), logits(params, config)
    assert rounded.dtype == jnp.float32
    assert 0 < jnp.abs(exact - rounded).max() < 0.05 * jnp.abs(exact).max()
    _, grads = jax.eval_shape(lambda params: loss_and_grad(params, config), params)
    for tree in (params, grads):
        assert {leaf.dtype for leaf in jax.tree.leaves(tree)} == {jnp.dtype("float32")}


def test_bfloat16_parameters_are_computed_in_either_dtype():
    config = dataclasses.replace(CONFIG, param_dtype="bfloat16")
    params = init(config)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("bfloat16")}
    wide = jax.tree.map(lambda leaf: leaf.astype("float32"), params)
    np.testing.assert_array_equal(logits(params, config), logits(wide))
    narrow = logits(params, dataclasses.replace(config, dtype="bfloat16"))
    assert 0 < jnp.abs(narrow - logits(wide)).max() < 0.05 * jnp.abs(logits(wide)).max()


@pytest.mark.parametrize(
    ("tokens", "options", "message"),
    [
        (TOKENS[0], {}, r"tokens must be integers of shape .*got int32 of shape \(8,\): add"),
        (jnp.zeros((1, 13), jnp.int32), {}, "at most max_length=12 tokens fit, got 13: cut"),
        (TOKENS, {"positions": jnp.arange(8)}, r"positions must have the shape of tokens \(2, 8\)"),
        (TOKENS, {"mask": jnp.ones((2, 8))}, "mask must be bool of shape .*got float32"),
    ],
)
def test_bad_arguments_are_one_line_errors(tokens, options, message):
    with pytest.raises(ValueError, match=message) as error:
        jax.eval_shape(GPT2(CONFIG).init, jax.random.key(0), tokens, **options)
    assert "\n" not in str(error.value)


def test_a_readout_replaces_the_logits():
    def last(params):
        readout = lambda hidden, head: {"shape": hidden.shape, "last": head(hidden[:, -1])}
        return GPT2(CONFIG).apply({"params": params}, TOKENS, readout=readout)

    found = last(init())
    assert found["shape"] == (*TOKENS.shape, 16)
    np.testing.assert_allclose(found["last"], logits(init())[:, -1], atol=1e-5)
