"""Copies of the fixture models for tests to damage, and what a refusal must look like."""

import json
import pathlib
import shutil
import struct

import numpy as np
import pytest

from lorax.core.errors import LoraxError
from lorax.io.hf_files import CONFIG, SINGLE
from lorax.io.pretrained import load
from lorax.io.tensors import read_tensors, write_tensors

FIXTURES = pathlib.Path(__file__).parent / "fixtures" / "models"


def copy(name, folder):
    """A fixture without its golden logits, to be damaged."""
    shutil.copytree(FIXTURES / name, folder, ignore=shutil.ignore_patterns("golden.npz"))
    return folder


def change_config(folder, **changes):
    table = json.loads((folder / CONFIG).read_text()) | changes
    (folder / CONFIG).write_text(json.dumps(table))


def change_tensors(folder, **changes):
    """Tensors replaced or, by `...`, removed."""
    tensors = read_tensors(folder / SINGLE) | changes
    write_tensors(folder / SINGLE, {n: t for n, t in tensors.items() if t is not ...})


def refused(*words, source, **options):
    """`load` says these words, in one line."""
    with pytest.raises(LoraxError) as caught:
        load(source, **options)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


def checkpoint(path, *, vocabulary):
    """A tied llama2.c checkpoint of small random numbers."""
    dim, hidden, layers, heads, context = 8, 12, 1, 2, 16
    weights = vocabulary * dim + layers * (2 * dim + 4 * dim * dim + 3 * hidden * dim) + dim
    numbers = np.random.default_rng(0).normal(size=weights + context * dim // heads)
    header = struct.pack("<7i", dim, hidden, layers, heads, heads, vocabulary, context)
    path.write_bytes(header + (0.3 * numbers).astype("<f4").tobytes())
    return path
