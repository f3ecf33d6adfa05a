"""A merge rounds once, from float32: how much that is, and that it never adds up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lorax
from lorax.analysis.rounding import MergeRounding, merge_rounding

SHAPES = {"query": (24, 16), "value": (16, 20), "norm": (16,)}


def trained(dtype, adapter=None, *, size=1e-3, seed=0):
    """Base leaves of about 1, and an adapter whose update is about `size`."""
    draw = iter(jax.random.split(jax.random.key(seed), 9))
    base = {k: jax.random.normal(next(draw), shape).astype(dtype) for k, shape in SHAPES.items()}
    adapter = adapter or lorax.LoRA(rank=4, alpha=4.0, where=("query", "value"))
    delta = adapter.init(next(draw), base)
    leaves, structure = jax.tree.flatten(delta)
    noise = [jax.random.normal(key, x.shape, x.dtype) for key, x in zip(draw, leaves, strict=False)]
    moved = [x + size * n for x, n in zip(leaves, noise, strict=True)]
    return adapter, base, jax.tree.unflatten(structure, moved)


def update(adapter, base, delta):
    """ΔW of every leaf in float64, by another way: the merge of a zero base."""
    zeros = jax.tree.map(lambda w: jnp.zeros(w.shape, jnp.float32), base)
    return {k: np.asarray(w, np.float64) for k, w in adapter.merge(zeros, delta).items()}


def test_a_bfloat16_merge_is_the_float32_sum_rounded_once():
    adapter, base, delta = trained(jnp.bfloat16, size=0.1)
    merged, updates = adapter.merge(base, delta), update(adapter, base, delta)
    for path, w in base.items():
        total = np.asarray(w, np.float32) + updates[path].astype(np.float32)
        assert merged[path].dtype == jnp.bfloat16
        assert np.array_equal(merged[path], total.astype(jnp.bfloat16)), path
    in_16_bits = base["query"] + jnp.asarray(updates["query"], jnp.bfloat16)
    assert not np.array_equal(merged["query"], in_16_bits)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_merging_again_from_the_kept_base_changes_nothing(dtype):
    adapter, base, delta = trained(dtype)
    kept = jax.tree.map(np.array, base)
    merge = jax.jit(adapter.merge)
    first = jax.tree.map(np.asarray, merge(base, delta))
    for _ in range(100):
        again = merge(base, delta)
        assert all(np.array_equal(again[path], first[path]) for path in first)
    assert all(np.array_equal(base[path], kept[path]) for path in kept)


def test_a_small_update_of_a_bfloat16_base_drowns_in_the_rounding():
    """About half a unit in the last place, 2^-9 of W, whatever the size of the update."""
    errors = []
    for size in (1e-1, 1e-2, 1e-3):
        adapter, base, delta = trained(jnp.bfloat16, size=size)
        rows = merge_rounding(adapter, base, delta).rows
        assert [row.path for row in rows] == ["query", "value"]
        for row in rows:
            assert row.largest <= 2**-8 * 4
            assert np.isclose(row.update, np.linalg.norm(update(adapter, base, delta)[row.path]))
        errors.append(rows[0].error)
    assert errors[0] < 0.2 and errors[0] < errors[1] < errors[2] and errors[2] > 0.3


def test_the_error_is_that_of_the_merge_against_float64():
    adapter, base, delta = trained(jnp.bfloat16, size=0.05)
    merged, updates = adapter.merge(base, delta), update(adapter, base, delta)
    for row in merge_rounding(adapter, base, delta).rows:
        exact = np.asarray(base[row.path], np.float64) + updates[row.path]
        error = np.asarray(merged[row.path], np.float64) - exact
        norm = np.linalg.norm(updates[row.path])
        assert np.isclose(row.error, np.linalg.norm(error) / norm, rtol=1e-4)
        assert np.isclose(row.largest, np.abs(error).max(), rtol=1e-4)
        assert row.dtype == "bfloat16"


def test_a_float32_base_loses_next_to_nothing():
    found = merge_rounding(*trained(jnp.float32, size=0.1))
    assert 0 < found.error < 1e-5


def test_no_update_no_error():
    adapter, base, _ = trained(jnp.bfloat16)
    found = merge_rounding(adapter, base, adapter.init(jax.random.key(0), base))
    assert found.error == 0
    assert [(row.update, row.error, row.largest) for row in found.rows] == [(0, 0, 0)] * 2


@pytest.mark.parametrize("initializer", ["pissa", "olora"])
def test_offsets_from_the_base_are_counted(initializer):
    adapter = lorax.LoRA(rank=4, where=("query",), initializer=initializer)
    adapter, base, delta = trained(jnp.float32, adapter, size=0.1)
    found = merge_rounding(adapter, adapter.prepare(base, delta), delta)
    exact = np.asarray(adapter.merge(base, delta)["query"], np.float64) - np.asarray(base["query"])
    assert np.isclose(found.rows[0].update, np.linalg.norm(exact), rtol=1e-4)
    assert found.error < 1e-5


def test_leaves_trained_whole_and_chains_are_measured():
    adapter = lorax.Chain(lorax.LoRA(rank=2, where=("query",)), lorax.Full(where=("norm",)))
    found = merge_rounding(*trained(jnp.bfloat16, adapter, size=0.01))
    rows = {row.path: row for row in found.rows}
    assert set(rows) == {"query", "norm"}
    assert 0 < rows["norm"].error < 1 and rows["norm"].update < 0.1


def test_stacked_leaves_are_one_row():
    roles = lorax.Roles(stack=(0,), inputs=(1,), outputs=(2,))
    adapter = lorax.LoRA(rank=2, where=("layers",))
    base = {"layers": jax.random.normal(jax.random.key(0), (3, 8, 6))}
    delta = adapter.init(jax.random.key(1), base, {"layers": roles})
    delta = jax.tree.map(lambda x: x + 0.1, delta)
    (row,) = merge_rounding(adapter, base, delta).rows
    change = adapter.merge(base, delta)["layers"] - base["layers"]
    assert np.isclose(row.update, np.linalg.norm(change), rtol=1e-4)
    assert row.error < 1e-5


def test_it_prints_as_a_table():
    found = merge_rounding(*trained(jnp.bfloat16))
    lines = str(found).splitlines()
    assert len(lines) == 4 and lines[0].split() == ["path", "dtype", "‖ΔW‖", "error", "/", "‖ΔW‖",
                                                   "max", "|error|"]  # fmt: skip
    assert lines[1].startswith("query  bfloat16") and lines[-1].startswith("all 2 leaves")
    assert str(MergeRounding(())).endswith("all 0 leaves: error / ‖ΔW‖ 0.00e+00")


def test_a_rescaled_leaf():
    base = {"w": jax.random.normal(jax.random.key(0), (6, 5)).astype(jnp.bfloat16)}
    adapter = lorax.DoRA(rank=2, where=("w",))
    delta = adapter.init(jax.random.key(1), base)
    (start,) = merge_rounding(adapter, base, delta).rows
    assert start.update == 0.0 and start.largest == 0.0
    delta = jax.tree.map(lambda x: x + 0.1, delta)
    (row,) = merge_rounding(adapter, base, delta).rows
    exact = adapter.merge({"w": base["w"].astype(jnp.float32)}, delta)["w"]
    norm = np.linalg.norm(np.asarray(exact) - np.asarray(base["w"], np.float32))
    np.testing.assert_allclose(row.update, norm, rtol=1e-5)
    assert 0 < row.error < 0.05
