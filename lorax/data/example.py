"""What is an example? One encoded item of a data set, not yet padded, packed or batched."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lorax.core.errors import LoraxError


class Example(NamedTuple):
    """One sequence or image, what is to be said of it, and where that counts.

    ``tokens`` (n,) int32, or an image (H, W[, C]) float32; ``targets`` (n,) int32, entry t is the
    token after token t, or () int32 class, or () float32 value; ``mask`` bool of the shape of
    ``targets``, false where a target must not count.
    """

    tokens: np.ndarray
    targets: np.ndarray
    mask: np.ndarray


def next_tokens(ids: Sequence[int] | np.ndarray, learn: int = 0) -> Example:
    """An example of language: `ids` shifted by one against themselves.

    Args:
      ids: n + 1 of them.
      learn: the place in `ids` from which on they are learnt; what stands before is context.

    Raises:
      LoraxError: there are fewer than two ids.
    """
    array = np.asarray(ids, np.int32)
    if array.ndim != 1 or len(array) < 2:
        raise LoraxError(
            f"{array.size} ids make no example: expected two or more, of which all but the first "
            "are predicted"
        )
    return Example(array[:-1], array[1:], np.arange(1, len(array)) >= learn)


def labelled(tokens: Sequence[int] | np.ndarray, label: int | float) -> Example:
    """An example of classification (an integer label) or regression (a float).

    Args:
      tokens: (n,) ids; an array of another dtype than integer, or of more axes, is kept as it is.
      label: a class or a value.
    """
    array = np.asarray(tokens)
    array = array.astype(np.int32) if array.ndim == 1 else array
    kind = np.int32 if isinstance(label, int | np.integer) else np.float32
    return Example(array, np.asarray(label, kind), np.ones((), bool))
