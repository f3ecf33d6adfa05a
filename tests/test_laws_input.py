"""The laws of design §5 for adapters that add beside the parameters: methods × models × dtypes.

Their first law is their own: `merge` leaves every parameter bit for bit and adds one collection; a
bottleneck is the identity at first; virtual tokens, keys and values, and states that are those of
real tokens do what the longer input does. A new method or model is done when its row is green.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lorax
from lorax.adapters.bottleneck import AFTER_MLP
from lorax.core import paths
from lorax.models import init_cache
from tests.additions import TOKENS, VOCABULARY, WITH_INFIX, changed, params

KEY = jax.random.key(1)
METHODS: dict[str, lorax.Adapter] = {
    "prompt": lorax.PromptTuning(3),
    "prompt_infix": lorax.PromptTuning(3, 2, initializer="vocabulary"),
    "p_mlp": lorax.PTuning(3, hidden=5),
    "p_lstm": lorax.PTuning(3, "lstm", hidden=4),
    "prefix": lorax.PrefixTuning(3),
    "prefix_network": lorax.PrefixTuning(3, hidden=5),
    "prefix_layer": lorax.PrefixLayer(3, 2),
    "adapter_h": lorax.Bottleneck(2),
    "adapter_l": lorax.Bottleneck(2, where=AFTER_MLP, norm=True),
}
CHAINS = {
    "lora_pe": lorax.Chain(lorax.LoRA(rank=2), lorax.PromptTuning(3, 2)),
    "lora_pl": lorax.Chain(lorax.LoRA(rank=2), lorax.PrefixLayer(3, 2)),
}
EVERY = METHODS | CHAINS
MODELS = {
    "llama": {},  # grouped queries
    "llama_scan": {"scan": True, "remat": True},
    "gpt2": {},
    "gpt2_scan": {"scan": True, "remat": "dots"},
    "roberta": {"head": "classification"},
}
ONE_EACH = [
    ("prompt", "gpt2"), ("prompt_infix", "llama_scan"), ("p_mlp", "roberta"), ("p_lstm", "llama"),
    ("prefix", "llama_scan"), ("prefix_network", "gpt2_scan"), ("prefix_layer", "gpt2"),
    ("adapter_h", "llama_scan"), ("adapter_l", "roberta"),
    ("lora_pe", "llama"), ("lora_pl", "gpt2_scan"),
]  # fmt: skip
"""The model that each method meets where it does not meet all."""


def table(*fast: tuple[str, str], wide: bool = False) -> Any:
    """`ONE_EACH` in both dtypes, or in float32 all pairs if `wide`, for laws that compile little.

    All but the `fast` pairs in float32 run with the longer suite.
    """
    pairs = [(kind, name) for kind in EVERY for name in MODELS] if wide else ONE_EACH
    rows = [(*pair, "float32") for pair in pairs] + [(*pair, "bfloat16") for pair in ONE_EACH]
    quick = {(*pair, "float32") for pair in fast}
    marks = lambda one: () if one in quick else pytest.mark.runs
    return pytest.mark.parametrize(
        ("kind", "name", "dtype"), [pytest.param(*one, marks=marks(one)) for one in rows]
    )


@functools.cache
def model(name: str, dtype: str = "float32") -> tuple[Any, Any]:
    """A model's apply and its parameters, computed in `dtype` and stored in it."""
    kind, changes = name.removesuffix("_scan"), MODELS[name]
    base = {"params": params(kind, **changes)}
    cast = lambda leaf: jnp.asarray(leaf, dtype)
    return changed(kind, **changes, dtype=dtype).apply, jax.tree.map(cast, base)


def tokens_for(kind: str) -> Any:
    """Ids of the batch; with virtual ones inside where the method has them."""
    adapter = EVERY[kind]
    last = adapter.members[-1] if isinstance(adapter, lorax.Chain) else adapter
    return WITH_INFIX if getattr(last, "infix", 0) else TOKENS


@functools.cache
def row(kind: str, name: str, dtype: str = "float32") -> tuple[Any, Any, Any, Any]:
    """The adapted program, the base, the shapes of a delta, and the ids."""
    fn, base = model(name, dtype)
    apply, ids = lorax.adapt(fn, EVERY[kind], on_fallback="error"), tokens_for(kind)
    return apply, base, jax.eval_shape(functools.partial(apply.init, KEY), base, ids), ids


@functools.cache
def first(kind: str, name: str, dtype: str = "float32") -> Any:
    """A first delta."""
    apply, base, _, ids = row(kind, name, dtype)
    return jax.jit(apply.init)(KEY, base, ids)


def anywhere(shapes: Any, size: float = 0.3) -> Any:
    """A delta away from any start, drawn without compiling anything."""
    draw = np.random.default_rng(5)
    return jax.tree.map(lambda x: (size * draw.standard_normal(x.shape)).astype(x.dtype), shapes)


def bits(tree: Any) -> list[bytes]:
    """The leaves as bytes."""
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def objective(apply: Any) -> Any:
    """A smooth scalar of the outputs and what they are, for gradients."""

    def loss(delta: Any, base: Any, ids: Any) -> Any:
        out = apply(base, delta, ids)
        return jnp.sum(jnp.sin(out.astype(jnp.float32))), out

    return loss


def close(a: Any, b: Any, tolerance: float) -> None:
    """Asserts that two trees agree, relative to the largest entry of each leaf."""
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        assert np.abs(x - y).max() <= tolerance * max(np.abs(y).max(), 1e-3)


@table(*ONE_EACH, wide=True)
def test_laws_1_and_2_merge_keeps_every_parameter_and_adds_one_collection(kind, name, dtype):
    _, base, shapes, _ = row(kind, name, dtype)
    delta = anywhere(shapes)
    merged = EVERY[kind].merge(base, delta)
    assert set(merged) == {"params", "additions"} and set(base) == {"params"}
    assert jax.tree.structure(merged["params"]) == jax.tree.structure(base["params"])
    changed = bits(merged["params"]) != bits(base["params"])
    assert changed == (kind in CHAINS)  # by the LoRA
    added = EVERY[kind].additions(base, delta)
    found = paths.flatten({"additions": merged["additions"]})
    assert found.keys() == added.keys() and bits(found) == bits(dict(sorted(added.items())))
    assert all(leaf.dtype == jnp.float32 for leaf in added.values())


@table(*(pair for pair in ONE_EACH if pair[0] in METHODS), wide=True)
def test_laws_3_and_9_factored_is_merged_without_fallback(kind, name, dtype):
    apply, base, shapes, ids = row(kind, name, dtype)
    delta, merged = anywhere(shapes), lorax.adapt(apply.fn, EVERY[kind], engine="merged")
    if kind in METHODS:  # one program, so that outputs and gradients are the same
        program = lambda fn: str(jax.make_jaxpr(fn)(base, delta, ids))
        assert program(apply) == program(merged)
        return
    run = lambda fn: jax.jit(jax.grad(objective(fn), has_aux=True))(delta, base, ids)
    (slope, out), (wanted_slope, wanted) = run(apply), run(merged)
    tolerance = 1e-5 if dtype == "float32" else 5e-2
    close(out, wanted, tolerance)
    close(slope, wanted_slope, 10 * tolerance)


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.runs)])
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("adapter_l", "llama_scan"),
        pytest.param("adapter_h", "gpt2", marks=pytest.mark.runs),
        pytest.param("adapter_h", "roberta", marks=pytest.mark.runs),
    ],
)
def test_law_1_a_bottleneck_starts_as_the_identity_bit_for_bit(kind, name, dtype):
    apply, base, _, ids = row(kind, name, dtype)
    found = jax.jit(apply)(base, first(kind, name, dtype), ids)
    assert bits(found) == bits(jax.jit(apply.fn)(base, ids))


@pytest.mark.parametrize("name", ["llama", pytest.param("gpt2", marks=pytest.mark.runs)])
def test_law_1_a_prompt_of_real_embeddings_is_the_longer_input(name):
    fn, base = model(name)
    text = (4, 9, 2)
    adapter = lorax.PromptTuning(3, initializer="text", token_ids=text)
    found = jax.jit(lorax.adapt(fn, adapter))(base, adapter.init(KEY, base), TOKENS)
    longer = np.concatenate([np.tile(text, (2, 1)), TOKENS], axis=1)
    np.testing.assert_allclose(found, jax.jit(fn)(base, longer)[:, 3:], atol=2e-5)


@pytest.mark.runs
@pytest.mark.parametrize("name", ["llama", "llama_scan", "gpt2"])
def test_law_1_a_prefix_of_real_keys_and_values_is_the_longer_input(name):
    fn, base = model(name)
    config = changed(name.removesuffix("_scan"), **MODELS[name]).config
    text = np.array([[4, 9, 2]])
    whole = jax.jit(fn)(base, np.concatenate([text, TOKENS[:1]], axis=1))
    _, cache = fn(base, text, cache=init_cache(config, 1, 3))
    both = jnp.stack([cache.keys, cache.values])[:, :, 0]  # (2, L, n, K, H)
    prefix = both.reshape(*both.shape[:3], -1).transpose(2, 1, 0, 3).reshape(3, -1)
    apply = lorax.adapt(fn, lorax.PrefixTuning(3))
    found = jax.jit(apply)(base, {"prefix": prefix}, TOKENS[:1])
    np.testing.assert_allclose(found, whole[:, 3:], atol=2e-5)


@pytest.mark.runs
def test_law_1_states_of_real_tokens_are_the_longer_input():
    fn, base = model("llama")
    longer = np.concatenate([np.array([[4, 9, 2]]), TOKENS[:1]], axis=1)
    longer[0, 5] = 7
    keep = {"capture_intermediates": True, "mutable": "intermediates"}
    whole, seen = fn(base, longer, **keep)
    left = seen["intermediates"]["layer_0"]["__call__"][0][0][0]
    states = np.stack([base["params"]["embed"]["embedding"][longer[0]], left[0]])
    ids = longer[:, 3:].copy()
    ids[0, 2] = VOCABULARY  # the one virtual token inside
    apply = lorax.adapt(fn, lorax.PrefixLayer(3, 1))
    found = apply(base, {"states": jnp.asarray(states[:, [0, 1, 2, 5]])}, ids)
    np.testing.assert_allclose(found, whole[:, 3:], atol=2e-5)


@table(("lora_pe", "llama"))
def test_laws_4_8_and_10_state_loss_and_base_in_training(kind, name, dtype, tmp_path):
    from lorax.io.checkpoint import load_adapter, save_adapter

    apply, base, _, ids = row(kind, name, dtype)
    before, start = bits(base), first(kind, name, dtype)
    save_adapter(tmp_path / "adapter", EVERY[kind], start)
    adapter, delta = load_adapter(tmp_path / "adapter")
    assert adapter == EVERY[kind] and bits(delta) == bits(start)
    assert jax.tree.structure(delta) == jax.tree.structure(start)
    tx = optax.adam(1e-2)
    state = tx.init(delta)
    moments = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    assert moments == 2 * sum(leaf.nbytes for leaf in jax.tree.leaves(delta)) + 4
    loss = objective(lorax.adapt(apply.fn, adapter))

    @jax.jit
    def step(delta, state):
        (value, _), slope = jax.value_and_grad(loss, has_aux=True)(delta, base, ids)
        updates, state = tx.update(slope, state)
        return optax.apply_updates(delta, updates), state, value

    losses = []
    for _ in range(10):
        delta, state, value = step(delta, state)
        losses.append(float(value))
    assert losses[-1] < losses[0]
    assert bits(base) == before


@pytest.mark.parametrize(
    "kind",
    [kind if kind == "prompt_infix" else pytest.param(kind, marks=pytest.mark.runs)
     for kind in METHODS],
)  # fmt: skip
def test_law_5_draws_depend_on_names_alone(kind):
    _, base, _, _ = row(kind, dict(ONE_EACH)[kind])
    delta = jax.jit(METHODS[kind].init)(KEY, base)
    chain = lorax.Chain(lorax.Full(where=(r".*norm/scale",)), METHODS[kind])
    assert bits(jax.jit(chain.init)(KEY, base)[1]) == bits(delta)
    drawn = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(delta) if np.std(leaf) > 0]
    assert len(set(drawn)) == len(drawn)


@table()
def test_law_6_vmaps_over_delta_and_reruns_bit_identically(kind, name, dtype):
    apply, base, shapes, ids = row(kind, name, dtype)
    deltas = [anywhere(shapes, size) for size in (0.1, 0.2, 0.3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *deltas)
    together = jax.jit(jax.vmap(apply, in_axes=(None, 0, None)))(base, stacked, ids)
    one = jax.jit(apply)
    alone = jnp.stack([one(base, delta, ids) for delta in deltas])
    close(together, alone, 1e-5 if dtype == "float32" else 5e-2)
    assert bits(jnp.stack([one(base, delta, ids) for delta in deltas])) == bits(alone)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("lora_pl", "gpt2_scan"),
        pytest.param("lora_pl", "roberta", marks=pytest.mark.runs),
        pytest.param("lora_pe", "llama", marks=pytest.mark.runs),
    ],
)
def test_law_7_a_chain_counts_what_its_members_count(kind, name):
    apply, base, (lora, virtual), ids = row(kind, name)
    size = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
    stored, layers = paths.flatten(base), 2 if kind == "lora_pl" else 1
    assert size(virtual) == layers * 5 * 16  # L · D · (tokens + infix), or D · (tokens + infix)
    sides = [factors.roles.matrix(stored[path].shape) for path, factors in lora.items()]
    assert size(lora) == sum(2 * stack * (fan_in + fan_out) for stack, fan_in, fan_out in sides)
    report = lorax.report(apply.fn, EVERY[kind], base, ids)
    assert report.trainable == size(lora) + size(virtual) and not report.merged
    added = [leaf for leaf in report.rows if leaf.how == "added"]
    assert len(added) == (2 if kind == "lora_pe" else 3 if name.endswith("scan") else 4)
    assert all(leaf.uses for leaf in added)


@pytest.mark.parametrize("kind", EVERY)
def test_law_8_an_adapter_is_its_description(kind):
    adapter = EVERY[kind]
    assert lorax.from_json(adapter.to_json()) == adapter
    assert hash(lorax.from_json(adapter.to_json())) == hash(adapter)
