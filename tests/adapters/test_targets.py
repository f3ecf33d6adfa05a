"""Which leaves are matrices, and what a delta must hold of them."""

import jax.numpy as jnp
import pytest

import lorax
from lorax.adapters.targets import check_learnt, matrix_roles, targets
from lorax.core.leaf import Learnt, Roles

MATRIX = Roles((), (0,), (1,))


def test_all_linear_takes_what_dots_contract():
    stored = {"a": jnp.ones((2, 3)), "b": jnp.ones((2, 3)), "c": jnp.ones(3)}
    roles = {
        "a": MATRIX,
        "b": Roles((), (0,), (1,), "gather"),
        "c": Roles((), (), (0,), "other"),
    }
    assert targets("all-linear", (), stored, roles) == ["a"]
    assert targets((".",), ("c",), stored, roles) == ["a", "b"]
    with pytest.raises(lorax.LoraxError, match="needs to know"):
        targets("all-linear", (), stored, None)


def test_a_vector_has_no_matrix():
    with pytest.raises(lorax.LoraxError, match="VeRA needs an input and an output axis"):
        matrix_roles("c", jnp.ones(3), None, "VeRA")


def test_a_learnt_of_other_names_or_shapes_is_an_error():
    good = Learnt({"B": jnp.ones((2, 3))}, MATRIX)
    check_learnt("a", good, {"B": (2, 3)}, "LoRAFA")
    with pytest.raises(lorax.LoraxTypeError, match="expected a Learnt of d, b"):
        check_learnt("a", good, {"d": (2,), "b": (3,)}, "VeRA")
    with pytest.raises(lorax.LoraxError, match=r"has B \(2, 3\) but this LoRAFA needs \(4, 3\)"):
        check_learnt("a", good, {"B": (4, 3)}, "LoRAFA")
    with pytest.raises(lorax.LoraxTypeError, match="is a dict"):
        check_learnt("a", {"B": jnp.ones((2, 3))}, {"B": (2, 3)}, "LoRAFA")
