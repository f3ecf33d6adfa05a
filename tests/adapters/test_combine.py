"""Weighted sums of adapters are sums of ΔW, and what truncation loses is told."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lorax
from lorax.adapters.combine import combine
from lorax.adapters.dora import DoRA
from lorax.adapters.ia3 import IA3
from lorax.adapters.loha import LoHa
from lorax.adapters.lokr import LoKr
from lorax.adapters.lora_fa import LoRAFA
from lorax.adapters.lora_xs import LoRAXS
from lorax.adapters.tiny_lora import TinyLoRA
from lorax.adapters.vera import VeRA
from tests.adapters.sums import BASE, ROLES, as_matrices, cut, relative, trained, two, update

HEAD = lorax.Full(where=("query",))
CHAIN = lorax.Chain(lorax.LoRA(rank=2, where=("heads",)), HEAD)


@settings(max_examples=15)
@given(
    ranks=st.sampled_from([(1, 2), (3, 1)]),
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


@pytest.mark.parametrize("leaf", ["heads", "experts"])
def test_truncation_is_the_best_of_its_rank_and_tells_its_error(leaf):
    adapter = lorax.LoRA(rank=3, where=(leaf,))
    parts = [(adapter, trained(adapter, seed), 1.0) for seed in (1, 2)]
    exact, short = combine(parts), combine(parts, rank=2)
    whole, got = (update(one.adapter, one.delta, leaf) for one in (exact, short))
    optimum = relative(cut(as_matrices(whole, leaf), 2), as_matrices(whole, leaf))
    assert short.error[leaf] == short.truncation[leaf] == pytest.approx(optimum, rel=1e-4)
    assert relative(got, whole) == pytest.approx(optimum, rel=1e-4)
    assert short.delta[leaf].rank == 2


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
    for rank in (0, "2"):
        with pytest.raises(lorax.LoraxError, match="rank is .*: expected"):
            combine([(adapter, delta, 1.0)], rank=rank)
    whole = (adapter, delta, 1.0)
    wrong = {
        "part 0 has a Full, which has no factors.*base= and rank=": (lorax.Full(), delta, 1.0),
        "delta of a Chain of 1 is a dict": (lorax.Chain(adapter), delta, 1.0),
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


def test_a_rank_above_that_of_the_matrices_keeps_all():
    (first, delta), (second, other) = two()
    exact = combine([(first, delta, 1.0), (second, other, 1.0)])
    short = combine([(first, delta, 1.0), (second, other, 1.0)], rank=4)
    assert short.delta["heads"].rank == 4 < exact.delta["heads"].rank
    for one in (exact, short):
        assert one.error["heads"] == pytest.approx(0.0, abs=1e-6)
    assert relative(*(update(o.adapter, o.delta, "heads") for o in (short, exact))) < 1e-5


def test_one_part_with_weight_one_is_itself_and_a_negative_weight_takes_it_away():
    adapter = CHAIN.members[0]
    delta = trained(adapter, 3)
    same = combine([(adapter, delta, 1.0)])
    assert relative(update(same.adapter, same.delta, "heads"), update(adapter, delta, "heads")) == 0
    away = combine([(adapter, delta, 1.0), (same.adapter, same.delta, -1.0)])
    np.testing.assert_allclose(update(away.adapter, away.delta, "heads"), 0, atol=1e-6)
    assert away.error == {"heads": 0.0}


def test_members_of_a_chain_are_added_and_a_head_they_share_stays():
    (low, head), other = trained(CHAIN, 1), trained(CHAIN, 2)[0]
    mixed = combine([(CHAIN, (low, head), 0.75), (CHAIN, (other, head), 0.25)])
    assert mixed.adapter.members[1] == HEAD and mixed.delta[1] is head
    lora, member = mixed.adapter.members[0], CHAIN.members[0]
    want = 0.75 * update(member, low, "heads") + 0.25 * update(member, other, "heads")
    assert relative(update(lora, mixed.delta[0], "heads"), want) < 1e-6
    assert mixed.error == {"heads": 0.0, "query": 0.0}
    merged = mixed.adapter.merge(BASE, mixed.delta)
    np.testing.assert_array_equal(merged["query"], head["query"])
    twice = combine([(CHAIN, (low, head), 2.0)])  # the head counts once: the error says so
    assert twice.error["query"] == 0.5 and twice.truncation["query"] == 0.0
    none = combine([(CHAIN, (low, head), 1.0), (CHAIN, (other, head), -1.0)])
    assert none.error["query"] == math.inf


def test_heads_that_differ_are_refused_left_out_or_cut():
    one, two = trained(CHAIN, 1), trained(CHAIN, 2)
    parts = [(CHAIN, one, 0.5), (CHAIN, two, 0.5)]
    with pytest.raises(lorax.LoraxError, match="part 0 has a Full, .*leave_out=True") as caught:
        combine(parts)
    assert "\n" not in str(caught.value)
    assert set(combine(parts, leave_out=True).delta) == {"heads"}
    whole = combine(parts, base=BASE, rank=2)
    delta = sum(np.asarray(d[1]["query"]) for d in (one, two)) / 2 - np.asarray(BASE["query"])
    optimum = relative(cut(delta[None], 2)[0], delta)
    assert whole.error["query"] == pytest.approx(optimum, rel=1e-4)
    merged = whole.adapter.merge(BASE, whole.delta)["query"] - BASE["query"]
    assert relative(merged, delta) == pytest.approx(optimum, rel=1e-4)


def test_what_was_trained_whole_is_cut_to_a_rank_or_told_why_not():
    adapter = lorax.Full(where=("experts",))
    delta = trained(adapter, 1)
    with pytest.raises(lorax.LoraxError, match="'experts' of shape .* no matrix.*roles="):
        combine([(adapter, delta, 1.0)], base=BASE, rank=2)
    found = combine([(adapter, delta, -1.0)], base=BASE, rank=2, roles=ROLES)
    want = np.asarray(BASE["experts"]) - np.asarray(delta["experts"])
    got = update(found.adapter, found.delta, "experts")
    np.testing.assert_allclose(got, cut(want, 2), atol=1e-4)
    bias = lorax.BitFit(where=("b",))
    base = {"b": jnp.zeros(3)}
    with pytest.raises(lorax.LoraxError, match="'b' of shape .* no matrix"):
        combine([(bias, bias.init(jax.random.key(0), base), 1.0)], base=base, rank=1)
    with pytest.raises(lorax.LoraxError, match="a leaf with factors"):
        combine([(adapter, delta, 1.0)], leave_out=True)


FAST = (LoRAFA, DoRA)
KINDS = [
    VeRA(rank=3, where=("query", "experts")),
    LoRAFA(rank=2, alpha=3.0, where=("query", "experts")),
    LoRAXS(rank=2, where=("query", "experts")),
    TinyLoRA(where=("query", "experts")),
    LoHa(rank=2, where=("query",)),
    LoKr(rank=2, where=("query",)),
    DoRA(rank=2, where=("query",)),
    IA3(where=("query",), feedforward=()),
    lorax.Chain(DoRA(rank=1, where=("query",)), lorax.LoRA(rank=1, where=("heads",))),
]


@pytest.mark.parametrize(
    "adapter",
    [pytest.param(a, marks=() if isinstance(a, FAST) else pytest.mark.runs) for a in KINDS],
    ids=lambda a: type(a).__name__,
)
def test_any_kind_of_adapter_is_added_to_a_lora(adapter):
    low = lorax.LoRA(rank=2, alpha=5.0, where=("query", "heads"))
    delta, other = trained(adapter, 1), trained(low, 2)
    parts = [(adapter, delta, 0.7), (low, other, -0.4)]
    with pytest.raises(lorax.LoraxError, match=r"part 0 has a .*base=") as caught:
        combine(parts)
    assert "\n" not in str(caught.value)
    found = combine(parts, base=BASE, rank=6)
    got = found.adapter.merge(BASE, found.delta)
    one, two = adapter.merge(BASE, delta), low.merge(BASE, other)
    assert max(found.error.values()) < 1e-4
    for leaf, w in BASE.items():
        want = w + 0.7 * (one[leaf] - w) - 0.4 * (two[leaf] - w)
        np.testing.assert_allclose(got[leaf], want, rtol=1e-4, atol=2e-4)
