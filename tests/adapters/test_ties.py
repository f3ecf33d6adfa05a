"""TIES against a plain spelling of the paper in NumPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lorax
from lorax.adapters.combine import combine
from lorax.adapters.ties import elected, ties
from tests.adapters.sums import BASE, as_matrices, cut, relative, trained, two, update


def oracle(updates, weights, kept):
    """One matrix: trim, elect, mean; entry by entry."""
    out = np.zeros(updates[0].shape)
    least = [np.sort(np.abs(u).ravel())[-kept] for u in updates]
    for place in np.ndindex(*out.shape):
        pairs = zip(updates, least, strict=True)
        values = [u[place] if abs(u[place]) >= low else 0 for u, low in pairs]
        votes = [w * v for w, v in zip(weights, values, strict=True)]
        sign = np.sign(sum(votes))
        agree = [i for i, vote in enumerate(votes) if vote and np.sign(vote) == sign]
        if agree:
            mean = sum(votes[i] for i in agree) / sum(abs(weights[i]) for i in agree)
            out[place] = mean * sum(map(abs, weights))
    return out


@settings(max_examples=20)
@given(
    seed=st.integers(0, 99), kept=st.integers(1, 20),
    weights=st.lists(st.sampled_from([-1.0, 0.25, 0.5, 2.0]), min_size=3, max_size=3),
)  # fmt: skip
def test_the_rule_is_the_papers(seed, kept, weights):
    updates = np.random.default_rng(seed).normal(size=(3, 4, 5)).astype(np.float32)
    total = sum(map(abs, weights))
    got = elected(updates, np.float32(weights), None, (kept, total))
    np.testing.assert_allclose(got, oracle(updates, weights, kept), rtol=1e-5, atol=1e-6)


def test_equal_weights_are_the_papers_mean_times_lambda():
    updates = np.float32([[[3.0, 1.0, -2.0]], [[1.0, 0.5, 4.0]]])
    got = elected(updates, np.float32([0.5, 0.5]), None, (2, 1.0))
    np.testing.assert_allclose(got, [[2.0, 0.0, 4.0]])  # 1.0 and 0.5 trimmed, -2 outvoted


def test_whole_updates_are_merged_matrix_by_matrix_and_cut():
    parts = [(*two()[0], 0.6), (*two()[1], -0.3)]
    mixed = ties(parts, rank=2, density=0.4)
    for leaf in BASE:
        updates = [as_matrices(update(*two()[i], leaf), leaf) for i in range(2)]
        kept = round(0.4 * updates[0][0].size)
        want = np.stack([oracle(pair, (0.6, -0.3), kept) for pair in zip(*updates, strict=True)])
        true = 0.6 * updates[0] - 0.3 * updates[1]
        got = as_matrices(update(mixed.adapter, mixed.delta, leaf), leaf)
        np.testing.assert_allclose(got, cut(want, 2), atol=1e-4)
        size = np.linalg.norm(true)
        assert mixed.error[leaf] == pytest.approx(np.linalg.norm(got - true) / size, rel=1e-4)
        assert mixed.truncation[leaf] == pytest.approx(np.linalg.norm(got - want) / size, rel=1e-3)


def test_one_part_untrimmed_is_itself_and_negates():
    adapter, delta = two()[0]
    for weight in (1.0, -1.0):
        same = ties([(adapter, delta, weight)], rank=2, density=1.0)
        for leaf in BASE:
            want = weight * update(adapter, delta, leaf)
            assert relative(update(same.adapter, same.delta, leaf), want) < 1e-5
            assert same.error[leaf] < 1e-5


def test_a_leaf_of_one_adapter_alone_is_not_outvoted_by_silence():
    first, second = lorax.LoRA(rank=1, where=("query",)), lorax.LoRA(rank=1, where=("heads",))
    delta, other = trained(first, 1), trained(second, 2)
    mixed = ties([(first, delta, 0.5), (second, other, 0.5)], rank=1, density=1.0)
    got = update(mixed.adapter, mixed.delta, "query")
    assert relative(got, update(first, delta, "query")) < 1e-5
    plain = combine([(first, delta, 0.5), (second, other, 0.5)])
    assert relative(got, 2 * update(plain.adapter, plain.delta, "query")) < 1e-5


def test_mistakes():
    adapter, delta = two()[0]
    for density in (0, -0.1, 1.5, float("nan"), "0.2", True):
        with pytest.raises(lorax.LoraxError, match="density is .*above 0 and at most 1"):
            ties([(adapter, delta, 1.0)], rank=2, density=density)
    with pytest.raises(lorax.LoraxError, match="nothing to combine"):
        ties([], rank=2)
    narrow = lorax.LoRA(rank=1, where=("query",))
    small = trained(narrow, 1, base={"query": BASE["query"][:4]}, roles=None)
    with pytest.raises(lorax.LoraxError, match="'query' has another shape") as caught:
        ties([(adapter, delta, 1.0), (narrow, small, 1.0)], rank=2)
    assert "\n" not in str(caught.value)
