"""How does a worker run? As a process that ends, after a save, with the one that started it.

The process that starts a worker may be killed itself, and nobody would then know of the worker. So
this file, run as `python worker.py PARENT COMMAND...`, has the system send SIGTERM when the parent
is gone, locks the log for as long as the worker lives, so that another one for the same units waits
for its end, and then becomes the command. It needs nothing but the standard library.
"""

import contextlib
import fcntl
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

PAUSE = 0.1
"""Seconds between looks at a process."""

_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux's prctl


def start(
    command: Sequence[str],
    log: pathlib.Path,
    env: Mapping[str, str] | None = None,
    *,
    apart: bool = True,
) -> subprocess.Popen[bytes]:
    """The command as a process, whose output is added to `log`.

    Args:
      command: a program and its arguments.
      log: a file; made if it is missing.
      env: of the process; that of this one by default.
      apart: whether it is spared the signals of this process's group, such as a Ctrl-C that is
        typed for this one alone to handle.
    """
    shim = [sys.executable, "-I", "-S", __file__, str(os.getpid())]
    with open(log, "ab") as out:
        return subprocess.Popen(
            [*shim, *command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=env,
            process_group=0 if apart else None,
        )


def is_busy(log: pathlib.Path) -> bool:
    """Whether a worker lives that writes into this file, be it of a launcher that was killed."""
    with open(log, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            pass
    return False


class Attended:
    """A command that is run to its end when this is called, for launchers that call a function.

    An exception meanwhile, a cancellation say, asks the process to end and waits for its save.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: pathlib.Path,
        env: Mapping[str, str] | None = None,
        *,
        apart: bool = True,
    ):
        self._given = (tuple(command), log, env)
        self._apart = apart
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        """The exit code of the process; negative for the signal that killed it."""
        self._process = process = start(*self._given, apart=self._apart)
        try:
            while (code := process.poll()) is None:
                time.sleep(PAUSE)
            return code
        finally:
            self.end()

    def end(self) -> None:
        """Asks the process to end, once, and waits until it has; a signal handler may call it."""
        process, self._process = self._process, None  # a second SIGTERM would forbid the save
        if process is None or process.returncode is not None:
            return
        process.terminate()
        while _runs(process.pid):
            time.sleep(PAUSE)


def _runs(pid: int) -> bool:
    """Whether a child runs; it is not reaped, as its Popen may be amid that."""
    try:
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return ended is None


def _become(parent: int, command: list[str]) -> None:
    # a batch system warns of a limit by SIGUSR2, to all processes; its own one acts upon it
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, int(signal.SIGTERM))
        if os.getppid() != parent:
            sys.exit(128 + signal.SIGTERM)  # it was gone before
    with contextlib.suppress(OSError):  # a file system without locks
        fcntl.flock(sys.stdout.fileno(), fcntl.LOCK_EX)
    os.execvp(command[0], command)


if __name__ == "__main__":
    _become(int(sys.argv[1]), sys.argv[2:])
