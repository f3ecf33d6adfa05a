"""AdaLoRA: what learns, how the budget ends, and what a full one can hold."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lorax
from lorax.train.optim import adamw, settled

SHAPES = {"a": (6, 5), "b": (6, 5), "c": (3, 6, 5)}


def _run(adapter, steps, targets, lr=0.05, seed=0):
    """The delta after `steps` updates towards base + targets."""
    base = jax.tree.map(jnp.zeros_like, targets)
    roles = {n: lorax.Roles((0,), (1,), (2,)) for n in base if base[n].ndim == 3}
    delta = adapter.init(jax.random.key(seed), base, roles)
    tx = settled(adamw(optax.cosine_decay_schedule(lr, steps), clip=None), adapter, steps)

    def loss(delta):
        merged = adapter.merge(base, delta)
        return sum(jnp.sum((merged[n] - targets[n]) ** 2) for n in base)

    @jax.jit
    def step(delta, state):
        total = lambda delta: loss(delta) + adapter.penalty(delta)
        updates, state = tx.update(jax.grad(total)(delta), state, delta)
        return optax.apply_updates(delta, updates), state

    state = tx.init(delta)
    for _ in range(steps):
        delta, state = step(delta, state)
    return delta, float(loss(delta)), state


def _targets(rank):
    draw = np.random.default_rng(0).normal
    product = lambda s: draw(size=(*s[:-1], rank)) @ draw(size=(*s[:-2], rank, s[-1]))
    return {name: jnp.asarray(product(s), jnp.float32) for name, s in SHAPES.items()}


@pytest.mark.parametrize(("final", "every"), [(0, 1), pytest.param(5, 3, marks=pytest.mark.runs)])
def test_the_final_budget_is_exact(final, every):
    adapter = lorax.AdaLoRA(
        rank=3, target_rank=1, where=("a", "b", "c"), warmup=4, final=final, every=every
    )
    delta, _, state = _run(adapter, 24, _targets(2))
    left = {name: int(jnp.sum(learnt["E"] != 0)) for name, learnt in delta.items()}
    assert sum(left.values()) == 1 * 5  # five matrices
    assert int(state.done) == 24


@pytest.mark.runs
def test_a_full_budget_holds_what_lora_does():
    """Targets of rank 2 are reached by both, and by neither with rank 1."""
    where = ("a", "b", "c")
    targets = _targets(2)
    size = sum(float(jnp.sum(target**2)) for target in targets.values())
    full = lorax.AdaLoRA(rank=2, target_rank=2, alpha=2.0, where=where, orthogonality=0.0)
    _, ours, _ = _run(full, 400, targets)
    _, lora, _ = _run(_Bare(lorax.LoRA(rank=2, alpha=2.0, where=where)), 400, targets)
    _, less, _ = _run(_Bare(lorax.LoRA(rank=1, alpha=1.0, where=where)), 400, targets)
    assert ours < 1e-3 * size and lora < 1e-3 * size and less > 0.02 * size


class _Bare(lorax.Adapter):
    """A LoRA with a penalty of zero, for the same loop."""

    def __init__(self, lora):
        self.lora = lora

    def init(self, key, base, roles=None):
        return self.lora.init(key, base, roles)

    def merge(self, base, delta):
        return self.lora.merge(base, delta)

    def penalty(self, delta):
        return jnp.zeros(())


def test_counts_and_a_start_at_the_base():
    base = {name: jnp.ones(shape) for name, shape in SHAPES.items()}
    roles = {"c": lorax.Roles((0,), (1,), (2,))}
    adapter = lorax.AdaLoRA(rank=3, target_rank=2, where=("a", "c"))
    delta = adapter.init(jax.random.key(0), base, roles)
    assert sum(x.size for x in jax.tree.leaves(delta)) == 4 * (3 * (6 + 5) + 3)
    assert all((adapter.merge(base, delta)[n] == base[n]).all() for n in base)
    # at E = 0 it is E alone that has a slope, and it has one
    slope = jax.grad(lambda d: jnp.sum(jnp.sin(adapter.merge(base, d)["a"])))(delta)["a"]
    assert jnp.any(slope["E"] != 0) and not jnp.any(slope["P"])


def test_a_chain_settles_its_member_alone():
    base = {name: jnp.zeros(SHAPES[name]) for name in ("a", "b")}
    member = lorax.AdaLoRA(rank=3, target_rank=1, where=("a",))
    adapter = lorax.Chain(member, lorax.Full(where=("b",)))
    delta = adapter.init(jax.random.key(0), base)
    tx = settled(optax.sgd(0.1), adapter, 2)
    state = tx.init(delta)
    grads = jax.tree.map(jnp.ones_like, delta)
    for _ in range(2):
        updates, state = tx.update(grads, state, delta)
        delta = optax.apply_updates(delta, updates)
    assert int(jnp.sum(delta[0]["a"]["E"] != 0)) == 1
    np.testing.assert_allclose(delta[1]["b"], -0.2, rtol=1e-6)
    assert float(adapter.penalty(delta)) > 0
    plain = optax.sgd(0.1)
    assert settled(plain, lorax.Full(), 2).init({"b": base["b"]}) == plain.init({"b": base["b"]})


def test_mistakes_are_told_in_one_line():
    with pytest.raises(lorax.LoraxError, match="target_rank is 4: expected 1 to rank=3"):
        lorax.AdaLoRA(rank=3, target_rank=4)
    with pytest.raises(lorax.LoraxError, match="every is 0"):
        lorax.AdaLoRA(every=0)
    with pytest.raises(lorax.LoraxError, match="has overrides"):
        lorax.AdaLoRA(where={"a": {"rank": 2}})
    adapter = lorax.AdaLoRA(where=("a",), warmup=3, final=2)
    with pytest.raises(lorax.LoraxError, match="in a run of 5 updates"):
        _run(adapter, 5, {"a": jnp.ones((6, 5))})
