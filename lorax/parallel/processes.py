"""How do the processes of a run agree? Numbers, texts, and a place where all meet."""

import jax
import numpy as np
from jax.experimental import multihost_utils


def from_first(value: int) -> int:
    """The number that process 0 gives, in every process; the others wait for it."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def everyones(text: str) -> list[str]:
    """The texts that all processes give, in their order, in every process."""
    if jax.process_count() == 1:
        return [text]
    data = np.frombuffer(text.encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(data.size))
    padded = np.zeros(sizes.max(), np.uint8)
    padded[: data.size] = data
    rows = np.asarray(multihost_utils.process_allgather(padded))
    return [bytes(row[:size]).decode() for row, size in zip(rows, sizes, strict=True)]


def meet(name: str) -> None:
    """Waits until every process has come here; does nothing with a single one."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def say(text: str) -> None:
    """Prints it, in one of the processes."""
    if jax.process_index() == 0:
        print(text)
