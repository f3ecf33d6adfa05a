"""Images and labels become records that share their memory."""

import numpy as np
import pytest

from lorax.core.errors import LoraxError
from lorax.data.images import image_records
from lorax.data.rows import BadRows

IMAGES = np.arange(36, dtype=np.uint8).reshape(3, 2, 2, 3)
NAMES = ("a", "b")


def test_a_record_an_image():
    found = image_records(IMAGES, np.array([2, 0, 1]), NAMES, 3, BadRows())
    assert [r["label"] for r in found] == [2, 0, 1] and found[2]["where"] == "a, 2"
    assert all(isinstance(r["label"], int) for r in found)
    np.testing.assert_array_equal([r["image"] for r in found], IMAGES)
    assert all(np.shares_memory(r["image"], IMAGES) for r in found)


def test_labels_out_of_range_are_bad_rows():
    for label in (3, -1):
        with pytest.raises(LoraxError, match=f"^b, label 1: {label} is out of range 0 to 2"):
            image_records(IMAGES, np.array([0, label, 1]), NAMES, 3, BadRows())
    bad = BadRows("skip")
    found = image_records(IMAGES, np.array([0, 3, 1]), NAMES, 3, bad)
    assert [r["where"] for r in found] == ["a, 0", "a, 2"] and bad.count == 1


@pytest.mark.parametrize("images, labels", [(3, 2), (0, 0)])
def test_as_many_of_both(images, labels):
    told = f"'a' has {images} images and 'b' {labels} labels: expected as many, and at least one"
    with pytest.raises(LoraxError, match=told):
        image_records(IMAGES[:images], np.zeros(labels, int), NAMES, 3, BadRows())
