"""How does one θ move many leaves? P drawn for the leaves of a base, and P θ cut into them."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from lorax.core import paths
from lorax.ops.dense import draw_dense
from lorax.ops.fastfood import Blocks, draw_fastfood, draw_signs
from lorax.ops.sparse import draw_sparse

PROJECTIONS = ("dense", "sparse", "fastfood")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Projection:
    """P over the leaves of a base, in parts. A pytree.

    Attributes:
      whole: one part over all leaves one after the other, in the order of their paths; or None.
      parts: by path, a part of its own for each leaf; empty beside a whole.
    """

    whole: Any
    parts: Mapping[str, Any]

    def updates(
        self, theta: jax.Array, shapes: Mapping[str, tuple[int, ...]]
    ) -> dict[str, jax.Array]:
        """P θ by path.

        Args:
          theta: (dim,).
          shapes: of the leaves, in the order of their paths.
        """
        if self.whole is None:
            return {p: self.parts[p].project(theta).reshape(shapes[p]) for p in shapes}
        # the cotangents of a split are joined; those of slices would be padded, each, and added
        sizes = [math.prod(shape) for shape in shapes.values()]
        parts = lax.split(self.whole.project(theta), sizes)
        return {p: x.reshape(shapes[p]) for p, x in zip(shapes, parts, strict=True)}


def draw(
    kind: str,
    seed: int,
    dim: int,
    sizes: Mapping[str, int],
    *,
    per_tensor: bool = False,
    per_leaf: bool = False,
    block: int = 0,
) -> Projection:
    """P of `dim` columns for leaves of these sizes.

    Args:
      kind: of `PROJECTIONS`.
      seed: of P. The draw is by one generator (threefry) whatever JAX's default is.
      dim: columns.
      sizes: numbers of each leaf by path, in the order of the paths.
      per_tensor: a P for each leaf, drawn by its path, with columns of norm 1 there.
      per_leaf: density of a sparse P, 1/√n of each leaf in place of 1/√D.
      block: length of Fastfood's transforms; 0 for one over all.
    """
    key = jax.random.key(seed, impl="threefry2x32")
    if block:
        return _in_blocks(key, dim, sizes, block, per_tensor)

    def one(key: jax.Array, runs: list[int]) -> Any:
        size = sum(runs)
        if kind == "dense":
            return draw_dense(key, dim, size)
        if kind == "sparse":
            return draw_sparse(key, dim, runs if per_leaf else [size])
        return draw_fastfood(key, dim, size)

    if per_tensor:
        return Projection(None, {p: one(paths.key_for(key, p), [n]) for p, n in sizes.items()})
    return Projection(one(key, list(sizes.values())), {})


def _in_blocks(
    key: jax.Array, dim: int, sizes: Mapping[str, int], block: int, per_tensor: bool
) -> Projection:
    """A stack of transforms a leaf. They share the signs, so that θ is transformed the same."""
    signs, total = draw_signs(key, dim), sum(sizes.values())
    parts = {
        path: Blocks(
            key=paths.key_for(key, path),
            signs=signs,
            scale=jnp.float32(1 / math.sqrt(size if per_tensor else total)),
            block=block,
            shape=(size, dim),
        )
        for path, size in sizes.items()
    }
    return Projection(None, parts)
