"""A few numbers move every leaf: they start at the base bit for bit, and P is its seed's alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lorax
from lorax.core.errors import LoraxError, LoraxTypeError
from lorax.models.mlp import MLP
from tests.moved import moved

KEY = jax.random.key(0)
MODEL = MLP((7, 3))
X = jax.random.normal(KEY, (4, 6))
BASE = jax.jit(MODEL.init)(KEY, X)
D = 6 * 7 + 7 + 7 * 3 + 3
FORMS = {
    "sparse": {},
    "leaf density": {"density": "leaf"},
    "dense": {"projection": "dense"},
    "fastfood": {"projection": "fastfood"},
    "blocks": {"projection": "fastfood", "block": 16},
    "per tensor": {"projection": "fastfood", "scope": "per_tensor"},
    "per tensor, sparse": {"scope": "per_tensor"},
    "per tensor, blocks": {"projection": "fastfood", "scope": "per_tensor", "block": 16},
    "layerwise": {"layerwise": True},
}


def make(form, dim=9, **fields):
    return lorax.Subspace(dim=dim, **FORMS[form] | fields)


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def start(adapter, base=BASE):
    return lorax.adapt(MODEL.apply, adapter, on_fallback="error").init(KEY, base, X)


def update(adapter, delta, base=BASE):
    joined = lambda delta: jnp.concatenate(
        [shift.update.ravel() for shift in adapter.leaves(base, delta).values()]
    )
    return np.asarray(jax.jit(joined)(delta))


@pytest.mark.parametrize("form", FORMS)
def test_it_has_just_dim_numbers_and_starts_at_the_base(form):
    adapter = make(form)
    delta = start(adapter)
    assert sum(leaf.size for leaf in jax.tree.leaves(delta)) == 9
    merge, negative = jax.jit(adapter.merge), jax.tree.map(lambda x: -0.0 * x, BASE)
    assert bits(merge(BASE, delta)) == bits(BASE) and bits(merge(negative, delta)) == bits(negative)
    assert bits(merge(BASE, moved(delta, 1.0))) != bits(BASE)


@pytest.mark.parametrize("form", ["sparse", "dense", "fastfood", "blocks"])
def test_a_global_column_has_norm_one_over_all_leaves(form):
    adapter = make(form, dim=8)
    delta = start(adapter)
    column = lambda theta: jnp.concatenate(
        [shift.update.ravel() for shift in adapter.leaves(BASE, {"theta": theta}).values()]
    )
    p = np.asarray(jax.jit(jax.vmap(column))(jnp.eye(8))).T
    assert p.shape == (D, 8) and set(delta) == {"theta"}
    exact = form in ("sparse", "dense")
    np.testing.assert_allclose(np.linalg.norm(p, axis=0), 1, atol=1e-4 if exact else 0.5)


def test_a_column_per_tensor_has_norm_one_in_each_of_them():
    adapter = make("per tensor, sparse", dim=2)
    leaves = adapter.leaves(BASE, {"theta": jnp.array([0.0, 1.0])})
    norms = [float(jnp.linalg.norm(shift.update)) for shift in leaves.values()]
    np.testing.assert_allclose(norms, 1, atol=1e-6)


# a leaf that is shorter than θ's table takes a transform of that length
@pytest.mark.parametrize(
    ("form", "dim"),
    [("sparse", 12), ("dense", 12), ("fastfood", 12), ("blocks", 12), ("per tensor", 8)],
)
def test_a_smaller_subspace_of_a_seed_lies_in_a_larger_one(form, dim):
    theta = moved({"theta": jnp.zeros(5)}, 1.0)["theta"]
    small = update(make(form, dim=5), {"theta": theta})
    large = update(make(form, dim=dim), {"theta": jnp.pad(theta, (0, dim - 5))})
    np.testing.assert_allclose(small, large, atol=1e-5)


def test_p_is_the_seeds_alone():
    delta = {"theta": jnp.ones(9)}
    one, again, other = (update(make("sparse", seed=seed), delta) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


def test_p_does_not_depend_on_the_order_of_the_tree_or_on_other_leaves():
    leaves = {"b": jnp.zeros((3, 4)), "a": jnp.zeros(5)}
    turned = {"a": leaves["a"], "b": leaves["b"]}
    delta = {"theta": jnp.ones(3)}
    adapter = lorax.Subspace(dim=3)
    for path, shift in adapter.leaves(leaves, delta).items():
        np.testing.assert_array_equal(shift.update, adapter.leaves(turned, delta)[path].update)
    apart = dataclasses.replace(adapter, scope="per_tensor")
    alone = dataclasses.replace(apart, where=("b",))
    found, fewer = (one.leaves(leaves, delta)["b"].update for one in (apart, alone))
    np.testing.assert_array_equal(found, fewer)


@pytest.mark.parametrize("form", FORMS)
def test_prepared_or_not_it_is_the_same(form):
    adapter = make(form)
    delta = moved(start(adapter), 1.0)
    prepared = adapter.prepare(BASE, delta)
    apply = jax.jit(lorax.adapt(MODEL.apply, adapter))
    np.testing.assert_allclose(apply(BASE, delta, X), apply(prepared, delta, X), rtol=1e-5)


@pytest.mark.parametrize("form", ["sparse", "fastfood", "layerwise"])
def test_many_at_once_are_each_alone(form):
    adapter = make(form)
    deltas = [moved(start(adapter), size) for size in (0.5, 1.0)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *deltas)
    prepared = adapter.prepare(BASE, deltas[0])
    apply = lorax.adapt(MODEL.apply, adapter)
    many = jax.jit(jax.vmap(apply, in_axes=(None, 0, None)))(prepared, stacked, X)
    for delta, found in zip(deltas, many, strict=True):
        np.testing.assert_allclose(found, jax.jit(apply)(prepared, delta, X), atol=1e-5)


def test_scales_of_one_are_the_subspace_without_them():
    layers = 2
    said = make("layerwise", dim=9 + layers)
    delta = moved(start(make("sparse")), 1.0)
    with_ones = {"theta": delta["theta"], "scales": jnp.ones(layers)}
    assert start(said)["theta"].shape == (9,)
    np.testing.assert_array_equal(update(said, with_ones), update(make("sparse"), delta))


def test_each_scale_moves_one_layer():
    said = make("layerwise", dim=11)
    delta = moved(start(said), 1.0)
    before, after = (
        said.leaves(BASE, delta | {"scales": scales})
        for scales in (jnp.ones(2), jnp.array([1.0, 2.0]))
    )
    for path in before:
        factor = 2 if "dense_1" in path else 1
        np.testing.assert_allclose(after[path].update, factor * before[path].update, rtol=1e-6)


def test_it_trains_in_a_chain_and_leaves_the_base_alone():
    adapter = lorax.Chain(
        lorax.Subspace(dim=6, where=(".*dense_0.*",)), lorax.Full(where=(".*dense_1.*",))
    )
    apply = lorax.adapt(MODEL.apply, adapter, on_fallback="error")
    delta, before = apply.init(KEY, BASE, X), bits(BASE)
    prepared = adapter.prepare(BASE, delta)
    loss = lambda delta: jnp.mean((apply(prepared, delta, X) - 1.0) ** 2)
    tx = optax.adam(0.1)

    @jax.jit
    def step(delta, state):
        value, slope = jax.value_and_grad(loss)(delta)
        updates, state = tx.update(slope, state)
        return optax.apply_updates(delta, updates), state, value

    state, losses = tx.init(delta), []
    for _ in range(20):
        delta, state, value = step(delta, state)
        losses.append(float(value))
    assert losses[-1] < 0.2 * losses[0] and bits(BASE) == before


def test_the_report_says_that_its_numbers_are_shared():
    report = lorax.report(MODEL.apply, make("sparse"), BASE, X)
    assert report.trainable == 9 and report.total == D
    assert {(row.how, row.trainable) for row in report.rows} == {("shared", 0)}


def test_float64_and_bfloat16_keep_their_dtype():
    base = jax.tree.map(lambda x: x.astype(jnp.bfloat16), BASE)
    merged = make("sparse").merge(base, {"theta": jnp.ones(9)})
    assert {leaf.dtype for leaf in jax.tree.leaves(merged)} == {jnp.dtype("bfloat16")}
    with jax.enable_x64(True):
        base = {"w": jnp.ones((4, 4), jnp.float64)}
        delta = make("fastfood").init(KEY, base)
        assert delta["theta"].dtype == make("fastfood").merge(base, delta)["w"].dtype == jnp.float64


def test_a_step_in_blocks_takes_little_more_than_the_leaves():
    side, layers = 1000, 10
    shapes = {f"w{i}": jax.ShapeDtypeStruct((side, side), jnp.float32) for i in range(layers)}
    theta = 4 * layers * side**2
    adapter = lorax.Subspace(dim=500, projection="fastfood", block=2**16)
    delta = jax.eval_shape(lambda base: adapter.init(KEY, base), shapes)
    tx = optax.adam(1e-3)

    def fn(base, x):
        for i in range(layers):
            x = jnp.tanh(x @ base[f"w{i}"])
        return x

    def step(delta, state, base, x):
        value = lambda delta: jnp.mean(lorax.adapt(fn, adapter)(base, delta, x) ** 2)
        updates, state = tx.update(jax.grad(value)(delta), state, delta)
        return optax.apply_updates(delta, updates), state

    x = jax.ShapeDtypeStruct((8, side), jnp.float32)
    lowered = jax.jit(step).lower(delta, jax.eval_shape(tx.init, delta), shapes, x)
    memory = lowered.compile().memory_analysis()
    total = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    assert total < 3 * theta  # the frozen leaves themselves are one third of it


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"dim": D + 1}, f"dim is {D + 1} but the chosen leaves have {D} numbers"),
        ({"dim": 2, "layerwise": True}, "dim is 2 but 2 layers have a scale each: expected at"),
        ({"exclude": (".*",)}, "no leaf is chosen: exclude"),
        ({"where": ("nothing",)}, "pattern 'nothing' matches none of 4 leaves"),
    ],
)
def test_what_does_not_fit_the_base_is_refused(fields, words):
    with pytest.raises(LoraxError, match=words):
        start(lorax.Subspace(**{"dim": 9} | fields))


@pytest.mark.parametrize(
    ("delta", "error", "words"),
    [
        ({"params/dense_0/kernel": jnp.zeros((6, 7))}, LoraxTypeError, "delta of a Subspace has"),
        (jnp.zeros(9), LoraxTypeError, "is no mapping"),
        ({"theta": jnp.zeros(8)}, LoraxError, r"'theta' of the delta has shape \(8,\)"),
    ],
)
def test_a_delta_of_something_else_is_refused(delta, error, words):
    with pytest.raises(error, match=words):
        make("sparse").merge(BASE, delta)


def test_a_leaf_without_floats_is_refused():
    with pytest.raises(LoraxTypeError, match="'steps' has dtype int32: Subspace adapts"):
        lorax.Subspace(dim=2).init(KEY, {"w": jnp.zeros(5), "steps": jnp.arange(3)})


def test_a_leaf_that_is_never_used_is_refused():
    base = {"w": jnp.ones((6, 2)), "idle": jnp.ones(4)}
    apply = lorax.adapt(lambda base, x: x @ base["w"], lorax.Subspace(dim=2))
    with pytest.raises(LoraxError, match="'idle' is adapted but the program never uses it"):
        apply.init(KEY, base, X)


def test_it_is_its_description():
    adapter = lorax.Subspace(dim=12, projection="fastfood", block=16, layerwise=True, seed=3)
    assert lorax.from_json(adapter.to_json()) == adapter
