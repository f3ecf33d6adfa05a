"""Full fine-tuning as an adapter: trained copies, in float32 or wider, of the selected leaves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lorax

KEY = jax.random.key(0)
BASE = {
    "w": jax.random.normal(KEY, (4, 6)).astype(jnp.bfloat16),
    "b": jnp.array([-0.0, 1.0, 2.0, 3.0, 4.0, 5.0]),
    "steps": jnp.asarray(3),
}
FLOATS = lorax.Full(exclude=("steps",))
X = jnp.ones((2, 4))


def program(base, x):
    """A dense layer that also returns what is not trained."""
    return x @ base["w"].astype(x.dtype) + base["b"], base["steps"]


def test_the_delta_is_a_copy_in_float32():
    delta = FLOATS.init(KEY, BASE)
    assert set(delta) == {"w", "b"}
    assert {leaf.dtype for leaf in delta.values()} == {jnp.dtype("float32")}
    np.testing.assert_array_equal(delta["w"], BASE["w"].astype(jnp.float32))
    assert delta["b"].unsafe_buffer_pointer() != BASE["b"].unsafe_buffer_pointer()


def test_nothing_is_drawn():
    one, other = (FLOATS.init(jax.random.key(seed), BASE) for seed in (0, 1))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


def test_it_starts_at_the_base_and_merges_by_casting_once():
    delta = FLOATS.init(KEY, BASE)
    for path, leaf in FLOATS.merge(BASE, delta).items():
        assert leaf.dtype == BASE[path].dtype
        assert np.asarray(leaf).tobytes() == np.asarray(BASE[path]).tobytes()
    moved = jax.tree.map(lambda leaf: leaf + 0.3, delta)
    merged = FLOATS.merge(BASE, moved)
    np.testing.assert_array_equal(merged["w"], moved["w"].astype(jnp.bfloat16))
    assert merged["steps"] is BASE["steps"]


def test_float64_stays_float64():
    with jax.enable_x64(True):
        base = {"w": jnp.ones((2, 2), jnp.float64)}
        adapter = lorax.Full()
        delta = adapter.init(KEY, base)
        assert delta["w"].dtype == adapter.merge(base, delta)["w"].dtype == jnp.float64


def test_gradients_are_those_of_the_program_itself():
    apply = lorax.adapt(program, FLOATS, on_fallback="error")
    delta = apply.init(KEY, BASE, X)
    slope = jax.grad(lambda delta: jnp.sum(jnp.sin(apply(BASE, delta, X)[0])))(delta)
    wide = {"w": delta["w"], "b": delta["b"]}
    want = jax.grad(lambda w: jnp.sum(jnp.sin(program(BASE | w, X)[0])))(wide)
    np.testing.assert_allclose(slope["b"], want["b"], rtol=1e-6)
    np.testing.assert_allclose(slope["w"], want["w"], rtol=1e-2)  # went through bfloat16


def test_where_selects_and_exclude_narrows():
    assert set(lorax.Full(where=("w",)).init(KEY, BASE)) == {"w"}
    assert set(lorax.Full(where=("w", "b")).init(KEY, BASE)) == {"w", "b"}
    assert set(lorax.Full(exclude=("steps", "b")).init(KEY, BASE)) == {"w"}
    report = lorax.report(program, lorax.Full(where=("b",)), BASE, X)
    assert (report.trainable, {r.path: r.how for r in report.rows}["b"]) == (6, "trained")


@pytest.mark.parametrize(
    ("delta", "message"),
    [
        ({"w": jnp.ones((4, 6))}, "lacks 'b', which where= selects"),
        (
            {"w": jnp.ones((4, 6)), "b": jnp.ones(7)},
            r"'b' has shape \(7,\) but the base has \(6,\)",
        ),
        ({"w": jnp.ones((2, 4, 6)), "b": jnp.ones((2, 6))}, r"'w' has shape \(2, 4, 6\)"),
        ({}, "delta is empty"),
    ],
)
def test_a_delta_that_does_not_fit_is_told_in_one_line(delta, message):
    with pytest.raises(lorax.LoraxError, match=message) as error:
        FLOATS.merge(BASE, delta)
    assert "\n" not in str(error.value)


def test_all_of_a_base_that_holds_integers_says_how_to_leave_them_out():
    with pytest.raises(lorax.LoraxTypeError, match="'steps' has dtype int32.*narrow where="):
        lorax.Full().init(KEY, BASE)


def test_vmaps_over_deltas():
    apply = lorax.adapt(program, FLOATS, on_fallback="error")
    first = FLOATS.init(KEY, BASE)
    deltas = [jax.tree.map(lambda leaf, i=i: leaf + i, first) for i in range(3)]
    stack = jax.tree.map(lambda *leaves: jnp.stack(leaves), *deltas)
    many = jax.vmap(lambda delta: apply(BASE, delta, X)[0])(stack)
    alone = jnp.stack([apply(BASE, delta, X)[0] for delta in deltas])
    np.testing.assert_allclose(many, alone, rtol=1e-5)
