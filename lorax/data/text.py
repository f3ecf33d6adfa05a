"""Text as bytes: documents in, batches of windows out, no tokeniser.

A document set is a mapping from name to bytes. Which windows are drawn depends on (seed, step)
alone, so any step's batch can be made again without the ones before it.
"""

import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from lorax.data.batch import Batch

Documents = Mapping[str, bytes]

SEPARATOR = b"\n\n"
"""Between two documents of a stream."""


def read_files(paths: Iterable[str | os.PathLike[str]]) -> dict[str, bytes]:
    """The bytes of each file by its path as given, sorted by path.

    Raises:
      OSError: a file cannot be read.
    """
    return {str(path): pathlib.Path(path).read_bytes() for path in sorted(paths, key=str)}


def split(documents: Documents, every: int) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """(training, held-out) documents: in order of name every `every`-th one is held out, whole.

    Raises:
      ValueError: `every` is below 2, or there are too few documents to hold one out.
    """
    if every < 2:
        raise ValueError(f"every is {every}: expected 2 or more, or nothing is left to train on")
    names = sorted(documents)
    if len(names) < every:
        raise ValueError(
            f"{len(names)} documents are too few to hold every {every}th out: give more documents, "
            "or a smaller number"
        )
    held_out = set(names[every - 1 :: every])
    train = {name: documents[name] for name in names if name not in held_out}
    return train, {name: documents[name] for name in names if name in held_out}


def without_repeats(documents: Documents) -> dict[str, bytes]:
    """The documents, each paragraph only where it comes first in order of name.

    Paragraphs are what blank lines separate; they are compared with white space collapsed. A split
    made after this shares no paragraph between its sides. Documents left without text are dropped.
    """
    seen: set[bytes] = set()
    kept: dict[str, bytes] = {}
    for name in sorted(documents):
        paragraphs = []
        for paragraph in re.split(rb"\n[ \t]*\n", documents[name]):
            words = b" ".join(paragraph.split())
            if words and words not in seen:
                seen.add(words)
                paragraphs.append(paragraph.strip(b"\n"))
        if paragraphs:
            kept[name] = SEPARATOR.join(paragraphs)
    return kept


def stream(documents: Documents) -> np.ndarray:
    """All documents in order of name as one (N,) uint8 array, `SEPARATOR` between them."""
    text = SEPARATOR.join(documents[name] for name in sorted(documents))
    return np.frombuffer(text, np.uint8)


def random_windows(data: np.ndarray, *, batch: int, length: int, seed: int, step: int) -> Batch:
    """`batch` windows of `length` bytes from anywhere in `data`; a function of (seed, step).

    Args:
      data: (N,) uint8, N above `length`.
      batch, length: B and T.
      seed: of the data order.
      step: which batch of the run, from 0.

    Raises:
      ValueError: `data` is not longer than a window.
    """
    _check_length(data, length)
    starts = np.random.default_rng((seed, step)).integers(0, len(data) - length, batch)
    return _windows(data, starts, length)


def batches(
    data: np.ndarray, *, batch: int, length: int, seed: int, start: int = 0
) -> Iterator[Batch]:
    """`random_windows` of steps `start`, `start + 1`, ... without end."""
    while True:
        yield random_windows(data, batch=batch, length=length, seed=seed, step=start)
        start += 1


def spread_windows(data: np.ndarray, *, batch: int, length: int, count: int) -> list[Batch]:
    """About `count` bytes of held-out text in windows spread evenly over all of it.

    Returns:
      Batches of one shape (batch, length); windows do not overlap. Where `count` is the length of
      `data` or more, every byte after the first is a target exactly once: the last window is
      padded and masked, and so are windows that fill up the last batch.

    Raises:
      ValueError: there are fewer than 2 bytes, or sizes below 1.
    """
    if len(data) < 2 or min(batch, length, count) < 1:
        raise ValueError(
            f"cannot cut {count} of {len(data)} bytes into {batch} × {length} windows: expected at "
            "least 2 bytes, and sizes of 1 or more"
        )
    targets = len(data) - 1
    available = -(-targets // length)
    wanted = min(available, -(-count // length))
    # whole numbers, spread without rounding anything twice
    starts = np.arange(wanted) * available // wanted * length
    padded = np.concatenate([data, np.zeros(length, data.dtype)])
    found = []
    for first in range(0, wanted, batch):
        now = starts[first : first + batch]
        filled = np.concatenate([now, np.zeros(batch - len(now), now.dtype)])
        windows = _windows(padded, filled, length)
        real = filled[:, None] + np.arange(length) < targets
        real[len(now) :] = False
        found.append(windows._replace(mask=real))
    return found


def _windows(data: np.ndarray, starts: np.ndarray, length: int) -> Batch:
    both = data[starts[:, None] + np.arange(length + 1)].astype(np.int32)
    inputs, targets = both[:, :-1], both[:, 1:]
    return Batch(
        np.ascontiguousarray(inputs), np.ascontiguousarray(targets), np.ones(inputs.shape, bool)
    )


def _check_length(data: np.ndarray, length: int) -> None:
    if len(data) <= length:
        raise ValueError(
            f"{len(data)} bytes are too few for windows of {length}: expected more than "
            f"{length}; give more text, or lower length"
        )
