"""What is LoRA? ΔW = scale · A B beside a frozen W0 (Hu et al., 2021, arXiv 2106.09685)."""

import dataclasses
import math
import warnings
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lorax.adapters import lora_fields, lora_init
from lorax.adapters.targets import matrix_roles, targets
from lorax.core import paths
from lorax.core.adapter import Adapter, Base, Delta, unprepared
from lorax.core.errors import LoraxError, LoraxTypeError, LoraxWarning, check_choice
from lorax.core.implicit import with_leaves
from lorax.core.leaf import Factors, LowRank, Roles
from lorax.core.where import (
    ALL_LINEAR,
    check_leaf,
    check_order,
    check_paths,
    check_patterns,
    check_where,
    overrides_at,
    spelled,
)

SCALINGS = ("standard", "rslora")


@dataclasses.dataclass(frozen=True)
class LoRA(Adapter):
    """A trained pair A (in, r), B (r, out) for each selected leaf: W = W0 + scale · A B.

    The delta is `{path: Factors(A, B)}`. Rank means the same for every leaf kind: that of ΔW as
    an (in × out) matrix, one a layer or expert where the leaf is stacked.

    Attributes:
      rank: r.
      alpha: numerator of the scale; a traced scalar is allowed inside a transformation.
      where: "all-linear", which is every leaf that the program contracts in a dot product and
        never looks up (an untied output head included, embeddings, convolutions and norms not);
        or regular expressions, each fully matched against "/"-joined paths; or a mapping from
        expression to overrides, `{".*/query/kernel": {"rank": 4}, ".*/value/kernel": {}}`.
      exclude: expressions for leaves to leave out of `where`.
      scaling: "standard", alpha / r, or "rslora", alpha / sqrt(r) (Kalajdzievski, 2023, arXiv
        2312.03732).
      initializer: "kaiming" (A uniform in ±1/sqrt(in), PEFT's default), "gaussian" (A normal with
        standard deviation 1/r), "orthogonal"; all with ΔW = 0. Or "pissa" (Meng et al., 2024, arXiv
        2404.02948), "olora" (Büyükakyüz, 2024, arXiv 2406.01775), which start from a decomposition
        A0, B0 of W0 and add scale · ((A0 + A) (B0 + B) - A0 B0), A and B starting at zero: the
        weights' sum and the gradients are theirs, and W0 is never touched.
      init_scale: factor on the random numbers of a draw; 1 for decompositions.
      dropout: rate on the input of A, applied where `lorax.adapt` is given a `dropout_key`.
      dtype: of A and B; None means float32, float64 for float64 leaves.
    """

    rank: int = 8
    alpha: Any = 16.0
    where: Any = ALL_LINEAR
    exclude: tuple[str, ...] = ()
    scaling: str = "standard"
    initializer: str = "kaiming"
    init_scale: float = 1.0
    dropout: float = 0.0
    dtype: str | None = None

    def __post_init__(self) -> None:
        set_field = lambda name, value: object.__setattr__(self, name, value)
        set_field("rank", lora_fields.rank(self.rank))
        set_field("alpha", lora_fields.alpha(self.alpha))
        set_field(
            "where", check_where(self.where, {"rank": lora_fields.rank, "alpha": lora_fields.alpha})
        )
        set_field("exclude", check_patterns("exclude", self.exclude))
        check_choice("scaling", self.scaling, SCALINGS)
        check_choice("initializer", self.initializer, lora_init.INITIALIZERS)
        set_field("init_scale", lora_fields.init_scale(self.init_scale, self.starts_from_base))
        set_field("dropout", lora_fields.dropout(self.dropout))
        set_field("dtype", lora_fields.dtype(self.dtype))

    def init(self, key: jax.Array, base: Base, roles: Mapping[str, Roles] | None = None) -> Delta:
        """`{path: Factors(A, B)}` of every selected leaf, with ΔW exactly zero.

        Raises:
          LoraxError: a pattern without a match, no leaf at all, a leaf that the program never
            uses, or one whose matrix is unknown (more than two axes and no roles, or two uses
            that disagree).
          LoraxTypeError: a leaf without floating-point numbers.
        """
        stored = paths.flatten(unprepared(base)[0])
        delta, wasteful = {}, []
        for path in self._targets(stored, roles):
            leaf, rank = stored[path], self.rank_of(path)
            check_leaf(path, leaf, "LoRA")
            leaf_roles = matrix_roles(path, leaf, roles)
            _, fan_in, fan_out = leaf_roles.matrix(leaf.shape)
            if rank > min(fan_in, fan_out):
                wasteful.append(f"'{path}' ({fan_in} × {fan_out})")
            dtype = self.dtype or jnp.promote_types(leaf.dtype, jnp.float32)
            drawn = lora_init.draw(
                self.initializer, paths.key_for(key, path), path, leaf, leaf_roles, rank, dtype
            )
            delta[path] = lora_init.scaled(drawn, self.init_scale)
        if wasteful:
            warnings.warn(
                f"rank exceeds the smaller side of {len(wasteful)} leaves and wastes parameters "
                f"there: {', '.join(wasteful)}; lower rank, or exclude them",
                LoraxWarning,
                stacklevel=3,
            )
        return delta

    def merge(self, base: Base, delta: Delta) -> Base:
        """W0 + scale · A B (- A0 B0) for every leaf of the delta, in float32, cast once."""
        return with_leaves(unprepared(base, self)[0], self.leaves(base, delta))

    def leaves(self, base: Base, delta: Delta) -> dict[str, Any]:
        """The factors with their scale, offset and dropout, checked against base and config."""
        base, derived = unprepared(base, self)
        stored = paths.flatten(base)
        check_order(base, stored, delta)
        wanted = None if self.where == ALL_LINEAR else self._targets(stored, None)
        check_paths(delta, wanted, stored)
        for path, factors in delta.items():
            self._check(path, factors, stored[path])
        offsets = self.derive(base, delta) if derived is None else derived
        return {
            path: LowRank(factors, self.scale_of(path), (offsets or {}).get(path), self.dropout)
            for path, factors in delta.items()
        }

    def derive(self, base: Base, delta: Delta) -> dict[str, Factors] | None:
        """A0 and B0 for initialisations that start from W0; None for the others."""
        if not self.starts_from_base:
            return None
        stored = paths.flatten(unprepared(base)[0])
        return {
            path: lora_init.decomposed(
                self.initializer, path, stored[path], factors.roles, factors.rank,
                self.scale_of(path), factors.A.dtype,
            )
            for path, factors in delta.items()
        }  # fmt: skip

    @property
    def starts_from_base(self) -> bool:
        """Whether ΔW is counted from factors of W0 (PiSSA, OLoRA), so that it needs the base."""
        return self.initializer in lora_init.DECOMPOSITIONS

    def rank_of(self, path: str) -> int:
        """The rank at `path`, overrides of `where` applied."""
        return overrides_at(self.where, path).get("rank", self.rank)

    def alpha_of(self, path: str) -> Any:
        """The alpha at `path`, overrides of `where` applied."""
        return overrides_at(self.where, path).get("alpha", self.alpha)

    def scale_of(self, path: str) -> Any:
        """alpha / r or alpha / sqrt(r) at `path`."""
        rank = self.rank_of(path)
        return self.alpha_of(path) / (math.sqrt(rank) if self.scaling == "rslora" else rank)

    def to_dict(self) -> dict[str, Any]:
        """As `Adapter.to_dict`; overrides are a mapping again."""
        return super().to_dict() | {"where": spelled(self.where), "exclude": list(self.exclude)}

    def _targets(self, stored: Mapping[str, Any], roles: Mapping[str, Roles] | None) -> list[str]:
        return targets(self.where, self.exclude, stored, roles)

    def _check(self, path: str, factors: Any, leaf: Any) -> None:
        arrays = isinstance(factors, Factors) and map(paths.is_array, (factors.A, factors.B))
        if not arrays or not all(arrays):
            raise LoraxTypeError(
                f"delta at '{path}' is a {type(factors).__name__}: expected Factors of arrays A "
                "and B, as LoRA.init returns them; was it saved by another kind of adapter?"
            )
        rank = self.rank_of(path)
        if factors.rank != rank:
            raise LoraxError(
                f"delta at '{path}' has rank {factors.rank} but this LoRA has rank {rank}; it was "
                f"saved with another config: load its adapter.json, or set rank={factors.rank}"
            )
        factors.roles.check(path, leaf.shape)
        shapes = tuple(factors.A.shape), tuple(factors.B.shape)
        wanted = factors.roles.shapes(leaf.shape, rank)
        if shapes != wanted:
            raise LoraxError(
                f"delta at '{path}' has A {shapes[0]} and B {shapes[1]} but the base needs A "
                f"{wanted[0]} and B {wanted[1]}: it belongs to another model, or it is a stack of "
                "deltas outside vmap"
            )
