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

GRACE = 3.0
"""Seconds for a process to end by itself, with its own message, after another has."""

_CONNECT = 10.0  # seconds
_DONE = b"done\n"


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
        watch.done()
    except Exception as error:
        # a collective fails, or not, with errors of many kinds: who is gone is told in a moment
        if not isinstance(error, LoraxError) and watch.lost.wait(GRACE):
            time.sleep(2 * GRACE)
        raise
    finally:
        watch.close()


def leave(code: int) -> NoReturn:
    """Ends this process of several after a mistake, without the others, which hear of it.

    Python's own end would wait minutes for them. Process 0 goes last, or JAX would abort those that
    are about to tell the same mistake.
    """
    if jax.process_index() == 0:
        time.sleep(GRACE)
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
        self.lock = threading.Lock()
        server = socket.create_server(("", 0), backlog=jax.process_count())
        port = server.getsockname()[1]
        addresses = everyones(" ".join(f"{host}:{port}" for host in _names()))[0]
        if jax.process_index() == 0:
            self._accept(server)
        else:
            self._connect(addresses.split())
        server.close()
        for index in list(self.links):
            threading.Thread(target=self._listen, args=(index,), daemon=True).start()

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
        """Until the other end says that it is done, or who is gone, or closes without a word."""
        line = b""
        with contextlib.suppress(OSError), self.links[index].makefile("rb") as lines:
            line = lines.readline()
        if line == _DONE or self.closed.is_set():
            return
        gone = line.strip() or b"%d" % index
        self.lost.set()
        for link in self.links.values():  # of process 0 alone there are others
            with contextlib.suppress(OSError):
                link.sendall(gone + b"\n")
        # without process 0 JAX aborts within milliseconds, with pages of text: there is no time
        if not self.closed.wait(0 if gone == b"0" else GRACE):
            self.ended(f"process {gone.decode()} of {jax.process_count()}")

    def done(self) -> None:
        """Tells the others that this process ends as it should."""
        for link in self.links.values():
            with contextlib.suppress(OSError):
                link.sendall(_DONE)

    def close(self) -> None:
        self.closed.set()
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
    found = [socket.getfqdn(), socket.gethostname()]
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # a documentation address; nothing is sent
        found.insert(0, probe.getsockname()[0])
    return list(dict.fromkeys([*found, "127.0.0.1"]))
