"""How do trees of different shapes become one stack, and come out of it again? By zero-padding."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Tree = Any


def common(trees: Sequence[Tree]) -> Tree:
    """The shape that holds each of several trees of one structure: the longest of every axis.

    Returns:
      The same tree of `jax.ShapeDtypeStruct`s, dtypes those of the first.
    """

    def longest(*leaves: Any) -> jax.ShapeDtypeStruct:
        sizes = zip(*(leaf.shape for leaf in leaves), strict=True)
        return jax.ShapeDtypeStruct(tuple(map(max, sizes)), leaves[0].dtype)

    return jax.tree.map(longest, *trees)


def pad(tree: Tree, like: Tree) -> Tree:
    """`tree` with zeros at the end of every axis that is longer in `like`."""

    def one(x: Any, wanted: Any) -> Any:
        if x.shape == wanted.shape:
            return x
        widths = [(0, n - m) for m, n in zip(x.shape, wanted.shape, strict=True)]
        return np.pad(x, widths) if isinstance(x, np.ndarray) else jnp.pad(x, widths)

    return jax.tree.map(one, tree, like)


def cut(tree: Tree, like: Tree) -> Tree:
    """The leading part of every leaf, of the shape that it has in `like`; undoes `pad`."""

    def one(x: Any, wanted: Any) -> Any:
        return x if x.shape == wanted.shape else x[tuple(slice(n) for n in wanted.shape)]

    return jax.tree.map(one, tree, like)


def stack(trees: Sequence[Tree]) -> Tree:
    """Trees of one shape as one, with a leading axis that enumerates them."""

    def one(*leaves: Any) -> Any:
        on_host = all(isinstance(leaf, np.ndarray | np.generic) for leaf in leaves)
        return np.stack(leaves) if on_host else jnp.stack(leaves)

    return jax.tree.map(one, *trees)


def take(stacked: Tree, number: int) -> Tree:
    """One of a stack."""
    return jax.tree.map(lambda leaf: leaf[number], stacked)
