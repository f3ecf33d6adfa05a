"""Which leaves are trained whole? The baseline, and the classifier head beside LoRA."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lorax.core import paths
from lorax.core.adapter import Adapter, Base, Delta, unprepared
from lorax.core.errors import LoraxError, LoraxTypeError
from lorax.core.implicit import with_leaves
from lorax.core.leaf import Roles
from lorax.core.where import (
    check_order,
    check_paths,
    check_patterns,
    check_used,
    check_whole,
)


@dataclasses.dataclass(frozen=True)
class Full(Adapter):
    """Trains the selected leaves themselves: full fine-tuning when `where` selects everything.

    The delta holds a trained copy of each leaf, `{path: array}`, in float32 or wider, so weight
    decay pulls towards zero as in ordinary fine-tuning; `merge` casts it to the leaf's dtype.

    Attributes:
      where: regular expressions, each fully matched against "/"-joined paths.
      exclude: expressions for leaves to leave out of `where`.
    """

    where: tuple[str, ...] = (".*",)
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "where", check_patterns("where", self.where))
        object.__setattr__(self, "exclude", check_patterns("exclude", self.exclude))

    def init(self, key: jax.Array, base: Base, roles: Mapping[str, Roles] | None = None) -> Delta:
        """Copies of the selected leaves; nothing is drawn.

        Raises:
          LoraxError: a pattern without a match, or a selected leaf that the program never uses.
          LoraxTypeError: a selected leaf without floating-point numbers.
        """
        leaves = paths.flatten(unprepared(base)[0])
        delta = {}
        for path in self._paths(leaves):
            check_whole(path, leaves[path], "Full")
            check_used(path, roles)
            dtype = jnp.promote_types(leaves[path].dtype, jnp.float32)
            delta[path] = jnp.array(leaves[path], dtype, copy=True)
        return delta

    def merge(self, base: Base, delta: Delta) -> Base:
        """The base with the trained copies in place."""
        return with_leaves(unprepared(base)[0], self.leaves(base, delta))

    def leaves(self, base: Base, delta: Delta) -> dict[str, Any]:
        """The trained copies, checked against the base."""
        base, _ = unprepared(base)
        stored = paths.flatten(base)
        check_order(base, stored, delta)
        check_paths(delta, self._paths(stored), stored)
        for path, leaf in delta.items():
            if not paths.is_array(leaf):
                raise LoraxTypeError(
                    f"delta at '{path}' is a {type(leaf).__name__}: expected an array, as "
                    "Full.init returns it; was it saved by another kind of adapter?"
                )
            if tuple(leaf.shape) != tuple(stored[path].shape):
                raise LoraxError(
                    f"delta at '{path}' has shape {tuple(leaf.shape)} but the base has "
                    f"{tuple(stored[path].shape)}: it belongs to another model; load its own base"
                )
        return dict(delta)

    def _paths(self, leaves: Mapping[str, Any]) -> list[str]:
        left_out = paths.excluded(self.exclude, leaves)
        return [path for path in paths.select(self.where, leaves) if path not in left_out]
