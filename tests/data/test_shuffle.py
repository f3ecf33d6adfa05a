"""Corrupted data: one order of pixels for all, a share of the labels, and nothing else changed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorax.core.errors import LoraxError
from lorax.data.shuffle import shuffle_labels, shuffle_pixels

DRAW = np.random.default_rng(0)


def images(count, shape=(4, 6)):
    """Records of random images."""
    draws = DRAW.integers(256, size=(count, *shape)).astype(np.uint8)
    return [{"image": x, "label": i % 10, "where": f"x, {i}"} for i, x in enumerate(draws)]


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 1), (4, 6, 3)])
def test_pixels_of_all_images_take_the_same_places(shape):
    place = np.arange(24).reshape(4, 6)
    if len(shape) == 3:
        place = np.stack([place + 24 * channel for channel in range(shape[2])], -1)
    rows = images(5, shape)
    (order,) = [row["image"] for row in shuffle_pixels([{"image": place}], 3)]
    assert sorted(order.ravel()) == sorted(place.ravel()) and not (order == place).all()
    if len(shape) == 3:  # channels stay together
        np.testing.assert_array_equal(order, order[..., :1] + 24 * np.arange(shape[2]))
    flat = order[..., 0].ravel() if len(shape) == 3 else order.ravel()
    for row, found in zip(rows, shuffle_pixels(rows, 3), strict=True):
        pixels = row["image"].reshape(24, -1)[flat]
        np.testing.assert_array_equal(found["image"].reshape(24, -1), pixels)
        assert found["label"] == row["label"] and found["where"] == row["where"]


def test_the_order_of_pixels_is_that_of_the_seed():
    rows = images(1, (28, 28))
    one, same, other = (shuffle_pixels(rows, seed)[0]["image"] for seed in (1, 1, 2))
    assert (one == same).all() and not (one == other).all()


@given(st.integers(1, 80), st.floats(0, 1), st.integers(0, 5))
def test_a_share_of_the_labels_is_drawn_anew(count, share, seed):
    rows = [{"label": -1, "text": str(i)} for i in range(count)]
    found = shuffle_labels(rows, 10, share, seed)
    labels = [row["label"] for row in found]
    assert sum(label >= 0 for label in labels) == round(share * count) and max(labels) < 10
    assert [row["text"] for row in found] == [row["text"] for row in rows]
    assert all(row["label"] == -1 for row in rows)  # what is given is left as it is
    assert found == shuffle_labels(rows, 10, share, seed)


def test_classes_are_drawn_uniformly():
    found = shuffle_labels([{"label": 0}] * 10_000, 10, 1.0, 0)
    counts = np.bincount([row["label"] for row in found], minlength=10)
    assert abs(counts - 1000).max() < 5 * 30  # standard deviation 30
    halves = [shuffle_labels([{"label": -1}] * 100, 10, 0.5, seed) for seed in (0, 1)]
    assert halves[0] != halves[1]


def test_mistakes():
    with pytest.raises(LoraxError, match="the records are no images: pixels cannot be shuffled"):
        shuffle_pixels([{"text": "a"}], 0)
    for row in ({"text": "a"}, {"label": 0.5}):
        with pytest.raises(LoraxError, match="the records have no classes: labels cannot be"):
            shuffle_labels([row], 2, 1.0, 0)
    for share in (-0.1, 1.1):
        with pytest.raises(LoraxError, match=f"shuffle_share is {share}: expected a share"):
            shuffle_labels([{"label": 0}], 2, share, 0)
