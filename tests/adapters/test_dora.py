"""DoRA: a gain for every column, its norm from the factors, no matrix of the size of W0."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lorax
from lorax.core.leaf import Factors
from tests.moved import moved

WHERE = (".*/kernel",)


class _Layer(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array, _: None) -> tuple[jax.Array, None]:
        return x + nn.Dense(48, name="down")(nn.silu(nn.Dense(80, name="up")(x))), None


class _Model(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        layers = nn.scan(_Layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        return nn.Dense(40, name="head")(layers(name="layers")(x, None)[0])


@pytest.fixture(scope="module")
def model():
    x = jax.random.normal(jax.random.key(7), (20, 48))
    return _Model(), _Model().init(jax.random.key(0), x), x


def test_the_equation_and_the_count(model):
    module, base, x = model
    adapter = lorax.DoRA(rank=2, alpha=3.0, where=WHERE)
    apply = lorax.adapt(module.apply, adapter, on_fallback="error")
    delta = moved(jax.jit(apply.init)(jax.random.key(1), base, x))
    merged = jax.jit(adapter.merge)(base, delta)["params"]
    for name in ("up", "down"):
        path = f"params/layers/{name}/kernel"
        w = np.asarray(base["params"]["layers"][name]["kernel"], np.float64)
        factors, offset = delta["lora"][path], np.asarray(delta["magnitude"][path])
        v = w + 1.5 * np.asarray(factors.A, np.float64) @ np.asarray(factors.B)
        length = np.linalg.norm(w, axis=1) + offset
        want = v * (length / np.linalg.norm(v, axis=1))[:, None]
        np.testing.assert_allclose(merged["layers"][name]["kernel"], want, rtol=1e-5, atol=1e-6)
    sizes = sum(leaf.size for leaf in jax.tree.leaves(delta))
    pairs = 3 * 2 * (48 + 80) * 2 + 2 * (48 + 40)  # three layers of up and down, and the head
    assert sizes == pairs + 3 * (80 + 48) + 40  # LoRA, and one number a column
    report = lorax.report(module.apply, adapter, base, x)
    assert report.trainable == sizes and not report.merged
    assert sum(row.trainable for row in report.rows) == sizes


def test_the_norm_takes_no_part_in_the_gradient(model):
    module, base, x = model
    apply = lorax.adapt(module.apply, lorax.DoRA(rank=2, where=("params/head/kernel",)))
    delta = moved(jax.jit(apply.init)(jax.random.key(1), base, x))
    path = "params/head/kernel"
    h = jax.random.normal(jax.random.key(3), (20, 40))
    slope = jax.jit(jax.grad(lambda delta: jnp.vdot(apply(base, delta, x), h)))(delta)

    lora, magnitude = delta["lora"][path], delta["magnitude"][path]
    w = base["params"]["head"]["kernel"]
    norm = jnp.linalg.norm(w + 8 * lora.A @ lora.B, axis=0)  # a constant
    start = jnp.linalg.norm(w, axis=0)

    def written_out(pair: Factors, offset: jax.Array) -> jax.Array:
        new = (w + 8 * pair.A @ pair.B) * (start + offset) / norm
        params = {**base["params"], "head": {**base["params"]["head"], "kernel": new}}
        return jnp.vdot(module.apply({"params": params}, x), h)

    pair, offset = jax.grad(written_out, argnums=(0, 1))(lora, magnitude)
    np.testing.assert_allclose(slope["lora"][path].A, pair.A, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(slope["lora"][path].B, pair.B, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(slope["magnitude"][path], offset, rtol=1e-4, atol=1e-4)


def test_a_compiled_step_makes_no_matrix_of_the_size_of_w(model):
    module, base, x = model
    adapter = lorax.DoRA(rank=2, where=WHERE)
    apply = lorax.adapt(module.apply, adapter)
    delta = apply.init(jax.random.key(1), base, x)
    tx = optax.adam(1e-3)

    @jax.jit
    def step(delta, state, base, x):
        grads = jax.grad(lambda delta: jnp.sum(jnp.sin(apply(base, delta, x))))(delta)
        updates, state = tx.update(grads, state)
        return optax.apply_updates(delta, updates), state

    base = adapter.prepare(base, delta)  # the norms of W0 are taken once
    text = step.lower(delta, tx.init(delta), base, x).compile().as_text()
    shapes = "|".join(rf"f32\[(3,|1,)?{a},{b}\]" for a, b in ((48, 80), (80, 48), (48, 40)))
    made = [line for line in text.splitlines() if re.search(rf"= ({shapes})", line)]
    free = re.compile(r"\b(parameter|get-tuple-element|bitcast|dynamic-slice|fusion|copy)\(")
    assert made and all(free.search(line) for line in made), made[:3]
    for line in made:  # a slice of the scanned stack is one layer of W0 itself
        if "fusion(" in line or "copy(" in line:
            assert "dynamic-slice" in line or "dynamic_slice" in line, line


def test_a_column_of_zeros_stays_zero_and_finite():
    base = {"w": jnp.zeros((4, 3)).at[:, 0].set(1.0)}
    adapter = lorax.DoRA(rank=1, where=("w",))
    delta = moved(adapter.init(jax.random.key(0), base))
    delta["lora"]["w"] = Factors(delta["lora"]["w"].A, jnp.zeros((1, 3)), delta["lora"]["w"].roles)
    merged = adapter.merge(base, delta)["w"]
    assert np.isfinite(merged).all() and not merged[:, 1:].any()
    slope = jax.jit(jax.grad(lambda delta: adapter.merge(base, delta)["w"].sum()))(delta)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slope))


@pytest.mark.runs
def test_a_quantised_base_is_not_formed_whole():
    pytest.importorskip("qwix")
    base = {"layers": {"kernel": jax.random.normal(jax.random.key(0), (2, 64, 64))}}
    fn = lambda base, x: jax.lax.scan(lambda h, w: (h @ w, None), x, base["layers"]["kernel"])[0]
    packed, x = lorax.quantize(base, "nf4"), jax.random.normal(jax.random.key(1), (5, 64))
    adapter = lorax.DoRA(rank=2)
    apply = lorax.adapt(fn, adapter, on_fallback="error")
    delta = moved(apply.init(jax.random.key(2), packed, x))
    want = apply(lorax.dequantize(packed), delta, x)
    np.testing.assert_allclose(
        apply(packed, delta, x), want, rtol=1e-5, atol=1e-4 * abs(want).max()
    )


def test_mistakes_are_told_in_one_line(model):
    module, base, x = model
    embed = nn.Embed(7, 5)
    table = embed.init(jax.random.key(0), jnp.ones(2, int))
    both = lambda base, ids: embed.apply(base, embed.apply(base, ids), method="attend")
    adapted = lorax.adapt(both, lorax.DoRA(rank=1, where=(".*embedding",)))
    with pytest.raises(lorax.LoraxError, match="looked up and also multiplied the other way"):
        adapted.init(jax.random.key(0), table, jnp.ones(2, int))
    adapter = lorax.DoRA(rank=2, where=WHERE)
    lora = lorax.LoRA(rank=2, where=WHERE)
    with pytest.raises(lorax.LoraxTypeError, match="expected 'lora' and 'magnitude'"):
        adapter.merge(base, lorax.adapt(module.apply, lora).init(jax.random.key(0), base, x))
    delta = lorax.adapt(module.apply, adapter).init(jax.random.key(0), base, x)
    delta["magnitude"]["params/head/kernel"] = jnp.zeros(3)
    with pytest.raises(lorax.LoraxError, match=r"has shape \(3,\) but the base needs \(40,\)"):
        adapter.merge(base, delta)
    with pytest.raises(lorax.LoraxError, match="initializer is 'pissa'"):
        lorax.DoRA(initializer="pissa")
