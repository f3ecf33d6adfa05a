"""Other tasks are other numbers: one compiled program for all of them, ranks and heads included."""

import contextlib
import itertools

import jax
import numpy as np
import pytest

import lorax
from lorax.adapters.swap import swappable
from lorax.models.llama import Llama
from lorax.models.llama_config import LlamaConfig
from tests.adapters import sums

WHERE = (r".*/(query|value)/kernel",)
MODEL = Llama(LlamaConfig(17, 8, 1, 2, 1, 12, max_length=64))
TOKENS = np.array([[1, 5, 9, 2]], np.int32)
BASE = MODEL.init(jax.random.key(0), TOKENS)
ROLES = lorax.roles(MODEL.apply, BASE, TOKENS)
LORAS = [
    lorax.LoRA(rank=1, alpha=3.0, where=WHERE),
    lorax.LoRA(rank=3, alpha=2.0, where=WHERE, scaling="rslora"),
    lorax.LoRA(rank=2, where=(r".*/query/kernel",), initializer="pissa"),
]
HEAD = lorax.Full(where=("params/lm_head/kernel",))


def trained(adapter, seed):
    """A delta away from its start."""
    return sums.trained(adapter, seed, BASE, ROLES, size=0.3)


@contextlib.contextmanager
def compilations():
    """A list that grows by one with every program that XLA compiles."""
    seen = []

    def listen(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            seen.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield seen
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_the_counter_counts():
    with compilations() as seen:
        jax.jit(lambda x: x * 3)(np.ones(7)).block_until_ready()
    assert seen


@pytest.fixture(scope="module")
def three():
    """Adapters of three tasks, and the same made swappable."""
    parts = [(adapter, trained(adapter, i)) for i, adapter in enumerate(LORAS)]
    return parts, swappable(parts, base=BASE)


def test_adapters_of_other_ranks_are_what_they_were_and_swap_without_a_compilation(three):
    parts, (adapter, deltas) = three
    assert isinstance(adapter, lorax.LoRA) and {f.rank for f in deltas[0].values()} == {3, 4}
    apply = jax.jit(lorax.adapt(MODEL.apply, adapter, on_fallback="error"))
    plain = jax.jit(MODEL.apply)
    wanted = [plain(a.merge(BASE, d), TOKENS) for a, d in parts]
    found = [np.asarray(apply(BASE, delta, TOKENS)) for delta in deltas]
    for got, want in zip(found, wanted, strict=True):
        np.testing.assert_allclose(got, want, atol=2e-5)
    with compilations() as seen:
        for number, delta in zip(range(100), itertools.cycle(deltas)):
            assert np.array_equal(apply(BASE, delta, TOKENS), found[number % 3])
    assert not seen and apply._cache_size() == 1


def test_generation_swaps_without_a_compilation(three):
    _, (adapter, deltas) = three

    def answer(delta):
        apply = lorax.adapt(MODEL.apply, adapter)  # a new one each time, as callers do
        return lorax.generate(apply, BASE, delta, [[1, 5]], max_new_tokens=6)

    first = [answer(delta) for delta in deltas]
    assert first[0] != first[1]
    with compilations() as seen:
        for number, delta in zip(range(100), itertools.cycle(deltas)):
            assert answer(delta) == first[number % 3]
    assert not seen


def test_a_chain_across_kinds_swaps_too():
    chain = lorax.Chain(LORAS[0], lorax.BitFit(where=(r".*norm/scale",)), HEAD)
    parts = [(chain, trained(chain, seed)) for seed in range(3)]
    adapter, deltas = swappable(parts)
    assert adapter == chain and deltas == [delta for _, delta in parts]
    apply = jax.jit(lorax.adapt(MODEL.apply, chain))
    outputs = [apply(BASE, delta, TOKENS) for delta in deltas]
    assert len({float(output.sum()) for output in outputs}) == 3
    with compilations() as seen:
        for _, delta in zip(range(100), itertools.cycle(deltas)):
            apply(BASE, delta, TOKENS)
    assert not seen and apply._cache_size() == 1


def test_heads_stay_apart_when_ranks_are_filled_up():
    parts = [(c := lorax.Chain(lora, HEAD), trained(c, i)) for i, lora in enumerate(LORAS[:2])]
    adapter, deltas = swappable(parts)
    assert adapter.members[1:] == (HEAD,)
    for (own, delta), wide in zip(parts, deltas, strict=True):
        merged, wanted = adapter.merge(BASE, wide), own.merge(BASE, delta)
        for one, two in zip(jax.tree.leaves(merged), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(one, two, atol=1e-5)


def test_mistakes():
    lora, delta = LORAS[0], trained(LORAS[0], 1)
    chain = lorax.Chain(LORAS[1], HEAD)
    cut = {path: lorax.Factors(f.A[:3], f.B, f.roles) for path, f in delta.items()}
    wrong = {
        "nothing to swap": [],
        "part 0 is a LoRA: expected": [lora],
        "different members beside": [(lora, delta), (chain, trained(chain, 2))],
        "part 1 has a Full": [(lora, delta), (HEAD, trained(HEAD, 2))],
        "has another shape": [(LORAS[1], trained(LORAS[1], 2)), (lora, cut)],
        "other leaves, shapes or dtypes": [(lora, delta), (lora, cut)],
    }
    for words, parts in wrong.items():
        with pytest.raises(lorax.LoraxError, match=words) as caught:
            swappable(parts)
        assert "\n" not in str(caught.value)
