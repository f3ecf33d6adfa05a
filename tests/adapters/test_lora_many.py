"""Many adapters in one program: ranks padded, one W0 shared, memory by adapter nearly flat."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import lorax

KEY = jax.random.key(0)
RANKS, R_MAX = (1, 2, 4), 4
X = jax.random.normal(jax.random.key(1), (8, 6))
Y = jax.random.normal(jax.random.key(2), (8, 5))
BASE = {
    "first": jax.random.normal(jax.random.key(3), (6, 7)) / 3,
    "layers": jax.random.normal(jax.random.key(4), (2, 7, 7)) / 3,
    "last": jax.random.normal(jax.random.key(5), (7, 5)) / 3,
}
LEAVES = ("first", "layers", "last")


def program(base, x):
    """A matrix, a scanned stack, a matrix."""
    x = jnp.tanh(x @ base["first"])
    x = lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, base["layers"])[0]
    return x @ base["last"]


ROLES = lorax.roles(program, BASE, X)


def lora(rank, alpha=6.0):
    """LoRA on all three leaves."""
    return lorax.LoRA(rank=rank, alpha=alpha, where=LEAVES)


def padded(factors):
    """Zero columns of A and zero rows of B up to the greatest rank."""
    extra, stacked = R_MAX - factors.rank, len(factors.roles.stack)
    b_pad = [(0, 0)] * factors.B.ndim
    b_pad[stacked] = (0, extra)
    a = jnp.pad(factors.A, [(0, 0)] * (factors.A.ndim - 1) + [(0, extra)])
    return lorax.Factors(a, jnp.pad(factors.B, b_pad), factors.roles)


def padding(delta, rank):
    """All numbers beyond `rank`."""
    for factors in delta.values():
        yield factors.A[..., rank:]
        yield jnp.moveaxis(factors.B, len(factors.roles.stack), 0)[rank:]


def train(apply, delta):
    """Ten steps of Adam; weight decay too, which must keep zeros as well."""
    tx = optax.adamw(3e-2, weight_decay=0.1)
    loss = lambda delta: jnp.mean((apply(delta) - Y) ** 2)

    def step(carry, _):
        delta, state = carry
        value, slope = jax.value_and_grad(loss)(delta)
        updates, state = tx.update(slope, state, delta)
        return (optax.apply_updates(delta, updates), state), value

    (delta, _), losses = lax.scan(step, (delta, tx.init(delta)), None, length=10)
    return delta, losses


def test_ranks_padded_to_one_program_equal_the_separate_runs():
    starts, alone = [], []
    for rank in RANKS:
        apply = lorax.adapt(program, lora(rank), on_fallback="error")
        starts.append(lora(rank).init(KEY, BASE, ROLES))
        run = lambda delta, apply=apply: train(lambda d: apply(BASE, d, X), delta)
        alone.append(jax.jit(run)(starts[-1]))
    stack = jax.tree.map(
        lambda *leaves: jnp.stack(leaves), *[{p: padded(f) for p, f in d.items()} for d in starts]
    )
    alphas = jnp.array([6.0 * R_MAX / rank for rank in RANKS])  # the scale is alpha / R_MAX

    def one(delta, alpha):
        apply = lorax.adapt(program, lora(R_MAX, alpha), on_fallback="error")
        return train(lambda d: apply(BASE, d, X), delta)

    together, losses = jax.jit(jax.vmap(one))(stack, alphas)
    for i, (rank, (delta, own)) in enumerate(zip(RANKS, alone, strict=True)):
        np.testing.assert_allclose(losses[i], own, rtol=1e-4)
        assert own[-1] < own[0]
        mine = jax.tree.map(lambda leaf, i=i: leaf[i], together)
        for path, factors in delta.items():
            whole = padded(factors)
            np.testing.assert_allclose(mine[path].A, whole.A, rtol=1e-3, atol=1e-4)
            np.testing.assert_allclose(mine[path].B, whole.B, rtol=1e-3, atol=1e-4)
        assert not any(np.any(np.asarray(part)) for part in padding(mine, rank))
        assert rank == R_MAX or sum(part.size for part in padding(mine, rank)) > 0


@pytest.mark.parametrize("scaling", ["standard", "rslora"])
def test_a_traced_alpha_has_a_gradient_and_equals_the_number(scaling):
    base = {"w": jnp.zeros((4, 5))}
    factors = lorax.Factors(jnp.ones((4, 4)), jnp.ones((4, 5)), lorax.Roles((), (0,), (1,)))
    fn = lambda base, x: x @ base["w"]

    def total(alpha):
        adapter = lorax.LoRA(rank=4, alpha=alpha, where=("w",), scaling=scaling)
        return jnp.sum(lorax.adapt(fn, adapter)(base, {"w": factors}, jnp.ones((1, 4))))

    value, slope = jax.jit(jax.value_and_grad(total))(3.0)
    one = 4 * 4 * 5 / (2 if scaling == "rslora" else 4)
    np.testing.assert_allclose([value, slope, total(3.0)], [3 * one, one, 3 * one], rtol=1e-6)


LAYERS, WIDTH, TOKENS = 4, 256, 32


def _temporary_bytes(count, engine):
    """Temporary memory of the gradients of `count` adapters on one scanned base."""
    base = {"w": jax.ShapeDtypeStruct((LAYERS, WIDTH, WIDTH), jnp.float32)}
    x = jax.ShapeDtypeStruct((TOKENS, WIDTH), jnp.float32)
    layer = jax.checkpoint(lambda x, w: (jnp.tanh(x @ w), None))
    fn = lambda base, x: lax.scan(layer, x, base["w"])[0]
    adapter = lorax.LoRA(rank=4, where=("w",))
    apply = lorax.adapt(fn, adapter, engine=engine, on_fallback="error")
    one = jax.eval_shape(lambda base: lorax.adapt(fn, adapter).init(KEY, base, x), base)
    many = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((count, *leaf.shape), leaf.dtype), one)
    slope = jax.grad(lambda delta, base, x: jnp.sum(apply(base, delta, x) ** 2))
    compiled = jax.jit(jax.vmap(slope, in_axes=(0, None, None))).lower(many, base, x).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_32_adapters_share_w0_in_memory():
    """Per adapter at most twice the memory of one alone; merging holds 32 private copies of W0."""
    single, many = _temporary_bytes(1, "factored"), _temporary_bytes(32, "factored")
    merged = _temporary_bytes(32, "merged")
    assert many / 32 < 2 * single
    assert merged > 32 * LAYERS * WIDTH * WIDTH * 4  # every adapter's own stack of weights
    assert many < merged / 8
