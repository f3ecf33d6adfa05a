"""What is an adapter? Two functions, `init` and `merge`, and how several make one."""

import abc
import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lorax.core import paths
from lorax.core.additions import with_additions
from lorax.core.errors import LoraxError, LoraxTypeError
from lorax.core.implicit import with_leaves
from lorax.core.leaf import LowRank, Roles

Base = Any
Delta = Any


class Adapter(abc.ABC):
    """How a frozen base is adapted. Concrete adapters are frozen dataclasses of plain values.

    An adapter is its configuration: it holds no array, compares by value, and survives
    `to_dict` and `from_dict` unchanged.
    """

    @abc.abstractmethod
    def init(self, key: jax.Array, base: Base, roles: Mapping[str, Roles] | None = None) -> Delta:
        """A delta for which `merge(base, delta)` equals `base` bit for bit.

        Args:
          key: each leaf's draw depends on it and on the leaf's path only.
          base: the frozen parameters, any pytree; shapes and dtypes suffice where the
            initialisation does not read values.
          roles: how the program uses each leaf, as `lorax.roles` returns it; None means that every
            adapted leaf is a matrix (in, out).
        """

    @abc.abstractmethod
    def merge(self, base: Base, delta: Delta) -> Base:
        """Plain parameters with the structure, shapes and dtypes of `base`, which is untouched.

        Of a quantised base every leaf is formed: the result is dense.
        """

    def leaves(self, base: Base, delta: Delta) -> dict[str, Any]:
        """The adapted leaves by path: `LowRank`, `Rescaled`, `Shift`, or an array that takes the
        leaf's place.

        What `adapt` evaluates. By default every leaf of `merge`, which is always right; an adapter
        with a factored form overrides it.
        """
        return paths.flatten(self.merge(base, delta))

    def additions(self, base: Base, delta: Delta) -> dict[str, jax.Array]:
        """What stands beside the parameters, in the collection `lorax.core.additions` speaks of.

        Returns:
          Arrays by path, "additions/layer_0/attention/key" say; none for an adapter that changes
          parameters alone. One that adds something has it in `merge` too.
        """
        return {}

    @property
    def virtual_tokens(self) -> int:
        """How many places of a model's context it takes before every row; most take none."""
        return 0

    def penalty(self, delta: Delta) -> jax.Array | None:
        """What is added to every loss under this adapter, a scalar; None for nothing."""
        return None

    def watch(self, delta: Delta) -> Any:
        """What `settle` remembers from one update to the next, at the first; None for nothing."""
        return None

    def settle(
        self, delta: Delta, old: Delta, grads: Delta, memory: Any, now: Any, steps: int
    ) -> tuple[Delta, Any]:
        """What the method does to the delta after an update: (the delta, the memory).

        Args:
          delta: after the update.
          old, grads: before it, and its gradient.
          memory: of `watch`, or of the update before.
          now: how many updates were made before this one; traced.
          steps: updates in all.
        """
        return delta, memory

    def derive(self, base: Base, delta: Delta) -> Any:
        """What this adapter computes from the frozen base once, or None if there is nothing."""
        return None

    def prepare(self, base: Base, delta: Delta) -> Base:
        """`base` with `derive`'s result beside it, so that no step computes it again.

        Optional: every function takes a plain base as well and derives anew. Returns `base` itself
        where nothing is derived.
        """
        base, _ = unprepared(base)
        return _prepared(base, self.derive(base, delta), self)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready description; `from_dict` is its inverse."""
        names = [field.name for field in dataclasses.fields(self)]  # type: ignore[arg-type]
        fields = {name: getattr(self, name) for name in names}
        return {"adapter": type(self).__name__, **fields}

    def to_json(self) -> str:
        """`to_dict` as JSON text."""
        return json.dumps(self.to_dict(), sort_keys=True)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Prepared:
    """A frozen base and what an adapter derived from it; a pytree, frozen like the base.

    Attributes:
      base: the parameters.
      derived: arrays computed from them, PiSSA's A0 and B0 for instance.
      adapter: whose they are; static.
    """

    base: Base
    derived: Any
    adapter: Adapter = dataclasses.field(metadata={"static": True})


def unprepared(base: Base, adapter: Adapter | None = None) -> tuple[Base, Any]:
    """The parameters and the derived part (None for a plain base).

    Raises:
      LoraxError: `adapter` is given and the base was prepared for another one.
    """
    if not isinstance(base, Prepared):
        return base, None
    if adapter is not None and base.adapter != adapter:
        raise LoraxError(
            f"base was prepared for {base.adapter} and is used with {adapter}: expected the same "
            "adapter; prepare the plain base again, or pass the plain base"
        )
    return base.base, base.derived


@dataclasses.dataclass(frozen=True, init=False)
class Chain(Adapter):
    """Several adapters as one, each on leaves of its own: LoRA on attention, `Full` on the head.

    Members that add something beside the parameters (prompts, prefixes) go with any others.

    The delta is the tuple of the members' deltas.

    Raises:
      LoraxTypeError: a member is not an adapter.
      LoraxError: no members; or, from `init` and `merge`, two members adapt one leaf.
    """

    members: tuple[Adapter, ...]

    def __init__(self, *members: Adapter):
        if not members:
            raise LoraxError("Chain() got no adapters: expected at least one, as in Chain(LoRA())")
        if len(members) == 1 and isinstance(members[0], list | tuple):
            raise LoraxTypeError(
                f"Chain got one {type(members[0]).__name__} of adapters: expected the adapters "
                "themselves, as in Chain(first, second)"
            )
        for member in members:
            check_adapter(member)
        object.__setattr__(self, "members", tuple(members))

    def init(self, key: jax.Array, base: Base, roles: Mapping[str, Roles] | None = None) -> Delta:
        """The members' deltas; a leaf's draw is the one its member alone would make."""
        delta = tuple(member.init(key, base, roles) for member in self.members)
        self.leaves(base, delta)
        return delta

    def merge(self, base: Base, delta: Delta) -> Base:
        """The base with the leaves and the additions of all members."""
        merged = with_leaves(self._unprepared(base)[0], self.leaves(base, delta))
        return with_additions(merged, self.additions(base, delta))

    def leaves(self, base: Base, delta: Delta) -> dict[str, Any]:
        """The union of the members' leaves."""
        return self._union(base, delta, lambda member, own, part: member.leaves(own, part))

    def additions(self, base: Base, delta: Delta) -> dict[str, jax.Array]:
        """The union of the members' additions."""
        return self._union(base, delta, lambda member, own, part: member.additions(own, part))

    @property
    def virtual_tokens(self) -> int:
        """Those of all members."""
        return sum(member.virtual_tokens for member in self.members)

    def penalty(self, delta: Delta) -> jax.Array | None:
        """The sum of the members' penalties."""
        parts = zip(self.members, delta, strict=True)
        found = [one for one in (m.penalty(part) for m, part in parts) if one is not None]
        return jnp.sum(jnp.stack(found)) if found else None

    def watch(self, delta: Delta) -> Any:
        """The members' memories, or None if none has any."""
        parts = tuple(m.watch(part) for m, part in zip(self.members, delta, strict=True))
        return None if all(part is None for part in parts) else parts

    def settle(
        self, delta: Delta, old: Delta, grads: Delta, memory: Any, now: Any, steps: int
    ) -> tuple[Delta, Any]:
        """Each member settles its part."""
        if memory is None:
            return delta, None
        parts = zip(self.members, delta, old, grads, memory, strict=True)
        found = [m.settle(new, was, grad, kept, now, steps) for m, new, was, grad, kept in parts]
        return tuple(new for new, _ in found), tuple(kept for _, kept in found)

    def derive(self, base: Base, delta: Delta) -> Any:
        """The members' derived parts, or None if no member has any."""
        members = zip(self.members, self._parts(base, delta), strict=True)
        parts = tuple(member.derive(base, part) for member, part in members)
        return None if all(part is None for part in parts) else parts

    def to_dict(self) -> dict[str, Any]:
        """As `Adapter.to_dict`, with the members nested."""
        return {"adapter": "Chain", "members": [member.to_dict() for member in self.members]}

    def _union(
        self, base: Base, delta: Delta, of: Callable[[Adapter, Base, Delta], Mapping[str, Any]]
    ) -> dict[str, Any]:
        parts = self._parts(base, delta)
        base, derived = self._unprepared(base)
        found: dict[str, Any] = {}
        owner: dict[str, Adapter] = {}
        for member, part, known in zip(self.members, parts, derived, strict=True):
            for path, leaf in of(member, _prepared(base, known, member), part).items():
                if path in found:
                    raise LoraxError(
                        f"'{path}' is adapted by {type(owner[path]).__name__} and by "
                        f"{type(member).__name__}: expected one member a leaf; narrow a where="
                    )
                found[path], owner[path] = leaf, member
        return found

    def _unprepared(self, base: Base) -> tuple[Base, tuple[Any, ...]]:
        """The parameters, and what each member derived from them (None for nothing)."""
        base, derived = unprepared(base, self)
        return base, (None,) * len(self.members) if derived is None else derived

    def _parts(self, base: Base, delta: Delta) -> tuple[Delta, ...]:
        if not isinstance(delta, tuple | list) or len(delta) != len(self.members):
            swapped = "; are base and delta swapped?" if isinstance(base, tuple) else ""
            raise LoraxError(
                f"delta of a Chain of {len(self.members)} is {describe(delta)}: expected a tuple "
                f"of one delta a member, as Chain.init returns it{swapped}"
            )
        return tuple(delta)


def _prepared(base: Base, derived: Any, adapter: Adapter) -> Base:
    return base if derived is None else Prepared(base, derived, adapter)


def check_adapter(adapter: Any) -> None:
    """Raises LoraxTypeError unless `adapter` is an `Adapter` instance."""
    if not isinstance(adapter, Adapter):
        raise LoraxTypeError(
            f"adapter is {describe(adapter)}: expected an adapter such as LoRA(rank=8); "
            "pass an instance, not a class, a dict or a number"
        )


def low_rank_leaves(leaves: Mapping[str, Any]) -> dict[str, LowRank]:
    """Those of `leaves` that have a factored form."""
    return {path: leaf for path, leaf in leaves.items() if isinstance(leaf, LowRank)}


def describe(value: Any) -> str:
    """The kind and the beginning of a value, for the message of an error."""
    text = " ".join(repr(value).split())
    return f"{type(value).__name__} {text if len(text) < 60 else text[:57] + '...'}"
