"""Where do the numbers go? `metrics.jsonl`: one JSON object a line, the source of every figure."""

import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import IO, Any, Protocol

import jax

from lorax.core.errors import LoraxError


class Writer(Protocol):
    """Whatever takes records."""

    def write(self, **record: Any) -> None:
        """One record; values are JSON values or arrays."""


class MetricsWriter:
    """Appends records to a file, each on disk before `write` returns; a context manager.

    Only process 0 writes; the others accept records and drop them. A line that an earlier run left
    unfinished, because it was killed while writing, is removed first.

    Args:
      path: of the file; its folder exists.
      offset: bytes of the file to keep, as `sync` told when a checkpoint was saved: what was
        written after it will come again. None keeps all.

    Raises:
      LoraxError: the file cannot be written, or is shorter than `offset`.
    """

    def __init__(self, path: str | os.PathLike[str], offset: int | None = None):
        self.path = pathlib.Path(path)
        self._file: IO[str] | None = None
        if jax.process_index() == 0:
            try:
                _cut(self.path, offset)
                self._file = open(self.path, "a", encoding="utf-8")
            except OSError as error:
                raise _unwritable(self.path, error) from None

    def write(self, **record: Any) -> None:
        """One line. Values are JSON values, or arrays; NaN and infinities become null.

        Raises:
          LoraxError: the disk refuses, or the writer is closed.
        """
        if jax.process_index() != 0:
            return
        if self._file is None:
            raise LoraxError(f"'{self.path}' is closed: write inside `with MetricsWriter(...)`")
        try:
            self._file.write(json.dumps(_plain(record), allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise _unwritable(self.path, error) from None

    def sync(self) -> int:
        """Puts all records on the disk itself; the bytes of the file, 0 outside process 0.

        Raises:
          LoraxError: the disk refuses.
        """
        if self._file is None:
            return 0
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise _unwritable(self.path, error) from None
        return self._file.tell()

    def close(self) -> None:
        """Ends writing; more than once is harmless."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The records of a file, in order; an unfinished last line is left out.

    Raises:
      LoraxError: there is no such file, or a line in it is not a JSON object.
    """
    path = pathlib.Path(path)
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise LoraxError(
            f"cannot read metrics '{path}' ({reason}): expected the metrics.jsonl of a run; check "
            "the workdir"
        ) from None
    records = []
    for number, line in enumerate(text[: text.rfind("\n") + 1].splitlines(), 1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            record = None
        if not isinstance(record, dict):
            raise LoraxError(
                f"'{path}' line {number} is not a JSON object: {line[:40]!r}; remove that line, or "
                "run again in a new workdir"
            )
        records.append(record)
    return records


def _cut(path: pathlib.Path, offset: int | None) -> None:
    """Removes what stands after `offset`, and a torn last line."""
    size = path.stat().st_size if path.exists() else 0
    if offset is not None and size < offset:
        raise LoraxError(
            f"'{path}' has {size} bytes where a checkpoint knows of {offset}: it was changed after "
            "the run; choose another --workdir"
        )
    if not size:
        return
    with open(path, "rb+") as file:
        text = file.read(size if offset is None else offset)
        whole = text.rfind(b"\n") + 1
        if whole < size:
            file.truncate(whole)


def _plain(value: Any) -> Any:
    """`value` with arrays as numbers and lists, and non-finite numbers as None."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _unwritable(path: pathlib.Path, error: OSError) -> LoraxError:
    return LoraxError(
        f"cannot write '{path}' ({error.strerror or error}): make the folder writable, free some "
        "space, or choose another --workdir"
    )
