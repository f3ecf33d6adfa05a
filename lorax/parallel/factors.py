"""How does a delta lie on a mesh? A as the inputs of its leaf, B as its outputs, the rank whole.

So x A and (x A) B need no part of a factor that a device lacks where x W0 needs none of W0. Small
factors are whole on every device: gathering them would cost more than they take.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

import jax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from lorax.core import paths
from lorax.core.leaf import Factors, Learnt
from lorax.parallel.rules import divides


def delta_specs(
    delta: Any, base_specs: Mapping[str, P], mesh: Mesh, replicate_below: int = 0
) -> Any:
    """The spec of every array of a delta, from shapes alone.

    Args:
      delta: of any adapter, or its shapes.
      base_specs: of `lorax.parallel.rules.specs`.
      mesh: that they are of.
      replicate_below: a factor of fewer numbers is whole on every device.

    Returns:
      A tree with the structure of `delta`. A has the stack and input axes of its leaf, B its stack
      and output axes; a factor with an axis that does not divide is whole on every device. A leaf
      that is trained whole lies as it does in the base. Anything else, a number, a `Learnt` or the
      θ of a `Subspace`, is whole on every device.
    """

    def factors(path: str, pair: Factors) -> Any:
        spec, roles = base_specs[path], pair.roles
        entries = lambda axes: tuple(spec[axis] for axis in axes)
        stack, rank = entries(roles.stack), (None,)
        return dataclasses.replace(
            pair,
            A=_small(pair.A, P(*stack, *entries(roles.inputs), *rank), mesh, replicate_below),
            B=_small(pair.B, P(*stack, *rank, *entries(roles.outputs)), mesh, replicate_below),
        )

    def one(keys: Iterable[Any], leaf: Any) -> Any:
        names = [paths.path_of((key,)) for key in keys]
        path = next((name for name in names if name in base_specs), None)
        if isinstance(leaf, Factors):
            return factors(path, leaf) if path else jax.tree.map(lambda _: P(), leaf)
        if isinstance(leaf, Learnt):
            return jax.tree.map(lambda _: P(), leaf)
        # what lies below the path of a leaf is not the leaf
        spec = base_specs[path] if path is not None and path == names[-1] else P()
        fits = len(leaf.shape) == len(spec) and divides(leaf.shape, spec, mesh)
        return spec if fits else P()

    return jax.tree_util.tree_map_with_path(
        one, delta, is_leaf=lambda node: isinstance(node, Factors | Learnt)
    )


def _small(factor: Any, spec: P, mesh: Mesh, below: int) -> Any:
    """`spec`, or no cut at all where the factor is small or does not divide."""
    numbers = math.prod(factor.shape)
    fits = len(factor.shape) == len(spec) and divides(factor.shape, spec, mesh)
    return spec if fits and numbers >= below else P()
