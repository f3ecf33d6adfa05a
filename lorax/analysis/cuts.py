"""How is the result of an operation cut over a mesh, given how its operands are?

Much as XLA's partitioner has it: rows stay cut, a product keeps the cuts of its free axes and adds
up over those of its contracted ones, and axes that are joined keep the cut of the first.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

Cut = tuple[tuple[str, ...], ...]
"""Names of mesh axes, for each axis of a value."""

PIECES = ("slice", "dynamic_slice", "split", "concatenate", "pad")
"""Primitives whose result has the axes of its operand, shorter or longer."""


@dataclasses.dataclass(frozen=True)
class Value:
    """What is known of a value.

    Attributes:
      shape, dtype: of the whole value.
      cut: of each axis.
      leaf: the number of the argument that it is a view of; None for what is computed.
      kept: whether it is that argument, number for number, and no copy in another dtype.
      free: whether it depends on no argument, as a causal mask: compilers form it where it is used.
    """

    shape: tuple[int, ...]
    dtype: Any
    cut: Cut
    leaf: int | None = None
    kept: bool = False
    free: bool = False


def value_of(leaf: Any, number: int | None = None) -> Value:
    """The `Value` of an array or its shape; cut as its `sharding` says, if it has a named one."""
    shape, sharding = tuple(leaf.shape), getattr(leaf, "sharding", None)
    cut: list[tuple[str, ...]] = [()] * len(shape)
    if isinstance(sharding, jax.sharding.NamedSharding):
        for axis, entry in enumerate(sharding.spec):
            names = (entry,) if isinstance(entry, str) else tuple(entry or ())
            cut[axis] = tuple(name for name in names if sharding.mesh.shape[name] > 1)
    return Value(shape, leaf.dtype, tuple(cut), number, number is not None)


def item_bytes(dtype: Any) -> float:
    """Bytes of a number as compiled programs store it: integers of 4 bits lie two in a byte."""
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return float(dtype.itemsize)
    dtype = jnp.dtype(dtype)
    return 0.5 if dtype in (jnp.int4, jnp.uint4) else float(dtype.itemsize)


def form(aval: Any) -> tuple[tuple[int, ...], Any]:
    """Shape and dtype of a variable; of a token, which has none, those of a flag."""
    return tuple(getattr(aval, "shape", ())), getattr(aval, "dtype", jnp.dtype(bool))


def ways(names: Sequence[str], mesh: Mapping[str, int]) -> int:
    """Into how many parts an axis is cut."""
    return math.prod(mesh[name] for name in names)


def cuts(eqn: Any, values: Sequence[Value], mesh: Mapping[str, int]) -> list[Cut]:
    """The cut of each result of an equation without programs inside, from its operands."""
    found = []
    for out in eqn.outvars:
        shape, _ = form(out.aval)
        found.append(_fitted(_entries(eqn, values, shape), shape, mesh))
    return found


def _entries(eqn: Any, values: Sequence[Value], shape: tuple[int, ...]) -> list[tuple[str, ...]]:
    name, params = eqn.primitive.name, eqn.params
    if name == "dot_general":
        return _dot(params["dimension_numbers"], values)
    if name == "transpose":
        return [values[0].cut[axis] for axis in params["permutation"]]
    if name == "broadcast_in_dim":
        entries: list[tuple[str, ...]] = [()] * len(shape)
        for source, axis in enumerate(params["broadcast_dimensions"]):
            if values[0].shape[source] == shape[axis]:
                entries[axis] = values[0].cut[source]
        return entries
    if name in ("reshape", "squeeze", "expand_dims"):
        return _reshaped(values[0], shape)
    if "axes" in params and len(shape) < len(values[0].shape):
        gone = {axis % len(values[0].shape) for axis in params["axes"]}
        return [names for axis, names in enumerate(values[0].cut) if axis not in gone]
    if name == "gather":
        return _looked_up(params["dimension_numbers"], values, len(shape))
    return _alike(values, shape, name in PIECES)


def _fitted(
    entries: Sequence[tuple[str, ...]], shape: Sequence[int], mesh: Mapping[str, int]
) -> Cut:
    """`entries` with every mesh axis once, and none where it does not divide."""
    used: set[str] = set()
    cut = []
    for names, length in zip(entries, shape, strict=True):
        names = tuple(name for name in names if name not in used)
        names = names if length % ways(names, mesh) == 0 else ()
        used.update(names)
        cut.append(names)
    return tuple(cut)


def _dot(numbers: Any, values: Sequence[Value]) -> list[tuple[str, ...]]:
    """Stack axes, then the free axes of both sides."""
    (contracted, stacks) = numbers
    entries = [
        values[0].cut[axis] or values[1].cut[other] for axis, other in zip(*stacks, strict=True)
    ]
    for value, gone, stack in zip(values, contracted, stacks, strict=True):
        entries += [c for axis, c in enumerate(value.cut) if axis not in (*gone, *stack)]
    return entries


def _reshaped(value: Value, shape: tuple[int, ...]) -> list[tuple[str, ...]]:
    """Axes that are joined or divided hand their cut to the first of what they become."""
    entries: list[tuple[str, ...]] = [()] * len(shape)
    source = target = 0
    while source < len(value.shape) and target < len(shape):
        first, at, left, right = source, target, value.shape[source], shape[target]
        while left != right:
            if left < right:
                source += 1
                left *= value.shape[source]
            else:
                target += 1
                right *= shape[target]
        wide = [i for i in range(first, source + 1) if value.shape[i] > 1] or [first]
        long = [i for i in range(at, target + 1) if shape[i] > 1] or [at]
        entries[long[0]] = value.cut[wide[0]]
        source, target = source + 1, target + 1
    return entries


def _looked_up(numbers: Any, values: Sequence[Value], axes: int) -> list[tuple[str, ...]]:
    """Rows of a table lie as the indices do."""
    rows = iter(values[1].cut)
    return [() if axis in numbers.offset_dims else next(rows, ()) for axis in range(axes)]


def _alike(values: Sequence[Value], shape: tuple[int, ...], pieces: bool) -> list[tuple[str, ...]]:
    """Each axis as the first operand that has such an axis there and is cut."""
    entries: list[tuple[str, ...]] = [()] * len(shape)
    for value in values:
        for axis, (length, own) in enumerate(zip(shape, value.shape, strict=False)):
            if own == length or (pieces and len(value.shape) == len(shape)):
                entries[axis] = entries[axis] or value.cut[axis]
    return entries
