"""DARE: right in expectation, drawn by key, part and path, told with its error."""

import jax
import numpy as np
import pytest

import lorax
from lorax.adapters.dare import dare, dropped_sum
from tests.adapters.sums import BASE, relative, trained, two, update

KEY = jax.random.key(7)


def test_the_mean_over_keys_is_the_weighted_sum_and_the_share_is_the_rate():
    updates = np.random.default_rng(0).normal(size=(2, 4, 5)).astype(np.float32)
    weights = np.float32([0.7, -0.4])
    draws = 4000
    keys = jax.random.split(KEY, (draws, 2))
    found = jax.vmap(lambda k: dropped_sum(updates, weights, k, 0.75))(keys)
    want = np.tensordot(weights, updates, 1)
    spread = np.sqrt(3 * np.tensordot(weights**2, updates**2, 1) / draws)  # p / (1 - p) = 3
    assert (np.abs(np.mean(found, 0) - want) < 5 * spread).all()
    one = jax.vmap(lambda k: dropped_sum(updates[:1], np.float32([1]), k[:1], 0.75))(keys)
    assert np.mean(np.asarray(one) != 0) == pytest.approx(0.25, abs=0.01)
    held = np.broadcast_to(4 * updates[0], one.shape)[np.asarray(one) != 0]
    np.testing.assert_allclose(one[one != 0], held, rtol=1e-6)


def test_rate_zero_is_the_plain_sum():
    mixed = dare([(*two()[0], 0.7), (*two()[1], -0.4)], rank=5, key=KEY, rate=0.0)
    for leaf in BASE:
        want = 0.7 * update(*two()[0], leaf) - 0.4 * update(*two()[1], leaf)
        assert relative(update(mixed.adapter, mixed.delta, leaf), want) < 1e-5
        assert mixed.error[leaf] < 1e-5


def test_draws_depend_on_key_path_and_part_alone_and_the_error_is_true():
    parts = [(*two()[0], 0.7), (*two()[1], -0.4)]
    mixed, again = (dare(parts, rank=9, key=KEY, rate=0.5) for _ in range(2))
    other = dare(parts, rank=9, key=jax.random.key(8), rate=0.5)
    lone = lorax.LoRA(rank=2, alpha=5.0, where=("query",))
    short = {"query": two()[0][1]["query"]}
    few = dare([(lone, short, 0.7), parts[1]], rank=9, key=KEY, rate=0.5)
    for leaf in BASE:
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
