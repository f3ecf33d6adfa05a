"""Adapters on a quantised base: what they compute is what they compute on the dense one."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lorax
from lorax.analysis.rounding import merge_rounding
from lorax.analysis.updates import changes
from lorax.core import paths
from lorax.core.packed import is_packed
from lorax.io.pretrained import load
from lorax.models import GPT2, GPT2Config, Llama, LlamaConfig, Roberta, RobertaConfig
from lorax.ops.quantize import quantizer
from tests.jaxprs import equations
from tests.pretrained_files import checkpoint

pytest.importorskip("qwix")
TOKENS = jax.random.randint(jax.random.key(0), (2, 8), 2, 32)
MODELS = {
    "llama": Llama(LlamaConfig(32, 64, 2, 2, 1, 96, max_length=8)),
    "gpt2": GPT2(GPT2Config(32, 64, 2, 2, max_length=8, hidden_dim=96)),
    "roberta": Roberta(RobertaConfig(32, 64, 2, 2, 96, max_length=16)),
}
ADAPTERS = {
    "lora": lorax.LoRA(rank=2),
    "pissa": lorax.LoRA(rank=2, initializer="pissa"),
    "bitfit": lorax.BitFit(),
    "chain": lorax.Chain(
        lorax.LoRA(rank=2, where=(".*/query/kernel",)), lorax.Full(where=("params/norm/.*",))
    ),
    "subspace": lorax.Subspace(dim=8, where=("params/norm/.*",)),
}
SCAN = {"scan": True, "remat": "full"}


def model_of(family: str, **fields: Any) -> Any:
    model = MODELS[family]
    return type(model)(dataclasses.replace(model.config, **fields))


def setting(family: str, kind: str, adapter: lorax.Adapter, **fields: Any) -> Any:
    """The adapted loss, a quantised base, the dense one it stands for, and a delta that moved."""
    model = model_of(family, **fields)
    base = jax.jit(model.init)(jax.random.key(1), TOKENS)
    packed = lorax.quantize(base, kind, block=32)
    apply = lorax.adapt(model.apply, adapter, on_fallback="error")
    delta = apply.init(jax.random.key(2), packed, TOKENS)
    leaves, tree = jax.tree.flatten(delta)
    keys = jax.random.split(jax.random.key(3), len(leaves))
    noise = [0.02 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    delta = jax.tree.unflatten(tree, [x + n for x, n in zip(leaves, noise, strict=True)])
    loss = lambda delta, base: jnp.mean(jnp.sin(apply(base, delta, TOKENS)))
    return loss, packed, lorax.dequantize(packed), delta


def assert_same(got: Any, want: Any, tolerance: float = 1e-5) -> None:
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert np.abs(x - y).max() <= tolerance * max(np.abs(y).max(), 1e-6)


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_gradients_of_scanned_and_recomputed_layers_are_those_through_the_dense_base(kind):
    w, x = (jax.random.normal(jax.random.key(i), s) for i, s in enumerate([(3, 64, 64), (5, 64)]))
    layer = jax.checkpoint(lambda x, w: (jnp.sin(x @ w / 8), None))
    apply = lorax.adapt(lambda base, x: jax.lax.scan(layer, x, base["w"])[0], lorax.LoRA(rank=2))
    packed = lorax.quantize({"w": w}, kind, where=("w",), block=32)
    delta = jax.tree.map(lambda x: x + 0.02, apply.init(jax.random.key(2), packed, x))
    both = jax.jit(jax.value_and_grad(lambda delta, base: jnp.mean(apply(base, delta, x) ** 2)))
    assert_same(both(delta, packed), both(delta, lorax.dequantize(packed)))


@pytest.mark.runs
@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("kind", ["int8", "nf4"])
@pytest.mark.parametrize(
    ("scan", "remat"),
    [
        (False, ""),
        (True, "full"),
        *(
            pytest.param(scan, remat, marks=pytest.mark.exhaustive)
            for scan, remat in [(True, ""), (False, "full"), (False, "dots"), (True, "dots")]
        ),
    ],
)
def test_gradients_are_those_through_the_dense_base(family, kind, scan, remat):
    loss, packed, dense, delta = setting(family, kind, ADAPTERS["lora"], scan=scan, remat=remat)
    both = jax.jit(jax.value_and_grad(loss))
    assert_same(both(delta, packed), both(delta, dense))


@pytest.mark.runs
@pytest.mark.parametrize("name", ADAPTERS)
def test_every_adapter_that_leaves_matrices_alone_works(name):
    family = "gpt2" if name == "bitfit" else "llama"
    loss, packed, dense, delta = setting(family, "nf4", ADAPTERS[name], **SCAN)
    both = jax.jit(jax.value_and_grad(loss))
    assert_same(both(delta, packed), both(delta, dense), 1e-4 if name == "pissa" else 1e-5)


def test_what_moves_a_matrix_as_a_whole_is_refused_in_one_line():
    model = model_of("llama")
    shapes = jax.eval_shape(model.init, jax.random.key(1), TOKENS)
    packed = lorax.quantize(shapes, "int8")
    kernels = (".*/query/kernel",)
    for adapter in (lorax.Full(where=kernels), lorax.Subspace(dim=8, where=kernels)):
        with pytest.raises(lorax.LoraxError, match="is quantised and .* moves the whole leaf") as e:
            adapter.init(jax.random.key(0), packed)
        assert "\n" not in str(e.value)


def test_roles_and_report_are_those_of_the_matrices():
    model = model_of("gpt2", scan=True)
    shapes = jax.eval_shape(model.init, jax.random.key(1), TOKENS)
    packed = lorax.quantize(shapes, "nf4", block=32)
    assert lorax.roles(model.apply, packed, TOKENS) == lorax.roles(model.apply, shapes, TOKENS)
    ours, dense = (lorax.report(model.apply, ADAPTERS["lora"], b, TOKENS) for b in (packed, shapes))
    assert str(ours) == str(dense) and not ours.merged


@pytest.mark.parametrize("kind", [pytest.param("int8", marks=pytest.mark.runs), "nf4"])
def test_no_stack_of_matrices_is_ever_dense_and_no_matrix_is_kept(kind):
    model = model_of("llama", scan=True, layers=3)
    packed = lorax.quantize(jax.eval_shape(model.init, jax.random.key(1), TOKENS), kind, block=32)
    apply = lorax.adapt(model.apply, ADAPTERS["lora"])
    delta = jax.eval_shape(apply.init, jax.random.key(2), packed, TOKENS)
    loss = lambda delta, base, tokens: jnp.sum(apply(base, delta, tokens))
    program = jax.make_jaxpr(jax.grad(loss))(delta, packed, TOKENS)
    matrices = {leaf.shape for leaf in paths.flatten(packed).values() if is_packed(leaf)}
    made = [out.aval for eqn in equations(program.jaxpr) for out in eqn.outvars]
    assert not [aval for aval in made if aval.shape in matrices]
    assert any(aval.shape in {shape[1:] for shape in matrices} for aval in made)
    kept = jax.eval_shape(
        lambda d, b, t: jax.vjp(lambda d: loss(d, b, t), d)[1], delta, packed, TOKENS
    )
    known = {leaf.shape for leaf in jax.tree.leaves((packed, delta))}
    sizes = [leaf for leaf in jax.tree.leaves(kept) if leaf.shape not in known]
    least = min(math.prod(shape) for shape in matrices)
    assert all(leaf.size < least or leaf.shape[1:2] == TOKENS.shape[:1] for leaf in sizes)


@pytest.mark.runs
def test_many_deltas_at_once_and_accumulated_ones():
    loss, packed, dense, delta = setting("llama", "nf4", ADAPTERS["lora"], **SCAN)
    several = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), delta)
    slopes = jax.jit(jax.vmap(jax.grad(loss), in_axes=(0, None)))
    assert_same(slopes(several, packed), slopes(several, dense))
    total = lambda base: jax.jit(
        lambda deltas: jax.lax.scan(
            lambda sum_, one: (jax.tree.map(jnp.add, sum_, jax.grad(loss)(one, base)), None),
            jax.tree.map(jnp.zeros_like, delta),
            deltas,
        )[0]
    )(several)
    assert_same(total(packed), total(dense))


@pytest.mark.parametrize("kind", [pytest.param("int8", marks=pytest.mark.runs), "nf4"])
def test_kernels_that_are_cut_reshaped_and_turned_stay_right(kind):
    """Whatever a program does with a quantised leaf is right, with a rule or without one."""
    w = jax.random.normal(jax.random.key(0), (2, 64, 12))
    x = jax.random.normal(jax.random.key(1), (3, 64))

    def program(base, x):
        w = base["w"].astype(jnp.float32) * 2.0
        first, second = jnp.split(w[1], 2, axis=1)
        a = x @ first.reshape(64, 2, 3).reshape(64, 6)
        b = jnp.einsum("ti,oi->to", x, -second.T)
        c = x[:, :32] @ w[0, 32:]  # cuts the axis of the blocks: formed there
        d = jnp.einsum("ti,aio->tao", x, base["w"][jnp.array([1, 0])]).reshape(3, -1)
        e = base["w"][0][jnp.array([3, 5, 7])]
        return jnp.concatenate([a, b, c, d, e], axis=1)

    packed = lorax.quantize({"w": w}, kind, where=("w",), block=32)
    adapter = lorax.LoRA(rank=2, where=("w",))
    delta = adapter.init(jax.random.key(2), packed, {"w": lorax.Roles((0,), (1,), (2,))})
    apply = jax.jit(lorax.adapt(program, adapter, on_fallback="allow"))
    want = jax.jit(program)(lorax.dequantize(packed), x)
    np.testing.assert_allclose(apply(packed, delta, x), want, rtol=1e-4, atol=1e-4)


def test_a_model_is_quantised_leaf_by_leaf_as_it_is_loaded(tmp_path):
    path = checkpoint(tmp_path / "model.bin", vocabulary=16)
    loaded = load(path, scan=True, each=quantizer("nf4", block=4))
    want = lorax.quantize(load(path, scan=True).base, "nf4", block=4)
    for got, leaf in zip(jax.tree.leaves(loaded.base), jax.tree.leaves(want), strict=True):
        np.testing.assert_array_equal(got, leaf)
    assert sum(map(is_packed, paths.flatten(loaded.base).values())) == 7


def test_analysis_reads_the_matrices_that_the_codes_stand_for():
    base = {"w": jax.random.normal(jax.random.key(0), (64, 12))}
    packed = lorax.quantize(base, "int8", where=("w",))
    adapter = lorax.LoRA(rank=2, where=("w",))
    delta = jax.tree.map(lambda x: x + 0.1, adapter.init(jax.random.key(1), packed))
    found, wanted = (
        list(changes(adapter, tree, delta)) for tree in (packed, lorax.dequantize(packed))
    )
    for got, want in zip(found, wanted, strict=True):
        assert got[0] == want[0]
        np.testing.assert_array_equal(got[1], want[1])
        np.testing.assert_array_equal(got[2], want[2])
    assert 0 < merge_rounding(adapter, packed, delta).error < 1e-6
