"""The columns of table 7 against their closed forms and against dense products."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lorax
from lorax.analysis.amplification import Amplification, amplification
from tests.analysis.imported import from_peft

STACKED = lorax.Roles((0,), (1,), (2,))
SHAPE = (40, 30)


def adapted(rank=4, *, stacked=3, shape=SHAPE, seed=0, **fields):
    """(LoRA, base, delta) of one stacked leaf, every number drawn."""
    rng = np.random.default_rng(seed)
    draw = lambda *sizes: jnp.asarray(rng.normal(size=sizes), jnp.float32)
    factors = lorax.Factors(draw(stacked, shape[0], rank), draw(stacked, rank, shape[1]), STACKED)
    return (
        lorax.LoRA(rank, 2.0, where=("w",), **fields),
        {"w": draw(stacked, *shape)},
        {"w": factors},
    )


@pytest.mark.parametrize(("rank", "initializer"), [(None, "kaiming"), (2, "pissa")])
def test_the_columns_are_those_of_dense_matrices(rank, initializer):
    adapter, base, delta = adapted(initializer=initializer)
    found = amplification(adapter, base, delta, rank=rank)["w"]
    assert (found.rank, found.shape) == (rank or 4, SHAPE)
    merged = np.float64(adapter.merge(base, delta)["w"])
    for n, w in enumerate(np.float64(base["w"])):
        change = merged[n] - w
        np.testing.assert_allclose(found.weight[n], np.linalg.norm(w), rtol=1e-5)
        np.testing.assert_allclose(found.update[n], np.linalg.norm(change), rtol=1e-5)
        for column, matrix in ((found.from_update, change), (found.from_weight, w)):
            u, _, vt = np.linalg.svd(matrix)
            want = np.linalg.norm(u[:, : found.rank].T @ w @ vt[: found.rank].T)
            np.testing.assert_allclose(column[n], want, rtol=1e-4)
        np.testing.assert_allclose(found.factor[n], found.update[n] / found.from_update[n])


def test_its_own_column_is_the_root_of_the_largest_squares():
    found = amplification(*adapted())["w"]
    np.testing.assert_allclose(found.from_weight, found.expected_from_weight, rtol=1e-5)


def test_the_random_column_is_a_share_of_the_norm():
    found = amplification(*adapted(4, stacked=200, shape=(24, 16)))["w"]
    want = found.weight * 4 / np.sqrt(24 * 16)
    np.testing.assert_allclose(found.expected_from_random, want, rtol=1e-6)
    measured = np.sqrt(np.mean((found.from_random / want) ** 2))
    assert abs(measured - 1) < 0.05


def test_the_published_table():
    """‖Wq‖ 61.95 at 12,288 × 12,288: 0.02 and 0.33 printed; factors 21.5 and about 2."""
    one = np.ones(1)
    fields = {"shape": (12288, 12288), "weight": 61.95 * one, "from_weight": one}
    fields |= {"from_random": one, "values": np.ones((1, 1))}
    low = Amplification(rank=4, update=6.91 * one, from_update=0.32 * one, **fields)
    high = Amplification(rank=64, update=3.57 * one, from_update=1.90 * one, **fields)
    assert round(float(low.expected_from_random[0]), 4) == 0.0202
    assert round(float(high.expected_from_random[0]), 4) == 0.3227
    assert 21 < low.factor[0] < 22 and round(float(high.factor[0]), 2) == 1.88


def test_what_w_lacks_is_amplified_without_bound_and_its_own_directions_are_not():
    adapter, base, _ = adapted()
    diagonal = np.zeros(SHAPE)
    np.fill_diagonal(diagonal, [4, 4, 4, 4, *range(3, 0, -1), *[0] * 23])
    w = {"w": jnp.zeros_like(base["w"]) + jnp.float32(diagonal)}
    for first in (0, 10):
        a, b = (jnp.stack([jnp.eye(size)[first : first + 4]] * 3) for size in SHAPE)
        delta = {"w": lorax.Factors(12 * jnp.swapaxes(a, 1, 2), b, STACKED)}  # the scale is 1/2
        found = amplification(adapter, w, delta)["w"].factor
        assert np.allclose(found, 1.5) if first == 0 else np.all(found > 1e5)


def test_an_update_of_fewer_directions_has_no_column():
    adapter, base, delta = adapted()
    nothing = {"w": lorax.Factors(delta["w"].A, 0 * delta["w"].B, STACKED)}
    found = amplification(adapter, base, nothing)["w"]
    assert np.all(found.update == 0) and np.all(np.isnan(found.from_update))
    assert np.all(np.isnan(found.factor)) and np.all(found.from_weight > 0)
    half = {"w": lorax.Factors(delta["w"].A.at[:, :, 2:].set(0), delta["w"].B, STACKED)}
    assert np.all(np.isnan(amplification(adapter, base, half)["w"].factor))
    assert np.all(amplification(adapter, base, half, rank=2)["w"].factor > 0)


def test_the_random_matrices_come_of_the_key():
    draws = [
        amplification(*adapted(), key=key)["w"].from_random
        for key in (None, jax.random.key(0), jax.random.key(1))
    ]
    assert np.array_equal(draws[0], draws[1]) and not np.any(draws[0] == draws[2])


def test_bad_input():
    adapter, base, delta = adapted()
    for rank in (0, 5):
        with pytest.raises(lorax.LoraxError, match=f"rank is {rank} and 'w' .* expected 1 to 4"):
            amplification(adapter, base, delta, rank=rank)
    full = lorax.Full()
    with pytest.raises(lorax.LoraxError, match="Full has no low-rank factors"):
        amplification(full, base, full.init(jax.random.key(0), base))
    with pytest.raises(lorax.LoraxError, match="belongs to another model"):
        amplification(adapter, {"w": jnp.ones((3, 9, 9))}, delta)


def test_an_imported_adapter():
    adapter, base, delta = from_peft("gpt2_c_attn")
    stored, after = (lorax.core.paths.flatten(x) for x in (base, adapter.merge(base, delta)))
    for path, leaf in amplification(adapter, base, delta).items():
        change = np.float64(after[path]) - np.float64(stored[path])
        np.testing.assert_allclose(leaf.update, np.linalg.norm(change), rtol=1e-4)
        assert leaf.factor > 0
