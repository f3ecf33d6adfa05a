"""What does each part of a sum of adapters say of each leaf? Factors, a whole update, or no update.

A part is (adapter, delta, weight). Adapters whose leaves are low-rank are all alike here, whatever
learns in them; members of a `Chain` are taken one by one.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lorax.adapters import lora_fields
from lorax.adapters.bitfit import BitFit
from lorax.adapters.full import Full
from lorax.adapters.lora import LoRA
from lorax.adapters.low_rank import check_alike, plain, plain_leaves
from lorax.core import paths
from lorax.core.adapter import Adapter, Base, Chain, Delta, Prepared, unprepared
from lorax.core.errors import LoraxError, LoraxTypeError
from lorax.core.implicit import dense
from lorax.core.leaf import Factors, LowRank, Roles
from lorax.core.packed import formed

Part = tuple[Adapter, Delta, float]


@dataclasses.dataclass(frozen=True)
class Whole:
    """A ΔW that was formed, because its adapter has no factors for it.

    Attributes:
      update: in the shape of the leaf, float32 at least.
      roles: which of its axes are stack, input and output.
    """

    update: jax.Array
    roles: Roles


Update = Factors | Whole


@dataclasses.dataclass(frozen=True)
class Gathered:
    """Several adapters of one model, leaf by leaf.

    Attributes:
      weights: one a part.
      updates: by path, and by the number of the part that has an update there; scales are folded
        into B.
      kept: members without factors that are the same in all parts, each with its delta.
    """

    weights: tuple[float, ...]
    updates: dict[str, dict[int, Update]]
    kept: tuple[tuple[Adapter, Delta], ...] = ()


class _Member(NamedTuple):
    """One adapter of a part, no `Chain`, with the base that it takes."""

    adapter: Adapter
    delta: Delta
    base: Base


def gather(
    parts: Sequence[Part],
    base: Base = None,
    *,
    rank: int | None = None,
    leave_out: bool = False,
    roles: Mapping[str, Roles] | None = None,
) -> Gathered:
    """What all `parts` say of each leaf; see `lorax.adapters.combine.combine` for the arguments.

    Raises:
      LoraxError: no parts, a weight that is not finite, a base that is needed, members without
        factors that nothing is said of, or leaves that disagree in shape or roles.
      LoraxTypeError: a part is not (adapter, delta, number).
    """
    if isinstance(parts, tuple) and parts and isinstance(parts[0], Adapter):
        raise LoraxTypeError("parts is one part: expected a list; write [(adapter, delta, weight)]")
    if not parts:
        raise LoraxError("nothing to combine: expected at least one (adapter, delta, weight)")
    if rank is not None:
        lora_fields.rank(rank)
    checked = [_checked(i, part) for i, part in enumerate(parts)]
    updates: dict[str, dict[int, Update]] = {}
    others: list[list[_Member]] = []
    for number, (adapter, delta, _) in enumerate(checked):
        others.append([])
        for member in _members(adapter, delta, base):
            leaves = _factored(number, member)
            if leaves is None:
                others[number].append(member)
            for path, factors in (leaves or {}).items():
                _put(updates, path, number, factors)
    if leave_out:
        others = [[] for _ in others]
    chains = all(isinstance(adapter, Chain) for adapter, *_ in checked)
    kept: list[_Member] = []
    if updates and chains and all(_same(others[0], other) for other in others):
        kept, others = others[0], []
    for number, members in enumerate(others):
        for member in members:
            for path, whole in _wholes(number, member, rank, roles or {}).items():
                _put(updates, path, number, whole)
    if not updates:
        raise LoraxError("nothing to combine: expected a leaf with factors in some part")
    for path, found in updates.items():
        check_alike(path, [_as_factors(update) for update in found.values()])
    weights = tuple(weight for *_, weight in checked)
    return Gathered(weights, updates, tuple((one.adapter, one.delta) for one in kept))


def whole_paths(member: Adapter, delta: Delta, base: Base) -> list[str]:
    """The leaves of the base that a member without factors moves."""
    if _stands_beside(member):
        return []
    return list(delta if isinstance(member, Full | BitFit) else member.leaves(base, delta))


def _put(updates: dict[str, dict[int, Update]], path: str, number: int, update: Update) -> None:
    found = updates.setdefault(path, {})
    if number in found:
        raise LoraxError(
            f"'{path}' is adapted by two members of part {number}: expected one member a leaf; "
            "narrow a where="
        )
    found[number] = update


def _members(adapter: Adapter, delta: Delta, base: Base) -> Iterator[_Member]:
    """The members, with the plain base, or with what is derived from it if that is theirs."""
    own = base
    if isinstance(base, Prepared) and base.adapter != adapter:
        own = base.base
    if not isinstance(adapter, Chain):
        yield _Member(adapter, delta, own)
        return
    plain_base, derived = unprepared(own)
    if not isinstance(delta, tuple | list) or len(delta) != len(adapter.members):
        raise LoraxError(
            f"delta of a Chain of {len(adapter.members)} is a {type(delta).__name__}: expected a "
            "tuple of one delta a member, as Chain.init returns it"
        )
    known = (None,) * len(adapter.members) if derived is None else derived
    for member, part, one in zip(adapter.members, delta, known, strict=True):
        yield from _members(
            member, part, plain_base if one is None else Prepared(plain_base, one, member)
        )


def _factored(number: int, member: _Member) -> dict[str, Factors] | None:
    """Every leaf as plain factors, scale included, or None if the member has others."""
    adapter, delta, base = member
    if isinstance(adapter, LoRA):
        if not isinstance(delta, Mapping):
            raise LoraxTypeError(
                f"delta of part {number} is a {type(delta).__name__}: expected {{path: Factors}}, "
                "as LoRA.init returns it"
            )
        known: Mapping[str, Any] = (
            plain_leaves(adapter, delta) if base is None else adapter.leaves(base, delta)
        )
    elif isinstance(adapter, Full | BitFit) or _stands_beside(adapter):
        return None
    elif base is None:
        raise LoraxError(
            f"part {number} has a {type(adapter).__name__}, whose update is counted from the base: "
            "pass base="
        )
    else:
        known = adapter.leaves(base, delta)
    if not all(isinstance(leaf, LowRank) for leaf in known.values()):
        return None
    return {path: _scaled(path, leaf) for path, leaf in known.items()}


def _stands_beside(adapter: Adapter) -> bool:
    """Whether what learns stands beside the parameters, as a prompt does."""
    return type(adapter).additions is not Adapter.additions


def _scaled(path: str, leaf: LowRank) -> Factors:
    factors = plain(path, leaf)
    scale = leaf.scale if isinstance(leaf.scale, int | float) else jnp.asarray(leaf.scale)
    return Factors(factors.A, factors.B * scale, factors.roles)


def _same(first: Sequence[_Member], other: Sequence[_Member]) -> bool:
    if [member.adapter for member in first] != [member.adapter for member in other]:
        return False
    ones, twos = ([member.delta for member in members] for members in (first, other))
    if jax.tree.structure(ones) != jax.tree.structure(twos):  # type: ignore[operator]
        return False
    return all(map(np.array_equal, jax.tree.leaves(ones), jax.tree.leaves(twos)))


def _wholes(
    number: int, member: _Member, rank: int | None, roles: Mapping[str, Roles]
) -> dict[str, Update]:
    adapter, delta, base = member
    kind = f"part {number} has a {type(adapter).__name__}"
    if _stands_beside(adapter):
        raise LoraxError(
            f"{kind}, which changes no parameter and has no ΔW to add: expected it equal in all "
            "parts beside a LoRA; pass leave_out=True to go without it"
        )
    if base is None or rank is None:
        lacking = " and ".join(n for n, x in (("base=", base), ("rank=", rank)) if x is None)
        raise LoraxError(
            f"{kind}, which has no factors, and not the same in all parts: expected low-rank "
            f"adapters; pass leave_out=True to go without it, or {lacking} to cut its whole update "
            "to a rank"
        )
    stored, found = paths.flatten(unprepared(base)[0]), dict[str, Update]()
    for path, leaf in adapter.leaves(base, delta).items():
        if isinstance(leaf, LowRank):
            found[path] = _scaled(path, leaf)
            continue
        w = formed(stored[path])
        w = w.astype(jnp.promote_types(w.dtype, jnp.float32))
        learnt = delta.get(path) if isinstance(delta, Mapping) else None
        known = getattr(learnt, "roles", None) or roles.get(path)
        if known is None and w.ndim == 2:
            known = Roles((), (0,), (1,))
        if known is None or not known.inputs or not known.outputs:
            raise LoraxError(
                f"{kind}, which moves '{path}' of shape {w.shape}, no matrix: narrow its where=, "
                "pass roles=lorax.roles(fn, base, *example), or leave_out=True to go without it"
            )
        known.check(path, w.shape)
        found[path] = Whole(dense(path, w, leaf) - w, known)
    return found


def _as_factors(update: Update) -> Factors:
    """Factors of rank 1 with the sides of a whole update, for comparison alone."""
    if isinstance(update, Factors):
        return update
    shapes = update.roles.shapes(update.update.shape, 1)
    a, b = (jax.ShapeDtypeStruct(shape, update.update.dtype) for shape in shapes)
    return Factors(a, b, update.roles)  # type: ignore[arg-type]


def _checked(number: int, part: Any) -> Part:
    wanted = "expected (adapter, delta, weight)"
    if not isinstance(part, tuple | list):
        raise LoraxTypeError(f"part {number} is a {type(part).__name__}: {wanted}")
    if len(part) == 2:
        raise LoraxTypeError(f"part {number} has no weight: {wanted}; 1.0 adds it as it is")
    if len(part) != 3:
        raise LoraxTypeError(f"part {number} has {len(part)} entries: {wanted}")
    adapter, delta, weight = part
    if not isinstance(adapter, Adapter):
        raise LoraxTypeError(f"part {number} is of a {type(adapter).__name__}: {wanted}")
    return adapter, delta, _number(number, weight)


def _number(number: int, weight: Any) -> float:
    if isinstance(weight, str | bytes) or not hasattr(weight, "__float__") or np.ndim(weight):
        raise LoraxTypeError(
            f"part {number} has the weight {' '.join(repr(weight).split())[:60]}: expected a "
            "number, such as 0.5"
        )
    value = float(weight)
    if not math.isfinite(value):
        raise LoraxError(f"part {number} has the weight {value}: expected a finite number")
    return value
