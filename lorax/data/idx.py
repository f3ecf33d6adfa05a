"""What is in an idx file? Images and labels of MNIST, and of its many likes.

The format: two zero bytes, one for the type (8 is uint8), one for the number of axes, their sizes
as big-endian int32, then the numbers. Source: yann.lecun.com/exdb/mnist.
"""

import pathlib
import re
import struct

import numpy as np

from lorax.core.errors import LoraxError
from lorax.data import source
from lorax.data.images import image_records
from lorax.data.rows import BadRows, Record

_UINT8 = 8
_ENDINGS = ("", ".xz", ".gz")
_IMAGES = re.compile(r"(images)([-.])(idx3)")


def read_idx(file: pathlib.Path, axes: int) -> np.ndarray:
    """The uint8 array in an idx file.

    Args:
      axes: how many it must have: 3 for images, 1 for labels.

    Raises:
      LoraxError: the file cannot be read, is of another kind, or has more or fewer bytes than its
        header says.
    """
    start, damage = 4 + 4 * axes, ""
    try:
        data = source.read_bytes(file)
    except source.DamagedFile as error:
        data, damage = error.before, " before its compression is damaged"
        if len(data) < start:
            raise
    if data[:4] != bytes([0, 0, _UINT8, axes]):
        raise LoraxError(
            f"'{file}' begins with {data[:4].hex(' ') or 'nothing'}: expected 00 00 08 0{axes}, "
            f"an idx file of bytes with {axes} axes"
        )
    shape = struct.unpack(f">{axes}I", data[4:start]) if len(data) >= start else ()
    expected = start + (int(np.prod(shape, dtype=object)) if shape else 0)
    if damage or len(data) != expected:
        raise LoraxError(
            f"'{file}' is cut off or damaged: expected {expected:,} bytes, as its header says "
            f"(shape {shape or 'unknown'}), found {len(data):,}{damage}; copy it again"
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def read_images(name: str, classes: int, bad: BadRows) -> list[Record]:
    """The records of a set, `image` (H, W) uint8 and `label`, an integer.

    Args:
      name: the file of images, or what is before `-images-idx3-ubyte` in its name: `mnist/train`.
        Its labels lie beside it, under a name with `labels` and `idx1` in the place of `images`
        and `idx3`.
      classes: every label is below it.
      bad: told of a label that is not.

    Raises:
      LoraxError: a file is missing, of another kind or damaged, the two differ in length, or they
        hold nothing.
    """
    file = _first(name, *(f"{name}-images{s}idx3-ubyte" for s in "-."))
    if not _IMAGES.search(file.name):
        raise LoraxError(f"'{file}' is no file of images: expected a name with images-idx3 in it")
    beside = _IMAGES.sub(r"labels\2idx1", file.name)
    for ending in _ENDINGS:
        beside = beside.removesuffix(ending)
    images, labels_file = read_idx(file, 3), _first(str(file.with_name(beside)))
    labels = read_idx(labels_file, 1)
    return image_records(images, labels, (str(file), str(labels_file)), classes, bad)


def _first(*names: str) -> pathlib.Path:
    """The first that is there of these names, compressed or not."""
    for name in names:
        for ending in _ENDINGS:
            try:
                file = source.find(name + ending)
            except LoraxError:
                continue
            if file.is_file():
                return file
    return source.find(names[:2][-1])  # raises, and says where it looked for the usual name
