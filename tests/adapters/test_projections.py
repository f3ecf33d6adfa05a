"""P over several leaves: one matrix cut by path, or one a leaf."""

import jax.numpy as jnp
import numpy as np
import pytest

from lorax.adapters.projections import PROJECTIONS, draw

SIZES = {"a": 6, "b": 20, "c": 1}
SHAPES = {"a": (2, 3), "b": (20,), "c": ()}


@pytest.mark.parametrize("kind", PROJECTIONS)
def test_a_whole_is_cut_in_the_order_of_the_paths(kind):
    found = draw(kind, 0, 4, SIZES)
    theta = jnp.arange(1.0, 5.0)
    updates = found.updates(theta, SHAPES)
    assert {path: update.shape for path, update in updates.items()} == SHAPES
    joined = np.concatenate([np.asarray(update).ravel() for update in updates.values()])
    np.testing.assert_array_equal(joined, found.whole.project(theta))


@pytest.mark.parametrize("kind", PROJECTIONS)
def test_one_a_leaf_holds_more_directions_than_the_leaf_has_numbers(kind):
    found = draw(kind, 0, 9, SIZES, per_tensor=True)
    updates = found.updates(jnp.ones(9), SHAPES)
    assert found.whole is None and set(updates) == set(SIZES)
    assert all(np.isfinite(update).all() for update in updates.values())
    for i in range(9):  # no direction is lost on a short leaf
        assert float(jnp.abs(found.updates(jnp.eye(9)[i], SHAPES)["c"])) > 0
    other = draw(kind, 1, 9, SIZES, per_tensor=True).updates(jnp.ones(9), SHAPES)
    assert (np.asarray(other["b"]) != np.asarray(updates["b"])).any()
