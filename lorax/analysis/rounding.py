"""What does a merge lose? The rounding of W0 + ΔW to the dtype of the base, leaf by leaf.

`Adapter.merge` adds in float32 or wider and rounds once; in 16 bits that rounding can be as large
as a small ΔW. Here it is measured against the same sum in float64.
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from lorax.core.adapter import Adapter, Base, Delta, check_adapter, unprepared
from lorax.core.implicit import RANK, Implicit, implicit, rescaled
from lorax.core.leaf import LowRank, Rescaled, Shift
from lorax.core.packed import formed
from lorax.core.paths import flatten


@dataclasses.dataclass(frozen=True)
class LeafRounding:
    """One adapted leaf.

    Attributes:
      path, dtype: of the leaf.
      update: ‖ΔW‖, the Frobenius norm of what the adapter adds.
      error: ‖merged - exact‖ / ‖ΔW‖: 0.01 means that a hundredth of the update is noise. 0 where
        ΔW is zero and the leaf therefore unchanged.
      largest: max |merged - exact|.
    """

    path: str
    dtype: str
    update: float
    error: float
    largest: float


@dataclasses.dataclass(frozen=True)
class MergeRounding:
    """The adapted leaves in the order of the base; prints as a table."""

    rows: tuple[LeafRounding, ...]

    @property
    def error(self) -> float:
        """‖merged - exact‖ / ‖ΔW‖ over all leaves together; 0 where every ΔW is zero."""
        errors = sum((row.error * row.update) ** 2 for row in self.rows)
        updates = sum(row.update**2 for row in self.rows)
        return float(np.sqrt(errors / updates)) if updates else 0.0

    def __str__(self) -> str:
        head = ("path", "dtype", "‖ΔW‖", "error / ‖ΔW‖", "max |error|")
        body = [
            (row.path, row.dtype, f"{row.update:.4g}", f"{row.error:.2e}", f"{row.largest:.2e}")
            for row in self.rows
        ]
        widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in (head, *body)
        ]
        return "\n".join([*lines, f"all {len(body)} leaves: error / ‖ΔW‖ {self.error:.2e}"])


def merge_rounding(adapter: Adapter, base: Base, delta: Delta) -> MergeRounding:
    """How far `adapter.merge(base, delta)` is from W0 + ΔW, for every leaf it adapts.

    The exact sum is formed leaf by leaf on the host, in float64, whatever JAX is set to. An adapter
    of unknown kind gives its merged leaf alone, and so has no error here.

    Args:
      adapter, base, delta: as for ``adapter.merge``, which is called once.

    Raises:
      LoraxError: as ``adapter.merge``.
    """
    check_adapter(adapter)
    stored = flatten(unprepared(base)[0])
    merged = flatten(adapter.merge(base, delta))
    leaves = adapter.leaves(base, delta)
    rows = (
        _row(path, w, leaves[path], merged[path]) for path, w in stored.items() if path in leaves
    )
    return MergeRounding(tuple(rows))


def _row(path: str, w: jax.Array, leaf: Any, merged: jax.Array) -> LeafRounding:
    before = np.asarray(formed(w)).astype(np.float64)
    if isinstance(leaf, LowRank):
        update = _update(implicit(path, w, leaf))
    elif isinstance(leaf, Rescaled):
        update = _rescaled(before, rescaled(path, w, leaf)) - before
    elif isinstance(leaf, Shift):
        update = np.asarray(leaf.update).astype(np.float64)
    else:  # the leaf itself, trained
        update = np.asarray(leaf).astype(np.float64) - before
    error = np.asarray(merged).astype(np.float64) - (before + update)
    norm = float(np.linalg.norm(update))
    relative = float(np.linalg.norm(error)) / norm if norm else 0.0
    return LeafRounding(path, str(w.dtype), norm, relative, float(np.abs(error).max(initial=0.0)))


def _rescaled(before: np.ndarray, leaf: Implicit) -> np.ndarray:
    """(W0 + update) · gain in float64, on the axes of the leaf."""
    gain, axes = leaf.gain if leaf.gain is not None else (1.0, ())
    lengths = [n if label in axes else 1 for label, n in zip(leaf.axes, before.shape, strict=True)]
    order = [axes.index(label) for label in leaf.axes if label in axes]
    spread = np.transpose(np.asarray(gain).astype(np.float64), order).reshape(lengths)
    return (before + _update(leaf)) * spread


def _update(leaf: Implicit) -> np.ndarray:
    """scale · (sum of the terms) in float64, on the axes of the leaf."""
    numbers = {label: number for number, label in enumerate((*leaf.axes, RANK))}
    total = np.zeros(leaf.shape)
    for term in leaf.terms:
        operands: list[Any] = []
        for factor, axes in term.sides:
            operands += [np.asarray(factor).astype(np.float64), [numbers[label] for label in axes]]
        total += np.einsum(*operands, [numbers[label] for label in leaf.axes], optimize=True)
    return float(leaf.scale) * total
