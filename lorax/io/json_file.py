"""What does a JSON file of somebody else say? A table, read with limits, or one line of error."""

import json
import pathlib
from typing import Any

from lorax.core.errors import LoraxError

LIMIT = 16 << 20
"""Bytes beyond which a file is refused; the index of a very large model takes a few million."""


def read_json(path: pathlib.Path, limit: int = LIMIT) -> dict[str, Any]:
    """The table that `path` holds.

    Raises:
      LoraxError: the file is missing, larger than `limit` bytes, no JSON, nested too deeply, or
        something else than a table.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise LoraxError(f"cannot read '{path}' ({error.strerror}): check the path") from None
    if len(data) > limit:
        raise LoraxError(f"'{path}' has more than {limit:,} bytes: expected a small JSON file")
    try:
        table = json.loads(data.decode("utf-8"))
    except RecursionError:
        raise _damaged(path, "nested too deeply") from None
    except ValueError as error:  # wrong JSON, wrong UTF-8, a number of thousands of digits
        raise _damaged(path, str(error)[:100]) from None
    if not isinstance(table, dict):
        raise _damaged(path, f"a {type(table).__name__} instead of a table")
    return table


def _damaged(path: pathlib.Path, reason: str) -> LoraxError:
    return LoraxError(f"'{path}' is no valid JSON file ({reason}): download or save it again")
