"""RoBERTa: names, both directions, padding, positions and types, its heads, dropout, dtypes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lorax.models import Roberta, RobertaConfig, stack_layers

CONFIG = RobertaConfig(32, 16, 2, 4, 24, max_length=12)
CLASSES = dataclasses.replace(CONFIG, head="classification", labels=3)
TOKENS = jax.random.randint(jax.random.key(7), (2, 8), 2, 32)  # none of them padding
KEY = functools.partial(jax.random.key, impl="unsafe_rbg")  # quicker to compile


@functools.cache
def init(config=CONFIG):
    """Parameters large enough that attention is far from uniform; drawn by numpy, to be quick."""
    draw = np.random.default_rng(0)

    def leaf(path, shape):
        values = 0.4 * draw.standard_normal(shape.shape) + (path[-1].key == "scale")
        return jnp.asarray(values, shape.dtype)

    shapes = jax.eval_shape(Roberta(config).init, jax.random.key(0), TOKENS)["params"]
    return jax.tree_util.tree_map_with_path(leaf, shapes)


@functools.cache
def jitted(config):
    return jax.jit(Roberta(config).apply, static_argnames="deterministic")


def run(params, config=CONFIG, tokens=TOKENS, **options):
    return jitted(config)({"params": params}, tokens, **options)


LAYER = {
    "attention/query/kernel": (16, 16),
    "attention/query/bias": (16,),
    "attention/key/kernel": (16, 16),
    "attention/key/bias": (16,),
    "attention/value/kernel": (16, 16),
    "attention/value/bias": (16,),
    "attention/out/kernel": (16, 16),
    "attention/out/bias": (16,),
    "attention_norm/scale": (16,),
    "attention_norm/bias": (16,),
    "mlp/up/kernel": (16, 24),
    "mlp/up/bias": (24,),
    "mlp/down/kernel": (24, 16),
    "mlp/down/bias": (16,),
    "mlp_norm/scale": (16,),
    "mlp_norm/bias": (16,),
}
BODY = {f"layer_{i}/{name}": shape for i in range(2) for name, shape in LAYER.items()} | {
    "embed/embedding": (32, 16),
    "positions/embedding": (14, 16),
    "types/embedding": (1, 16),
    "embed_norm/scale": (16,),
    "embed_norm/bias": (16,),
}
TIED = {
    "lm_head/dense/kernel": (16, 16),
    "lm_head/dense/bias": (16,),
    "lm_head/norm/scale": (16,),
    "lm_head/norm/bias": (16,),
    "lm_head/bias": (32,),
}
CLASSIFIER = {
    "classifier/dense/kernel": (16, 16),
    "classifier/dense/bias": (16,),
    "classifier/out/kernel": (16, 3),
    "classifier/out/bias": (3,),
}


@pytest.mark.parametrize(
    ("fields", "head", "shape"),
    [
        ({}, {}, (2, 8, 16)),
        ({"head": "classification", "labels": 3}, CLASSIFIER, (2, 3)),
        ({"head": "masked_lm"}, TIED, (2, 8, 32)),
        (
            {"head": "masked_lm", "tied": False},
            {**TIED, "lm_head/out/kernel": (16, 32)},
            (2, 8, 32),
        ),
    ],
)
def test_names_and_shapes(fields, head, shape):
    config = dataclasses.replace(CONFIG, **fields)
    paths = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(init(config))
    }
    assert paths == BODY | head
    out = jax.eval_shape(Roberta(config).apply, {"params": init(config)}, TOKENS)
    assert out.shape == shape and out.dtype == jnp.float32


def test_tokens_are_seen_from_both_sides():
    params = init()
    for place in (0, 7):
        change = jnp.abs(run(params) - run(params, tokens=TOKENS.at[:, place].set(31)))
        assert jnp.all(change.max(axis=-1) > 1e-3)


def test_padding_is_not_seen():
    params = init()
    tokens = jnp.concatenate([TOKENS, jnp.full((2, 3), CONFIG.pad_id)], axis=1)
    np.testing.assert_allclose(run(params, tokens=tokens)[:, :8], run(params), atol=1e-5)
    mask = jnp.arange(11) < 8
    explicit = run(params, tokens=tokens, mask=jnp.broadcast_to(mask, (2, 11)))
    np.testing.assert_allclose(explicit, run(params, tokens=tokens), atol=1e-5)
    pairs = lambda mask: run(params, tokens=tokens, mask=jnp.broadcast_to(mask, (2, 11, 11)))
    np.testing.assert_allclose(pairs(mask), explicit, atol=1e-5)
    seen = pairs(jnp.ones(11, bool))[:, :8]
    assert jnp.abs(seen - run(params)).max() > 1e-3


@pytest.mark.parametrize("pad_id", [0, 1])
def test_positions_count_from_the_padding_id(pad_id):
    config = dataclasses.replace(CONFIG, pad_id=pad_id)
    params = init(config)
    tokens = TOKENS.at[0, 0].set(pad_id).at[0, 6:].set(pad_id)
    positions = pad_id + jnp.array([[0, 1, 2, 3, 4, 5, 0, 0], [1, 2, 3, 4, 5, 6, 7, 8]])
    given = run(params, config, tokens, positions=positions)
    np.testing.assert_allclose(run(params, config, tokens), given, atol=1e-5)
    moved = run(params, config, tokens, positions=positions.at[:, 3].set(pad_id + 10))
    assert jnp.abs(moved - given).max() > 1e-3


def test_types_choose_a_row():
    config = dataclasses.replace(CONFIG, types=2)
    params = init(config)
    plain = run(params, config)
    zeros = run(params, config, types=jnp.zeros_like(TOKENS))
    np.testing.assert_allclose(zeros, plain, atol=1e-5)
    types = jnp.zeros_like(TOKENS).at[:, 4:].set(1)
    assert jnp.abs(run(params, config, types=types) - plain).max() > 1e-3


def test_one_label_is_regression():
    config = dataclasses.replace(CLASSES, labels=1)
    out = jax.eval_shape(Roberta(config).init_with_output, jax.random.key(0), TOKENS)[0]
    assert out.shape == (2, 1)


def loss_and_grad(params, config, **options):
    def loss(params):
        out = Roberta(config).apply({"params": params}, TOKENS, **options)
        return jnp.mean(jax.nn.log_softmax(out)[..., 1])

    return jax.jit(jax.value_and_grad(loss))(params)


def test_scan_with_remat_changes_neither_values_nor_gradients():
    params = init(CLASSES)
    loss, grads = loss_and_grad(params, CLASSES)
    config = dataclasses.replace(CLASSES, scan=True, remat=True)
    other_loss, other_grads = loss_and_grad(stack_layers(params, config), config)
    np.testing.assert_allclose(other_loss, loss, rtol=1e-6)
    expected = jax.tree.leaves(stack_layers(grads, config))
    for a, b in zip(jax.tree.leaves(other_grads), expected, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)


def test_dropout_is_off_unless_asked_for_and_follows_its_key():
    config = dataclasses.replace(CLASSES, dropout=0.4, layers=1)
    params = init(config)
    plain = run(params, dataclasses.replace(config, dropout=0.0))
    np.testing.assert_allclose(run(params, config), plain, atol=1e-6)
    drop = lambda seed: run(params, config, deterministic=False, rngs={"dropout": KEY(seed)})
    np.testing.assert_array_equal(drop(0), drop(0))
    assert jnp.abs(drop(0) - drop(1)).max() > 1e-3 < jnp.abs(drop(0) - plain).max()


def test_bfloat16_compute_over_either_parameters():
    config = dataclasses.replace(CONFIG, head="masked_lm")
    params, narrow = init(config), dataclasses.replace(config, dtype="bfloat16")
    exact = run(params, config)
    for param_dtype in ("float32", "bfloat16"):
        out = run(jax.tree.map(lambda leaf, to=param_dtype: leaf.astype(to), params), narrow)
        assert 0 < jnp.abs(exact - out).max() < 0.1 * jnp.abs(exact).max()


@pytest.mark.parametrize(
    ("head", "dtype"),
    [("none", "bfloat16"), ("classification", "float32"), ("masked_lm", "float32")],
)
def test_logits_are_wide_and_hidden_states_as_computed(head, dtype):
    model = Roberta(dataclasses.replace(CONFIG, head=head, dtype="bfloat16"))
    out, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), TOKENS)
    assert out.dtype == dtype
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    ("tokens", "options", "message"),
    [
        (TOKENS[0], {}, r"tokens must be integers of shape .*got int32 of shape \(8,\): add"),
        (jnp.zeros((1, 13), jnp.int32), {}, "at most max_length=12 tokens fit, got 13: cut"),
        (TOKENS, {"positions": jnp.arange(8)}, r"positions must have the shape of tokens \(2, 8\)"),
        (TOKENS, {"types": TOKENS / 2}, "types must be integers, got float32: write types.astype"),
        (TOKENS, {"mask": jnp.ones((2, 8))}, "mask must be bool of shape .*got float32"),
    ],
)
def test_bad_arguments_are_one_line_errors(tokens, options, message):
    with pytest.raises(ValueError, match=message) as error:
        jax.eval_shape(Roberta(CONFIG).init, jax.random.key(0), tokens, **options)
    assert "\n" not in str(error.value)
