"""A batch is a pytree of the arrays it has."""

import jax
import numpy as np

from lorax.data.batch import Batch


def test_batch_is_a_pytree():
    batch = Batch(np.zeros((2, 3)), np.ones((2, 3)), np.ones((2, 3), bool))
    doubled = jax.tree.map(lambda x: x * 2, batch)
    assert isinstance(doubled, Batch) and doubled.targets.sum() == 12


def test_what_a_batch_does_not_have_is_no_leaf():
    row = np.zeros((2, 3), np.int32)
    assert len(jax.tree.leaves(Batch(row, row, row > 0))) == 3
    assert len(jax.tree.leaves(Batch(row, row, row > 0, segments=row, positions=row))) == 5
