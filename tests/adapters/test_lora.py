"""LoRA's meaning: scale, rank and alpha by path, what all-linear takes, counts of the papers."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import lorax
from lorax.io.checkpoint import load_adapter, save_adapter

KEY = jax.random.key(0)
MATRICES = {name: jnp.zeros((4, 6)) for name in ("query", "value")}
# rank and alpha by path, alone and together: (where, {path: (rank, alpha)})
OVERRIDES = {
    "none": (("query", "value"), {"query": (2, 3.0), "value": (2, 3.0)}),
    "rank": ({"query": {"rank": 4}, "value": {}}, {"query": (4, 3.0), "value": (2, 3.0)}),
    "alpha": ({"query": {"alpha": 8.0}, "value": {}}, {"query": (2, 8.0), "value": (2, 3.0)}),
    "both": (
        {"query": {"rank": 1, "alpha": 8}, "value": {"alpha": 0.5}},
        {"query": (1, 8.0), "value": (2, 0.5)},
    ),
    "a pattern": (
        {"(query|none)": {"rank": 4}, "v.*": {"rank": 1}},
        {"query": (4, 3.0), "value": (1, 3.0)},
    ),
}
DIVISOR = {"standard": lambda rank: rank, "rslora": math.sqrt}


def both(base, x):
    """The two products."""
    return {name: x @ base[name] for name in base}


def ones(delta):
    """Factors of ones: A B is then the rank everywhere."""
    return jax.tree.map(jnp.ones_like, delta)


@pytest.mark.parametrize("scaling", DIVISOR)
@pytest.mark.parametrize("case", OVERRIDES)
def test_scale_of_each_path_is_the_one_that_is_used(case, scaling):
    where, expected = OVERRIDES[case]
    adapter = lorax.LoRA(rank=2, alpha=3.0, where=where, scaling=scaling)
    delta = ones(adapter.init(KEY, MATRICES))
    merged = adapter.merge(MATRICES, delta)
    x = jnp.ones((1, 4))
    out = lorax.adapt(both, adapter, on_fallback="error")(MATRICES, delta, x)
    for path, (rank, alpha) in expected.items():
        scale = alpha / DIVISOR[scaling](rank)
        assert delta[path].rank == adapter.rank_of(path) == rank
        assert (adapter.alpha_of(path), adapter.scale_of(path)) == (alpha, scale)
        np.testing.assert_allclose(merged[path], np.full((4, 6), scale * rank), rtol=1e-6)
        np.testing.assert_allclose(out[path], np.full((1, 6), 4 * scale * rank), rtol=1e-6)


@pytest.mark.parametrize("scaling", DIVISOR)
def test_alpha_given_is_saved_and_restored(tmp_path, scaling):
    adapter = lorax.LoRA(rank=2, alpha=5.0, where=OVERRIDES["both"][0], scaling=scaling)
    delta = ones(adapter.init(KEY, MATRICES))
    save_adapter(tmp_path / "a", adapter, delta)
    again, loaded = load_adapter(tmp_path / "a")
    assert again == adapter and again.scaling == scaling and again.alpha == 5.0
    for path in MATRICES:
        assert again.rank_of(path) == adapter.rank_of(path)
        assert again.alpha_of(path) == adapter.alpha_of(path)
        assert again.scale_of(path) == adapter.scale_of(path)
    ours, theirs = again.merge(MATRICES, loaded), adapter.merge(MATRICES, delta)
    for path in MATRICES:
        np.testing.assert_array_equal(ours[path], theirs[path])


UNSORTED = lorax.LoRA(where={r"lin\d\d": {"rank": 5}, "lin0": {"rank": 2}, "a": {"alpha": 2.0}})


def test_patterns_given_in_any_order_mean_the_same_after_json():
    """PEFT sorts `rank_pattern` on saving and then reads another rank (peft.md §6)."""
    for adapter in (UNSORTED, lorax.from_json(UNSORTED.to_json())):
        ranks = [adapter.rank_of(path) for path in ("lin0", "lin12", "a", "elsewhere")]
        assert ranks == [2, 5, 8, 8] and adapter.alpha_of("a") == 2.0


def test_patterns_given_in_any_order_are_equal_after_json():
    assert lorax.from_json(UNSORTED.to_json()) == UNSORTED


@pytest.mark.parametrize("scaling", DIVISOR)
def test_scale_is_equal_on_a_plain_and_a_scanned_twin(scaling):
    layers = jax.random.normal(KEY, (3, 4, 4))
    plain = {f"layer_{i}": layers[i] for i in range(3)}

    def unrolled(base, x):
        for i in range(3):
            x = jnp.tanh(x @ base[f"layer_{i}"])
        return x

    scanned = lambda base, x: lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, base["all"])[0]
    x = jax.random.normal(jax.random.key(1), (2, 4))
    config = {"rank": 2, "alpha": 6.0, "scaling": scaling}
    one = lorax.adapt(unrolled, lorax.LoRA(**config, where=(r"layer_\d",)))
    many = lorax.adapt(scanned, lorax.LoRA(**config, where=("all",)), on_fallback="error")
    deltas = jax.tree.map(lambda d: d + 0.3, one.init(KEY, plain, x))
    stack = many.init(KEY, {"all": layers}, x)
    assert stack["all"].A.shape == (3, 4, 2) and stack["all"].B.shape == (3, 2, 4)
    parts = [deltas[path] for path in plain]
    stack = {"all": jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts)}
    stack["all"] = lorax.Factors(stack["all"].A, stack["all"].B, lorax.Roles((0,), (1,), (2,)))
    np.testing.assert_allclose(
        many({"all": layers}, stack, x), one(plain, deltas, x), rtol=1e-5, atol=1e-6
    )
    merged = many.adapter.merge({"all": layers}, stack)["all"]
    for i, path in enumerate(plain):
        np.testing.assert_allclose(merged[i], one.adapter.merge(plain, deltas)[path], rtol=1e-6)


class _Everything(nn.Module):
    """One leaf of each kind; `tied` reads the embedding a second time instead of a head."""

    tied: bool = False

    @nn.compact
    def __call__(self, ids):
        embed = nn.Embed(11, 8, name="embed")
        x = nn.LayerNorm(name="norm")(embed(ids))
        x = nn.Conv(8, (3,), name="conv")(x)
        x = x + nn.MultiHeadDotProductAttention(2, name="attention")(x, x)
        experts = self.param("experts", nn.initializers.lecun_normal(), (2, 8, 8))
        x = jnp.einsum("ebtd,edf->btf", jnp.stack([x, -x]), experts)
        layer = nn.scan(_Up, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        x = layer(name="layers")(x, None)[0]
        return embed.attend(x) if self.tied else nn.Dense(11, name="head")(x)


class _Up(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return x + nn.Dense(8, name="up")(x), None


LINEAR = {f"params/attention/{name}/kernel" for name in ("query", "key", "value", "out")}
LINEAR |= {"params/experts", "params/layers/up/kernel"}


@pytest.mark.parametrize("tied", [False, True])
def test_all_linear_takes_dots_and_nothing_else(tied):
    """Dots with experts and an untied head; no lookup (tied or not), convolution, norm or bias."""
    model, ids = _Everything(tied), jax.ShapeDtypeStruct((2, 5), jnp.int32)
    base = jax.eval_shape(model.init, KEY, ids)
    apply = lorax.adapt(model.apply, lorax.LoRA(rank=2), on_fallback="error")
    delta = jax.eval_shape(lambda base: apply.init(KEY, base, ids), base)
    head = set() if tied else {"params/head/kernel"}
    assert set(delta) == LINEAR | head
    assert delta["params/experts"].A.shape == (2, 8, 2)
    assert delta["params/layers/up/kernel"].B.shape == (3, 2, 8)
    without = lorax.LoRA(rank=2, exclude=(".*/(key|out)/kernel", "params/experts"))
    fewer = jax.eval_shape(
        lambda base: lorax.adapt(model.apply, without).init(KEY, base, ids), base
    )
    gone = {"params/attention/key/kernel", "params/attention/out/kernel", "params/experts"}
    assert set(fewer) == (LINEAR | head) - gone


def test_exclude_narrows_patterns_too_and_moves_no_draw():
    adapter = lorax.LoRA(rank=2, where=(".*",), exclude=("val.*",))
    delta = adapter.init(KEY, MATRICES)
    assert set(delta) == {"query"}
    whole = lorax.LoRA(rank=2, where=(".*",)).init(KEY, MATRICES)
    np.testing.assert_array_equal(delta["query"].A, whole["query"].A)


def test_a_100_by_100_matrix_at_rank_4_has_800_trainable_parameters():
    report = lorax.report(
        lambda base, x: x @ base["w"],
        lorax.LoRA(rank=4),
        {"w": jax.ShapeDtypeStruct((100, 100), jnp.float32)},
        jax.ShapeDtypeStruct((1, 100), jnp.float32),
    )
    assert (report.trainable, report.total, report.share) == (800, 10_000, 0.08)


def _attention(layers, width, form):
    """Query and value of `layers` layers as shapes: one dict a layer, or stacked leaves."""
    one = lambda *shape: jax.ShapeDtypeStruct((*shape, width, width), jnp.bfloat16)
    if form == "stacked":
        return {"query": one(layers), "value": one(layers)}
    return {f"layer_{i}": {"query": one(), "value": one()} for i in range(layers)}


def _run(base, x):
    """Every matrix takes part, layer after layer."""
    if "query" in base:
        layer = lambda x, w: (x @ w["query"] + x @ w["value"], None)
        return lax.scan(layer, x, base)[0]
    for w in base.values():
        x = x @ w["query"] + x @ w["value"]
    return x


# Hu et al., 2021: Table 4 and 15 (GPT-3), Table 2 (RoBERTa-base, without the head)
PUBLISHED = [
    (96, 12288, 4, "(query|value)", 18_874_368),
    (96, 12288, 8, "query", 18_874_368),
    (96, 12288, 1, "(query|value)", 4_718_592),
    (12, 768, 8, "(query|value)", 294_912),
]


@pytest.mark.parametrize("form", ["unrolled", "stacked"])
@pytest.mark.parametrize(("layers", "width", "rank", "which", "count"), PUBLISHED)
def test_counts_of_the_papers_from_shapes_alone(form, layers, width, rank, which, count):
    base = _attention(layers, width, form)
    pattern = which if form == "stacked" else rf"layer_\d+/{which}"
    adapter = lorax.LoRA(rank=rank, where=(pattern,))
    x = jax.ShapeDtypeStruct((2, width), jnp.bfloat16)
    init = lorax.adapt(_run, adapter).init
    delta = jax.eval_shape(lambda base: init(KEY, base, x), base)
    assert sum(leaf.size for leaf in jax.tree.leaves(delta)) == count
    assert len(delta) == (1 if form == "stacked" else layers) * (1 if which == "query" else 2)
    if form == "stacked":
        assert delta["query"].A.shape == (layers, width, rank)


def test_a_dense_general_projection_has_the_closed_form_count():
    """(D, H, K) = (64, 8, 8) at r = 8: 1,024 numbers, not the 4,608 of a factor (D, H, r)."""
    base = {"w": jax.ShapeDtypeStruct((64, 8, 8), jnp.float32)}
    x = jax.ShapeDtypeStruct((2, 64), jnp.float32)
    fn = lambda base, x: jnp.einsum("bd,dhk->bhk", x, base["w"])
    assert lorax.report(fn, lorax.LoRA(rank=8), base, x).trainable == 8 * (64 + 64)


@pytest.mark.parametrize("dtype", [None, "bfloat16", "float32"])
def test_dtype_of_the_factors(dtype):
    base = {"w": jnp.ones((4, 6), jnp.bfloat16)}
    delta = lorax.LoRA(rank=2, where=("w",), dtype=dtype).init(KEY, base)
    assert {leaf.dtype for leaf in jax.tree.leaves(delta)} == {jnp.dtype(dtype or "float32")}


def test_integers_of_numpy_are_integers():
    adapter = lorax.LoRA(rank=np.int64(4), alpha=np.float32(2.0), where=["w"])
    assert adapter == lorax.LoRA(rank=4, alpha=2.0, where=("w",))
    assert type(adapter.rank) is int and type(adapter.alpha) is float
    assert lorax.from_json(adapter.to_json()) == adapter
