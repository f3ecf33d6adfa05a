"""Weighted sums of adapters are sums of ΔW, and what truncation loses is told."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lorax
from lorax.adapters.combine import combine, truncate

BASE = {
    "query": jax.random.normal(jax.random.key(0), (6, 5)),
    "heads": jax.random.normal(jax.random.key(1), (4, 2, 3)),
    "experts": jax.random.normal(jax.random.key(2), (3, 4, 5)),
}
ROLES = {
    "query": lorax.Roles((), (0,), (1,)),
    "heads": lorax.Roles((), (0,), (1, 2)),
    "experts": lorax.Roles((0,), (1,), (2,)),
}


def trained(adapter, seed, where=None):
    """A delta away from its start."""
    delta = adapter.init(jax.random.key(seed), BASE, ROLES)
    leaves, tree = jax.tree.flatten(delta)
    keys = jax.random.split(jax.random.key(seed + 100), len(leaves))
    moved = [x + jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, moved)


def update(adapter, delta, leaf):
    """ΔW in float64, from the factors alone."""
    factors = delta[leaf]
    a, b = np.asarray(factors.A, np.float64), np.asarray(factors.B, np.float64)
    spelling = {"query": "ir,ro->io", "heads": "ir,rhk->ihk", "experts": "eir,ero->eio"}[leaf]
    return float(adapter.scale_of(leaf)) * np.einsum(spelling, a, b)


def relative(a, b):
    """Frobenius distance relative to the second."""
    return np.linalg.norm(a - b) / np.linalg.norm(b)


@settings(max_examples=15, deadline=None)
@given(
    ranks=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    scaling=st.sampled_from(["standard", "rslora"]),
    alpha=st.floats(0.5, 32.0),
    weights=st.tuples(st.floats(-2.0, 2.0), st.floats(0.1, 2.0)),
)
def test_a_sum_is_exact_for_any_rank_alpha_scaling_and_sign(ranks, scaling, alpha, weights):
    first = lorax.LoRA(rank=ranks[0], alpha=alpha, where=(".*",), scaling=scaling)
    second = lorax.LoRA(rank=ranks[1], alpha=3.0, where=(".*",))
    deltas = trained(first, 1), trained(second, 2)
    sum_of = combine([(first, deltas[0], weights[0]), (second, deltas[1], weights[1])])
    for leaf in BASE:
        want = weights[0] * update(first, deltas[0], leaf)
        want = want + weights[1] * update(second, deltas[1], leaf)
        assert relative(update(sum_of.adapter, sum_of.delta, leaf), want) < 1e-6
        assert sum_of.adapter.rank_of(leaf) == sum(ranks)
    assert set(sum_of.error.values()) == {0.0}


def test_the_sum_is_an_adapter_like_any_other():
    adapter = lorax.LoRA(rank=2, where=(".*",))
    delta = trained(adapter, 1)
    sum_of = combine([(adapter, delta, 1.0)])
    want, got = adapter.merge(BASE, delta), sum_of.adapter.merge(BASE, sum_of.delta)
    for leaf in BASE:
        np.testing.assert_allclose(got[leaf], want[leaf], rtol=1e-5, atol=1e-5)
    assert lorax.from_json(sum_of.adapter.to_json()) == sum_of.adapter


def test_a_single_negative_weight_negates():
    adapter = lorax.LoRA(rank=2, where=("query",))
    delta = trained(adapter, 1)
    negated = combine([(adapter, delta, -1.0)])
    want = -update(adapter, delta, "query")
    np.testing.assert_allclose(update(negated.adapter, negated.delta, "query"), want, rtol=1e-6)


def test_adapters_on_different_leaves_are_united():
    first, second = lorax.LoRA(rank=1, where=("query",)), lorax.LoRA(rank=2, where=("heads",))
    sum_of = combine([(first, trained(first, 1), 1.0), (second, trained(second, 2), 1.0)])
    assert {p: f.rank for p, f in sum_of.delta.items()} == {"query": 1, "heads": 2}
    sum_of.adapter.merge(BASE, sum_of.delta)


@pytest.mark.parametrize("leaf", list(BASE))
def test_truncation_is_the_best_of_its_rank_and_tells_its_error(leaf):
    adapter = lorax.LoRA(rank=3, where=(leaf,))
    parts = [(adapter, trained(adapter, seed), 1.0) for seed in (1, 2)]
    exact, cut = combine(parts), combine(parts, rank=2)
    whole, approximate = (
        update(exact.adapter, exact.delta, leaf),
        update(cut.adapter, cut.delta, leaf),
    )
    roles = ROLES[leaf]
    n, fan_in, fan_out = roles.matrix(BASE[leaf].shape)
    values = np.linalg.svd(whole.reshape(n, fan_in, fan_out), compute_uv=False)
    optimum = np.sqrt((values[:, 2:] ** 2).sum() / (values**2).sum())
    assert cut.error[leaf] == pytest.approx(optimum, rel=1e-4)
    assert relative(approximate, whole) == pytest.approx(optimum, rel=1e-4)
    assert cut.delta[leaf].rank == 2


def test_truncation_to_the_full_rank_loses_nothing():
    adapter = lorax.LoRA(rank=2, where=("query",))
    delta = trained(adapter, 1)
    same, lost = truncate(delta["query"], 2)
    np.testing.assert_allclose(same.A @ same.B, delta["query"].A @ delta["query"].B, rtol=1e-4)
    assert float(lost) == 0.0


@pytest.mark.parametrize("initializer", ["pissa", "olora"])
def test_adapters_that_start_from_the_base_need_it(initializer):
    adapter = lorax.LoRA(rank=2, where=("query",), initializer=initializer)
    delta = trained(adapter, 1)
    with pytest.raises(lorax.LoraxError, match="pass base="):
        combine([(adapter, delta, 1.0)])
    sum_of = combine([(adapter, delta, 1.0)], base=BASE)
    got = sum_of.adapter.merge(BASE, sum_of.delta)["query"]
    np.testing.assert_allclose(got, adapter.merge(BASE, delta)["query"], rtol=1e-4, atol=1e-4)


def test_mistakes():
    adapter = lorax.LoRA(rank=2, where=("query",))
    delta = trained(adapter, 1)
    with pytest.raises(lorax.LoraxError, match="nothing to combine"):
        combine([])
    with pytest.raises(lorax.LoraxError, match="rank is 0"):
        combine([(adapter, delta, 1.0)], rank=0)
    whole = (adapter, delta, 1.0)
    wrong = {
        "part 0 is of a Full: expected a LoRA": (lorax.Full(), delta, 1.0),
        "part 0 is of a Chain.*LoRA member": (lorax.Chain(adapter), (delta,), 1.0),
        "part 0 is of a dict": (delta, adapter, 1.0),
        "part 0 has no weight.*1.0 adds it": (adapter, delta),
        "part 0 has 4 entries": (*whole, 1),
        "part 0 is a LoRA: expected": adapter,
        "part 0 has the weight '0.5': expected a number": (adapter, delta, "0.5"),
        "part 0 has the weight None: expected a number": (adapter, delta, None),
        "part 0 has the weight .*: expected a number": (adapter, delta, np.ones((2, 2))),
        "part 0 has the weight nan: expected a finite": (adapter, delta, float("nan")),
        "part 0 has the weight -inf: expected a finite": (adapter, delta, -jnp.inf),
    }
    for words, part in wrong.items():
        with pytest.raises(lorax.LoraxError, match=words) as caught:
            combine([part] if part is not adapter else {part})
        assert "\n" not in str(caught.value)
    with pytest.raises(lorax.LoraxTypeError, match=r"write \[\(adapter, delta, weight\)\]"):
        combine(whole)
    combine([(adapter, delta, np.float32(0.5)), (adapter, delta, jnp.float32(2)), whole])
    other = {"query": lorax.Factors(jnp.ones((7, 2)), jnp.ones((2, 5)), ROLES["query"])}
    with pytest.raises(lorax.LoraxError, match="'query' has another shape"):
        combine([(adapter, delta, 1.0), (adapter, other, 1.0)])
