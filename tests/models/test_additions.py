"""What stands beside the parameters does what real tokens, kept by hand, would do.

All kinds at once here, one program a model, scanned and rematerialised; kind by kind, and layer by
layer, in `test_additions_apart`.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lorax.models import additions, init_cache, layers, segment_mask
from tests.additions import (
    DIM,
    MODELS,
    TOKENS,
    WITH_INFIX,
    N,
    P,
    bottleneck,
    changed,
    draw,
    everything,
    nested,
    params,
)

DECODERS = pytest.mark.parametrize("name", ["llama", "gpt2"])
EVERY = pytest.mark.parametrize("name", list(MODELS))
FORM = {"scan": True, "remat": True}


def form(name):
    head = {"head": "classification"} if name == "roberta" else {}
    return {**FORM, **head}


def stacked(added):
    """A tree layer by layer in the scanned layout."""
    others = {name: value for name, value in added.items() if not name.startswith("layer_")}
    both = (added["layer_0"], added["layer_1"])
    return {**others, "layers": jax.tree.map(lambda *leaves: np.stack(leaves), *both)}


@functools.cache
def jitted(name):
    """The program with all additions: of parameters, additions, tokens, mask and positions."""
    apply = changed(name, **form(name)).apply

    def program(params, added, tokens, mask, positions):
        variables = {"params": params, "additions": added}
        return apply(variables, tokens, mask=mask, positions=positions)

    return jax.jit(program)


def run(name, added, tokens, mask=None, positions=None):
    """One row; a mask of the one shape that all calls share, so that all are one program."""
    length = tokens.shape[1]
    if positions is None:
        positions = np.arange(length)[None] + (2 if name == "roberta" else 0)
    if mask is None:
        mask = np.ones((1, length) if name == "roberta" else (1, length, length), bool)
    return np.asarray(jitted(name)(params(name, **form(name)), added, tokens, mask, positions))


class Nothing:
    """What a model did before it could read a collection."""

    shift = ahead = 0
    real = mask = positions = staticmethod(lambda x, *_, **__: x)
    embed = staticmethod(lambda table, tokens: table(tokens))
    numbers = staticmethod(lambda *_: None)


@pytest.mark.parametrize(
    ("name", "scan"), [("llama", False), ("llama", True), ("gpt2", True), ("roberta", True)]
)
def test_without_the_collection_the_program_is_that_of_a_model_that_cannot_read_it(
    name, scan, monkeypatch
):
    model = changed(name, scan=scan, remat=scan)
    variables = jax.eval_shape(model.init, jax.random.key(0), TOKENS)
    program = lambda given: str(jax.make_jaxpr(model.apply)(given, TOKENS))
    found, empty = program(variables), program({**variables, "additions": {}})
    monkeypatch.setattr(additions, "read_virtual", lambda *_: Nothing)
    monkeypatch.setattr(additions, "read_prefix", lambda *_: None)
    monkeypatch.setattr(additions, "replace_states", lambda layer, x, numbers: x)
    monkeypatch.setattr(layers, "Dense", nn.Dense)
    assert found == empty == program(variables)
    assert set(variables) == {"params"}


@functools.cache
def longer(name):
    """The logits of a row with P + N real tokens more, and everything inside the model."""
    ids = np.concatenate([[[7, 3, 9, 4, 11, 5, 2]], TOKENS[:1]], axis=1)
    variables = {"params": params(name, **form(name))}
    apply = functools.partial(
        changed(name, **form(name)).apply, capture_intermediates=True, mutable="intermediates"
    )
    logits, state = jax.jit(apply)(variables, ids)
    return np.asarray(logits), state["intermediates"]


def keys_and_values(name):
    """(L, P, K H) each: what attention saw of the first P tokens of the longer row."""
    made = longer(name)[1]["layers"]["attention"]
    output = lambda part: np.asarray(made[part]["__call__"][0])[:, 0, :P]
    if name == "gpt2":
        return np.split(output("qkv"), 3, axis=-1)[1:]
    key = output("key")
    if name == "llama":
        turn = np.exp(1j * np.arange(P)[:, None, None] * 50.0 ** (-np.arange(2) / 2))
        pairs = key.reshape(2, P, -1, 2, 2)
        turned = (pairs[..., 0, :] + 1j * pairs[..., 1, :]) * turn
        key = np.concatenate([turned.real, turned.imag], axis=-1).reshape(key.shape)
    return key, output("value")


def states(name):
    """(L, N + M, D): what entered each layer of the longer row at the places of virtual tokens."""
    made = longer(name)[1]
    first = {"llama": ["embed"], "gpt2": ["embed", "positions"], "roberta": ["embed_norm"]}[name]
    entered = sum(np.asarray(made[part]["__call__"][0]) for part in first)
    left = made["layers"]["__call__"][0][0]
    left = np.asarray(left if name == "roberta" else left[0])
    stream = np.concatenate([entered[None], left[:-1]])[:, 0]
    return stream[:, [P, P + 1, P + 2, P + N + 2, P + N + 5]], left[-1:, 0]


@EVERY
def test_what_real_tokens_leave_behind_does_what_they_do(name):
    added = stacked(everything(name))
    table = np.asarray(params(name, **form(name))["embed"]["embedding"])
    added["embeddings"] = table[[11, 5, 2]]
    added["infix"] = table[TOKENS[0, [2, 5]]]
    own = added["layers"]
    own["attention"]["key"], own["attention"]["value"] = keys_and_values(name)
    own["states"], last = states(name)
    for part in (own["attention"]["out"], own["mlp"]["down"]):
        part["up"], part["up_bias"] = np.zeros_like(part["up"]), np.zeros_like(part["up_bias"])
    expected = longer(name)[0][:, P + N :]
    if name == "roberta":  # whose classifier reads the first place, that of a virtual token
        first, second = params(name, **form(name))["classifier"].values()
        hidden = np.tanh(np.asarray(last)[:, P] @ first["kernel"] + first["bias"])
        expected = hidden @ second["kernel"] + second["bias"]
    found = run(name, added, WITH_INFIX[:1])
    assert found.shape == expected.shape and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=3e-5)


@EVERY
def test_every_array_is_read(name):
    added = stacked(everything(name))
    before = run(name, added, WITH_INFIX[:1])
    paths, tree = jax.tree.flatten_with_path(added)
    for i, (path, leaf) in enumerate(paths):
        leaves = [leaf for _, leaf in paths]
        leaves[i] = leaf + draw(80, *leaf.shape)
        change = np.abs(run(name, tree.unflatten(leaves), WITH_INFIX[:1]) - before).max()
        # the first layer's states replace what was looked up
        replaced = path[0].key in ("embeddings", "infix")
        assert change == 0 if replaced else change > 1e-5, path


@DECODERS
def test_packed_texts_see_the_virtual_tokens_and_not_each_other(name):
    added = stacked(everything(name))
    segments = np.asarray([[1, 1, 1, 2, 2, 2, 2, 0]])
    positions = np.asarray([[0, 1, 2, 0, 1, 2, 3, 0]])
    mask = np.asarray(segment_mask(jnp.asarray(segments)))
    packed = run(name, added, WITH_INFIX[:1], mask, positions)
    for text in (slice(0, 3), slice(3, 7)):
        alone = np.zeros_like(WITH_INFIX[:1])
        length = text.stop - text.start
        alone[:, :length] = WITH_INFIX[:1, text]
        np.testing.assert_allclose(packed[:, text], run(name, added, alone)[:, :length], atol=3e-5)


def test_decoding_token_by_token_is_the_whole():
    added = stacked(everything("llama"))
    model = changed("llama", **FORM)
    variables = {"params": params("llama", **FORM), "additions": added}
    cache = init_cache(model.config, 1, 12)
    step = jax.jit(model.apply)
    found = []
    for i in range(-2, 8):  # two of padding first
        token, mask = WITH_INFIX[:1, max(i, 0), None], np.full((1, 1), i >= 0)
        logits, cache = step(variables, token, mask=mask, cache=cache)
        found.append(np.asarray(logits)[:, 0])
    assert (cache.ahead, int(cache.length)) == (N, N + 10)  # virtual tokens were read once
    real = [False] * 2 + [True] * 8 + [False] * 2
    assert np.asarray(cache.valid)[0].tolist() == [True] * N + real
    whole = run("llama", added, WITH_INFIX[:1])
    np.testing.assert_allclose(np.stack(found[2:], axis=1), whole, atol=3e-5)


def test_a_cache_that_holds_the_virtual_tokens_saves_their_work():
    model, added = MODELS["llama"], {"embeddings": draw(1, N, DIM)}
    variables = {"params": params("llama"), "additions": added}
    step = jax.jit(model.apply)
    work = lambda variables, cache: (
        step.lower(variables, TOKENS[:, :1], cache=cache).compile().cost_analysis()["flops"]
    )
    empty = init_cache(model.config, len(TOKENS), 12)
    plain = work({"params": params("llama")}, init_cache(model.config, len(TOKENS), 12 + N))
    _, begun = step(variables, TOKENS[:, :1], cache=empty)
    assert work(variables, begun) < 1.02 * plain < work(variables, empty) / 1.5
    # tokens that were read without virtual ones cannot be followed by them
    _, other = step({"params": params("llama")}, TOKENS[:, :1], cache=empty)
    assert np.isnan(step(variables, TOKENS[:, :1], cache=other)[0]).all()
    with pytest.raises(ValueError, match=f"begun with {N} virtual tokens and there are 0: begin"):
        step({"params": params("llama")}, TOKENS[:, :1], cache=begun)


@pytest.mark.parametrize("norm", [False, True])
def test_a_bottleneck_is_its_equation_and_nothing_while_up_is_zero(norm):
    own = {path[1:]: value for path, value in bottleneck("", 50, width=5).items()}
    if norm:
        own |= {"norm_scale": draw(60, 5), "norm_bias": draw(61, 5)}
    dense = layers.dense(MODELS["llama"].config, 5, "any", bias=True)
    x, weights = draw(70, 2, 7), {"kernel": draw(71, 7, 5), "bias": draw(72, 5)}
    y = np.asarray(dense.apply({"params": weights}, x))
    z = y
    if norm:
        z = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-5)
        z = z * own["norm_scale"] + own["norm_bias"]
    z = np.maximum(z @ own["down"] + own["down_bias"], 0) @ own["up"] + own["up_bias"]
    found = dense.apply({"params": weights, "additions": own}, x)
    np.testing.assert_allclose(found, y + z, rtol=1e-5, atol=1e-6)
    start = {**own, "up": 0 * own["up"], "up_bias": 0 * own["up_bias"]}
    np.testing.assert_array_equal(dense.apply({"params": weights, "additions": start}, x), y)


def mistake(name, flat, tokens=TOKENS, **options):
    variables = {"params": params(name), "additions": nested(flat)}
    jax.eval_shape(functools.partial(MODELS[name].apply, **options), variables, tokens)


LONG = np.ones((1, 22), np.int32)
PROMPT = {"embeddings": draw(1, 3, DIM)}
PREFIX = {f"layer_1/attention/{part}": draw(1, 3, DIM) for part in ("key", "value")}
TOO_LONG = "at most max_length=24 tokens fit, got 22 after 3 virtual ones: cut the input"


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("llama", PROMPT, LONG), {}, TOO_LONG),
        (("roberta", PREFIX, LONG), {}, TOO_LONG),
        (
            ("gpt2", PREFIX, LONG[:, :3]),
            {"cache": init_cache(MODELS["gpt2"].config, 1)},
            r"a cache of 24 slots after 3 virtual tokens exceeds max_length=24: .* length=21",
        ),
        (
            ("llama", {"embeddings": draw(1, 3, 5)}),
            {},
            r"embeddings in additions must have shape \(3, 16\), got \(3, 5\)",
        ),
        (
            ("llama", PREFIX),
            {},
            r"key in additions/layer_1/attention must have shape \(3, 8\), got \(3, 16\)",
        ),
        (
            ("llama", {"layer_0/attention/key": draw(1, 3, 8)}),
            {},
            r"value in additions/layer_0/attention must have shape \(3, 8\), got nothing",
        ),
        (
            ("gpt2", {"infix": draw(1, 2, DIM), "layer_0/states": draw(1, 3, DIM)}),
            {},
            r"states in additions must have shape \(2, 16\), got \(3, 16\)",
        ),
        (
            ("gpt2", {"layer_0/mlp/down/down": draw(1, DIM, 2)}),
            {},
            r"down in additions/layer_0/mlp/down must have shape .* got \(16, 2\)",
        ),
        (
            ("roberta", PROMPT),
            {"mask": np.ones((2, 8, 8), bool)},
            "a mask of pairs does not say what an encoder's virtual tokens see: pass one of shape",
        ),
    ],
)
def test_mistakes_are_one_line(arguments, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        mistake(*arguments, **options)
    assert "\n" not in str(caught.value)
