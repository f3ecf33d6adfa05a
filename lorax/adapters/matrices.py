"""What do adapters share that learn other arrays of a matrix than A and B? All but the equation."""

import abc
import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lorax.adapters import lora_fields, subspace_fields
from lorax.adapters.targets import check_learnt, matrix_roles, targets
from lorax.core import paths
from lorax.core.adapter import Adapter, Base, Delta, unprepared
from lorax.core.errors import LoraxError
from lorax.core.implicit import with_leaves
from lorax.core.leaf import Learnt, LowRank, Roles, Shift
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

Shapes = dict[str, tuple[int, ...]]
Check = Callable[[Any], Any]

_OVERRIDES: dict[str, Check] = {"rank": lora_fields.rank, "alpha": lora_fields.alpha}
_FIELDS: dict[str, Check] = {
    **_OVERRIDES,
    "exclude": functools.partial(check_patterns, "exclude"),
    "dropout": lora_fields.dropout,
    "seed": lambda seed: None if seed is None else subspace_fields.seed(seed),
    "dtype": lora_fields.dtype,
}


class MatrixAdapter(Adapter):
    """One `Learnt` for each selected leaf, `{path: Learnt}`, each a matrix or a stack of them.

    A concrete one is a frozen dataclass whose fields mean what they do in `LoRA`, `where` with its
    overrides of the rank and alpha it has included. It says what learns (`shapes`), where that
    starts (`start`, zero by default) and what it makes of the leaf (`adapted`); what is frozen is
    its `derive`, by path.
    """

    where: Any
    exclude: tuple[str, ...]
    dtype: str | None
    rank: int  # of those that have one, as alpha
    alpha: Any

    def __post_init__(self) -> None:
        names = [field.name for field in dataclasses.fields(self)]  # type: ignore[arg-type]
        overrides = {name: check for name, check in _OVERRIDES.items() if name in names}
        checks = _FIELDS | {"where": lambda where: check_where(where, overrides)}
        for name in names:
            if name in checks:
                object.__setattr__(self, name, checks[name](getattr(self, name)))

    @abc.abstractmethod
    def shapes(self, path: str, leaf: Any, roles: Roles) -> Shapes:
        """The arrays that learn of this leaf, by name; LoraxError if it cannot be adapted."""

    @abc.abstractmethod
    def adapted(self, path: str, leaf: Any, learnt: Learnt, frozen: Any) -> LowRank | Shift:
        """What becomes of the leaf; `frozen` is what `derive` has at its path, None if nothing."""

    def start(
        self, key: jax.Array, shapes: Shapes, fan_in: int, dtype: Any
    ) -> dict[str, jax.Array]:
        """Where the arrays of `shapes` start, so that ΔW is zero; `key` is of the leaf alone."""
        return {name: jnp.zeros(shape, dtype) for name, shape in shapes.items()}

    def init(self, key: jax.Array, base: Base, roles: Mapping[str, Roles] | None = None) -> Delta:
        """`{path: Learnt}` of every selected leaf, with ΔW exactly zero; raises as `LoRA.init`."""
        stored = paths.flatten(unprepared(base)[0])
        delta = {}
        for path in targets(self.where, self.exclude, stored, roles):
            leaf = stored[path]
            check_leaf(path, leaf, self._name)
            own = matrix_roles(path, leaf, roles, self._name)
            dtype = self.dtype or jnp.promote_types(leaf.dtype, jnp.float32)
            shapes = self.shapes(path, leaf, own)
            fan_in = own.matrix(leaf.shape)[1]
            arrays = self.start(paths.key_for(key, path), shapes, fan_in, dtype)
            delta[path] = Learnt(arrays, own)
        return delta

    def merge(self, base: Base, delta: Delta) -> Base:
        """W0 + ΔW for every leaf of the delta, in float32, cast once."""
        return with_leaves(unprepared(base, self)[0], self.leaves(base, delta))

    def leaves(self, base: Base, delta: Delta) -> dict[str, Any]:
        """What `adapted` makes of every leaf, checked against base and config."""
        base, frozen = unprepared(base, self)
        stored = paths.flatten(base)
        check_order(base, stored, delta)
        wanted = None
        if self.where != ALL_LINEAR:
            wanted = targets(self.where, self.exclude, stored, None)
        check_paths(delta, wanted, stored)
        for path, learnt in delta.items():
            self._check(path, learnt, stored[path])
        if frozen is None:
            frozen = self.derive(base, delta)
        if frozen is not None and set(delta) - set(frozen):
            path = min(set(delta) - set(frozen))
            raise LoraxError(
                f"base was prepared without '{path}', which the delta has: expected the frozen "
                "part of every adapted leaf; prepare the plain base with this delta"
            )
        return {
            path: self.adapted(path, stored[path], learnt, frozen and frozen[path])
            for path, learnt in delta.items()
        }

    def rank_of(self, path: str) -> int:
        """The rank at `path`, overrides of `where` applied."""
        return overrides_at(self.where, path).get("rank", self.rank)

    def scale_of(self, path: str) -> Any:
        """alpha / r at `path`, overrides of `where` applied."""
        return overrides_at(self.where, path).get("alpha", self.alpha) / self.rank_of(path)

    def to_dict(self) -> dict[str, Any]:
        """As `Adapter.to_dict`; overrides are a mapping again."""
        return super().to_dict() | {"where": spelled(self.where), "exclude": list(self.exclude)}

    @property
    def _name(self) -> str:
        return type(self).__name__

    def _check(self, path: str, learnt: Any, leaf: Any) -> None:
        last = len(leaf.shape) - 1
        roles = Roles((), tuple(range(last)), (last,))  # for the names alone
        if isinstance(learnt, Learnt):
            roles = learnt.roles
            roles.check(path, leaf.shape)
        check_learnt(path, learnt, self.shapes(path, leaf, roles), self._name)


def stack_of(shape: tuple[int, ...], roles: Roles) -> tuple[int, ...]:
    """The lengths of the stack axes."""
    return tuple(shape[axis] for axis in roles.stack)


def uniforms(key: jax.Array, bounds: Mapping[str, float], shapes: Shapes, dtype: Any) -> Any:
    """Arrays by name, uniform in ± its bound: one draw for all of them, cut."""
    sizes = [math.prod(shapes[name]) for name in bounds]
    drawn = jnp.split(
        jax.random.uniform(key, (sum(sizes),), dtype, -1.0, 1.0), np.cumsum(sizes)[:-1]
    )
    return {
        name: jnp.asarray(bound, dtype) * own.reshape(shapes[name])
        for (name, bound), own in zip(bounds.items(), drawn, strict=True)
    }


def frozen_key(seed: int | None, name: str) -> jax.Array:
    """The key of a frozen draw: the same on every machine, whatever JAX's default is.

    Raises:
      LoraxError: there is no seed, so what is frozen comes with the base and is never drawn.
    """
    if seed is None:
        raise LoraxError(
            "seed is None, so that the frozen matrices come with the base, and this base has none: "
            "expected what lorax.io.peft.prepare(directory, model) returns; or set seed=0"
        )
    return paths.key_for(jax.random.key(seed, impl="threefry2x32"), name)


def whole(matrices: jax.Array, leaf: Any, roles: Roles) -> jax.Array:
    """A batch of matrices (number of stacked, in, out) with the axes of the leaf."""
    order = (*roles.stack, *roles.inputs, *roles.outputs)
    shaped = matrices.reshape([leaf.shape[axis] for axis in order])
    return jnp.transpose(shaped, sorted(range(len(order)), key=order.__getitem__))
