"""The LLaMA decoder, held against its equations written out in numpy."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lorax.models import Llama, LlamaConfig, segment_mask, stack_layers

CONFIG = LlamaConfig(vocab_size=32, dim=16, layers=2, heads=4, kv_heads=2, hidden_dim=24)
TOKENS = jax.random.randint(jax.random.key(7), (2, 9), 0, 32)


@functools.cache
def init(config=CONFIG):
    """Parameters large enough that attention is far from uniform, and norms that are not ones.

    Drawn by numpy: compiling the model's own initialisation takes longer than everything else.
    """
    draw = np.random.default_rng(0)

    def leaf(path, shape):
        values = 0.4 * draw.standard_normal(shape.shape) + (path[-1].key == "scale")
        return jnp.asarray(values, shape.dtype)

    shapes = jax.eval_shape(Llama(config).init, jax.random.key(0), TOKENS)["params"]
    return jax.tree_util.tree_map_with_path(leaf, shapes)


@functools.cache
def jitted(config):
    return jax.jit(Llama(config).apply)


def logits(params, config=CONFIG, tokens=TOKENS, **options):
    return jitted(config)({"params": params}, tokens, **options)


def numpy_llama(params, config, tokens):
    """One row of tokens through the published equations, in float64 and with loops."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    length, width = len(tokens), config.dim // config.heads

    def norm(x, scale):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + config.norm_eps) * scale

    def turn(x):
        frequency = config.rope_theta ** (-2 * np.arange(width // 2) / width)
        angle = np.arange(length)[:, None] * frequency
        z = (x[:, : width // 2] + 1j * x[:, width // 2 :]) * np.exp(1j * angle)
        return np.concatenate([z.real, z.imag], axis=-1)

    x = params["embed"]["embedding"][np.asarray(tokens)]
    for i in range(config.layers):
        layer = params[f"layer_{i}"]
        attention, mlp = layer["attention"], layer["mlp"]
        y = norm(x, layer["attention_norm"]["scale"])
        query, key, value = (y @ attention[name]["kernel"] for name in ("query", "key", "value"))
        heads = []
        for n in range(config.heads):
            own = np.s_[:, n * width : (n + 1) * width]
            group = n * config.kv_heads // config.heads
            shared = np.s_[:, group * width : (group + 1) * width]
            scores = turn(query[own]) @ turn(key[shared]).T / np.sqrt(width)
            weights = np.exp(np.where(np.tri(length, dtype=bool), scores, -np.inf))
            heads.append(weights / weights.sum(-1, keepdims=True) @ value[shared])
        x = x + np.concatenate(heads, axis=-1) @ attention["out"]["kernel"]
        y = norm(x, layer["mlp_norm"]["scale"])
        gate = y @ mlp["gate"]["kernel"]
        x = x + (gate / (1 + np.exp(-gate)) * (y @ mlp["up"]["kernel"])) @ mlp["down"]["kernel"]
    head = params["embed"]["embedding"].T if config.tied else params["lm_head"]["kernel"]
    return norm(x, params["norm"]["scale"]) @ head


@pytest.mark.parametrize("tied", [False, True])
def test_it_is_the_published_equations(tied):
    config = dataclasses.replace(CONFIG, tied=tied, rope_theta=100.0, norm_eps=1e-2)
    params = init(config)
    assert ("lm_head" in params) != tied
    expected = np.stack([numpy_llama(params, config, row) for row in TOKENS])
    np.testing.assert_allclose(logits(params, config), expected, atol=2e-5)


def test_names_and_kernel_shapes():
    paths = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(init())
    }
    layer = {
        "attention_norm/scale": (16,),
        "attention/query/kernel": (16, 16),
        "attention/key/kernel": (16, 8),
        "attention/value/kernel": (16, 8),
        "attention/out/kernel": (16, 16),
        "mlp_norm/scale": (16,),
        "mlp/gate/kernel": (16, 24),
        "mlp/up/kernel": (16, 24),
        "mlp/down/kernel": (24, 16),
    }
    expected = {f"layer_{i}/{name}": shape for i in range(2) for name, shape in layer.items()}
    expected |= {"embed/embedding": (32, 16), "norm/scale": (16,), "lm_head/kernel": (16, 32)}
    assert paths == expected


def test_initial_weights_have_the_documented_deviation_and_layers_differ():
    config = LlamaConfig(512, 128, 2, 4, 2, 256, scan=True)
    params = jax.jit(Llama(config).init)(jax.random.key(0), TOKENS)["params"]
    layers, std = params["layers"], (2 / (5 * 128)) ** 0.5
    for kernel in (params["embed"]["embedding"], layers["mlp"]["up"]["kernel"]):
        np.testing.assert_allclose(kernel.std(), std, rtol=0.05)
    for kernel in (layers["attention"]["out"]["kernel"], layers["mlp"]["down"]["kernel"]):
        np.testing.assert_allclose(kernel.std(), std / 2, rtol=0.05)
    np.testing.assert_array_equal(layers["mlp_norm"]["scale"], np.ones((2, 128)))
    assert layers["mlp"]["up"]["kernel"].shape == (2, 128, 256)
    assert jnp.abs(layers["mlp"]["up"]["kernel"][0] - layers["mlp"]["up"]["kernel"][1]).max() > std


def test_a_later_token_changes_no_earlier_logit():
    params = init()
    before, after = logits(params), logits(params, tokens=TOKENS.at[:, 5].add(1) % 32)
    np.testing.assert_array_equal(before[:, :5], after[:, :5])
    assert jnp.all(jnp.abs(before - after)[:, 5:].max(axis=-1) > 1e-3)


def test_grouped_queries_are_repeated_key_value_heads():
    params, full = init(), dataclasses.replace(CONFIG, kv_heads=4)

    def repeat(path, leaf):
        if not {"key", "value"} & {key.key for key in path}:
            return leaf
        return jnp.repeat(leaf.reshape(16, 2, 4), 2, axis=1).reshape(16, 16)

    repeated = jax.tree_util.tree_map_with_path(repeat, params)
    np.testing.assert_allclose(logits(params), logits(repeated, full), atol=1e-5)


def loss_and_grad(params, config):
    def loss(params):
        return jnp.mean(jax.nn.log_softmax(Llama(config).apply({"params": params}, TOKENS))[..., 3])

    return jax.jit(jax.value_and_grad(loss))(params)


def test_scan_and_remat_change_neither_values_nor_gradients():
    params = init()
    loss, grads = loss_and_grad(params, CONFIG)
    for scan, remat in ((False, True), (True, True)):
        config = dataclasses.replace(CONFIG, scan=scan, remat=remat)
        given = stack_layers(params, config) if scan else params
        other_loss, other_grads = loss_and_grad(given, config)
        np.testing.assert_allclose(other_loss, loss, rtol=1e-6)
        expected = stack_layers(grads, config) if scan else grads
        for a, b in zip(jax.tree.leaves(other_grads), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("scan", [False, True])
def test_remat_and_scan_are_in_the_program(scan):
    config = dataclasses.replace(CONFIG, scan=scan, remat=True)
    variables = {"params": init(config)}
    text = str(jax.make_jaxpr(Llama(config).apply)(variables, TOKENS))
    assert text.count("checkpoint") + text.count("remat") >= (1 if scan else 2)
    assert (" scan[" in text) == scan


def test_bfloat16_compute_keeps_float32_parameters_gradients_and_logits():
    config = dataclasses.replace(CONFIG, dtype="bfloat16")
    params = init(config)
    exact, rounded = logits(params), logits(params, config)
    assert rounded.dtype == jnp.float32
    assert 0 < jnp.abs(exact - rounded).max() < 0.05 * jnp.abs(exact).max()
    _, grads = jax.eval_shape(lambda params: loss_and_grad(params, config), params)
    for tree in (params, grads):
        assert {leaf.dtype for leaf in jax.tree.leaves(tree)} == {jnp.dtype("float32")}


def test_float64_compute_gives_float64_logits():
    with jax.enable_x64(True):
        config = dataclasses.replace(CONFIG, dtype="float64", param_dtype="float64")
        assert logits(init(config), config).dtype == jnp.float64


@pytest.mark.parametrize("left", [False, True])
def test_padding_is_not_seen(left):
    params = init()
    padding = jnp.zeros((2, 3), TOKENS.dtype)
    real = jnp.ones(TOKENS.shape, bool)
    order = (lambda a, b: (b, a)) if left else (lambda a, b: (a, b))
    tokens = jnp.concatenate(order(TOKENS, padding), axis=1)
    mask = jnp.concatenate(order(real, padding.astype(bool)), axis=1)
    padded = logits(params, tokens=tokens, mask=mask)
    kept = padded[:, 3:] if left else padded[:, :9]
    np.testing.assert_allclose(kept, logits(params), atol=1e-5)


def test_gradients_are_finite_where_a_row_sees_nothing():
    mask = jnp.zeros(TOKENS.shape, bool).at[0, 4:].set(True)

    def loss(params):
        out = Llama(CONFIG).apply({"params": params}, TOKENS, mask=mask)
        return jnp.sum(jnp.where(mask[..., None], out, 0) ** 2)

    assert all(
        jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.jit(jax.grad(loss))(init()))
    )


def test_packed_sequences_do_not_see_each_other():
    params, lengths = init(), (4, 5)
    packed = jnp.concatenate([TOKENS[:1, :4], TOKENS[1:, :5]], axis=1)
    mask = segment_mask(jnp.array([[1] * 4 + [2] * 5]))
    together = logits(params, tokens=packed, mask=mask)
    for row, start, length in zip((0, 1), (0, 4), lengths, strict=True):
        alone = logits(params, tokens=TOKENS[row : row + 1, :length])
        np.testing.assert_allclose(together[:, start : start + length], alone, atol=1e-5)


def test_positions_matter_through_differences_only():
    params, arange = init(), jnp.broadcast_to(jnp.arange(9), TOKENS.shape)
    plain = logits(params)
    np.testing.assert_allclose(logits(params, positions=arange), plain, atol=1e-6)
    np.testing.assert_allclose(logits(params, positions=arange + 40), plain, atol=1e-4)
    assert jnp.abs(logits(params, positions=2 * arange) - plain).max() > 1e-3


def test_a_token_outside_the_vocabulary_gives_nan():
    assert jnp.isnan(logits(init(), tokens=TOKENS.at[0, 2].set(32))[0, 2]).all()


@pytest.mark.parametrize("scan", [False, True])
def test_activations_can_be_captured(scan):
    config = dataclasses.replace(CONFIG, scan=scan)
    variables = {"params": init(config)}

    def apply(variables):
        only_queries = lambda module, _: module.name == "query"
        return Llama(config).apply(variables, TOKENS, capture_intermediates=only_queries)

    _, state = jax.eval_shape(apply, variables)
    shapes = {leaf.shape for leaf in jax.tree.leaves(state["intermediates"])}
    assert shapes == {(2, 2, 9, 16) if scan else (2, 9, 16)}


@pytest.mark.parametrize(
    ("tokens", "options", "message"),
    [
        (TOKENS[0], {}, r"tokens must be integers of shape .*got int32 of shape \(9,\): add"),
        (TOKENS / 2, {}, r"tokens must be integers .*got float32"),
        (jnp.zeros((1, 2049), jnp.int32), {}, "at most max_length=2048 tokens fit, got 2049: cut"),
        (TOKENS, {"positions": jnp.arange(9)}, r"positions must have the shape of tokens \(2, 9\)"),
        (TOKENS, {"positions": TOKENS / 2}, "positions must be integers"),
        (TOKENS, {"mask": jnp.ones((2, 9))}, "mask must be bool of shape .*got float32"),
        (TOKENS, {"mask": jnp.ones((9, 9), bool)}, r"mask must be bool .* shape \(9, 9\): write"),
    ],
)
def test_bad_arguments_are_one_line_errors(tokens, options, message):
    with pytest.raises(ValueError, match=message) as error:
        jax.eval_shape(Llama(CONFIG).init, jax.random.key(0), tokens, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("tied", [False, True])
def test_a_readout_replaces_the_logits(tied):
    config = dataclasses.replace(CONFIG, tied=tied)

    def last(params):
        readout = lambda hidden, head: {"shape": hidden.shape, "last": head(hidden[:, -1])}
        return Llama(config).apply({"params": params}, TOKENS, readout=readout)

    found = last(init(config))
    assert found["shape"] == (*TOKENS.shape, 16)
    np.testing.assert_allclose(found["last"], logits(init(config), config)[:, -1], atol=1e-5)
