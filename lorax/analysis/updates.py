"""What did an adapter change? Its factors by path, or W0 and ΔW of every leaf as matrices.

Matrices are in Flax orientation, (fan-in, fan-out), the transpose of what the papers print: their
right singular vectors are our left ones. Stacked leaves are a batch of matrices.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lorax.adapters.lora import LoRA
from lorax.adapters.low_rank import matrices, plain
from lorax.core import paths
from lorax.core.adapter import Adapter, Base, Chain, Delta, check_adapter, unprepared
from lorax.core.errors import LoraxError, LoraxTypeError
from lorax.core.implicit import dense
from lorax.core.leaf import Factors, LowRank, Rescaled, Roles, Shift
from lorax.core.packed import formed

TINY = 1e-6
"""Singular values below this times the largest are float32's rounding, and have no direction."""


def lora_members(adapter: Adapter, delta: Delta) -> list[tuple[LoRA, dict[str, Factors]]]:
    """Every `LoRA` of `adapter` with its part of `delta`; members without factors are passed over.

    Raises:
      LoraxError: there is none, or the delta has not a part for each member of a `Chain`.
      LoraxTypeError: a part is no `{path: Factors}`.
    """
    found = list(_members(adapter, delta))
    if not found:
        raise LoraxError(
            f"{type(adapter).__name__} has no low-rank factors: expected a LoRA or a Chain with one"
        )
    return found


def changes(
    adapter: Adapter, base: Base, delta: Delta, roles: Mapping[str, Roles] | None = None
) -> Iterator[tuple[str, jax.Array, jax.Array]]:
    """(path, W0, ΔW) of every adapted leaf, one at a time; both (n, fan-in, fan-out).

    n matrices are stacked (1 if none). In float32 at least, whatever the base is stored in, and
    before any rounding of a merge.

    Args:
      adapter, base, delta: as for `adapter.merge`.
      roles: of leaves that are trained whole, as `lorax.roles` returns them. Those with factors
        carry theirs; a whole leaf that is not in `roles`, or is no matrix there, is passed over:
        two axes may be a matrix as well as the biases of a stack of layers.

    Raises:
      LoraxError: as `adapter.merge`; or no leaf is left.
    """
    check_adapter(adapter)
    stored = paths.flatten(unprepared(base)[0])
    leaves = adapter.leaves(base, delta)
    known = {path: _roles_of(path, leaf, roles or {}) for path, leaf in leaves.items()}
    matrix = {path: found for path, found in known.items() if found is not None}
    if not matrix:
        raise LoraxError(
            f"no matrix among the {len(leaves)} leaves of {type(adapter).__name__}: expected "
            "leaves with factors, or kernels trained whole and roles=lorax.roles(fn, base, *args)"
        )
    for path, found in matrix.items():
        w, leaf = as_matrices(stored[path], found), leaves[path]
        if isinstance(leaf, LowRank):
            yield path, w, leaf.scale * _product(plain(path, leaf))
        elif isinstance(leaf, Rescaled):
            wide = jnp.asarray(formed(stored[path]), w.dtype)  # before any rounding
            yield path, w, as_matrices(dense(path, wide, leaf), found) - w
        elif isinstance(leaf, Shift):
            yield path, w, as_matrices(leaf.update, found)
        else:
            yield path, w, as_matrices(leaf, found) - w


def as_matrices(leaf: jax.Array, roles: Roles) -> jax.Array:
    """A stored leaf as (n, fan-in, fan-out), in float32 at least."""
    leaf, order = formed(leaf), (*roles.stack, *roles.inputs, *roles.outputs)
    wide = jnp.promote_types(leaf.dtype, jnp.float32)
    return jnp.transpose(jnp.asarray(leaf, wide), order).reshape(roles.matrix(leaf.shape))


@jax.jit
def _product(factors: Factors) -> jax.Array:
    a, b = matrices(factors)
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _members(adapter: Adapter, delta: Delta) -> Iterator[tuple[LoRA, dict[str, Factors]]]:
    check_adapter(adapter)
    if isinstance(adapter, Chain):
        if not isinstance(delta, tuple | list) or len(delta) != len(adapter.members):
            raise LoraxError(
                f"delta of a Chain of {len(adapter.members)} is a {type(delta).__name__}: expected "
                "a tuple of one delta a member, as Chain.init returns it"
            )
        for member, part in zip(adapter.members, delta, strict=True):
            yield from _members(member, part)
    elif isinstance(adapter, LoRA):
        factors = isinstance(delta, Mapping) and all(isinstance(f, Factors) for f in delta.values())
        if not factors:
            raise LoraxTypeError(
                f"delta of a LoRA is a {type(delta).__name__}: expected {{path: Factors}}, as "
                "LoRA.init returns it"
            )
        yield adapter, dict(delta)


def _roles_of(path: str, leaf: Any, roles: Mapping[str, Roles]) -> Roles | None:
    """How the axes of `leaf` lie, or None if it is no matrix."""
    if isinstance(leaf, LowRank):
        return leaf.factors.roles
    if isinstance(leaf, Rescaled):
        return leaf.roles
    known = roles.get(path)
    if known is None or not known.inputs or not known.outputs:
        return None
    known.check(path, leaf.shape)
    return known
