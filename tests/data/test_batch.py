"""A batch is a pytree of its three arrays."""

import jax
import numpy as np

from lorax.data.batch import Batch


def test_batch_is_a_pytree():
    batch = Batch(np.zeros((2, 3)), np.ones((2, 3)), np.ones((2, 3), bool))
    doubled = jax.tree.map(lambda x: x * 2, batch)
    assert isinstance(doubled, Batch) and doubled.targets.sum() == 12
