"""Why is a step on the CPU slower than its arithmetic? Freed memory goes back to the system.

XLA asks for its temporary memory anew in every step. glibc maps blocks of that size from the
kernel and unmaps them afterwards, so every page is cleared and faulted in again: 50,000 faults and
30 % of the time of a step of the quickstart on two cores.
"""

import ctypes
import sys

TRIM_THRESHOLD, TOP_PAD, MMAP_MAX, ARENA_MAX = -1, -2, -4, -8
"""Numbers of glibc's malloc.h."""


def keep_freed() -> bool:
    """Tells glibc to keep what is freed for the next request; False where there is no glibc.

    To be called before arrays are made. The process holds on to its peak memory from then on.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    options = ((MMAP_MAX, 0), (ARENA_MAX, 1), (TRIM_THRESHOLD, 2**31 - 1), (TOP_PAD, 2**28))
    return all(mallopt(name, value) for name, value in options)
