"""How far do biases alone go? BitFit (Ben Zaken et al., 2021, arXiv 2106.10199)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from lorax.adapters.full import Full
from lorax.core.adapter import Adapter, Base, Delta
from lorax.core.leaf import Roles


@dataclasses.dataclass(frozen=True)
class BitFit(Adapter):
    """Trains the bias vectors and nothing else. The delta is that of `Full` on them.

    Attributes:
      where: regular expressions for the biases; the default takes every leaf named `bias`.
      exclude: expressions for leaves to leave out of `where`.
    """

    where: tuple[str, ...] = (r"(.*/)?bias",)
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        full = self._full
        object.__setattr__(self, "where", full.where)
        object.__setattr__(self, "exclude", full.exclude)

    @property
    def _full(self) -> Full:
        return Full(where=self.where, exclude=self.exclude)

    def init(self, key: jax.Array, base: Base, roles: Mapping[str, Roles] | None = None) -> Delta:
        """Copies of the biases; raises as `Full.init`."""
        return self._full.init(key, base, roles)

    def merge(self, base: Base, delta: Delta) -> Base:
        """The base with the trained biases in place."""
        return self._full.merge(base, delta)

    def leaves(self, base: Base, delta: Delta) -> dict[str, Any]:
        """The trained biases, checked against the base."""
        return self._full.leaves(base, delta)
