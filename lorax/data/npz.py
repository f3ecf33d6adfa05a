"""What is in an npz archive of images? Arrays x_SPLIT and y_SPLIT, as CIFAR-10 is passed around.

An archive may be compressed once more, as `.npz.xz` or `.npz.gz`. Nothing in it is unpickled.
"""

import io
import zipfile
import zlib
from collections.abc import Sequence

import numpy as np

from lorax.core.errors import LoraxError
from lorax.data import source
from lorax.data.images import image_records
from lorax.data.rows import BadRows, Record

# a file that is one bare array is no archive, and so a TypeError
_DAMAGED = (ValueError, OSError, EOFError, TypeError, zipfile.BadZipFile, zlib.error)


def read_npz(
    name: str, labels: Sequence[str], bad: BadRows
) -> tuple[list[Record], tuple[str, ...]]:
    """The records of a split, `image` (H, W[, C]) uint8 and `label`, and the names of classes.

    Args:
      name: `file.npz:split`; of the split train, x_train is (N, H, W[, C]) uint8 and y_train (N,)
        or (N, 1) integers.
      labels: names of classes in order; empty: the numbers from 0 to the highest that there is.
      bad: told of a label that is none of these.

    Raises:
      LoraxError: a name of another form, a file that is missing or damaged, no such arrays, arrays
        of another kind, or of different lengths.
    """
    path, _, split = name.rpartition(":")
    if not path:
        raise LoraxError(f"'{name}' names no split: expected file.npz:split, data.npz:train say")
    file = source.find(path)
    keys = f"x_{split}", f"y_{split}"
    images, numbers = _arrays(str(file), source.read_bytes(file), keys)
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise LoraxError(
            f"{keys[0]} in '{file}' is {images.dtype} of shape {images.shape}: expected uint8 of "
            "(N, height, width) or (N, height, width, channels)"
        )
    if numbers.dtype.kind not in "iu" or numbers.size != len(numbers):
        raise LoraxError(
            f"{keys[1]} in '{file}' is {numbers.dtype} of shape {numbers.shape}: expected (N,) "
            "integers"
        )
    names = tuple(labels) or tuple(map(str, range(int(numbers.max(initial=0)) + 1)))
    places = f"{file}:{keys[0]}", f"{file}:{keys[1]}"
    return image_records(images, numbers.reshape(-1), places, len(names), bad), names


def _arrays(file: str, data: bytes, keys: tuple[str, str]) -> list[np.ndarray]:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            missing = [key for key in keys if key not in archive]
            if not missing:
                return [archive[key] for key in keys]
            there = ", ".join(archive.files) or "nothing"
    except _DAMAGED as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise LoraxError(
            f"cannot read '{file}' ({reason}): expected an npz archive; copy the file again"
        ) from None
    raise LoraxError(f"'{file}' holds no {' and no '.join(missing)}: there are {there}")
