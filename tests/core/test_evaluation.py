"""The record of an evaluation, and the masks of dropout."""

import jax
import jax.numpy as jnp
import numpy as np

import lorax
from lorax.core.engine import evaluate
from lorax.core.evaluation import Evaluation, by_path

BASE = {"a": jnp.eye(4), "b": jnp.eye(4), "v": jnp.ones(4)}
X = jnp.ones((3, 4))


def _uses(fn, where=("a", "b")):
    adapter = lorax.LoRA(rank=1, where=where)
    evaluation = Evaluation()
    delta = adapter.init(jax.random.key(0), BASE)
    evaluate(evaluation, fn, BASE, adapter.leaves(BASE, delta), (X,), {})
    return by_path(evaluation.uses)


def test_every_use_is_on_record_once():
    uses = _uses(lambda base, x: jnp.exp(x @ base["a"] @ base["a"] @ base["b"].T) * base["v"])
    assert [use.primitive for use in uses["a"]] == ["dot_general"] * 2
    assert [use.merged for use in uses["b"]] == [False]
    assert uses["b"][0].inputs == {1} and uses["b"][0].outputs == {0}


def test_one_cached_program_called_twice_counts_twice_and_a_loop_once():
    inner = jax.jit(lambda w, x: x @ w)
    assert len(_uses(lambda base, x: inner(base["a"], inner(base["a"], x)), ("a",))["a"]) == 2
    loop = lambda base, x: jax.lax.scan(lambda x, _: (x @ base["a"], None), x, None, length=5)[0]
    assert len(_uses(loop, ("a",))["a"]) == 1


def test_equations_that_no_leaf_enters_are_not_walked():
    """A jitted part of the model without adapted leaves stays one call."""
    part = jax.jit(lambda x: jnp.sin(jnp.cos(x)))
    apply = lorax.adapt(lambda base, x: part(x @ base["a"]), lorax.LoRA(rank=1, where=("a",)))
    delta = apply.init(jax.random.key(0), BASE, X)
    names = [eqn.primitive.name for eqn in jax.make_jaxpr(apply)(BASE, delta, X).jaxpr.eqns]
    assert names.count("jit") == 1 and "sin" not in names


def test_a_leaf_that_the_program_returns_is_merged():
    adapter = lorax.LoRA(rank=1, where=("a",))
    delta = jax.tree.map(lambda x: x + 0.3, adapter.init(jax.random.key(0), BASE))
    fn = lambda base, x: (x @ base["a"], base["a"])
    out, leaf = lorax.adapt(fn, adapter, on_fallback="allow")(BASE, delta, X)
    want = adapter.merge(BASE, delta)["a"]
    np.testing.assert_allclose(leaf, want, rtol=1e-6)
    np.testing.assert_allclose(out, X @ want, rtol=1e-5)


def _dropped(key, fn=lambda base, x: x @ base["a"]):
    adapter = lorax.LoRA(rank=4, alpha=4.0, where=("a",), dropout=0.5)
    factors = lorax.Factors(jnp.eye(4), jnp.eye(4), lorax.Roles((), (0,), (1,)))
    return lorax.adapt(fn, adapter, dropout_key=key)(BASE, {"a": factors}, X)


def test_dropout_masks_the_input_of_a_alone():
    out = np.asarray(_dropped(jax.random.key(0)))  # x + dropped(x), x being ones
    assert set(np.unique(out)) == {1.0, 3.0}
    np.testing.assert_array_equal(_dropped(None), 2 * X)
    np.testing.assert_array_equal(out, _dropped(jax.random.key(0)))
    assert np.any(out != _dropped(jax.random.key(1)))


def test_two_uses_of_one_leaf_have_two_masks():
    fn = lambda base, x: (x @ base["a"], x @ base["a"])
    first, second = _dropped(jax.random.key(0), fn)
    assert np.any(np.asarray(first) != np.asarray(second))


def test_every_iteration_of_a_scan_has_its_own_mask():
    fn = lambda base, x: jax.lax.scan(lambda c, _: (c, x @ base["a"]), 0, None, length=4)[1]
    masks = np.asarray(_dropped(jax.random.key(0), fn)).reshape(4, -1)
    assert len({mask.tobytes() for mask in masks}) == 4


def test_every_iteration_of_a_while_loop_has_its_own_mask():
    def fn(base, x):
        step = lambda c: (c[0] + 1, c[1].at[c[0]].set(x @ base["a"]))
        return jax.lax.while_loop(lambda c: c[0] < 4, step, (0, jnp.zeros((4, 3, 4))))[1]

    masks = np.asarray(_dropped(jax.random.key(0), fn)).reshape(4, -1)
    assert len({mask.tobytes() for mask in masks}) == 4
