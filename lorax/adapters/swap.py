"""How are adapters of one model swapped under one compiled program? Each as a delta of one shape.

A compiled program is kept by the adapter and by the shapes of its delta: one adapter with other
numbers is no other program. Adapters that differ become plain LoRAs here, their ranks filled up
with zeros: columns of A and rows of B that add nothing.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lorax.adapters.combine import combine, plain_lora
from lorax.adapters.low_rank import check_alike, sides
from lorax.core.adapter import Adapter, Base, Chain, Delta, check_adapter
from lorax.core.errors import LoraxError, LoraxTypeError
from lorax.core.leaf import Factors


class Swappable(NamedTuple):
    """Adapters of one model that share a program.

    Attributes:
      adapter: for `lorax.adapt`, `merge` and `lorax.generate`, whichever delta is in.
      deltas: one a part, in their order; all of one structure, with the same shapes and dtypes.
    """

    adapter: Adapter
    deltas: list[Delta]


def swappable(parts: Sequence[tuple[Adapter, Delta]], *, base: Base = None) -> Swappable:
    """Adapters of one model, trained apart, as deltas of one adapter.

    Where all adapters are equal nothing is done, whatever their kind. Others become plain LoRAs
    with scale 1, exactly, and of no dropout: they are for evaluation. Every leaf has the largest
    of their ranks there, zero for an adapter that leaves it alone. Members of a `Chain` that have
    no factors (a `Full` head, `BitFit`) must be the same adapter in all; their numbers may differ.

    Args:
      parts: (adapter, delta).
      base: the frozen parameters, needed but for a LoRA that does not start from them.

    Raises:
      LoraxError: no parts, leaves that disagree in shape or roles, members that differ.
      LoraxTypeError: a part is not (adapter, delta).
    """
    if not parts:
        raise LoraxError("nothing to swap: expected at least one (adapter, delta)")
    for number, part in enumerate(parts):
        if not isinstance(part, tuple | list) or len(part) != 2:
            raise LoraxTypeError(
                f"part {number} is a {type(part).__name__}: expected (adapter, delta)"
            )
        check_adapter(part[0])
    first = parts[0][0]
    if all(adapter == first for adapter, _ in parts):
        deltas = [delta for _, delta in parts]
        _check_shapes(deltas)
        return Swappable(first, deltas)
    split = [_split(number, *part, base) for number, part in enumerate(parts)]
    beside = [members for _, members, _ in split]
    if any(members != beside[0] for members in beside):
        raise LoraxError(
            "the adapters have different members beside their factors: expected the same Full, "
            "BitFit or prompts in all, or none"
        )
    factors = _filled([own for own, _, _ in split])
    adapter: Adapter = plain_lora(factors[0])
    if not beside[0]:
        return Swappable(adapter, factors)
    deltas = [(own, *rest) for own, (_, _, rest) in zip(factors, split, strict=True)]
    _check_shapes(deltas)
    return Swappable(Chain(adapter, *beside[0]), deltas)


def _split(
    number: int, adapter: Adapter, delta: Delta, base: Base
) -> tuple[Mapping[str, Factors], tuple[Adapter, ...], tuple[Delta, ...]]:
    """Plain factors, and the members beside them with their deltas."""
    try:
        found = combine([(adapter, delta, 1.0)], base=base)
    except LoraxError as error:
        told = re.sub(r"\bpart 0\b", f"part {number}", str(error))
        what, of_sums, _ = told.partition("; pass ")
        cure = "; make a LoRA of it first, combine([(adapter, delta, 1.0)], base=base, rank=8) say"
        raise type(error)(what + cure if of_sums else told) from None
    if isinstance(found.adapter, Chain):
        return found.delta[0], found.adapter.members[1:], tuple(found.delta[1:])
    return found.delta, (), ()


def _filled(deltas: Sequence[Mapping[str, Factors]]) -> list[Delta]:
    paths = dict.fromkeys(path for delta in deltas for path in delta)
    found: list[Delta] = [{} for _ in deltas]
    for path in paths:
        present = [delta[path] for delta in deltas if path in delta]
        check_alike(path, present)
        rank = max(one.rank for one in present)
        dtype = jnp.result_type(*(array for one in present for array in (one.A, one.B)))
        for own, delta in zip(found, deltas, strict=True):
            own[path] = _wider(delta.get(path), present[0], rank, dtype)
    return found


def _wider(factors: Factors | None, like: Factors, rank: int, dtype: jnp.dtype) -> Factors:
    """`factors` with zeros up to `rank`; all zeros, with the sides of `like`, for none."""
    (a_sides, b_sides), at = sides(like), len(like.roles.stack)
    a = jnp.zeros((*a_sides, rank), dtype)
    b = jnp.zeros((*b_sides[:at], rank, *b_sides[at:]), dtype)
    if factors is not None:
        a = a.at[..., : factors.rank].set(factors.A.astype(dtype))
        b = b.at[(slice(None),) * at + (slice(factors.rank),)].set(factors.B.astype(dtype))
    return Factors(a, b, like.roles)


def _check_shapes(deltas: Sequence[Delta]) -> None:
    form = lambda delta: jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), delta)
    if any(form(delta) != form(deltas[0]) for delta in deltas[1:]):
        raise LoraxError(
            "two deltas of one adapter have other leaves, shapes or dtypes: expected adapters of "
            "one model, with heads of one number of classes"
        )
