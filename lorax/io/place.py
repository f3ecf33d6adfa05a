"""Which file or directory is meant? A path as the user wrote it, `~` included."""

import os
import pathlib
from typing import Any

from lorax.core.errors import LoraxTypeError


def place(value: Any, name: str = "directory", hint: str = "") -> pathlib.Path:
    """`value`, the argument `name`, as a path with its `~` expanded.

    Args:
      hint: what else the message says about what was expected.

    Raises:
      LoraxTypeError: it is neither a string nor a path.
    """
    if not isinstance(value, str | os.PathLike) or isinstance(os.fspath(value), bytes):
        raise LoraxTypeError(
            f"{name} is a {type(value).__name__}: expected a path, a string or pathlib.Path{hint}"
        )
    path = pathlib.Path(value)
    try:
        return path.expanduser()
    except RuntimeError:  # no such user: a name that begins with a tilde
        return path
