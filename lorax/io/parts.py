"""Which pairs and tensors is one of our deltas, module by module? The way out, to `pairs`' way in.

PiSSA and OLoRA count A and B from A0 and B0, which the base decides; their update is written as a
plain one of rank 2 r (`lorax.adapters.low_rank.plain`), which needs no change of the base.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from lorax.adapters.bitfit import BitFit
from lorax.adapters.full import Full
from lorax.adapters.lora import LoRA
from lorax.adapters.low_rank import plain
from lorax.adapters.vera import VeRA
from lorax.core import paths
from lorax.core.adapter import (
    Adapter,
    Base,
    Chain,
    Delta,
    Prepared,
    check_adapter,
    unprepared,
)
from lorax.core.errors import LoraxError
from lorax.core.leaf import Factors, LowRank, Roles
from lorax.io.names import leaf_shapes, turn
from lorax.io.pairs import Pair, Parts, Update
from lorax.io.peft_kinds import ADAPTERS, unpacked
from lorax.io.peft_names import Tensor


def take_apart(
    model: Any, table: Mapping[str, Tensor], adapter: Adapter, delta: Delta, base: Base = None
) -> Parts:
    """`delta` in torch's orientation; every trained tensor is in `whole`, biases included.

    Args:
      model: the Linen module.
      table: `tensor_table(model)`.
      adapter, delta: of `LoRA`, `Full`, `BitFit`, another kind of `KINDS`, or a `Chain` of these.
      base: the frozen parameters; needed for PiSSA and OLoRA, and by kinds that count from it.

    Raises:
      LoraxError: another kind of adapter, or two of them; a delta that does not fit, numbers that
        are not finite, two rates of dropout, or no base where one is needed.
    """
    check_adapter(adapter)
    shapes, stored = leaf_shapes(model), None if base is None else base_leaves(base, model)
    names: dict[str, list[Tensor]] = {}
    for tensor in table.values():
        names.setdefault(tensor.path, []).append(tensor)
    low_rank: list[Any] = []
    pairs: dict[str, Any] = {}
    whole: dict[str, np.ndarray] = {}
    owners: dict[str, Adapter] = {}
    known = _known(adapter, unprepared(base, adapter)[1])
    for (member, part), derived in zip(members(adapter, delta), known, strict=True):
        if type(member) in ADAPTERS:
            low_rank.append(member)
            _check_together(low_rank[0], member)
        if isinstance(member, LoRA):
            for path, leaf in _leaves(member, part, shapes, stored).items():
                _claim(path, owners, member)
                pairs |= _pairs_of(path, leaf, names[path], member, low_rank[0].scaling)
        elif isinstance(member, Full | BitFit):
            for path, array in member.leaves(shapes, part).items():
                _claim(path, owners, member)
                _check_finite(path, array)
                whole |= {t.name: _turned(t, array) for t in names[path]}
        elif type(member) in ADAPTERS:
            own = shapes if stored is None else stored
            for path, updates in _updates(member, part, own, derived, names).items():
                _claim(path, owners, member)
                pairs |= updates
        else:
            kinds = ", ".join([kind.__name__ for kind in ADAPTERS] + ["Full", "BitFit"])
            raise LoraxError(
                f"adapter holds a {type(member).__name__}: expected one of {kinds}, which the "
                "format can hold; merge it and save the whole model"
            )
    if not low_rank:
        return Parts(pairs, whole)
    return _parts(pairs, whole, low_rank[0])


def _parts(pairs: Mapping[str, Any], whole: Mapping[str, np.ndarray], first: Any) -> Parts:
    """With what holds for all updates, of the adapter that made them."""
    wider, stronger = _widening(first)
    return Parts(
        pairs,
        whole,
        rank=getattr(first, "rank", 1) * wider,
        alpha=_number(getattr(first, "alpha", 1.0)) * stronger,
        scaling=getattr(first, "scaling", "standard"),
        dropout=getattr(first, "dropout", 0.0),
        kind=type(first),
        fields=_own_fields(first),
    )


def check_plain(parts: Parts, wanted_by: str) -> None:
    """Raises LoraxError unless the updates are LoRA's, which is all that `wanted_by` can hold."""
    if parts.kind is not LoRA:
        raise LoraxError(
            f"adapter holds a {parts.kind.__name__}: expected LoRA, which is all that {wanted_by} "
            "can hold; merge it and save the whole model"
        )


def base_leaves(base: Base, model: Any) -> dict[str, Any]:
    """The leaves of `base` by path, checked to be those of `model`.

    Raises:
      LoraxError: a leaf is missing or has another shape.
    """
    stored = paths.flatten(unprepared(base)[0])
    for path, leaf in leaf_shapes(model).items():
        if path not in stored or tuple(stored[path].shape) != tuple(leaf.shape):
            found = tuple(stored[path].shape) if path in stored else "nothing"
            raise LoraxError(
                f"base has {found} at '{path}', the model {tuple(leaf.shape)}: expected "
                "{'params': …} of this model, in its layout (config.scan)"
            )
    return stored


def members(adapter: Adapter, delta: Delta) -> Iterator[tuple[Adapter, Delta]]:
    """Every member of a Chain, however nested, with its delta; or an adapter alone."""
    if not isinstance(adapter, Chain):
        yield adapter, delta
        return
    if not isinstance(delta, tuple | list) or len(delta) != len(adapter.members):
        raise LoraxError(
            f"delta of a Chain of {len(adapter.members)} is a {type(delta).__name__}: expected a "
            "tuple of one delta a member, as Chain.init returns it"
        )
    for member, part in zip(adapter.members, delta, strict=True):
        yield from members(member, part)


def _own_fields(member: Any) -> dict[str, Any]:
    """The fields of an adapter that LoRA has not."""
    lora = {field.name for field in dataclasses.fields(LoRA)}
    names = [field.name for field in dataclasses.fields(member)]
    return {name: getattr(member, name) for name in names if name not in lora}


def _known(adapter: Adapter, derived: Any) -> Iterator[Any]:
    """What a prepared base holds of every member, in the order of `members`; else None."""
    if not isinstance(adapter, Chain):
        yield derived
        return
    each = (None,) * len(adapter.members) if derived is None else derived
    for member, own in zip(adapter.members, each, strict=True):
        yield from _known(member, own)


def _claim(path: str, owners: dict[str, Adapter], member: Adapter) -> None:
    if path in owners:
        raise LoraxError(
            f"'{path}' is adapted by {type(owners[path]).__name__} and by "
            f"{type(member).__name__}: expected one member a leaf; narrow a where="
        )
    owners[path] = member


def _check_together(first: Any, other: Any) -> None:
    if type(first) is not type(other) or (first != other and type(first) is not LoRA):
        kinds = " and ".join(type(member).__name__ for member in (first, other))
        raise LoraxError(
            f"members of the Chain are {kinds}: expected one, or several LoRA, since the format "
            "has one method a file; save each by itself"
        )
    if type(first) is LoRA and first.dropout != other.dropout:
        raise LoraxError(
            f"members of the Chain have dropout {first.dropout} and {other.dropout}: expected one "
            "rate, since the format has one; give both members the same"
        )


def _leaves(
    member: LoRA, delta: Delta, shapes: Mapping[str, Any], stored: Mapping[str, Any] | None
) -> dict[str, LowRank]:
    if member.starts_from_base and stored is None:
        raise LoraxError(
            f"initializer is {member.initializer!r}, whose A and B count from a decomposition of "
            "the base: expected base=, or a Pretrained as model; pass the base it was trained on"
        )
    return member.leaves(shapes if stored is None else stored, delta)


def _pairs_of(
    path: str, leaf: LowRank, names: list[Tensor], member: LoRA, scaling: str
) -> dict[str, Pair]:
    """A pair for every module that the leaf serves."""
    factors = _arrays(path, plain(path, leaf))
    _check_finite(path, factors[0], factors[1])
    rank = factors[0].shape[-1]
    if scaling == member.scaling:  # exactly as it was written
        alpha = _number(member.alpha_of(path)) * _widening(member)[1]
    else:
        alpha = _number(leaf.scale) * (math.sqrt(rank) if scaling == "rslora" else rank)
    pairs = {}
    for tensor in names:
        a, b = factors if tensor.layer is None else (side[tensor.layer] for side in factors)
        pair = Pair(a.T, b.T, alpha)
        pairs[tensor.module] = pair.turned if tensor.tied else pair
    return pairs


def _updates(
    member: Any, delta: Delta, stored: Any, derived: Any, names: Mapping[str, list[Tensor]]
) -> dict[str, dict[str, Update]]:
    """What the modules of each leaf learn, by another kind of adapter than LoRA."""
    base = stored if derived is None else Prepared(stored, derived, member)
    # checked against adapter and base, and no update is formed
    jax.eval_shape(lambda base, delta: bool(member.leaves(base, delta)), base, delta)
    frozen: dict[str, Factors] = {}
    if isinstance(member, VeRA):
        frozen = member.derive(stored, delta) if derived is None else derived
    counted = getattr(member, "lora", member)
    found = {}
    for path, leaf in unpacked(member, delta).items():
        _check_matrix(path, leaf.roles)
        arrays = {name: np.asarray(array) for name, array in leaf.arrays.items()}
        _check_finite(path, *arrays.values())
        rank = counted.rank_of(path) if hasattr(member, "rank") else 1
        alpha = _alpha(counted, path, rank) if hasattr(member, "alpha") else 1.0
        found[path] = {
            tensor.module: Update(
                {k: x if tensor.layer is None else x[tensor.layer] for k, x in arrays.items()},
                rank,
                alpha,
                frozen.get(path),
            )
            for tensor in names[path]
        }
    return found


def _alpha(member: Any, path: str, rank: int) -> float:
    if isinstance(member, LoRA):
        return _number(member.alpha_of(path))
    scale = member.scale_of(path)
    return _number(member.alpha if member.alpha / rank == scale else scale * rank)


def _arrays(path: str, factors: Factors) -> tuple[np.ndarray, np.ndarray]:
    _check_matrix(path, factors.roles)
    return np.asarray(factors.A), np.asarray(factors.B)


def _check_matrix(path: str, roles: Roles) -> None:
    first = len(roles.stack)
    if roles.stack != tuple(range(first)) or (roles.inputs, roles.outputs) != (
        (first,), (first + 1,),
    ):  # fmt: skip
        raise LoraxError(
            f"delta at '{path}' has inputs {roles.inputs} and outputs {roles.outputs}: expected "
            "(in, out) as the model uses its kernels; make it with adapted.init"
        )


def _widening(member: Any) -> tuple[int, float]:
    """What rank and alpha are multiplied by so that the scale stays."""
    if not (isinstance(member, LoRA) and member.starts_from_base):
        return 1, 1.0
    return 2, math.sqrt(2) if member.scaling == "rslora" else 2.0


def _number(value: Any) -> float:
    try:
        return float(value)
    except Exception:  # a tracer, or a stack of values
        raise LoraxError(
            f"alpha is {value!r}: expected a number; save outside of jit, one adapter of a stack"
        ) from None


def _turned(tensor: Tensor, array: Any) -> np.ndarray:
    array = np.asarray(array)
    array = array if tensor.layer is None else array[tensor.layer]
    return array if tensor.tied else turn(tensor.kind, array)


def _check_finite(path: str, *arrays: Any) -> None:
    for array in arrays:
        if not np.isfinite(np.asarray(array)).all():
            raise LoraxError(
                f"delta at '{path}' holds NaN or infinity: expected finite numbers; take an "
                "earlier checkpoint"
            )
