"""What the exchanges of a sharded step may be: complaints about those that may not.

A base is frozen, so nothing of its shape is ever summed over devices; what is cut by `fsdp` is
gathered where it is used, a layer at a time; all the rest is activations and factors.
"""

import itertools

import jax

from lorax.core import paths
from lorax.parallel.layout import Layout
from lorax.parallel.rules import specs, ways
from tests.parallel.compiled import Exchange

SUMS = ("all-reduce", "reduce-scatter")


def matrices(base, layout: Layout, *, tables: bool) -> dict[str, set[tuple[int, ...]]]:
    """By path, the forms (rows, columns) that a matrix of the base may take on a device.

    Args:
      tables: whether those that are used outside the layers are meant, or those of the layers.
    """
    found = {}
    for path, spec in specs(base, layout.rules, layout.mesh).items():
        leaf = paths.flatten(base)[path]
        if len(leaf.shape) < 2 or ("/layers/" not in path) != tables or path.endswith("bias"):
            continue
        sizes = [
            {n, n // ways(entry, layout.mesh)}
            for n, entry in zip(leaf.shape[-2:], spec[-2:], strict=True)
        ]
        if min(leaf.shape[-2:]) > 4:
            found[path] = set(itertools.product(*sizes))
    return found


def gathered(base, layout: Layout) -> dict[str, tuple[int, ...]]:
    """By path, one layer's matrix as it is used: whole but for what `tensor` cuts."""
    found = {}
    for path in matrices(base, layout, tables=False):
        spec = specs(base, layout.rules, layout.mesh)[path]
        shape = paths.flatten(base)[path].shape
        cut = [ways("tensor", layout.mesh) if entry == "tensor" else 1 for entry in spec]
        found[path] = tuple(n // c for n, c in zip(shape, cut, strict=True))[-2:]
    return found


def complaints(exchanges: list[Exchange], base, layout: Layout) -> list[str]:
    """What of `exchanges` a step should not have to make."""
    base = jax.eval_shape(lambda: base) if callable(base) else base
    layers = set().union(*matrices(base, layout, tables=False).values())
    tables = set().union(*matrices(base, layout, tables=True).values())
    said = []
    for kind, shapes, looped, name in exchanges:
        for shape in map(tuple, shapes):
            own = shape[-2:]
            if kind in SUMS and own in layers | tables:
                said.append(f"{kind} of a base-shaped {shape} at {name}")
            if own in layers and not looped:
                said.append(f"{kind} of {shape} outside the layers at {name}")
            if own in layers and looped and kind != "all-gather":
                said.append(f"{kind} of a weight {shape} at {name}")
            if own in layers and len([n for n in shape if n > 1]) > 2:
                said.append(f"{kind} of a stack {shape} at {name}")
            if own in tables - layers and looped:
                said.append(f"{kind} of a table {shape} with every chunk at {name}")
    return said
