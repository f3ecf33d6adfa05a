"""First values by name, and what a delta of arrays must hold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lorax
from lorax.adapters.starts import Start, check_arrays, count, draw, wide

KEY = jax.random.key(0)
STARTS = {"a": Start((300, 4), normal=2.0), "b": Start((300,), uniform=0.5), "c": Start((2,))}


def test_each_array_is_drawn_as_it_says():
    found = draw(STARTS, KEY, jnp.float32)
    assert {name: leaf.shape for name, leaf in found.items()} == {
        "a": (300, 4),
        "b": (300,),
        "c": (2,),
    }
    assert abs(float(found["a"].std()) - 2.0) < 0.1
    assert 0.45 < float(jnp.abs(found["b"]).max()) <= 0.5
    assert not found["c"].any()
    assert Start((2,), constant=1.0).draw(KEY, jnp.float32).tolist() == [1.0, 1.0]


def test_draws_depend_on_key_and_name_alone():
    whole, some = draw(STARTS, KEY, jnp.float32), draw({"b": STARTS["b"]}, KEY, jnp.float32)
    np.testing.assert_array_equal(whole["b"], some["b"])
    other = draw({"b": STARTS["b"]}, KEY, jnp.float32, prefix="elsewhere")
    assert (other["b"] != some["b"]).any()
    assert (draw(STARTS, jax.random.key(1), jnp.float32)["b"] != some["b"]).any()


def test_what_learns_is_at_least_float32():
    assert wide(jnp.ones(2, jnp.bfloat16)) == wide(jnp.ones(2)) == jnp.float32
    assert wide(jax.ShapeDtypeStruct((2,), "float64")) == jnp.float64


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: check_arrays(3, STARTS, "X"), lorax.LoraxTypeError, "delta is a int: expected"),
        (
            lambda: check_arrays({"a": 1}, STARTS, "X", " at 'p'"),
            lorax.LoraxTypeError,
            "delta at 'p' has a: expected a mapping of a, b, c, as X.init returns it",
        ),
        (
            lambda: check_arrays({"c": jnp.ones(3)}, {"c": STARTS["c"]}, "X"),
            lorax.LoraxError,
            r"'c' of the delta has shape \(3,\) but this X needs \(2,\)",
        ),
        (
            lambda: check_arrays({"c": "text"}, {"c": STARTS["c"]}, "X"),
            lorax.LoraxError,
            "'c' of the delta is a str but this X",
        ),
        (lambda: draw(STARTS, 0, jnp.float32), lorax.LoraxTypeError, "expected a PRNG key"),
        (lambda: count("tokens", 0), lorax.LoraxError, "tokens is 0: expected at least 1"),
        (lambda: count("infix", -1, least=0), lorax.LoraxError, "infix is -1: expected at least 0"),
        (lambda: count("tokens", 1.5), lorax.LoraxTypeError, "such as tokens=8"),
        (lambda: count("tokens", True), lorax.LoraxTypeError, "tokens is True"),
    ],
)
def test_mistakes_are_told_in_one_line(call, error, words):
    with pytest.raises(error, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_count_of_any_kind_becomes_a_plain_integer():
    assert type(count("tokens", np.int64(3))) is int
