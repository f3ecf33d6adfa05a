"""Roles and factors: what an adapter says of a leaf."""

import jax
import jax.numpy as jnp
import pytest

import lorax

MATRIX = lorax.Roles((), (0,), (1,))


def test_factors_are_two_arrays_with_roles_in_the_structure():
    factors = lorax.Factors(jnp.ones((4, 2)), jnp.ones((2, 3)), MATRIX)
    assert factors.rank == 2
    assert len(jax.tree.leaves(factors)) == 2
    assert jax.tree.map(lambda x: x + 1, factors).roles == MATRIX
    other = lorax.Factors(factors.A, factors.B, lorax.Roles((), (1,), (0,)))
    assert jax.tree.structure(other) != jax.tree.structure(factors)


def test_where_roles_come_from_is_no_part_of_them():
    assert lorax.Roles((), (0,), (1,), "gather") == MATRIX
    assert hash(lorax.Roles((), (0,), (1,), "conv", "seen")) == hash(MATRIX)


@pytest.mark.parametrize(
    "roles", [((), (0,), ()), ((0,), (0,), (1,)), ((), (0, 2), (1,)), ((), (0,), (1, 3))]
)
def test_roles_that_are_no_partition_are_refused(roles):
    with pytest.raises(lorax.LoraxError, match="roles of 'w'.*expected each of its 2 axes once"):
        lorax.Roles(*roles).check("w", (4, 4))
