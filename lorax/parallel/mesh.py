"""Which devices share a step, and along which axes? A mesh of data × fsdp × tensor.

`data` and `fsdp` both cut a batch into rows; `fsdp` also cuts the frozen base, which is gathered a
layer at a time; `tensor` cuts heads, hidden channels and vocabulary, and its devices work on the
same rows.
"""

import math
from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh

from lorax.core.errors import LoraxError

AXES = ("data", "fsdp", "tensor")
"""The axes of a mesh, the slowest first: neighbouring devices are of one `tensor` group."""

ROWS = ("data", "fsdp")
"""The axes that cut the rows of a batch."""


def make_mesh(
    data: int = 0, fsdp: int = 1, tensor: int = 1, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """A mesh with the axes `AXES`, all of them `AxisType.Auto`.

    Args:
      data, fsdp, tensor: devices along each axis; 0, on one axis at most, means what is left.
      devices: those of the mesh; None means all there are, of all processes.

    Raises:
      LoraxError: a size below 0 or no integer, two zeros, or a product that is not the number of
        devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = dict(zip(AXES, (data, fsdp, tensor), strict=True))
    shape = _filled(sizes, len(devices))
    kinds = (AxisType.Auto,) * len(AXES)
    return jax.make_mesh(shape, AXES, axis_types=kinds, devices=devices)


def _filled(sizes: dict[str, int], devices: int) -> tuple[int, ...]:
    """`sizes` with the number in place of a 0."""
    for axis, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise LoraxError(
                f"mesh axis '{axis}' is {size!r}: expected a number of devices, or 0 for what is "
                "left"
            )
    free = [axis for axis, size in sizes.items() if size == 0]
    if len(free) > 1:
        raise LoraxError(
            f"mesh axes {' and '.join(map(repr, free))} are both 0: expected 0, which means what "
            "is left, on one axis at most; give the other a number"
        )
    named = math.prod(size for size in sizes.values() if size)
    if devices % named or (not free and devices != named):
        raise LoraxError(_mismatch(sizes, named, devices))
    return tuple(size or devices // named for size in sizes.values())


def _mismatch(sizes: dict[str, int], named: int, devices: int) -> str:
    text = " × ".join(f"{axis}={size}" for axis, size in sizes.items() if size)
    wanted = f"a divisor of {devices}" if 0 in sizes.values() else f"{devices}"
    # the change of one axis that mends it, the first axis that has one
    for axis, size in sizes.items():
        others = named // (size or 1)
        if size and devices % others == 0:
            cure = f"set {axis}={devices // others}, or use {named} devices"
            break
    else:
        cure = f"set data={devices}, fsdp=1, tensor=1"
    many = "device" if devices == 1 else "devices"
    return f"mesh {text} is {named} and there are {devices} {many}: expected {wanted}; {cure}"
