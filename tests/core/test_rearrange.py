"""Rearranged leaves stay factored and right."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import lorax

CASES = {
    # shape of the leaf, what is done to it, shape of x
    "split_out": ((6, 8), lambda w, x: jnp.einsum("bd,dhk->bhk", x, w.reshape(6, 2, 4)), (3, 6)),
    "split_in": ((6, 8), lambda w, x: jnp.einsum("bij,ijo->bo", x, w.reshape(2, 3, 8)), (3, 2, 3)),
    "join_out": ((4, 2, 3), lambda w, x: x @ w.reshape(4, 6), (3, 4)),
    "join_in": ((2, 3, 5), lambda w, x: x @ w.reshape(6, 5), (3, 6)),
    "resplit": ((4, 6), lambda w, x: jnp.einsum("bd,dhk->bhk", x, w.reshape(4, 3, 2)), (3, 4)),
    "units": ((4, 6), lambda w, x: jnp.einsum("bd,xdyo->bxyo", x, w[None, :, None]), (3, 4)),
    "units_gone": ((1, 4, 6), lambda w, x: x @ w[0], (3, 4)),
    "repeated": ((4, 6), lambda w, x: x @ jnp.broadcast_to(w, (3, 4, 6)), (3, 2, 4)),
    "rows": ((9, 6), lambda w, x: x @ w[2:8:2], (3, 3)),
    "columns": ((4, 9), lambda w, x: x @ w[:, 3:7], (3, 4)),
    "split": ((4, 9), lambda w, x: sum(x @ p for p in jnp.split(w, 3, axis=1)), (3, 4)),
    "at_traced_row": (
        (9, 6),
        lambda w, x: x @ lax.dynamic_slice_in_dim(w, jnp.argmax(x[0]), 3),
        (3, 3),
    ),
    "scaled": ((4, 6), lambda w, x: x @ (-2.0 * w / 3.0), (3, 4)),
    "scaled_by_traced": ((4, 6), lambda w, x: x @ (w * jnp.sqrt(x.sum() ** 2)), (3, 4)),
    "cast_and_back": ((4, 6), lambda w, x: x @ w.astype(jnp.float16).astype(jnp.float32), (3, 4)),
    "moved": ((2, 4, 3), lambda w, x: jnp.einsum("bd,hdk->bhk", x, w), (3, 4)),
    "swapped": ((4, 2, 3), lambda w, x: jnp.einsum("bd,khd->bkh", x, w.transpose(2, 1, 0)), (3, 4)),
    "reversed": ((4, 6), lambda w, x: x @ w[::-1, ::-1], (3, 4)),
    "barrier": ((4, 6), lambda w, x: x @ lax.optimization_barrier((w, x))[0], (3, 4)),
}


def _check(shape, fn, x_shape, on_fallback="error", tolerance=1e-5):
    base = {"w": jax.random.normal(jax.random.key(0), shape)}
    x = jax.random.normal(jax.random.key(1), x_shape)
    program = lambda base, x: fn(base["w"], x)
    adapter = lorax.LoRA(rank=2, alpha=3.0, where=("w",))
    apply = lorax.adapt(program, adapter, on_fallback=on_fallback)
    merged = lorax.adapt(program, adapter, engine="merged")
    delta = jax.tree.map(lambda leaf: leaf + 0.1, apply.init(jax.random.key(2), base, x))

    @jax.jit
    def both(delta):
        slopes = [
            jax.grad(lambda d, f=f: jnp.sin(f(base, d, x)).sum())(delta) for f in (apply, merged)
        ]
        return (apply(base, delta, x), slopes[0]), (merged(base, delta, x), slopes[1])

    for a, b in zip(*map(jax.tree.leaves, both(delta)), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", CASES)
def test_stays_factored(name):
    shape, fn, x_shape = CASES[name]
    _check(shape, fn, x_shape, tolerance=1e-2 if name == "cast_and_back" else 1e-4)


MERGED = {
    "join_in_and_out": ((4, 6), lambda w, x: x * w.reshape(24), (24,)),
    "to_integers": ((4, 4), lambda w, x: x + w.astype(jnp.int32), (4, 4)),
    "divides": ((4, 6), lambda w, x: x / (w + 9.0), (4, 6)),
    "padded": ((4, 6), lambda w, x: x @ jnp.pad(w, ((1, 1), (0, 0))), (3, 6)),
    "joined_with_another": ((4, 6), lambda w, x: x @ jnp.concatenate([w, w], 1), (3, 4)),
}


@pytest.mark.parametrize("name", MERGED)
def test_is_merged_loudly_and_exactly_where_there_is_no_factored_form(name):
    with pytest.raises(lorax.LoraxError, match="has no factored form"):
        _check(*MERGED[name])
    _check(*MERGED[name], on_fallback="allow", tolerance=1e-4)


def test_a_stopped_leaf_gets_no_gradient():
    base = {"w": jnp.ones((4, 6))}
    adapter = lorax.LoRA(rank=2, where=("w",))
    apply = lorax.adapt(lambda b, x: x @ lax.stop_gradient(b["w"]), adapter, on_fallback="error")
    x = jnp.ones((3, 4))
    delta = jax.tree.map(lambda leaf: leaf + 0.1, apply.init(jax.random.key(2), base, x))
    slope = jax.grad(lambda d: apply(base, d, x).sum())(delta)
    assert not any(np.any(np.asarray(leaf)) for leaf in jax.tree.leaves(slope))
