"""How do the processes of a run agree? A number from the first, and a place where all meet."""

import jax
import numpy as np
from jax.experimental import multihost_utils


def from_first(value: int) -> int:
    """The number that process 0 gives, in every process; the others wait for it."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def meet(name: str) -> None:
    """Waits until every process has come here; does nothing with a single one."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
