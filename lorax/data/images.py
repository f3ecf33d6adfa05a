"""What do arrays of images and labels say? A record an image, checked against each other."""

import numpy as np

from lorax.core.errors import LoraxError
from lorax.data.rows import BadRows, Record


def image_records(
    images: np.ndarray, labels: np.ndarray, names: tuple[str, str], classes: int, bad: BadRows
) -> list[Record]:
    """The records of a set, `image` (H, W[, C]) uint8 and `label`, an integer.

    Args:
      images: (N, H, W[, C]) uint8; records hold views of it.
      labels: (N,) integers.
      names: what to call the two in messages: the file that each comes from, say.
      classes: every label is below it.
      bad: told of a label that is not.

    Raises:
      LoraxError: images and labels differ in number, or there are none.
    """
    if len(images) != len(labels) or not len(images):
        raise LoraxError(
            f"'{names[0]}' has {len(images)} images and '{names[1]}' {len(labels)} labels: "
            "expected as many, and at least one"
        )
    found = []
    for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        if 0 <= label < classes:
            found.append({"image": image, "label": label, "where": f"{names[0]}, {number}"})
        else:
            bad.met(f"{names[1]}, label {number}", f"{label} is out of range 0 to {classes - 1}")
    return found
