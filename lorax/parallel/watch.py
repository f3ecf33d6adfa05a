"""What if another process dies? This one ends within seconds and says so, in place of waiting on.

A collective waits for every process, also for one that is gone. So each process holds a connection
to process 0, which the system closes however its owner ends; whoever sees that tells the others.
JAX's own heartbeats find out as well, after a minute or two, and then abort with pages of text:
they are left for a machine that vanishes without closing anything.
"""

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

import jax

from lorax.core.errors import LoraxError
from lorax.parallel.processes import everyones

EXIT_CODE = 75
"""Of a process that ends because another one is gone: EX_TEMPFAIL of sysexits.h, try again."""

GRACE, LONGER = 3.0, 10.0
"""Seconds for a process to end by itself, with its own message, after another ended without a word,
or said that it would: a mistake of all is then told by all of them."""

_CONNECT = 10.0  # seconds
_DONE, _LEAVING = b"done\n", b"leaving\n"


@contextlib.contextmanager
def watched(ended: Callable[[str], None] | None = None) -> Iterator[None]:
    """A context in which this process ends soon after any other has ended without leaving it.

    All processes enter it together, after `jax.distributed.initialize`. Leaving it by an exception
    counts as ending. A single process is not watched.

    Args:
      ended: told which process is gone, from a thread; None prints that and exits with `EXIT_CODE`.
    """
    if jax.process_count() == 1:
        yield
        return
    watch = _Watch(ended or _end)
    try:
        yield
        watch.tell(_DONE)
    except BaseException as error:
        # a collective fails, or not, with errors of many kinds: who is gone is told in a moment
        if isinstance(error, Exception) and not isinstance(error, LoraxError):
            if watch.lost.wait(GRACE):
                time.sleep(LONGER + 2 * GRACE)
        watch.tell(_LEAVING)
        raise
    finally:
        watch.close()


def leave(code: int) -> NoReturn:
    """Ends this process of several after a mistake, without the others, which hear of it.

    Python's own end would wait minutes for them.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)


class _Watch:
    """The connections of this process and a thread for each."""

    def __init__(self, ended: Callable[[str], None]):
        self.ended = ended
        self.closed, self.lost = threading.Event(), threading.Event()
        self.links: dict[int, socket.socket] = {}  # by the index of the process at the other end
        server = socket.create_server(("", 0), backlog=jax.process_count())
        port = server.getsockname()[1]
        addresses = everyones(" ".join(f"{host}:{port}" for host in _names()))[0]
        if jax.process_index() == 0:
            self._accept(server)
        else:
            self._connect(addresses.split())
        server.close()
        if len(self.links) < (jax.process_count() - 1 if jax.process_index() == 0 else 1):
            print(
                "some processes cannot be watched: a lost one is missed after JAX's 100 seconds",
                file=sys.stderr,
            )
        self.threads = [
            threading.Thread(target=self._listen, args=(index,), daemon=True)
            for index in self.links
        ]
        for thread in self.threads:
            thread.start()

    def _accept(self, server: socket.socket) -> None:
        server.settimeout(_CONNECT)
        with contextlib.suppress(TimeoutError):
            while len(self.links) < jax.process_count() - 1:
                link, _ = server.accept()
                link.settimeout(_CONNECT)
                with link.makefile("rb") as lines:
                    self.links[int(lines.readline())] = link
                link.settimeout(None)

    def _connect(self, addresses: list[str]) -> None:
        for address in addresses:
            host, _, port = address.rpartition(":")
            with contextlib.suppress(OSError):
                link = socket.create_connection((host, int(port)), _CONNECT / len(addresses))
                link.settimeout(None)
                link.sendall(b"%d\n" % jax.process_index())
                self.links[0] = link
                return

    def _listen(self, index: int) -> None:
        """Until the other end is closed."""
        line, lines = b"", self.links[index].makefile("rb")
        with contextlib.suppress(OSError):
            line = lines.readline()
        if line != _DONE and not self.closed.is_set():
            self._heard(index, line)
        with contextlib.suppress(OSError):
            lines.read()

    def _heard(self, index: int, line: bytes) -> None:
        """The other end says that it leaves, or who is gone, or is closed without a word."""
        leaves = line == _LEAVING
        gone = (b"" if leaves else line.strip()) or b"%d" % index
        self.lost.set()
        if leaves:
            wait = LONGER
        elif gone == b"0":
            wait = 0.0  # JAX aborts within milliseconds then, with pages of text
        else:
            self.tell(gone + b"\n")  # of process 0 alone there are others to be told, who go first
            wait = 2 * GRACE if jax.process_index() == 0 else GRACE
        if not self.closed.wait(wait):
            self.tell(gone + b"\n")
            self.ended(f"process {gone.decode()} of {jax.process_count()}")

    def tell(self, line: bytes) -> None:
        """Sends a line to the other end of every connection."""
        for link in self.links.values():
            with contextlib.suppress(OSError):
                link.sendall(line)

    def close(self) -> None:
        """Closes all connections; process 0 when the others have, as JAX ends them without it."""
        self.closed.set()
        if jax.process_index() == 0:
            for thread in self.threads:
                thread.join(LONGER + GRACE)
        for link in self.links.values():
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)
            link.close()


def _end(who: str) -> None:
    """Ends this process at once: its main thread may wait in a collective for ever."""
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        print(
            f"{who} is gone, and this one cannot go on without it: run the same command again in "
            "all of them to go on from the last checkpoint",
            file=sys.stderr,
            flush=True,
        )
    os._exit(EXIT_CODE)


def _names() -> list[str]:
    """Under which this machine may be reached: where its packets come from, and its name."""
    found = [socket.gethostname()]
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # a documentation address; nothing is sent
        found.insert(0, probe.getsockname()[0])
    return list(dict.fromkeys([*found, "127.0.0.1"]))
