"""What is a task? Units of one program for one process, and how far they have come."""

import contextlib
import json
import pathlib
import signal
import time
from collections.abc import Sequence

TRIES = 3
"""How often a task is started again, at most, since its units last got further."""


class Task:
    """Units that one process trains, and what is known of them from their folders.

    Attributes:
      name: its number, as text.
      units: names of the units.
      command: trains them; its output is added to the file `log`.
    """

    def __init__(
        self, number: int, units: Sequence[str], folder: pathlib.Path, verb: Sequence[str]
    ):
        self.name, self.units = f"{number:03d}", tuple(units)
        self._units = folder / "units"
        self._list = folder / "tasks" / f"{self.name}.json"
        self.log = self._list.with_suffix(".log")
        self.command = (*verb, f"--only={self._list}")
        self._vain = self._told = 0
        self._before: set[str] = set()

    def left(self) -> list[str]:
        """The units without a result, be it a failure."""
        ended = ("DONE", "FAILED")
        return [u for u in self.units if not any((self._units / u / end).exists() for end in ended)]

    def prepare(self) -> None:
        """To be called before each start: writes what is left, and marks its place in the log."""
        left = self.left()
        self._list.write_text(json.dumps(left, indent=1) + "\n", "utf-8")
        with open(self.log, "ab") as log:
            log.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')}: {units(len(left))}\n".encode())
            self._told = log.tell()
        self._before = self._state()

    def ended(self, code: int) -> str:
        """Why it cannot be finished; nothing if it shall be started again."""
        lines = self._lines()
        mistakes = [line for line in lines if line.startswith("error: ")]
        if code in (1, 2) and mistakes:
            return mistakes[-1].removeprefix("error: ")
        self._vain = self._vain + 1 if self._state() == self._before else 0
        if self._vain <= TRIES:
            return ""
        last = f", last saying '{lines[-1].strip()}'" if lines else ""
        return f"a worker {wording(code)}, and got no further in {self._vain} tries{last}"

    def _state(self) -> set[str]:
        """What tells whether units got further: results, and steps that were saved."""
        left = self.left()
        saved = {str(p) for u in left for p in (self._units / u / "checkpoints").glob("[0-9]*")}
        return saved | {unit for unit in self.units if unit not in left}

    def _lines(self) -> list[str]:
        with contextlib.suppress(OSError), open(self.log, "rb") as log:
            log.seek(self._told)
            return [line for line in log.read().decode(errors="replace").splitlines() if line]
        return []


def wording(code: int) -> str:
    """What has become of a process, by its exit code."""
    signum = -code if code < 0 else code - 128
    with contextlib.suppress(ValueError):
        name = signal.Signals(signum).name
        return f"was killed by {name}{' (out of memory?)' * (name == 'SIGKILL')}"
    return f"ended with code {code}"


def units(count: int) -> str:
    """That many units, in words."""
    return f"{count} unit{'s' * (count != 1)}"
