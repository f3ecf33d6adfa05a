"""What parts of a sum say of each leaf: factors with their scale, whole updates, what is shared."""

import dataclasses

import jax
import numpy as np
import pytest

import lorax
from lorax.adapters.low_rank import matrices
from lorax.adapters.parts import Whole, gather, whole_paths
from lorax.adapters.prompt_tuning import PromptTuning
from tests.adapters.sums import BASE, ROLES, as_matrices, trained, two, update

HEAD = lorax.Full(where=("query",))


@dataclasses.dataclass(frozen=True)
class Halved(lorax.Adapter):
    """Low-rank leaves from numbers that are no factors: half of a LoRA, counted from the base."""

    inner: lorax.LoRA = lorax.LoRA(rank=2, where=("heads",))

    def init(self, key, base, roles=None):
        """As the LoRA."""
        return self.inner.init(key, base, roles)

    def merge(self, base, delta):
        """Not needed here."""
        raise NotImplementedError

    def leaves(self, base, delta):
        """The LoRA's, with half the scale."""
        leaves = self.inner.leaves(base, delta)
        return {p: dataclasses.replace(leaf, scale=leaf.scale / 2) for p, leaf in leaves.items()}


def test_scales_are_folded_in_and_parts_numbered():
    gathered = gather([(*two()[0], 1.0), (*two()[1], 2.0)])
    assert gathered.weights == (1.0, 2.0) and gathered.kept == ()
    for leaf in BASE:
        assert sorted(gathered.updates[leaf]) == [0, 1]
        a, b = matrices(gathered.updates[leaf][1])
        np.testing.assert_allclose(a @ b, as_matrices(update(*two()[1], leaf), leaf), atol=1e-4)


def test_any_adapter_with_low_rank_leaves_is_a_part_and_needs_the_base():
    adapter = Halved()
    delta = trained(adapter, 1)
    with pytest.raises(lorax.LoraxError, match="part 0 has a Halved.*pass base="):
        gather([(adapter, delta, 1.0)])
    prepared = adapter.inner.prepare(BASE, delta)
    for base in (BASE, prepared):
        a, b = matrices(gather([(adapter, delta, 1.0)], base).updates["heads"][0])
        want = as_matrices(update(adapter.inner, delta, "heads"), "heads") / 2
        np.testing.assert_allclose(a @ b, want, atol=1e-5)


def test_a_base_prepared_for_one_part_serves_it_inside_a_chain():
    pissa = lorax.LoRA(rank=2, where=("heads",), initializer="pissa")
    chain = lorax.Chain(pissa, HEAD)
    delta = trained(chain, 1)
    plain, prepared = (
        gather([(chain, delta, 1.0)], base).updates["heads"][0]
        for base in (BASE, chain.prepare(BASE, delta))
    )
    np.testing.assert_array_equal(plain.A, prepared.A)


def test_whole_updates_are_counted_from_the_base():
    delta = trained(HEAD, 1)
    found = gather([(HEAD, delta, 1.0)], BASE, rank=1).updates["query"][0]
    assert isinstance(found, Whole) and found.roles == ROLES["query"]
    np.testing.assert_allclose(found.update, delta["query"] - BASE["query"], atol=1e-6)
    assert whole_paths(HEAD, delta, None) == ["query"]


def test_mistakes():
    adapter, delta = two()[0]
    twice = lorax.Chain(adapter, lorax.LoRA(rank=1, where=("query",)))
    parts = trained(twice.members[0], 1), trained(twice.members[1], 2)
    with pytest.raises(lorax.LoraxError, match="'query' is adapted by two members of part 1"):
        gather([(adapter, delta, 1.0), (twice, parts, 1.0)])
    with pytest.raises(lorax.LoraxError, match=r"delta of part 0 is a tuple: expected \{path"):
        gather([(adapter, (delta,), 1.0)])
    with pytest.raises(lorax.LoraxError, match="nothing to combine"):
        gather([])
    heads = lorax.Chain(lorax.LoRA(rank=1, where=("heads",)), HEAD)
    one = (heads, trained(heads, 1), 1.0)
    with pytest.raises(lorax.LoraxError, match="part 0 has a Full.*not the same in all parts"):
        gather([one, (heads.members[0], one[1][0], 1.0)])
    assert gather([one, one]).kept == ((HEAD, one[1][1]),)


def test_prompts_are_shared_refused_or_left_out():
    base = {"params": {"embed": {"embedding": np.ones((7, 4), np.float32)}, **BASE}}
    lora, prompt = lorax.LoRA(rank=1, where=("params/query",)), PromptTuning(tokens=2)
    chain = lorax.Chain(lora, prompt)
    one, two = (chain.init(jax.random.key(seed), base) for seed in (1, 2))
    shared = gather([(chain, one, 0.5), (chain, (two[0], one[1]), 0.5)])
    assert shared.kept == ((prompt, one[1]),) and whole_paths(prompt, one[1], None) == []
    parts = [(chain, one, 0.5), (chain, two, 0.5)]
    for fields in ({}, {"base": base, "rank": 2}):
        with pytest.raises(lorax.LoraxError, match="part 0 has a PromptTuning.*no ΔW"):
            gather(parts, **fields)
    assert set(gather(parts, leave_out=True).updates) == {"params/query"}
