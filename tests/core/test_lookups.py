"""Lookups in an implicit table equal lookups in the merged one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lorax


@pytest.mark.parametrize("mode", ["clip", "fill"])
def test_lookup_keeps_the_mode_of_indices_outside(mode):
    base = {"w": jnp.arange(12.0).reshape(4, 3)}
    fn = lambda base, ids: jnp.take(base["w"], ids, axis=0, mode=mode)
    adapter = lorax.LoRA(rank=2, where=("w",))
    ids = jnp.array([[0, 3], [9, 1]])
    apply = lorax.adapt(fn, adapter, on_fallback="error")
    delta = jax.tree.map(lambda x: x + 0.5, apply.init(jax.random.key(0), base, ids))
    want = fn(adapter.merge(base, delta), ids)
    np.testing.assert_allclose(apply(base, delta, ids), want, rtol=1e-6)
