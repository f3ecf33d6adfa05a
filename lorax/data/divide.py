"""Which records are held out, where no file says so? Shares of one set, the same in every run."""

from collections.abc import Sequence

import numpy as np

from lorax.core.errors import LoraxError
from lorax.data.rows import Record


def divide(rows: Sequence[Record], shares: Sequence[float]) -> list[list[Record]]:
    """The records in parts of these shares, as near as that goes; a share of 0 is an empty part.

    A single text is cut by its characters, in order. Of rows, where each goes is drawn once and
    for all, as files may be in order of label; each part keeps the order of the file. Rows with
    the same prompt, or the same text and pair, stay together.

    Args:
      rows: of `lorax.data.read`.
      shares: 0 or more each, at most 1 together; what is left over is left out.

    Raises:
      LoraxError: shares that are none, or a part that would be empty.
    """
    ends = np.cumsum(shares).round(9).tolist()
    if not ends or min(shares) < 0 or ends[-1] > 1:
        raise LoraxError(f"shares are {tuple(shares)}: expected 0 or more each, at most 1 together")
    spans = list(zip([0.0, *ends[:-1]], ends, strict=True))
    parts = _characters(rows[0], spans) if _is_one_text(rows) else _rows(rows, spans)
    for share, part in zip(shares, parts, strict=True):
        if share and not part:
            raise LoraxError(
                f"{len(rows)} rows are too few for a share of {share:g}: give more, or a file for "
                "each split"
            )
    return parts


def _is_one_text(rows: Sequence[Record]) -> bool:
    return len(rows) == 1 and "text" in rows[0] and "label" not in rows[0]


def _characters(row: Record, spans: Sequence[tuple[float, float]]) -> list[list[Record]]:
    text = row["text"]
    pieces = [text[int(start * len(text)) : int(end * len(text))] for start, end in spans]
    return [[{**row, "text": piece}] if piece else [] for piece in pieces]


def _rows(rows: Sequence[Record], spans: Sequence[tuple[float, float]]) -> list[list[Record]]:
    keys = [_key(i, row) for i, row in enumerate(rows)]
    distinct = list(dict.fromkeys(keys))
    order = np.random.default_rng(0).permutation(len(distinct))
    place = {key: i / len(distinct) for key, i in zip(distinct, order.tolist(), strict=True)}
    return [
        [row for row, key in zip(rows, keys, strict=True) if start <= place[key] < end]
        for start, end in spans
    ]


def _key(number: int, row: Record) -> object:
    """What must not stand on both sides."""
    if "prompt" in row:
        return row["prompt"]
    return (row["text"], row.get("pair", "")) if "text" in row else number
