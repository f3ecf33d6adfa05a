"""What adapters of matrices share: overrides, checks, draws and shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lorax
from lorax.adapters.matrices import stack_of, uniforms, whole

KEY = jax.random.key(0)
BASE = {"a": jnp.ones((4, 6)), "b": jnp.ones((6, 5)), "n": jnp.ones((2, 2), int)}


def test_overrides_are_of_the_fields_that_there_are_and_round_trip():
    adapter = lorax.LoRAFA(rank=4, alpha=8.0, where={"a": {"rank": 2}, "b": {"alpha": 2}})
    delta = adapter.init(KEY, BASE)
    assert {path: own["B"].shape for path, own in delta.items()} == {"a": (2, 6), "b": (4, 5)}
    assert (adapter.scale_of("a"), adapter.scale_of("b")) == (4.0, 0.5)
    assert lorax.from_json(adapter.to_json()) == adapter
    assert hash(lorax.from_json(adapter.to_json())) == hash(adapter)


def test_a_delta_has_the_dtype_that_was_asked_for():
    delta = lorax.LoRAFA(where=("a",), dtype="bfloat16").init(KEY, BASE)
    assert delta["a"]["B"].dtype == jnp.bfloat16


def test_a_batch_of_matrices_gets_the_axes_of_its_leaf():
    roles = lorax.Roles((1,), (3, 0), (2,))
    leaf = np.random.default_rng(0).normal(size=(2, 3, 4, 5))
    matrices = leaf.transpose(1, 3, 0, 2).reshape(3, 10, 4)
    np.testing.assert_array_equal(whole(jnp.asarray(matrices), leaf, roles), jnp.asarray(leaf))
    assert stack_of(leaf.shape, roles) == (3,)


def test_one_draw_is_cut_into_arrays_within_their_bounds():
    found = uniforms(KEY, {"x": 0.5, "y": 2.0}, {"x": (30, 2), "y": (40,)}, jnp.float32)
    assert {name: array.shape for name, array in found.items()} == {"x": (30, 2), "y": (40,)}
    assert 0.4 < np.abs(found["x"]).max() <= 0.5 < 1.5 < np.abs(found["y"]).max() <= 2.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lorax.LoHa(where=("n",)).init(KEY, BASE), "'n' has dtype int32: LoHa adapts"),
        (lambda: lorax.LoHa(where=("c",)).init(KEY, BASE), "pattern 'c' matches none"),
        (lambda: lorax.LoHa().init(KEY, BASE), "where='all-linear' needs to know"),
        (lambda: lorax.LoHa(dtype="int8"), "dtype is 'int8'"),
        (
            lambda: lorax.LoRAFA(where=("a",)).merge(BASE, {"a": jnp.ones(3)}),
            "expected a Learnt of B, as LoRAFA.init returns it",
        ),
    ],
)
def test_mistakes_are_told_in_one_line(call, message):
    with pytest.raises(lorax.LoraxError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
