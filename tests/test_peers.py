"""What every JAX peer runs into: the behaviour matrix and the defects seen in them, one test each.

The rows are those of `jax_lora_peers.md`, sections 1 and 3; here stands the right answer. Rows that
other files test at length are short.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax import lax

import lorax
from lorax.io.checkpoint import load_adapter, save_adapter
from tests.moved import moved
from tests.programs import PROGRAMS, Program

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (3, 4))


class _Raw(nn.Module):
    """A parameter of the module's own, multiplied by a function of jax.numpy."""

    shape: tuple[int, ...]
    product: str

    @nn.compact
    def __call__(self, x):
        w = self.param("w", nn.initializers.normal(0.5), self.shape)
        if self.product == "matmul":  # jitted inside JAX, where qwix's adapters leak
            return jnp.matmul(x, w) + jnp.matmul(x, w)
        return jnp.einsum(self.product, x, w)


class _Depthwise(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Conv(4, (3,), feature_group_count=4, name="conv")(x)


class _Block(nnx.Module):
    def __init__(self, rngs):
        self.linear = nnx.Linear(4, 4, rngs=rngs)

    def __call__(self, x):
        return x + nnx.tanh(self.linear(x))


def _linen(module, x, where=(".*/w",), **kwargs):
    return Program(module.apply, jax.jit(module.init)(KEY, x), x, where, **kwargs)


def _nnx_scan():
    """`nnx.vmap` makes the layers, `nnx.scan` runs them: qwix ends in an IndexError."""
    make = nnx.split_rngs(splits=3)(nnx.vmap(_Block, in_axes=0, out_axes=0))
    graph, state = nnx.split(make(nnx.Rngs(0)))
    run = nnx.scan(lambda x, block: block(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
    fn = lambda state, x: run(x, nnx.merge(graph, state))
    return Program(fn, state, X, (".*kernel",))


# row of the matrix: (program, adapters expected)
ROWS = {
    "Linen Dense": (PROGRAMS["dense"], 2),
    "nn.scan and nn.remat": (PROGRAMS["scan_remat"], 6),
    "MultiHeadDotProductAttention": (PROGRAMS["attention"], 4),
    "bf16 compute": (PROGRAMS["bf16_compute"], 2),
    "Embed and tied attend": (PROGRAMS["embed_tied"], 1),
    "raw x @ w in Linen": (lambda: _linen(_Raw((4, 5), "matmul"), X), 1),
    "jnp.einsum in Linen": (lambda: _linen(_Raw((4, 2, 3), "bd,dhk->bhk"), X), 1),
    "nn.Einsum": (PROGRAMS["einsum"], 1),
    "kernel split into q, k, v": (PROGRAMS["fused_qkv"], 1),
    "weight on the left": (PROGRAMS["weight_on_the_left"], 1),
    "w.T": (PROGRAMS["transposed"], 1),
    "experts": (lambda: _linen(_Raw((2, 4, 5), "ecd,edh->ech"), jnp.stack([X, -X])), 1),
    "conv": (PROGRAMS["conv"], 1),
    "grouped conv": (PROGRAMS["conv_grouped"], 1),
    "depthwise conv": (
        lambda: _linen(_Depthwise(), X[None], (".*/kernel",), factors=False), 1,
    ),
    "nnx.vmap and nnx.scan": (_nnx_scan, 1),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_behaviour_matrix(name):
    """Adapters are counted, used twice in and outside jit, and equal the merged program."""
    make, count = ROWS[name]
    program = make()
    fallback = "error" if program.factors else "allow"
    adapter = lorax.LoRA(rank=2, where=program.where)
    apply = lorax.adapt(program.fn, adapter, on_fallback=fallback)
    delta = apply.init(KEY, program.base, program.x)
    assert len(delta) == count
    delta = jax.tree.map(lambda leaf: leaf + 0.1, delta)
    merged = lorax.adapt(program.fn, adapter, engine="merged")
    total = lambda fn, d: jnp.sum(jnp.sin(fn(program.base, d, program.x).astype(jnp.float32)))
    both = lambda d: [jax.value_and_grad(lambda d, f=f: total(f, d))(d) for f in (apply, merged)]
    jitted = jax.jit(both)
    (value, gradient), (want, slope) = jitted(delta)
    tolerance = 5e-2 if name == "bf16 compute" else 1e-4
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(slope), strict=True):
        size = np.abs(np.asarray(b)).max()
        assert size > 0  # every factor takes part
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * size)
    outside = [total(apply, delta), jitted(delta)[0][0], total(apply, delta)]
    np.testing.assert_allclose([value, *outside], 4 * [want], rtol=tolerance, atol=tolerance)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(delta))


def test_no_tracer_leaks_from_a_product_that_jax_itself_jits():
    """qwix: the first call stores tracers as A and B, the second has no adapter."""
    program = ROWS["raw x @ w in Linen"][0]()
    apply = lorax.adapt(program.fn, lorax.LoRA(rank=2, where=program.where), on_fallback="error")
    with jax.checking_leaks():
        delta = jax.jit(apply.init)(KEY, program.base, program.x)
        jax.jit(apply)(program.base, delta, program.x)
        apply(program.base, delta, program.x)
    assert len(delta) == 1 and all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(delta))


def test_the_matrix_without_patterns():
    """all-linear leaves out what is looked up or convolved, and says so where nothing is left."""
    program = ROWS["nnx.vmap and nnx.scan"][0]()
    apply = lorax.adapt(program.fn, lorax.LoRA(rank=2), on_fallback="error")
    (factors,) = apply.init(KEY, program.base, program.x).values()
    assert factors.A.shape == (3, 4, 2) and factors.B.shape == (3, 2, 4)
    for name in ("Embed and tied attend", "depthwise conv"):
        program = ROWS[name][0]()
        with pytest.raises(lorax.LoraxError, match="no leaf is adapted"):
            lorax.adapt(program.fn, lorax.LoRA()).init(KEY, program.base, program.x)


# The defects of section 3: each docstring names who has it.

W = jax.random.normal(KEY, (4, 4))
STACK = jax.random.normal(KEY, (3, 4, 4))


def _scan(base, x):
    return lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, base["w"])[0]


def _rank(matrix):
    return np.linalg.matrix_rank(np.asarray(matrix, np.float64), tol=1e-4)


def _moved(fn, adapter, base, x):
    apply = lorax.adapt(fn, adapter, on_fallback="error")
    delta = apply.init(KEY, base, x)
    return apply, moved(delta, 1.0)


def test_frozen_leaves_stay_and_the_state_is_the_moments_of_the_delta():
    """lx and newer qax: W labelled trainable after a key type changed."""
    base = {"w": W, "norm": jnp.ones(4), "steps": jnp.asarray(1)}
    fn = lambda base, x: x @ base["w"] * base["norm"]
    apply, delta = _moved(fn, lorax.LoRA(rank=2), base, X)
    before = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(base)]
    tx = optax.adamw(1e-2)
    state = tx.init(delta)

    @jax.jit
    def step(delta, state):
        slope = jax.grad(lambda delta: jnp.mean(apply(base, delta, X) ** 2))(delta)
        updates, state = tx.update(slope, state, delta)
        return optax.apply_updates(delta, updates), state

    for _ in range(5):
        delta, state = step(delta, state)
    assert [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(base)] == before
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(state)) == 2 * 4 * (2 * 8) + 4


def test_a_stack_has_factors_by_layer_that_are_independent():
    """lx: (L, in, out) taken for a convolution, one A (1, r, out) for all layers."""
    apply, delta = _moved(_scan, lorax.LoRA(rank=1), {"w": STACK}, X)
    assert delta["w"].A.shape == (3, 4, 1) and delta["w"].B.shape == (3, 1, 4)
    only = jax.tree.map(lambda leaf: leaf.at[jnp.array([0, 2])].set(0.0), delta)
    change = apply.adapter.merge({"w": STACK}, only)["w"] - STACK
    assert not np.any(change[0]) and not np.any(change[2]) and _rank(change[1]) == 1


@pytest.mark.parametrize(
    ("spec", "shape", "matrix"),
    [("bd,dhk->bhk", (16, 4, 8), (16, 32)), ("bhk,hkd->bd", (4, 4, 16), (16, 16))],
)
def test_rank_is_that_of_the_update_whatever_the_axes(spec, shape, matrix):
    """keras: EinsumDense at rank 4 has an update of rank 16; lx and keras: 74k for 12k numbers."""
    x = jax.ShapeDtypeStruct((2, 16) if spec[1] == "d" else (2, 4, 4), jnp.float32)
    fn = lambda base, x: jnp.einsum(spec, x, base["w"])
    base = {"w": jnp.zeros(shape)}
    apply, delta = _moved(fn, lorax.LoRA(rank=4), base, x)
    assert _rank(apply.adapter.merge(base, delta)["w"].reshape(matrix)) == 4
    assert sum(leaf.size for leaf in jax.tree.leaves(delta)) == 4 * sum(matrix)


def test_leaves_of_one_shape_are_all_adapted_and_start_different():
    """qwix: two candidates of one shape, silently skipped. lx: equal-shaped convs start equal."""
    names = ("first", "second", "third")
    base = dict.fromkeys(names, W)
    fn = lambda base, x: functools.reduce(lambda x, name: jnp.tanh(x @ base[name]), names, x)
    apply = lorax.adapt(fn, lorax.LoRA(rank=2), on_fallback="error")
    delta = apply.init(KEY, base, X)
    assert set(delta) == set(names)
    assert len({np.asarray(factors.A).tobytes() for factors in delta.values()}) == 3
    first = fn(base, X)
    for name in names:
        one = {p: lorax.Factors(f.A, f.B + (p == name), f.roles) for p, f in delta.items()}
        assert np.any(apply(base, one, X) != first)  # the array is told by its path, not by `id`


@pytest.mark.parametrize("kwargs", [{"rhs_dilation": (2,)}, {"feature_group_count": 2}])
def test_dilated_and_grouped_convolutions_equal_merged(kwargs):
    """lx: dilation and groups applied twice. qwix: groups fail. PEFT: dilation fails."""
    groups = kwargs.get("feature_group_count", 1)
    base, x = {"w": jax.random.normal(KEY, (3, 4 // groups, 6))}, X[None]
    fn = lambda base, x: lax.conv_general_dilated(
        x, base["w"], (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"), **kwargs
    )
    adapter = lorax.LoRA(rank=2, where=("w",))
    apply = lorax.adapt(fn, adapter, on_fallback="allow")
    delta = jax.tree.map(lambda leaf: leaf + 0.3, apply.init(KEY, base, x))
    np.testing.assert_allclose(apply(base, delta, x), fn(adapter.merge(base, delta), x), rtol=1e-4)
    merged = [row.path for row in lorax.report(fn, adapter, base, x).merged]
    assert merged == (["w"] if groups > 1 else [])


@pytest.mark.parametrize("spec", ["ecd,edh->ech", "ced,edh->ceh"])
def test_experts_have_factors_of_their_own(spec):
    """qwix, gemma and keras: B shared across experts in einsum, not in dot_general."""
    base = {"w": STACK}
    x = jnp.ones((3, 2, 4) if spec.startswith("e") else (2, 3, 4))
    apply, delta = _moved(lambda b, x: jnp.einsum(spec, x, b["w"]), lorax.LoRA(rank=1), base, x)
    assert (delta["w"].A.shape, delta["w"].B.shape) == ((3, 4, 1), (3, 1, 4))
    change = np.asarray(apply.adapter.merge(base, delta)["w"] - STACK)
    assert [_rank(one) for one in change] == [1, 1, 1]
    assert _rank(change.reshape(12, 4)) == _rank(change.transpose(1, 0, 2).reshape(4, 12)) == 3


def test_no_adapter_is_an_error_never_silence():
    """tunix, SkyRL: nothing adapted, and training goes on or the whole model trains."""
    base = {"w": W, "idle": W}
    fn = lambda base, x: x @ base["w"]
    for where, message in (
        (("v",), "'v' matches none"),
        (("idle",), "'idle' is adapted but the program never uses it"),
        ((), "where is empty"),
    ):
        with pytest.raises(lorax.LoraxError, match=message):
            lorax.adapt(fn, lorax.LoRA(where=where)).init(KEY, base, X)
    with pytest.raises(lorax.LoraxError, match="no leaf is adapted"):
        lorax.adapt(lambda base, x: x + base["w"][0], lorax.LoRA()).init(KEY, {"w": W}, X)
    with pytest.raises(lorax.LoraxError, match="delta is empty"):
        lorax.adapt(fn, lorax.LoRA())(base, {}, X)


def test_alpha_given_is_used_recorded_and_restored_and_a_loaded_adapter_trains(tmp_path):
    """keras: `Dense(lora_rank=4, lora_alpha=16).lora_alpha == 4`; A = B = 0 after loading."""
    adapter = lorax.LoRA(rank=4, alpha=16.0)
    apply, delta = _moved(lambda base, x: x @ base["w"], adapter, {"w": W}, X)
    save_adapter(tmp_path / "a", adapter, delta)
    again, loaded = load_adapter(tmp_path / "a")
    assert again.alpha == 16.0 and again.scale_of("w") == 4.0
    change = again.merge({"w": jnp.zeros((4, 4))}, loaded)["w"]
    np.testing.assert_allclose(change, 4.0 * delta["w"].A @ delta["w"].B, rtol=1e-5)
    loss = lambda delta: jnp.mean(lorax.adapt(apply.fn, again)({"w": W}, delta, X) ** 2)
    value, slope = jax.jit(jax.value_and_grad(loss))(loaded)
    smaller = jax.tree.map(lambda leaf, g: leaf - 1e-3 * g, loaded, slope)
    assert loss(smaller) < value
    with pytest.raises(lorax.LoraxError, match="rank 4 but this LoRA has rank 8"):  # tunix
        lorax.LoRA(rank=8).merge({"w": W}, loaded)
