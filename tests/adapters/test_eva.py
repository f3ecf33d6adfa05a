"""EVA finds the directions of the inputs, and deals ranks out by what they explain."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lorax
from lorax.adapters.eva import eva

WHERE = ("first", "layers")


def _fn(base, x):
    h = jnp.tanh(x @ base["first"])
    return jax.lax.scan(lambda h, w: (h + jnp.tanh(h @ w), None), h, base["layers"])[0]


@pytest.fixture(scope="module")
def case():
    keys = jax.random.split(jax.random.key(0), 4)
    base = {
        "first": jax.random.normal(keys[0], (12, 6)),
        "layers": 0.5 * jax.random.normal(keys[1], (2, 6, 6)),
    }
    # inputs of rank 2 and a little noise: two directions explain nearly all
    low = jax.random.normal(keys[2], (2, 12))
    draw = lambda i: jax.random.normal(jax.random.fold_in(keys[3], i), (40, 2))
    noise = lambda i: 1e-3 * jax.random.normal(jax.random.fold_in(keys[3], 9 + i), (40, 12))
    return base, [draw(i) @ low + noise(i) for i in range(2)]


def test_directions_are_the_right_singular_vectors_of_the_inputs(case):
    base, batches = case
    adapter = lorax.LoRA(rank=2, alpha=4.0, where=WHERE)
    found = eva(_fn, adapter, jax.random.key(1), base, batches)
    x = np.concatenate(batches)
    _, values, vt = np.linalg.svd(x, full_matrices=False)
    a = np.asarray(found.delta["first"].A)
    np.testing.assert_allclose(np.abs(vt[:2] @ a), np.eye(2), atol=1e-4)
    share = values**2 / (values**2).sum()
    np.testing.assert_allclose(found.shares["first"][:2], share[:2], rtol=1e-4)
    h = np.asarray(jnp.tanh(x @ base["first"]))
    _, _, vt = np.linalg.svd(h, full_matrices=False)
    inside = np.abs(vt[:2] @ np.asarray(found.delta["layers"].A[0]))
    np.testing.assert_allclose(inside, np.eye(2), atol=2e-3)

    apply = lorax.adapt(_fn, found.adapter, on_fallback="error")
    start = _fn(base, batches[0])
    np.testing.assert_array_equal(apply(base, found.delta, batches[0]), start)
    assert all(found.adapter.scale_of(path) == 2.0 for path in found.delta)


@pytest.mark.runs
@pytest.mark.parametrize("scaling", ["standard", "rslora"])
def test_ranks_go_where_they_explain_most(case, scaling):
    base, batches = case
    adapter = lorax.LoRA(rank=4, alpha=4.0, where=WHERE, scaling=scaling)
    found = eva(_fn, adapter, jax.random.key(1), base, batches, rho=2.0)
    ranks = {path: pair.rank for path, pair in found.delta.items()}
    assert ranks["first"] + 2 * ranks["layers"] <= 12 and ranks["layers"] > 4 > ranks["first"]
    for path in ranks:
        np.testing.assert_allclose(found.adapter.scale_of(path), adapter.scale_of(path))
    found.adapter.merge(base, found.delta)  # the delta fits its adapter


def test_mistakes_are_told_in_one_line(case):
    base, batches = case
    adapter = lorax.LoRA(rank=2, where=WHERE)
    with pytest.raises(lorax.LoraxError, match="batches is empty"):
        eva(_fn, adapter, jax.random.key(1), base, [])
    with pytest.raises(lorax.LoraxError, match="adapter is a DoRA: expected a LoRA"):
        eva(_fn, lorax.DoRA(rank=2, where=WHERE), jax.random.key(1), base, batches)
    with pytest.raises(lorax.LoraxError, match="batches is one array"):
        eva(_fn, adapter, jax.random.key(1), base, batches[0])
    with pytest.raises(lorax.LoraxError, match="rho is 0.5"):
        eva(_fn, adapter, jax.random.key(1), base, batches, rho=0.5)
