"""What does process 0 say, and did all manage? Asked by all processes at the same place.

Each function is a meeting over the devices: main thread only, and never while another process may
be on its way out. A single process is spoken to by itself.
"""

import json
from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax
import numpy as np

T = TypeVar("T")

_BLOCK = 1 << 12  # bytes: texts of similar lengths share a program


def first_says(value: Any) -> Any:
    """The JSON value that process 0 gives, in every process; what the others give is not read."""
    if jax.process_count() == 1:
        return value
    text = json.dumps(value).encode() if jax.process_index() == 0 else b""
    length = int(_broadcast(np.int32(len(text))))
    padded = np.zeros(-(-length // _BLOCK) * _BLOCK, np.uint8)
    padded[: len(text)] = np.frombuffer(text, np.uint8)
    return json.loads(_broadcast(padded)[:length].tobytes())


def first_does(work: Callable[[], T], failure: type[Exception]) -> T:
    """What `work` returns in process 0, a JSON value, in every process.

    Raises:
      failure: in every process, with one text, when process 0 raises it.
    """
    if jax.process_count() == 1:
        return work()
    said: dict[str, Any] = {"value": None, "error": ""}
    if jax.process_index() == 0:
        try:
            said["value"] = work()
        except failure as error:
            said["error"] = str(error)
    said = first_says(said)
    if said["error"]:
        raise failure(said["error"])
    return cast(T, said["value"])


def who_failed(failed: bool) -> list[int]:
    """The processes that say so, in every process."""
    if jax.process_count() == 1:
        return [0] * failed
    from jax.experimental import multihost_utils

    return np.flatnonzero(multihost_utils.process_allgather(np.int32(failed))).tolist()


def _broadcast(array: Any) -> np.ndarray:
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.broadcast_one_to_all(array))
