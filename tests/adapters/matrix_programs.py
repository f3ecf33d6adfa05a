"""Two small programs and the laws that an adapter of matrices keeps on each, for its own tests."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import lorax
from tests.moved import moved

KEY = jax.random.key(0)


def _normal(number: int, *shape: int) -> jax.Array:
    # numpy's: every shape that JAX draws is a compilation
    return jnp.asarray(np.random.default_rng(number).normal(size=shape), jnp.float32)


def _plain(base: Any, x: jax.Array) -> jax.Array:
    for name in ("first", "second"):
        x = jnp.tanh(x @ base[name]["kernel"] + base[name]["bias"])
    return x


def _stacked(base: Any, x: jax.Array) -> jax.Array:
    def layer(x: jax.Array, own: Any) -> tuple[jax.Array, None]:
        heads = jnp.einsum("ti,ihk->thk", x, own["up"]["kernel"]) + own["up"]["bias"]
        return x + jnp.einsum("thk,hki->ti", jnp.tanh(heads), own["down"]["kernel"]), None

    return lax.scan(layer, x, base)[0]


def _dense(number: int, *shape: int, bias: tuple[int, ...] = ()) -> dict[str, jax.Array]:
    kernel = {"kernel": _normal(number, *shape)}
    return kernel | ({"bias": _normal(number + 1, *bias)} if bias else {})


PLAIN = (
    _plain,
    {"first": _dense(1, 6, 8, bias=(8,)), "second": _dense(3, 8, 4, bias=(4,))},
    _normal(9, 3, 6),
)
"""(program, base, x): kernels first (6, 8) and second (8, 4), with biases."""

STACKED = (
    _stacked,
    {"up": _dense(5, 2, 6, 2, 4, bias=(2, 2, 4)), "down": _dense(7, 2, 2, 4, 6)},
    _normal(9, 3, 6),
)
"""A scan over two layers: up (6 -> 2 × 4 heads) with biases, down (2 × 4 heads -> 6)."""


def check_laws(
    program: Any, adapter: lorax.Adapter, on_fallback: str = "error", slopes: bool = True
) -> Any:
    """Starts at the base, learns from there, and evaluates to what its definition says.

    Args:
      program: of this file.
      adapter: of matrices.
      on_fallback: as `lorax.adapt` has it.
      slopes: whether gradients are compared too, which takes twice as long to compile.

    Returns:
      A first delta.
    """
    fn, base, x = program
    adapted = lorax.adapt(fn, adapter, on_fallback=on_fallback)
    delta = adapted.init(KEY, base, x)

    engines = adapted, lorax.adapt(fn, adapter, engine="merged")

    def loss(delta: Any, prepared: Any, apply: Any) -> Any:
        out = apply(prepared, delta, x)
        return jnp.sum(jnp.sin(out)), out

    @jax.jit
    def both(delta: Any) -> Any:
        prepared = adapter.prepare(base, delta)
        if slopes:
            learn = jax.value_and_grad(loss, has_aux=True)
            found = [learn(delta, prepared, apply) for apply in engines]
        else:
            found = [(loss(delta, prepared, apply), delta) for apply in engines]
        return adapter.merge(prepared, delta), found

    merged, (((_, out), slope), _) = both(delta)
    jax.tree.map(np.testing.assert_array_equal, merged, base)
    np.testing.assert_allclose(out, wanted := fn(base, x), rtol=2e-5, atol=1e-6)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slope))
    assert not slopes or any(np.abs(leaf).max() > 1e-4 for leaf in jax.tree.leaves(slope))
    _, (((_, out), slope), ((_, same), same_slope)) = both(moved(delta))
    np.testing.assert_allclose(out, same, rtol=1e-4, atol=1e-5)
    assert np.abs(out - wanted).max() > 1e-3
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), slope, same_slope
    )
    assert lorax.from_json(adapter.to_json()) == adapter
    return delta


def count(delta: Any) -> int:
    """How many numbers learn."""
    return sum(leaf.size for leaf in jax.tree.leaves(delta))
