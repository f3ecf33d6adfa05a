"""How is an implicit leaf looked up without forming A B? Rows of a table, matrices of a stack."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from lorax.core import _jax
from lorax.core.contract import contract
from lorax.core.implicit import Implicit, Label, Pair, along
from lorax.core.packed import Packed

Values = list[Any]
Labels = Sequence[Label]


def gather(ctx: Any, eqn: _jax.Equation, values: Values) -> list[Any] | None:
    """Looks up rows along one axis: indexes the factor that has it, then multiplies by the other.

    A lookup along a stack axis gives a batch of leaves, still implicit.
    """
    leaf, indices, numbers = values[0], values[1], eqn.params["dimension_numbers"]
    if not isinstance(leaf, Implicit) or isinstance(indices, Implicit):
        return None
    looked_up = tuple(numbers.start_index_map)
    expected = [1 if i in looked_up else n for i, n in enumerate(leaf.shape)]
    if len(looked_up) != 1 or tuple(numbers.collapsed_slice_dims) != looked_up:
        return None
    if getattr(numbers, "operand_batching_dims", ()) or list(eqn.params["slice_sizes"]) != expected:
        return None
    (at,) = looked_up
    label, rest = leaf.axes[at], [i for i in range(len(leaf.axes)) if i != at]
    if _enumerates(leaf, label):
        return None if leaf.whole(label) else [_looked_up_stack(ctx, eqn, leaf, indices, at)]
    ctx.record(leaf, eqn, stack=(), inputs=(at,), outputs=rest)

    batch: list[Label] = [("x", i) for i in range(indices.ndim - 1)]
    out_axes = _merge_axes(batch, [leaf.axes[i] for i in rest], numbers.offset_dims)
    w = leaf.w.formed(leaf.axes) if isinstance(leaf.w, Packed) else leaf.w
    (y,) = _jax.run_one(eqn, [w, indices])
    y = y if not leaf.adapted else y.astype(jnp.promote_types(y.dtype, jnp.float32))
    for term in leaf.terms:
        (first, first_axes), (second, second_axes) = sorted(
            term.sides, key=lambda side: label not in side[1]
        )
        rows, rows_axes = _rows(eqn, first, first_axes, label, indices, batch)
        scale = jnp.asarray(leaf.scale, first.dtype)
        rows = ctx.drop(rows * scale, leaf, eqn, shape=indices.shape[:-1])
        y = y + contract(rows, rows_axes, second, second_axes, out_axes).astype(y.dtype)
    if leaf.gain is not None:
        gain = leaf.gain
        if label in gain[1]:
            gain = _rows(eqn, *gain, label, indices, batch, fill=None)
        y = y * along(gain, out_axes, y.dtype)
    return [y.astype(leaf.w.dtype)]


def _enumerates(leaf: Implicit, label: Label) -> bool:
    """Whether an axis counts matrices: it is in every factor; of a bare leaf, one of three axes."""
    sides = [side for term in leaf.terms for _, side in term.sides]
    if leaf.terms:
        return all(label in side for side in sides)
    return len(leaf.axes) > 2


def _looked_up_stack(
    ctx: Any, eqn: _jax.Equation, leaf: Implicit, indices: jax.Array, at: int
) -> Implicit:
    label, origin = leaf.axes[at], leaf.origins[at]
    batch: list[Label] = [ctx.fresh_label() for _ in range(indices.ndim - 1)]
    offset_dims = eqn.params["dimension_numbers"].offset_dims
    axes = _merge_axes(batch, _without(leaf.axes, label), offset_dims)
    known = dict(zip(leaf.axes, leaf.origins, strict=True))

    def found(x: jax.Array, own: Labels, fill: Any = 0) -> Pair:
        return _rows(eqn, x, own, label, indices, batch, fill) if label in own else (x, tuple(own))

    if isinstance(leaf.w, Packed):
        own, rest = [found(*side, fill=None) for side in leaf.w.sides], leaf.pieces()[2:]
    else:
        own, rest = [(_jax.run_one(eqn, [leaf.w, indices])[0], tuple(axes))], leaf.pieces()[1:]
    origins = [known.get(axis, frozenset()) for axis in axes]
    pairs = [*own, *(found(*pair) for pair in rest)]
    return leaf.on(pairs, axes, origins).remember(stack=origin)


def _rows(
    eqn: _jax.Equation,
    x: jax.Array,
    axes: Labels,
    label: Label,
    indices: jax.Array,
    batch: Labels,
    fill: Any = 0,
) -> Pair:
    """The lookup of `eqn` done on a factor: axes `batch` first, then the factor's others.

    `fill` is what an index beyond the end finds; None means NaN.
    """
    at, n = list(axes).index(label), len(batch)
    numbers = lax.GatherDimensionNumbers(
        offset_dims=tuple(range(n, n + x.ndim - 1)),
        collapsed_slice_dims=(at,),
        start_index_map=(at,),
    )
    sizes = tuple(1 if i == at else size for i, size in enumerate(x.shape))
    rows = lax.gather(x, indices, numbers, sizes, mode=eqn.params["mode"], fill_value=fill)
    return rows, (*batch, *_without(axes, label))


def _without(axes: Labels, label: Label) -> tuple[Label, ...]:
    return tuple(axis for axis in axes if axis != label)


def _merge_axes(batch: Labels, rest: Labels, offset_dims: Sequence[int]) -> list[Label]:
    """`rest` at positions `offset_dims`, `batch` in the others."""
    first, second = iter(batch), iter(rest)
    total = len(batch) + len(rest)
    return [next(second) if i in offset_dims else next(first) for i in range(total)]
