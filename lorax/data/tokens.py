"""A long text as tokens: windows of one length, each behind its own BOS.

What a model of many short texts expects. The stream itself holds no BOS: drop the one that a
tokenizer puts in front.
"""

from collections.abc import Iterator

import numpy as np

from lorax.data.batch import Batch


def random_windows(
    tokens: np.ndarray, *, bos: int, batch: int, length: int, seed: int, step: int
) -> Batch:
    """`batch` windows of `length` targets from anywhere in `tokens`; a function of (seed, step).

    Args:
      tokens: (N,) integers, N at least `length`.
      bos: the id that stands before every window.
      batch, length: B and T.
      seed: of the data order.
      step: which batch of the run, from 0.

    Raises:
      ValueError: `tokens` is shorter than a window.
    """
    if len(tokens) < length:
        raise ValueError(
            f"{len(tokens)} tokens are too few for windows of {length}: give more text, or lower "
            "length"
        )
    starts = np.random.default_rng((seed, step)).integers(0, len(tokens) - length + 1, batch)
    return _windows(tokens[starts[:, None] + np.arange(length)], bos)


def batches(
    tokens: np.ndarray, *, bos: int, batch: int, length: int, seed: int, start: int = 0
) -> Iterator[Batch]:
    """`random_windows` of steps `start`, `start + 1`, ... without end."""
    while True:
        yield random_windows(tokens, bos=bos, batch=batch, length=length, seed=seed, step=start)
        start += 1


def consecutive_windows(tokens: np.ndarray, *, bos: int, batch: int, length: int) -> list[Batch]:
    """All of `tokens`, each a target exactly once, in windows that follow one another.

    Returns:
      Batches of one shape (batch, length); the last window and the last batch are padded and
      masked.

    Raises:
      ValueError: there are no tokens, or sizes below 1.
    """
    if not len(tokens) or min(batch, length) < 1:
        raise ValueError(
            f"cannot cut {len(tokens)} tokens into {batch} × {length} windows: expected at least "
            "one token, and sizes of 1 or more"
        )
    rows = -(-len(tokens) // (batch * length)) * batch
    padded = np.full(rows * length, bos, np.int32)
    padded[: len(tokens)] = tokens
    real = (np.arange(rows * length) < len(tokens)).reshape(-1, batch, length)
    windows = padded.reshape(-1, batch, length)
    return [_windows(w, bos)._replace(mask=m) for w, m in zip(windows, real, strict=True)]


def _windows(targets: np.ndarray, bos: int) -> Batch:
    targets = np.ascontiguousarray(targets, np.int32)
    inputs = np.concatenate([np.full_like(targets[:, :1], bos), targets[:, :-1]], axis=1)
    return Batch(inputs, targets, np.ones(targets.shape, bool))
