"""How does a run end early, on SIGTERM or SIGINT? Between two steps, after a save.

Of several processes one alone may be told, a preempted host say. SIGTERM is then left to JAX, which
lets all of them know and agree on a step.

with catch() as stop:
    stop.where = "before the first step"
    ...                           # a signal raises at once
    with stop.deferred():         # a signal is only noted now, and the loop asks for it
        ...
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

import jax
from jax.experimental import multihost_utils

CAUGHT = (signal.SIGTERM, signal.SIGINT)


class Stopped(BaseException):
    """The process was asked to end. No `Exception`, so that nobody takes it for a failed write.

    Attributes:
      signum: of the signal; the exit code of the process is 128 more.
    """

    def __init__(self, signum: int, where: str):
        self.signum = signum
        super().__init__(f"stopped by {signal.Signals(signum).name} {where}")


class Stop:
    """Whether the process was asked to end, and by which signal.

    Attributes:
      signum: of the signal; None as long as none came.
      where: in the work the process is, for the message of `Stopped`.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self.where = "before the first step"
        self._deferred = False
        self._shared = jax.process_count() > 1
        self._asked = 0

    def requested(self) -> bool:
        """Whether a signal came; with several processes, to any of them.

        All of them then call it equally often, after each step, and hear of it after the same one.
        """
        if self._shared and self.signum is None:
            self._asked += 1
            if multihost_utils.reached_preemption_sync_point(self._asked):
                self.signum = signal.SIGTERM
        return self.signum is not None

    def check(self, where: str = "") -> None:
        """Raises `Stopped` if a signal came; to be called between pieces of long work."""
        if self.signum is not None:
            raise Stopped(self.signum, where or self.where)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """A context in which a signal is noted, and whoever is inside asks for it."""
        self.check()
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self._shared and self._deferred:
            os.kill(os.getpid(), signal.SIGTERM)  # JAX tells the others; one more ends this one
            return
        again = self.signum is not None
        self.signum = signum
        if again or not self._deferred:  # a second signal does not wait for a save
            raise Stopped(signum, self.where)


@contextlib.contextmanager
def catch() -> Iterator[Stop]:
    """A context that turns SIGTERM and SIGINT into a `Stop`, and puts the old handlers back.

    Outside the main thread, where Python allows no handlers, the `Stop` never asks for an end.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    # a signal that is ignored, as SIGINT is in background jobs of a shell, stays so
    ours = [signal.SIGINT] if stop._shared else CAUGHT
    caught = [s for s in ours if signal.getsignal(s) is not signal.SIG_IGN]
    before = {signum: signal.signal(signum, stop._note) for signum in caught}
    try:
        yield stop
    finally:
        for signum, handler in before.items():
            # None: one that was not set from Python, and cannot be put back
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)
