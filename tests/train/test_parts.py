"""Parts are equal, strided, and together the whole."""

import numpy as np
import pytest

from lorax.core.errors import LoraxError
from lorax.data.batch import Batch
from lorax.train.parts import cut


def test_parts_are_strides_of_every_array_and_none_stays():
    images, rows = np.arange(24).reshape(6, 2, 2), np.arange(6)
    parts = cut({"batch": Batch(images, rows, rows > 2), "none": None}, 3)
    assert parts["none"] is None and parts["batch"].inputs.shape == (3, 2, 2, 2)
    for i in range(3):
        np.testing.assert_array_equal(parts["batch"].targets[i], [i, i + 3])
        np.testing.assert_array_equal(parts["batch"].inputs[i], images[i::3])


def test_one_part_is_the_whole():
    np.testing.assert_array_equal(cut(np.arange(5), 1)[0], np.arange(5))


@pytest.mark.parametrize("tree", [np.arange(5), {"a": np.arange(6), "b": np.float32(1)}])
def test_what_cannot_be_cut(tree):
    with pytest.raises(LoraxError, match="a batch of . cannot be cut into 2 equal parts"):
        cut(tree, 2)
