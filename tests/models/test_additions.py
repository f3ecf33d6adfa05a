"""What stands beside the parameters does what real tokens, kept by hand, would do."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lorax
from lorax.data.batch import Batch
from lorax.models import (
    GPT2,
    GPT2Config,
    Llama,
    LlamaConfig,
    Roberta,
    RobertaConfig,
    additions,
    init_cache,
    layers,
    segment_mask,
    stack_layers,
)
from lorax.models.attention import attend

N, M, P = 3, 2, 4  # virtual tokens before the rows and inside them, keys before all others
VOCABULARY, DIM, HIDDEN = 32, 16, 24
MODELS = {
    # two of four key-value heads, and a small base, so that the angles differ
    "llama": Llama(LlamaConfig(VOCABULARY, DIM, 2, 4, 2, HIDDEN, max_length=24, rope_theta=50.0)),
    "gpt2": GPT2(GPT2Config(VOCABULARY, DIM, 2, 4, hidden_dim=HIDDEN, max_length=24, tied=True)),
    "roberta": Roberta(RobertaConfig(VOCABULARY, DIM, 2, 4, HIDDEN, max_length=24)),
}
DECODERS = pytest.mark.parametrize("name", ["llama", "gpt2"])
EVERY = pytest.mark.parametrize("name", list(MODELS))
TOKENS = jnp.asarray(np.random.default_rng(1).integers(2, VOCABULARY, (2, 8)))
BOTTLENECKS = {
    "llama": ("attention/key", "attention/out", "mlp/down"),
    "gpt2": ("attention/out", "mlp/down"),
    "roberta": ("attention/query", "mlp/down"),
}


def draw(seed, *shape):
    return jnp.asarray(0.4 * np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def changed(model, **changes):
    return model.clone(config=dataclasses.replace(model.config, **changes))


@functools.cache
def init(name, **changes):
    """Parameters drawn by numpy, large enough that attention is far from uniform."""
    model = changed(MODELS[name], **changes)
    shapes = jax.eval_shape(model.init, jax.random.key(0), TOKENS)["params"]
    leaves, tree = jax.tree.flatten(shapes)
    return tree.unflatten([draw(i, *leaf.shape) for i, leaf in enumerate(leaves)])


@functools.cache
def jitted(model):
    return jax.jit(model.apply, static_argnames=("capture_intermediates", "mutable"))


def run(name, added, tokens, **options):
    variables = {"params": init(name)}
    if added is not None:
        variables["additions"] = added
    return jitted(MODELS[name])(variables, tokens, **options)


def nested(flat):
    tree = {}
    for path, value in flat.items():
        *folders, last = path.split("/")
        functools.reduce(lambda at, key: at.setdefault(key, {}), folders, tree)[last] = value
    return tree


def bottleneck(path, seed, rank=3, width=None):
    width = width or (8 if path.endswith("/key") else DIM)
    return {
        f"{path}/down": draw(seed, width, rank),
        f"{path}/down_bias": draw(seed + 1, rank),
        f"{path}/up": draw(seed + 2, rank, width),
        f"{path}/up_bias": draw(seed + 3, width),
    }


def everything(name):
    """All kinds at once, but for the key's bottleneck, whose path is the prefix's."""
    config, flat = MODELS[name].config, {"embeddings": draw(1, N, DIM), "infix": draw(2, M, DIM)}
    width = getattr(config, "kv_heads", config.heads) * config.head_dim
    for i in range(2):
        flat[f"layer_{i}/attention/key"] = draw(3 + i, P, width)
        flat[f"layer_{i}/attention/value"] = draw(5 + i, P, width)
        flat[f"layer_{i}/states"] = draw(7 + i, N + M, DIM)
        flat |= bottleneck(f"layer_{i}/mlp/down", 10 + i)
        flat |= bottleneck(f"layer_{i}/attention/out", 20 + i)
        flat[f"layer_{i}/mlp/down/norm_scale"] = draw(30 + i, DIM)
        flat[f"layer_{i}/mlp/down/norm_bias"] = draw(32 + i, DIM)
    return nested(flat)


WITH_INFIX = TOKENS.at[:, 2].set(VOCABULARY).at[:, 5].set(VOCABULARY + 1)


class Nothing:
    """What a model did before it could read a collection."""

    shift = ahead = 0
    real = mask = positions = staticmethod(lambda x, *_, **__: x)
    embed = staticmethod(lambda table, tokens: table(tokens))
    numbers = staticmethod(lambda *_: None)


@EVERY
@pytest.mark.parametrize("scan", [False, True])
def test_without_the_collection_the_program_is_that_of_a_model_that_cannot_read_it(
    name, scan, monkeypatch
):
    model = changed(MODELS[name], scan=scan, remat=scan)
    variables = jax.eval_shape(model.init, jax.random.key(0), TOKENS)
    program = lambda given: str(jax.make_jaxpr(model.apply)(given, TOKENS))
    found, empty = program(variables), program({**variables, "additions": {}})
    monkeypatch.setattr(additions, "read_virtual", lambda *_: Nothing)
    monkeypatch.setattr(additions, "read_prefix", lambda *_: None)
    monkeypatch.setattr(additions, "replace_states", lambda layer, x, numbers: x)
    monkeypatch.setattr(layers, "Dense", nn.Dense)
    assert found == empty == program(variables)
    assert set(variables) == {"params"}


@EVERY
def test_vectors_of_real_tokens_before_and_inside_a_row_are_those_tokens(name):
    table = init(name)["embed"]["embedding"]
    ids = jnp.asarray([7, 3, 7])
    longer = jnp.concatenate([jnp.broadcast_to(ids, (2, N)), TOKENS], axis=1)
    mask = jnp.ones((2, N + 8), bool).at[1, -2:].set(False)
    expected = run(name, None, longer, mask=mask)[:, N:]
    infix = table[TOKENS[0, jnp.asarray([2, 5])]]
    tokens = TOKENS.at[0].set(WITH_INFIX[0])
    found = run(name, {"embeddings": table[ids], "infix": infix}, tokens, mask=mask[:, N:])
    assert found.shape == expected.shape
    np.testing.assert_allclose(found[mask[:, N:]], expected[mask[:, N:]], atol=2e-5)


def test_the_classifier_reads_the_first_place_and_padding_is_told_from_virtual_tokens():
    model = changed(MODELS["roberta"], head="classification", labels=3)
    variables = {"params": init("roberta", head="classification", labels=3)}
    ids = jnp.asarray([7, 3, 7])
    padded = TOKENS.at[1, 6:].set(model.config.pad_id)
    longer = jnp.concatenate([jnp.broadcast_to(ids, (2, N)), padded], axis=1)
    rows = variables["params"]["embed"]["embedding"][ids]
    found = model.apply({**variables, "additions": {"embeddings": rows}}, padded)
    np.testing.assert_allclose(found, model.apply(variables, longer), atol=2e-5)
    assert jnp.abs(found - model.apply(variables, padded)).max() > 1e-2


def keys_and_values(name, tokens):
    """What each layer's attention sees of one row of tokens: [(key, value) (T, K H)]."""
    if name != "roberta":
        cache = init_cache(MODELS[name].config, 1, tokens.shape[1])
        _, cache = run(name, None, tokens, cache=cache)
        stacked = zip(cache.keys[:, 0], cache.values[:, 0], strict=True)
        return [(key.reshape(len(key), -1), value.reshape(len(key), -1)) for key, value in stacked]
    _, state = run(name, None, tokens, capture_intermediates=True, mutable="intermediates")
    made = [state["intermediates"][f"layer_{i}"]["attention"] for i in range(2)]
    return [tuple(own[part]["__call__"][0][0] for part in ("key", "value")) for own in made]


@EVERY
def test_keys_and_values_of_real_tokens_are_those_tokens(name):
    longer = jnp.concatenate([jnp.asarray([[7, 3, 9, 4]]), TOKENS[:1]], axis=1)
    added = {
        f"layer_{i}": {"attention": {"key": key[:P], "value": value[:P]}}
        for i, (key, value) in enumerate(keys_and_values(name, longer))
    }
    expected = run(name, None, longer)[:, P:]
    np.testing.assert_allclose(run(name, added, TOKENS[:1]), expected, atol=2e-5)
    # padding at the end changes nothing that is real, and the prefix is seen beside it
    mask = jnp.ones((1, 8), bool).at[0, 5:].set(False)
    short = run(name, added, TOKENS[:1], mask=mask)
    if name != "roberta":
        np.testing.assert_allclose(short[:, :5], expected[:, :5], atol=2e-5)


@EVERY
def test_states_that_the_stream_has_anyway_change_nothing(name):
    added = {"embeddings": draw(1, N, DIM), "infix": draw(2, M, DIM)}
    row = WITH_INFIX[:1]
    expected, state = run(name, added, row, capture_intermediates=True, mutable="intermediates")
    stream = state["intermediates"]["layer_0"]["__call__"][0][0]
    stream = stream if name == "roberta" else stream[0]
    own = stream[0, jnp.asarray([0, 1, 2, N + 2, N + 5])]
    same = run(name, {**added, "layer_1": {"states": own}}, row)
    np.testing.assert_allclose(same, expected, atol=2e-5)
    other = run(name, {**added, "layer_1": {"states": own.at[-1].set(0.0)}}, row)
    assert jnp.abs(other - expected)[:, 5:].max() > 1e-3
    if name != "roberta":
        np.testing.assert_allclose(other[:, :5], expected[:, :5], atol=2e-5)


@EVERY
def test_a_bottleneck_that_begins_at_zero_is_the_identity(name):
    flat = {}
    for i in range(2):
        for path in BOTTLENECKS[name]:
            flat |= bottleneck(f"layer_{i}/{path}", 40)
    tree = nested(flat)
    start = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf * (not path[-1].key.startswith("up")), tree
    )
    expected = run(name, None, TOKENS)
    np.testing.assert_array_equal(run(name, start, TOKENS), expected)
    assert jnp.abs(run(name, tree, TOKENS) - expected).max() > 1e-2


@pytest.mark.parametrize("norm", [False, True])
def test_a_bottleneck_is_its_equation(norm):
    own = {path[1:]: value for path, value in bottleneck("", 50, width=5).items()}
    if norm:
        own |= {"norm_scale": draw(60, 5), "norm_bias": draw(61, 5)}
    dense = layers.dense(MODELS["llama"].config, 5, "any", bias=True)
    x, params = draw(70, 2, 7), {"kernel": draw(71, 7, 5), "bias": draw(72, 5)}
    y = np.asarray(x @ params["kernel"] + params["bias"], np.float64)
    z = y
    if norm:
        z = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-5)
        z = z * own["norm_scale"] + own["norm_bias"]
    z = np.maximum(z @ own["down"] + own["down_bias"], 0) @ own["up"] + own["up_bias"]
    found = dense.apply({"params": params, "additions": own}, x)
    np.testing.assert_allclose(found, y + z, rtol=1e-5, atol=1e-6)


def loss_and_grad(model, params, added):
    def loss(added):
        out = model.apply({"params": params, "additions": added}, WITH_INFIX)
        return jnp.mean(jnp.sin(out))

    return jax.jit(jax.value_and_grad(loss))(added)


@EVERY
def test_scan_and_remat_change_neither_values_nor_gradients(name):
    model, params, added = MODELS[name], init(name), everything(name)
    loss, grads = loss_and_grad(model, params, added)
    scanned = changed(model, scan=True, remat=True)
    other_loss, other_grads = loss_and_grad(
        scanned, stack_layers(params, model.config), stack_layers(added, model.config)
    )
    np.testing.assert_allclose(other_loss, loss, rtol=1e-5)
    expected = stack_layers(grads, model.config)
    assert jax.tree.structure(other_grads) == jax.tree.structure(expected)
    for found, leaf in zip(jax.tree.leaves(other_grads), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(found, leaf, atol=1e-5 * max(1, jnp.abs(leaf).max()))
    # everything learns, but what the states of the first layer replace
    first = grads["layer_0"]["states"]
    assert jnp.abs(first).max() > 1e-5
    learns = {**grads, "embeddings": first, "infix": first}
    assert all(jnp.abs(leaf).max() > 1e-6 for leaf in jax.tree.leaves(learns))


@DECODERS
def test_packed_texts_see_the_virtual_tokens_and_not_each_other(name):
    added = everything(name)
    segments = jnp.asarray([[1, 1, 1, 2, 2, 2, 2, 0]])
    positions = jnp.asarray([[0, 1, 2, 0, 1, 2, 3, 0]])
    packed = run(name, added, WITH_INFIX[:1], mask=segment_mask(segments), positions=positions)
    for text in (slice(0, 3), slice(3, 7)):
        alone = run(name, added, WITH_INFIX[:1, text])
        np.testing.assert_allclose(packed[:, text], alone, atol=2e-5)


@DECODERS
def test_decoding_step_by_step_is_the_whole(name):
    added = everything(name)
    mask = jnp.ones((2, 8), bool).at[1, :3].set(False)
    cache = init_cache(MODELS[name].config, 2, 10)
    found = []
    for part in (slice(0, 4), slice(4, 5), slice(5, 6), slice(6, 7), slice(7, 8)):
        logits, cache = run(name, added, WITH_INFIX[:, part], mask=mask[:, part], cache=cache)
        found.append(logits)
    assert cache.length == 8 and cache.valid.sum() == 13
    found = jnp.concatenate(found, axis=1)
    whole = run(name, added, WITH_INFIX, mask=mask)
    np.testing.assert_allclose(found[mask], whole[mask], atol=2e-5)


def test_generation_reads_the_collection_with_a_cache_and_without():
    model = changed(MODELS["llama"], layers=1)
    params, added = init("llama", layers=1), everything("llama")
    del added["layer_1"], added["infix"]
    added["layer_0"]["states"] = added["layer_0"]["states"][:N]
    base, prompts = {"params": params, "additions": added}, [TOKENS[0, :5].tolist()]
    whole = jax.jit(model.apply)
    tokens = TOKENS[:1, :8].at[:, 5:].set(0)
    for i in range(5, 8):
        tokens = tokens.at[:, i].set(whole(base, tokens)[:, i - 1].argmax(-1))
    options = {"max_new_tokens": 3, "max_length": model.config.max_length - N - P}
    for init_cache_ in (None, False):
        found = lorax.generate(model.apply, base, None, prompts, init_cache=init_cache_, **options)
        assert found == [tokens[0, 5:].tolist()]
    without = lorax.generate(model.apply, {"params": params}, None, prompts, max_new_tokens=3)
    assert without != found


def test_a_frozen_head_is_read_out_for_real_tokens_alone():
    from lorax.train.losses import next_token_loss

    model = changed(MODELS["llama"], layers=1)
    added = {"embeddings": draw(1, N, DIM), **nested(bottleneck("layer_0/mlp/down", 2))}
    base = {"params": init("llama", layers=1), "additions": added}
    adapter = lorax.LoRA(rank=2, where=r".*/mlp/down/kernel")
    delta = jax.tree.map(lambda leaf: leaf + 0.1, adapter.init(base, jax.random.key(0)))
    batch = Batch(TOKENS, jnp.roll(TOKENS, -1, 1), jnp.ones(TOKENS.shape, bool))
    key = jax.random.key(0)
    found = {}
    for chunk in (0, 4):
        loss = next_token_loss(model.apply, adapter, chunk=chunk)
        found[chunk] = jax.jit(jax.value_and_grad(loss, has_aux=True))(delta, base, batch, key)
    for one, other in zip(jax.tree.leaves(found[0]), jax.tree.leaves(found[4]), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_attention_dropout_sees_the_prefix_too():
    query, key, value = (draw(i, 2, 5, heads, 4) for i, heads in enumerate((4, 2, 2)))
    prefix = draw(3, P, 2, 4), draw(4, P, 2, 4)
    mask = jnp.ones((2, 1, 1, 5), bool).at[1, :, :, 0].set(False)
    seen = {"mask": mask, "causal": True, "prefix": prefix}
    np.testing.assert_allclose(
        attend(query, key, value, **seen, drop=lambda weights: weights),
        attend(query, key, value, **seen),
        atol=1e-6,
    )


def test_additions_in_float32_leave_16_bits_what_they_are():
    model = changed(MODELS["llama"], dtype="bfloat16")
    variables = {"params": init("llama"), "additions": everything("llama")}
    _, state = jax.eval_shape(
        functools.partial(model.apply, capture_intermediates=True, mutable="intermediates"),
        variables, WITH_INFIX,
    )  # fmt: skip
    inner = state["intermediates"]["layer_1"]
    assert {leaf.dtype for leaf in jax.tree.leaves(inner)} == {jnp.dtype("bfloat16")}


def mistake(name, flat, tokens=TOKENS, **options):
    variables = {"params": init(name), "additions": nested(flat)}
    jax.eval_shape(functools.partial(MODELS[name].apply, **options), variables, tokens)


LONG = jnp.ones((1, 22), jnp.int32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: mistake("llama", {"embeddings": draw(1, 3, DIM)}, LONG),
            "at most max_length=24 tokens fit, got 22 after 3 virtual ones: cut the input",
        ),
        (
            lambda: mistake("roberta", {"embeddings": draw(1, 3, DIM)}, LONG),
            "at most max_length=24 tokens fit, got 22 after 3 virtual ones: cut the input",
        ),
        (
            lambda: mistake(
                "gpt2",
                {f"layer_1/attention/{name}": draw(1, 3, DIM) for name in ("key", "value")},
                LONG[:, :3],
                cache=init_cache(MODELS["gpt2"].config, 1),
            ),
            r"a cache of 24 slots after 3 virtual tokens exceeds max_length=24: make it .*length=21",
        ),
        (
            lambda: mistake("llama", {"embeddings": draw(1, 3, 5)}),
            r"embeddings in additions must have shape \(3, 16\), got \(3, 5\)",
        ),
        (
            lambda: mistake("llama", {"layer_0/attention/key": draw(1, 3, DIM)}),
            r"key in additions/layer_0/attention must have shape \(3, 8\), got \(3, 16\)",
        ),
        (
            lambda: mistake("llama", {"layer_0/attention/key": draw(1, 3, 8)}),
            r"value in additions/layer_0/attention must have shape \(3, 8\), got nothing",
        ),
        (
            lambda: mistake("gpt2", {"infix": draw(1, 2, DIM), "layer_0/states": draw(1, 3, DIM)}),
            r"states in additions must have shape \(2, 16\), got \(3, 16\)",
        ),
        (
            lambda: mistake("gpt2", {"layer_0/mlp/down/down": draw(1, DIM, 2)}),
            r"down in additions/layer_0/mlp/down must have shape .* got \(16, 2\)",
        ),
        (
            lambda: mistake(
                "roberta", {"embeddings": draw(1, 3, DIM)}, mask=jnp.ones((2, 8, 8), bool)
            ),
            "a mask of pairs does not say what an encoder's virtual tokens see: pass one of shape",
        ),
    ],
)
def test_mistakes_are_one_line(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_an_id_beyond_the_virtual_tokens_gives_nan_as_one_beyond_the_vocabulary_does():
    added = {"infix": draw(2, M, DIM)}
    found = run("gpt2", added, TOKENS.at[0, 6].set(VOCABULARY + M))
    assert jnp.isnan(found[0, 6:]).all() and not jnp.isnan(found[0, :6]).any()
    assert not jnp.isnan(found[1]).any()
