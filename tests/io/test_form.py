"""Forms: JSON through and through, and back to the same pytree."""

import json

import jax
import jax.numpy as jnp
import pytest

import lorax
from lorax.core.errors import LoraxError
from lorax.io.form import abstract_arrays, build, describe, named_arrays

ROLES = lorax.Roles((0,), (1,), (2, 3), kind="dot", why="seen")
DELTA = (
    {"layers/query/kernel": lorax.Factors(jnp.ones((2, 3, 4)), jnp.zeros((2, 4, 5, 6)), ROLES)},
    {"head/kernel": jnp.ones((3, 2), jnp.bfloat16), "scalar": jnp.ones(())},
)


def test_names_and_shapes():
    form = json.loads(json.dumps(describe(DELTA)))
    assert {n: (s.shape, s.dtype.name) for n, s in abstract_arrays(form).items()} == {
        "0/layers/query/kernel/A": ((2, 3, 4), "float32"),
        "0/layers/query/kernel/B": ((2, 4, 5, 6), "float32"),
        "1/head/kernel": ((3, 2), "bfloat16"),
        "1/scalar": ((), "float32"),
    }


def test_build_is_the_inverse():
    form = json.loads(json.dumps(describe(DELTA)))
    arrays = named_arrays(DELTA)
    again = build(form, arrays)
    assert jax.tree.structure(again) == jax.tree.structure(DELTA)
    assert all(a is b for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(DELTA), strict=True))
    roles = again[0]["layers/query/kernel"].roles
    assert (roles, roles.kind, roles.why) == (ROLES, "dot", "seen")


@pytest.mark.parametrize(
    "delta, match",
    [
        ({"a": [1.0]}, "delta at 'a' is a list"),
        ({"a": 1.0}, "delta at 'a' is a float"),
        ({1: jnp.ones(2)}, "has the key 1"),
        ({"a/b": jnp.ones(2), "a": {"b": jnp.ones(2)}}, "one name"),
    ],
)
def test_what_has_no_form_is_named(delta, match):
    with pytest.raises(LoraxError, match=match):
        describe(delta)


def test_an_unknown_kind_is_named():
    with pytest.raises(LoraxError, match="kind 'tensor'"):
        abstract_arrays({"kind": "mapping", "items": {"a": {"kind": "tensor"}}})
