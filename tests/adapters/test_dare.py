"""DARE: right in expectation, drawn by key, part and path, told with its error."""

import jax
import numpy as np
import pytest

import lorax
from lorax.adapters.dare import dare, dropped_sum
from tests.adapters.sums import relative, trained, two, update

KEY = jax.random.key(7, impl="unsafe_rbg")  # quicker to compile
LEAVES = ("query", "experts")


def _parts():
    """Two adapters on two of the leaves, with weights."""
    kept = [{leaf: delta[leaf] for leaf in LEAVES} for _, delta in two()]
    return [(two()[0][0], kept[0], 0.7), (two()[1][0], kept[1], -0.4)]


def test_the_expectation_is_the_weighted_sum_and_the_share_that_stays_is_one_minus_the_rate():
    shape, weights = (300, 400), np.float32([0.7, -0.4])
    updates = np.stack([np.full(shape, 2.0, np.float32), np.full(shape, -3.0, np.float32)])
    found = np.asarray(dropped_sum(updates, weights, list(jax.random.split(KEY)), 0.75))
    want = 0.7 * 2 + 0.4 * 3
    spread = np.sqrt(3 * (1.4**2 + 1.2**2) / found.size)  # p / (1 - p) = 3
    assert abs(found.mean() - want) < 5 * spread
    values, counts = np.unique(found.round(3), return_counts=True)
    np.testing.assert_allclose(values, [0, 4.8, 5.6, 10.4], atol=1e-3)  # none, one, one, both
    shares = [9 / 16, 3 / 16, 3 / 16, 1 / 16]  # so they are dropped apart
    np.testing.assert_allclose(counts / found.size, shares, atol=0.01)


def test_rate_zero_is_the_plain_sum():
    mixed = dare(_parts(), rank=5, key=KEY, rate=0.0)
    for leaf in LEAVES:
        want = 0.7 * update(*two()[0], leaf) - 0.4 * update(*two()[1], leaf)
        assert relative(update(mixed.adapter, mixed.delta, leaf), want) < 1e-5
        assert mixed.error[leaf] < 1e-5


def test_draws_depend_on_key_path_and_part_alone_and_the_error_is_true():
    parts = _parts()
    mixed, again = (dare(parts, rank=9, key=KEY, rate=0.5) for _ in range(2))
    other = dare(parts, rank=9, key=jax.random.fold_in(KEY, 1), rate=0.5)
    lone = lorax.LoRA(rank=2, alpha=5.0, where=("query",))
    short = {"query": two()[0][1]["query"]}
    few = dare([(lone, short, 0.7), parts[1]], rank=9, key=KEY, rate=0.5)
    for leaf in LEAVES:
        got = update(mixed.adapter, mixed.delta, leaf)
        want = 0.7 * update(*two()[0], leaf) - 0.4 * update(*two()[1], leaf)
        assert mixed.error[leaf] == pytest.approx(relative(got, want), rel=1e-4)
        assert mixed.truncation[leaf] < 1e-5 < mixed.error[leaf]
        np.testing.assert_array_equal(again.delta[leaf].A, mixed.delta[leaf].A)
        assert relative(update(other.adapter, other.delta, leaf), got) > 0.1
    query = update(mixed.adapter, mixed.delta, "query")
    np.testing.assert_allclose(update(few.adapter, few.delta, "query"), query, atol=1e-4)


def test_mistakes():
    adapter = lorax.LoRA(rank=2, where=("query",))
    parts = [(adapter, trained(adapter, 1), 1.0)]
    for rate in (1, 1.0, -0.1, "0.5", float("nan"), True):
        with pytest.raises(lorax.LoraxError, match="rate is .*at least 0 and below 1"):
            dare(parts, rank=2, key=KEY, rate=rate)
    with pytest.raises(lorax.LoraxError, match="expected a PRNG key"):
        dare(parts, rank=2, key=3)
