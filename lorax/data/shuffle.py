"""What is left to learn when data is corrupted? Pixels in one random order, or random labels.

One order of pixels for all images keeps all that a fully connected network uses and takes from a
convolution that neighbours are near; a random label says nothing of its image. Fixed by the seed.
Source: Zhang et al. 2016, arXiv:1611.03530; Li et al. 2018, arXiv:1804.08838, for both here.
"""

from collections.abc import Sequence

import numpy as np

from lorax.core.errors import LoraxError
from lorax.data.order import permutation
from lorax.data.rows import Record

_PIXELS, _WHICH, _LABELS = range(3)  # streams of random numbers


def shuffle_pixels(rows: Sequence[Record], seed: int) -> list[Record]:
    """The records with the pixels of every image (H, W[, C]) in the same random order.

    The order is that of the seed and of the number of pixels; channels of a pixel stay together.

    Raises:
      LoraxError: records that are no images.
    """
    if not rows or "image" not in rows[0]:
        raise LoraxError(
            "the records are no images: pixels cannot be shuffled; leave shuffle empty"
        )
    height, width = rows[0]["image"].shape[:2]
    order = permutation(height * width, seed, 0, _PIXELS)

    def one(image: np.ndarray) -> np.ndarray:
        return image.reshape(height * width, -1)[order].reshape(image.shape)

    return [{**row, "image": one(row["image"])} for row in rows]


def shuffle_labels(rows: Sequence[Record], classes: int, share: float, seed: int) -> list[Record]:
    """The records with a random class in the place of the label in a share of them.

    A class is drawn uniformly, and may be the one that was there.

    Args:
      rows: whose `label` is an integer.
      classes: how many there are.
      share: of the records, from 0 to 1.
      seed: of which, and of their classes.

    Raises:
      LoraxError: records without a class, or another share.
    """
    if not 0 <= share <= 1:
        raise LoraxError(f"shuffle_share is {share}: expected a share of the labels, 0 to 1")
    if not rows or not isinstance(rows[0].get("label"), int):
        raise LoraxError(
            "the records have no classes: labels cannot be shuffled; leave shuffle empty"
        )
    chosen = permutation(len(rows), seed, 0, _WHICH)[: round(share * len(rows))]
    draws = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(_LABELS, 0)))
    found = list(rows)
    for i, number in zip(chosen.tolist(), draws.random_raw(len(chosen)).tolist(), strict=True):
        found[i] = {**found[i], "label": number % classes}
    return found
