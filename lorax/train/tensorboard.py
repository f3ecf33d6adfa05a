"""How does TensorBoard see a run? Event files, made of the records that metrics.jsonl has too.

metrics.jsonl stays the source of truth. A writer that opens on a history makes the event files of
that history anew and goes on from there, so that a resumed run has every step once.
"""

import math
import os
import pathlib
import re
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import jax

from lorax.core.errors import LoraxError
from lorax.train.metrics import Writer, read_metrics

SUFFIX = ".lorax"
"""Ends the name of every event file written here: no other is ever removed."""

FLUSH = 10.0
"""Seconds between two times at which events are put on disk."""


class TensorBoardWriter:
    """Writes each number of a record as the scalar `kind/name`; a context manager.

    A record with `run` goes to `folder/run`, which TensorBoard shows under that name. Text, lists
    and null (a number that was not finite) are left out. Only process 0 writes. The time of an
    event is when it was written, for a history too.

    Args:
      folder: of this experiment; made if it is missing.
      history: the metrics.jsonl of what came before, if anything did. The event files that an
        earlier writer left for a run are replaced, history or not.

    Raises:
      LoraxError: tensorboardX is missing, the folder cannot be written or the history not read.
    """

    def __init__(
        self, folder: str | os.PathLike[str], history: str | os.PathLike[str] | None = None
    ):
        _require()
        self.folder = pathlib.Path(folder)
        self._files: dict[str, Any] = {}
        self._closed, self._flushed = False, time.monotonic()
        if history is not None:
            for record in read_metrics(history):
                self.write(**record)

    def write(self, **record: Any) -> None:
        """The numbers of one record, at its `step`; nothing if it has none.

        Raises:
          LoraxError: the disk refuses, or the writer is closed.
        """
        if jax.process_index() != 0:
            return
        if self._closed:
            raise LoraxError(f"'{self.folder}' is closed: write before close()")
        from tensorboardX.proto import event_pb2, summary_pb2

        run, kind = str(record.get("run", "")), str(record.get("kind", ""))
        values = [
            summary_pb2.Summary.Value(tag=_tag(kind, name), simple_value=number)
            for name, number in _numbers(record).items()
        ]
        if not values:
            return
        event = event_pb2.Event(
            wall_time=time.time(),
            step=int(record.get("step") or 0),
            summary=summary_pb2.Summary(value=values),
        )
        try:
            self._file(run).write_event(event)
            if time.monotonic() - self._flushed > FLUSH:
                self._flush()
        except OSError as error:
            raise _unwritable(self.folder, error) from None

    def close(self) -> None:
        """Puts everything on disk and ends writing; more than once is harmless.

        Raises:
          LoraxError: the disk refuses.
        """
        self._closed = True
        try:
            while self._files:
                self._files.popitem()[1].close()
        except OSError as error:
            raise _unwritable(self.folder, error) from None

    def __enter__(self) -> "TensorBoardWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _file(self, run: str) -> Any:
        """The event file of a run. It is written in this thread, so that its errors arrive here."""
        if run not in self._files:
            from tensorboardX.event_file_writer import EventsWriter

            folder = self.folder / re.sub(r"[^\w.@=+-]+", "_", run).lstrip(".")
            folder.mkdir(parents=True, exist_ok=True)
            for old in folder.glob(f"events.out.tfevents.*{SUFFIX}"):
                old.unlink()
            self._files[run] = EventsWriter(str(folder / "events"), SUFFIX)
        return self._files[run]

    def _flush(self) -> None:
        for file in self._files.values():
            file.flush()
        self._flushed = time.monotonic()


class Writers:
    """Several writers as one: each gets every record; a context manager that closes them all.

    Args:
      writers: in the order in which they get a record; metrics.jsonl first.
    """

    def __init__(self, *writers: Writer):
        self.writers = writers

    def write(self, **record: Any) -> None:
        """One record, to each."""
        for writer in self.writers:
            writer.write(**record)

    def close(self) -> None:
        """Closes each, also after one that raises; the first error is raised at the end."""
        failed: Exception | None = None
        for writer in self.writers:
            try:
                getattr(writer, "close", lambda: None)()
            except Exception as error:
                failed = failed or error
        if failed is not None:
            raise failed

    def __enter__(self) -> "Writers":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.close()


def replay(metrics: str | os.PathLike[str], folder: str | os.PathLike[str]) -> None:
    """Event files of a run that was made without them, from its metrics.jsonl.

    Raises:
      LoraxError: as `TensorBoardWriter`.
    """
    TensorBoardWriter(folder, metrics).close()


def _numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """What of a record is a finite number, but for its step."""
    found = {}
    for name, value in record.items():
        if hasattr(value, "item") and getattr(value, "size", 1) == 1:
            value = value.item()
        if isinstance(value, int | float) and name not in ("step", "run", "kind"):
            if math.isfinite(value):
                found[name] = float(value)
    return found


def _tag(kind: str, name: str) -> str:
    return re.sub(r"[^\w./-]", "_", f"{kind}/{name}".lstrip("/"), flags=re.ASCII)


def _require() -> None:
    try:
        import tensorboardX  # noqa: F401
    except ImportError:
        raise LoraxError("tensorboardX is not installed: pip install 'lorax-flax[log]'") from None


def _unwritable(folder: pathlib.Path, error: OSError) -> LoraxError:
    return LoraxError(
        f"cannot write event files in '{folder}' ({error.strerror or error}): make the folder "
        "writable, free some space, or choose another"
    )
