"""How few numbers are enough? All chosen leaves move in a random subspace: W = W0 + P θ.

Li, Farkhoor, Liu and Yosinski, "Measuring the Intrinsic Dimension of Objective Landscapes", 2018,
arXiv:1804.08838; Aghajanyan, Zettlemoyer and Gupta, "Intrinsic Dimensionality Explains the
Effectiveness of Language Model Fine-Tuning", 2020, arXiv:2012.13255.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lorax.adapters import subspace_fields
from lorax.adapters.projections import PROJECTIONS, Projection, draw
from lorax.core import paths
from lorax.core.adapter import Adapter, Base, Delta, unprepared
from lorax.core.errors import LoraxError, LoraxTypeError, check_choice
from lorax.core.implicit import with_leaves
from lorax.core.leaf import Roles, Shift
from lorax.core.where import check_patterns, check_used, check_whole

SCOPES = ("global", "per_tensor")
DENSITIES = ("global", "leaf")


@dataclasses.dataclass(frozen=True)
class Subspace(Adapter):
    """Trains `dim` numbers θ in all, which a random matrix P spreads over the chosen leaves.

    The delta is `{"theta": (dim,)}`, zero at the start, and with `layerwise` also `{"scales":
    (m,)}`, one at the start. P is a function of `seed` and of the leaves' names and shapes; it is
    never stored: `prepare` draws it once for many steps, a plain base draws it in each. Column j of
    P does not depend on `dim`, so a smaller subspace of one seed lies within a larger one (of
    Fastfood on leaves that are shorter than θ: only up to the next power of two).

    Attributes:
      dim: d, the numbers that learn, the scales of `layerwise` included.
      projection: "dense" (normal numbers; d · D of them), "sparse" (√D entries of ±c a column; the
        fastest up to d of some 10^4) or "fastfood" (Walsh-Hadamard transforms; any d).
      scope: "global", one P over all D numbers whose columns have norm 1 (Li et al.); or
        "per_tensor", a P for each leaf with columns of norm 1 there, all of one θ, as published
        code for language models has it: a whole column has the norm √(number of leaves), so rates
        and dimensions of the two are not on one scale.
      layerwise: SAID: one learnt factor λ a layer, W = W0 + λ P θ, paid for out of `dim`: θ has
        dim - m numbers. A layer is a module, the leaves whose paths differ in the last part only; a
        leaf that stacks layers counts as one.
      where: regular expressions, each fully matched against "/"-joined paths.
      exclude: expressions for leaves to leave out of `where`.
      seed: of P, apart from every other seed.
      density: of "sparse": "global", 1/√D (Li et al.'s text), or "leaf", 1/√n for a leaf of n
        numbers (their code).
      block: of "fastfood": 0 for one transform over all, drawn once by `prepare` (12 bytes for
        each of up to 2 D rows); or a power of two, for transforms of that length one after the
        other (Le et al., 2013), drawn in every step where they are used, so that a step needs
        little memory beside the leaves.
    """

    dim: int = 1000
    projection: str = "sparse"
    scope: str = "global"
    layerwise: bool = False
    where: tuple[str, ...] = (".*",)
    exclude: tuple[str, ...] = ()
    seed: int = 0
    density: str = "global"
    block: int = 0

    def __post_init__(self) -> None:
        set_field = lambda name, value: object.__setattr__(self, name, value)
        set_field("dim", subspace_fields.dim(self.dim))
        check_choice("projection", self.projection, PROJECTIONS)
        check_choice("scope", self.scope, SCOPES)
        check_choice("density", self.density, DENSITIES)
        set_field("where", check_patterns("where", self.where))
        set_field("exclude", check_patterns("exclude", self.exclude))
        set_field("seed", subspace_fields.seed(self.seed))
        set_field("block", subspace_fields.block(self.block, self.projection, self.dim))

    def init(self, key: jax.Array, base: Base, roles: Mapping[str, Roles] | None = None) -> Delta:
        """θ of zeros, and scales of ones; nothing is drawn, so `key` is not used.

        Raises:
          LoraxError: a pattern without a match, no leaf at all, a leaf that the program never uses,
            or a `dim` that is larger than the leaves or leaves nothing beside the scales.
          LoraxTypeError: a selected leaf without floating-point numbers.
        """
        chosen = self.chosen(base)
        for path, leaf in chosen.items():
            check_whole(path, leaf, "Subspace")
            check_used(path, roles)
        dtype = jnp.result_type(jnp.float32, *(leaf.dtype for leaf in chosen.values()))
        delta = {"theta": jnp.zeros(self.directions(chosen), dtype)}
        if self.layerwise:
            delta["scales"] = jnp.ones(len(_layers(chosen)), dtype)
        return delta

    def merge(self, base: Base, delta: Delta) -> Base:
        """W0 + λ P θ of every chosen leaf, in float32, cast once."""
        return with_leaves(unprepared(base, self)[0], self.leaves(base, delta))

    def leaves(self, base: Base, delta: Delta) -> dict[str, Any]:
        """λ P θ of every chosen leaf, checked against the base."""
        base, drawn = unprepared(base, self)
        chosen = self.chosen(base)
        theta, scales = self._parts(chosen, delta)
        projection: Projection = self.derive(base, delta) if drawn is None else drawn
        updates = projection.updates(theta, {path: leaf.shape for path, leaf in chosen.items()})
        if scales is not None:
            layers = _layers(chosen)
            updates = {path: scales[layers.index(_layer(path))] * x for path, x in updates.items()}
        return {path: Shift(update) for path, update in updates.items()}

    def derive(self, base: Base, delta: Delta) -> Projection:
        """P, drawn."""
        chosen = self.chosen(base)
        sizes = {path: math.prod(leaf.shape) for path, leaf in chosen.items()}
        return draw(
            self.projection, self.seed, self.directions(chosen), sizes,
            per_tensor=self.scope == "per_tensor", per_leaf=self.density == "leaf",
            block=self.block,
        )  # fmt: skip

    def chosen(self, base: Base) -> dict[str, Any]:
        """The leaves of `where`, in the order of their paths, whatever the order of the tree.

        Raises:
          LoraxError: a pattern without a match, or no leaf at all.
        """
        stored = paths.flatten(unprepared(base)[0])
        left_out = paths.excluded(self.exclude, stored)
        found = [path for path in paths.select(self.where, stored) if path not in left_out]
        if not found:
            raise LoraxError(
                f"no leaf is chosen: exclude={self.exclude!r} leaves none of where={self.where!r}; "
                "widen where="
            )
        return {path: stored[path] for path in sorted(found)}

    def directions(self, chosen: Mapping[str, Any]) -> int:
        """Columns of P over the leaves `chosen`: `dim` without the scales of `layerwise`.

        Raises:
          LoraxError: more columns than rows, or no column beside the scales.
        """
        total = sum(math.prod(leaf.shape) for leaf in chosen.values())
        if self.dim > total:
            raise LoraxError(
                f"dim is {self.dim:,} but the chosen leaves have {total:,} numbers: expected at "
                "most as many; lower dim, or widen where="
            )
        least = self.least(chosen)
        if self.dim < least:
            raise LoraxError(
                f"dim is {self.dim:,} but {least - 1:,} layers have a scale each: expected at "
                f"least {least:,}; raise dim, narrow where=, or set layerwise=False"
            )
        return self.dim - least + 1

    def least(self, chosen: Mapping[str, Any]) -> int:
        """The smallest `dim` over these leaves: 1, and one more for every scale."""
        return 1 + (len(_layers(chosen)) if self.layerwise else 0)

    def _parts(self, chosen: Mapping[str, Any], delta: Any) -> tuple[jax.Array, jax.Array | None]:
        """θ and the scales, of the lengths that they must have."""
        wanted = {"theta": self.directions(chosen)}
        if self.layerwise:
            wanted["scales"] = len(_layers(chosen))
        names = "'theta' and 'scales'" if self.layerwise else "'theta'"
        if not isinstance(delta, Mapping) or set(delta) != set(wanted):
            found = f"has {sorted(delta)[:3]}" if isinstance(delta, Mapping) else "is no mapping"
            raise LoraxTypeError(
                f"delta of a Subspace {found}: expected {names}, as Subspace.init returns them; "
                "was it saved by another adapter, or are base and delta swapped?"
            )
        for name, length in wanted.items():
            shape = tuple(delta[name].shape)
            if shape != (length,):
                raise LoraxError(
                    f"'{name}' of the delta has shape {shape} but this Subspace needs ({length},): "
                    "it was saved with another config or for another model; load its adapter.json"
                )
        return delta["theta"], delta.get("scales")


def _layer(path: str) -> str:
    return path.rpartition("/")[0]


def _layers(chosen: Mapping[str, Any]) -> list[str]:
    """The modules that the leaves lie in."""
    return list(dict.fromkeys(map(_layer, chosen)))
