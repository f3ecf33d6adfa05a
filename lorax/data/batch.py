"""What is a batch? The one form in which every data set hands out its examples."""

from typing import NamedTuple

import numpy as np


class Batch(NamedTuple):
    """Rows of inputs, what is to be predicted, and where that counts; a pytree of host arrays.

    ``inputs`` (B, T) int32 tokens, or (B, H, W[, C]) float32 images. ``targets`` (B, T) int32,
    entry t is the token after input t; or (B,) int32 classes; or (B,) float32 values. ``mask``
    bool of the shape of ``targets``, false where a target must not count: padding, a prompt, a row
    that only fills up the batch.

    Where rows are padded or hold several examples: ``segments`` (B, T) int32, 0 at padding, else
    the number of the example within its row, from 1; and ``positions`` (B, T) int32, the place of
    each token within its example. None is not an array: such a batch has fewer leaves.
    """

    inputs: np.ndarray
    targets: np.ndarray
    mask: np.ndarray
    segments: np.ndarray | None = None
    positions: np.ndarray | None = None
