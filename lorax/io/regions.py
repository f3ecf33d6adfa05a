"""How does an array get onto its devices when a process has to read only parts of it?

A *region* is the rectangle of an array that a device holds, a (start, stop) for each axis. Each
region is read once, however many devices of this process hold it, and is on the host alone.
"""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from lorax.core.errors import LoraxError

Region = tuple[tuple[int, int], ...]


def region(index: Iterable[slice], shape: tuple[int, ...]) -> Region:
    """The region that `index`, slices without steps, picks from an array of `shape`."""
    return tuple(part.indices(length)[:2] for part, length in zip(index, shape, strict=True))


def whole(shape: tuple[int, ...]) -> Region:
    """The region that is all of an array of `shape`."""
    return tuple((0, length) for length in shape)


def extent(area: Region) -> tuple[int, ...]:
    """Its shape."""
    return tuple(stop - start for start, stop in area)


def slices(area: Region) -> tuple[slice, ...]:
    """What picks it from the array."""
    return tuple(slice(*span) for span in area)


def overlap(a: Region, b: Region) -> Region | None:
    """What two regions of one array share; None if that is nothing."""
    shared = tuple((max(x[0], y[0]), min(x[1], y[1])) for x, y in zip(a, b, strict=True))
    return None if any(start >= stop for start, stop in shared) else shared


def local_regions(
    sharding: jax.sharding.Sharding, shape: tuple[int, ...], name: str = "an array"
) -> dict[Region, list[Any]]:
    """The regions that devices of this process hold, and which devices.

    Args:
      name: of the array, for the message.

    Raises:
      LoraxError: `sharding` cannot cut an array of this shape.
    """
    try:
        indices = sharding.addressable_devices_indices_map(shape)
    except ValueError as error:
        spec = getattr(sharding, "spec", sharding)
        reason = " ".join(str(error).split())
        raise LoraxError(
            f"'{name}' of shape {shape} cannot be cut as {spec} says: expected axes that divide "
            f"({reason[:160]}); choose another sharding for it"
        ) from None
    found: dict[Region, list[Any]] = {}
    for device, index in indices.items():
        found.setdefault(region(index or (), shape), []).append(device)
    return found


def place_regions(
    shape: tuple[int, ...],
    sharding: jax.sharding.Sharding,
    read: Callable[[Region], np.ndarray],
    name: str = "an array",
) -> jax.Array:
    """The array of `shape` that `read` gives region by region, placed as `sharding` says.

    With several processes each reads what its own devices need; none waits for another.

    Args:
      read: the numbers of a region, in the dtype that the array is to have.
      name: of the array, for messages.

    Raises:
      LoraxError: `sharding` cannot cut an array of this shape.
    """
    shards = []
    for area, devices in local_regions(sharding, shape, name).items():
        shards += _copies(read(area), devices, sharding.memory_kind)
    return jax.make_array_from_single_device_arrays(shape, sharding, shards)


def _copies(host: np.ndarray, devices: list[Any], memory: str | None) -> list[jax.Array]:
    """One on each device; the host's array is free when they are there."""
    single = [jax.sharding.SingleDeviceSharding(d, memory_kind=memory) for d in devices]
    return jax.block_until_ready([jax.device_put(host, place) for place in single])
