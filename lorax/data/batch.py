"""What is a batch? The one form in which every data set hands out sequences."""

from typing import NamedTuple

import numpy as np


class Batch(NamedTuple):
    """Sequences and what follows each of their tokens; a pytree of host arrays.

    ``inputs`` (B, T) int32; ``targets`` (B, T) int32, entry t is the token after input t; ``mask``
    (B, T) bool, false where a target is padding and must not count.
    """

    inputs: np.ndarray
    targets: np.ndarray
    mask: np.ndarray
