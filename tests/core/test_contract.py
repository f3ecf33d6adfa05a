"""The flattened einsum equals the einsum."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lorax.core.contract import contract

SIZES = {"a": 2, "b": 3, "c": 4, "d": 5, "e": 2}


@settings(max_examples=30, derandomize=True)
@given(st.data())
def test_any_pair_of_labelled_arrays(data):
    x_axes = data.draw(st.lists(st.sampled_from("abcde"), unique=True, min_size=1))
    y_axes = data.draw(st.lists(st.sampled_from("abcde"), unique=True, min_size=1))
    alone = set(x_axes) ^ set(y_axes)
    kept = [
        label for label in sorted({*x_axes, *y_axes}) if label in alone or data.draw(st.booleans())
    ]
    out_axes = data.draw(st.permutations(kept))
    rng = np.random.default_rng(0)
    x = rng.normal(size=[SIZES[label] for label in x_axes]).astype(np.float32)
    y = rng.normal(size=[SIZES[label] for label in y_axes]).astype(np.float32)
    want = np.einsum(f"{''.join(x_axes)},{''.join(y_axes)}->{''.join(out_axes)}", x, y)
    got = contract(jnp.asarray(x), x_axes, jnp.asarray(y), y_axes, list(out_axes))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_leading_axes_are_flattened_without_a_transpose():
    x, a = jnp.ones((2, 3, 4)), jnp.ones((4, 5))
    jaxpr = jax.make_jaxpr(lambda x, a: contract(x, "btd", a, "dr", "btr"))(x, a).jaxpr
    names = [eqn.primitive.name for eqn in jaxpr.eqns]
    assert "transpose" not in names
    (dot,) = (eqn for eqn in jaxpr.eqns if eqn.primitive.name == "dot_general")
    assert [v.aval.ndim for v in dot.invars] == [2, 2]
