"""How does each leaf of a base lie on a mesh? Ordered patterns over paths, the first match wins.

A spec is aligned to the last axes of a leaf, so one table serves `layer_3/query/kernel` and the
stacked `layers/query/kernel` with its leading axis, which stays whole: layers are scanned in turn.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from lorax.core import paths
from lorax.core.errors import LoraxError

Rules = tuple[tuple[str, P], ...]
"""Pairs of a regular expression, fully matched against "/"-joined paths, and a spec."""

REPLICATED: Rules = ((".*", P()),)
"""The rules of a base that is whole on every device."""


def specs(base: Any, rules: Rules, mesh: Mesh) -> dict[str, P]:
    """The spec of every leaf by path, with an entry for each of its axes.

    Args:
      base: parameters, or their shapes.
      rules: every leaf must be covered.
      mesh: that the specs are of.

    Raises:
      LoraxError: leaves that no rule covers; a rule that is no pattern, names an axis that the
        mesh lacks, or has more entries than the leaf has axes; an axis that does not divide.
    """
    compiled = [(_compiled(pattern), pattern, spec) for pattern, spec in rules]
    found: dict[str, P] = {}
    uncovered = []
    for path, leaf in paths.flatten(base).items():
        for regex, pattern, spec in compiled:
            if regex.fullmatch(path):
                found[path] = _fitted(path, tuple(leaf.shape), pattern, spec, mesh)
                break
        else:
            uncovered.append(path)
    if uncovered:
        raise LoraxError(_uncovered(uncovered))
    return found


def ways(entry: Any, mesh: Mesh) -> int:
    """Into how many parts an entry of a spec (None, a name, or a tuple of names) cuts an axis."""
    return math.prod(mesh.shape[name] for name in names_of(entry))


def names_of(entry: Any) -> tuple[str, ...]:
    """The mesh axes that an entry of a spec names."""
    if entry is None:
        return ()
    return (entry,) if isinstance(entry, str) else tuple(entry)


def divides(shape: Sequence[int], spec: P, mesh: Mesh) -> bool:
    """Whether every axis of `shape` is a multiple of the parts that `spec` cuts it into."""
    return all(n % ways(entry, mesh) == 0 for n, entry in zip(shape, spec, strict=False))


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise LoraxError(
            f"rule '{pattern}' is not a regular expression ({error}): expected one that "
            "re.fullmatch accepts, such as '.*/query/kernel'"
        ) from None


def _fitted(path: str, shape: tuple[int, ...], pattern: str, spec: P, mesh: Mesh) -> P:
    """`spec` with None for the axes before it, checked against the leaf and the mesh."""
    unknown = [name for entry in spec for name in names_of(entry) if name not in mesh.shape]
    if unknown:
        raise LoraxError(
            f"rule '{pattern}' names the axis '{unknown[0]}': expected one of "
            f"{', '.join(map(repr, mesh.shape))}, the axes of the mesh"
        )
    if len(spec) > len(shape):
        raise LoraxError(
            f"rule '{pattern}' has {len(spec)} entries and '{path}' has shape {shape}: expected "
            "at most one an axis; put a rule for this leaf before it"
        )
    full = (None,) * (len(shape) - len(spec)) + tuple(spec)
    for axis, (length, entry) in enumerate(zip(shape, full, strict=True)):
        if length % ways(entry, mesh):
            raise LoraxError(_undivided(path, axis, length, entry, mesh))
    return P(*full)


def _undivided(path: str, axis: int, length: int, entry: Any, mesh: Mesh) -> str:
    parts = ways(entry, mesh)
    cut = " × ".join(f"{name}={mesh.shape[name]}" for name in names_of(entry))
    below, above = length // parts * parts, -(-length // parts) * parts
    near = f"{above}" if not below else f"{below} or {above}"
    fits = max(n for n in range(1, parts + 1) if length % n == 0)
    return (
        f"axis {axis} of '{path}' has length {length}, which {cut} does not divide: expected a "
        f"multiple of {parts}, the nearest {near}; or make the product of these mesh axes {fits}, "
        "the nearest that divides"
    )


def _uncovered(leaves: Sequence[str]) -> str:
    shown = ", ".join(map(repr, leaves[:5])) + (", ..." if len(leaves) > 5 else "")
    return (
        f"no rule covers {len(leaves)} of the leaves: {shown}; expected one for every leaf: add "
        "one, or end with ('.*', PartitionSpec()), which replicates the rest"
    )
