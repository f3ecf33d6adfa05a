"""Additions of one kind at a time, layer by layer, in models with and without a cache."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lorax
from lorax.data.batch import Batch
from lorax.models import init_cache, stack_layers
from lorax.models.attention import attend
from lorax.train.losses import next_token_loss
from tests.additions import (
    DIM,
    MODELS,
    TOKENS,
    VOCABULARY,
    WITH_INFIX,
    M,
    N,
    P,
    bottleneck,
    changed,
    draw,
    everything,
    nested,
    params,
)

pytestmark = pytest.mark.runs

DECODERS = pytest.mark.parametrize("name", ["llama", "gpt2"])
EVERY = pytest.mark.parametrize("name", list(MODELS))
BOTTLENECKS = {
    "llama": {"attention/key": 8, "attention/out": DIM, "mlp/down": DIM},
    "gpt2": {"attention/out": DIM, "mlp/down": DIM},
    "roberta": {"attention/query": DIM, "mlp/down": DIM},
}


@functools.cache
def jitted(model):
    return jax.jit(model.apply, static_argnames=("capture_intermediates", "mutable"))


def run(name, added, tokens, **options):
    variables = {"params": params(name)}
    if added is not None:
        variables["additions"] = added
    return jitted(MODELS[name])(variables, jnp.asarray(tokens), **options)


@EVERY
def test_vectors_of_real_tokens_before_and_inside_a_row_are_those_tokens(name):
    table = jnp.asarray(params(name)["embed"]["embedding"])
    ids = jnp.asarray([7, 3, 7])
    longer = jnp.concatenate([jnp.broadcast_to(ids, (2, N)), TOKENS], axis=1)
    mask = jnp.ones((2, N + 8), bool).at[1, -2:].set(False)
    expected = run(name, None, longer, mask=mask)[:, N:]
    infix = table[TOKENS[0, jnp.asarray([2, 5])]]
    tokens = np.stack([WITH_INFIX[0], TOKENS[1]])
    found = run(name, {"embeddings": table[ids], "infix": infix}, tokens, mask=mask[:, N:])
    assert found.shape == expected.shape
    np.testing.assert_allclose(found[mask[:, N:]], expected[mask[:, N:]], atol=2e-5)


def test_the_classifier_reads_the_first_place_and_padding_is_told_from_virtual_tokens():
    model = changed("roberta", head="classification", labels=3)
    variables = {"params": params("roberta", head="classification", labels=3)}
    ids = np.asarray([7, 3, 7])
    padded = jnp.asarray(TOKENS).at[1, 6:].set(model.config.pad_id)
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
        for path, width in BOTTLENECKS[name].items():
            flat |= bottleneck(f"layer_{i}/{path}", 40, width)
    tree = nested(flat)
    start = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf * (not path[-1].key.startswith("up")), tree
    )
    expected = run(name, None, TOKENS)
    np.testing.assert_array_equal(run(name, start, TOKENS), expected)
    assert jnp.abs(run(name, tree, TOKENS) - expected).max() > 1e-2


def loss_and_grad(model, weights, added):
    def loss(added):
        out = model.apply({"params": weights, "additions": added}, WITH_INFIX)
        return jnp.mean(jnp.sin(out))

    return jax.jit(jax.value_and_grad(loss))(added)


@EVERY
def test_scan_and_remat_change_neither_values_nor_gradients(name):
    model, weights, added = MODELS[name], params(name), everything(name)
    loss, grads = loss_and_grad(model, weights, added)
    scanned = changed(name, scan=True, remat=True)
    other_loss, other_grads = loss_and_grad(
        scanned, stack_layers(weights, model.config), stack_layers(added, model.config)
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
def test_decoding_step_by_step_is_the_whole(name):
    added = everything(name)
    mask = jnp.ones((2, 8), bool).at[1, :3].set(False)
    cache = init_cache(MODELS[name].config, 2, 10)
    found = []
    for part in (slice(0, 4), slice(4, 5), slice(5, 6), slice(6, 7), slice(7, 8)):
        logits, cache = run(name, added, WITH_INFIX[:, part], mask=mask[:, part], cache=cache)
        found.append(logits)
    assert cache.length == N + 8 and cache.valid.sum() == 2 * N + 13
    found = jnp.concatenate(found, axis=1)
    whole = run(name, added, WITH_INFIX, mask=mask)
    np.testing.assert_allclose(found[mask], whole[mask], atol=2e-5)


def test_generation_reads_the_collection_with_a_cache_and_without():
    model, weights = changed("llama", layers=1), params("llama", layers=1)
    added = everything("llama")
    del added["layer_1"], added["infix"]
    added["layer_0"]["states"] = added["layer_0"]["states"][:N]
    base, prompts = {"params": weights, "additions": added}, [TOKENS[0, :5].tolist()]
    whole = jax.jit(model.apply)
    tokens = np.where(np.arange(8) < 5, TOKENS[:1], 0)
    for i in range(5, 8):
        tokens[:, i] = whole(base, tokens)[:, i - 1].argmax(-1)
    generate = functools.partial(lorax.generate, model.apply, max_new_tokens=3)
    fitting = model.config.max_length - N - P
    for cache in (None, False):
        found = generate(base, None, prompts, init_cache=cache, max_length=fitting)
        assert found == [tokens[0, 5:].tolist()]
    assert generate({"params": weights}, None, prompts) != found


def test_a_frozen_head_is_read_out_for_real_tokens_alone():
    model = changed("llama", layers=1)
    added = {"embeddings": draw(1, N, DIM), **nested(bottleneck("layer_0/mlp/down", 2))}
    base = {"params": params("llama", layers=1), "additions": added}
    adapter = lorax.LoRA(rank=2, where=(r".*/mlp/down/kernel",))
    delta = jax.tree.map(lambda leaf: leaf + 0.1, adapter.init(jax.random.key(0), base))
    batch = Batch(TOKENS, np.roll(TOKENS, -1, 1), np.ones(TOKENS.shape, bool))
    key = jax.random.key(0)
    found = []
    for chunk in (0, 4):
        loss = next_token_loss(model.apply, adapter, chunk=chunk)
        found.append(jax.jit(jax.value_and_grad(loss, has_aux=True))(delta, base, batch, key))
    for one, other in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    assert all(np.abs(leaf).max() > 1e-5 for leaf in jax.tree.leaves(found[1][1]))


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
    model = changed("llama", dtype="bfloat16")
    variables = {"params": params("llama"), "additions": everything("llama")}
    _, state = jax.eval_shape(
        functools.partial(model.apply, capture_intermediates=True, mutable="intermediates"),
        variables, WITH_INFIX,
    )  # fmt: skip
    inner = state["intermediates"]["layer_1"]
    assert {leaf.dtype for leaf in jax.tree.leaves(inner)} == {jnp.dtype("bfloat16")}


def test_an_id_beyond_the_virtual_tokens_gives_nan_as_one_beyond_the_vocabulary_does():
    tokens = TOKENS.copy()
    tokens[0, 6] = VOCABULARY + M
    found = run("gpt2", {"infix": draw(2, M, DIM)}, tokens)
    assert jnp.isnan(found[0, 6]).all() and not jnp.isnan(found[1]).any()
