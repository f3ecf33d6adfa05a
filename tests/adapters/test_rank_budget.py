"""The budget of AdaLoRA is exact, and importance is what the paper writes."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lorax.adapters import rank_budget
from lorax.core.leaf import Learnt, Roles

MATRIX, STACK = Roles((), (0,), (1,)), Roles((0,), (1,), (2,))


def _delta(seed: int) -> dict[str, Learnt]:
    draw = np.random.default_rng(seed).normal
    arrays = lambda *stack: {
        name: jnp.asarray(draw(size=(*stack, *shape)), jnp.float32)
        for name, shape in (("P", (5, 3)), ("E", (3,)), ("Q", (3, 4)))
    }
    return {"b": Learnt(arrays(), MATRIX), "a": Learnt(arrays(2), STACK)}


@settings(max_examples=20)
@given(st.integers(0, 9), st.integers(0, 12), st.booleans())
def test_exactly_so_many_are_best(seed, left, tied):
    scores = {"a": jnp.ones((2, 4)), "b": jnp.ones(4)} if tied else {
        name: jnp.asarray(np.random.default_rng(seed + i).random(shape))
        for i, (name, shape) in enumerate((("a", (2, 4)), ("b", (4,))))
    }  # fmt: skip
    kept = rank_budget.best(scores, jnp.int32(left))
    flat = lambda tree: np.concatenate([np.asarray(tree[name]).ravel() for name in ("a", "b")])
    assert flat(kept).sum() == left
    if 0 < left < 12:
        assert flat(scores)[flat(kept)].min() >= flat(scores)[~flat(kept)].max()


@settings(max_examples=30)
@given(st.integers(1, 40), st.integers(0, 10), st.integers(0, 10), st.integers(1, 60))
def test_the_budget_falls_from_full_to_least(full, warmup, final, middle):
    steps, least = warmup + middle + final, max(1, full // 3)
    at = lambda now: int(rank_budget.budget(full, least, warmup, final, jnp.int32(now), steps))
    found = [at(now) for now in range(steps)]
    assert found == sorted(found, reverse=True)
    assert all(number == full for number in found[: max(warmup - 1, 0)])
    assert all(number == least for number in found[warmup + middle - 1 :])


def test_importance_is_that_of_the_paper():
    delta, grads = _delta(0), [_delta(1), _delta(2)]
    found = rank_budget.Importance.zeros(delta)
    mean = dict.fromkeys("PEQ", 0.0)
    apart = dict(mean)
    for grad in grads:
        found = found.after(delta, grad, 0.8, 0.6)
        for name in "PEQ":
            now = np.abs(np.asarray(delta["a"][name]) * np.asarray(grad["a"][name]))
            mean[name] = 0.8 * mean[name] + 0.2 * now
            apart[name] = 0.6 * apart[name] + 0.4 * np.abs(now - mean[name])
    s = {name: mean[name] * apart[name] for name in "PEQ"}
    want = s["E"] + s["P"].mean(1) + s["Q"].mean(2)
    np.testing.assert_allclose(found.scores()["a"], want, rtol=1e-5)
    assert found.scores()["b"].shape == (3,)
    assert rank_budget.matrices(delta) == 3


def test_orthogonal_columns_cost_nothing_and_have_a_slope():
    q, _ = jnp.linalg.qr(jax.random.normal(jax.random.key(0), (6, 3)))
    arrays = {"P": q, "E": jnp.zeros(3), "Q": 2 * q.T}
    cost = lambda p: rank_budget.not_orthogonal(Learnt({**arrays, "P": p}, MATRIX))
    np.testing.assert_allclose(cost(q), [0.0, 3 * np.sqrt(3)], atol=1e-5)
    assert np.isfinite(jax.grad(lambda p: cost(p).sum())(q)).all()
