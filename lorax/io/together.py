"""How do several processes write one folder, whole or not at all, and all hear of it?

They meet on the disk that they share, for the devices are busy with the next step meanwhile:

    .100.0123abcd.partial/     becomes the folder 100, see `atomic`
      arrays/                  each process writes its part
      part.1                   process 1 is done; what went wrong, if anything did
    .100.0123abcd.failed       a line that says why there will be no folder 100

Process 0 waits for every part, renames, and the others see that; or it tells them that it failed.
Nobody waits for ever.
"""

import contextlib
import dataclasses
import errno
import os
import pathlib
import shutil
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from lorax.core.errors import LoraxError
from lorax.io import arrays as store
from lorax.io.atomic import partial_of

T = TypeVar("T")

PATIENCE = 600.0
"""Seconds that a process waits for another one's part, or for word of process 0."""

HURRY = 5.0
"""Seconds that it still waits when this process is on its way out because of an error."""

_LONGEST = 0.25  # seconds between two looks


@dataclasses.dataclass(frozen=True)
class Meeting:
    """All processes at one save; each makes the same one.

    Attributes:
      folder: that they write.
      token: eight hexadecimal digits, new for each save.
      process, processes: this one, and how many there are.
      leaving: set when this process will not wait any more.
      patience: seconds.
    """

    folder: pathlib.Path
    token: str
    process: int
    processes: int
    leaving: threading.Event
    patience: float = PATIENCE

    @property
    def partial(self) -> pathlib.Path:
        """What the folder is called while it is written."""
        return partial_of(self.folder, self.token)

    def contribute(
        self, write: Callable[[pathlib.Path], None], committed: Callable[[], bool]
    ) -> None:
        """Writes the part of a process other than 0, and waits for what comes of it all.

        Args:
          write: writes into the folder it is given.
          committed: is the folder there, and from this very save?

        Raises:
          LoraxError: there is no folder; the same line in every process.
        """
        try:
            self.partial.mkdir(parents=True, exist_ok=True)
            write(self.partial)
            wrong = ""
        except Exception as error:  # whatever it is, process 0 must hear of it
            wrong = store.reason(error)
        with contextlib.suppress(OSError):
            _publish(self._part(self.process), wrong)
        try:
            told = self._await(lambda: self._verdict(committed), "process 0 says nothing of it")
        except OSError as error:
            told = f"cannot tell whether '{self.folder}' was written ({store.reason(error)})"
        if told:
            shutil.rmtree(self.partial, ignore_errors=True)
            raise LoraxError(told)

    def collect(self) -> None:
        """In process 0, returns when all others have written their parts.

        Raises:
          OSError: one of them could not, or is not heard of.
        """
        for process in range(1, self.processes):
            note = self._part(process)
            wrong = self._await(partial(_read, note), f"process {process} wrote no part")
            if wrong:
                raise OSError(errno.EIO, f"process {process}: {wrong}")
            note.unlink()

    def fail(self, why: str) -> None:
        """Process 0 tells the others that there will be no folder."""
        with contextlib.suppress(OSError):
            _publish(self._failed, why)

    def forget(self) -> None:
        """Process 0 removes what it told of earlier saves of this run, which all have read."""
        for told in self.folder.parent.glob(".*.failed"):
            told.unlink(missing_ok=True)

    def _part(self, process: int) -> pathlib.Path:
        return self.partial / f"part.{process}"

    @property
    def _failed(self) -> pathlib.Path:
        return self.partial.with_suffix(".failed")

    def _verdict(self, committed: Callable[[], bool]) -> str | None:
        """Why there will be no folder, "" if there is one, None if that is not known yet."""
        told = _read(self._failed)
        if told is not None:
            return told
        return "" if not self.partial.exists() and committed() else None

    def _await(self, look: Callable[[], T | None], what: str) -> T:
        deadline, pause, hurried = time.monotonic() + self.patience, 0.005, False
        while (found := look()) is None:
            now = time.monotonic()
            if self.leaving.is_set() and not hurried:
                deadline, hurried = min(deadline, now + HURRY), True
            if now > deadline:
                raise OSError(errno.ETIMEDOUT, what)
            time.sleep(pause := min(2 * pause, _LONGEST))
        return found


def _publish(file: pathlib.Path, text: str) -> None:
    """Writes a file that nobody sees in part."""
    beside = file.with_name(file.name + ".new")
    beside.write_text(text, "utf-8")
    beside.rename(file)


def _read(file: pathlib.Path) -> str | None:
    """What is in a file that another process may not have written yet."""
    os.listdir(file.parent)  # a shared file system may remember that it was not there
    try:
        return file.read_text("utf-8")
    except FileNotFoundError:
        return None
