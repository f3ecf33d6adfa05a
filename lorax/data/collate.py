"""How do examples become a batch? Laid out in rows of one length, with a mask of what counts.

A row without examples only fills up the batch: all of it is padding, and none of it counts.
"""

from collections.abc import Sequence

import numpy as np

from lorax.core.errors import LoraxError
from lorax.data.batch import Batch
from lorax.data.example import Example

Rows = Sequence[Sequence[Example]]


def collate(rows: Rows, length: int, *, like: Example, pad: int = 0, packed: bool = False) -> Batch:
    """The rows as one batch.

    Padding stands at the end of a row. A causal model that reads one example a row needs no mask
    for it, so `segments` come only with packed rows, which need
    `lorax.models.attention.segment_mask(segments)`, and with labelled sequences, whose models read
    both ways and take `segments > 0`.

    Args:
      rows: the examples of each row, at most one unless `packed`.
      length: T, to which rows of tokens are padded; images have none.
      like: any example of the data set: its form says which kind of batch this is.
      pad: the token of padding, and the target there.
      packed: rows hold several examples, told apart by `segments` and `positions`.

    Returns:
      Next tokens (targets as long as tokens): `inputs`, `targets`, `mask` (B, T); where packed also
      `segments` and `positions`. A class or value a sequence: `inputs` and `segments` (B, T),
      `targets` and `mask` (B,). A class or value an image: `inputs` (B, H, W[, C]) float32, as they
      are and not scaled, `targets` and `mask` (B,).

    Raises:
      LoraxError: a row longer than `length`, images of different shapes, or several examples in a
        row that can hold only one.
    """
    next_tokens, image = like.targets.ndim > 0, like.tokens.ndim > 1
    if not (packed and next_tokens) and any(len(row) > 1 for row in rows):
        raise LoraxError(
            "several examples share a row: expected one, as only next tokens can be packed; set "
            "packing to none or bucket"
        )
    examples = [example for row in rows for example in row]
    if image:
        inputs, segments = _stack(rows, like.tokens.shape), None
    else:
        layout = _Layout(rows, length)
        inputs = layout.fill(pad, [example.tokens for example in examples])
        segments = layout.segments() if packed or not next_tokens else None
    if next_tokens:
        targets = layout.fill(pad, [example.targets for example in examples])
        mask = layout.fill(False, [example.mask for example in examples])
        return Batch(inputs, targets, mask, segments, layout.positions() if packed else None)
    real = np.array([len(row) > 0 for row in rows])
    targets, mask = np.zeros(len(rows), like.targets.dtype), np.zeros(len(rows), bool)
    targets[real] = [example.targets for example in examples]
    mask[real] = [example.mask for example in examples]
    return Batch(inputs, targets, mask, segments)


class _Layout:
    """Where each token of each example goes; all at once, as a loop over small copies is slower."""

    def __init__(self, rows: Rows, length: int):
        self.shape = len(rows), length
        counts = np.array([len(row) for row in rows])
        self.sizes = np.array([len(example.tokens) for row in rows for example in row], int)
        row = np.repeat(np.arange(len(rows)), counts)  # of each example
        filled = np.bincount(row, self.sizes, len(rows)).astype(int)
        if filled.max() > length:
            raise LoraxError(
                f"a row has {filled.max()} tokens, but its length is {length}: raise the length, "
                "or cut or skip long examples"
            )
        self.number = 1 + np.arange(len(row)) - np.repeat(_before(counts), counts)
        start = _before(self.sizes) - np.repeat(_before(filled), counts)
        self.position = np.arange(self.sizes.sum()) - np.repeat(_before(self.sizes), self.sizes)
        self.place = np.repeat(row * length + start, self.sizes) + self.position

    def fill(self, background: int | bool, parts: Sequence[np.ndarray]) -> np.ndarray:
        """(B, T), bool or int32 as the background is, with one part an example in its place."""
        kind = bool if isinstance(background, bool) else np.int32
        found = np.full(self.shape, background, kind)
        if parts:
            found.reshape(-1)[self.place] = np.concatenate(parts)
        return found

    def segments(self) -> np.ndarray:
        return self.fill(0, [np.repeat(self.number, self.sizes)])

    def positions(self) -> np.ndarray:
        return self.fill(0, [self.position])


def _before(sizes: np.ndarray) -> np.ndarray:
    """The sum of what stands before each."""
    return np.cumsum(sizes) - sizes


def _stack(rows: Rows, shape: tuple[int, ...]) -> np.ndarray:
    inputs = np.zeros((len(rows), *shape), np.float32)
    for b, row in enumerate(rows):
        for example in row:
            if example.tokens.shape != shape:
                raise LoraxError(
                    f"images are of shape {example.tokens.shape} and {shape}: expected one shape; "
                    "resize them beforehand"
                )
            inputs[b] = example.tokens
    return inputs
