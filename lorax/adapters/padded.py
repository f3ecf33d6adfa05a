"""How can adapters that differ in numbers share one program? Ranks padded, numbers beside them.

Columns of A beyond a unit's rank and rows of B are zero. Their gradients are zero then (that of A
is xᵀ(g Bᵀ), that of B (x A)ᵀ g), so they stay zero under every optimizer that leaves a zero with a
zero gradient alone: Adam with eps > 0 does, weight decay included. The scale, the rate of dropout
and the offset of PiSSA are arrays beside A and B.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lorax.adapters.lora import LoRA
from lorax.core.adapter import (
    Adapter,
    Base,
    Chain,
    Delta,
    Prepared,
    check_adapter,
    unprepared,
)
from lorax.core.additions import with_additions
from lorax.core.description import from_dict
from lorax.core.errors import LoraxTypeError
from lorax.core.implicit import with_leaves
from lorax.core.leaf import Factors, LowRank, Roles


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PaddedDelta:
    """What `Padded` takes as its delta: one that learns, and the numbers of its unit.

    Attributes:
      delta: as the unit's own adapter has it, but for zeros beyond its rank.
      scale: of every leaf with factors, by path; scalars.
      dropout: rate on the input of A, by path; empty where no unit has any.
      offset: A0 and B0 by path, padded too; empty but for decompositions (PiSSA, OLoRA).
    """

    delta: Delta
    scale: Mapping[str, Any]
    dropout: Mapping[str, Any]
    offset: Mapping[str, Factors]


@dataclasses.dataclass(frozen=True)
class Padded(Adapter):
    """The adapters of a pack as one: they differ in rank, alpha, scaling, dropout and first draw.

    Under `jax.vmap` over a stack of deltas it evaluates units side by side over one base. That is
    of LoRAs; of any other adapter all units have the same one, and what it derives from the base.

    Attributes:
      unit: the adapter of any of them: it says which member of a `Chain` has factors.
    """

    unit: Adapter

    def __post_init__(self) -> None:
        if isinstance(self.unit, Mapping):
            object.__setattr__(self, "unit", from_dict(self.unit))
        check_adapter(self.unit)

    def init(self, key: jax.Array, base: Base, roles: Mapping[str, Roles] | None = None) -> Delta:
        """The first delta of `unit`, with its numbers; nothing is padded yet."""
        return with_numbers(self.unit, base, self.unit.init(key, base, roles))

    def merge(self, base: Base, delta: Delta) -> Base:
        """W0 + scale · A B (- A0 B0), in float32, cast once; whole leaves as they are."""
        merged = with_leaves(unprepared(base)[0], self.leaves(base, delta))
        return with_additions(merged, self.additions(base, delta))

    def leaves(self, base: Base, delta: Delta) -> dict[str, Any]:
        """Factors with the numbers that lie beside them; leaves of other members as they are.

        Raises:
          LoraxTypeError: the delta is no `PaddedDelta`.
        """
        found: dict[str, Any] = {}
        for member, part, own in self._members(base, delta):
            if not isinstance(member, LoRA):
                found |= member.leaves(own, part)
                continue
            for path, factors in part.items():
                found[path] = LowRank(
                    factors, delta.scale[path], delta.offset.get(path),
                    delta.dropout.get(path, 0.0),
                )  # fmt: skip
        return found

    def additions(self, base: Base, delta: Delta) -> dict[str, jax.Array]:
        """Those of the members.

        Raises:
          LoraxTypeError: the delta is no `PaddedDelta`.
        """
        found: dict[str, jax.Array] = {}
        for member, part, own in self._members(base, delta):
            found |= member.additions(own, part)
        return found

    def penalty(self, delta: Delta) -> jax.Array | None:
        """That of the unit."""
        return self.unit.penalty(delta.delta)

    def derive(self, base: Base, delta: Delta) -> Any:
        """What the members without a rank of their own derive, or None if there is nothing."""
        base, _ = unprepared(base)
        parts = tuple(
            None if isinstance(member, LoRA) else member.derive(base, part)
            for member, part in _members(self.unit, delta.delta)
        )
        return None if all(part is None for part in parts) else parts

    def _members(self, base: Base, delta: Delta) -> Iterator[tuple[Adapter, Delta, Base]]:
        """Each member with its delta, and with the base as it wants it."""
        if not isinstance(delta, PaddedDelta):
            raise LoraxTypeError(
                f"delta is a {type(delta).__name__}: expected a PaddedDelta, as "
                "with_numbers(adapter, base, delta) returns it"
            )
        base, derived = unprepared(base, self)
        members = list(_members(self.unit, delta.delta))
        for (member, part), known in zip(members, derived or [None] * len(members), strict=True):
            yield member, part, base if known is None else Prepared(base, known, member)

    def to_dict(self) -> dict[str, Any]:
        """As `Adapter.to_dict`, with the unit's adapter nested."""
        return {"adapter": "Padded", "unit": self.unit.to_dict()}


def with_numbers(adapter: Adapter, base: Base, delta: Delta, *, dropout: bool = True) -> Delta:
    """`delta` of `adapter` with the numbers that `Padded` needs beside it.

    Args:
      adapter: of the unit: a LoRA, a `Chain`, or one without factors.
      base: read by decompositions alone.
      delta: of the unit; it may be padded afterwards, by zeros, as all of the result may.
      dropout: whether some unit of the pack has dropout, so that each needs a rate.
    """
    scale: dict[str, Any] = {}
    rates: dict[str, Any] = {}
    offset: dict[str, Factors] = {}
    for member, part in _members(adapter, delta):
        if isinstance(member, LoRA):
            scale |= {path: jnp.asarray(float(member.scale_of(path))) for path in part}
            rates |= {path: jnp.asarray(float(member.dropout)) for path in part if dropout}
            offset |= member.derive(base, part) or {}
    return PaddedDelta(delta, scale, rates, offset)


def _members(adapter: Adapter, delta: Delta) -> Iterator[tuple[Adapter, Delta]]:
    if isinstance(adapter, Chain):
        for member, part in zip(adapter.members, delta, strict=True):
            yield from _members(member, part)
    else:
        yield adapter, delta
