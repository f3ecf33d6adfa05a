"""How is an implicit leaf multiplied without forming A B? Dot and convolution.

x W becomes x W0 + (s · (x A)) B. The scale multiplies the small product, factors are cast to the
dtype of the operands they meet, and sums run in float32: the result is rounded once. A gain goes on
the result, or on x, wherever its axes are.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from lorax.core import _jax
from lorax.core.contract import contract, widened
from lorax.core.implicit import RANK, Implicit, Label, Pair, Term, along
from lorax.core.packed import Packed, through

Values = list[Any]
Labels = Sequence[Label]


def dot_general(ctx: Any, eqn: _jax.Equation, values: Values) -> list[Any] | None:
    """Any dimension numbers, the leaf on either side, batch axes included."""
    contracting, batch = eqn.params["dimension_numbers"]
    side = 1 if isinstance(values[1], Implicit) else 0
    if isinstance(values[1 - side], Implicit):
        values = ctx.merge_operand(eqn, values, 1 - side)
    leaf, x = values[side], values[1 - side]
    free = [i for i in range(len(leaf.axes)) if i not in (*contracting[side], *batch[side])]
    ctx.record(leaf, eqn, stack=batch[side], inputs=contracting[side], outputs=free)

    x_axes: list[Label] = [("x", i) for i in range(x.ndim)]
    for mine, other in zip((contracting[side], batch[side]), (contracting, batch), strict=True):
        for i, j in zip(mine, other[1 - side], strict=True):
            x_axes[j] = leaf.axes[i]
    x_free = [label for label in x_axes if label not in leaf.axes]
    leaf_free = [leaf.axes[i] for i in free]
    shared = [leaf.axes[i] for i in batch[side]]
    out_axes = [*shared, *leaf_free, *x_free] if side == 0 else [*shared, *x_free, *leaf_free]

    x = ctx.seen(x, x_axes, [leaf.axes[i] for i in contracting[side]], leaf)
    gain = leaf.gain
    if gain is not None and not set(gain[1]) <= set(out_axes):
        if not set(gain[1]) <= set(x_axes):
            return None
        x, gain = _times(x, gain, x_axes), None
    y = base_product(eqn, [x if i != side else leaf for i in (0, 1)], out_axes)
    x = ctx.drop(x, leaf, eqn)
    for term in leaf.terms:
        y = y + low_rank(x, x_axes, leaf, term, out_axes, y.dtype, eqn.params["precision"])
    if gain is not None:
        y = y * along(gain, out_axes, y.dtype)
    # so that a remat policy can keep the sum in place of its parts
    return [checkpoint_name(y.astype(_jax.out_dtype(eqn)), "product")]


def _times(x: jax.Array, gain: Pair, x_axes: Labels) -> jax.Array:
    """`x` times a gain on axes that it has, rounded once to its dtype."""
    wide = jnp.promote_types(x.dtype, gain[0].dtype)
    return (x.astype(wide) * along(gain, x_axes, wide)).astype(x.dtype)


def base_product(eqn: _jax.Equation, values: Values, out_axes: Labels) -> jax.Array:
    """x W0, in float32 where the program has a 16-bit result, with the program's own derivative.

    Rounding x W0 before the low-rank part is added would cost as much accuracy as merging in
    bfloat16 does. A quantised W0 is formed for this product alone.

    Args:
      values: the operands, one of them the leaf.
      out_axes: the labels of the result.
    """
    at = next(i for i, value in enumerate(values) if isinstance(value, Implicit))
    leaf, others = values[at], [*values[:at], *values[at + 1 :]]
    product = _wide(eqn)
    multiply = lambda w, *x: product(*x[:at], w, *x[at:])
    if isinstance(leaf.w, Packed):
        return through(leaf.w, leaf.axes, out_axes, multiply, *others)
    return multiply(leaf.w, *others)


def _wide(eqn: _jax.Equation) -> Callable[..., jax.Array]:
    own, total = _jax.out_dtype(eqn), jnp.dtype(jnp.float32)
    wider = eqn.replace(params=eqn.params | {"preferred_element_type": total})
    narrow, wide = (lambda *v, e=e: _jax.run_one(e, v)[0] for e in (eqn, wider))
    return widened(narrow, wide if own.itemsize == 2 else narrow, own, total)


def low_rank(
    x: jax.Array,
    x_axes: Labels,
    leaf: Implicit,
    term: Term,
    out_axes: Labels,
    dtype: Any,
    precision: Any,
) -> jax.Array:
    """scale · (x A) B as an einsum over labels, in `dtype`.

    The factor that shares more of the contracted size with x goes first, so that the product
    between is (tokens, rank) whichever side of the leaf the program contracts.
    """
    shared = lambda side: _summed(x.shape, x_axes, side[1], out_axes)
    first, second = sorted(term.sides, key=shared, reverse=True)
    kept = [label for label in x_axes if label not in first[1] or label in (*second[1], *out_axes)]
    kept += [label for label in first[1] if label not in x_axes]
    if not jnp.issubdtype(x.dtype, jnp.floating) or x.dtype.itemsize < 2:
        x = x.astype(first[0].dtype)  # integers and 8-bit floats cannot hold A
    total = jnp.promote_types(x.dtype, jnp.float32)
    small = contract(
        x, x_axes, first[0].astype(x.dtype), first[1], kept,
        precision=_one_side(precision), dtype=total,
    )  # fmt: skip
    small = (small * jnp.asarray(leaf.scale, total)).astype(x.dtype)
    return contract(
        small, kept, second[0].astype(x.dtype), second[1], out_axes,
        precision=_one_side(precision), dtype=dtype,
    )  # fmt: skip


def _summed(shape: Sequence[int], x_axes: Labels, factor: Labels, out_axes: Labels) -> int:
    """How many numbers of x a product with this factor sums over."""
    sizes = dict(zip(x_axes, shape, strict=True))
    return math.prod(n for label, n in sizes.items() if label in factor and label not in out_axes)


def _one_side(precision: Any) -> Any:
    """The higher of a pair, which names lhs and rhs: the contraction may exchange the two."""
    if not isinstance(precision, tuple):
        return precision
    return max(precision, key=lambda one: lax.Precision(one).value)


def conv_general_dilated(ctx: Any, eqn: _jax.Equation, values: Values) -> list[Any] | None:
    """A convolution to rank channels with the leaf's own window, then a product with B.

    Grouped convolutions mix groups along one axis of the kernel and have no factored form here.
    """
    x, leaf = values
    p = dict(eqn.params)
    numbers = p["dimension_numbers"]
    if not isinstance(leaf, Implicit) or isinstance(x, Implicit):
        return None
    out_dim, *in_dims = numbers.rhs_spec
    ctx.record(leaf, eqn, stack=(), inputs=in_dims, outputs=(out_dim,))
    if leaf.terms and (p["feature_group_count"] != 1 or p["batch_group_count"] != 1):
        return None
    feature = numbers.out_spec[1]
    out_axes: list[Label] = [("x", i) for i in range(x.ndim)]
    small_axes = list(out_axes)
    out_axes[feature], small_axes[feature] = leaf.axes[out_dim], RANK
    y = base_product(eqn, values, out_axes)
    if leaf.gain is not None and not set(leaf.gain[1]) <= {leaf.axes[out_dim]}:
        return None
    wanted = [RANK if i == out_dim else label for i, label in enumerate(leaf.axes)]
    x = ctx.drop(x, leaf, eqn)
    for term in leaf.terms:
        if sorted(map(str, term.a_axes)) != sorted(map(str, wanted)):
            return None
        kernel = lax.transpose(term.a, [term.a_axes.index(label) for label in wanted])
        total = jnp.promote_types(x.dtype, jnp.float32)
        conv = lambda dtype: (
            lambda x, k: lax.conv_general_dilated(x, k, **p | {"preferred_element_type": dtype})
        )
        small = widened(conv(x.dtype), conv(total), x.dtype, total)(x, kernel.astype(x.dtype))
        small = (small * jnp.asarray(leaf.scale, total)).astype(x.dtype)
        y = y + contract(
            small, small_axes, term.b.astype(x.dtype), term.b_axes, out_axes,
            precision=_one_side(p["precision"]), dtype=y.dtype,
        )  # fmt: skip
    if leaf.gain is not None:
        y = y * along(leaf.gain, out_axes, y.dtype)
    return [y.astype(_jax.out_dtype(eqn))]


def ragged_dot_general(ctx: Any, eqn: _jax.Equation, values: Values) -> list[Any] | None:
    """Rows of x grouped by expert times one matrix an expert: two ragged products in a row."""
    x, leaf, sizes = values
    if not isinstance(leaf, Implicit) or isinstance(x, Implicit) or len(leaf.axes) != 3:
        return None
    p = dict(eqn.params)
    numbers = p["ragged_dot_dimension_numbers"]
    (contracting, batch) = numbers.dot_dimension_numbers
    groups = tuple(numbers.rhs_group_dimensions)
    if any(batch) or len(groups) != 1 or len(contracting[1]) != 1:
        return None
    (out,) = {0, 1, 2} - {*groups, *contracting[1]}
    ctx.record(leaf, eqn, stack=groups, inputs=contracting[1], outputs=(out,))
    group, summed, free = (leaf.axes[i] for i in (*groups, *contracting[1], out))
    if leaf.gain is not None and (p["group_offset"] or not set(leaf.gain[1]) <= {group, free}):
        return None
    y = base_product(eqn, values, [("x", 0), free])
    options = {"precision": p["precision"], "group_offset": p["group_offset"]}
    inner = lax.RaggedDotDimensionNumbers(
        dot_dimension_numbers=(((1,), (1,)), ((), ())),
        lhs_ragged_dimensions=(0,),
        rhs_group_dimensions=(0,),
    )
    x = ctx.drop(x, leaf, eqn)
    for term in leaf.terms:
        if set(term.a_axes) != {group, summed, RANK} or set(term.b_axes) != {group, free, RANK}:
            return None
        a = lax.transpose(term.a, [term.a_axes.index(i) for i in (group, summed, RANK)])
        b = lax.transpose(term.b, [term.b_axes.index(i) for i in (group, RANK, free)])
        outer = _numbers_for_x(numbers)
        small = lax.ragged_dot_general(x, a.astype(x.dtype), sizes, outer, **options)
        small = small * jnp.asarray(leaf.scale, small.dtype)
        y = y + lax.ragged_dot_general(
            small, b.astype(small.dtype), sizes, inner, **options, preferred_element_type=y.dtype
        )
    if leaf.gain is not None:
        of_group = along(leaf.gain, (group, free), y.dtype)
        if len(of_group) > 1:  # not one gain for all
            of_group = jnp.repeat(of_group, sizes, axis=0, total_repeat_length=len(y))
        y = y * of_group
    return [y.astype(_jax.out_dtype(eqn))]


def _numbers_for_x(numbers: Any) -> Any:
    """The same ragged product with a (group, input, rank) factor in place of the leaf."""
    (x_dims, _), _ = numbers.dot_dimension_numbers
    return lax.RaggedDotDimensionNumbers(
        dot_dimension_numbers=((tuple(x_dims), (1,)), ((), ())),
        lhs_ragged_dimensions=tuple(numbers.lhs_ragged_dimensions),
        rhs_group_dimensions=(0,),
    )
